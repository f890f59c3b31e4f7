//! Tests of the archive, and of the code that works on it, in this process and on both databases.

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod completeness_audit;
mod concurrent_writers;
mod dashboard_queries;
mod delivery_store;
mod erasure_and_retention;
mod export_and_status;
mod full_text_search;
mod generated_answers;
mod lake_tables;
mod tamper_detection;
mod work_queue;
