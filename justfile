# The daily commands. Needs just (https://just.systems); each recipe also works as a plain command.

# List the recipes
default:
    @just --list

# Format all crates
fmt:
    cargo fmt --all

# Run the lints as CI does
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Run the tests; arguments go to `cargo test`
test *args:
    ./scripts/test {{args}}

# Run format check, lints and tests, as before a merge
ci: clippy
    .ci/run

# Run the daemon against a simulated RingCX; arguments go to `demo`
demo *args:
    cargo run --release -- demo {{args}}

# Fuzz one target (api, settings, query, rendering) for some seconds; needs nightly Rust and cargo-fuzz
fuzz target="api" seconds="140":
    cd fuzz && mkdir -p corpus/{{target}} && cargo +nightly fuzz run {{target}} corpus/{{target}} seeds/{{target}} -- -max_total_time={{seconds}}

# Run one benchmark (throughput, search, accounts, growth, memory)
bench name="throughput":
    cargo bench --bench {{name}}

# Compare the ratios of a short benchmark with benches/baseline.json, as CI does
bench-gate:
    ./scripts/bench-gate

# Build the API documentation as CI does
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Check licences, bans, sources and advisories of the dependencies; needs cargo-deny
deny:
    cargo deny check
