//! What is seen while it plays: a few lines that are drawn again and again, or a line now and then where there is no
//! terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Stage;
use crate::cli::{terminal, words};
use crate::clock::{Clock, Time};
use crate::db::{Db, ExportRange};
use crate::model::Endpoint;
use crate::sim::{Sim, Stats};
use crate::status::ReplicaStats;

/// Between lines where there is no terminal, by the clock on the wall.
const LINE: Duration = Duration::from_secs(5);

/// What there is to see at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    now: Time,
    found: u64,
    late: u64,
    stored: u64,
    empty: u64,
    /// Transcripts and summaries that are still to come.
    pub(super) to_do: u64,
    retries: u64,
    refused: u64,
    /// Requests in the last minute of the simulated time, by account.
    used: Vec<(String, u64)>,
    metadata: u64,
}

/// Looks at the archive and at the simulator.
pub(super) async fn look(sim: &Sim, db: &Db, clock: &Clock) -> anyhow::Result<Facts> {
    let mut facts = Facts { now: clock.now(), ..Facts::default() };
    let mut snapshot = db.snapshot().await?;
    facts.found = snapshot.segment_counts(ExportRange::default()).await?.values().map(|(all, _)| all).sum();
    for tally in snapshot.artifact_tallies(ExportRange::default()).await?.values() {
        facts.stored += tally.stored;
        facts.empty += tally.not_populated;
        facts.to_do += tally.asked.saturating_sub(tally.stored + tally.not_populated);
    }
    let late = snapshot.lateness(None).await?;
    facts.late = late.iter().filter(|(_, kind, ..)| kind == "appear" || kind == "flip").map(|(.., count)| count).sum();
    let used = used(db).await?;
    for account in db.accounts().await? {
        let requests = used.get(&*account.id.sub).copied().unwrap_or(0);
        facts.used.push((account.name.unwrap_or_else(|| account.id.sub.to_string()), requests));
    }
    let stats = sim.stats();
    facts.retries = failures(&stats);
    facts.refused = stats.refused_in_all();
    facts.metadata = stats.requests.get(&Endpoint::Metadata).copied().unwrap_or(0);
    Ok(facts)
}

async fn used(db: &Db) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut used = BTreeMap::new();
    for replica in db.replicas().await? {
        let stats: ReplicaStats = serde_json::from_str(&replica.stats).unwrap_or_default();
        used.extend(stats.accounts.into_iter().map(|(sub, stats)| (sub, stats.requests_last_minute)));
    }
    Ok(used)
}

/// Requests that were not answered with what they were made for.
fn failures(stats: &Stats) -> u64 {
    let others: u64 = stats.statuses.iter().filter(|((_, status), _)| *status != 200).map(|(_, count)| count).sum();
    let spoilt = ["truncate", "error_code"].map(|kind| stats.faults.get(kind).copied().unwrap_or(0));
    others + spoilt.iter().sum::<u64>()
}

/// Draws.
pub(super) struct View {
    bar: ProgressBar,
    said: Option<Duration>,
}

impl View {
    /// On standard error; `quiet` leaves the terminal to the log.
    pub(super) fn new(quiet: bool) -> View {
        let bar = ProgressBar::with_draw_target(
            Some(1),
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
        );
        let style = ProgressStyle::with_template("{msg}\n  {bar:60} {prefix}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        View { bar, said: None }
    }

    /// Shows what there is to see.
    pub(super) fn show(&mut self, stage: &Stage, facts: &Facts) {
        let (elapsed, planned) = (stage.elapsed(), stage.schedule.planned());
        let over = facts.now >= stage.schedule.end();
        if self.bar.is_hidden() {
            if self.said.is_none_or(|said| elapsed >= said + LINE) {
                self.said = Some(elapsed);
                terminal::remark(&line(facts));
            }
            return;
        }
        self.bar.set_length(u64::try_from(planned.as_millis()).unwrap_or(u64::MAX).max(1));
        self.bar.set_position(u64::try_from(elapsed.min(planned).as_millis()).unwrap_or(0));
        self.bar.set_prefix(if over { "waiting for what is late" } else { "" });
        self.bar.set_message(lines(facts));
    }

    /// Leaves the last picture standing.
    pub(super) fn close(&mut self) {
        self.bar.abandon();
        if !self.bar.is_hidden() {
            terminal::remark("");
        }
    }
}

fn lines(facts: &Facts) -> String {
    let budgets: Vec<String> = facts.used.iter().map(|(name, used)| format!("{name} {used}/120")).collect();
    format!(
        "  simulated time  {}\n  found           {}, {} of it late\n  stored          {}, {} known to be empty, {} to come\n  \
         tried again     {} lost, refused or not there yet\n  last minute     {}; metadata read {}\n  refused (429)   {}",
        facts.now.rfc3339_secs(),
        words::count(facts.found, "segment"),
        facts.late,
        words::count(facts.stored, "text"),
        facts.empty,
        facts.to_do,
        words::count(facts.retries, "request"),
        budgets.join(", "),
        if facts.metadata == 1 { "once".to_owned() } else { format!("{} times", facts.metadata) },
        facts.refused
    )
}

fn line(facts: &Facts) -> String {
    let used = facts.used.iter().map(|(_, used)| *used).max().unwrap_or(0);
    format!(
        "{}  {} found, {} late; {} stored, {} empty, {} to come; {} tried again; at most {used}/120 in the last minute; {} refused",
        facts.now.rfc3339_secs(),
        facts.found,
        facts.late,
        facts.stored,
        facts.empty,
        facts.to_do,
        facts.retries,
        facts.refused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            now: Time::from_secs(1_790_000_000),
            found: 256,
            late: 12,
            stored: 500,
            empty: 70,
            to_do: 41,
            retries: 88,
            refused: 0,
            used: vec![("Support EMEA".to_owned(), 31), ("Sales Americas".to_owned(), 22)],
            metadata: 9,
        }
    }

    #[test]
    fn the_picture_says_what_matters() {
        let text = lines(&facts());
        for part in [
            "256 segments, 12 of it late",
            "500 texts, 70 known to be empty, 41 to come",
            "Support EMEA 31/120",
            "read 9 times",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(line(&facts()).lines().count(), 1);
        assert!(line(&facts()).contains("at most 31/120"), "{}", line(&facts()));
    }

    #[test]
    fn whatever_is_no_good_answer_is_tried_again() {
        let mut stats = Stats::default();
        stats.statuses.extend([
            ((Endpoint::Transcript, 200), 5),
            ((Endpoint::Transcript, 404), 2),
            ((Endpoint::AutoSummary, 0), 1),
        ]);
        stats.faults.insert("truncate", 3);
        assert_eq!(failures(&stats), 6);
    }
}
