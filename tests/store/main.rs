//! Tests of the archive and of what works on it, in this process, on both databases.

#[path = "../support/mod.rs"]
mod support;

mod board;
mod delivery_store;
mod generated_answers;
mod interplay;
mod keeping;
mod ledger;
mod looking;
mod proof;
mod search;
mod store;
