//! The plan of an erasure as JSON, for `erase --dry-run --json`.

use serde::Serialize;

use crate::db::{QuarantinedText, SegmentRef};
use crate::erasure::ErasurePlan;

/// What an erasure would delete, and what it would leave.
#[derive(Serialize)]
pub(super) struct PlanJson<'a> {
    segments: Vec<SegmentJson<'a>>,
    /// The number of quarantined records to delete.
    records: usize,
    /// Those segments to delete that match by the number with or without its country code.
    national: Vec<SegmentJson<'a>>,
    /// Possible matches, left without --include-alike.
    alike: Vec<SegmentJson<'a>>,
    alike_records: Vec<Option<&'a str>>,
    /// Segments and records that cannot be read, left without --include-unreadable.
    unreadable: Vec<SegmentJson<'a>>,
    unreadable_records: Vec<Option<&'a str>>,
    /// What legal holds keep.
    held: Vec<HeldJson<'a>>,
    held_records: usize,
    /// Segments with an agent of this name or id, which do not match.
    agent_segments: u64,
}

#[derive(Serialize)]
struct SegmentJson<'a> {
    sub_account_id: &'a str,
    dialog_id: Option<&'a str>,
    segment_id: &'a str,
    segment_end: Option<String>,
}

#[derive(Serialize)]
struct HeldJson<'a> {
    #[serde(flatten)]
    segment: SegmentJson<'a>,
    hold: i64,
}

impl PlanJson<'_> {
    pub(super) fn of(plan: &ErasurePlan) -> PlanJson<'_> {
        PlanJson {
            segments: plan.segments.iter().map(segment_json).collect(),
            records: plan.quarantined.len(),
            national: plan.national.iter().map(segment_json).collect(),
            alike: plan.alike.iter().map(segment_json).collect(),
            alike_records: record_ids(&plan.alike_quarantined),
            unreadable: plan.unreadable.iter().map(segment_json).collect(),
            unreadable_records: record_ids(&plan.unreadable_quarantined),
            held: plan
                .held_segments
                .iter()
                .map(|(segment, hold)| HeldJson { segment: segment_json(segment), hold: hold.id })
                .collect(),
            held_records: plan.quarantine_holds.len(),
            agent_segments: plan.agent_segments,
        }
    }
}

fn segment_json(segment: &SegmentRef) -> SegmentJson<'_> {
    SegmentJson {
        sub_account_id: &segment.sub,
        dialog_id: segment.dialog_id.as_deref(),
        segment_id: &segment.segment_id,
        segment_end: segment.ended.known().map(|end| end.rfc3339()),
    }
}

/// The segment ids of records, where they could be read.
fn record_ids(records: &[QuarantinedText]) -> Vec<Option<&str>> {
    records.iter().map(|record| record.segment_id.as_deref()).collect()
}
