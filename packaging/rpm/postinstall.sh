# $1: 1 at the first installation, 2 at an upgrade. As %systemd_post does, presets decide whether the service is enabled.
systemd-tmpfiles --create sip-edge.conf >/dev/null 2>&1 || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    /usr/lib/systemd/systemd-sysctl 60-sip-edge.conf >/dev/null 2>&1 || :
fi
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset sip-edge.service >/dev/null 2>&1 || :
elif [ -d /run/systemd/system ] && systemctl --quiet is-active sip-edge.service; then
    echo "sip-edge: the version that is running goes on, with its calls. To change over: systemctl restart sip-edge"
fi
exit 0
