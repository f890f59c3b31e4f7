//! Sinks: systems that are told of what is stored. One file a kind; none knows the database or when to try again.

pub mod jsonl;
pub mod object_store;
pub mod webhook;
