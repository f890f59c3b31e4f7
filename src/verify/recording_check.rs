//! Checks recordings: their rows against the feed, and their objects against the hashes in their rows.
//!
//! The feed's chain seals the hash and the size of each recording, so an object that was altered or
//! exchanged is found by reading it.

use futures_util::StreamExt as _;
use ring::digest::{Context, SHA256};

use super::VerifyRequest;
use super::verify_report::{CheckedRecordings, IntegrityProblem, IntegrityProblemKind, ProblemList};
use crate::clock::Time;
use crate::db::{AccountChain, AccountKey, Db, DbError, RecordingRow};
use crate::recordings::{RecordingStore, StoreError};

/// Recordings that are read from the database at a time.
const PAGE: usize = 200;
const MS_PER_DAY: i64 = 86_400_000;

/// How recordings are checked in their store.
#[derive(Debug, Clone)]
pub struct RecordingCheck {
    /// The store.
    pub store: RecordingStore,
    /// The share of recordings that are read, in per cent. Another day, others are read.
    pub sample_percent: u8,
}

pub(super) async fn check(
    db: &Db,
    chains: &[AccountChain],
    request: &VerifyRequest,
    problems: &mut ProblemList,
    progress: &mut impl FnMut(u64),
) -> Result<CheckedRecordings, DbError> {
    let mut checked = CheckedRecordings { sample_percent: 100, ..CheckedRecordings::default() };
    let inconsistent = db.count_inconsistent_recordings(request.account).await?;
    if inconsistent > 0 {
        let what = format!("{inconsistent} recordings do not agree with their entries in the feed");
        problems.add(IntegrityProblem::new(IntegrityProblemKind::Recording, "", what));
    }
    let sub = |key: AccountKey| chains.iter().find(|chain| chain.account == key).map_or("", |chain| &*chain.id.sub);
    let mut after = None;
    loop {
        let page = db.recording_page(request.account, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(checked) };
        after = Some((last.item, last.version));
        for row in &page {
            checked.total += 1;
            if let Some(check) = &request.recordings {
                checked.sample_percent = check.sample_percent;
                if is_sampled(row, check.sample_percent, request.now) {
                    checked.read += 1;
                    if let Some(what) = check_object(&check.store, row).await
                        && is_still_stored(db, row).await?
                    {
                        problems.add(
                            IntegrityProblem::new(IntegrityProblemKind::Recording, sub(row.account), what)
                                .recording(db.segment_id_of(row.item.segment()).await?, row.version),
                        );
                    }
                }
            }
            progress(1);
        }
    }
}

/// Whether a recording is in today's sample.
fn is_sampled(row: &RecordingRow, percent: u8, now: Time) -> bool {
    let day = now.0.div_euclid(MS_PER_DAY).cast_unsigned();
    let start: u64 = row.sha256.iter().take(4).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    (start.wrapping_add(day.wrapping_mul(37))) % 100 < u64::from(percent)
}

/// A recording may have been erased while its object was read.
async fn is_still_stored(db: &Db, row: &RecordingRow) -> Result<bool, DbError> {
    Ok(!db.named_objects(std::slice::from_ref(&row.object)).await?.is_empty())
}

/// Reads an object and compares it with its row; returns what is wrong with it.
async fn check_object(store: &RecordingStore, row: &RecordingRow) -> Option<String> {
    match hash_object(store, &row.object).await {
        Err(error) if error.is_missing() => Some("the recording is not in the recording store".to_owned()),
        Err(error) => Some(format!("the recording cannot be read: {error}")),
        Ok((size, _)) if size != row.size => Some("the recording does not match its stored size".to_owned()),
        Ok((_, hash)) if hash != row.sha256 => Some("the recording does not match its stored SHA-256".to_owned()),
        Ok(_) => None,
    }
}

async fn hash_object(store: &RecordingStore, object: &str) -> Result<(u64, Vec<u8>), StoreError> {
    let (mut digest, mut size) = (Context::new(&SHA256), 0);
    let mut chunks = store.read(object, None).await?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        digest.update(&chunk);
        size += chunk.len() as u64;
    }
    Ok((size, digest.finish().as_ref().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Item;
    use crate::model::AudioType;

    #[test]
    fn a_sample_has_its_share_and_another_day_reads_others() {
        let row = |number: u32| RecordingRow {
            account: AccountKey(1),
            item: Item(7),
            version: 1,
            object: String::new(),
            sha256: number.wrapping_mul(2_654_435_761).to_be_bytes().to_vec(),
            size: 1,
            audio: AudioType::Wav,
            duration_ms: None,
            channels: None,
            stored: Time(0),
        };
        let read = |percent, day: i64| -> Vec<u32> {
            (0..1000).filter(|number| is_sampled(&row(*number), percent, Time(day * MS_PER_DAY))).collect()
        };
        assert!((70..130).contains(&read(10, 5).len()), "{}", read(10, 5).len());
        assert_ne!(read(10, 5), read(10, 6));
        assert_eq!((read(100, 5).len(), read(0, 5).len()), (1000, 0));
    }
}
