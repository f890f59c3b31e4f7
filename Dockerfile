# Builds the image. Both bases are arguments, so that a mirror or a local image can stand in:
#
#     docker build -t ringcx-extractor .
#     docker build -t ringcx-extractor --build-arg BASE=my/debian-12 .
#
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
# Addresses that are fixed up at the start take a bit each rather than 24 bytes; glibc knows how from 2.36 on.
ENV RUSTFLAGS="-C link-arg=-Wl,-z,pack-relative-relocs"
# C for a small program: no tables for unwinding, as no C function is ever unwound; nothing inlined but what its authors asked
# for; no padding. Of zstd neither the strategies above level 7, which nobody uses, nor a second copy for newer processors.
ENV CFLAGS="-fno-asynchronous-unwind-tables -fno-inline-small-functions -fno-partial-inlining -fno-ipa-cp-clone \
-fno-align-functions -fno-align-loops -fno-align-jumps -fno-align-labels -DDYNAMIC_BMI2=0 -DHUF_FORCE_DECOMPRESS_X1=1 \
-DZSTD_EXCLUDE_LAZY2_BLOCK_COMPRESSOR -DZSTD_EXCLUDE_BTLAZY2_BLOCK_COMPRESSOR \
-DZSTD_EXCLUDE_BTOPT_BLOCK_COMPRESSOR -DZSTD_EXCLUDE_BTULTRA_BLOCK_COMPRESSOR"
COPY Cargo.toml Cargo.lock ./
# How SQLite is compiled.
COPY .cargo .cargo
# What takes the place of a dependency.
COPY stand-ins stand-ins
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
COPY migrations migrations
COPY crates crates
COPY src src
RUN touch src/main.rs src/lib.rs crates/*/src/lib.rs \
    && cargo build --profile dist --locked \
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
# they say otherwise. Nothing else is written to.
WORKDIR /var/lib/ringcx-extractor
VOLUME ["/var/lib/ringcx-extractor"]
EXPOSE 8480
# Exit status 0 while GET /healthz of http.listen answers.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/ringcx-extractor", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ringcx-extractor"]
CMD ["run"]
