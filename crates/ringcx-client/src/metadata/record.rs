//! Parses one element of a metadata answer leniently. Fields that are not needed are skipped, and
//! the others may have several forms. An unreadable field is ignored. A record is quarantined, with
//! the reason, only without the ids that requests for its artifacts need.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock::Time;
use crate::lenient_json;
use crate::lenient_time;
use crate::model::{QuarantinedRecord, SegmentRecord};
use crate::raw_fields::RawFields;

use super::ParsedRecord;

/// The longest accepted id: longer ones do not fit a database's index.
const MAX_ID_BYTES: usize = 512;

/// Parses an element as a segment, or quarantines it with the reason.
pub(super) fn parse_record(raw: Vec<u8>) -> ParsedRecord {
    let (raw, is_utf8) = match String::from_utf8(raw) {
        Ok(raw) => (raw, true),
        Err(error) => (lenient_json::decode_lossy(error.as_bytes()).into_owned(), false),
    };
    match parse_segment(&raw, is_utf8) {
        Ok(mut segment) => {
            segment.raw = raw;
            ParsedRecord::Segment(segment)
        }
        Err((segment_id, reason)) => {
            ParsedRecord::Quarantined(QuarantinedRecord { segment_id, reason: reason.to_owned(), raw })
        }
    }
}

fn parse_segment(raw: &str, is_utf8: bool) -> Result<SegmentRecord, (Option<String>, &'static str)> {
    if !raw.starts_with('{') {
        return Err((None, "the record is not an object"));
    }
    match serde_json::from_str(raw) {
        Ok(fields) => build_segment(&fields, is_utf8),
        Err(_) => {
            let repaired = lenient_json::to_strict(raw).ok_or((None, "the record cannot be read"))?;
            let fields = serde_json::from_str(&repaired).map_err(|_| (None, "the record cannot be read"))?;
            build_segment(&fields, false)
        }
    }
}

/// `is_whole` if no character was replaced. A replaced character in an id could make two different
/// ids equal.
fn build_segment(fields: &RawFields<'_>, is_whole: bool) -> Result<SegmentRecord, (Option<String>, &'static str)> {
    let checked_id =
        |name| parse_id(field(fields, name)).and_then(|id| if is_whole { Ok(id) } else { reject_replaced(id) });
    let segment_id = match checked_id("segmentId") {
        Ok(Some(id)) => id,
        Ok(None) => return Err((None, "segmentId is missing")),
        Err(InvalidField) => return Err((None, "segmentId is not an id")),
    };
    let quarantine = |reason| (Some(segment_id.clone()), reason);
    let has_transcript = parse_flag(field(fields, "hasTranscript"));
    // `uii` is the newer form's `dialogId`.
    let dialog_id = match (checked_id("dialogId"), checked_id("uii")) {
        (Ok(Some(id)), _) | (_, Ok(Some(id))) => Some(id),
        _ if !has_transcript => None,
        (Ok(None), Ok(None)) => return Err(quarantine("dialogId is missing though hasTranscript is true")),
        _ => return Err(quarantine("dialogId is not an id")),
    };
    let is_agent = match parse_value(field(fields, "segmentType")) {
        Ok(Value::String(kind)) => kind.eq_ignore_ascii_case("AGENT"),
        // The newer form has no type, but an agent's id.
        _ => matches!(checked_id("agentId"), Ok(Some(_))),
    };
    Ok(SegmentRecord {
        segment_id,
        dialog_id,
        end: parse_end(field(fields, "segmentEndTimeMs")),
        has_transcript,
        is_agent,
        has_recording: parse_flag(field(fields, "hasRecording")),
        raw: String::new(),
    })
}

/// The field is present and has no valid form.
struct InvalidField;

type RawField<'a> = Option<&'a RawValue>;

/// Of a repeated key the last value counts, unless it is `null`.
fn field<'a>(RawFields(fields): &RawFields<'a>, name: &str) -> RawField<'a> {
    let mut values = fields.iter().rev().filter(|(known, _)| known == name).map(|(_, value)| *value);
    let last = values.next()?;
    if last.get() == "null" { values.find(|value| value.get() != "null").or(Some(last)) } else { Some(last) }
}

fn parse_value(field: RawField<'_>) -> Result<Value, InvalidField> {
    field.map_or(Ok(Value::Null), |raw| serde_json::from_str(raw.get()).map_err(|_| InvalidField))
}

/// The text of a number, which may be too large for any number type.
fn number_text(field: RawField<'_>) -> Option<&str> {
    field.map(RawValue::get).filter(|raw| raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
}

fn parse_id(field: RawField<'_>) -> Result<Option<String>, InvalidField> {
    let id = match (number_text(field), parse_value(field)) {
        (Some(number), _) => number.to_owned(),
        (None, Ok(Value::Null)) => return Ok(None),
        (None, Ok(Value::String(text))) => text,
        _ => return Err(InvalidField),
    };
    if id.is_empty() {
        return Ok(None);
    }
    // A database's text cannot hold a NUL.
    if id.len() > MAX_ID_BYTES || id.contains('\0') { Err(InvalidField) } else { Ok(Some(id)) }
}

fn reject_replaced(id: Option<String>) -> Result<Option<String>, InvalidField> {
    if id.as_ref().is_some_and(|id| id.contains(char::REPLACEMENT_CHARACTER)) { Err(InvalidField) } else { Ok(id) }
}

/// An unreadable flag counts as true: a needless request costs an answer, a missing one the
/// conversation.
fn parse_flag(field: RawField<'_>) -> bool {
    match parse_value(field) {
        Ok(Value::Null) => false,
        Ok(Value::Bool(flag)) => flag,
        Ok(Value::String(text)) => {
            let no = ["", "0", "f", "false", "n", "no", "null"];
            !no.contains(&text.trim().to_ascii_lowercase().as_str())
        }
        Ok(Value::Number(number)) => number.as_f64() != Some(0.0),
        Ok(Value::Array(list)) => !list.is_empty(),
        Ok(Value::Object(fields)) => !fields.is_empty(),
        Err(InvalidField) => true,
    }
}

/// `None` if it is no time. Then the segment has no position in the order; everything else still
/// works.
fn parse_end(field: RawField<'_>) -> Option<Time> {
    let text = match (number_text(field), parse_value(field)) {
        (Some(number), _) => number.to_owned(),
        (None, Ok(Value::String(text))) => text,
        _ => return None,
    };
    lenient_time::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(raw: &str) -> SegmentRecord {
        match parse_record(raw.into()) {
            ParsedRecord::Segment(segment) => segment,
            ParsedRecord::Quarantined(quarantined) => panic!("quarantined: {}", quarantined.reason),
        }
    }

    fn quarantined(raw: &str) -> QuarantinedRecord {
        match parse_record(raw.into()) {
            ParsedRecord::Quarantined(quarantined) => quarantined,
            ParsedRecord::Segment(_) => panic!("parsed: {raw}"),
        }
    }

    #[test]
    fn a_documented_record_is_parsed_and_kept_byte_for_byte() {
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
    fn a_malformed_field_does_not_hide_a_segment_but_no_id_is_guessed() {
        let long = "7".repeat(400);
        for fault in ["\"a\u{1}\"", "\"\\ud83d\"", "\"\\x\"", "1e999", "NaN", &long] {
            let raw = format!(r#"{{"segmentId":"s","agentNotes":{fault},"dialogId":{long}}}"#);
            let segment = segment(&raw);
            assert_eq!((&*segment.segment_id, segment.dialog_id.as_deref()), ("s", Some(&*long)), "{fault}");
            let (reason, id) = match parse_record(format!(r#"{{"n":{fault},"segmentId":"\ud83d"}}"#).into()) {
                ParsedRecord::Quarantined(quarantined) => (quarantined.reason, quarantined.segment_id),
                ParsedRecord::Segment(segment) => panic!("{segment:?}"),
            };
            assert_eq!((&*reason, id), ("segmentId is not an id", None));
        }
        let ParsedRecord::Segment(lossy) = parse_record(b"{\"segmentId\":\"s\",\"agentNotes\":\"caf\xe9\"}".to_vec())
        else {
            panic!()
        };
        assert_eq!((&*lossy.segment_id, &*lossy.raw), ("s", "{\"segmentId\":\"s\",\"agentNotes\":\"caf\u{fffd}\"}"));
        assert!(matches!(parse_record(b"{\"segmentId\":\"caf\xe9\"}".to_vec()), ParsedRecord::Quarantined(_)));
        assert_eq!(segment("{\"segmentId\":\"\u{fffd}\"}").segment_id, "\u{fffd}");
    }

    #[test]
    fn the_newer_form_is_parsed() {
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
            // A needless request costs an answer, a missing one the conversation.
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
    fn an_unparsable_element_is_quarantined_whole_with_its_reason() {
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
            let quarantined = quarantined(raw);
            assert_eq!(
                (quarantined.segment_id.as_deref(), quarantined.reason.as_str(), quarantined.raw.as_str()),
                (id, reason, raw)
            );
        }
    }

    #[test]
    fn an_unreadable_dialog_id_matters_only_where_it_is_needed() {
        let dialog = |raw: &str| segment(raw).dialog_id;
        assert_eq!(dialog(r#"{"segmentId":"s","dialogId":[1]}"#), None);
        assert_eq!(dialog(r#"{"segmentId":"s","dialogId":"\ud83d","hasTranscript":"no"}"#), None);
        assert_eq!(dialog(r#"{"segmentId":"s","dialogId":[1],"uii":"u","hasTranscript":true}"#).as_deref(), Some("u"));
    }

    #[test]
    fn of_a_repeated_key_the_last_value_counts_unless_it_is_null() {
        assert_eq!(segment(r#"{"segmentId":"a","x":1,"segmentId":"b","x":2}"#).segment_id, "b");
        let segment =
            segment(r#"{"segmentId":"a","dialogId":"d","hasTranscript":true,"segmentId":null,"hasTranscript":null}"#);
        assert_eq!((&*segment.segment_id, segment.has_transcript), ("a", true));
    }

    proptest! {
        #[test]
        fn no_element_makes_it_panic(raw in ".*", id in ".*", end in ".*") {
            parse_record(raw.into());
            let record = serde_json::json!({"segmentId": id, "segmentEndTimeMs": end, "hasTranscript": end});
            parse_record(record.to_string().into());
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
