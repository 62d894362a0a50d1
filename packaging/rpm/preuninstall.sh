# $1: 0 when the last version goes, 1 at an upgrade.
if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable --now sip-edge.service >/dev/null 2>&1 || :
fi
exit 0
