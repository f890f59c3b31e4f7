//! What only time shows: a month in minutes, and crashes by the hundred. Long, so each is asked for by name:
//!
//! ```sh
//! cargo test --test soak -- --ignored --nocapture --test-threads=1 month     # SOAK_FOR=600 seconds on each database
//! cargo test --test soak -- --ignored --nocapture --test-threads=1 kills     # KILLS=200 on each database
//! ```
//!
//! and, in a build with faults on purpose, whether they are noticed (see `planted.rs`):
//!
//! ```sh
//! cargo test --features planted --test soak planted
//! ```
//!
//! `on_sqlite::month` or `on_postgres::month` in place of `month` picks one database; `SEED=1` is where all chance comes from.
//! Both drive the real binary against the simulator, which keeps books of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot unwrap has failed"
)]

mod books;
mod gauge;
mod kills;
mod month;
#[cfg(feature = "planted")]
mod planted;
mod report;
#[path = "../support/mod.rs"]
mod support;

use kills::kills;
use month::month;

e2e! {
    #[ignore = "takes ten minutes"]
    month,
    #[ignore = "takes ten minutes"]
    kills,
}

/// A number from the environment, or the usual one.
fn knob(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
