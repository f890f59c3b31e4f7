//! One element of a metadata answer, read leniently: what is not needed is not looked at, what is needed may be written
//! in more than one way, and what cannot be understood is set aside with the reason, never dropped.

use std::borrow::Cow;
use std::fmt;

use jiff::civil;
use jiff::tz::TimeZone;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock::Time;
use crate::model::{AsideRecord, SegmentRecord};

use super::Record;

/// The longest id that is taken, in bytes: longer ones would not fit a database's index.
const LONGEST_ID: usize = 512;
/// The last moment of the year 9999, in milliseconds since 1970.
const LAST: f64 = 253_402_300_799_999.0;

/// An element as a segment, or the reason why it is none.
pub(super) fn understood(raw: String) -> Record {
    match read(&raw) {
        Ok(mut segment) => {
            segment.raw = raw;
            Record::Segment(segment)
        }
        Err((segment_id, reason)) => Record::Aside(AsideRecord { segment_id, reason: reason.to_owned(), raw }),
    }
}

fn read(raw: &str) -> Result<SegmentRecord, (Option<String>, &'static str)> {
    if !raw.starts_with('{') {
        return Err((None, "the record is not an object"));
    }
    let fields: Fields<'_> = serde_json::from_str(raw).map_err(|_| (None, "the record cannot be read"))?;
    let segment_id = match id(fields.segment_id) {
        Ok(Some(id)) => id,
        Ok(None) => return Err((None, "segmentId is missing")),
        Err(Unreadable) => return Err((None, "segmentId is not an id")),
    };
    let aside = |reason| (Some(segment_id.clone()), reason);
    let dialog_id = id(fields.dialog_id).map_err(|Unreadable| aside("dialogId is not an id"))?;
    let has_transcript = flag(fields.has_transcript).map_err(|Unreadable| aside("hasTranscript is not a boolean"))?;
    let end = end(fields.end).map_err(|Unreadable| aside("segmentEndTimeMs is not a time"))?;
    if has_transcript && dialog_id.is_none() {
        return Err(aside("dialogId is missing though hasTranscript is true"));
    }
    let is_agent = matches!(value(fields.segment_type), Ok(Value::String(kind)) if kind.eq_ignore_ascii_case("AGENT"));
    Ok(SegmentRecord { segment_id, dialog_id, end, has_transcript, is_agent, raw: String::new() })
}

/// There is something, and it is not what it should be.
struct Unreadable;

type Field<'a> = Option<&'a RawValue>;

fn value(field: Field<'_>) -> Result<Value, Unreadable> {
    field.map_or(Ok(Value::Null), |raw| serde_json::from_str(raw.get()).map_err(|_| Unreadable))
}

fn id(field: Field<'_>) -> Result<Option<String>, Unreadable> {
    let id = match value(field)? {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        // As it was written: it may be too large for any number type.
        Value::Number(_) => field.map(|raw| raw.get()).unwrap_or_default().to_owned(),
        _ => return Err(Unreadable),
    };
    if id.is_empty() {
        return Ok(None);
    }
    // A database's text holds no NUL.
    if id.len() > LONGEST_ID || id.contains('\0') { Err(Unreadable) } else { Ok(Some(id)) }
}

fn flag(field: Field<'_>) -> Result<bool, Unreadable> {
    match value(field)? {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
        _ => Err(Unreadable),
    }
}

/// ISO 8601 with or without an offset (then UTC), or milliseconds since 1970 as a number or as digits.
fn end(field: Field<'_>) -> Result<Option<Time>, Unreadable> {
    let text = match value(field)? {
        Value::Null => return Ok(None),
        Value::Number(number) => return number.as_f64().map_or(Err(Unreadable), epoch).map(Some),
        Value::String(text) => text,
        _ => return Err(Unreadable),
    };
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_or(Err(Unreadable), epoch).map(Some);
    }
    // A date alone is no time, though parsers take one for midnight.
    if !text.contains([':']) {
        return Err(Unreadable);
    }
    let time = Time::parse(text).or_else(|| {
        let civil: civil::DateTime = text.parse().ok()?;
        civil.to_zoned(TimeZone::UTC).ok().map(|zoned| Time::from(zoned.timestamp()))
    });
    time.map_or(Err(Unreadable), |time| epoch(time.0 as f64)).map(Some)
}

fn epoch(millis: f64) -> Result<Time, Unreadable> {
    if (0.0..=LAST).contains(&millis) { Ok(Time(millis as i64)) } else { Err(Unreadable) }
}

/// The fields that are looked at. A key that comes twice counts as it came last.
#[derive(Default)]
struct Fields<'a> {
    segment_id: Field<'a>,
    dialog_id: Field<'a>,
    segment_type: Field<'a>,
    end: Field<'a>,
    has_transcript: Field<'a>,
}

#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(Key(key)) = map.next_key()? {
            let field = match key.as_ref() {
                "segmentId" => &mut fields.segment_id,
                "dialogId" => &mut fields.dialog_id,
                "segmentType" => &mut fields.segment_type,
                "segmentEndTimeMs" => &mut fields.end,
                "hasTranscript" => &mut fields.has_transcript,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value()?);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(raw: &str) -> SegmentRecord {
        match understood(raw.to_owned()) {
            Record::Segment(segment) => segment,
            Record::Aside(aside) => panic!("set aside: {}", aside.reason),
        }
    }

    fn aside(raw: &str) -> AsideRecord {
        match understood(raw.to_owned()) {
            Record::Aside(aside) => aside,
            Record::Segment(_) => panic!("understood: {raw}"),
        }
    }

    #[test]
    fn a_record_as_documented_is_understood_and_kept_byte_for_byte() {
        let raw = r#"{"subAccountId":"9","dialogId":"d-1","segmentId":"p-1", "segmentType":"AGENT",
            "segmentEndTimeMs":"2024-07-22T11:24:47.000Z","hasTranscript":true,"new":{"x":[1,{"y":null}]}}"#;
        let segment = segment(raw);
        assert_eq!((segment.segment_id.as_str(), segment.dialog_id.as_deref()), ("p-1", Some("d-1")));
        assert_eq!(segment.end, Time::parse("2024-07-22T11:24:47Z"));
        assert!(segment.has_transcript && segment.is_agent);
        assert_eq!(segment.raw, raw);
    }

    #[test]
    fn ids_may_be_numbers_of_any_length() {
        let segment = segment(r#"{"segmentId":123456789012345678901234567890,"dialogId":7}"#);
        assert_eq!(segment.segment_id, "123456789012345678901234567890");
        assert_eq!(segment.dialog_id.as_deref(), Some("7"));
    }

    #[test]
    fn has_transcript_may_be_written_in_several_ways() {
        for (text, expected) in [
            ("true", true),
            ("\"true\"", true),
            ("\"TRUE\"", true),
            ("1", true),
            ("false", false),
            ("\"false\"", false),
            ("0", false),
            ("null", false),
        ] {
            let raw = format!(r#"{{"segmentId":"s","dialogId":"d","hasTranscript":{text}}}"#);
            assert_eq!(segment(&raw).has_transcript, expected, "{text}");
        }
        assert!(!segment(r#"{"segmentId":"s"}"#).has_transcript);
    }

    #[test]
    fn an_end_may_be_written_in_several_ways() {
        let expected = Time::parse("2024-07-22T11:24:47Z");
        for text in [
            "\"2024-07-22T11:24:47.000Z\"",
            "\"2024-07-22T11:24:47Z\"",
            "\"2024-07-22T13:24:47+02:00\"",
            "\"2024-07-22T13:24:47+0200\"",
            "\"2024-07-22T11:24:47\"",
            "\"2024-07-22 11:24:47.000\"",
            "1721647487000",
            "\"1721647487000\"",
            "1721647487000.0",
        ] {
            let raw = format!(r#"{{"segmentId":"s","segmentEndTimeMs":{text}}}"#);
            assert_eq!(segment(&raw).end, expected, "{text}");
        }
        for text in ["null", "\"\""] {
            assert_eq!(segment(&format!(r#"{{"segmentId":"s","segmentEndTimeMs":{text}}}"#)).end, None);
        }
        assert_eq!(segment(r#"{"segmentId":"s"}"#).end, None);
    }

    #[test]
    fn what_cannot_be_understood_is_set_aside_with_its_reason_and_whole() {
        for (raw, id, reason) in [
            ("7", None, "the record is not an object"),
            ("null", None, "the record is not an object"),
            ("[]", None, "the record is not an object"),
            ("{}", None, "segmentId is missing"),
            (r#"{"segmentId":null}"#, None, "segmentId is missing"),
            (r#"{"segmentId":""}"#, None, "segmentId is missing"),
            (r#"{"segmentId":{}}"#, None, "segmentId is not an id"),
            (r#"{"segmentId":"a\u0000b"}"#, None, "segmentId is not an id"),
            (r#"{"segmentId":"\ud800"}"#, None, "segmentId is not an id"),
            (r#"{"segmentId":"s","dialogId":[1]}"#, Some("s"), "dialogId is not an id"),
            (r#"{"segmentId":"s","hasTranscript":"perhaps"}"#, Some("s"), "hasTranscript is not a boolean"),
            (r#"{"segmentId":"s","hasTranscript":2}"#, Some("s"), "hasTranscript is not a boolean"),
            (
                r#"{"segmentId":"s","hasTranscript":true}"#,
                Some("s"),
                "dialogId is missing though hasTranscript is true",
            ),
            (r#"{"segmentId":"s","segmentEndTimeMs":"soon"}"#, Some("s"), "segmentEndTimeMs is not a time"),
            (r#"{"segmentId":"s","segmentEndTimeMs":"2024-07-22"}"#, Some("s"), "segmentEndTimeMs is not a time"),
            (r#"{"segmentId":"s","segmentEndTimeMs":-1}"#, Some("s"), "segmentEndTimeMs is not a time"),
            (r#"{"segmentId":"s","segmentEndTimeMs":1e300}"#, Some("s"), "segmentEndTimeMs is not a time"),
            (r#"{"segmentId":"s","segmentEndTimeMs":true}"#, Some("s"), "segmentEndTimeMs is not a time"),
        ] {
            let aside = aside(raw);
            assert_eq!((aside.segment_id.as_deref(), aside.reason.as_str(), aside.raw.as_str()), (id, reason, raw));
        }
    }

    #[test]
    fn a_key_that_comes_twice_counts_as_it_came_last() {
        assert_eq!(segment(r#"{"segmentId":"a","x":1,"segmentId":"b","x":2}"#).segment_id, "b");
    }

    proptest! {
        #[test]
        fn no_element_upsets_it(raw in ".*", id in ".*", end in ".*") {
            understood(raw);
            let record = serde_json::json!({"segmentId": id, "segmentEndTimeMs": end, "hasTranscript": end});
            understood(record.to_string());
        }

        #[test]
        fn a_time_is_read_back_as_it_was_written(millis in 0i64..=253_402_300_799_999) {
            let time = Time(millis);
            for text in [format!("\"{}\"", time.rfc3339()), millis.to_string(), format!("\"{millis}\"")] {
                let raw = format!(r#"{{"segmentId":"s","segmentEndTimeMs":{text}}}"#);
                prop_assert_eq!(segment(&raw).end, Some(time));
            }
        }
    }
}
