# Shared by the packages' smoke tests: a clean Debian with systemd as process 1, in namespaces of its own, and what is observed in
# it. Sourced with $tree and $kind (deb, rpm) set.
set -Eeuo pipefail
smoke=$tree/packaging/smoke
work=$tree/target/smoke
root=$work/root-$kind
logs=$work/$kind
init= step=preparation
rm -rf "$logs"
mkdir -p "$logs"
# Whoever sees only the exit status finds the whole story here.
exec > >(tee "$logs/log") 2>&1
tee=$!

say() { printf '  %4d s  ok: %s\n' "$SECONDS" "$*"; }
die() {
    trap - ERR
    # In a $(...): the caller fails for it, and tells.
    [ "$BASHPID" = $$ ] || { printf 'FAILED within: %s\n' "$*" >&2; exit 1; }
    if [ -n "$init" ]; then
        printf -- '--- the unit\n'; inside systemctl status --no-pager --full --lines=0 sip-edge || true
        printf -- '--- failed units\n'; inside systemctl list-units --failed --no-pager --no-legend || true
        printf -- '--- the journal\n'; inside journalctl --no-pager --boot --lines=150 || true
    fi
    for file in "$logs"/*.log; do
        [ ! -s "$file" ] || { printf -- '--- the end of %s\n' "$file"; tail -n 40 "$file"; }
    done
    printf 'FAILED at %d s in "%s": %s (all of it: %s)\n' "$SECONDS" "$step" "$*" "$logs"
    exit 1
}
trap 'die "${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND: status $?"' ERR

inside() { nsenter --target "$init" --all -- "$@"; }
property() { inside systemctl show --property "$1" --value sip-edge.service; }
metric() { inside curl -s http://127.0.0.1:9090/metrics | sed -n "s/^$1 //p"; }
expect() { # WHAT WANTED GOT
    [ "$2" = "$3" ] || die "$1: expected \"$2\", got \"$3\""
    say "$1: $3"
}
eventually() { # WHAT COMMAND...: within a minute
    local what=$1 end=$((SECONDS + 60)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "$what: not within a minute"
        sleep 0.2
    done
    say "$what"
}
logged() { # PATTERN: the journal may be a moment behind. All of it is read, or journalctl would die of a closed pipe.
    inside journalctl --no-pager --boot --unit sip-edge | grep -- "$1" >/dev/null
}
finish() {
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    exec >&- 2>&-
    wait "$tee" || true
}
trap finish EXIT

# Debian as this machine gets it, made once: delete target/smoke/base-*.tar for a fresh one. The root has no network: what the
# package depends on has to be among these.
make_base() { # PACKAGES, comma-separated, besides the usual ones
    base=$work/base-$kind.tar
    [ ! -s "$base" ] || return 0
    local suite sources
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
        sed 's|/ | |' | sort -u)
    [ -n "$sources" ] || die "no Debian among this machine's apt sources"
    mmdebstrap --quiet --variant=minbase --include="systemd-sysv,systemd,dbus,ca-certificates,curl,iproute2,kmod,procps,sip-tester$1" \
        "$suite" "${base%.tar}.new.tar" - <<<"$sources" >"$logs/mmdebstrap.log" 2>&1
    mv "${base%.tar}.new.tar" "$base"
}

boot() { # OLD NEW DEMO: the packages, and the example program that calls
    rm -rf "$root"
    mkdir -p "$root"
    tar -xf "$base" -C "$root" --exclude './dev/*'
    # What tests bring along lies outside of what is compared before and after.
    mkdir "$root/mnt/smoke"
    cp "$1" "$root/mnt/smoke/old.$kind"
    cp "$2" "$root/mnt/smoke/new.$kind"
    cp "$3" "$root/mnt/smoke/demo"
    cp "$tree/config/demo.toml" "$root/mnt/smoke/"
    unshare --mount --pid --fork --cgroup --uts --ipc --net --kill-child "$smoke/boot.sh" "$root" \
        </dev/null >"$logs/console.log" 2>&1 &
    local unshare=$! end=$((SECONDS + 60)) process
    until process=$(pgrep -P "$unshare") && [ "$(cat "/proc/$process/comm" 2>/dev/null)" = systemd ]; do
        [ $SECONDS -lt $end ] || die "systemd does not start"
        sleep 0.2
    done
    init=$process
    eventually "a clean Debian runs" inside systemctl is-system-running --wait
}

# Every path of the system that a package could leave behind.
files() {
    inside find / -xdev \( -path /mnt -o -path /var/log -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/apt \
        -o -path /var/lib/rpm -o -path /var/lib/systemd \) -prune -o -print | LC_ALL=C sort
}

# The unit allows five starts a minute, by hand or after a crash; here are more.
restart() {
    inside systemctl reset-failed sip-edge 2>/dev/null || true
    inside systemctl restart sip-edge
}

is_taking_calls() { [ "$(property StatusText)" = "taking calls: 0 call legs" ]; }

# Where this machine lets systemd raise a limit: in some containers it does not, and the edge settles for what there is.
media_goes_first() {
    local pid limit; pid=$(property MainPID)
    limit=$(inside sed -n 's/^Max realtime priority *\([0-9]*\) .*/\1/p' "/proc/$pid/limits")
    if [ "$limit" = 1 ]; then
        expect "media threads" "RR 1" "$(inside ps -L -p "$pid" -o comm=,cls=,rtprio= | awk '/^media-/ {print $2, $3}' | sort -u)"
    else
        say "NOT SHOWN: that media threads go first; systemd may not raise limits on this machine"
    fi
}

# What an installed and started service is, whichever package brought it.
is_well() {
    expect "service" active "$(property ActiveState)"
    expect "configuration" "640 root sip-edge" "$(inside stat -c '%a %U %G' /etc/sip-edge/sip-edge.toml)"
    expect "its directory" "750 root sip-edge" "$(inside stat -c '%a %U %G' /etc/sip-edge)"
    expect "credentials" "700 root root" "$(inside stat -c '%a %U %G' /etc/sip-edge/credentials)"
    expect "state" "750 sip-edge sip-edge" "$(inside stat -c '%a %U %G' /var/lib/sip-edge)"
    expect "runs as" sip-edge "$(inside stat -c %U "/proc/$(property MainPID)")"
    # CAP_NET_ADMIN is bit 12, CAP_NET_RAW 13, CAP_PERFMON 38, CAP_BPF 39.
    local set
    for set in CapEff CapBnd CapAmb; do
        expect "$set" 000000c000003000 "$(inside sed -n "s/^$set:\t//p" "/proc/$(property MainPID)/status")"
    done
    media_goes_first
    expect "unit verifies" "" "$(inside systemd-analyze verify --man=no sip-edge.service 2>&1)"
    inside systemd-analyze security --offline=yes --threshold=20 --no-pager sip-edge.service >"$logs/security.log"
    say "security: $(tail -n 1 "$logs/security.log" | tr -dc '[:print:]')"
    is_ready() { [ "$(metric sip_edge_ready)" = 1 ]; }
    eventually "ready" is_ready
    eventually "systemd is told that it takes calls" is_taking_calls
}

# The README's first call, word by word, with the packaged configuration. A person is slower than this script: it waits until the
# platform listens, and, since what happened is reported a moment after the peers have seen it, until the call's records are there.
first_call() {
    cat >"$root/mnt/smoke/until" <<'SCRIPT'
#!/bin/sh
# Tries its argument again and again, for a minute.
tries=600
until sh -c "$1" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "waited in vain: $1" >&2; exit 1; }
    sleep 0.1
done
SCRIPT
    chmod 755 "$root/mnt/smoke/until"
    awk '/<!-- first call/ {on = 1} on && /^```$/ {exit} on && !/^(<!--|```)/' "$tree/README.md" |
        sed -e 's/^sudo //' -e "/sipp -sn uas/a /mnt/smoke/until 'ss -Hltn sport = :5070 | grep .'" \
            -e "/sipp -sn uac/a /mnt/smoke/until 'sip-edge ctl calls | grep completed'" \
            -e "/sipp -sn uac/a /mnt/smoke/until '[ \$(wc -l </var/lib/sip-edge/cdr.jsonl) = 2 ]'" \
            -e "/sipp -sn uac/a /mnt/smoke/until 'curl -s http://127.0.0.1:9090/metrics | grep -x sip_edge_calls_total.*completed.*outbound.*ai.*.1'" \
            >"$root/mnt/smoke/first-call"
    expect "waits in the README's first call" 4 "$(grep -c '^/mnt/smoke/until' "$root/mnt/smoke/first-call")"
    grep -q '^sipp .*uas' "$root/mnt/smoke/first-call" || die "the README has no first call"
    inside sh -e /mnt/smoke/first-call >"$logs/first-call.log" 2>&1 </dev/null || die "the README's first call"
    local line
    for line in 'completed' '"cause":"completed"' 'sip_edge_calls_total{cause="completed",direction="outbound",trunk="ai"} 1'; do
        grep -qF "$line" "$logs/first-call.log" || die "the README's first call: no $line"
    done
    inside mv /var/lib/sip-edge/cdr.jsonl /var/lib/sip-edge/cdr-first.jsonl
    say "the README's first call"
}

# The demo's configuration, its passwords as systemd credentials; and the interface for XDP.
configures() {
    inside ip link add edge0 type veth peer name peer0
    inside ip link set edge0 up
    sed -e 's|"../target/demo-admin.token"|"/var/lib/sip-edge/admin.token"|' \
        -e 's|"../target/demo-cdr.jsonl"|"/var/lib/sip-edge/cdr.jsonl"|' \
        -e 's|^password = "demo-ai"|password_file = "credential:secret_ai"|' \
        -e 's|^password = "demo-agents"|password_file = "credential:secret_agents"|' \
        "$tree/config/demo.toml" >"$root/mnt/smoke/sip-edge.toml"
    printf '\n[access]\ninterfaces = ["edge0"]\n' >>"$root/mnt/smoke/sip-edge.toml"
    inside cp /mnt/smoke/sip-edge.toml /etc/sip-edge/sip-edge.toml
    inside sh -c 'umask 077; cd /etc/sip-edge/credentials; echo demo-ai >ai; echo demo-agents >agents'
    restart
    expect "with credentials" active "$(property ActiveState)"
    is_attached() { [ "$(metric 'sip_edge_access_xdp_attached{interface="edge0".*}')" = 1 ]; }
    eventually "XDP without root" is_attached
    inside sh -c 'ls /sys/fs/bpf/sip-edge/v*/*/link-edge0' >/dev/null || die "XDP is not pinned"
    say "XDP is pinned"
}

calls() { # more arguments for the demo
    inside /mnt/smoke/demo --running /var/lib/sip-edge/cdr.jsonl /var/lib/sip-edge/admin.token "$@" >"$logs/call.log" 2>&1 ||
        die "call with transfer"
    grep '^ok' "$logs/call.log" | sed 's/^ok/        /'
    say "call with transfer: $(tail -n 1 "$logs/call.log")"
    inside sip-edge cdr verify /var/lib/sip-edge/cdr.jsonl >/dev/null || die "call records"
    say "call records"
    inside mv /var/lib/sip-edge/cdr.jsonl "/var/lib/sip-edge/cdr-$SECONDS.jsonl"
}

reloads() {
    local pid; pid=$(property MainPID)
    inside systemctl reload sip-edge || die "reload"
    inside sh -c 'echo "bad = 1" >>/etc/sip-edge/sip-edge.toml'
    ! inside systemctl reload sip-edge >/dev/null 2>&1 || die "a bad file was reloaded"
    eventually "a reload with a bad file fails and names the key" logged 'sip-edge.toml:.*bad'
    expect "after both" "$pid" "$(property MainPID)"
    inside sed -i '$d' /etc/sip-edge/sip-edge.toml
}

# A call is up while the script on standard input brings the new version. The old one goes on with the call; a restart
# changes over.
upgrades_during_a_call() {
    local pid; pid=$(property MainPID)
    expect "runs the installed program" /usr/bin/sip-edge "$(inside readlink "/proc/$pid/exe")"
    cat >"$root/mnt/smoke/upgrade"
    chmod 755 "$root/mnt/smoke/upgrade"
    calls --during /mnt/smoke/upgrade
    cp "$root/mnt/smoke/upgrade.log" "$logs/"
    grep -q 'systemctl restart sip-edge' "$logs/upgrade.log" || die "the upgrade does not say how to change over"
    expect "the process stayed" "$pid" "$(property MainPID)"
    expect "with its own version" "/usr/bin/sip-edge (deleted)" "$(inside readlink "/proc/$pid/exe")"
    inside cmp /mnt/smoke/sip-edge.toml /etc/sip-edge/sip-edge.toml || die "the configuration changed"
    expect "configuration kept" "640 root sip-edge" "$(inside stat -c '%a %U %G' /etc/sip-edge/sip-edge.toml)"
    restart
    expect "after a restart" active "$(property ActiveState)"
    expect "runs the new version" /usr/bin/sip-edge "$(inside readlink "/proc/$(property MainPID)/exe")"
}

plays() { # STEP...
    for step in "$@"; do
        echo "$step"
        $step
    done
}
