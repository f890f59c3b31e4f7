#!/bin/sh
# $1 is 0 at a removal, and 1 at an upgrade.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now ringcx-extractor.service >/dev/null 2>&1 || :
fi
