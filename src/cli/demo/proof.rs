//! Whether everything that was announced has arrived: the archive's export against the simulator's own books.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use serde::Deserialize;

use crate::cli::words;
use crate::clock::Time;
use crate::db::{Db, ExportRange, SlotOutcome};
use crate::export::{self, Format, Selection};
use crate::model::{Artifact, Stretch, Wants};
use crate::reading::clean;
use crate::search::{self, Filters, Order};
use crate::sim::{LedgerEntry, Sim, Stats, compare};

/// How many differences are shown.
const SHOWN: usize = 10;
/// Segments looked through for one to show.
const PAGE: usize = 200;

/// What was announced against what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// Segments that metadata told of.
    announced: usize,
    /// Those of them that are in the archive.
    archived: usize,
    /// Segments that RingCX had of that time, and of which metadata was never read.
    unseen: usize,
    /// Transcripts and summaries that are to be had of those that were announced.
    asked: usize,
    /// Those of them that arrived: as a text,
    texts: usize,
    /// or as the word that there is none.
    empty: usize,
    /// Everything in which the archive differs from what was sent.
    differences: Vec<String>,
    /// Segments that appeared, and `hasTranscript` that turned true, after their time had been read.
    late: (u64, u64),
}

/// What people would search for in what the simulator has them say.
const PHRASES: [&str; 3] = ["\"charged twice\"", "parcel", "order"];

/// An export's line, as far as it is needed.
#[derive(Deserialize)]
struct Line {
    sub_account_id: String,
    segment_id: String,
    transcript: Part,
    agent_summary: Part,
    auto_summary: Part,
}

#[derive(Deserialize)]
struct Part {
    outcome: String,
}

/// Compares the archive with the books, for traffic that ended at `end`.
pub(super) async fn gather(sim: &Sim, db: &Db, end: Time, wants: Wants) -> anyhow::Result<Proof> {
    let mut bytes = Vec::new();
    export::write(db, &Selection::default(), Format::Jsonl, &mut bytes, &mut |_| {}).await?;
    let export = String::from_utf8(bytes).context("failed to read the export: it is not UTF-8")?;
    let announced = sim.ledger().announced();
    let starts: BTreeMap<String, Time> = db
        .accounts()
        .await?
        .into_iter()
        .filter_map(|account| Some((account.id.sub.to_string(), account.live_start?)))
        .collect();
    let first = starts.values().min().copied().unwrap_or(end);
    let had = Stretch::new(first, end.plus_millis(1)).map(|range| sim.ledger().ledger_for(range, sim.now()));
    let in_its_time = |entry: &&LedgerEntry| entry.end >= starts.get(&*entry.account.sub).copied();
    let had = had.unwrap_or_default();
    let unseen = had.iter().filter(in_its_time).filter(|entry| entry.first_announced.is_none()).count();
    let mut late = (0, 0);
    for (_, kind, _, count) in db.snapshot().await?.lateness(None).await? {
        match kind.as_str() {
            "appear" => late.0 += count,
            "flip" => late.1 += count,
            _ => {}
        }
    }
    let differences = compare(&export, &announced, wants);
    Ok(Proof { unseen, late, differences, ..count(&export, &announced, wants)? })
}

fn count(export: &str, announced: &[LedgerEntry], wants: Wants) -> anyhow::Result<Proof> {
    let mut lines = HashMap::new();
    for line in export.lines() {
        let line: Line = serde_json::from_str(line).context("failed to read a line of the export")?;
        let outcomes = [line.transcript.outcome, line.agent_summary.outcome, line.auto_summary.outcome];
        lines.insert((line.sub_account_id, line.segment_id), outcomes);
    }
    let mut proof = Proof { announced: announced.len(), ..Proof::default() };
    for entry in announced {
        let held = lines.get(&(entry.account.sub.to_string(), entry.segment_id.clone()));
        proof.archived += usize::from(held.is_some());
        let asked = wants.of(entry.has_transcript, entry.is_agent);
        for (index, _) in Artifact::ALL.iter().enumerate().filter(|(_, artifact)| asked.contains(**artifact)) {
            proof.asked += 1;
            match held.map(|outcomes| outcomes[index].as_str()) {
                Some("stored") => proof.texts += 1,
                Some("not_populated") => proof.empty += 1,
                _ => {}
            }
        }
    }
    Ok(proof)
}

impl Proof {
    /// Whether all of it is there, and as it was sent.
    pub(super) fn holds(&self) -> bool {
        self.unseen == 0
            && self.archived == self.announced
            && self.texts + self.empty == self.asked
            && self.differences.is_empty()
    }

    /// The summary for people; `ended` says whether everything had its time to arrive.
    pub(super) fn text(&self, stats: &Stats, ended: bool) -> String {
        let headline = match (self.holds(), ended) {
            (true, _) => "Everything that was announced has arrived.",
            (false, true) => "Something is MISSING.",
            (false, false) => "Not everything has arrived yet.",
        };
        let mut text = format!(
            "{}\n  segments     {} of {} that RingCX announced are in the archive\n  \
             artifacts    {} of {} transcripts and summaries arrived: {} texts, {} empty by RingCX's own word\n",
            headline,
            self.archived,
            self.announced,
            self.texts + self.empty,
            self.asked,
            self.texts,
            self.empty,
        );
        let seen =
            if self.unseen == 0 { "none was missed".to_owned() } else { format!("{} were not found", self.unseen) };
        text.push_str(&format!(
            "  late         {} appeared only after their time had been read, {} got their transcript later; {seen}\n",
            self.late.0, self.late.1
        ));
        let same =
            if self.differences.is_empty() { "the archive holds exactly what was sent" } else { "NOT as it was sent:" };
        text.push_str(&format!("  compared     {same}\n"));
        for difference in self.differences.iter().take(SHOWN) {
            text.push_str(&format!("               {}\n", clean(difference).replace('\n', " ")));
        }
        if self.differences.len() > SHOWN {
            let more = words::count((self.differences.len() - SHOWN) as u64, "more difference");
            text.push_str(&format!("               and {more}\n"));
        }
        text.push_str(&format!(
            "  on the way   {}\n  limits       at most {} requests of an account in any minute, of 120; refused with 429: {}\n",
            mishaps(stats),
            stats.peak_per_minute,
            stats.refused_in_all()
        ));
        if stats.violation_count > 0 {
            let first = stats.violations.first().map(String::as_str).unwrap_or_default();
            text.push_str(&format!("  contract     broken {} times, first: {first}\n", stats.violation_count));
        }
        text
    }
}

/// What went wrong on purpose.
fn mishaps(stats: &Stats) -> String {
    let answers = |wanted: fn(u16) -> bool| -> u64 {
        stats.statuses.iter().filter(|((_, status), _)| wanted(*status)).map(|(_, count)| count).sum()
    };
    let cut = stats.faults.get("truncate").copied().unwrap_or(0);
    let coded = stats.faults.get("error_code").copied().unwrap_or(0);
    format!(
        "{} not there yet (404), {} failed (5xx), {} reset, {} cut off, {} with an error code: each asked for again",
        answers(|status| status == 404),
        answers(|status| status >= 500),
        answers(|status| status == 0),
        cut,
        coded
    )
}

/// A segment worth showing: with a transcript and a summary, and an id that is easily typed.
pub(super) async fn example(db: &Db) -> anyhow::Result<Option<String>> {
    let segments = db.segments_after(ExportRange::default(), None, PAGE).await?;
    let slots = db.slots(&segments).await?;
    let easy = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let stored = |outcome: &SlotOutcome| matches!(outcome, SlotOutcome::Stored(_));
    let good = segments
        .iter()
        .zip(&slots)
        .find(|(segment, slots)| easy(&segment.segment_id) && slots.iter().all(|slot| stored(&slot.outcome)))
        .map(|(segment, _)| segment);
    Ok(good.or(segments.first()).map(|segment| segment.segment_id.clone()))
}

/// Something to search for that is found: a phrase, where the index has got that far.
pub(super) async fn phrase(db: &Db) -> anyhow::Result<Option<&'static str>> {
    for phrase in PHRASES {
        let Ok(query) = search::parse(phrase) else { continue };
        if !search::find(db, &query, &Filters::default(), Order::Best, 1).await?.hits.is_empty() {
            return Ok(Some(phrase));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AccountId, ArtifactSet, SummariesFor};
    use crate::sim::Expect;

    const WANTS: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

    fn entry(id: &str, has_transcript: bool) -> LedgerEntry {
        LedgerEntry {
            account: AccountId::new("1", "2"),
            segment_id: id.to_owned(),
            dialog_id: None,
            end: Some(Time(0)),
            has_transcript,
            is_agent: true,
            metadata: serde_json::Value::Null,
            first_announced: None,
            transcript: Expect::NotPopulated,
            agent_summary: Expect::NotPopulated,
            auto_summary: Expect::NotPopulated,
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
        let proof = count(&export, &[entry("a", true), entry("b", false), entry("c", true)], WANTS).unwrap();
        assert_eq!((proof.archived, proof.announced), (2, 3));
        assert_eq!((proof.texts, proof.empty, proof.asked), (1, 1, 6));
        assert!(!proof.holds());
        assert!(proof.text(&Stats::default(), true).starts_with("Something is MISSING.\n  segments     2 of 3"));
    }

    #[test]
    fn all_of_it_there_is_proof_and_one_unseen_segment_is_none() {
        let export = line("a", ["stored", "stored", "not_populated"]);
        let proof = count(&export, &[entry("a", true)], WANTS).unwrap();
        assert!(proof.holds());
        let text = proof.text(&Stats::default(), true);
        assert!(text.contains("1 of 1") && text.contains("3 of 3") && text.contains("429: 0"), "{text}");
        assert!(!Proof { unseen: 1, ..proof }.holds());
    }
}
