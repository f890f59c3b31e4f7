//! Extracts all transcripts and summaries from RingCX.
//!
//! Data flows one way. `discover` reads interaction metadata, window by window, and queues items.
//! `fetch` fetches the queued items into the archive. `deliver` sends new artifact versions to
//! other systems. These stages never call one another: they share only the database. Only the
//! daemon spawns tasks, loops, sleeps and handles signals.

pub use ringcx_archive::{self as db, failpoint, hash_chain as proof};
pub use ringcx_client::{self as ringcx, backoff, file_descriptors};
pub use ringcx_conversation::render;
pub use ringcx_model::{self as model, charset, clock, lenient_json, lenient_time};
pub use ringcx_pipeline::{self as pipeline, circuit_breaker, coverage};
pub use ringcx_simulator as sim;

// In the order of the data flow; the interfaces for people (cli, http) come last.
pub(crate) mod broken_answers;
pub(crate) mod build_info;
pub mod config;
pub mod health;

pub mod account;
pub(crate) mod discover;
pub mod fetch;

pub mod event;
pub(crate) mod folder_sync;
pub(crate) mod parquet_writer;
pub(crate) mod read_progress;
pub mod recordings;
pub mod redact;
pub mod sink;

pub(crate) mod access;

pub mod deliver;
pub mod erasure;
pub mod search;
pub mod search_indexer;
pub mod segment_filter;

pub(crate) mod archive_reader;
pub mod audit;
pub(crate) mod error;
pub mod export;
pub(crate) mod manifest_export;
pub mod metrics;
pub(crate) mod operator_actions;
pub(crate) mod report;
pub mod status;
pub mod verify;

pub mod daemon;
pub(crate) mod http;
pub(crate) mod mcp;
pub(crate) mod telemetry;

pub mod cli;
