//! Formats durations and numbers for people. Pure. `script.js` of the dashboard repeats the rules
//! for durations.

use std::time::Duration;

/// A duration in at most two units: `42 s`, `5 min`, `3 h 10 min`, `2 d 4 h`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two_units = |large: u64, unit: &str, small: u64, part: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {part}") }
    };
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=599 => two_units(minutes, "min", seconds % 60, "s"),
        600..=3599 => format!("{minutes} min"),
        3600..=86_399 => two_units(hours, "h", minutes, "min"),
        _ => two_units(days, "d", hours, "h"),
    }
}

/// A number with its digits in groups of three: `1,234,567`.
pub(crate) fn format_number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number with its noun: `1 account`, `2 accounts`.
pub(crate) fn format_count(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", format_number(count), if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_at_most_two_units() {
        let of = |seconds| format_duration(Duration::from_secs(seconds));
        assert_eq!(of(0), "0 s");
        assert_eq!(of(99), "99 s");
        assert_eq!(of(120), "2 min");
        assert_eq!(of(312), "5 min 12 s");
        assert_eq!(of(3599), "59 min");
        assert_eq!(of(3 * 3600), "3 h");
        assert_eq!(of(11_400), "3 h 10 min");
        assert_eq!(of(187_200), "2 d 4 h");
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(
            (format_number(7), format_number(999), format_number(1000)),
            ("7".into(), "999".into(), "1,000".into())
        );
        assert_eq!(format_number(1_234_567), "1,234,567");
        assert_eq!(
            (format_count(1, "item", "items"), format_count(2000, "item", "items")),
            ("1 item".into(), "2,000 items".into())
        );
    }
}
