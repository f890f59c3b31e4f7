//! Safety checks of retention: when it may delete at all. Pure.
//!
//! Retention cannot be undone, so a wrong clock must not trigger it. All clocks must agree, and a
//! pass that would delete an unusual share of an account is announced a day before it runs.

use std::time::Duration;

use crate::clock::Time;

/// Clocks agree if they differ by no more than this.
pub const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);
/// How long an unusual pass is announced before it runs, in elapsed time.
pub const NOTICE_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Longest interval between two passes. It is also at most a tenth of the retention.
pub const MAX_PASS_INTERVAL: Duration = Duration::from_secs(3600);
/// Bounds of the delay, beyond the slack, from which a pass can be unusual.
const MIN_OVERDUE: Duration = Duration::from_secs(3600);
const MAX_OVERDUE: Duration = Duration::from_secs(24 * 3600);
/// Up to this many segments are an unusual share only if they are more than half of the account.
const SMALL_PASS_SEGMENTS: u64 = 10;
/// More segments than this fraction of the account are an unusual share.
const UNUSUAL_SHARE_DIVISOR: u64 = 10;

/// The readings of all clocks at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionClocks {
    /// This machine's clock.
    pub(crate) machine: Time,
    /// The API's recent clock readings, once it has answered often enough: one for each way to read
    /// it.
    pub(crate) api: Vec<Time>,
    /// Whether enough of the API's answers have agreed for some time.
    pub(crate) is_api_trusted: bool,
    /// The database's clock, where it has its own.
    pub(crate) database: Option<Time>,
}

/// The result of a comparison of the clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockCheck {
    /// The API has not answered often enough yet.
    Unknown,
    /// They differ by too much; a sentence names the clocks.
    Differ(String),
    /// They agree; the earliest reading.
    Agree(Time),
}

impl RetentionClocks {
    /// Compares them without the API's, for actions that are allowed with an API that sends no
    /// time.
    pub(crate) fn check_without_api(&self) -> ClockCheck {
        RetentionClocks { api: vec![self.machine], ..self.clone() }.check()
    }

    /// Compares them.
    pub(crate) fn check(&self) -> ClockCheck {
        if self.api.is_empty() {
            return ClockCheck::Unknown;
        }
        let named = self.api.iter().map(|time| ("the API's", *time));
        let named: Vec<_> = named.chain(self.database.map(|time| ("the database's", time))).collect();
        for (name, time) in &named {
            if difference(self.machine, *time) > MAX_CLOCK_DIFFERENCE {
                return ClockCheck::Differ(describe_difference("this machine's clock", self.machine, name, *time));
            }
        }
        let all = || named.iter().map(|(_, time)| *time).chain([self.machine]);
        let (earliest, latest) = (all().fold(self.machine, Time::min), all().fold(self.machine, Time::max));
        if latest.since(earliest) > MAX_CLOCK_DIFFERENCE {
            return ClockCheck::Differ(format!(
                "the API's clock and the database's are {} apart",
                format_span(latest.since(earliest))
            ));
        }
        ClockCheck::Agree(earliest)
    }
}

/// The most by which deletion may lag behind retention.
const MAX_RETENTION_SLACK: Duration = Duration::from_secs(24 * 3600);

/// How far past its retention the oldest segment must be before a pass runs. So each pass deletes a
/// batch, instead of a few segments every hour.
pub fn retention_slack(retention: Duration) -> Duration {
    (retention / 100).min(MAX_RETENTION_SLACK)
}

/// A sentence that the archive has data from the future; `None` where it has not.
pub fn describe_future_writes(now: Time, newest: Option<Time>) -> Option<String> {
    let newest = newest.filter(|newest| newest.since(now) > MAX_CLOCK_DIFFERENCE)?;
    Some(format!(
        "the archive has data that was written {} later than the present time of all clocks",
        format_span(newest.since(now))
    ))
}

fn difference(one: Time, other: Time) -> Duration {
    one.since(other).max(other.since(one))
}

fn describe_difference(one: &str, at: Time, other: &str, time: Time) -> String {
    let direction = if at > time { "ahead of" } else { "behind" };
    format!("{one} is {} {direction} {other}", format_span(difference(at, time)))
}

/// A span in the largest unit of which it has at least two.
fn format_span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What a pass would delete of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueSegments {
    /// When the oldest of them ended.
    pub oldest: Time,
    /// How many are due.
    pub due: u64,
    /// How many segments the account has.
    pub total: u64,
}

/// The interval between the passes over an account in normal operation.
pub fn pass_interval(retention: Duration) -> Duration {
    (retention / 10).min(MAX_PASS_INTERVAL)
}

/// Whether `oldest` is before `cutoff` by more than is possible if retention has run regularly. A
/// pass may be late or missed.
pub(crate) fn is_long_overdue(retention: Duration, cutoff: Time, oldest: Time) -> bool {
    let usual_delay = (retention / 10).max(pass_interval(retention) * 2).clamp(MIN_OVERDUE, MAX_OVERDUE);
    cutoff.since(oldest) > retention_slack(retention) + usual_delay
}

impl DueSegments {
    /// Whether a pass deletes more of the account than retention usually does: after the setting
    /// was introduced or shortened, after a long stop, or because of a wrong clock.
    pub(crate) fn is_unusual(&self, retention: Duration, cutoff: Time) -> bool {
        let divisor = if self.due > SMALL_PASS_SEGMENTS { UNUSUAL_SHARE_DIVISOR } else { 2 };
        is_long_overdue(retention, cutoff, self.oldest) && self.due.saturating_mul(divisor) > self.total
    }
}

/// The stored notice of an unusual pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionNotice {
    /// The retention that it was announced for.
    pub retention: Duration,
    /// When it was first announced.
    pub announced: Time,
    /// The elapsed time since then in which a daemon was running.
    pub waited: Duration,
    /// How many segments it would delete.
    pub segments: u64,
    /// Whether a person has approved it.
    pub approved: bool,
}

/// Whether a pass may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassDecision {
    /// It may run now.
    Run,
    /// It must wait for the rest of the notice period. The caller stores the notice.
    Wait(RetentionNotice),
}

/// Decides about an unusual pass. `elapsed` is the elapsed time since the last decision of this
/// process.
pub fn decide_pass(
    due: DueSegments,
    notice: Option<RetentionNotice>,
    retention: Duration,
    elapsed: Duration,
    now: Time,
) -> PassDecision {
    let new_notice =
        RetentionNotice { retention, announced: now, waited: Duration::ZERO, segments: 0, approved: false };
    // A notice for another retention setting was about other segments.
    let known = notice.filter(|notice| notice.approved || notice.retention == retention);
    let waited = known.as_ref().map_or(Duration::ZERO, |notice| notice.waited + elapsed);
    let notice = RetentionNotice { waited, segments: due.due, ..known.unwrap_or(new_notice) };
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
        RetentionClocks { machine: at(machine), api, database: database.map(at), is_api_trusted: false }.check()
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
    fn writes_in_the_future_contradict_all_clocks() {
        assert_eq!(describe_future_writes(NOW, None), None);
        assert_eq!(describe_future_writes(NOW, Some(NOW + MAX_CLOCK_DIFFERENCE)), None);
        let found = describe_future_writes(NOW, Some(NOW + 3 * DAY)).unwrap();
        assert_eq!(found, "the archive has data that was written 3 days later than the present time of all clocks");
    }

    #[test]
    fn a_steady_retention_is_never_unusual_however_short() {
        const HOUR: Duration = Duration::from_secs(3600);
        for retention in [HOUR / 720, HOUR / 2, HOUR, 5 * HOUR, 10 * HOUR, DAY, 30 * DAY, 365 * DAY] {
            // A pass deletes what is overdue by more than the slack, and one pass may be missed.
            let late = retention_slack(retention) + pass_interval(retention) * 2;
            for total in [1, 5, 1_000] {
                let due = DueSegments { oldest: NOW - late, due: total, total };
                assert!(!due.is_unusual(retention, NOW), "{retention:?}");
            }
        }
    }

    #[test]
    fn a_large_share_that_is_long_overdue_is_unusual() {
        let due = |days: u32, due, total| DueSegments { oldest: NOW - days * DAY, due, total };
        // The first pass after the setting was introduced, or by clocks that are all 400 days
        // ahead.
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
        let due = DueSegments { oldest: NOW - hours(19), due: 950, total: 1_000 };
        assert!(due.is_unusual(hours(1), NOW));
        assert!(DueSegments { oldest: NOW - hours(2), ..due }.is_unusual(hours(1), NOW));
        assert!(DueSegments { oldest: NOW - hours(14), ..due }.is_unusual(hours(6), NOW));
    }

    #[test]
    fn an_unusual_pass_waits_a_day_that_has_really_passed() {
        let due = DueSegments { oldest: NOW - 100 * DAY, due: 300, total: 300 };
        let mut notice = None;
        let mut turns = 0;
        // The clock jumps a year at each turn, but only elapsed time counts.
        let mut now = NOW;
        while let PassDecision::Wait(waiting) =
            decide_pass(due, notice.clone(), 30 * DAY, Duration::from_secs(3600), now)
        {
            assert_eq!((waiting.announced, waiting.segments), (NOW, 300));
            (turns, now, notice) = (turns + 1, now + 365 * DAY, Some(waiting));
        }
        assert_eq!(turns, 24);
        // A restart continues the wait; another setting starts it again; an approval ends it.
        let half = RetentionNotice { waited: DAY / 2, ..notice.unwrap() };
        let wait = |notice, retention| decide_pass(due, Some(notice), retention, Duration::ZERO, NOW);
        assert_eq!(wait(half.clone(), 30 * DAY), PassDecision::Wait(half.clone()));
        assert!(matches!(wait(half.clone(), 20 * DAY), PassDecision::Wait(anew) if anew.waited.is_zero()));
        assert_eq!(wait(RetentionNotice { approved: true, ..half }, 30 * DAY), PassDecision::Run);
    }

    #[test]
    fn slack_is_a_hundredth_of_retention_and_at_most_a_day() {
        let secs = Duration::from_secs;
        assert_eq!(retention_slack(secs(100)), secs(1));
        assert_eq!(retention_slack(secs(2555 * 86_400)), secs(86_400));
    }
}
