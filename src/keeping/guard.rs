//! When retention may erase at all. Pure.
//!
//! Nothing brings back what retention took, so a wrong clock must not make it act: all clocks have to agree, and a pass
//! that would take an unusual share of an account is announced a day before it runs.

use std::time::Duration;

use super::judge::slack;
use crate::clock::Time;

/// Clocks agree that differ by no more than this.
pub const CLOCKS_AGREE_WITHIN: Duration = Duration::from_secs(300);
/// How long an unusual pass is announced before it runs, in time that has really passed.
pub const NOTICE_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// No more than this passes between two passes, nor more than a tenth of the retention.
pub const LONGEST_BETWEEN_PASSES: Duration = Duration::from_secs(3600);
/// The least and the most by which something has to be overdue, beyond the slack, before a pass can be unusual.
const LEAST_OVERDUE: Duration = Duration::from_secs(3600);
const MOST_OVERDUE: Duration = Duration::from_secs(24 * 3600);
/// So few segments are an unusual share only where they are more than half of the account.
const FEW_SEGMENTS: u64 = 10;
/// More than one in so many is an unusual share.
const USUAL_SHARE: u64 = 10;

/// What every clock says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionClocks {
    /// This machine's.
    pub machine: Time,
    /// What the API's has said lately, once it has answered often enough; one time for each way of telling it.
    pub api: Vec<Time>,
    /// Whether enough of its answers have agreed over some time.
    pub api_is_believed: bool,
    /// The database's, where it has one of its own.
    pub database: Option<Time>,
}

/// What the clocks say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockCheck {
    /// The API has not answered often enough yet.
    Unknown,
    /// They differ by too much: which, in one sentence.
    Differ(String),
    /// They agree; the earliest of them.
    Agree(Time),
}

impl RetentionClocks {
    /// Compares them, the API's left out: for what may be done by an API that tells no time.
    pub fn check_without_api(&self) -> ClockCheck {
        RetentionClocks { api: vec![self.machine], ..self.clone() }.check()
    }

    /// Compares them.
    pub fn check(&self) -> ClockCheck {
        if self.api.is_empty() {
            return ClockCheck::Unknown;
        }
        let named = self.api.iter().map(|time| ("the API's", *time));
        let named: Vec<_> = named.chain(self.database.map(|time| ("the database's", time))).collect();
        for (name, time) in &named {
            if apart(self.machine, *time) > CLOCKS_AGREE_WITHIN {
                return ClockCheck::Differ(compared("this machine's clock", self.machine, name, *time));
            }
        }
        let all = || named.iter().map(|(_, time)| *time).chain([self.machine]);
        let (earliest, latest) = (all().fold(self.machine, Time::min), all().fold(self.machine, Time::max));
        if latest.since(earliest) > CLOCKS_AGREE_WITHIN {
            return ClockCheck::Differ(format!(
                "the API's clock and the database's are {} apart",
                span(latest.since(earliest))
            ));
        }
        ClockCheck::Agree(earliest)
    }
}

/// Whether what the archive holds was stored at a time that is still to come; in one sentence.
pub fn stored_later_than(now: Time, newest: Option<Time>) -> Option<String> {
    let newest = newest.filter(|newest| newest.since(now) > CLOCKS_AGREE_WITHIN)?;
    Some(format!("the archive was written {} later than all clocks say it is now", span(newest.since(now))))
}

fn apart(one: Time, other: Time) -> Duration {
    one.since(other).max(other.since(one))
}

fn compared(one: &str, at: Time, other: &str, time: Time) -> String {
    let direction = if at > time { "ahead of" } else { "behind" };
    format!("{one} is {} {direction} {other}", span(apart(at, time)))
}

/// A span in the largest unit that leaves two of it.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What a pass would take of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueSegments {
    /// When the oldest of them ended.
    pub oldest: Time,
    /// How many they are.
    pub due: u64,
    /// How many segments the account has.
    pub held: u64,
}

/// How far apart the passes over an account are, while all is well.
pub fn between_passes(retention: Duration) -> Duration {
    (retention / 10).min(LONGEST_BETWEEN_PASSES)
}

/// Whether what ended at `oldest` is past `cutoff` by more than it can be where retention has been applied all along: a
/// pass may come late, or be missed.
pub fn is_long_overdue(retention: Duration, cutoff: Time, oldest: Time) -> bool {
    let usually = (retention / 10).max(between_passes(retention) * 2).clamp(LEAST_OVERDUE, MOST_OVERDUE);
    cutoff.since(oldest) > slack(retention) + usually
}

impl DueSegments {
    /// Whether a pass takes more of the account than retention usually does: after the setting was introduced or shortened,
    /// after a long stop, or by a wrong clock.
    pub fn is_unusual(&self, retention: Duration, cutoff: Time) -> bool {
        let share = if self.due > FEW_SEGMENTS { USUAL_SHARE } else { 2 };
        is_long_overdue(retention, cutoff, self.oldest) && self.due.saturating_mul(share) > self.held
    }
}

/// An unusual pass that was announced, as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionNotice {
    /// The retention that it was announced for.
    pub retention: Duration,
    /// When it was first announced, for people.
    pub announced: Time,
    /// How much time has really passed since, while a daemon was running.
    pub waited: Duration,
    /// How many segments it would take.
    pub segments: u64,
    /// Whether a person has said that it may run.
    pub approved: bool,
}

/// Whether a pass may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassDecision {
    /// At once.
    Run,
    /// Not before the rest of the notice's time has passed; the notice is to be stored.
    Wait(RetentionNotice),
}

/// Decides about an unusual pass: `elapsed` is the time that has really passed since this process last decided.
pub fn decide_pass(
    due: DueSegments,
    notice: Option<RetentionNotice>,
    retention: Duration,
    elapsed: Duration,
    now: Time,
) -> PassDecision {
    let fresh = RetentionNotice { retention, announced: now, waited: Duration::ZERO, segments: 0, approved: false };
    // A notice of another retention was about other segments.
    let known = notice.filter(|notice| notice.approved || notice.retention == retention);
    let waited = known.as_ref().map_or(Duration::ZERO, |notice| notice.waited + elapsed);
    let notice = RetentionNotice { waited, segments: due.due, ..known.unwrap_or(fresh) };
    if notice.approved || notice.waited >= NOTICE_PERIOD { PassDecision::Run } else { PassDecision::Wait(notice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn clocks(machine: i64, api: &[i64], database: Option<i64>) -> ClockCheck {
        let at = |minutes: i64| NOW.plus_millis(minutes * 60_000);
        let api = api.iter().map(|minutes| at(*minutes)).collect();
        RetentionClocks { machine: at(machine), api, database: database.map(at), api_is_believed: false }.check()
    }

    #[test]
    fn clocks_have_to_agree_within_five_minutes_and_the_earliest_counts() {
        let days = |days: i64| days * 24 * 60;
        assert_eq!(clocks(0, &[], Some(0)), ClockCheck::Unknown, "before the first answer");
        assert_eq!(clocks(0, &[5], None), ClockCheck::Agree(NOW));
        assert_eq!(clocks(2, &[0, 1], Some(2)), ClockCheck::Agree(NOW));
        let differ = |sentence: &str| ClockCheck::Differ(sentence.to_owned());
        assert_eq!(clocks(days(400), &[0], None), differ("this machine's clock is 400 days ahead of the API's"));
        assert_eq!(clocks(days(32), &[0], Some(0)), differ("this machine's clock is 32 days ahead of the API's"));
        assert_eq!(clocks(0, &[0], Some(-6)), differ("this machine's clock is 6 min ahead of the database's"));
        assert_eq!(clocks(0, &[0, days(3)], None), differ("this machine's clock is 3 days behind the API's"));
        assert_eq!(clocks(0, &[4], Some(-4)), differ("the API's clock and the database's are 8 min apart"));
        let silent = RetentionClocks { machine: NOW, database: Some(NOW - DAY), ..RetentionClocks::default() };
        assert_eq!(silent.check(), ClockCheck::Unknown);
        assert!(matches!(silent.check_without_api(), ClockCheck::Differ(_)));
        assert_eq!(RetentionClocks { database: None, ..silent }.check_without_api(), ClockCheck::Agree(NOW));
    }

    #[test]
    fn an_archive_that_was_written_later_than_now_contradicts_every_clock() {
        assert_eq!(stored_later_than(NOW, None), None);
        assert_eq!(stored_later_than(NOW, Some(NOW + CLOCKS_AGREE_WITHIN)), None);
        let found = stored_later_than(NOW, Some(NOW + 3 * DAY)).unwrap();
        assert_eq!(found, "the archive was written 3 days later than all clocks say it is now");
    }

    #[test]
    fn a_steady_retention_is_never_unusual_however_short() {
        const HOUR: Duration = Duration::from_secs(3600);
        for retention in [HOUR / 720, HOUR / 2, HOUR, 5 * HOUR, 10 * HOUR, DAY, 30 * DAY, 365 * DAY] {
            // A pass takes what is overdue by more than the slack, and one may be missed.
            let late = slack(retention) + between_passes(retention) * 2;
            for held in [1, 5, 1_000] {
                let due = DueSegments { oldest: NOW - late, due: held, held };
                assert!(!due.is_unusual(retention, NOW), "{retention:?}");
            }
        }
    }

    #[test]
    fn a_large_share_that_is_long_overdue_is_unusual() {
        let due = |days: u32, due, held| DueSegments { oldest: NOW - days * DAY, due, held };
        // The first pass after the setting was introduced, or by clocks that are all 400 days ahead.
        assert!(due(35, 300, 300).is_unusual(365 * DAY, NOW));
        assert!(due(3, 11, 100).is_unusual(30 * DAY, NOW));
        assert!(!due(3, 11, 110).is_unusual(30 * DAY, NOW), "a tenth");
        assert!(!due(1, 300, 300).is_unusual(30 * DAY, NOW), "not long overdue");
        // Of few segments more than half.
        assert!(due(100, 5, 5).is_unusual(30 * DAY, NOW) && due(100, 1, 1).is_unusual(30 * DAY, NOW));
        assert!(!due(100, 5, 10).is_unusual(30 * DAY, NOW) && due(100, 6, 10).is_unusual(30 * DAY, NOW));
    }

    #[test]
    fn an_archive_of_less_than_a_day_is_not_lost_to_a_retention_that_is_new_and_short() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let due = DueSegments { oldest: NOW - hours(19), due: 950, held: 1_000 };
        assert!(due.is_unusual(hours(1), NOW));
        assert!(DueSegments { oldest: NOW - hours(2), ..due }.is_unusual(hours(1), NOW));
        assert!(DueSegments { oldest: NOW - hours(14), ..due }.is_unusual(hours(6), NOW));
    }

    #[test]
    fn an_unusual_pass_waits_a_day_that_has_really_passed() {
        let due = DueSegments { oldest: NOW - 100 * DAY, due: 300, held: 300 };
        let mut notice = None;
        let mut turns = 0;
        // The clock jumps a year at each turn: only what has passed counts.
        let mut now = NOW;
        while let PassDecision::Wait(waiting) =
            decide_pass(due, notice.clone(), 30 * DAY, Duration::from_secs(3600), now)
        {
            assert_eq!((waiting.announced, waiting.segments), (NOW, 300));
            (turns, now, notice) = (turns + 1, now + 365 * DAY, Some(waiting));
        }
        assert_eq!(turns, 24);
        // A restart takes it up where it was; another setting begins anew; a person's word is enough.
        let half = RetentionNotice { waited: DAY / 2, ..notice.unwrap() };
        let wait = |notice, retention| decide_pass(due, Some(notice), retention, Duration::ZERO, NOW);
        assert_eq!(wait(half.clone(), 30 * DAY), PassDecision::Wait(half.clone()));
        assert!(matches!(wait(half.clone(), 20 * DAY), PassDecision::Wait(anew) if anew.waited.is_zero()));
        assert_eq!(wait(RetentionNotice { approved: true, ..half }, 30 * DAY), PassDecision::Run);
    }
}
