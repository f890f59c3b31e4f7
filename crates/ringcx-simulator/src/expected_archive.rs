//! The expected archive: what a client must hold in the end. It is computed from the tenant, not
//! from what was fetched.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::export_comparison::truncate_depth;
use super::options::WindowEdges;
use super::request_handler::record_text;
use super::simulated_tenant::SegmentPosition;
use super::simulator_state::{Announcement, SimulatorState};
use super::tenant_segment::{BodySource, RecordSource, SegmentKind, TenantSegment};
use crate::clock::Time;
use crate::lenient_json;
use crate::model::{AccountId, Artifact, TimeRange};

/// What a client must hold of one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedArtifact {
    /// This body, byte for byte.
    Body(Bytes),
    /// The outcome that the summary is empty.
    NotPopulated,
    /// It is not available yet.
    NotYet,
    /// It never becomes available.
    NeverAvailable,
    /// A transcript where `hasTranscript` was never true.
    NotRequested,
}

/// What a client must hold of one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedSegment {
    /// Its account.
    pub account: AccountId,
    /// Its id.
    pub segment_id: String,
    /// The id of its conversation.
    pub dialog_id: Option<String>,
    /// The end time in its record.
    pub end: Option<Time>,
    /// Whether `hasTranscript` was ever true.
    pub has_transcript: bool,
    /// Whether `segmentType` is `AGENT`.
    pub is_agent: bool,
    /// Whether `hasRecording` is true.
    pub has_recording: bool,
    /// The newest version of its record.
    pub metadata: Value,
    /// When metadata first announced it.
    pub first_announced: Option<Time>,
    /// Its transcript.
    pub transcript: ExpectedArtifact,
    /// The agent's summary; the client decides whether to request it.
    pub agent_summary: ExpectedArtifact,
    /// RingCX's summary; the client decides whether to request it.
    pub auto_summary: ExpectedArtifact,
    /// Its recording, without its bytes ([`ExpectedArchive::recording`]); the client decides whether
    /// to request it.
    pub recording: ExpectedArtifact,
}

impl ExpectedSegment {
    /// The expectation for one artifact.
    pub fn expected_artifact(&self, artifact: Artifact) -> &ExpectedArtifact {
        match artifact {
            Artifact::Transcript => &self.transcript,
            Artifact::AgentSummary => &self.agent_summary,
            Artifact::AutoSummary => &self.auto_summary,
            Artifact::Recording => &self.recording,
        }
    }

    /// The sort key of an export: end, sub-account, segment id.
    pub fn export_order(&self) -> (Time, &str, &str) {
        (self.end.unwrap_or(Time::NONE), &self.account.sub, &self.segment_id)
    }
}

/// A view of the simulator's tenant and request log. Cheap to clone.
#[derive(Clone)]
pub struct ExpectedArchive(pub(super) Arc<SimulatorState>);

impl ExpectedArchive {
    /// Every segment that ended in `range` and was visible at `by`, as of then, in the order of an
    /// export. A client that has reread everything at `by` holds this.
    pub fn segments_in(&self, range: TimeRange, by: Time) -> Vec<ExpectedSegment> {
        self.iter_segments_in(range, by).collect()
    }

    /// The same as an iterator, for more segments than memory holds.
    pub fn iter_segments_in(&self, range: TimeRange, by: Time) -> impl Iterator<Item = ExpectedSegment> + use<> {
        let mut order: Vec<(Time, Arc<str>, String, SegmentPosition)> = Vec::new();
        let accounts = self.0.tenant.accounts();
        for account in accounts {
            for (_, position) in self.0.tenant.find_segments(&account, range.from, range.to, WindowEdges::StartOnly, by)
            {
                let segment = self.0.tenant.segment(position);
                order.extend(
                    segment.filter(|segment| !matches!(segment.record_source, RecordSource::Malformed(_))).map(
                        |segment| {
                            let end = segment.end.unwrap_or(Time::NONE);
                            (end, Arc::clone(&account.id.sub), segment.segment_id.clone(), position)
                        },
                    ),
                );
            }
        }
        order.sort_unstable();
        let state = Arc::clone(&self.0);
        order.into_iter().filter_map(move |(.., position)| {
            let segment = state.tenant.segment(position)?;
            let announced = state.request_log.lock().announced.get(&position).copied();
            Some(expect_segment(&state, &segment, announced, by))
        })
    }

    /// Every announced segment, with the record of its last announcement and the artifacts of now,
    /// in the order of an export.
    pub fn announced_segments(&self) -> Vec<ExpectedSegment> {
        let announced: Vec<(SegmentPosition, Announcement)> =
            self.0.request_log.lock().announced.iter().map(|(position, announced)| (*position, *announced)).collect();
        let now = self.0.now();
        let mut entries: Vec<ExpectedSegment> = announced
            .into_iter()
            .filter_map(|(position, announced)| {
                let segment = self.0.tenant.segment(position)?;
                Some(expect_announced(&self.0, &segment, announced, now))
            })
            .collect();
        entries.sort_unstable_by(|one, other| one.export_order().cmp(&other.export_order()));
        entries
    }

    /// The number of announced segments.
    pub fn announced_count(&self) -> usize {
        self.0.request_log.lock().announced.len()
    }

    /// The number of scripted invalid records in `range` that have appeared by `by`.
    pub fn malformed_count(&self, range: TimeRange, by: Time) -> usize {
        let tenant = &self.0.tenant;
        let accounts = tenant.accounts();
        let found = accounts
            .iter()
            .flat_map(|account| tenant.find_segments(account, range.from, range.to, WindowEdges::StartOnly, by));
        found
            .filter_map(|(_, position)| tenant.segment(position))
            .filter(|segment| matches!(segment.record_source, RecordSource::Malformed(_)))
            .count()
    }

    /// How often an artifact was served completely and in time. A client that was delayed, killed
    /// or restarted may fetch an artifact twice.
    pub fn serve_count(&self, account: &AccountId, segment_id: &str, artifact: Artifact) -> u32 {
        let tenant = &self.0.tenant;
        let segment = tenant.account(&account.sub).and_then(|account| tenant.segment_by_id(&account, segment_id));
        segment.map_or(0, |segment| {
            self.0.request_log.lock().artifacts.get(&(segment.position, artifact)).map_or(0, |item| item.served)
        })
    }

    /// The bytes of a recording, as of now.
    pub fn recording(&self, account: &AccountId, segment_id: &str) -> Option<Bytes> {
        let tenant = &self.0.tenant;
        let segment = tenant.account(&account.sub).and_then(|account| tenant.segment_by_id(&account, segment_id))?;
        let source = segment.plans.get(Artifact::Recording.code() as usize)?.source_at(self.0.now())?;
        Some(segment.render_body(tenant, Artifact::Recording, source))
    }

    /// When an artifact becomes available; `None` for never.
    pub fn available_at(&self, account: &AccountId, segment_id: &str, artifact: Artifact) -> Option<Time> {
        let tenant = &self.0.tenant;
        let segment = tenant.account(&account.sub).and_then(|account| tenant.segment_by_id(&account, segment_id))?;
        segment.plans.get(artifact.code() as usize)?.available
    }

    /// Descriptions of the artifacts that were served more than once.
    pub fn repeated_serves(&self) -> Vec<String> {
        let again: Vec<((SegmentPosition, Artifact), u32)> = {
            let request_log = self.0.request_log.lock();
            let more = request_log.artifacts.iter().filter(|(_, item)| item.served > 1);
            more.map(|(position, item)| (*position, item.served)).collect()
        };
        let mut lines: Vec<String> = again
            .into_iter()
            .filter_map(|((position, artifact), times)| {
                let segment = self.0.tenant.segment(position)?;
                Some(format!("{} {} {artifact}: served {times} times", segment.account.id, segment.segment_id))
            })
            .collect();
        lines.sort_unstable();
        lines
    }
}

fn expect_segment(
    state: &SimulatorState,
    segment: &TenantSegment,
    announced: Option<Announcement>,
    by: Time,
) -> ExpectedSegment {
    let has_transcript = segment.transcribed_at.is_some_and(|at| at <= by);
    let mut transcript = expect_artifact(state, segment, Artifact::Transcript, by);
    if !has_transcript {
        transcript = ExpectedArtifact::NotRequested;
    }
    ExpectedSegment {
        account: segment.account.id.clone(),
        segment_id: segment.segment_id.clone(),
        dialog_id: segment.dialog_id.clone(),
        end: segment.end,
        has_transcript,
        is_agent: segment.kind == SegmentKind::Agent,
        has_recording: segment.has_recording(),
        metadata: parse_record(&record_text(state, segment, segment.version_at(by))),
        first_announced: announced.map(|announcement| announcement.first_at),
        transcript,
        agent_summary: expect_artifact(state, segment, Artifact::AgentSummary, by),
        auto_summary: expect_artifact(state, segment, Artifact::AutoSummary, by),
        recording: match segment.has_recording() {
            true => expect_artifact(state, segment, Artifact::Recording, by),
            false => ExpectedArtifact::NotRequested,
        },
    }
}

/// The expectation after a segment's last announcement, which may be older than its current record.
fn expect_announced(
    state: &SimulatorState,
    segment: &TenantSegment,
    announced: Announcement,
    now: Time,
) -> ExpectedSegment {
    let entry = expect_segment(state, segment, Some(announced), now);
    let transcript = if announced.was_transcribed {
        expect_artifact(state, segment, Artifact::Transcript, now)
    } else {
        ExpectedArtifact::NotRequested
    };
    ExpectedSegment {
        has_transcript: announced.was_transcribed,
        metadata: parse_record(&record_text(state, segment, announced.version)),
        transcript,
        ..entry
    }
}

fn expect_artifact(state: &SimulatorState, segment: &TenantSegment, artifact: Artifact, by: Time) -> ExpectedArtifact {
    let plan = &segment.plans[artifact.code() as usize];
    match plan.source_at(by) {
        None if plan.available.is_some() => ExpectedArtifact::NotYet,
        None => ExpectedArtifact::NeverAvailable,
        Some(BodySource::ErrorCode(_)) if plan.change.is_some() => ExpectedArtifact::NotYet,
        Some(BodySource::ErrorCode(_)) => ExpectedArtifact::NeverAvailable,
        // Recordings of many segments would not fit into memory.
        Some(_) if artifact == Artifact::Recording => ExpectedArtifact::Body(Bytes::new()),
        Some(source) => {
            let body = segment.render_body(&state.tenant, artifact, source);
            let empty = artifact != Artifact::Transcript && (body.is_empty() || &body[..] == b"\"\"");
            if empty { ExpectedArtifact::NotPopulated } else { ExpectedArtifact::Body(body) }
        }
    }
}

/// A record as JSON; null for a scripted text that is not JSON.
fn parse_record(text: &str) -> Value {
    truncate_depth(lenient_json::parse_value(text).unwrap_or(Value::Null))
}
