//! Gets every transcript and every summary out of RingCX.
//!
//! Data flows one way. `discover` reads interaction metadata window by window and queues what there is to fetch;
//! `fetch` drains that queue into the archive; `deliver` hands what is new to other systems. They never call one
//! another: they meet in the database. The daemon alone spawns, loops, sleeps and handles signals.

pub use ringcx_archive::{self as db, hash_chain as proof, planted};
pub use ringcx_client::{self as ringcx, backoff, descriptors, sliding};
pub use ringcx_conversation::reading;
pub use ringcx_model::{self as model, charset, clock, lenient_json, lenient_time};
pub use ringcx_simulator as sim;

// In the order of the flow; what people look through (cli, http) comes last.
pub mod broken_answers;
pub mod config;
pub mod coverage;
pub mod health;
pub mod standing;

pub mod account;
pub mod discover;
pub mod fetch;

pub mod event;
pub mod read_progress;
pub mod redact;
pub mod sink;
pub mod table;

pub mod deliver;
pub mod index;
pub mod keeping;
pub mod search;

pub mod audit;
pub mod export;
pub mod metrics;
pub mod status;
pub mod verify;

pub mod daemon;
pub mod http;
pub mod telemetry;

pub mod cli;
