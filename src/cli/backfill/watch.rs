//! `--wait`: how far a backfill is, from what the database says has been read.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Clock, Db, Queued, Settings, estimate, open, together};
use crate::cli::{terminal, words};
use crate::model::Stretches;
use crate::reading::clean;

/// Between looks at the database.
const GLANCE: Duration = Duration::from_secs(1);
/// Between lines where there is no terminal to draw on.
const LINE: Duration = Duration::from_secs(15);

/// Waits until all are read, or until Ctrl-C; then they stay queued. Returns the exit status.
pub(super) async fn wait(db: &Db, queued: &[Queued], settings: &Settings, clock: &Clock) -> anyhow::Result<u8> {
    let screen = MultiProgress::new();
    let bars: Vec<ProgressBar> = queued.iter().map(|one| screen.add(bar(one))).collect();
    let draws = !screen.is_hidden();
    let watching = async {
        let mut said = None;
        loop {
            let mut left = 0;
            let mut lines = Vec::new();
            for (one, bar) in queued.iter().zip(&bars) {
                let state = state(db, one, settings).await?;
                bar.set_position(state.read.as_secs());
                bar.set_message(state.words());
                left += usize::from(!state.finished);
                lines.push(format!("account {}: {}", one.account.id.sub, state.words()));
                if state.finished {
                    bar.finish_with_message("read");
                }
            }
            let due = said.is_none_or(|at| clock.tick().since(at) >= LINE);
            if !draws && (due || left == 0) {
                said = Some(clock.tick());
                lines.iter().for_each(|line| terminal::remark(line));
            }
            if left == 0 {
                return anyhow::Ok(());
            }
            clock.sleep(GLANCE).await;
        }
    };
    tokio::select! {
        outcome = watching => {
            outcome?;
            let announced = "read: every window of the range; transcripts and summaries that are still to come are in `ringcx-extractor status`\n";
            terminal::print(announced)?;
            Ok(0)
        }
        _ = tokio::signal::ctrl_c() => {
            bars.iter().for_each(ProgressBar::abandon);
            terminal::remark("stopped waiting; the backfill stays queued, and a daemon goes on with it");
            Ok(0)
        }
    }
}

fn bar(one: &Queued) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>20.20} {bar:40} {percent:>3} %  {msg}");
    let bar = ProgressBar::new(one.range.width().as_secs().max(1));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_prefix(clean(one.account.name.as_deref().unwrap_or(&one.account.id.sub)).replace('\n', " "))
}

/// How far a backfill is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    finished: bool,
    /// Of the range.
    read: Duration,
    all: Duration,
    /// How long the rest takes, what else is queued for the account included.
    left: Duration,
}

impl State {
    fn words(&self) -> String {
        if self.finished {
            return "read".to_owned();
        }
        format!("{} of {} read, about {} left", words::span(self.read), words::span(self.all), words::span(self.left))
    }
}

async fn state(db: &Db, one: &Queued, settings: &Settings) -> anyhow::Result<State> {
    let open = open(db, one.account.key).await?;
    let rest = open.iter().find(|(id, _)| *id == one.id).map(|(_, left)| left.clone());
    if rest.is_none() {
        let all = db.backfills(Some(one.account.key), true).await?;
        let cancelled = all.iter().any(|request| request.id == one.id && request.cancelled.is_some());
        anyhow::ensure!(!cancelled, "backfill {} was cancelled before it was complete", one.id);
    }
    Ok(state_of(one, rest.as_ref(), estimate(&together(&open), &one.rules, &settings.discovery.rechecks)))
}

/// A request that is no longer open is finished.
fn state_of(one: &Queued, rest: Option<&Stretches>, left: Duration) -> State {
    let all = one.range.width();
    match rest {
        None => State { finished: true, read: all, all, left: Duration::ZERO },
        Some(rest) => State { finished: false, read: all.saturating_sub(rest.total()), all, left },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::backfill::tests::{hours, queued};
    use crate::clock::Time;
    use crate::model::Stretch;

    #[test]
    fn what_is_left_of_the_range_says_how_far_it_is() {
        let one = queued(hours(0, 4));
        let rest = Stretches::from_unsorted(vec![hours(0, 1)]);
        let state = state_of(&one, Some(&rest), Duration::from_secs(720));
        assert_eq!(state.words(), "3h of 4h read, about 12m left");
    }

    #[test]
    fn a_request_that_is_no_longer_open_is_read() {
        let one = queued(Stretch { from: Time::from_secs(0), to: Time::from_secs(60) });
        let state = state_of(&one, None, Duration::ZERO);
        assert!(state.finished);
        assert_eq!(state.read, Duration::from_secs(60));
    }
}
