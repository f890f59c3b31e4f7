#!/bin/sh
# $1 is the number of installed versions: 1 at the first installation, 2 at an upgrade.
name=ringcx-extractor
mkdir -p "/etc/$name/credentials" "/var/lib/$name"
chown root:"$name" "/etc/$name" "/etc/$name/credentials"
chmod 0750 "/etc/$name" "/etc/$name/credentials"
chown "$name:$name" "/var/lib/$name"
chmod 0700 "/var/lib/$name"
if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi
if [ "$1" -eq 1 ]; then
    if [ -x /usr/bin/systemctl ]; then systemctl --no-reload preset "$name.service" >/dev/null 2>&1 || :; fi
    cat "/usr/share/$name/next-steps" || :
fi
