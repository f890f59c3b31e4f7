//! `hold`: legal holds, which keep what retention or erasure would take.

use super::{Context, UsageError};

/// Options of `hold`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Does it.
///
/// # Errors
/// Always, yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<u8> {
    Err(UsageError("`hold` is not there yet".to_owned()).into())
}
