#!/usr/bin/env bash
# Builds the image and runs it for real, with a Docker engine of its own that is gone afterwards: the multi-stage build on
# base images made here with debootstrap, the image's size, its user, a root file system that cannot be written to, the
# HEALTHCHECK, a restart on the same volume, the demo with its proof, a pod's volumes, and both ways of compose.
#
#     sudo deploy/docker/try.sh              needs root, docker.io, docker-compose, debootstrap, and this machine's Rust
#     sudo WORK=/var/tmp/try …               keeps bases and image there for the next time; thrown away otherwise
#     sudo PROGRAM=target/dist/ringcx-extractor …   puts this one into the image rather than building it in there
#     MIRROR=http://…                        a Debian mirror, if not debootstrap's own
#
# Postgres' image is stood in for by one that does the same with its variables and its volume.
# Takes a build of the profile dist (twice: dependencies, program). No image registry is asked; crates come from where Cargo gets them.
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
    [ -z "$engine" ] || docker volume rm -f try-state ringcx-extractor-archive ringcx-extractor-postgres >/dev/null 2>&1 || true
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
        --iptables=false --ip6tables=false --bridge=none >"$work/dockerd.log" 2>&1 &
    engine=$!
    local _
    for _ in $(seq 100); do
        docker version >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 5 "$work/dockerd.log" >&2
    fail "the engine does not start"
}

# An image of a Debian with these packages. $3, if given, does the rest to its folder; what follows are changes to the image.
base() {
    local name=$1 packages=$2 more=${3:-} change changes=()
    for change in "${@:4}"; do changes+=(--change "$change"); done
    docker image inspect "$name" >/dev/null 2>&1 && return
    rm -rf "$work/root"
    debootstrap --variant=minbase --include="$packages" "$suite" "$work/root" ${MIRROR:+"$MIRROR"} >"$work/debootstrap.log" 2>&1 ||
        fail "debootstrap: see $work/debootstrap.log"
    rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists"
    [ -z "$more" ] || "$more" "$work/root"
    tar -C "$work/root" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' "${changes[@]}" - "$name" >/dev/null
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

# Stands in for Docker's image postgres: the same variables, volume and first set-up.
postgres() {
    rm -rf "$1"/var/lib/postgresql/*
    cat >"$1/usr/local/bin/entrypoint" <<'ENTRYPOINT'
#!/bin/bash
set -euo pipefail
data=/var/lib/postgresql/data
as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
# A secret is root's to read; what is left of this script is not.
password=$(<"$POSTGRES_PASSWORD_FILE")
install -d -o postgres -g postgres -m 0700 "$data"
if [ ! -s "$data/PG_VERSION" ]; then
    as initdb -D "$data" -U "$POSTGRES_USER" -E UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    as pg_ctl -D "$data" -o "-c listen_addresses=''" -w start
    psql -h /var/run/postgresql -U "$POSTGRES_USER" -d postgres -v ON_ERROR_STOP=1 -v name="$POSTGRES_DB" -v password="$password" \
        -v user="$POSTGRES_USER" <<<"create database :\"name\"; alter role :\"user\" password :'password';"
    as pg_ctl -D "$data" -m fast -w stop
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups postgres -D "$data" -c listen_addresses='*'
ENTRYPOINT
    chmod 0755 "$1/usr/local/bin/entrypoint"
}

# What docker build gets: the source, or the image's last stage with a program that is there.
context() {
    if [ -z "${PROGRAM:-}" ]; then
        echo "$source"
        return
    fi
    rm -rf "$work/context"
    mkdir -p "$work/context/image/usr/local/bin" "$work/context/state/ringcx-extractor"
    chmod 0700 "$work/context/state/ringcx-extractor"
    cp "$PROGRAM" "$work/context/image/usr/local/bin/ringcx-extractor"
    {
        echo 'ARG BASE'
        printf 'FROM scratch AS build\nCOPY image /image\nCOPY state /state\n'
        sed -n '/^FROM ${BASE}/,$p' "$source/Dockerfile"
    } >"$work/context/Dockerfile"
    echo "$work/context"
}

# One run of docker build over this context, with what else it is told; its output goes to the log.
built() {
    docker build --network host --build-arg BUILD_BASE=try-build --build-arg BASE=try-base "${@:2}" "$1" >>"$work/build.log" 2>&1 ||
        { tail -n 20 "$work/build.log" >&2; fail "the image does not build: see $work/build.log"; }
}

build() {
    local from
    from=$(context)
    : >"$work/build.log"
    if [ -n "${PROGRAM:-}" ]; then
        built "$from" -t "$image"
        ok "the image is built around $PROGRAM"
    else
        stages "$from"
    fi
    local bare whole
    bare=$(docker image inspect -f '{{ .Size }}' try-base)
    whole=$(docker image inspect -f '{{ .Size }}' "$image")
    local added=$(((whole - bare) / 1000))
    if [ "$added" -le 30000 ]; then
        ok "it is $added kB above its base"
    else
        # No reason not to try the rest.
        echo "FAILED  it is $added kB above its base; 30 MB are allowed" >&2
        wrong=1
    fi
    [ "$(docker image inspect -f '{{ .Config.User }}' "$image")" = 65532:65532 ] || fail "the image's user"
}

# The whole way, and that a change of the program's text leaves the dependencies as they were.
stages() {
    local from=$1 since=$SECONDS dependencies
    built "$from" --target dependencies -t try-dependencies
    ok "the dependencies are built, in $((SECONDS - since)) s"
    since=$SECONDS
    built "$from" -t "$image"
    ok "the image is built upon them, in $((SECONDS - since)) s"
    dependencies=$(docker image inspect -f '{{ .Id }}' try-dependencies)
    rm -rf "$work/changed"
    mkdir "$work/changed"
    cp -a "$from"/{Cargo.toml,Cargo.lock,build.rs,Dockerfile,.dockerignore,crates,src,migrations} "$work/changed/"
    echo '// Changed.' | tee -a "$work/changed/src/lib.rs" >>"$work/changed/crates/archive/src/lib.rs"
    built "$work/changed" --target dependencies -t try-dependencies
    [ "$(docker image inspect -f '{{ .Id }}' try-dependencies)" = "$dependencies" ] || fail "a change in src builds the dependencies again"
    ok "a change in src does not build them again"
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
listen = "[::]:8480"
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

# As the kubelet mounts it all: a volume that is root's, its group may write to it (fsGroup); secrets that the group may
# read, behind links; the settings of the base, filled in.
pod() {
    rm -rf "$work/pod"
    install -d -o root -g 65532 -m 2775 "$work/pod/archive"
    install -d "$work/pod/config" "$work/pod/secrets/..data"
    local secret
    for secret in client_secret jwt; do
        install -o root -g 65532 -m 0440 "$work/run/secrets/$secret" "$work/pod/secrets/..data/$secret"
        ln -s "..data/$secret" "$work/pod/secrets/$secret"
    done
    sed 's/^client_id = ""/client_id = "try"/; s/_account_id = ""/_account_id = "1"/' "$source/deploy/kubernetes/base/config.toml" >"$work/pod/config/config.toml"
    sed -n '/^\[api\]/,/^summary_url/p' "$work/run/config.toml" >>"$work/pod/config/config.toml"
    docker run -d --name try-pod "${hardened[@]}" --user 65532:65532 -v "$work/pod/archive:/var/lib/ringcx-extractor" \
        -v "$work/pod/config:/etc/ringcx-extractor:ro" -v "$work/pod/secrets:/run/secrets/ringcx-extractor:ro" \
        -e RINGCX__DATABASE__INSTANCE=ringcx-extractor --health-interval 1s --health-start-period 1s "$image" >/dev/null
    healthy try-pod
    [ -f "$work/pod/archive/data/ringcx-extractor.db" ] || fail "the archive is not on the pod's volume"
    docker rm -f try-pod >/dev/null
    ok "it runs on a pod's volume and secrets with the settings of deploy/kubernetes/base"
}

# The compose files in a copy of their folder, filled in as the guide says.
folder() {
    rm -rf "$work/compose"
    cp -r "$here" "$work/compose"
    cp "$work/run/config.toml" "$work/compose/"
    cp -a "$work/run/secrets" "$work/compose/"
    openssl rand -hex 24 >"$work/compose/secrets/postgres_password"
    echo "postgres://ringcx:$(cat "$work/compose/secrets/postgres_password")@postgres/ringcx" >"$work/compose/secrets/database_url"
    chown 65532 "$work/compose/secrets/"*
    chmod 0400 "$work/compose/secrets/"*
    # The image is there; the folder that it is built from is elsewhere. The port may be somebody else's here.
    sed -i '/^    build:/d; /^      context:/d; s/127.0.0.1:8480:8480/127.0.0.1::8480/' "$work"/compose/compose*.yaml
}

compose() {
    folder
    (
        set -e
        cd "$work/compose"
        up=(docker-compose -p try -f compose.yaml)
        "${up[@]}" config >/dev/null
        "${up[@]}" up -d
        healthy "$("${up[@]}" ps -q extractor)"
        "${up[@]}" exec -T extractor /usr/local/bin/ringcx-extractor status >/dev/null
        # Nobody listens where it would log in: the command itself has to work.
        said=$("${up[@]}" run --rm extractor check 2>&1) && fail "check found nobody, and was content"
        grep -q "no connection to 127.0.0.1" <<<"$said" || fail "check: $said"
        "${up[@]}" down -v
    ) >"$work/compose.log" 2>&1 || { tail -n 20 "$work/compose.log" >&2; fail "compose.yaml"; }
    ok "compose.yaml comes up healthy and goes down"
}

compose_postgres() {
    folder
    (
        set -e
        cd "$work/compose"
        export POSTGRES_IMAGE=try-postgres
        up=(docker-compose -p try -f compose.postgres.yaml)
        "${up[@]}" config >/dev/null
        # In the guide's order: the first command starts Postgres too, which sets itself up.
        said=$("${up[@]}" run --rm extractor check 2>&1) && fail "check found nobody, and was content"
        grep -q "no connection to 127.0.0.1" <<<"$said" && grep -q "^ok *database: Postgres" <<<"$said" || fail "check: $said"
        "${up[@]}" down -v
        "${up[@]}" up -d
        database=$("${up[@]}" ps -q postgres) extractor=$("${up[@]}" ps -q extractor)
        healthy "$extractor"
        # Both moments in one format, which sorts.
        well=$(docker inspect -f '{{ range .State.Health.Log }}{{ .ExitCode }} {{ .End.UTC.Format "2006-01-02T15:04:05.000000000" }}{{ "\n" }}{{ end }}' "$database" |
            awk '$1 == 0 { print $2; exit }')
        begun=$(docker inspect -f '{{ .State.StartedAt }}' "$extractor")
        [[ -n $well && $begun > $well ]] || fail "the daemon began at $begun, Postgres was well at $well"
        password=$(cat secrets/postgres_password)
        ! docker inspect "$database" "$extractor" | grep -q "$password" || fail "the password stands in a container's settings"
        "${up[@]}" exec -T extractor /usr/local/bin/ringcx-extractor status >/dev/null
        ask() { docker exec "$database" psql -U ringcx -d ringcx -Atc "$1"; }
        [ "$(ask "select name from replica")" = extractor ] || fail "the daemon is not in the database"
        wrong=$(docker exec -e PGPASSWORD=wrong "$database" psql -h 127.0.0.1 -U ringcx -d ringcx -c 'select 1' 2>&1) && fail "any password will do"
        grep -q "password authentication failed" <<<"$wrong" || fail "a wrong password: $wrong"
        # What is in the database is there after a restart, and the daemon takes it up again.
        before=$(ask "select started from replica")
        "${up[@]}" restart -t 30 postgres
        healthy "$database"
        "${up[@]}" restart -t 20 extractor
        healthy "$extractor"
        [ "$(ask "select count(*) from replica where started > $before")" = 1 ] || fail "the daemon did not come back to its database"
        "${up[@]}" down -v
    ) >"$work/compose.log" 2>&1 || { tail -n 20 "$work/compose.log" >&2; fail "compose.postgres.yaml"; }
    ok "compose.postgres.yaml starts the daemon once Postgres is healthy, with secrets from files, and comes back after a restart"
}

start_engine
base try-base ca-certificates
[ -n "${PROGRAM:-}" ] || base try-build ca-certificates,gcc,libc6-dev,make toolchain
base try-postgres postgresql-15 postgres 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin' 'ENTRYPOINT ["/usr/local/bin/entrypoint"]' \
    'VOLUME ["/var/lib/postgresql/data"]'
build
settings
run
pod
compose
compose_postgres
exit "$wrong"
