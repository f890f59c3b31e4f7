//! What has been read of an account's time line, and what that leaves owed.
//!
//! Pure: no I/O and no clock, time comes in as an argument; the database stores what [`Coverage::record`] returns.
//! For every [`Pass`] there is a set of stretches that it is satisfied with. They only ever grow, by what a wholly
//! stored answer vouches for, so a crash can repeat a read and never lose one. [`plan`] says what to read next.

use std::fmt;
use std::time::Duration;

use crate::clock::Time;
use crate::model::{Lane, Stretch, Stretches, Window};
use crate::sliding::Sliding;

mod budget;
mod cooling;
mod planner;
mod planning_clock;
mod wanted;

pub use budget::estimate;
pub use cooling::{CoolingDown, Ending};
pub use planner::plan;
pub use planning_clock::{CLOCK_NOISE, ClockReadings, PlanningClock};

/// The least that a window may be wide: one of a single second vouches for nothing.
const NARROWEST: i64 = 2;

/// The most that the API takes as `timeInterval`, in seconds (its reference, since August 2026).
const WIDEST: i64 = 10_800;

/// What a stretch of time is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// Once, as soon as it may be read.
    Live,
    /// Again for late arrivals: a moment counts if it was read so long after itself, or later.
    Recheck(Duration),
    /// Because a person asked: a moment counts if it was read since the request with this id was made.
    Backfill(i64),
}

impl Pass {
    /// The name in the database: `live`, `recheck:3600` (the delay in seconds), `backfill:17`.
    pub fn key(&self) -> String {
        match self {
            Pass::Live => "live".to_owned(),
            Pass::Recheck(delay) if delay.subsec_nanos() == 0 => format!("recheck:{}", delay.as_secs()),
            Pass::Recheck(delay) => {
                let exact = format!("recheck:{}.{:09}", delay.as_secs(), delay.subsec_nanos());
                exact.trim_end_matches('0').to_owned()
            }
            Pass::Backfill(id) => format!("backfill:{id}"),
        }
    }

    /// The pass with this name; `None` for anything that [`Pass::key`] does not say in just this way.
    pub fn parse(key: &str) -> Option<Pass> {
        let pass = match key.split_once(':') {
            None => Pass::Live,
            Some(("recheck", delay)) => Pass::Recheck(parse_seconds(delay)?),
            Some(("backfill", id)) => Pass::Backfill(id.parse().ok()?),
            Some(_) => return None,
        };
        (pass.key() == key).then_some(pass)
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

/// Seconds with up to nine decimals; not by way of a float, which would not come back the same.
fn parse_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = if fraction.len() > 9 { return None } else { format!("{fraction:0<9}").parse().ok()? };
    Some(Duration::new(whole.parse().ok()?, nanos))
}

/// How far one level of rechecks has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recheck {
    /// Nothing before it is owed: the level was configured later.
    pub base: Time,
    /// What has been read late enough.
    pub done: Stretches,
}

/// How far a person's request for the past has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backfill {
    /// Its number in the database.
    pub id: i64,
    /// What was asked for.
    pub range: Stretch,
    /// From the newest to the oldest, or the other way.
    pub newest_first: bool,
    /// What has been read since it was asked for.
    pub done: Stretches,
}

impl Backfill {
    /// What is still to be read, also what lies too near to the present for now.
    pub fn remaining(&self) -> Stretches {
        only(self.range).minus(&self.done)
    }
}

/// What has been read of one account, by pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Where the first live window starts, in whole seconds; see [`Rules::first_start`].
    pub live_start: Time,
    /// What has been read at all.
    pub live: Stretches,
    /// By delay.
    pub rechecks: Vec<(Duration, Recheck)>,
    /// Those that are not finished, in the order in which they are to be served.
    pub backfills: Vec<Backfill>,
}

impl Coverage {
    /// Of an account of which nothing has been read.
    pub fn new(live_start: Time) -> Coverage {
        Coverage { live_start, live: Stretches::default(), rechecks: Vec::new(), backfills: Vec::new() }
    }

    /// Takes in a read that vouches for `stretch` and whose request was sent at `read_at`, the API's time.
    ///
    /// Returns what each pass gained by it: only what it did not have, so that the same read again returns nothing.
    pub fn record(&mut self, stretch: Stretch, read_at: Time) -> Vec<(Pass, Stretch)> {
        let mut gained = gain(Pass::Live, &mut self.live, Some(stretch));
        for (delay, recheck) in &mut self.rechecks {
            let late_enough = Stretch::new(stretch.from, stretch.to.min((read_at - *delay).floor_to_second()));
            gained.extend(gain(Pass::Recheck(*delay), &mut recheck.done, late_enough));
        }
        for backfill in &mut self.backfills {
            let asked_for = stretch.intersect(backfill.range);
            gained.extend(gain(Pass::Backfill(backfill.id), &mut backfill.done, asked_for));
        }
        gained
    }

    /// Puts back what the database holds of a pass; a recheck or backfill that is no longer known is passed over.
    pub fn restore(&mut self, pass: Pass, stretch: Stretch) {
        let held = match pass {
            Pass::Live => Some(&mut self.live),
            Pass::Recheck(delay) => {
                self.rechecks.iter_mut().find(|(known, _)| *known == delay).map(|(_, recheck)| &mut recheck.done)
            }
            Pass::Backfill(id) => {
                self.backfills.iter_mut().find(|backfill| backfill.id == id).map(|backfill| &mut backfill.done)
            }
        };
        if let Some(held) = held {
            held.insert(stretch);
        }
    }

    /// Whether anything counts as read that ends after `now`.
    pub fn reaches_beyond(&self, now: Time) -> bool {
        self.sets().any(|set| set.as_slice().last().is_some_and(|last| last.to > now))
    }

    /// Forgets what counts as read of the time after `now`, which nobody can have read.
    pub fn cut(&mut self, now: Time) {
        let Some(past) = Stretch::new(Time(i64::MIN), now) else { return };
        self.live = self.live.within(past);
        for (_, recheck) in &mut self.rechecks {
            recheck.done = recheck.done.within(past);
        }
        for backfill in &mut self.backfills {
            backfill.done = backfill.done.within(past);
        }
    }

    fn sets(&self) -> impl Iterator<Item = &Stretches> {
        let rechecks = self.rechecks.iter().map(|(_, recheck)| &recheck.done);
        let backfills = self.backfills.iter().map(|backfill| &backfill.done);
        std::iter::once(&self.live).chain(rechecks).chain(backfills)
    }

    /// Everything from the first live window's start up to here was read without a gap; `None` before the first read.
    pub fn watermark(&self) -> Option<Time> {
        self.live.holding(self.live_start).map(|unbroken| unbroken.to)
    }

    /// What was never read between the first live window's start and `until`.
    pub fn gaps(&self, until: Time) -> Stretches {
        Stretch::new(self.live_start, until).map(only).unwrap_or_default().minus(&self.live)
    }

    /// The newest end of live coverage; `None` before the first live read, whatever was read of the past before it.
    pub fn live_edge(&self) -> Option<Time> {
        self.live.as_slice().last().map(|newest| newest.to).filter(|edge| *edge > self.live_start)
    }

    /// The ids of the backfills of which nothing remains.
    pub fn finished(&self) -> Vec<i64> {
        let complete = |backfill: &&Backfill| backfill.remaining().is_empty();
        self.backfills.iter().filter(complete).map(|backfill| backfill.id).collect()
    }
}

/// The set of one stretch.
fn only(stretch: Stretch) -> Stretches {
    Stretches::from_unsorted(vec![stretch])
}

fn gain(pass: Pass, held: &mut Stretches, stretch: Option<Stretch>) -> Vec<(Pass, Stretch)> {
    let Some(stretch) = stretch else { return Vec::new() };
    let new = only(stretch).minus(held);
    held.insert(stretch);
    new.as_slice().iter().map(|stretch| (pass, *stretch)).collect()
}

/// The settings that planning depends on; durations count in whole seconds, rounded down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Width of the sliding live window.
    pub window: Duration,
    /// No window ends later than so long before now.
    pub offset: Duration,
    /// How often the live window slides.
    pub interval: Duration,
    /// Widest request.
    pub max_window: Duration,
    /// The metadata limits.
    pub sliding: Sliding,
    /// After how long the vendor deletes what it has, where that is known.
    pub retention: Option<Duration>,
}

impl Rules {
    /// No window may end after this.
    pub fn horizon(&self, now: Time) -> Time {
        (now - self.offset).floor_to_second()
    }

    /// [`Coverage::live_start`] for `start = "now"`: what ended in the window before the horizon.
    ///
    /// A second less where the window is the widest request allowed, so that a single request vouches for all of it.
    pub fn first_start(&self, now: Time) -> Time {
        let width = seconds(self.window).clamp(1, self.widest() - 1);
        self.horizon(now).plus_millis(-width * 1000)
    }

    /// How far apart live reads are at the most while all is well: the interval, or as far as the limits make it.
    pub fn live_pace(&self) -> Duration {
        Duration::from_secs(u64::try_from(budget::sustainable(self)).unwrap_or(0))
    }

    /// The widest window in seconds.
    fn widest(&self) -> i64 {
        seconds(self.max_window).clamp(NARROWEST, WIDEST)
    }

    /// The interval in seconds.
    fn slide(&self) -> i64 {
        seconds(self.interval).max(1)
    }

    /// How much of the time line a recheck with this delay reads at once, in seconds: wide, to cost little.
    fn recheck_width(&self, delay: Duration) -> i64 {
        self.slide().max(seconds(delay) / 4).min(self.widest() - 1)
    }
}

/// Whole seconds, rounded down.
fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// A window to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// How urgent it is.
    pub lane: Lane,
    /// The request.
    pub window: Window,
    /// What it will vouch for once its whole answer is stored: give this to [`Coverage::record`].
    pub stretch: Stretch,
    /// What it is read for; a gap and a repair are read for the live pass.
    pub why: Pass,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Read this now.
    Read(Want),
    /// Nothing may be read before.
    Wait {
        /// When to plan again; later than the time that the plan was made for.
        until: Time,
    },
}

/// A stretch whose reading failed lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooling {
    /// What could not be read.
    pub stretch: Stretch,
    /// Not to be asked for again before this.
    pub until: Time,
    /// The widest request that may be tried for it, also after `until`: narrow where its answer kept not arriving whole.
    pub max_width: Duration,
}

/// A stretch with records that could not be understood; it is read again in case they can be, later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// What is left to be read again: the caller takes out what has been read. Wider than a request it goes in several,
    /// oldest first.
    pub stretch: Stretch,
    /// Not before this.
    pub due: Time,
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
