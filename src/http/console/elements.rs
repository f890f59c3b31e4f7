//! Small parts of the console's views. Pure.

use maud::{Markup, html};

use crate::clock::Time;

/// A time: in UTC, and in the reader's zone where the page's script runs.
pub(in crate::http) fn local_time(time: Option<Time>) -> Markup {
    html! {
        @if let Some(time) = time {
            time datetime=(time.rfc3339_secs()) data-local { (format_utc(time)) }
        } @else { "at an unknown time" }
    }
}

/// A time in UTC for tables that change by themselves.
pub(in crate::http) fn utc_time(time: Option<Time>) -> Markup {
    html! {
        @if let Some(time) = time { time datetime=(time.rfc3339_secs()) { (format_utc(time)) } } @else { "–" }
    }
}

/// `2026-11-20 10:00:00 UTC`.
pub(in crate::http) fn format_utc(time: Time) -> String {
    time.rfc3339_secs().replace('T', " ").replace('Z', " UTC")
}

/// The time of an RFC 3339 text of a view.
pub(in crate::http) fn time_of(text: Option<&str>) -> Option<Time> {
    text.and_then(Time::parse)
}

/// A path with parameters; empty ones are left out.
pub(in crate::http) fn path_with<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters.into_iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A value of RingCX as people read it: `INBOUND` as `inbound`.
pub(in crate::http) fn display_value(value: &str) -> String {
    let is_constant = value.chars().any(|letter| letter.is_ascii_uppercase())
        && value.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_' || letter == ' ');
    if is_constant { value.to_ascii_lowercase().replace('_', " ") } else { value.to_owned() }
}

/// The hidden and visible parts of a filter: a choice with the value that is selected.
pub(in crate::http) fn choice(name: &str, label: &str, selected: &str, values: &[(&str, &str)]) -> Markup {
    html! {
        label {
            span { (label) }
            select name=(name) {
                option value="" selected[selected.is_empty()] { "all" }
                @for (value, label) in values { option value=(value) selected[*value == selected] { (label) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_written_small_and_other_values_as_they_are() {
        for (value, shown) in [
            ("INBOUND", "inbound"),
            ("AGENT_HANGUP", "agent hangup"),
            ("Sale closed", "Sale closed"),
            ("SMS2", "SMS2"),
            ("", ""),
        ] {
            assert_eq!(display_value(value), shown);
        }
    }

    #[test]
    fn parameters_are_encoded_and_empty_ones_left_out() {
        assert_eq!(path_with("/queue", [("account", ""), ("reason", "a&b c")]), "/queue?reason=a%26b+c");
        assert_eq!(path_with("/queue", [("account", "")]), "/queue");
    }
}
