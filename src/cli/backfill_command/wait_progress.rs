//! `--wait`: shows the progress of a backfill, based on the coverage in the database.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Clock, Db, QueuedBackfill, Settings, estimate_backfill_duration, open_backfills, union_of_open};
use crate::cli::{human_format, terminal};
use crate::model::TimeRangeSet;
use crate::render::clean_line;

/// The interval at which the database is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two progress lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Waits until all backfills are read, or until Ctrl-C, which leaves them queued. Returns the exit
/// status.
pub(super) async fn wait(db: &Db, queued: &[QueuedBackfill], settings: &Settings, clock: &Clock) -> anyhow::Result<u8> {
    let screen = MultiProgress::new();
    let bars: Vec<ProgressBar> = queued.iter().map(|backfill| screen.add(progress_bar(backfill))).collect();
    let is_drawn = !screen.is_hidden();
    let watching = async {
        let mut last_line = None;
        loop {
            let mut left = 0;
            let mut lines = Vec::new();
            for (backfill, bar) in queued.iter().zip(&bars) {
                let state = read_progress(db, backfill, settings).await?;
                bar.set_position(state.read.as_secs());
                bar.set_message(state.describe());
                left += usize::from(!state.finished);
                lines.push(format!("account {}: {}", backfill.account.id.sub, state.describe()));
                if state.finished {
                    bar.finish_with_message("read");
                }
            }
            let due = last_line.is_none_or(|at| clock.tick().since(at) >= LINE_INTERVAL);
            if !is_drawn && (due || left == 0) {
                last_line = Some(clock.tick());
                lines.iter().for_each(|line| terminal::print_stderr(line));
            }
            if left == 0 {
                return anyhow::Ok(());
            }
            clock.sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        outcome = watching => {
            outcome?;
            let message = "read every window of the range; `ringcx-extractor status` shows the transcripts and summaries that are still to be fetched\n";
            terminal::print_stdout(message)?;
            Ok(0)
        }
        _ = tokio::signal::ctrl_c() => {
            bars.iter().for_each(ProgressBar::abandon);
            terminal::print_stderr("stopped waiting; the backfill stays queued, and a daemon continues it");
            Ok(0)
        }
    }
}

fn progress_bar(backfill: &QueuedBackfill) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>20.20} {bar:40} {percent:>3} %  {msg}");
    let bar = ProgressBar::new(backfill.range.width().as_secs().max(1));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_prefix(clean_line(backfill.account.name.as_deref().unwrap_or(&backfill.account.id.sub)))
}

/// The progress of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BackfillProgress {
    finished: bool,
    /// The width of the part of the range that was read.
    read: Duration,
    /// The width of the range.
    all: Duration,
    /// The estimated remaining time, including the other open backfills of the account.
    left: Duration,
}

impl BackfillProgress {
    fn describe(&self) -> String {
        if self.finished {
            return "read".to_owned();
        }
        format!(
            "{} of {} read, about {} left",
            human_format::format_duration(self.read),
            human_format::format_duration(self.all),
            human_format::format_duration(self.left)
        )
    }
}

async fn read_progress(db: &Db, backfill: &QueuedBackfill, settings: &Settings) -> anyhow::Result<BackfillProgress> {
    let open = open_backfills(db, backfill.account.key).await?;
    let rest = open.iter().find(|(id, _)| *id == backfill.id).map(|(_, left)| left.clone());
    if rest.is_none() {
        let all = db.backfills(Some(backfill.account.key), true).await?;
        let cancelled = all.iter().any(|request| request.id == backfill.id && request.cancelled.is_some());
        anyhow::ensure!(!cancelled, "backfill {} was cancelled before it was complete", backfill.id);
    }
    Ok(progress_of(
        backfill,
        rest.as_ref(),
        estimate_backfill_duration(&union_of_open(&open), &backfill.rules, &settings.discovery.rechecks),
    ))
}

/// Computes the progress. A backfill that is no longer open is finished.
fn progress_of(backfill: &QueuedBackfill, rest: Option<&TimeRangeSet>, left: Duration) -> BackfillProgress {
    let all = backfill.range.width();
    match rest {
        None => BackfillProgress { finished: true, read: all, all, left: Duration::ZERO },
        Some(rest) => BackfillProgress { finished: false, read: all.saturating_sub(rest.total()), all, left },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::backfill_command::tests::{hours, queued};
    use crate::clock::Time;
    use crate::model::TimeRange;

    #[test]
    fn what_is_left_of_the_range_says_how_far_it_is() {
        let one = queued(hours(0, 4));
        let rest = TimeRangeSet::from_unsorted(vec![hours(0, 1)]);
        let state = progress_of(&one, Some(&rest), Duration::from_secs(720));
        assert_eq!(state.describe(), "3h of 4h read, about 12m left");
    }

    #[test]
    fn a_request_that_is_no_longer_open_is_read() {
        let one = queued(TimeRange { from: Time::from_secs(0), to: Time::from_secs(60) });
        let state = progress_of(&one, None, Duration::ZERO);
        assert!(state.finished);
        assert_eq!(state.read, Duration::from_secs(60));
    }
}
