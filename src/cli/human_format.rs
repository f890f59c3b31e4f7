//! Formats durations, times and counts for people. Pure.

use std::time::Duration;

use crate::clock::Time;

/// Formats a duration in its two largest units: `41s`, `5m`, `1h 20m`, `3d 4h`.
pub(crate) fn format_duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let secs = duration.as_secs();
    let Some(first) = UNITS.iter().position(|(size, _)| secs >= *size) else { return "0s".to_owned() };
    let mut left = secs;
    let mut parts = Vec::new();
    for (size, unit) in UNITS.iter().skip(first).take(2) {
        if left / size > 0 {
            parts.push(format!("{}{unit}", left / size));
        }
        left %= size;
    }
    parts.join(" ")
}

/// Formats the distance of `time` from `now`: `5m ago`, `in 3h`.
pub(crate) fn format_relative(time: Time, now: Time) -> String {
    if time > now {
        format!("in {}", format_duration(time.since(now)))
    } else {
        format!("{} ago", format_duration(now.since(time)))
    }
}

/// Formats a count with its noun: `1 item`, `2 items`.
pub(crate) fn format_count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Formats the counts that are not zero: `2 segments`, `1 record`. `suffix` follows the records.
pub(crate) fn format_amounts(segments: u64, records: u64, suffix: &str) -> Vec<String> {
    let segments = (segments > 0).then(|| format_count(segments, "segment"));
    let records = (records > 0).then(|| format!("{}{suffix}", format_count(records, "record")));
    segments.into_iter().chain(records).collect()
}

/// Formats a size: `812 KiB`, `1.5 GiB`.
pub(crate) fn format_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Quotes a word for a POSIX shell, where that is needed.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%=,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_the_shell_would_split_or_expand_it() {
        assert_eq!(shell_word("/var/a-1.db"), "/var/a-1.db");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's $x"), r"'it'\''s $x'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_span_is_said_in_its_two_largest_units() {
        let format = |secs| format_duration(Duration::from_secs(secs));
        assert_eq!(format(0), "0s");
        assert_eq!(format(41), "41s");
        assert_eq!(format(300), "5m");
        assert_eq!(format(4830), "1h 20m");
        assert_eq!(format(3 * 86_400 + 4 * 3600 + 59), "3d 4h");
        assert_eq!(format(86_400 + 59), "1d");
    }

    #[test]
    fn a_moment_is_said_by_its_distance() {
        let now = Time::from_secs(1_000_000);
        assert_eq!(format_relative(now - Duration::from_secs(60), now), "1m ago");
        assert_eq!(format_relative(now + Duration::from_secs(60), now), "in 1m");
    }
}
