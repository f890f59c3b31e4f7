//! Compares the export of the archive with the records of the simulator, to show that everything
//! has arrived.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use serde::Deserialize;

use crate::cli::human_format;
use crate::clock::Time;
use crate::db::{ArtifactStatus, Db, ExportRange};
use crate::export::{self, ExportFormat, Selection};
use crate::model::{Artifact, ArtifactSelection, TimeRange};
use crate::render::clean_text;
use crate::search::{self, Filters, SortOrder};
use crate::sim::{ExpectedSegment, Sim, Stats, compare_export};

/// The number of differences that are shown.
const MAX_DIFFERENCES_SHOWN: usize = 10;
/// The number of segments among which the example is chosen.
const EXAMPLE_CANDIDATES: usize = 200;

/// The announced segments and artifacts compared with the archived ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DemoResult {
    /// Segments that metadata announced.
    announced: usize,
    /// Announced segments that are in the archive.
    archived: usize,
    /// Segments that RingCX had, but whose metadata was never read.
    unseen: usize,
    /// Transcripts and summaries to fetch for the announced segments.
    requested: usize,
    /// Artifacts that arrived as a text.
    texts: usize,
    /// Artifacts that the API declared empty.
    empty: usize,
    /// All differences between the archive and what was sent.
    differences: Vec<String>,
    /// Segments that appeared, and segments whose `hasTranscript` became true, after their time had
    /// been read.
    late: (u64, u64),
}

/// Queries that match texts of the simulator, the most interesting one first.
const EXAMPLE_QUERIES: [&str; 3] = ["\"the refund\"", "parcel", "order"];

/// The fields of an export line that are needed.
#[derive(Deserialize)]
struct ArchivedSegment {
    sub_account_id: String,
    segment_id: String,
    transcript: ArchivedArtifact,
    agent_summary: ArchivedArtifact,
    auto_summary: ArchivedArtifact,
}

#[derive(Deserialize)]
struct ArchivedArtifact {
    outcome: String,
}

/// Compares the archive with the records of the simulator, for traffic that ended at `end`.
pub(super) async fn compare_archive(
    sim: &Sim,
    db: &Db,
    end: Time,
    selection: ArtifactSelection,
) -> anyhow::Result<DemoResult> {
    let mut bytes = Vec::new();
    export::write_export(db, &Selection::default(), ExportFormat::Jsonl, &mut bytes, &mut |_| {}).await?;
    let export = String::from_utf8(bytes).context("failed to read the export: it is not UTF-8")?;
    let announced = sim.expected_archive().announced_segments();
    let starts: BTreeMap<String, Time> = db
        .accounts()
        .await?
        .into_iter()
        .filter_map(|account| Some((account.id.sub.to_string(), account.live_start?)))
        .collect();
    let first = starts.values().min().copied().unwrap_or(end);
    let existing =
        TimeRange::new(first, end.plus_millis(1)).map(|range| sim.expected_archive().segments_in(range, sim.now()));
    let is_in_range = |entry: &&ExpectedSegment| entry.end >= starts.get(&*entry.account.sub).copied();
    let existing = existing.unwrap_or_default();
    let unseen = existing.iter().filter(is_in_range).filter(|entry| entry.first_announced.is_none()).count();
    let mut late = (0, 0);
    for (_, kind, _, count) in db.snapshot().await?.lateness(None).await? {
        match kind.as_str() {
            "appear" => late.0 += count,
            "flip" => late.1 += count,
            _ => {}
        }
    }
    let differences = compare_export(&export, &announced, selection);
    Ok(DemoResult { unseen, late, differences, ..count_arrived(&export, &announced, selection)? })
}

fn count_arrived(
    export: &str,
    announced: &[ExpectedSegment],
    selection: ArtifactSelection,
) -> anyhow::Result<DemoResult> {
    let mut lines = HashMap::new();
    for line in export.lines() {
        let line: ArchivedSegment = serde_json::from_str(line).context("failed to read a line of the export")?;
        let outcomes = [line.transcript.outcome, line.agent_summary.outcome, line.auto_summary.outcome];
        lines.insert((line.sub_account_id, line.segment_id), outcomes);
    }
    let mut result = DemoResult { announced: announced.len(), ..DemoResult::default() };
    for entry in announced {
        let archived = lines.get(&(entry.account.sub.to_string(), entry.segment_id.clone()));
        result.archived += usize::from(archived.is_some());
        let requested = selection.artifacts_for(entry.has_transcript, entry.is_agent, entry.has_recording);
        for (index, _) in Artifact::TEXTS.iter().enumerate().filter(|(_, artifact)| requested.contains(**artifact)) {
            result.requested += 1;
            match archived.map(|outcomes| outcomes[index].as_str()) {
                Some("stored") => result.texts += 1,
                Some("not_populated") => result.empty += 1,
                _ => {}
            }
        }
    }
    Ok(result)
}

impl DemoResult {
    /// Whether everything has arrived as it was sent.
    pub(super) fn is_complete(&self) -> bool {
        self.unseen == 0
            && self.archived == self.announced
            && self.texts + self.empty == self.requested
            && self.differences.is_empty()
    }

    /// Summarizes the result; `ended` tells whether the demo ran to its end.
    pub(super) fn summarize(&self, stats: &Stats, ended: bool) -> String {
        let headline = match (self.is_complete(), ended) {
            (true, _) => "Everything that was announced has arrived.",
            (false, true) => "Something is MISSING.",
            (false, false) => "Not everything has arrived yet.",
        };
        let mut text = format!(
            "{}\n  segments     {} of {} that RingCX announced are in the archive\n  \
             artifacts    {} of {} transcripts and summaries arrived: {} texts, {} declared empty by RingCX\n",
            headline,
            self.archived,
            self.announced,
            self.texts + self.empty,
            self.requested,
            self.texts,
            self.empty,
        );
        let missed =
            if self.unseen == 0 { "none was missed".to_owned() } else { format!("{} were missed", self.unseen) };
        text.push_str(&format!(
            "  late         {} appeared after their time had been read, {} received their transcript later; {missed}\n",
            self.late.0, self.late.1
        ));
        let same = if self.differences.is_empty() {
            "the archive contains exactly what was sent"
        } else {
            "the archive DIFFERS from what was sent:"
        };
        text.push_str(&format!("  compared     {same}\n"));
        for difference in self.differences.iter().take(MAX_DIFFERENCES_SHOWN) {
            text.push_str(&format!("               {}\n", clean_text(difference).replace('\n', " ")));
        }
        if self.differences.len() > MAX_DIFFERENCES_SHOWN {
            let more =
                human_format::format_count((self.differences.len() - MAX_DIFFERENCES_SHOWN) as u64, "more difference");
            text.push_str(&format!("               and {more}\n"));
        }
        text.push_str(&format!(
            "  faults       {}\n  limits       at most {} of 120 requests per minute and account; rejected with 429: {}\n",
            describe_faults(stats),
            stats.peak_per_minute,
            stats.total_refused()
        ));
        if stats.violation_count > 0 {
            let first = stats.violations.first().map(String::as_str).unwrap_or_default();
            text.push_str(&format!("  API contract violated {} times, first: {first}\n", stats.violation_count));
        }
        text
    }
}

/// Describes the faults that the simulator injected.
fn describe_faults(stats: &Stats) -> String {
    let answers = |wanted: fn(u16) -> bool| -> u64 {
        stats.statuses.iter().filter(|((_, status), _)| wanted(*status)).map(|(_, count)| count).sum()
    };
    let cut = stats.faults.get("truncate").copied().unwrap_or(0);
    let coded = stats.faults.get("error_code").copied().unwrap_or(0);
    format!(
        "{} not available yet (404), {} failed (5xx), {} reset, {} truncated, {} with an error code; all were retried",
        answers(|status| status == 404),
        answers(|status| status >= 500),
        answers(|status| status == 0),
        cut,
        coded
    )
}

/// An example for `show`: a segment with all texts and an id that is easy to type.
pub(super) async fn example_segment(db: &Db) -> anyhow::Result<Option<String>> {
    let segments = db.segments_after(ExportRange::default(), None, EXAMPLE_CANDIDATES).await?;
    let slots = db.segment_artifacts(&segments).await?;
    let easy = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let stored = |outcome: &ArtifactStatus| matches!(outcome, ArtifactStatus::Stored(_));
    let found = segments
        .iter()
        .zip(&slots)
        .find(|(segment, slots)| easy(&segment.segment_id) && slots.iter().all(|slot| stored(&slot.status)))
        .map(|(segment, _)| segment);
    Ok(found.or(segments.first()).map(|segment| segment.segment_id.clone()))
}

/// An example for `search`: a query with hits in the index so far.
pub(super) async fn example_query(db: &Db) -> anyhow::Result<Option<&'static str>> {
    for text in EXAMPLE_QUERIES {
        let Ok(query) = search::parse(text) else { continue };
        if !search::find(db, &query, &Filters::default(), SortOrder::Best, 1).await?.hits.is_empty() {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AccountId, ArtifactSet, SummariesFor};
    use crate::sim::ExpectedArtifact;

    const SELECTION: ArtifactSelection =
        ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

    fn entry(id: &str, has_transcript: bool) -> ExpectedSegment {
        ExpectedSegment {
            account: AccountId::new("1", "2"),
            segment_id: id.to_owned(),
            dialog_id: None,
            end: Some(Time(0)),
            has_transcript,
            is_agent: true,
            has_recording: false,
            metadata: serde_json::Value::Null,
            first_announced: None,
            transcript: ExpectedArtifact::NotPopulated,
            agent_summary: ExpectedArtifact::NotPopulated,
            auto_summary: ExpectedArtifact::NotPopulated,
            recording: ExpectedArtifact::NotRequested,
        }
    }

    fn line(id: &str, outcomes: [&str; 3]) -> String {
        let part = |outcome: &str| serde_json::json!({ "outcome": outcome });
        let line = serde_json::json!({
            "sub_account_id": "2", "segment_id": id, "transcript": part(outcomes[0]),
            "agent_summary": part(outcomes[1]), "auto_summary": part(outcomes[2]),
        });
        format!("{line}\n")
    }

    #[test]
    fn what_arrived_is_counted_against_what_was_announced() {
        let export = line("a", ["stored", "not_populated", "pending"]) + &line("b", ["not_requested"; 3]);
        let result =
            count_arrived(&export, &[entry("a", true), entry("b", false), entry("c", true)], SELECTION).unwrap();
        assert_eq!((result.archived, result.announced), (2, 3));
        assert_eq!((result.texts, result.empty, result.requested), (1, 1, 6));
        assert!(!result.is_complete());
        assert!(result.summarize(&Stats::default(), true).starts_with("Something is MISSING.\n  segments     2 of 3"));
    }

    #[test]
    fn all_of_it_there_is_proof_and_one_unseen_segment_is_none() {
        let export = line("a", ["stored", "stored", "not_populated"]);
        let result = count_arrived(&export, &[entry("a", true)], SELECTION).unwrap();
        assert!(result.is_complete());
        let text = result.summarize(&Stats::default(), true);
        assert!(text.contains("1 of 1") && text.contains("3 of 3") && text.contains("429: 0"), "{text}");
        assert!(!DemoResult { unseen: 1, ..result }.is_complete());
    }
}
