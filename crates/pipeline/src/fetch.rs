//! When and which of an account's items are fetched. Pure: time and chance are passed in.

pub mod availability_estimator;
pub mod in_flight;
pub mod not_found_throttle;
pub mod retry_policy;
pub mod schedule;
