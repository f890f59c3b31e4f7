//! Parses times as people write them: RFC 3339, a date, or a span back from now. Pure; the current
//! time is an argument.

use std::time::Duration;

use super::config_error::quoted;
use crate::clock::Time;
use crate::model::DiscoveryStart;

/// The accepted forms of a time, for hints.
pub(super) const TIME_FORMS: &str = r#"a time such as "2026-11-20T10:00:00Z", a date such as "2026-11-20" (midnight UTC), or a span back from now such as "36h" or "7d""#;

/// Parses a time of the command line: RFC 3339, a date (midnight UTC), a span back from `now`
/// (`36h`, `7d`), or `now`. A time before [`Time::FIRST`] becomes [`Time::FIRST`].
///
/// # Errors
/// Returns the problem and the accepted forms.
pub fn parse_time(text: &str, now: Time) -> Result<Time, String> {
    Ok(match parse_start(text).map_err(|what| format!("{what}: give {TIME_FORMS}"))? {
        DiscoveryStart::Now => now,
        DiscoveryStart::Back(span) => (now - span).max(Time::FIRST),
        DiscoveryStart::At(time) => time,
    })
}

/// Parses `now`, a span or a time.
///
/// # Errors
/// Returns the problem; [`TIME_FORMS`] lists the accepted forms.
pub(super) fn parse_start(text: &str) -> Result<DiscoveryStart, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(DiscoveryStart::Now);
    }
    if let Some(time) = Time::parse(text).or_else(|| parse_midnight(text)) {
        return Ok(DiscoveryStart::At(time.max(Time::FIRST)));
    }
    if let Some(span) = parse_span(text) {
        return Ok(DiscoveryStart::Back(span));
    }
    if text.parse::<jiff::civil::DateTime>().is_ok() && !is_date_shaped(text) {
        return Err(format!("{} has no time zone, such as Z for UTC", quoted(text)));
    }
    Err(format!("{} is not a time", quoted(text)))
}

/// Parses a span of time with its unit: `15m`, `250ms`, `1h 30m`.
pub(super) fn parse_span(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// Parses a date as midnight UTC. `jiff` would also accept a time without a zone and drop the time.
fn parse_midnight(text: &str) -> Option<Time> {
    if !is_date_shaped(text) {
        return None;
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    Some(Time::from(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()))
}

fn is_date_shaped(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(i, byte)| if i == 4 || i == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time::from_secs(1_790_000_000);

    #[test]
    fn a_moment_is_read_in_each_of_its_forms() {
        let at = |text: &str| parse_time(text, NOW).map(Time::rfc3339);
        assert_eq!(at("2026-11-20T10:00:00.5+01:00").unwrap(), "2026-11-20T09:00:00.500Z");
        assert_eq!(at(" 2026-11-20 ").unwrap(), "2026-11-20T00:00:00.000Z");
        assert_eq!(parse_time("now", NOW).unwrap(), NOW);
        assert_eq!(parse_time("36h", NOW).unwrap(), NOW - Duration::from_secs(36 * 3600));
        assert_eq!(parse_time("7d", NOW).unwrap(), NOW - Duration::from_secs(7 * 86_400));
    }

    #[test]
    fn whatever_lies_before_the_first_moment_that_can_be_written_is_that_moment() {
        for text in ["81581y", "2030y", "-000001-12-31T00:00:00Z", "0000-01-01"] {
            assert_eq!(parse_time(text, NOW).unwrap().rfc3339(), "0000-01-01T00:00:00.000Z", "{text}");
        }
        assert_eq!(Time::parse(&Time::FIRST.rfc3339()), Some(Time::FIRST));
    }

    #[test]
    fn a_time_without_a_zone_is_refused_rather_than_cut_to_its_date() {
        let error = parse_time("2026-11-20T10:00:00", NOW).unwrap_err();
        assert!(error.contains("has no time zone"), "{error}");
    }

    #[test]
    fn what_is_no_moment_says_what_one_looks_like() {
        for text in ["", "yesterday", "2026-13-01", "2026-02-30", "15", "-5m", "7 parsecs"] {
            let error = parse_time(text, NOW).unwrap_err();
            assert!(error.contains("is not a time"), "{text}: {error}");
            assert!(error.contains("36h"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_reads_back_as_it_was_written(ms in -62_000_000_000_000_i64..250_000_000_000_000) {
            prop_assert_eq!(parse_time(&Time(ms).rfc3339(), NOW), Ok(Time(ms)));
        }

        #[test]
        fn every_span_counts_back_from_now(ms in 0_u64..10_000_000_000_000) {
            let span = Duration::from_millis(ms);
            let text = humantime::format_duration(span).to_string();
            prop_assert_eq!(parse_time(&text, NOW), Ok(NOW - span));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = parse_time(&text, NOW);
        }
    }
}
