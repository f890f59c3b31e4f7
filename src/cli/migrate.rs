//! `migrate`: brings the database up to date, or creates it.

use super::{Context, terminal};
use crate::db::Access;

/// Options of `migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Applies what is missing. Nothing changes where one migration fails.
///
/// # Errors
/// Where the database cannot be opened, is from a newer version, or a migration fails.
pub async fn run(_args: Args, context: &Context) -> anyhow::Result<u8> {
    // Opened as it is only where nothing is missing.
    let (db, done) = match context.open(Access::Existing).await {
        Ok(db) => (db, "the database is up to date"),
        Err(_) => (context.open(Access::Own).await?, "brought the database up to date"),
    };
    db.close().await;
    terminal::print(&format!("{done}\n"))?;
    Ok(0)
}
