//! Range requests (RFC 9110, section 14): which bytes of a representation to answer with. Pure.
//!
//! Only single ranges are answered as such. What a server may ignore is ignored: several ranges, other
//! units, and invalid syntax give the whole.

use std::ops::Range;

use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderName, Method};

/// What to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestedBytes {
    /// All bytes.
    Whole,
    /// These bytes: at least one, and all within the representation.
    Part(Range<u64>),
    /// The range begins after the end.
    Unsatisfiable,
    /// Nothing: the client has the representation.
    NotModified,
}

/// What a request asks for of a representation with this size and this strong entity tag.
pub(super) fn requested_bytes(method: &Method, headers: &HeaderMap, size: u64, tag: &str) -> RequestedBytes {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let is_known = |known: &str| known == "*" || known.trim_start_matches("W/") == tag;
    let mut known_tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known_tags.any(|tags| tags.split(',').map(str::trim).any(is_known)) {
        return RequestedBytes::NotModified;
    }
    // A range is defined for GET only.
    let Some(range) = text(&RANGE).filter(|_| *method == Method::GET) else { return RequestedBytes::Whole };
    // The range holds for what the client has a part of. A weak tag or a date cannot tell that.
    if headers.contains_key(IF_RANGE) && text(&IF_RANGE) != Some(tag) {
        return RequestedBytes::Whole;
    }
    parse_range(range, size).unwrap_or(RequestedBytes::Whole)
}

/// Parses `bytes=first-last`, `bytes=first-` or `bytes=-length`. Returns `None` for anything else.
fn parse_range(text: &str, size: u64) -> Option<RequestedBytes> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let range = match (parse_number(first)?, parse_number(last)?) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) => first..size,
        (None, Some(length)) => size.saturating_sub(length)..size,
        _ => return None,
    };
    Some(if range.is_empty() { RequestedBytes::Unsatisfiable } else { RequestedBytes::Part(range) })
}

/// A number; `Some(None)` for an empty text. A number that is too large stands for the largest.
fn parse_number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "\"abc\"";

    fn ask(size: u64, headers: &[(HeaderName, &str)]) -> RequestedBytes {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let headers = headers.iter().map(|(name, text)| (name.clone(), value(text)));
        requested_bytes(&Method::GET, &headers.collect(), size, TAG)
    }

    #[test]
    fn a_single_range_is_answered_with_its_part() {
        use RequestedBytes::{Part, Unsatisfiable, Whole};
        for (range, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=0-", Part(0..10)),
            ("Bytes = 2 - 4", Part(2..5)),
            ("bytes=9-99999999999999999999999", Part(9..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-30", Part(0..10)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=4-2", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=0-1,3-4", Whole),
            ("items=0-1", Whole),
            ("é", Whole),
        ] {
            assert_eq!(ask(10, &[(RANGE, range)]), expected, "{range}");
        }
        assert_eq!(ask(10, &[]), Whole);
        assert_eq!(ask(0, &[(RANGE, "bytes=0-")]), Unsatisfiable);
    }

    #[test]
    fn a_range_of_another_version_gives_the_whole_and_a_known_tag_nothing() {
        let part = RequestedBytes::Part(1..10);
        for (name, value, expected) in [
            (IF_RANGE, TAG, part.clone()),
            (IF_RANGE, "\"other\"", RequestedBytes::Whole),
            (IF_RANGE, "W/\"abc\"", RequestedBytes::Whole),
            (IF_RANGE, "Tue, 01 Dec 2026 10:00:00 GMT", RequestedBytes::Whole),
            (IF_NONE_MATCH, "\"x\", W/\"abc\"", RequestedBytes::NotModified),
            (IF_NONE_MATCH, "*", RequestedBytes::NotModified),
            (IF_NONE_MATCH, "\"x\"", part),
        ] {
            assert_eq!(ask(10, &[(RANGE, "bytes=1-"), (name.clone(), value)]), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_range_holds_for_get_only_and_tags_on_several_lines_are_one_list() {
        for range in ["bytes=1-2", "bytes=99-"] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
            assert_eq!(requested_bytes(&Method::HEAD, &headers, 10, TAG), RequestedBytes::Whole, "{range}");
        }
        let mut headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("\"x\""))]);
        headers.append(IF_NONE_MATCH, HeaderValue::from_static(TAG));
        assert_eq!(requested_bytes(&Method::GET, &headers, 10, TAG), RequestedBytes::NotModified);
    }

    proptest! {
        #[test]
        fn any_request_gets_bytes_that_exist(range in "(bytes)?=?[0-9]{0,21}-?[0-9]{0,21}[ -~]{0,3}", size in any::<u64>()) {
            if let RequestedBytes::Part(part) = ask(size, &[(RANGE, range.trim())]) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
