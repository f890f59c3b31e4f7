//! A made-up RingCX: what it announces and what it answers, at which moment. Pure; the true time is an argument.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::{Artifact, AsideRecord, SegmentRecord, Window};
use ringcx_extractor::ringcx::{Body, Fetched};

/// When every history begins: 2026-03-01T00:00:00Z less an hour, so that some cross a day.
pub const START: Time = Time::from_secs(1_772_319_600);
/// Whatever the world changes about a segment, and whatever comes late, does so within that long after its end: less than
/// the delay of the recheck, by as much as clocks may be wrong.
const SETTLED: i64 = 18 * 60;

/// One element of a metadata answer.
#[derive(Debug, Clone)]
pub enum Element {
    Record(SegmentRecord),
    Aside(AsideRecord),
}

/// What becomes of one artifact.
#[derive(Debug, Clone)]
pub enum Thing {
    /// 404 for ever.
    Never,
    /// There from a moment on; later texts replace earlier ones, `None` is an empty answer.
    From(BTreeMap<Time, Option<String>>),
}

#[derive(Debug, Clone)]
pub struct Segment {
    pub id: String,
    pub end: Time,
    /// From when on metadata announces it.
    appears: Time,
    /// From when on `hasTranscript` is true.
    turns: Option<Time>,
    /// Before, its element cannot be understood.
    understood: Time,
    /// When something else in its metadata changes.
    edits: Vec<Time>,
    things: [Thing; 3],
}

#[derive(Debug)]
pub struct World {
    pub segments: Vec<Segment>,
    /// Whether a segment that ends on a window's first or last moment belongs to it.
    edges: (bool, bool),
}

/// A moment so many seconds after another, with a fraction.
fn after(moment: Time, chance: &mut StdRng, seconds: std::ops::Range<i64>) -> Time {
    moment.plus_millis(chance.random_range(seconds.start * 1000..seconds.end * 1000))
}

impl World {
    /// Some segments that end between half an hour before the start and `lasts` after it.
    pub fn new(chance: &mut StdRng, lasts: i64) -> World {
        let count = chance.random_range(3..14);
        let segments = (0..count).map(|number| Segment::new(number, chance, lasts)).collect();
        World { segments, edges: (chance.random(), chance.random()) }
    }

    /// What a metadata request that arrives at `now` is answered.
    pub fn announces(&self, window: Window, now: Time) -> Vec<(String, Element)> {
        let (first, last) = self.edges;
        let within = |end: Time| {
            let begun = if first { window.begin() <= end } else { window.begin() < end };
            begun && if last { end <= window.end() } else { end < window.end() }
        };
        let visible = self.segments.iter().filter(|segment| segment.appears <= now && within(segment.end));
        visible.map(|segment| (segment.id.clone(), segment.element(now))).collect()
    }

    pub fn segment(&self, id: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.id == id)
    }

    /// What a request for an artifact that arrives at `now` is answered; `None` for 404.
    pub fn answers(&self, id: &str, artifact: Artifact, now: Time) -> Option<Fetched> {
        let segment = self.segment(id)?;
        let thing = segment.things.get(usize::try_from(artifact.code()).ok()?)?;
        match thing {
            Thing::Never => None,
            Thing::From(texts) => texts.range(..=now).next_back().map(|(_, text)| match text {
                Some(text) => Fetched::Body(Body { bytes: Bytes::copy_from_slice(text.as_bytes()), charset: None }),
                None => Fetched::Empty,
            }),
        }
    }
}

impl Segment {
    fn new(number: usize, chance: &mut StdRng, lasts: i64) -> Segment {
        let end = after(START, chance, -1800..lasts);
        // Now and then exactly on a second, where windows meet.
        let end = if chance.random_ratio(1, 3) { end.floor_to_second() } else { end };
        let late = chance.random_ratio(1, 4);
        let appears = after(end, chance, if late { 300..SETTLED } else { 0..240 });
        let turns = chance.random_ratio(4, 5).then(|| after(end, chance, 0..SETTLED));
        // Half of those that will have a transcript say so from the beginning.
        let turns = if chance.random() { turns.map(|_| end) } else { turns };
        let understood = if chance.random_ratio(1, 8) { after(end, chance, 0..SETTLED) } else { end };
        let edits = (0..chance.random_range(0..3)).map(|_| after(end, chance, 0..SETTLED)).collect();
        let id = format!("s{number}");
        let things = Artifact::ALL.map(|artifact| Thing::new(&id, artifact, end, chance));
        Segment { id, end, appears, turns, understood, edits, things }
    }

    pub fn element(&self, now: Time) -> Element {
        let edits = self.edits.iter().filter(|edit| **edit <= now).count();
        let has_transcript = self.turns.is_some_and(|turns| turns <= now);
        let id = &self.id;
        if now < self.understood {
            let raw = format!(r#"{{"segmentId":["{id}"],"edits":{edits}}}"#);
            return Element::Aside(AsideRecord { segment_id: None, reason: "segmentId is no text".to_owned(), raw });
        }
        Element::Record(SegmentRecord {
            segment_id: id.clone(),
            dialog_id: Some(format!("d-{id}")),
            end: Some(self.end),
            has_transcript,
            is_agent: true,
            raw: format!(r#"{{"segmentId":"{id}","hasTranscript":{has_transcript},"edits":{edits}}}"#),
        })
    }

    pub fn never(&self, artifact: Artifact) -> bool {
        matches!(self.things.get(usize::try_from(artifact.code()).unwrap_or(9)), Some(Thing::Never) | None)
    }
}

impl Thing {
    fn new(id: &str, artifact: Artifact, end: Time, chance: &mut StdRng) -> Thing {
        if chance.random_ratio(1, 20) {
            return Thing::Never;
        }
        let mut texts = BTreeMap::new();
        let empty = artifact != Artifact::Transcript && chance.random_ratio(1, 4);
        let first = format!("{artifact} of {id}, as first written");
        texts.insert(after(end, chance, 30..2400), (!empty).then_some(first));
        if artifact != Artifact::Transcript && chance.random_ratio(1, 3) {
            texts.insert(after(end, chance, 2400..4000), Some(format!("{artifact} of {id}, as written later")));
        }
        Thing::From(texts)
    }
}
