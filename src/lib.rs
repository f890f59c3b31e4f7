//! Gets every transcript and every summary out of RingCX.
//!
//! Data flows one way. `discover` reads interaction metadata window by window and queues what there is to fetch;
//! `fetch` drains that queue into the archive; `deliver` hands what is new to other systems. They never call one
//! another: they meet in the database. The daemon alone spawns, loops, sleeps and handles signals.

// In the order of the flow; what people look through (cli, http) comes last.
pub mod backoff;
pub mod broken_answers;
pub mod charset;
pub mod clock;
pub mod config;
pub mod coverage;
pub mod health;
pub mod lenient_json;
pub mod lenient_time;
pub mod model;
pub mod planted;
pub mod ringcx;
pub mod sliding;
pub mod standing;

pub mod account;
pub mod db;
pub mod discover;
pub mod fetch;

pub mod event;
pub mod read_progress;
pub mod redact;
pub mod sink;
pub mod table;

pub mod deliver;
pub mod descriptors;
pub mod index;
pub mod keeping;
pub mod proof;
pub mod search;

pub mod audit;
pub mod export;
pub mod metrics;
pub mod reading;
pub mod status;
pub mod verify;

pub mod daemon;
pub mod http;
pub mod telemetry;

pub mod cli;

pub mod sim;
