//! When and which of an account's items are fetched. Pure: time and chance are passed in.

mod availability_estimator;
pub mod fetch_machine;
mod in_flight;
mod not_found_throttle;
pub mod retry_policy;
mod schedule;
