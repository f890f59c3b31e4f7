//! `deliver`: what waits for each sink, what failed, and sending again.

use super::{Context, UsageError};

/// Options of `deliver`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Does it.
///
/// # Errors
/// Always, yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<u8> {
    Err(UsageError("`deliver` is not there yet".to_owned()).into())
}
