//! Recordings for callers that may listen.
//!
//! A player asks for a recording in many ranges. They are one entry of the access log, until
//! [`SERIES_DURATION`] after it; what is answered later is an entry again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{AccessAction, AccessSubject, ArchiveReader, ReadError, ReadFault, forbidden};
use crate::access::{Caller, Permission};
use crate::clock::Tick;
use crate::db::SegmentRow;
use crate::export::{outcome_name, recording_of};
use crate::model::RecordingReference;
use crate::recordings::{AudioStream, StoreError};

/// How long after an entry of the access log further requests for the same audio belong to it.
const SERIES_DURATION: Duration = Duration::from_secs(600);
/// The most series that are remembered. Beyond, a series may have a second entry.
const MAX_SERIES: usize = 10_000;

/// A stored recording that the caller may listen to.
#[derive(Debug)]
pub(crate) struct FoundRecording {
    segment: SegmentRow,
    /// What is stored.
    pub(crate) reference: RecordingReference,
}

/// Who is listening to what, since when.
#[derive(Debug, Default)]
pub(super) struct ListeningSeries(Mutex<BTreeMap<String, Tick>>);

impl ListeningSeries {
    /// Whether an entry of the access log covers a request now.
    fn covers(&self, series: &str, now: Tick) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(series).is_some_and(|begun| now.since(*begun) < SERIES_DURATION)
    }

    /// Begins a series, whose entry is stored.
    fn begin(&self, series: String, now: Tick) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_SERIES {
            known.retain(|_, begun| now.since(*begun) < SERIES_DURATION);
        }
        if known.len() >= MAX_SERIES {
            known.clear();
        }
        known.insert(series, now);
    }
}

impl ArchiveReader {
    /// Finds the recording of a segment. The answer may have its audio only through
    /// [`ArchiveReader::open_recording`], and its facts alone only after
    /// [`ArchiveReader::record_facts_of_recording`].
    ///
    /// # Errors
    /// If the caller does not see the segment, may not listen to it, or there is no recording.
    pub(crate) async fn find_recording(
        &self,
        caller: &Caller,
        segment_id: &str,
        account: Option<&str>,
    ) -> Result<FoundRecording, ReadError> {
        let wanted: Vec<String> = account.map(str::to_owned).into_iter().collect();
        let scope = self.scope(caller, &wanted).await?;
        let segment = self.find_segment(&scope, segment_id).await?;
        if !caller.may_listen(&segment) {
            return Err(forbidden(Permission::Listen));
        }
        let slots = self.db.segment_artifacts(std::slice::from_ref(&segment)).await?;
        let slot = slots.into_iter().next().map(|[.., recording]| recording);
        if let Some(reference) = slot.as_ref().and_then(recording_of) {
            return Ok(FoundRecording { segment, reference });
        }
        // Why there is none is a fact of the segment, as for a transcript.
        let subject = AccessSubject::Segment { sub: &segment.account.sub, id: &segment.segment_id };
        self.record(caller, AccessAction::Read, subject).await?;
        let why = slot.as_ref().map_or("not_requested", |slot| outcome_name(&slot.status)).replace('_', " ");
        Err(ReadError::not_found(format!("the recording is not stored: {why}")))
    }

    /// The audio, or a range of it. The entry in the access log is stored when this returns.
    ///
    /// # Errors
    /// If the recording store or the database does not answer.
    pub(crate) async fn open_recording(
        &self,
        caller: &Caller,
        found: &FoundRecording,
        range: Option<Range<u64>>,
    ) -> Result<AudioStream, ReadError> {
        let FoundRecording { segment, reference } = found;
        let audio = self.recordings.read(&reference.object, range).await.map_err(|error| store_failed(&error))?;
        let series = format!("{:?} {:?} {} {}", caller.reader, caller.origin, segment.key, reference.object);
        let now = self.clock.tick();
        if !self.listening.covers(&series, now) {
            let subject = AccessSubject::Segment { sub: &segment.account.sub, id: &segment.segment_id };
            self.record(caller, AccessAction::Listen, subject).await?;
            self.listening.begin(series, now);
        }
        Ok(audio)
    }

    /// Records an answer with the facts of a recording and no audio.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(crate) async fn record_facts_of_recording(
        &self,
        caller: &Caller,
        FoundRecording { segment, .. }: &FoundRecording,
    ) -> Result<(), ReadError> {
        let subject = AccessSubject::Segment { sub: &segment.account.sub, id: &segment.segment_id };
        self.record(caller, AccessAction::Read, subject).await
    }
}

fn store_failed(error: &StoreError) -> ReadError {
    tracing::warn!(%error, hint = error.hint, "failed to read a recording");
    let message = match error.is_missing() {
        true => "the audio is missing from the recording store; it is asked for again if RingCX still has it",
        false => "failed to read the recording store",
    };
    ReadError::new(ReadFault::Unavailable, message).with_hint("the log of the daemon has the reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_of_one_player_belong_to_one_entry_for_ten_minutes_and_memory_is_bounded() {
        let (series, at) = (ListeningSeries::default(), |seconds| Tick(Duration::from_secs(seconds)));
        assert!(!series.covers("ann", at(0)));
        series.begin("ann".to_owned(), at(0));
        assert!(series.covers("ann", at(599)) && !series.covers("bob", at(1)));
        assert!(!series.covers("ann", at(600)), "later requests do not prolong it");
        for nth in 0..=MAX_SERIES {
            series.begin(nth.to_string(), at(700));
        }
        assert!(series.0.lock().unwrap().len() <= MAX_SERIES);
        assert!(series.covers(&MAX_SERIES.to_string(), at(700)));
    }
}
