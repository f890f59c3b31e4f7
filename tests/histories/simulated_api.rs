//! A simulated RingCX: what it announces and answers at which time. Pure; the true time is an argument.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::{Artifact, QuarantinedRecord, SegmentRecord, Window};
use ringcx_extractor::ringcx::{FetchedArtifact, ResponseBody};

/// When every history begins: an hour before 2026-03-01T00:00:00Z, so that some cross midnight.
pub const START: Time = Time::from_secs(1_772_319_600);
/// The latest change or announcement of a segment after its end. Shorter than the recheck's delay by the largest clock error.
const MAX_CHANGE_DELAY_SECONDS: i64 = 18 * 60;

/// One element of a metadata answer.
#[derive(Debug, Clone)]
pub enum MetadataElement {
    Record(SegmentRecord),
    Unreadable(QuarantinedRecord),
}

/// The versions of an artifact over time.
#[derive(Debug, Clone)]
pub enum ArtifactTimeline {
    /// 404 for good.
    Never,
    /// Each text by the time from which it is served; `None` is an empty answer.
    Versions(BTreeMap<Time, Option<String>>),
}

#[derive(Debug, Clone)]
pub struct SimulatedSegment {
    pub id: String,
    pub end: Time,
    announced_from: Time,
    /// When `hasTranscript` becomes true.
    transcribed_from: Option<Time>,
    /// Until then its metadata element is unreadable.
    readable_from: Time,
    /// When another field of its metadata changes.
    edits: Vec<Time>,
    artifacts: [ArtifactTimeline; 3],
}

#[derive(Debug)]
pub struct SimulatedApi {
    pub segments: Vec<SimulatedSegment>,
    /// Whether a window contains a segment that ends exactly at its begin, and at its end.
    inclusive_edges: (bool, bool),
}

/// A random time within this range of seconds after another, in milliseconds.
fn random_time_after(moment: Time, rng: &mut StdRng, seconds: std::ops::Range<i64>) -> Time {
    moment.plus_millis(rng.random_range(seconds.start * 1000..seconds.end * 1000))
}

impl SimulatedApi {
    /// A few segments that end between half an hour before the start and `traffic_seconds` after it.
    pub fn new(rng: &mut StdRng, traffic_seconds: i64) -> SimulatedApi {
        let count = rng.random_range(3..14);
        let segments = (0..count).map(|number| SimulatedSegment::new(number, rng, traffic_seconds)).collect();
        SimulatedApi { segments, inclusive_edges: (rng.random(), rng.random()) }
    }

    /// The answer to a metadata request that arrives at `now`.
    pub fn metadata_answer(&self, window: Window, now: Time) -> Vec<(String, MetadataElement)> {
        let (first, last) = self.inclusive_edges;
        let within = |end: Time| {
            let begun = if first { window.begin() <= end } else { window.begin() < end };
            begun && if last { end <= window.end() } else { end < window.end() }
        };
        let visible = self.segments.iter().filter(|segment| segment.announced_from <= now && within(segment.end));
        visible.map(|segment| (segment.id.clone(), segment.element(now))).collect()
    }

    pub fn segment(&self, id: &str) -> Option<&SimulatedSegment> {
        self.segments.iter().find(|segment| segment.id == id)
    }

    /// The answer to an artifact request that arrives at `now`; `None` is 404.
    pub fn artifact_answer(&self, id: &str, artifact: Artifact, now: Time) -> Option<FetchedArtifact> {
        let segment = self.segment(id)?;
        let timeline = segment.artifacts.get(usize::try_from(artifact.code()).ok()?)?;
        match timeline {
            ArtifactTimeline::Never => None,
            ArtifactTimeline::Versions(texts) => texts.range(..=now).next_back().map(|(_, text)| match text {
                Some(text) => FetchedArtifact::Body(ResponseBody {
                    bytes: Bytes::copy_from_slice(text.as_bytes()),
                    charset: None,
                }),
                None => FetchedArtifact::Empty,
            }),
        }
    }
}

impl SimulatedSegment {
    fn new(number: usize, rng: &mut StdRng, traffic_seconds: i64) -> SimulatedSegment {
        let end = random_time_after(START, rng, -1800..traffic_seconds);
        // Sometimes exactly on a second, where windows meet.
        let end = if rng.random_ratio(1, 3) { end.floor_to_second() } else { end };
        let late = rng.random_ratio(1, 4);
        let announced_from = random_time_after(end, rng, if late { 300..MAX_CHANGE_DELAY_SECONDS } else { 0..240 });
        let transcribed_from = rng.random_ratio(4, 5).then(|| random_time_after(end, rng, 0..MAX_CHANGE_DELAY_SECONDS));
        // Half of the segments with a transcript have the flag from the beginning.
        let transcribed_from = if rng.random() { transcribed_from.map(|_| end) } else { transcribed_from };
        let readable_from =
            if rng.random_ratio(1, 8) { random_time_after(end, rng, 0..MAX_CHANGE_DELAY_SECONDS) } else { end };
        let edits =
            (0..rng.random_range(0..3)).map(|_| random_time_after(end, rng, 0..MAX_CHANGE_DELAY_SECONDS)).collect();
        let id = format!("s{number}");
        let artifacts = Artifact::TEXTS.map(|artifact| ArtifactTimeline::new(&id, artifact, end, rng));
        SimulatedSegment { id, end, announced_from, transcribed_from, readable_from, edits, artifacts }
    }

    pub fn element(&self, now: Time) -> MetadataElement {
        let edits = self.edits.iter().filter(|edit| **edit <= now).count();
        let has_transcript = self.transcribed_from.is_some_and(|transcribed_from| transcribed_from <= now);
        let id = &self.id;
        if now < self.readable_from {
            let raw = format!(r#"{{"segmentId":["{id}"],"edits":{edits}}}"#);
            return MetadataElement::Unreadable(QuarantinedRecord {
                segment_id: None,
                reason: "segmentId is no text".to_owned(),
                raw,
            });
        }
        MetadataElement::Record(SegmentRecord {
            segment_id: id.clone(),
            dialog_id: Some(format!("d-{id}")),
            end: Some(self.end),
            has_transcript,
            is_agent: true,
            has_recording: false,
            raw: format!(r#"{{"segmentId":"{id}","hasTranscript":{has_transcript},"edits":{edits}}}"#),
        })
    }

    pub fn is_never_available(&self, artifact: Artifact) -> bool {
        matches!(
            self.artifacts.get(usize::try_from(artifact.code()).unwrap_or(9)),
            Some(ArtifactTimeline::Never) | None
        )
    }
}

impl ArtifactTimeline {
    fn new(id: &str, artifact: Artifact, end: Time, rng: &mut StdRng) -> ArtifactTimeline {
        if rng.random_ratio(1, 20) {
            return ArtifactTimeline::Never;
        }
        let mut texts = BTreeMap::new();
        let empty = artifact != Artifact::Transcript && rng.random_ratio(1, 4);
        let first = format!("{artifact} of {id}, as first written");
        texts.insert(random_time_after(end, rng, 30..2400), (!empty).then_some(first));
        if artifact != Artifact::Transcript && rng.random_ratio(1, 3) {
            texts
                .insert(random_time_after(end, rng, 2400..4000), Some(format!("{artifact} of {id}, as written later")));
        }
        ArtifactTimeline::Versions(texts)
    }
}
