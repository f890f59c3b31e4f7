//! One segment: its ids, when its parts become visible, and its artifacts. Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::content;
use super::recording_audio::RecordingAudio;
use super::rng::Rng;
use super::simulated_tenant::{SegmentPosition, SimulatedAccount, SimulatedTenant};
use crate::clock::Time;
use crate::model::Artifact;

/// The first draws of a segment, and the random number generator for the others.
pub(super) struct SegmentTiming {
    pub(super) rng: Rng,
    pub(super) end: Time,
    pub(super) appears_at: Time,
}

/// `segmentType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentKind {
    Agent,
    Queue,
    Ivr,
}

/// `channelClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelClass {
    Voice,
    Digital,
}

/// The source of a segment's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordSource {
    Generated,
    Raw(String),
    Malformed(String),
}

/// The source of an artifact's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodySource {
    /// Generated from this seed on request.
    Generated(u64),
    /// The same, sent as one JSON string.
    GeneratedJson(u64),
    /// This body.
    Fixed(Bytes),
    /// This body, which holds an error code.
    ErrorCode(Bytes),
}

/// When an artifact is available, and its bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArtifactPlan {
    pub(super) available: Option<Time>,
    pub(super) initial: BodySource,
    pub(super) change: Option<(Time, BodySource)>,
}

impl ArtifactPlan {
    /// The body's source at `now`, if the artifact is available.
    pub(super) fn source_at(&self, now: Time) -> Option<&BodySource> {
        self.available.filter(|available| *available <= now)?;
        Some(match &self.change {
            Some((then, source)) if *then <= now => source,
            _ => &self.initial,
        })
    }
}

/// A segment with all its details.
#[derive(Debug)]
pub(super) struct TenantSegment {
    pub(super) position: SegmentPosition,
    pub(super) account: Arc<SimulatedAccount>,
    pub(super) seed: u64,
    pub(super) segment_id: String,
    pub(super) dialog_id: Option<String>,
    /// The end time in the record.
    pub(super) end: Option<Time>,
    /// The end time by which a window finds it.
    pub(super) indexed_end: Time,
    pub(super) appears_at: Time,
    pub(super) transcribed_at: Option<Time>,
    pub(super) untranscribed_at: Option<Time>,
    pub(super) edited_at: Option<Time>,
    pub(super) kind: SegmentKind,
    pub(super) channel_class: ChannelClass,
    pub(super) plans: [ArtifactPlan; Artifact::ALL.len()],
    pub(super) record_source: RecordSource,
}

/// The version of a served record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordVersion {
    pub(super) is_transcribed: bool,
    pub(super) is_edited: bool,
}

/// Parts of ids that test a client's escaping.
const AWKWARD_ID_PARTS: [&str; 8] =
    ["a/b", "50%", "two words", "ünï¢ödé", "q?x=1&y#z", "%2F%20", "q\"u'o\\te", "+;📞="];

impl TenantSegment {
    /// Generates the segment at a position.
    pub(super) fn generate(
        tenant: &SimulatedTenant,
        account: &Arc<SimulatedAccount>,
        position: SegmentPosition,
        timing: SegmentTiming,
    ) -> TenantSegment {
        let SegmentTiming { mut rng, end, appears_at } = timing;
        let seed = rng.next_u64();
        let awkward = rng.random_bool(tenant.traffic.awkward_ids);
        let (number, size, index_in_dialog) = dialog_position(cell_seed(account, position), position.index);
        let mut dialog_rng = Rng::new(account.seed, &[4, u64::from(position.source), position.cell as u64, number]);
        let channel_class = if dialog_rng.random_bool(0.6) { ChannelClass::Voice } else { ChannelClass::Digital };
        let kind = match (size, index_in_dialog) {
            (size, index) if index + 1 == size => SegmentKind::Agent,
            (3, 0) => SegmentKind::Ivr,
            _ => SegmentKind::Queue,
        };
        let awkward_dialog = dialog_rng.random_bool(tenant.traffic.awkward_ids);
        let dialog_id = generate_dialog_id(&mut dialog_rng, channel_class, awkward_dialog, position);
        let segment_id = generate_segment_id(&mut rng, channel_class, awkward, end, position);
        let times = &tenant.availability;
        let transcribed = rng.random_bool(tenant.traffic.transcribed);
        let (flips, flip_delay) = (rng.random_bool(times.flip.share), rng.random_duration(times.flip.delay));
        let transcribed_at = transcribed.then(|| if flips { appears_at + flip_delay } else { appears_at });
        let (edits, edit_delay) =
            (rng.random_bool(times.metadata_edit.share), rng.random_duration(times.metadata_edit.delay));
        TenantSegment {
            position,
            account: Arc::clone(account),
            seed,
            segment_id,
            dialog_id: Some(dialog_id),
            end: (!content::has_odd_end(seed, &tenant.traffic)).then_some(end),
            indexed_end: end,
            appears_at,
            transcribed_at,
            untranscribed_at: None,
            edited_at: edits.then(|| appears_at + edit_delay),
            kind,
            channel_class,
            plans: generate_plans(tenant, &mut rng, end, transcribed_at, channel_class == ChannelClass::Voice),
            record_source: RecordSource::Generated,
        }
    }

    /// The position that an id encodes.
    pub(super) fn parse_position(id: &str, account: u32) -> Option<SegmentPosition> {
        let (rest, index) = id.rsplit_once('-')?;
        let (_, end) = rest.rsplit_once('-')?;
        let index = u64::from_str_radix(index, 16).ok()?;
        let source = (index >> 32) as u32;
        let cell = if source == 0 { end.parse::<i64>().ok()?.div_euclid(60_000) } else { 0 };
        Some(SegmentPosition { account, source, cell, index: index as u32 })
    }

    /// `hasRecording`.
    pub(super) fn has_recording(&self) -> bool {
        self.channel_class == ChannelClass::Voice
    }

    /// The version of the record that is served at `now`.
    pub(super) fn version_at(&self, now: Time) -> RecordVersion {
        let since = |at: Option<Time>| at.is_some_and(|at| at <= now);
        RecordVersion {
            is_transcribed: since(self.transcribed_at) && !since(self.untranscribed_at),
            is_edited: since(self.edited_at),
        }
    }

    /// The bytes of a body.
    pub(super) fn render_body(&self, tenant: &SimulatedTenant, artifact: Artifact, source: &BodySource) -> Bytes {
        match (artifact, source) {
            (_, BodySource::Fixed(body) | BodySource::ErrorCode(body)) => body.clone(),
            (Artifact::Recording, BodySource::Generated(seed) | BodySource::GeneratedJson(seed)) => {
                RecordingAudio::generated(*seed, &tenant.traffic).read_all()
            }
            (Artifact::Transcript, BodySource::Generated(seed) | BodySource::GeneratedJson(seed)) => {
                content::generate_transcript(*seed, self, &tenant.traffic)
            }
            (_, BodySource::Generated(seed)) => content::generate_summary(*seed, artifact, &tenant.traffic).into(),
            (_, BodySource::GeneratedJson(seed)) => {
                content::json_string(&content::generate_summary(*seed, artifact, &tenant.traffic)).into()
            }
        }
    }
}

fn generate_plans(
    tenant: &SimulatedTenant,
    rng: &mut Rng,
    end: Time,
    transcribed_at: Option<Time>,
    has_recording: bool,
) -> [ArtifactPlan; Artifact::ALL.len()] {
    let times = &tenant.availability;
    let never = rng.random_bool(times.never_transcript);
    let available = (end + rng.random_duration(times.transcript_after)).max(transcribed_at.unwrap_or(end));
    let transcript = ArtifactPlan {
        available: (!never).then_some(available),
        initial: BodySource::Generated(rng.next_u64()),
        change: None,
    };
    let mut summary = |artifact: Artifact| {
        let never = rng.random_bool(times.never_summary);
        let available = end + rng.random_duration(times.summary_after);
        let initial = generate_summary_source(tenant, rng);
        let agent = artifact == Artifact::AgentSummary;
        let edit = if agent { times.summary_edit } else { times.auto_fill };
        let (edits, delay) = (rng.random_bool(edit.share), rng.random_duration(edit.delay));
        let edits = edits && (agent || matches!(initial, BodySource::Fixed(_)));
        let text = rng.next_u64();
        ArtifactPlan {
            available: (!never).then_some(available),
            initial,
            change: edits.then(|| (available + delay, BodySource::Generated(text))),
        }
    };
    let agent = summary(Artifact::AgentSummary);
    let auto = summary(Artifact::AutoSummary);
    [transcript, agent, auto, recording_plan(has_recording, end, rng.clone().next_u64())]
}

/// A recording is available when the segment ends.
fn recording_plan(has_recording: bool, end: Time, seed: u64) -> ArtifactPlan {
    ArtifactPlan { available: has_recording.then_some(end), initial: BodySource::Generated(seed), change: None }
}

fn generate_summary_source(tenant: &SimulatedTenant, rng: &mut Rng) -> BodySource {
    let (empty, quoted) = (rng.random_bool(tenant.traffic.empty_summaries), rng.random_bool(0.5));
    let (json, text) = (rng.random_bool(tenant.traffic.json_summaries), rng.next_u64());
    match (empty, json) {
        (true, _) => BodySource::Fixed(Bytes::from_static(if quoted { b"\"\"" } else { b"" })),
        (false, true) => BodySource::GeneratedJson(text),
        (false, false) => BodySource::Generated(text),
    }
}

fn cell_seed(account: &SimulatedAccount, position: SegmentPosition) -> u64 {
    Rng::new(account.seed, &[5, u64::from(position.source), position.cell as u64]).next_u64()
}

/// Conversations have one, two and three segments in turn. Returns the number of the conversation
/// within the minute, its number of segments, and the index of this segment in it.
fn dialog_position(cell_seed: u64, index: u32) -> (u64, u32, u32) {
    let index = u64::from(index) + cell_seed % 6;
    let (group, size, index_in_dialog) = match index % 6 {
        0 => (0, 1, 0),
        at @ 1..=2 => (1, 2, at - 1),
        at => (2, 3, at - 3),
    };
    (index / 6 * 3 + group, size, index_in_dialog as u32)
}

fn generate_dialog_id(rng: &mut Rng, channel_class: ChannelClass, awkward: bool, position: SegmentPosition) -> String {
    let minute = if position.source == 0 { position.cell * 60_000 } else { i64::from(position.source) };
    let stem = match channel_class {
        ChannelClass::Voice => format!("s-v-{:016x}{:016x}", rng.next_u64(), rng.next_u64()),
        ChannelClass::Digital => format!("d-{:016x}{:08x}", rng.next_u64(), rng.next_u64() as u32),
    };
    if awkward { format!("{stem}-{}-{minute}", rng.choose(&AWKWARD_ID_PARTS)) } else { format!("{stem}-{minute}") }
}

fn generate_segment_id(
    rng: &mut Rng,
    channel_class: ChannelClass,
    awkward: bool,
    end: Time,
    position: SegmentPosition,
) -> String {
    let stem = match channel_class {
        ChannelClass::Voice => format!("p-v-{:016x}{:016x}", rng.next_u64(), rng.next_u64()),
        ChannelClass::Digital => format!("d-{:016x}{:08x}", rng.next_u64(), rng.next_u64() as u32),
    };
    let index = u64::from(position.source) << 32 | u64::from(position.index);
    let middle = if awkward { format!("-{}", rng.choose(&AWKWARD_ID_PARTS)) } else { String::new() };
    format!("{stem}{middle}-{}-{index:x}", end.0)
}
