//! What an answer of RingCX means to a reader. Pure: bytes in, what people read out.

use ringcx_model::{clock, lenient_json, lenient_time};

pub mod reading;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
