#!/usr/bin/env bash
# Installs the daemon under a real systemd, booted in a container (systemd-nspawn) made with debootstrap, and tries what the
# unit promises: readiness, credentials, restart after a crash and by the watchdog, no restart where the settings are
# wrong, reload, the sandbox, a clean removal.
#
#     sudo deploy/systemd/try.sh [PROGRAM]       PROGRAM: target/dist/ringcx-extractor unless given
#     sudo WORK=/var/tmp/try …                   keeps the container's tree there for the next time
#     MIRROR=http://…                            a Debian mirror, if not debootstrap's own
#
# Needs root and Debian's packages debootstrap and systemd-container. The container has no network but its own loopback.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
program=${1:-$source/target/dist/ringcx-extractor}
work=${WORK:-$(mktemp -d /var/tmp/ringcx-systemd.XXXXXX)}
tree=$work/tree
trap '[ -n "${WORK:-}" ] || rm -rf "$work"' EXIT

fail() {
    echo "FAILED  $1" >&2
    exit 1
}

[ "$(id -u)" -eq 0 ] || fail "only root can boot a container: sudo $0"
[ -x "$program" ] || fail "there is no program at $program: cargo build --profile dist --locked"
for tool in debootstrap systemd-nspawn; do
    command -v "$tool" >/dev/null || fail "$tool is missing: Debian's debootstrap, systemd-container"
done
mkdir -p "$work"
if [ ! -e "$tree/made" ]; then
    rm -rf "$tree"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,procps bookworm "$tree" \
        ${MIRROR:+"$MIRROR"} >"$work/debootstrap.log" 2>&1 || fail "debootstrap: see $work/debootstrap.log"
    touch "$tree/made"
fi

# What the container gets: the program, what install.sh reads, and what is tried there.
rm -rf "$tree/source"
mkdir -p "$tree/source/docs" "$tree/source/target/dist"
cp -r "$source/deploy" "$tree/source/"
cp "$source/docs/operations.md" "$tree/source/docs/"
cp "$program" "$tree/source/target/dist/ringcx-extractor"
rm -f "$tree/result"

cat >"$tree/source/inside" <<'INSIDE'
#!/bin/bash
# Runs in the container, once it has booted.
name=ringcx-extractor
fail() {
    echo "FAILED  $1"
    systemctl status --no-pager -l $name
    journalctl -u $name --no-pager -n 20
    exit 1
}
ok() { echo "ok      $1"; }
prop() { systemctl show -p "$1" --value $name; }
# Looks for up to 30 s.
until_is() {
    local _
    for _ in $(seq 150); do
        [ "$(prop "$1")" = "$2" ] && return 0
        sleep 0.2
    done
    fail "$1 is $(prop "$1"), not $2"
}
logged() { journalctl -u $name --no-pager | grep -q "$1"; }

/source/deploy/systemd/install.sh install >/dev/null 2>&1 || fail "install.sh install"
settings=/etc/$name
for secret in client_secret jwt; do echo not-a-secret | install -g $name -m 0640 /dev/stdin $settings/credentials/$secret; done
sed -i 's/^client_id = ""/client_id = "try"/; s/_account_id = ""/_account_id = "1"/' $settings/config.toml
# Nobody listens there: the daemon is alive and waits for them.
printf '[api]\nplatform_url = "http://127.0.0.1:1"\nringcx_url = "http://127.0.0.1:1"\nsummary_url = "http://127.0.0.1:1"\n' >>$settings/config.toml
ok "install.sh sets it up"

systemctl enable --now $name || fail "it does not start"
[ "$(prop ActiveState)" = active ] && [ "$(prop Type)" = notify ] || fail "it is not active"
ok "it is ready by its own word (Type=notify), with its secrets from LoadCredential"
pid=$(prop MainPID)
[ "$(stat -c %U /proc/"$pid")" = $name ] || fail "its user"
grep -q 'CapEff:.*0000000000000000' /proc/"$pid"/status && grep -q 'NoNewPrivs:.*1' /proc/"$pid"/status &&
    grep -q 'Seccomp:.*2' /proc/"$pid"/status || fail "its sandbox"
ok "it runs as $name, without a capability, under a system call filter"
[ "$(stat -c '%U %a' /var/lib/$name /var/lib/$name/$name.db | tr '\n' ' ')" = "$name 700 $name 600 " ] || fail "its files: $(ls -la /var/lib/$name)"
ok "its archive is its own, mode 0600 in 0700"
# As that user, by hand, typed in a folder that is closed to it, as homes are.
install -d -m 0700 /root/closed
(cd /root/closed && setpriv --reuid=$name --regid=$name --init-groups /usr/local/bin/$name status >/dev/null) || fail "status by hand"
ok "commands work as that user, wherever they are typed"

systemctl reload $name && sleep 1 && logged "log filter and login reloaded" || fail "reload"
ok "systemctl reload reads the log filter again"

kill -KILL "$pid"
until_is NRestarts 1
until_is ActiveState active
ok "it is started again after a crash"

mkdir -p /etc/systemd/system/$name.service.d
printf '[Service]\nWatchdogSec=3\n' >/etc/systemd/system/$name.service.d/watchdog.conf
systemctl daemon-reload && systemctl restart $name || fail "restart"
sleep 5
[ "$(prop NRestarts)" = 0 ] || fail "the watchdog ended one that is well"
kill -STOP "$(prop MainPID)"
until_is NRestarts 1
until_is ActiveState active
logged "Watchdog timeout" || fail "it was not the watchdog"
ok "one that stands still is ended by the watchdog and started again; one that is well is left alone"
rm -r /etc/systemd/system/$name.service.d && systemctl daemon-reload

for drop_in in api-token engage-login; do
    echo not-a-secret | tee $settings/credentials/api_token >$settings/credentials/password
    cp $settings/config.toml /root/config.toml
    sed -i '/^client_\|^jwt/d' $settings/config.toml
    case $drop_in in
    api-token) sed -i 's|^\[auth\]|[auth]\napi_token_file = "/etc/ringcx-extractor/credentials/api_token"|' $settings/config.toml ;;
    *) sed -i 's|^\[auth\]|[auth]\nusername = "u"\nplatform_id = "1"\npassword_file = "/etc/ringcx-extractor/credentials/password"|' $settings/config.toml ;;
    esac
    mkdir -p /etc/systemd/system/$name.service.d
    cp /source/deploy/systemd/drop-ins/$drop_in.conf /etc/systemd/system/$name.service.d/
    systemctl daemon-reload && systemctl restart $name || fail "with the drop-in $drop_in"
    [ "$(prop ActiveState)" = active ] || fail "with the drop-in $drop_in"
    ok "it starts with the drop-in $drop_in"
    rm -r /etc/systemd/system/$name.service.d
    cp /root/config.toml $settings/config.toml
    systemctl daemon-reload
done

echo 'nonsense = 1' >>$settings/config.toml
systemctl restart $name 2>/dev/null
until_is ActiveState failed
sleep 4
[ "$(prop NRestarts) $(prop ExecMainStatus)" = "0 2" ] || fail "wrong settings: $(prop NRestarts) restarts, status $(prop ExecMainStatus)"
ok "settings that are wrong end it with 2, and it is not started again"
sed -i '/^nonsense/d' $settings/config.toml
systemctl reset-failed $name
systemctl start $name || fail "it does not start again"
began=$(date +%s)
systemctl stop $name
[ "$(prop Result)" = success ] && [ $(($(date +%s) - began)) -le 11 ] || fail "it does not stop in good order"
ok "it stops in good order within 10 s"

/source/deploy/systemd/install.sh uninstall --purge >/dev/null 2>&1 || fail "uninstall"
left=$(find / -xdev -name "*$name*" -not -path '/source/*' -not -path '/var/log/*' 2>/dev/null)
[ -z "$left" ] && ! id $name >/dev/null 2>&1 || fail "it leaves behind: $left"
ok "install.sh removes it without a trace"
INSIDE

cat >"$tree/etc/systemd/system/try.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c '/bin/bash /source/inside >/result 2>&1; echo "exit status $?" >>/result'
ExecStopPost=/bin/systemctl poweroff --no-block
UNIT
mkdir -p "$tree/etc/systemd/system/multi-user.target.wants"
ln -sf ../try.service "$tree/etc/systemd/system/multi-user.target.wants/try.service"
sed -i 's/^After=.*/After=basic.target/' "$tree/etc/systemd/system/try.service"

timeout 240 systemd-nspawn -q -D "$tree" --machine="ringcx-try-$$" --register=no --keep-unit --private-network -b \
    </dev/null >"$work/boot.log" 2>&1 || true
[ -e "$tree/result" ] || { tail -n 20 "$work/boot.log" >&2; fail "systemd did not boot"; }
grep -v '^exit status' "$tree/result"
grep -qx 'exit status 0' "$tree/result" || exit 1
