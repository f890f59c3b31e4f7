//! Reads the `Retry-After` header. Pure. Whatever a server sends, the result is at most one day and
//! nothing panics.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::clock::Time;

/// Longer waits count as this.
const MAX_PARSED_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

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
    Some(parse_http_date(value)?.since(now).min(MAX_PARSED_WAIT))
}

/// Parses a date in one of the three formats of RFC 9110 section 5.6.7.
pub(crate) fn parse_http_date(text: &str) -> Option<Time> {
    static PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    // `httpdate` accepts the obsolete formats too, but no wrong weekday and no other zone than GMT.
    let current = PARSER.parse_timestamp(text).ok();
    current.or_else(|| Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()).map(Time::from)
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
        assert_eq!(parse_retry_after("Wed Nov 16 08:49:37 1994", now), Some(MAX_PARSED_WAIT));
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
