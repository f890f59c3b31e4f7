#!/usr/bin/env bash
# Sets the daemon up under systemd, or takes it away again. Running it twice changes nothing; running it with a newer
# program upgrades.
#
#     install.sh install [PROGRAM]      PROGRAM: the one beside this script, or target/dist/ringcx-extractor
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
share=$root/usr/local/share
docs=$share/doc/$name
completions=("$share/bash-completion/completions/$name" "$share/zsh/site-functions/_$name"
    "$share/fish/vendor_completions.d/$name.fish")

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

# In the archive of a release, everything lies beside this script; in the source, in folders of its own.
beside() {
    if [ -e "$here/$1" ]; then echo "$here/$1"; else echo "$here/../../$2"; fi
}

do_install() {
    local from=${1:-$(beside "$name" "target/dist/$name")} completion
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
    owned root -m 0644 "$(beside docs docs)"/*.md "$docs/"
    if [ -d "$here/man" ]; then
        mkdir -p "$share/man/man1"
        owned root -m 0644 "$here"/man/* "$share/man/man1/"
        for completion in "${completions[@]}"; do
            owned root -D -m 0644 "$here/completions/${completion##*/}" "$completion"
        done
    fi
    owned "$name" -d -m 0750 "$settings" "$settings/credentials"
    local settled=
    [ ! -e "$settings/config.toml" ] || settled=yes
    [ -n "$settled" ] || owned "$name" -m 0640 "$here/config.toml" "$settings/config.toml"
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
    [ -n "$settled" ] || cat "$(beside next-steps deploy/package/next-steps)" >&2
}

do_uninstall() {
    local purge=${1:-}
    [ -z "$purge" ] || [ "$purge" = --purge ] || usage
    check_root uninstall "$@"
    if live; then systemctl disable --now "$name" 2>/dev/null || true; fi
    rm -f "$program" "$program.new" "$unit"
    rm -rf "$docs" "$share"/man/man1/$name{,-*}.1.gz "${completions[@]}"
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
