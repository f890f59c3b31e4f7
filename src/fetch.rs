//! Fetches due items from the API into the archive.
//!
//! Requests `ringcx` and writes to `db` through the batch writer. An attempt takes a claim, sends a
//! request, and derives the item's outcome. The artifact and the end of the claim are committed
//! together: a crash may repeat a fetch, but never loses one. `pipeline::fetch`
//! decides when an attempt is made.

pub(crate) mod batch_writer;
mod recording_fetch;

use crate::account::Account;
use crate::backoff::Fault;
use crate::db::Claim;
use crate::model::Artifact;
use crate::ringcx::rate_limit::Permit;
use crate::ringcx::{self, ApiError, ErrorCause, FetchedArtifact};

/// Requests one item.
///
/// # Errors
/// If the API answers with an error, or not at all.
pub(crate) async fn fetch_item(account: &Account, claim: &Claim, permit: Permit) -> Result<FetchedArtifact, ApiError> {
    send_request(account, claim, permit).await.map_err(ApiError::into_item_error)
}

async fn send_request(account: &Account, claim: &Claim, permit: Permit) -> Result<FetchedArtifact, ApiError> {
    let Account { api, login, pacer, id, .. } = account;
    match (claim.artifact, &claim.dialog_id) {
        (Artifact::Transcript, Some(dialog)) => {
            ringcx::fetch_transcript(api, login, pacer, permit, id, dialog, &claim.segment_id).await
        }
        (Artifact::Transcript, None) => Err(ApiError::new(
            Fault::Permanent,
            claim.artifact.into(),
            ErrorCause::Settings,
            "the segment's metadata names no dialog, so its transcript cannot be requested",
        )),
        (Artifact::Recording, Some(dialog)) => recording_fetch::fetch(account, claim, dialog, permit).await,
        (Artifact::Recording, None) => Err(ApiError::new(
            Fault::Permanent,
            claim.artifact.into(),
            ErrorCause::Settings,
            "the segment's metadata names no dialog, so its recording cannot be requested",
        )),
        (which @ (Artifact::AgentSummary | Artifact::AutoSummary), _) => {
            ringcx::fetch_summary(api, login, pacer, permit, id, &claim.segment_id, which).await
        }
    }
}
