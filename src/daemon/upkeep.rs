//! What is done now and then: retention, daily manifests.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::manifests;
use super::shared::Shared;

/// Goes on until `stop`.
///
/// # Errors
/// Where waiting will not help.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    manifests::run(shared, stop).await
}
