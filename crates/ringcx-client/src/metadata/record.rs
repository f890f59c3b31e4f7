//! One element of a metadata answer, read leniently: what is not needed is not looked at, what is needed may be written
//! in more than one way. A field that cannot be read costs itself; only without the ids by which its texts are asked for is a
//! record set aside, with the reason.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock::Time;
use crate::lenient_json;
use crate::lenient_time;
use crate::model::{AsideRecord, SegmentRecord};

use super::Record;

/// The longest id that is taken, in bytes: longer ones would not fit a database's index.
const LONGEST_ID: usize = 512;

/// An element as a segment, or the reason why it is none.
pub(super) fn understood(raw: Vec<u8>) -> Record {
    let (raw, is_utf8) = match String::from_utf8(raw) {
        Ok(raw) => (raw, true),
        Err(error) => (lenient_json::decode(error.as_bytes()).into_owned(), false),
    };
    match read(&raw, is_utf8) {
        Ok(mut segment) => {
            segment.raw = raw;
            Record::Segment(segment)
        }
        Err((segment_id, reason)) => Record::Aside(AsideRecord { segment_id, reason: reason.to_owned(), raw }),
    }
}

fn read(raw: &str, is_utf8: bool) -> Result<SegmentRecord, (Option<String>, &'static str)> {
    if !raw.starts_with('{') {
        return Err((None, "the record is not an object"));
    }
    match serde_json::from_str::<Fields<'_>>(raw) {
        Ok(fields) => segment(&fields, is_utf8),
        Err(_) => {
            let repaired = lenient_json::strict(raw).ok_or((None, "the record cannot be read"))?;
            let fields = serde_json::from_str(&repaired).map_err(|_| (None, "the record cannot be read"))?;
            segment(&fields, false)
        }
    }
}

/// `is_whole` where no letter of it was replaced, so that two ids that differ are read as two.
fn segment(fields: &Fields<'_>, is_whole: bool) -> Result<SegmentRecord, (Option<String>, &'static str)> {
    let id = |field| id(field).and_then(|id| if is_whole { Ok(id) } else { unreplaced(id) });
    let segment_id = match id(fields.segment_id) {
        Ok(Some(id)) => id,
        Ok(None) => return Err((None, "segmentId is missing")),
        Err(Unreadable) => return Err((None, "segmentId is not an id")),
    };
    let aside = |reason| (Some(segment_id.clone()), reason);
    let has_transcript = flag(fields.has_transcript);
    let dialog_id = match (id(fields.dialog_id), id(fields.uii)) {
        (Ok(Some(id)), _) | (_, Ok(Some(id))) => Some(id),
        _ if !has_transcript => None,
        (Ok(None), Ok(None)) => return Err(aside("dialogId is missing though hasTranscript is true")),
        _ => return Err(aside("dialogId is not an id")),
    };
    let is_agent = match value(fields.segment_type) {
        Ok(Value::String(kind)) => kind.eq_ignore_ascii_case("AGENT"),
        // The newer form has no type, but names the agent.
        _ => matches!(id(fields.agent_id), Ok(Some(_))),
    };
    Ok(SegmentRecord { segment_id, dialog_id, end: end(fields.end), has_transcript, is_agent, raw: String::new() })
}

/// There is something, and it is not what it should be.
struct Unreadable;

type Field<'a> = Option<&'a RawValue>;

fn value(field: Field<'_>) -> Result<Value, Unreadable> {
    field.map_or(Ok(Value::Null), |raw| serde_json::from_str(raw.get()).map_err(|_| Unreadable))
}

/// A number as it was written: it may be too large for any number type.
fn number(field: Field<'_>) -> Option<&str> {
    field.map(RawValue::get).filter(|raw| raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
}

fn id(field: Field<'_>) -> Result<Option<String>, Unreadable> {
    let id = match (number(field), value(field)) {
        (Some(number), _) => number.to_owned(),
        (None, Ok(Value::Null)) => return Ok(None),
        (None, Ok(Value::String(text))) => text,
        _ => return Err(Unreadable),
    };
    if id.is_empty() {
        return Ok(None);
    }
    // A database's text holds no NUL.
    if id.len() > LONGEST_ID || id.contains('\0') { Err(Unreadable) } else { Ok(Some(id)) }
}

fn unreplaced(id: Option<String>) -> Result<Option<String>, Unreadable> {
    if id.as_ref().is_some_and(|id| id.contains(char::REPLACEMENT_CHARACTER)) { Err(Unreadable) } else { Ok(id) }
}

/// What cannot be read counts as true: to ask for what is not there costs an answer, not to ask costs the conversation.
fn flag(field: Field<'_>) -> bool {
    match value(field) {
        Ok(Value::Null) => false,
        Ok(Value::Bool(flag)) => flag,
        Ok(Value::String(text)) => {
            let no = ["", "0", "f", "false", "n", "no", "null"];
            !no.contains(&text.trim().to_ascii_lowercase().as_str())
        }
        Ok(Value::Number(number)) => number.as_f64() != Some(0.0),
        Ok(Value::Array(list)) => !list.is_empty(),
        Ok(Value::Object(fields)) => !fields.is_empty(),
        Err(Unreadable) => true,
    }
}

/// `None` where it is no time: that costs the segment its place in the order, and nothing else.
fn end(field: Field<'_>) -> Option<Time> {
    let text = match (number(field), value(field)) {
        (Some(number), _) => number.to_owned(),
        (None, Ok(Value::String(text))) => text,
        _ => return None,
    };
    lenient_time::parse(&text)
}

/// The fields that are looked at. A key that comes twice counts as it came last, unless it came last with nothing.
#[derive(Default)]
struct Fields<'a> {
    segment_id: Field<'a>,
    dialog_id: Field<'a>,
    segment_type: Field<'a>,
    end: Field<'a>,
    has_transcript: Field<'a>,
    /// `dialogId` and what stands in the place of `segmentType`, in the newer form.
    uii: Field<'a>,
    agent_id: Field<'a>,
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
                "uii" => &mut fields.uii,
                "agentId" => &mut fields.agent_id,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value: &RawValue = map.next_value()?;
            if field.is_none() || value.get() != "null" {
                *field = Some(value);
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(raw: &str) -> SegmentRecord {
        match understood(raw.into()) {
            Record::Segment(segment) => segment,
            Record::Aside(aside) => panic!("set aside: {}", aside.reason),
        }
    }

    fn aside(raw: &str) -> AsideRecord {
        match understood(raw.into()) {
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
    fn what_is_at_fault_elsewhere_does_not_hide_a_segment_but_no_id_is_guessed() {
        let long = "7".repeat(400);
        for fault in ["\"a\u{1}\"", "\"\\ud83d\"", "\"\\x\"", "1e999", "NaN", &long] {
            let raw = format!(r#"{{"segmentId":"s","agentNotes":{fault},"dialogId":{long}}}"#);
            let segment = segment(&raw);
            assert_eq!((&*segment.segment_id, segment.dialog_id.as_deref()), ("s", Some(&*long)), "{fault}");
            let (reason, id) = match understood(format!(r#"{{"n":{fault},"segmentId":"\ud83d"}}"#).into()) {
                Record::Aside(aside) => (aside.reason, aside.segment_id),
                Record::Segment(segment) => panic!("{segment:?}"),
            };
            assert_eq!((&*reason, id), ("segmentId is not an id", None));
        }
        let Record::Segment(lossy) = understood(b"{\"segmentId\":\"s\",\"agentNotes\":\"caf\xe9\"}".to_vec()) else {
            panic!()
        };
        assert_eq!((&*lossy.segment_id, &*lossy.raw), ("s", "{\"segmentId\":\"s\",\"agentNotes\":\"caf\u{fffd}\"}"));
        assert!(matches!(understood(b"{\"segmentId\":\"caf\xe9\"}".to_vec()), Record::Aside(_)));
        assert_eq!(segment("{\"segmentId\":\"\u{fffd}\"}").segment_id, "\u{fffd}");
    }

    #[test]
    fn the_newer_form_is_understood() {
        let raw = r#"{"segmentId":"s","uii":"u-1","agentId":"901","hasTranscript":true,"callType":"INBOUND"}"#;
        let segment = segment(raw);
        assert_eq!((segment.dialog_id.as_deref(), segment.is_agent), (Some("u-1"), true));
        assert!(!self::segment(r#"{"segmentId":"s","segmentType":"IVR","agentId":"901"}"#).is_agent);
    }

    #[test]
    fn has_transcript_may_be_written_in_several_ways() {
        for (text, expected) in [
            ("true", true),
            ("\"true\"", true),
            ("\"TRUE\"", true),
            ("1", true),
            ("\"1\"", true),
            ("\"Yes\"", true),
            ("\" y \"", true),
            ("\"t\"", true),
            ("1.0", true),
            ("false", false),
            ("\"false\"", false),
            ("0", false),
            ("\"0\"", false),
            ("\"No\"", false),
            ("\"n\"", false),
            ("\"f\"", false),
            ("\" \"", false),
            ("\"\"", false),
            ("[]", false),
            ("{}", false),
            ("-0.0", false),
            ("null", false),
            // To ask costs an answer, not to ask costs the conversation.
            ("\"perhaps\"", true),
            ("2", true),
            ("[false]", true),
            ("{\"value\":true}", true),
            ("1e999", true),
            ("\"\\ud83d\"", true),
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
            "1721647487",
            "\"1.721647487E12\"",
        ] {
            let raw = format!(r#"{{"segmentId":"s","segmentEndTimeMs":{text}}}"#);
            assert_eq!(segment(&raw).end, expected, "{text}");
        }
        let deep = "[".repeat(300) + &"]".repeat(300);
        let none =
            ["null", "\"\"", "\"soon\"", "\"2024-07-22\"", "-1", "1e300", "1e999", "true", "{}", "\"\\ud83d\"", &deep];
        for text in none {
            let raw = format!(r#"{{"segmentId":"s","dialogId":"d","segmentEndTimeMs":{text},"hasTranscript":true}}"#);
            let segment = segment(&raw);
            assert_eq!((segment.end, segment.has_transcript, segment.raw.as_str()), (None, true, &*raw));
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
            (r#"{"segmentId":"s","dialogId":[1],"hasTranscript":true}"#, Some("s"), "dialogId is not an id"),
            (r#"{"segmentId":"s","dialogId":[1],"uii":"","hasTranscript":true}"#, Some("s"), "dialogId is not an id"),
            (
                r#"{"segmentId":"s","hasTranscript":true}"#,
                Some("s"),
                "dialogId is missing though hasTranscript is true",
            ),
            (
                r#"{"segmentId":"s","dialogId":"","hasTranscript":"perhaps"}"#,
                Some("s"),
                "dialogId is missing though hasTranscript is true",
            ),
        ] {
            let aside = aside(raw);
            assert_eq!((aside.segment_id.as_deref(), aside.reason.as_str(), aside.raw.as_str()), (id, reason, raw));
        }
    }

    #[test]
    fn a_dialog_that_cannot_be_read_is_missed_only_where_it_is_needed() {
        let dialog = |raw: &str| segment(raw).dialog_id;
        assert_eq!(dialog(r#"{"segmentId":"s","dialogId":[1]}"#), None);
        assert_eq!(dialog(r#"{"segmentId":"s","dialogId":"\ud83d","hasTranscript":"no"}"#), None);
        assert_eq!(dialog(r#"{"segmentId":"s","dialogId":[1],"uii":"u","hasTranscript":true}"#).as_deref(), Some("u"));
    }

    #[test]
    fn a_key_that_comes_twice_counts_as_it_came_last_unless_with_nothing() {
        assert_eq!(segment(r#"{"segmentId":"a","x":1,"segmentId":"b","x":2}"#).segment_id, "b");
        let segment =
            segment(r#"{"segmentId":"a","dialogId":"d","hasTranscript":true,"segmentId":null,"hasTranscript":null}"#);
        assert_eq!((&*segment.segment_id, segment.has_transcript), ("a", true));
    }

    proptest! {
        #[test]
        fn no_element_upsets_it(raw in ".*", id in ".*", end in ".*") {
            understood(raw.into());
            let record = serde_json::json!({"segmentId": id, "segmentEndTimeMs": end, "hasTranscript": end});
            understood(record.to_string().into());
        }

        #[test]
        fn a_time_is_read_back_as_it_was_written(millis in 4_133_980_800_i64..=253_402_300_799_999) {
            let time = Time(millis);
            for text in [format!("\"{}\"", time.rfc3339()), millis.to_string(), format!("\"{millis}\"")] {
                let raw = format!(r#"{{"segmentId":"s","segmentEndTimeMs":{text}}}"#);
                prop_assert_eq!(segment(&raw).end, Some(time));
            }
        }
    }
}
