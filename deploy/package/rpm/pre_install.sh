#!/bin/sh
# Before the files, some of which belong to this group.
name=ringcx-extractor
getent group "$name" >/dev/null || groupadd --system "$name"
getent passwd "$name" >/dev/null ||
    useradd --system --gid "$name" --no-create-home --home-dir "/var/lib/$name" --shell /usr/sbin/nologin \
        --comment "RingCX extractor" "$name"
