//! Shows the progress of the demo: a few lines that are redrawn, or occasional lines without a
//! terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::RunningDemo;
use crate::cli::{human_format, terminal};
use crate::clock::{Clock, Time};
use crate::db::{Db, ExportRange};
use crate::model::Endpoint;
use crate::sim::{Sim, Stats};
use crate::status::ReplicaStats;

/// The time between two lines without a terminal, in real time.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DemoProgress {
    now: Time,
    found: u64,
    late: u64,
    stored: u64,
    empty: u64,
    /// Transcripts and summaries that are still to be fetched.
    pub(super) pending: u64,
    retries: u64,
    rate_limited: u64,
    /// Requests in the last minute of simulated time, by account.
    used: Vec<(String, u64)>,
    metadata_reads: u64,
}

/// Reads the progress from the archive and the simulator.
pub(super) async fn read_progress(sim: &Sim, db: &Db, clock: &Clock) -> anyhow::Result<DemoProgress> {
    let mut progress = DemoProgress { now: clock.now(), ..DemoProgress::default() };
    let mut snapshot = db.snapshot().await?;
    progress.found = snapshot.segment_counts(ExportRange::default()).await?.values().map(|(all, _)| all).sum();
    for tally in snapshot.artifact_tallies(ExportRange::default()).await?.values() {
        progress.stored += tally.stored;
        progress.empty += tally.not_populated;
        progress.pending += tally.requested.saturating_sub(tally.stored + tally.not_populated);
    }
    let late = snapshot.lateness(None).await?;
    progress.late =
        late.iter().filter(|(_, kind, ..)| kind == "appear" || kind == "flip").map(|(.., count)| count).sum();
    let used = read_request_counts(db).await?;
    for account in db.accounts().await? {
        let requests = used.get(&*account.id.sub).copied().unwrap_or(0);
        progress.used.push((account.name.unwrap_or_else(|| account.id.sub.to_string()), requests));
    }
    let stats = sim.stats();
    progress.retries = count_retries(&stats);
    progress.rate_limited = stats.total_refused();
    progress.metadata_reads = stats.requests.get(&Endpoint::Metadata).copied().unwrap_or(0);
    Ok(progress)
}

async fn read_request_counts(db: &Db) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut used = BTreeMap::new();
    for replica in db.replicas().await? {
        let stats: ReplicaStats = serde_json::from_str(&replica.stats).unwrap_or_default();
        used.extend(stats.accounts.into_iter().map(|(sub, stats)| (sub, stats.requests_last_minute)));
    }
    Ok(used)
}

/// The number of requests that did not return their result and had to be retried.
fn count_retries(stats: &Stats) -> u64 {
    let others: u64 = stats.statuses.iter().filter(|((_, status), _)| *status != 200).map(|(_, count)| count).sum();
    let unusable = ["truncate", "error_code"].map(|kind| stats.faults.get(kind).copied().unwrap_or(0));
    others + unusable.iter().sum::<u64>()
}

/// Draws the progress.
pub(super) struct ProgressView {
    bar: ProgressBar,
    last_line: Option<Duration>,
}

impl ProgressView {
    /// Draws on standard error, or nothing if `quiet`, which leaves the terminal to the log.
    pub(super) fn new(quiet: bool) -> ProgressView {
        let bar = ProgressBar::with_draw_target(
            Some(1),
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
        );
        let style = ProgressStyle::with_template("{msg}\n  {bar:60} {prefix}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        ProgressView { bar, last_line: None }
    }

    /// Shows the progress.
    pub(super) fn show(&mut self, demo: &RunningDemo, progress: &DemoProgress) {
        let (elapsed, planned) = (demo.elapsed(), demo.timeline.planned_duration());
        let traffic_ended = progress.now >= demo.timeline.end();
        if self.bar.is_hidden() {
            if self.last_line.is_none_or(|last| elapsed >= last + LINE_INTERVAL) {
                self.last_line = Some(elapsed);
                terminal::print_stderr(&format_line(progress));
            }
            return;
        }
        self.bar.set_length(u64::try_from(planned.as_millis()).unwrap_or(u64::MAX).max(1));
        self.bar.set_position(u64::try_from(elapsed.min(planned).as_millis()).unwrap_or(0));
        self.bar.set_prefix(if traffic_ended { "waiting for late segments" } else { "" });
        self.bar.set_message(format_block(progress));
    }

    /// Stops drawing and keeps the last output.
    pub(super) fn close(&mut self) {
        self.bar.abandon();
        if !self.bar.is_hidden() {
            terminal::print_stderr("");
        }
    }
}

fn format_block(progress: &DemoProgress) -> String {
    let budgets: Vec<String> = progress.used.iter().map(|(name, used)| format!("{name} {used}/120")).collect();
    format!(
        "  simulated time  {}\n  found           {}, {} of them late\n  stored          {}, {} empty, {} pending\n  \
         retried         {} failed or not available yet\n  last minute     {}; metadata read {}\n  rejected (429)  {}",
        progress.now.rfc3339_secs(),
        human_format::format_count(progress.found, "segment"),
        progress.late,
        human_format::format_count(progress.stored, "text"),
        progress.empty,
        progress.pending,
        human_format::format_count(progress.retries, "request"),
        budgets.join(", "),
        if progress.metadata_reads == 1 { "once".to_owned() } else { format!("{} times", progress.metadata_reads) },
        progress.rate_limited
    )
}

fn format_line(progress: &DemoProgress) -> String {
    let used = progress.used.iter().map(|(_, used)| *used).max().unwrap_or(0);
    format!(
        "{}  {} found, {} late; {} stored, {} empty, {} pending; {} retried; at most {used}/120 in the last minute; {} rejected",
        progress.now.rfc3339_secs(),
        progress.found,
        progress.late,
        progress.stored,
        progress.empty,
        progress.pending,
        progress.retries,
        progress.rate_limited
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_progress() -> DemoProgress {
        DemoProgress {
            now: Time::from_secs(1_790_000_000),
            found: 256,
            late: 12,
            stored: 500,
            empty: 70,
            pending: 41,
            retries: 88,
            rate_limited: 0,
            used: vec![("Support EMEA".to_owned(), 31), ("Sales Americas".to_owned(), 22)],
            metadata_reads: 9,
        }
    }

    #[test]
    fn the_picture_says_what_matters() {
        let text = format_block(&sample_progress());
        for part in
            ["256 segments, 12 of them late", "500 texts, 70 empty, 41 pending", "Support EMEA 31/120", "read 9 times"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(format_line(&sample_progress()).lines().count(), 1);
        assert!(format_line(&sample_progress()).contains("at most 31/120"), "{}", format_line(&sample_progress()));
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
        assert_eq!(count_retries(&stats), 6);
    }
}
