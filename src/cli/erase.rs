//! `erase`: lawful erasure, by segment, dialog or contact.

use super::{Context, UsageError};

/// Options of `erase`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Does it.
///
/// # Errors
/// Always, yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<u8> {
    Err(UsageError("`erase` is not there yet".to_owned()).into())
}
