//! Parses times as servers write them: ISO 8601 with or without a zone, RFC 2822, or milliseconds
//! or seconds since 1970. Pure.

use jiff::civil;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use crate::clock::Time;

/// The last moment of the year 9999, in milliseconds since 1970.
const MAX_TIME_MS: i64 = 253_402_300_799_999;
/// Numbers that are read as seconds, from 2001 to 2100. As milliseconds they would lie in the first
/// weeks of 1970.
const EPOCH_SECONDS: std::ops::Range<f64> = 978_307_200.0..4_133_980_800.0;

/// Parses a time; returns `None` if the text is not a time or lies before 1970 or after 9999. A
/// text without a zone is in UTC. A date alone is not a time.
pub fn parse(text: &str) -> Option<Time> {
    let text = text.trim();
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    let time = if is_number && let Ok(count) = text.parse() { parse_epoch(count)? } else { parse_text(text)? };
    (0..=MAX_TIME_MS).contains(&time.0).then_some(time)
}

fn parse_epoch(count: f64) -> Option<Time> {
    let millis = if EPOCH_SECONDS.contains(&count) { (count * 1000.0).round() } else { count };
    // Beyond what `parse` accepts anyway; a cast alone would saturate.
    (millis.abs() < 1e18).then_some(Time(millis as i64))
}

fn parse_text(text: &str) -> Option<Time> {
    // The parsers below would accept a date alone as midnight.
    if !text.contains([':', 'T', 't']) {
        return None;
    }
    let with_zone_name = || Time::parse(&normalize_offset(text)?);
    let parse_rfc2822 = || rfc2822::parse(text).ok().map(|zoned| zoned.timestamp().into());
    Time::parse(text).or_else(|| parse_civil(text)).or_else(with_zone_name).or_else(parse_rfc2822)
}

fn parse_civil(text: &str) -> Option<Time> {
    let civil: civil::DateTime = text.parse().ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp().into())
}

/// Normalizes the offset of a text that has a space before it or writes it as a name: `… +0000`,
/// `… UTC`, `…GMT`, `… GMT+02:00`.
fn normalize_offset(text: &str) -> Option<String> {
    let letters = text.trim_end_matches(|letter: char| matches!(letter, '+' | '-' | ':') || letter.is_ascii_digit());
    let at = letters.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).len();
    let (name, offset) = (&text[at..letters.len()], &text[letters.len()..]);
    let (moment, offset) = match name.to_ascii_uppercase().as_str() {
        "UTC" | "GMT" | "UT" | "Z" => (&text[..at], offset),
        // Without a zone name, the trailing digits and colons may belong to the time.
        _ => {
            let (moment, offset) = text.rsplit_once(char::is_whitespace)?;
            (moment, offset.starts_with(['+', '-']).then_some(offset)?)
        }
    };
    let offset = if offset.is_empty() { "Z" } else { offset };
    moment.contains(':').then(|| format!("{}{offset}", moment.trim_end()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_may_be_written_in_several_ways() {
        let expected = Time::parse("2024-07-22T11:24:47Z");
        for text in [
            "2024-07-22T11:24:47.000Z",
            "2024-07-22T11:24:47Z",
            "2024-07-22T13:24:47+02:00",
            "2024-07-22T13:24:47+0200",
            "2024-07-22T11:24:47.000+0000",
            "2024-07-22T11:24:47",
            "2024-07-22 11:24:47.000",
            " 2024-07-22 11:24:47+00:00 ",
            "20240722T112447Z",
            "2024-07-22 11:24:47 +0000",
            "2024-07-22 13:24:47.000 +02:00",
            "2024-07-22T09:24:47 -0200",
            "2024-07-22 11:24:47 UTC",
            "2024-07-22 11:24:47 utc",
            "2024-07-22 11:24:47  GMT",
            "2024-07-22 11:24:47GMT",
            "2024-07-22 11:24:47 Z",
            "2024-07-22 13:24:47 GMT+02:00",
            "2024-07-22 13:24:47 UTC+0200",
            "Mon, 22 Jul 2024 11:24:47 GMT",
            "22 Jul 2024 13:24:47 +0200",
            "2024-07-22t11:24:47z",
            "1721647487000",
            "1721647487000.0",
            "1721647487000.4",
            "1721647487",
            "1721647487.0",
            "1.721647487E12",
            "1.721647487e9",
            "1721647487e3",
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse("1721647487.25"), expected.map(|time| Time(time.0 + 250)));
        assert_eq!(parse("1.72E12"), Some(Time(1_720_000_000_000)));
        assert_eq!(parse("61000"), Some(Time(61_000)));
        for text in [
            "",
            "soon",
            "2024-07-22",
            "-1",
            "1e300",
            "1e999",
            "NaN",
            "inf",
            "11:24",
            "e",
            ":",
            "11:24 UTC",
            "2024-07-22 UTC",
            "2024-07-22 11:24:47 XYZ",
            "2024-07-22 +0000",
            "UTC",
            "x: +",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(text in any::<String>()) {
            parse(&text);
        }

        #[test]
        fn a_moment_is_read_back_as_it_was_written(millis in 4_133_980_800_i64..=MAX_TIME_MS) {
            for text in [Time(millis).rfc3339(), millis.to_string()] {
                prop_assert_eq!(parse(&text), Some(Time(millis)));
            }
        }
    }
}
