//! `search`: full text over transcripts, summaries and agents' notes.

use super::{Context, UsageError};

/// Options of `search`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Does it.
///
/// # Errors
/// Always, yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<u8> {
    Err(UsageError("`search` is not there yet".to_owned()).into())
}
