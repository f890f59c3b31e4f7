#!/bin/sh
# $1 is 0 at a removal, and 1 at an upgrade, where a daemon that runs is restarted.
name=ringcx-extractor
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then systemctl try-restart "$name.service" || :; fi
fi
if [ "$1" -eq 0 ]; then
    # The package owns files only.
    find "/usr/share/$name" "/usr/share/doc/$name" "/usr/share/licenses/$name" -depth -type d -empty -delete 2>/dev/null || :
    echo "The credentials in /etc/$name and the archive in /var/lib/$name are kept, with their user $name." >&2
fi
