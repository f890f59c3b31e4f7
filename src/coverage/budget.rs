//! The arithmetic of the metadata budget: the room that live reads need in its sliding limits, and what is left of it.
//!
//! Pure. The limits themselves are [`Sliding`]'s, which also decides when a reserved request may go.

use std::time::Duration;

use super::{Rules, seconds};
use crate::clock::{Time, millis};
use crate::model::Stretches;
use crate::sliding::{GUARD, Sliding};

const SECOND: Duration = Duration::from_secs(1);

/// The requests that still count against the limits.
#[derive(Debug, Clone)]
pub(super) struct Budget<'a> {
    limits: &'a Sliding,
    /// In order; none later than one that is under way at the time that this was made for.
    counted: Vec<Time>,
}

impl<'a> Budget<'a> {
    /// Requests from the future (the clock was stepped back) count as under way just now.
    pub(super) fn new(limits: &'a Sliding, log: &[Time], now: Time) -> Budget<'a> {
        Budget { limits, counted: Sliding::in_order(log, now) }
    }

    /// The first moment not before `from` at which a request keeps every limit; `from` is not before the last request.
    pub(super) fn earliest(&self, from: Time) -> Time {
        self.limits.earliest_after(&self.counted, from)
    }

    /// Whether a request at `at` leaves every later live read the second that it would have without it.
    ///
    /// Not the moment: a live read that follows another one by just the limit's window has to wait until that one has
    /// left it for certain, some fraction of a second later. Windows are of whole seconds, so it reads the same; to keep
    /// the moment would cost one request of nine in every window.
    ///
    /// Plays both futures until the request no longer counts: live reads are due at `due` (not before `at`) and then
    /// every `pace` seconds of window ends.
    pub(super) fn leaves_room(&self, rules: &Rules, at: Time, due: Time, pace: i64) -> bool {
        let longest = self.limits.memory();
        // Where the limits are wide enough for all of it, there is nothing to be played.
        let lives = longest.as_secs() / pace.max(1).unsigned_abs() + 2;
        let all = lives.saturating_add(self.counted.len() as u64 + 1);
        if self.limits.rules().iter().all(|(most, _)| all <= u64::from(*most)) {
            return true;
        }
        let mut without = self.clone();
        let mut with = self.clone();
        with.send(at);
        let mut due = due;
        while due < at + longest {
            let read = without.earliest(due);
            let late = with.earliest(due);
            if late > read && late >= due + SECOND {
                return false;
            }
            without.send(read);
            with.send(read);
            due = rules.horizon(read).plus_millis(pace.saturating_mul(1000)) + rules.offset;
        }
        true
    }

    /// Looks ahead at a request as if it were counted when it goes, which it is but for a moment.
    fn send(&mut self, at: Time) {
        self.counted.insert(self.counted.partition_point(|earlier| *earlier <= at), at);
    }
}

/// How far apart live reads are, in seconds, while something else waits to be read.
///
/// The interval, unless live reads would take more than about three quarters of some limit: then as far apart as
/// leaves the rest. Of a limit of one, every other request.
pub(super) fn sustainable(rules: &Rules) -> i64 {
    let paces = rules.sliding.rules().iter().map(|(most, width)| {
        let most = i64::from(*most).max(1);
        let others = ((most + 2) / 4).max(1);
        let width = millis(width.saturating_add(GUARD));
        let pace = if most > others {
            width.saturating_add(most - others - 1) / (most - others)
        } else {
            width.saturating_mul(2)
        };
        pace.saturating_add(999) / 1000
    });
    paces.fold(rules.slide(), i64::max)
}

/// How long it takes to read `remaining` of the past while live reads and rechecks go on.
///
/// - Requests: each stretch divided by `max_window` less the second that a window does not vouch for, rounded up.
/// - Live: one request per interval, or fewer as far as live reads have to leave a quarter to others.
/// - Rechecks: for each delay one request per width read at once (the least of `max_window` and the greater of the
///   interval and a quarter of the delay); none for a delay within the offset, which live reads satisfy.
/// - Left over: of each limit its rate less both, but a quarter of what live leaves at least, for so much is kept free
///   from rechecks; the tightest limit counts.
///
/// With the default settings: 9 in 15 minutes less 3 less 1.5 leaves 4.5, so 30 days (721 requests) take 40 hours.
pub fn estimate(remaining: &Stretches, rules: &Rules, rechecks: &[Duration]) -> Duration {
    let vouched = rules.widest() - 1;
    let requests: i64 = remaining
        .as_slice()
        .iter()
        .map(|stretch| seconds(stretch.width() + Duration::from_millis(999)).saturating_add(vouched - 1) / vouched)
        .sum();
    let live = per_second(sustainable(rules));
    let again: f64 = rechecks
        .iter()
        .filter(|delay| **delay > rules.offset)
        .map(|delay| per_second(rules.recheck_width(*delay)))
        .sum();
    let left = rules.sliding.rules().iter().map(|(most, width)| {
        let beside_live = f64::from((*most).max(1)) / width.as_secs_f64().max(0.001) - live;
        (beside_live - again).max(beside_live / 4.0)
    });
    let rate = left.fold(f64::INFINITY, f64::min);
    #[expect(clippy::cast_precision_loss, reason = "requests are few enough to be exact")]
    Duration::try_from_secs_f64(requests as f64 / rate).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "settings are small enough to be exact")]
fn per_second(every: i64) -> f64 {
    1.0 / every.max(1) as f64
}
