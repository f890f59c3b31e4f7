//! `verify`: reads the archive again and finds whatever was altered.

use super::{Context, UsageError};

/// Options of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Does it.
///
/// # Errors
/// Always, yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<u8> {
    Err(UsageError("`verify` is not there yet".to_owned()).into())
}
