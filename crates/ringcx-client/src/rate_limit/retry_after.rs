//! Reads the `Retry-After` header. Pure. Whatever a server sends, the result is at most one day and
//! nothing panics.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;

use crate::clock::Time;

/// Longer waits count as this.
const MAX_PARSED_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer values are not parsed: the longest date of RFC 9110 has 33 characters.
const MAX_VALUE_BYTES: usize = 64;

/// How long a server asks to wait: whole seconds, or one of the three date formats of RFC 9110
/// section 5.6.7, measured from `now` (the server's time, where its `Date` header was sent). A date
/// in the past is zero, a wait of more than a day is a day, and `None` is a value that cannot be
/// read.
pub fn parse_retry_after(value: &str, now: Time) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Parsing digits fails only on overflow, which means "long".
        return Some(value.parse().map_or(MAX_PARSED_WAIT, Duration::from_secs).min(MAX_PARSED_WAIT));
    }
    if value.len() > MAX_VALUE_BYTES {
        return None;
    }
    let due = imf_fixdate(value).or_else(|| rfc_850(value, now)).or_else(|| asctime(value))?;
    Some(Time::from(due).since(now).min(MAX_PARSED_WAIT))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, and the other dates of RFC 2822.
fn imf_fixdate(value: &str) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    PARSER.parse_timestamp(value).ok()
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`. A two-digit year that would lie more than 50 years ahead is in
/// the past.
fn rfc_850(value: &str, now: Time) -> Option<Timestamp> {
    // The weekday is not parsed: it depends on the century, which a two-digit year does not tell.
    let (_, date) = value.split_once(", ")?;
    let short = utc(DateTime::strptime("%d-%b-%y %H:%M:%S GMT", date).ok()?)?;
    let horizon = now.timestamp().to_zoned(TimeZone::UTC).datetime().year().saturating_add(50);
    let date = short.to_zoned(TimeZone::UTC).datetime();
    if date.year() <= horizon {
        return Some(short);
    }
    utc(date.with().year(date.year().saturating_sub(100)).build().ok()?)
}

/// `Sun Nov  6 08:49:37 1994`, in UTC.
fn asctime(value: &str) -> Option<Timestamp> {
    let (_, date) = value.split_once(' ')?;
    utc(DateTime::strptime("%b %e %H:%M:%S %Y", date).ok()?)
}

fn utc(date: DateTime) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Time {
        Time::parse(text).unwrap()
    }

    #[test]
    fn seconds_are_read_and_capped_at_a_day() {
        let now = at("2026-11-20T10:00:00Z");
        assert_eq!(parse_retry_after("0", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after(" 120\t", now), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("86401", now), Some(MAX_PARSED_WAIT));
        assert_eq!(parse_retry_after("99999999999999999999999999", now), Some(MAX_PARSED_WAIT));
    }

    #[test]
    fn all_three_http_dates_are_read() {
        let now = at("1994-11-06T08:49:07Z");
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 09:49:37 +0100",
        ] {
            assert_eq!(parse_retry_after(date, now), Some(Duration::from_secs(30)), "{date}");
        }
        assert_eq!(parse_retry_after("Sun Nov 16 08:49:37 1994", now), Some(MAX_PARSED_WAIT));
        let now = at("2026-11-20T10:00:00.250Z");
        assert_eq!(parse_retry_after("Fri, 20 Nov 2026 10:00:05 GMT", now), Some(Duration::from_millis(4750)));
    }

    #[test]
    fn a_date_in_the_past_asks_for_no_wait() {
        let now = at("2026-11-20T10:00:00Z");
        assert_eq!(parse_retry_after("Fri, 20 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", now), Some(Duration::ZERO));
    }

    #[test]
    fn a_two_digit_year_is_never_more_than_fifty_years_ahead() {
        let now = at("2026-11-20T10:00:00Z");
        assert_eq!(parse_retry_after("Friday, 20-Nov-26 10:00:09 GMT", now), Some(Duration::from_secs(9)));
        assert_eq!(parse_retry_after("Wednesday, 20-Nov-68 10:00:00 GMT", now), Some(MAX_PARSED_WAIT));
        let now = at("2010-11-20T10:00:00Z");
        assert_eq!(parse_retry_after("Tuesday, 20-Nov-68 10:00:00 GMT", now), Some(Duration::ZERO), "1968, not 2068");
    }

    #[test]
    fn nonsense_is_none() {
        let now = at("2026-11-20T10:00:00Z");
        for value in ["", " ", "-5", "soon", "1e3", "Fri, 99 Nov 2026 10:00:00 GMT", "Friday, ", "٣"] {
            assert_eq!(parse_retry_after(value, now), None, "{value:?}");
        }
        assert_eq!(parse_retry_after(&"x".repeat(1 << 20), now), None);
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_panics(value in "\\PC{0,80}", now in any::<i64>()) {
            let wait = parse_retry_after(&value, Time(now));
            prop_assert!(wait.is_none_or(|wait| wait <= MAX_PARSED_WAIT));
        }

        #[test]
        fn nothing_that_looks_like_a_date_panics(
            value in "(Sun|Sunday|Xyz)?,? ?[0-9]{1,3}[ -](Nov|Feb|Foo)[ -][0-9]{0,6} [0-9]{1,3}:[0-9]{2}:[0-9]{2,3} (GMT|[0-9]{4}|\\+9999)",
            now in any::<i64>(),
        ) {
            let wait = parse_retry_after(&value, Time(now));
            prop_assert!(wait.is_none_or(|wait| wait <= MAX_PARSED_WAIT));
        }
    }
}
