//! End-to-end tests: the real binary against the simulator. They are one program, so that all share one thread pool and one
//! Postgres server. Tests that need the machine for themselves are programs of their own.

#[path = "../support/mod.rs"]
mod support;

mod access_control;
mod answer_decoding;
mod api;
mod api_faults;
mod backup_restore;
mod certificates;
mod command_line;
mod credential_rotation;
mod database_outage;
mod dns_outage;
mod earlier_archive;
mod erasure_commands;
mod freshness;
mod full_disk;
mod hostile_api;
mod hostile_webhook_receiver;
mod http_hardening;
mod manifest_evidence;
mod permissions;
mod pipeline;
mod process_lifecycle;
mod read_only_storage;
mod recipes;
mod recording_access;
mod recordings;
mod search_pages;
mod secret_leaks;
mod sink_delivery;
mod summary_refresh;
mod unexpected_answers;
mod upgrade_rollback;
