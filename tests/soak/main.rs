//! Long tests: a month in minutes, and hundreds of crashes. They are ignored by default; select one by name:
//!
//! ```sh
//! cargo test --test soak -- --ignored --nocapture --test-threads=1 month     # SOAK_FOR=600 seconds on each database
//! cargo test --test soak -- --ignored --nocapture --test-threads=1 kills     # KILLS=200 on each database
//! ```
//!
//! A build with failpoints also tests whether injected faults are noticed (see `failpoints.rs`):
//!
//! ```sh
//! cargo test --features failpoints --test soak failpoints
//! ```
//!
//! The prefix `on_sqlite::` or `on_postgres::` selects one database. `SEED=1` seeds all random choices. The tests run the real
//! binary against the simulator, which keeps its own ledger.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot unwrap has failed"
)]

mod crash_trial;
mod delivery_log;
#[cfg(feature = "failpoints")]
mod failpoints;
mod growth_report;
mod month_trial;
mod resource_sample;
#[path = "../support/mod.rs"]
mod support;

use crash_trial::hundreds_of_kills_lose_nothing;
use month_trial::a_month_of_faults_loses_nothing;

e2e! {
    #[ignore = "takes ten minutes"]
    a_month_of_faults_loses_nothing,
    #[ignore = "takes ten minutes"]
    hundreds_of_kills_lose_nothing,
}

/// A number from the environment, or its default.
fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
