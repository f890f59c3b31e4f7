//! Spans, counts and the like, as people say them. Pure.

use std::time::Duration;

use crate::clock::Time;

/// A span in its two largest units: `41s`, `5m`, `1h 20m`, `3d 4h`.
pub fn span(span: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let secs = span.as_secs();
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

/// How far `time` is from `now`: `5m ago`, `in 3h`.
pub fn relative(time: Time, now: Time) -> String {
    if time > now { format!("in {}", span(time.since(now))) } else { format!("{} ago", span(now.since(time))) }
}

/// A count with its noun: `1 item`, `2 items`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_said_in_its_two_largest_units() {
        let said = |secs| span(Duration::from_secs(secs));
        assert_eq!(said(0), "0s");
        assert_eq!(said(41), "41s");
        assert_eq!(said(300), "5m");
        assert_eq!(said(4830), "1h 20m");
        assert_eq!(said(3 * 86_400 + 4 * 3600 + 59), "3d 4h");
        assert_eq!(said(86_400 + 59), "1d");
    }

    #[test]
    fn a_moment_is_said_by_its_distance() {
        let now = Time::from_secs(1_000_000);
        assert_eq!(relative(now - Duration::from_secs(60), now), "1m ago");
        assert_eq!(relative(now + Duration::from_secs(60), now), "in 1m");
    }
}
