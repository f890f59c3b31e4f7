# Builds the image. Both bases are arguments, so that a mirror or a local image can stand in:
#
#     docker build -t ringcx-extractor .
#     docker build -t ringcx-extractor --build-arg BASE=my/debian-12 .
#
# COMMIT and SOURCE_DATE_EPOCH are what `--version` shows; the build does not see the repository.
# BASE needs glibc (2.36 or newer) and libgcc of BUILD_BASE's age or newer, and CA certificates; no shell, no user of its own.
ARG BUILD_BASE=rust:1.95-bookworm
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

# The manifests of the crates beneath the program, with nothing in them.
FROM ${BUILD_BASE} AS manifests
WORKDIR /src
COPY crates crates
RUN find crates -type f ! -name Cargo.toml -delete \
    && for crate in crates/*; do mkdir -p "$crate/src" && : > "$crate/src/lib.rs"; done

# The dependencies, against an empty program: a stage of its own, built again only when they change.
FROM ${BUILD_BASE} AS dependencies
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY --from=manifests /src/crates crates
# Cargo wants the files of the benchmarks that Cargo.toml names, though it builds none of them.
RUN mkdir src benches \
    && echo 'fn main() {}' > src/main.rs \
    && : > src/lib.rs \
    && for bench in $(sed -n '/^\[\[bench\]\]/,/^name/s/^name = "\(.*\)"/\1/p' Cargo.toml); do \
         echo 'fn main() {}' > "benches/$bench.rs"; done \
    && cargo build --profile dist --locked \
    && rm -r src crates

# The program. Its files may be older than the empty ones: the time stamps say that it has to be built.
FROM dependencies AS build
ARG COMMIT
ARG SOURCE_DATE_EPOCH
COPY migrations migrations
COPY crates crates
COPY src src
RUN touch src/main.rs src/lib.rs crates/*/src/lib.rs \
    && RINGCX_COMMIT="$COMMIT" SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" cargo build --profile dist --locked \
    && mkdir -p /image/usr/local/bin \
    && cp target/dist/ringcx-extractor /image/usr/local/bin/

# Given to the user that it runs as, a volume that is mounted here empty takes over its owner.
RUN mkdir -p -m 0700 /state/ringcx-extractor

FROM ${BASE}
COPY --from=build /image/ /
COPY --from=build --chown=65532:65532 /state/ /var/lib/

# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
# Settings are looked for in /etc/ringcx-extractor/config.toml; the archive is data/ringcx-extractor.db in here unless
# they say otherwise. Nothing else is written to; a copy by `backup` goes in here too, or to another volume.
WORKDIR /var/lib/ringcx-extractor
VOLUME ["/var/lib/ringcx-extractor"]
EXPOSE 8480
# Exit status 0 while GET /healthz of http.listen answers.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/ringcx-extractor", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ringcx-extractor"]
CMD ["run"]
