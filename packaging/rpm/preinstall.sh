# The files of the package belong to the user, who has to be there before them.
getent group sip-edge >/dev/null || groupadd --system sip-edge
getent passwd sip-edge >/dev/null || \
    useradd --system --gid sip-edge --home-dir /var/lib/sip-edge --no-create-home --shell /sbin/nologin \
        --comment "SIP edge" sip-edge
exit 0
