//! The decisions of the pipeline: which window is read next, which item is fetched next, which event
//! is sent next, when a failure is retried, and when an endpoint or a sink is paused.
//!
//! Pure: no I/O, no clock and no source of chance; time and random numbers are passed in. The
//! program carries the decisions out.

use ringcx_archive as db;
use ringcx_client::{self as ringcx, backoff};
use ringcx_model::{self as model, clock};

pub mod circuit_breaker;
pub mod clock_watch;
pub mod coverage;
pub mod delivery;
pub mod discovery;
pub mod fetch;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
