//! Fetches one recording into the recording store.
//!
//! The bytes go from the response to the store as they arrive. The recording counts once its row is
//! committed, which happens later: an object without a row is found by the sweep.

use bytes::Bytes;

use crate::account::Account;
use crate::db::{Claim, UploadRow};
use crate::model::Endpoint;
use crate::recordings::{PartialUpload, StoreError, Upload};
use crate::ringcx::rate_limit::Permit;
use crate::ringcx::{self, ApiError, FetchedArtifact, RecordingRequest, RecordingWriter};

pub(super) async fn fetch(
    account: &Account,
    claim: &Claim,
    dialog: &str,
    permit: Permit,
) -> Result<FetchedArtifact, ApiError> {
    let target = &account.recordings;
    let (_turn, permit) = match target.store.try_acquire_turn() {
        Some(turn) => (Some(turn), permit),
        None => {
            // Another request can use its slot meanwhile.
            drop(permit);
            (target.store.acquire_turn().await, account.pacer.acquire().await)
        }
    };
    // First the store: where it cannot be written to, no request is spent.
    let upload = target.store.begin().await.map_err(store_failed)?;
    let mut writer = StoreWriter { account, upload, partial: None };
    let request = RecordingRequest {
        account: &account.id,
        dialog,
        segment: &claim.segment_id,
        accept: target.accept,
        max_bytes: target.max_bytes,
    };
    let fetched =
        ringcx::fetch_recording(&account.api, &account.login, &account.pacer, permit, request, &mut writer).await;
    let stored = match fetched {
        Ok(header) => writer.upload.finish(header).await.map_err(store_failed),
        Err(error) => Err(error),
    };
    writer.end(stored.is_ok()).await;
    stored.map(FetchedArtifact::Recording)
}

struct StoreWriter<'a> {
    account: &'a Account,
    upload: Upload,
    partial: Option<PartialUpload>,
}

impl RecordingWriter for StoreWriter<'_> {
    async fn write(&mut self, chunk: Bytes) -> Result<(), ApiError> {
        let Some(partial) = self.upload.write(&chunk).await.map_err(store_failed)? else { return Ok(()) };
        let account = self.account;
        let row = UploadRow {
            object: partial.name.clone(),
            upload_id: partial.upload_id.clone(),
            owner: account.recordings.owner.clone(),
            started: account.clock.now(),
        };
        self.partial = Some(partial);
        account.db.record_upload(&row).await.map_err(|error| {
            let why = format!("the upload could not be recorded: {error}");
            ApiError::store_failed(Endpoint::Recording, &why)
        })
    }
}

impl StoreWriter<'_> {
    /// Leaves nothing of an upload that failed. What cannot be discarded now is left to the sweep.
    async fn end(self, is_stored: bool) {
        let is_ended = is_stored || self.upload.discard().await.inspect_err(log_rest).is_ok();
        let Some(partial) = self.partial.filter(|_| is_ended) else { return };
        if let Err(error) = self.account.db.forget_upload(&partial.name).await {
            tracing::debug!(%error, "failed to record the end of an upload; the sweep does it");
        }
    }
}

fn log_rest(error: &StoreError) {
    tracing::debug!(%error, "failed to discard an upload; the sweep does it");
}

fn store_failed(error: StoreError) -> ApiError {
    let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    ApiError::store_failed(Endpoint::Recording, &format!("{}{hint}", error.message))
}
