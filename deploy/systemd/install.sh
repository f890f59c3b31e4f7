#!/usr/bin/env bash
# Sets the daemon up under systemd, or takes it away again. Running it twice changes nothing; running it with a newer
# program upgrades.
#
#     install.sh install [PROGRAM]      PROGRAM: target/dist/ringcx-extractor unless given
#     install.sh uninstall [--purge]    settings, credentials and archive stay unless --purge is given
#
# DESTDIR puts everything below another root, for packages; users are not created and nothing is started then.
set -euo pipefail

name=ringcx-extractor
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
program=$root/usr/local/bin/$name
unit=$root/etc/systemd/system/$name.service
settings=$root/etc/$name
state=$root/var/lib/$name
docs=$root/usr/local/share/doc/$name

fail() {
    echo "error: $1" >&2
    [ -z "${2:-}" ] || echo "hint: $2" >&2
    exit "${3:-1}"
}

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# Says whether this machine's systemd is to be told.
live() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

# With owner and group, where those exist.
owned() {
    if [ -z "$root" ]; then install -o root -g "$1" "${@:2}"; else install "${@:2}"; fi
}

check_root() {
    [ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "only root can do this" "sudo $0 $*"
}

do_install() {
    local from=${1:-$here/../../target/dist/$name}
    check_root install "$@"
    [ -f "$from" ] || fail "there is no program at $from" "build it with: cargo build --profile dist --locked"
    if [ -z "$root" ] && ! id "$name" >/dev/null 2>&1; then
        useradd --system --user-group --no-create-home --home-dir "/var/lib/$name" --shell /usr/sbin/nologin "$name"
    fi
    mkdir -p "${program%/*}" "${unit%/*}" "$docs"
    # Beside the old one, then renamed over it: the daemon that runs keeps its own.
    owned root -m 0755 "$from" "$program.new"
    mv -f "$program.new" "$program"
    owned root -m 0644 "$here/$name.service" "$unit"
    [ ! -f "$here/../../docs/operations.md" ] || owned root -m 0644 "$here/../../docs/"*.md "$docs/"
    owned "$name" -d -m 0750 "$settings" "$settings/credentials"
    [ -e "$settings/config.toml" ] || owned "$name" -m 0640 "$here/config.toml" "$settings/config.toml"
    if [ -z "$root" ]; then
        install -d -m 0700 -o "$name" -g "$name" "$state"
        # Whoever put the secrets there, the daemon's group may read them and others may not.
        find "$settings/credentials" -type f -exec chgrp "$name" {} + -exec chmod 0640 {} +
    fi
    if live; then
        systemctl daemon-reload
        # An upgrade takes effect; a first installation waits for its settings.
        if systemctl is-active --quiet "$name"; then systemctl restart "$name"; fi
    fi
    cat >&2 <<TEXT
installed. If this is the first time:
  1. put each secret into a file of its own (paste it, Enter, Ctrl-D):
         sudo install -g $name -m 0640 /dev/stdin $settings/credentials/client_secret
         sudo install -g $name -m 0640 /dev/stdin $settings/credentials/jwt
  2. fill in $settings/config.toml
  3. sudo -u $name $name check
  4. sudo systemctl enable --now $name
TEXT
}

do_uninstall() {
    local purge=${1:-}
    [ -z "$purge" ] || [ "$purge" = --purge ] || usage
    check_root uninstall "$@"
    if live; then systemctl disable --now "$name" 2>/dev/null || true; fi
    rm -f "$program" "$program.new" "$unit"
    rm -rf "$docs"
    if live; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf "$unit.d" "$settings" "$state"
        if [ -z "$root" ] && id "$name" >/dev/null 2>&1; then userdel "$name"; fi
        echo "removed, with its settings and its archive" >&2
    else
        echo "removed; its settings ($settings), drop-ins and archive ($state) are still there, --purge removes them too" >&2
    fi
}

case "${1:-}" in
install) [ $# -le 2 ] || usage; do_install "${@:2}" ;;
uninstall) [ $# -le 2 ] || usage; do_uninstall "${@:2}" ;;
*) usage ;;
esac
