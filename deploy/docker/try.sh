#!/usr/bin/env bash
# Builds the image and runs it for real, with a Docker engine of its own that is gone afterwards: the multi-stage build on
# base images made here with debootstrap, the image's size, its user, a root file system that cannot be written to, the
# HEALTHCHECK, a restart on the same volume, the demo with its proof, and compose.
#
#     sudo deploy/docker/try.sh              needs root, docker.io, docker-compose, debootstrap, and this machine's Rust
#     sudo WORK=/var/tmp/try …               keeps bases and image there for the next time; thrown away otherwise
#     MIRROR=http://…                        a Debian mirror, if not debootstrap's own
#
# Takes a release build (twice: dependencies, program). No image registry is asked; crates come from where Cargo gets them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
work=${WORK:-$(mktemp -d /var/tmp/ringcx-try.XXXXXX)}
suite=bookworm
image=ringcx-extractor
export DOCKER_HOST=unix://$work/docker.sock
engine=
wrong=0

fail() {
    echo "FAILED  $1" >&2
    exit 1
}

ok() {
    echo "ok      $1"
}

cleanup() {
    [ -z "$engine" ] || { docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1 || true; }
    [ -z "$engine" ] || docker volume rm -f try-state >/dev/null 2>&1 || true
    [ -z "$engine" ] || { kill "$engine" && wait "$engine"; } 2>/dev/null || true
    umount "$work"/exec/netns/* 2>/dev/null || true
    [ -n "${WORK:-}" ] || rm -rf "$work"
}
trap cleanup EXIT

[ "$(id -u)" -eq 0 ] || fail "only root can start a Docker engine: sudo $0"
for tool in dockerd docker docker-compose debootstrap rustc; do
    command -v "$tool" >/dev/null || fail "$tool is missing: Debian's docker.io, docker-compose, debootstrap; Rust by rustup"
done
mkdir -p "$work"

start_engine() {
    # No rules in the machine's firewall, no bridge: what needs the network gets the machine's own.
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/docker.pid" -H "$DOCKER_HOST" \
        --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs >"$work/dockerd.log" 2>&1 &
    engine=$!
    local _
    for _ in $(seq 100); do
        docker version >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 5 "$work/dockerd.log" >&2
    fail "the engine does not start"
}

# An image of a Debian with these packages. $3, if given, does the rest to its folder.
base() {
    local name=$1 packages=$2 more=${3:-}
    docker image inspect "$name" >/dev/null 2>&1 && return
    rm -rf "$work/root"
    debootstrap --variant=minbase --include="$packages" "$suite" "$work/root" ${MIRROR:+"$MIRROR"} >"$work/debootstrap.log" 2>&1 ||
        fail "debootstrap: see $work/debootstrap.log"
    rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists"
    [ -z "$more" ] || "$more" "$work/root"
    tar -C "$work/root" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$name" >/dev/null
    rm -rf "$work/root"
    ok "base $name"
}

# This machine's toolchain, in place of the one in Docker's image rust.
toolchain() {
    local from
    from=$(rustc --print sysroot)
    mkdir -p "$1/usr/local/lib/rustlib"
    cp -a "$from/bin/rustc" "$from/bin/cargo" "$1/usr/local/bin/"
    cp -a "$from"/lib/lib*.so* "$1/usr/local/lib/"
    cp -a "$from/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')" "$1/usr/local/lib/rustlib/"
    ldconfig -r "$1"
    # Cargo in there trusts whom this machine trusts, such as the proxy on its way out.
    cp --remove-destination "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$1/etc/ssl/certs/ca-certificates.crt"
}

build() {
    docker build -q --network host --build-arg BUILD_BASE=try-build --build-arg BASE=try-base -t "$image" "$source" >"$work/build.log" 2>&1 ||
        { tail -n 20 "$work/build.log" >&2; fail "the image does not build"; }
    ok "the image is built"
    local bare whole
    bare=$(docker image inspect -f '{{ .Size }}' try-base)
    whole=$(docker image inspect -f '{{ .Size }}' "$image")
    local added=$(((whole - bare) / 1000))
    if [ "$added" -le 15000 ]; then
        ok "it is $added kB above its base"
    else
        # No reason not to try the rest.
        echo "FAILED  it is $added kB above its base; 15 MB are allowed" >&2
        wrong=1
    fi
    [ "$(docker image inspect -f '{{ .Config.User }}' "$image")" = 65532:65532 ] || fail "the image's user"
}

hardened=(--read-only --cap-drop ALL --security-opt no-new-privileges:true --network none)

# Settings whose hosts nobody listens at: the daemon is alive and says what it waits for.
settings() {
    mkdir -p "$work/run/secrets"
    cat >"$work/run/config.toml" <<TOML
[api]
platform_url = "http://127.0.0.1:1"
ringcx_url = "http://127.0.0.1:1"
summary_url = "http://127.0.0.1:1"
[auth]
client_id = "try"
client_secret_file = "/run/secrets/client_secret"
jwt_file = "/run/secrets/jwt"
[[accounts]]
rc_account_id = "1"
sub_account_id = "10"
[http]
listen = "0.0.0.0:8480"
TOML
    echo not-a-secret | tee "$work/run/secrets/client_secret" >"$work/run/secrets/jwt"
    chown -R 65532 "$work/run/secrets"
    chmod 0400 "$work/run/secrets/"*
}

healthy() {
    local _ status
    for _ in $(seq 120); do
        status=$(docker inspect -f '{{ .State.Health.Status }}' "$1")
        [ "$status" != healthy ] || return 0
        [ "$(docker inspect -f '{{ .State.Running }}' "$1")" = true ] || break
        sleep 0.5
    done
    docker logs "$1" 2>&1 | tail -n 10 >&2
    fail "$1 is $status"
}

run() {
    docker run --rm "${hardened[@]}" "$image" --version >/dev/null
    ok "it runs as 65532 without a capability, its root read-only"
    docker volume create try-state >/dev/null
    local round uid
    for round in first second; do
        docker run -d --name "try-$round" "${hardened[@]}" -v try-state:/var/lib/ringcx-extractor \
            -v "$work/run/config.toml:/etc/ringcx-extractor/config.toml:ro" -v "$work/run/secrets:/run/secrets:ro" \
            --health-interval 1s --health-start-period 1s "$image" >/dev/null
        healthy "try-$round"
        ok "the $round run on the volume is healthy by its own HEALTHCHECK"
        uid=$(docker top "try-$round" -o pid,uid | awk 'NR == 2 { print $2 }')
        [ "$uid" = 65532 ] || fail "it runs as $uid"
        [ -z "$(docker diff "try-$round" | grep -v ' /run\| /etc' || true)" ] || fail "it wrote outside its volume: $(docker diff "try-$round")"
        docker exec "try-$round" /usr/local/bin/ringcx-extractor status --json >/dev/null || fail "status within the container"
        docker stop -t 15 "try-$round" >/dev/null
        [ "$(docker inspect -f '{{ .State.ExitCode }}' "try-$round")" = 0 ] || fail "how it ended: $(docker inspect -f '{{ .State.ExitCode }}' "try-$round")"
        docker rm "try-$round" >/dev/null
    done
    ok "docker stop ends it in good order, and it wrote to its volume only"
    docker run --rm "${hardened[@]}" -v try-state:/var/lib/ringcx-extractor -e TMPDIR=/var/lib/ringcx-extractor "$image" \
        demo --for 15s --speed 120 >"$work/demo.log" 2>&1 || { tail -n 12 "$work/demo.log" >&2; fail "the demo"; }
    grep -q "Everything that was announced has arrived" "$work/demo.log" || fail "the demo: $(cat "$work/demo.log")"
    ok "the demo in the container archives everything that was announced"
}

compose() {
    rm -rf "$work/compose"
    cp -r "$here" "$work/compose"
    cp "$work/run/config.toml" "$work/compose/"
    cp -a "$work/run/secrets" "$work/compose/"
    # The image is there; the folder that it is built from is elsewhere.
    sed -i '/^    build:/d; /^      context:/d' "$work/compose/compose.yaml"
    (
        cd "$work/compose"
        docker-compose -p try -f compose.yaml config >/dev/null
        docker-compose -p try -f compose.yaml up -d
        healthy "$(docker-compose -p try -f compose.yaml ps -q extractor)"
        docker-compose -p try -f compose.yaml exec -T extractor /usr/local/bin/ringcx-extractor status >/dev/null
        docker-compose -p try -f compose.yaml down -v
    ) >"$work/compose.log" 2>&1 || { tail -n 20 "$work/compose.log" >&2; fail "compose.yaml"; }
    ok "compose.yaml comes up healthy and goes down"
}

start_engine
base try-base ca-certificates
base try-build ca-certificates,gcc,libc6-dev,make toolchain
build
settings
run
compose
exit "$wrong"
