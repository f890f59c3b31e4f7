//! Tracks which time ranges of an account were read, and plans the next read.
//!
//! Pure: no I/O and no clock; time is passed in. The database stores what [`Coverage::record`]
//! returns. Each [`ReadPurpose`] has a set of covered ranges. A set grows only by a range whose
//! answer is completely stored, so a crash can repeat a read, but never lose one.
//! [`plan_next_read`] chooses the next read.

use std::fmt;
use std::time::Duration;

use crate::clock::Time;
use crate::model::{Lane, TimeRange, TimeRangeSet, Window};
use crate::ringcx::rate_limit::SlidingWindowLimiter;

mod candidates;
mod failed_window_backoff;
mod planner;
mod planning_clock;
mod quota_forecast;

pub(crate) use failed_window_backoff::{FailedWindowBackoff, WindowFailure};
pub(crate) use planner::plan_next_read;
pub use planning_clock::ClockReadings;
pub(crate) use planning_clock::{CLOCK_NOISE, PlanningClock};
pub use quota_forecast::estimate_backfill_duration;

/// The narrowest window. A window of one second covers nothing.
const MIN_WINDOW_SECS: i64 = 2;

/// The largest `timeInterval` that the API accepts (its reference, since August 2026).
const MAX_WINDOW_SECS: i64 = 10_800;

/// Why a time range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadPurpose {
    /// The first read, as soon as the range is past.
    Live,
    /// A second read for late arrivals. A moment is covered if it was read this long after itself,
    /// or later.
    Recheck(Duration),
    /// An operator's request. A moment is covered if it was read after the request with this id was
    /// made.
    Backfill(i64),
}

impl ReadPurpose {
    /// The name in the database: `live`, `recheck:3600` (the delay in seconds), `backfill:17`.
    pub fn key(&self) -> String {
        match self {
            ReadPurpose::Live => "live".to_owned(),
            ReadPurpose::Recheck(delay) if delay.subsec_nanos() == 0 => format!("recheck:{}", delay.as_secs()),
            ReadPurpose::Recheck(delay) => {
                let exact = format!("recheck:{}.{:09}", delay.as_secs(), delay.subsec_nanos());
                exact.trim_end_matches('0').to_owned()
            }
            ReadPurpose::Backfill(id) => format!("backfill:{id}"),
        }
    }

    /// Parses a name exactly as [`ReadPurpose::key`] writes it; `None` for any other text.
    pub fn parse(key: &str) -> Option<ReadPurpose> {
        let purpose = match key.split_once(':') {
            None => ReadPurpose::Live,
            Some(("recheck", delay)) => ReadPurpose::Recheck(parse_seconds(delay)?),
            Some(("backfill", id)) => ReadPurpose::Backfill(id.parse().ok()?),
            Some(_) => return None,
        };
        (purpose.key() == key).then_some(purpose)
    }
}

impl fmt::Display for ReadPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

/// Parses seconds with up to nine decimals. A float would not round-trip.
fn parse_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = if fraction.len() > 9 { return None } else { format!("{fraction:0<9}").parse().ok()? };
    Some(Duration::new(whole.parse().ok()?, nanos))
}

/// The coverage of one recheck delay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recheck {
    /// Nothing before this is rechecked: the delay was configured later.
    pub base: Time,
    /// The ranges that were read late enough.
    pub done: TimeRangeSet,
}

/// The coverage of a backfill request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backfill {
    /// The request's key in the database.
    pub id: i64,
    /// The requested range.
    pub range: TimeRange,
    /// Whether it is read from the newest to the oldest.
    pub newest_first: bool,
    /// The ranges that were read after the request.
    pub done: TimeRangeSet,
}

impl Backfill {
    /// The ranges that are not read yet, including those that are too recent to be read now.
    pub fn remaining(&self) -> TimeRangeSet {
        single_range(self.range).minus(&self.done)
    }
}

/// The covered ranges of one account, by purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The start of the first live window, in whole seconds; see [`PlanningRules::first_start`].
    pub live_start: Time,
    /// The ranges that were read at least once.
    pub live: TimeRangeSet,
    /// The rechecks, by delay.
    pub rechecks: Vec<(Duration, Recheck)>,
    /// The unfinished backfills, in the order in which they are served.
    pub backfills: Vec<Backfill>,
}

impl Coverage {
    /// The coverage of an account of which nothing was read.
    pub fn new(live_start: Time) -> Coverage {
        Coverage { live_start, live: TimeRangeSet::default(), rechecks: Vec::new(), backfills: Vec::new() }
    }

    /// Records a read that covers `range` and whose request was sent at `read_at`, the API's time.
    ///
    /// Returns the newly covered ranges of each purpose. Recording the same read again returns
    /// nothing.
    pub fn record(&mut self, range: TimeRange, read_at: Time) -> Vec<(ReadPurpose, TimeRange)> {
        let mut gained = add_range(ReadPurpose::Live, &mut self.live, Some(range));
        for (delay, recheck) in &mut self.rechecks {
            let late_enough = TimeRange::new(range.from, range.to.min((read_at - *delay).floor_to_second()));
            gained.extend(add_range(ReadPurpose::Recheck(*delay), &mut recheck.done, late_enough));
        }
        for backfill in &mut self.backfills {
            let requested = range.intersect(backfill.range);
            gained.extend(add_range(ReadPurpose::Backfill(backfill.id), &mut backfill.done, requested));
        }
        gained
    }

    /// Adds a range that the database holds. Ignores a recheck or backfill that no longer exists.
    pub fn restore(&mut self, purpose: ReadPurpose, range: TimeRange) {
        let held = match purpose {
            ReadPurpose::Live => Some(&mut self.live),
            ReadPurpose::Recheck(delay) => {
                self.rechecks.iter_mut().find(|(known, _)| *known == delay).map(|(_, recheck)| &mut recheck.done)
            }
            ReadPurpose::Backfill(id) => {
                self.backfills.iter_mut().find(|backfill| backfill.id == id).map(|backfill| &mut backfill.done)
            }
        };
        if let Some(held) = held {
            held.insert(range);
        }
    }

    /// Whether any covered range ends after `now`.
    pub fn extends_beyond(&self, now: Time) -> bool {
        self.sets().any(|set| set.as_slice().last().is_some_and(|last| last.to > now))
    }

    /// Removes the covered time after `now`, which cannot have been read.
    pub fn truncate_at(&mut self, now: Time) {
        let Some(past) = TimeRange::new(Time(i64::MIN), now) else { return };
        self.live = self.live.within(past);
        for (_, recheck) in &mut self.rechecks {
            recheck.done = recheck.done.within(past);
        }
        for backfill in &mut self.backfills {
            backfill.done = backfill.done.within(past);
        }
    }

    fn sets(&self) -> impl Iterator<Item = &TimeRangeSet> {
        let rechecks = self.rechecks.iter().map(|(_, recheck)| &recheck.done);
        let backfills = self.backfills.iter().map(|backfill| &backfill.done);
        std::iter::once(&self.live).chain(rechecks).chain(backfills)
    }

    /// The end of the gapless live coverage from the first live window's start; `None` before the
    /// first read.
    pub fn watermark(&self) -> Option<Time> {
        self.live.range_containing(self.live_start).map(|unbroken| unbroken.to)
    }

    /// The ranges that were never read between the first live window's start and `until`.
    pub fn gaps(&self, until: Time) -> TimeRangeSet {
        TimeRange::new(self.live_start, until).map(single_range).unwrap_or_default().minus(&self.live)
    }

    /// The newest end of live coverage; `None` before the first live read. Backfills of earlier
    /// time do not count.
    pub fn live_edge(&self) -> Option<Time> {
        self.live.as_slice().last().map(|newest| newest.to).filter(|edge| *edge > self.live_start)
    }

    /// The ids of the completely read backfills.
    pub fn finished_backfills(&self) -> Vec<i64> {
        let complete = |backfill: &&Backfill| backfill.remaining().is_empty();
        self.backfills.iter().filter(complete).map(|backfill| backfill.id).collect()
    }
}

/// A set of one range.
fn single_range(range: TimeRange) -> TimeRangeSet {
    TimeRangeSet::from_unsorted(vec![range])
}

/// Adds a range to the set of a purpose; returns the part that was not covered before.
fn add_range(purpose: ReadPurpose, held: &mut TimeRangeSet, range: Option<TimeRange>) -> Vec<(ReadPurpose, TimeRange)> {
    let Some(range) = range else { return Vec::new() };
    let new = single_range(range).minus(held);
    held.insert(range);
    new.as_slice().iter().map(|range| (purpose, *range)).collect()
}

/// The settings that planning depends on. Durations count in whole seconds, rounded down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanningRules {
    /// The width of the sliding live window.
    pub window: Duration,
    /// How far before now a window must end.
    pub offset: Duration,
    /// How often the live window slides.
    pub interval: Duration,
    /// The widest window of a request.
    pub max_window: Duration,
    /// The limits of metadata reads.
    pub limits: SlidingWindowLimiter,
    /// How long the vendor keeps its data, if that is known.
    pub retention: Option<Duration>,
}

impl PlanningRules {
    /// The latest end of a window.
    pub fn horizon(&self, now: Time) -> Time {
        (now - self.offset).floor_to_second()
    }

    /// [`Coverage::live_start`] for `start = "now"`: one window before the horizon.
    ///
    /// One second less if the window is as wide as the widest request, so that a single request
    /// covers all of it.
    pub fn first_start(&self, now: Time) -> Time {
        let width = whole_seconds(self.window).clamp(1, self.max_window_secs() - 1);
        self.horizon(now).plus_millis(-width * 1000)
    }

    /// The longest time between two live reads in normal operation: the interval, or more if the
    /// limits require it.
    pub fn max_live_interval(&self) -> Duration {
        Duration::from_secs(u64::try_from(quota_forecast::sustainable_interval_secs(self)).unwrap_or(0))
    }

    /// The widest window.
    fn max_window_secs(&self) -> i64 {
        whole_seconds(self.max_window).clamp(MIN_WINDOW_SECS, MAX_WINDOW_SECS)
    }

    /// The time between two live reads.
    fn interval_secs(&self) -> i64 {
        whole_seconds(self.interval).max(1)
    }

    /// The width of one recheck with this delay. It is wide, to need few requests.
    fn recheck_width_secs(&self, delay: Duration) -> i64 {
        self.interval_secs().max(whole_seconds(delay) / 4).min(self.max_window_secs() - 1)
    }
}

/// Whole seconds, rounded down.
fn whole_seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// A window that is planned to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRead {
    /// The urgency.
    pub lane: Lane,
    /// The window to request.
    pub window: Window,
    /// The range that is covered once the whole answer is stored: pass it to [`Coverage::record`].
    pub range: TimeRange,
    /// Why it is read. Gaps and repairs are read for the live purpose.
    pub purpose: ReadPurpose,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Read this window now.
    Read(PlannedRead),
    /// Nothing is to be read yet.
    Wait {
        /// When to plan again; later than the plan's `now`.
        until: Time,
    },
}

/// A range whose read failed recently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailedWindow {
    /// The range that could not be read.
    pub range: TimeRange,
    /// When it may be requested again.
    pub retry_at: Time,
    /// The widest window for it, also after `retry_at`: narrow if its answers kept arriving
    /// incomplete.
    pub max_width: Duration,
}

/// A range with quarantined records. It is read again, in case the records become readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repair {
    /// The range to read again. The caller removes what was read. A range wider than one request is
    /// read oldest first.
    pub range: TimeRange,
    /// When it may be read.
    pub due: Time,
}

#[cfg(test)]
mod planner_simulation;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
