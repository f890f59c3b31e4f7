//! Renders the answers of RingCX as text. Pure: bytes in, text out.

use ringcx_model::{clock, lenient_json, lenient_time};

pub mod render;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
