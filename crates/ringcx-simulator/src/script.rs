//! Segments that a test specifies explicitly. Pure data.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::rng::Rng;
use super::simulated_tenant::{SegmentPosition, SimulatedAccount, SimulatedTenant};
use super::tenant_segment::{
    ArtifactPlan, BodySource, ChannelClass, RecordSource, SegmentKind, SegmentTiming, TenantSegment,
};
use crate::clock::Time;
use crate::model::AccountId;

/// Many generated segments that end within a short time, so that one answer holds them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// The earliest end of a segment.
    pub from: Time,
    /// The longest time from there to the end of a segment.
    pub width: Duration,
    /// The number of segments.
    pub count: u32,
}

/// An artifact of a scripted segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactScript {
    /// Generated, and available at the segment's end.
    Generated,
    /// This body, available from this time on.
    Body(Time, Bytes),
    /// Each body from its time on; the second replaces the first.
    Changes((Time, Bytes), (Time, Bytes)),
    /// A 200 with this body, which sets `errorCode`, until another body replaces it, if ever.
    Fails {
        /// The initial body.
        body: Bytes,
        /// The later body and its time.
        then: Option<(Time, Bytes)>,
    },
    /// Never available.
    Never,
}

/// A scripted segment; build on [`SegmentScript::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentScript {
    /// Its account.
    pub account: AccountId,
    /// Its id; `None` generates one.
    pub segment_id: Option<String>,
    /// The id of its conversation; `None` generates one.
    pub dialog_id: Option<String>,
    /// Whether the record omits `dialogId`.
    pub without_dialog: bool,
    /// The end time by which a window finds it.
    pub end: Time,
    /// Whether the record omits `segmentEndTimeMs`.
    pub without_end: bool,
    /// When it appears in metadata.
    pub appears: Time,
    /// When `hasTranscript` becomes true; `None` for never.
    pub transcribed: Option<Time>,
    /// When `hasTranscript` becomes false again.
    pub untranscribed: Option<Time>,
    /// When notes and disposition change.
    pub edited: Option<Time>,
    /// Whether `segmentType` is `AGENT`.
    pub agent: bool,
    /// The transcript.
    pub transcript: ArtifactScript,
    /// The agent's summary.
    pub agent_summary: ArtifactScript,
    /// RingCX's summary.
    pub auto_summary: ArtifactScript,
    /// The recording. Other than generated, the segment is a telephone call, and has one.
    pub recording: ArtifactScript,
    /// A valid record that is served instead of the generated one. It must agree with the other
    /// fields.
    pub raw_record: Option<String>,
    /// An invalid record that is always served instead. The segment is not part of the expected
    /// archive.
    pub malformed_record: Option<String>,
}

impl SegmentScript {
    /// A transcribed segment of an agent; its record and artifacts are available at its end.
    pub fn new(account: &AccountId, end: Time) -> SegmentScript {
        SegmentScript {
            account: account.clone(),
            segment_id: None,
            dialog_id: None,
            without_dialog: false,
            end,
            without_end: false,
            appears: end,
            transcribed: Some(end),
            untranscribed: None,
            edited: None,
            agent: true,
            transcript: ArtifactScript::Generated,
            agent_summary: ArtifactScript::Generated,
            auto_summary: ArtifactScript::Generated,
            recording: ArtifactScript::Generated,
            raw_record: None,
            malformed_record: None,
        }
    }

    pub(super) fn into_segment(
        self,
        tenant: &SimulatedTenant,
        account: &Arc<SimulatedAccount>,
        position: SegmentPosition,
    ) -> TenantSegment {
        let rng = Rng::new(account.seed, &[3, u64::from(position.index)]);
        let generated = TenantSegment::generate(
            tenant,
            account,
            position,
            SegmentTiming { rng, end: self.end, appears_at: self.appears },
        );
        let [transcript, agent, auto, recording] = generated.plans;
        let is_recorded = self.recording != ArtifactScript::Generated;
        let channel_class = if is_recorded { ChannelClass::Voice } else { generated.channel_class };
        let at_once = |plan: ArtifactPlan| ArtifactPlan { available: Some(self.end), change: None, ..plan };
        TenantSegment {
            segment_id: self.segment_id.unwrap_or(generated.segment_id),
            dialog_id: if self.without_dialog { None } else { self.dialog_id.or(generated.dialog_id) },
            end: (!self.without_end).then_some(self.end),
            transcribed_at: self.transcribed,
            untranscribed_at: self.untranscribed,
            edited_at: self.edited,
            kind: if self.agent { SegmentKind::Agent } else { SegmentKind::Queue },
            plans: [
                self.transcript.into_plan(at_once(transcript)),
                self.agent_summary.into_plan(at_once(agent)),
                self.auto_summary.into_plan(at_once(auto)),
                self.recording.into_plan(recording),
            ],
            channel_class,
            record_source: match (self.malformed_record, self.raw_record) {
                (Some(text), _) => RecordSource::Malformed(text),
                (None, Some(text)) => RecordSource::Raw(text),
                (None, None) => RecordSource::Generated,
            },
            ..generated
        }
    }
}

impl ArtifactScript {
    fn into_plan(self, generated: ArtifactPlan) -> ArtifactPlan {
        match self {
            ArtifactScript::Generated => generated,
            ArtifactScript::Body(at, body) => {
                ArtifactPlan { available: Some(at), initial: BodySource::Fixed(body), change: None }
            }
            ArtifactScript::Changes((at, first), (then, second)) => ArtifactPlan {
                available: Some(at),
                initial: BodySource::Fixed(first),
                change: Some((then, BodySource::Fixed(second))),
            },
            ArtifactScript::Fails { body, then } => ArtifactPlan {
                available: generated.available,
                initial: BodySource::ErrorCode(body),
                change: then.map(|(at, body)| (at, BodySource::Fixed(body))),
            },
            ArtifactScript::Never => ArtifactPlan { available: None, ..generated },
        }
    }
}
