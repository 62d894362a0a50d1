#!/bin/sh
# Prints the licence notices of every crate that is linked into sip-edge, from the sources that cargo fetched.
set -eu
cd "$(dirname "$0")/.."
sources="${CARGO_HOME:-$HOME/.cargo}/registry/src"
echo "sip-edge is built from the following crates, each under the licence of its own."
"${CARGO:-cargo}" tree --locked --package sip-edge --edges normal --prefix none --format '{p} {l}' |
    grep -v ' (/' | sed 's/ (\*)$//' | LC_ALL=C sort -u |
    while read -r name version licence; do
        printf '\n==== %s %s: %s\n' "$name" "${version#v}" "$licence"
        find "$sources"/*/"$name-${version#v}" -maxdepth 1 -type f \
            \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' -o -iname 'unlicense*' \) |
            LC_ALL=C sort -u | while read -r file; do
                printf '\n-- %s\n\n' "${file##*/}"
                cat "$file"
            done
    done
