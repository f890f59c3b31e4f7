//! Parses the body of a transcript in one pass and keeps only the displayed fields. A search parses
//! hundreds of bodies, and the index all of them.
//!
//! Pure, and as lenient as a lookup of the fields in the whole JSON: a value of an unexpected type
//! counts as missing. Of a repeated name the last value counts that is not empty, and of two
//! transcripts the longer one.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{Conversation, Phrase};
use crate::{lenient_json, lenient_time};

/// Parses a transcript; returns `None` if it is not a JSON object.
pub(super) fn parse_transcript(text: &str) -> Option<Conversation> {
    lenient_json::from_str::<LenientObject<Conversation>>(text)?.0
}

/// The name of a field, recognized without a copy.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum FieldName {
    ChannelClass,
    Transcript,
    Timestamp,
    ParticipantName,
    ParticipantType,
    ParticipantId,
    RcUserId,
    Message,
    #[serde(other)]
    Other,
}

/// A type that is built from the fields of an object.
trait FromFields: Default {
    /// Reads the value if the name is one of its fields; returns whether it did.
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: FieldName, map: &mut A) -> Result<bool, A::Error>;
}

impl FromFields for Conversation {
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: FieldName, map: &mut A) -> Result<bool, A::Error> {
        match name {
            FieldName::ChannelClass => self.channel = next_text(map)?.or(self.channel.take()),
            FieldName::Transcript => {
                let phrases = map.next_value::<PhraseList>()?.0;
                if transcript_size(&phrases) >= transcript_size(&self.phrases) {
                    self.phrases = phrases;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl FromFields for Phrase {
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: FieldName, map: &mut A) -> Result<bool, A::Error> {
        match name {
            FieldName::Timestamp => {
                self.at = next_text(map)?.and_then(|text| lenient_time::parse(&text)).map(|time| time.0).or(self.at)
            }
            FieldName::ParticipantName => self.name = next_text(map)?.or(self.name.take()),
            FieldName::ParticipantType => self.kind = next_text(map)?.or(self.kind.take()),
            FieldName::ParticipantId => self.participant = next_text(map)?.or(self.participant.take()),
            FieldName::RcUserId => self.rc_user = next_text(map)?.or(self.rc_user.take()),
            FieldName::Message => {
                if let Some(text) = next_text(map)? {
                    self.text = text;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The size of a transcript: the length of its texts, then the number of its phrases.
fn transcript_size(phrases: &[Phrase]) -> (usize, usize) {
    (phrases.iter().map(|phrase| phrase.text.len()).sum(), phrases.len())
}

/// A value built from an object; `None` if the JSON value is of another type.
struct LenientObject<T>(Option<T>);

/// The phrases of an array; empty if the JSON value is of another type.
#[derive(Default)]
struct PhraseList(Vec<Phrase>);

/// The next value as a text, like [`scalar_text`](super::scalar_text).
fn next_text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<String>, A::Error> {
    Ok(match map.next_value()? {
        Value::String(text) if !text.trim().is_empty() => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// Implements the visitor methods for scalars, which are ignored.
macro_rules! ignore_scalars {
    ($default:expr) => {
        ignore_scalars!($default; visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($default)
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }
    };
    ($default:expr; $($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> { Ok($default) })*
    };
}

impl<'de, T: FromFields> Deserialize<'de> for LenientObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(T);
        impl<'de, T: FromFields> Visitor<'de> for ObjectVisitor<T> {
            type Value = LenientObject<T>;

            fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<LenientObject<T>, A::Error> {
                while let Some(name) = map.next_key::<FieldName>()? {
                    if !self.0.read_field(name, &mut map)? {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(LenientObject(Some(self.0)))
            }

            ignore_scalars!(LenientObject(None));

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(LenientObject(None))
            }
        }
        deserializer.deserialize_any(ObjectVisitor(T::default()))
    }
}

impl<'de> Deserialize<'de> for PhraseList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PhrasesVisitor;
        impl<'de> Visitor<'de> for PhrasesVisitor {
            type Value = PhraseList;

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PhraseList, A::Error> {
                let mut phrases = Vec::new();
                while let Some(phrase) = seq.next_element::<LenientObject<Phrase>>()? {
                    phrases.extend(phrase.0);
                }
                Ok(PhraseList(phrases))
            }

            ignore_scalars!(PhraseList::default());

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(PhraseList::default())
            }
        }
        deserializer.deserialize_any(PhrasesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::scalar_text;
    use super::*;

    /// The same by way of the whole as JSON.
    fn looked_up(text: &str) -> Option<Conversation> {
        let value: Value = serde_json::from_str(text).ok()?;
        let object = value.as_object()?;
        let phrase = |value: &Value| {
            let object = value.as_object()?;
            let field = |name: &str| object.get(name).and_then(scalar_text);
            let at = field("timestamp").and_then(|text| lenient_time::parse(&text)).map(|time| time.0);
            let (name, kind) = (field("participantName"), field("participantType"));
            let text = field("message").unwrap_or_default();
            Some(Phrase { at, name, kind, participant: field("participantId"), rc_user: field("rcUserId"), text })
        };
        let phrases = match object.get("transcript") {
            Some(Value::Array(phrases)) => phrases.iter().filter_map(phrase).collect(),
            _ => Vec::new(),
        };
        Some(Conversation { channel: object.get("channelClass").and_then(scalar_text), phrases })
    }

    fn anything() -> impl Strategy<Value = Value> {
        let one = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e30..1e30).prop_map(Value::from),
            "(\\PC|[ \"\\\\\n0-9]){0,8}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("timestamp"),
            Just("participantName"),
            Just("participantType"),
            Just("participantId"),
            Just("rcUserId"),
            Just("message"),
            Just("transcript"),
            Just("channelClass"),
            Just("other"),
        ];
        one.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((name.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_looking_it_up_would(phrases in anything(), channel in anything(), whole in anything()) {
            for body in [json!({"channelClass": channel, "transcript": phrases}).to_string(), whole.to_string()] {
                prop_assert_eq!(parse_transcript(&body), looked_up(&body), "{}", body);
            }
        }
    }

    #[test]
    fn what_is_no_object_or_not_whole_is_none() {
        for body in
            [r#"{"transcript":[{"message":"a"}]} trailing"#, r#"{"transcript":[{"message":"a"}"#, "[1]", "\"x\"", ""]
        {
            assert_eq!(parse_transcript(body), None, "{body}");
        }
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_counts_that_says_anything() {
        for (body, channel, texts) in [
            (
                r#"{"transcript":[{"message":"a","message":"b"}],"channelClass":"A","channelClass":"B"}"#,
                Some("B"),
                &["b"][..],
            ),
            (
                r#"{"transcript":[{"message":"a","message":null}],"channelClass":"A","channelClass":" "}"#,
                Some("A"),
                &["a"],
            ),
            (r#"{"transcript":[{"message":"a"}],"transcript":null}"#, None, &["a"]),
            (r#"{"transcript":[{"message":"a"}],"transcript":7}"#, None, &["a"]),
            (r#"{"transcript":[],"transcript":[{"message":"a"}]}"#, None, &["a"]),
            (r#"{"transcript":[{"message":"a"},{"message":"b"}],"transcript":[{"message":"c"}]}"#, None, &["a", "b"]),
            (r#"{"transcript":[{"message":"abc"}],"transcript":[{},{},{}]}"#, None, &["abc"]),
            (r#"{"transcript":[{"message":"a"}],"transcript":[{"message":"b"}]}"#, None, &["b"]),
        ] {
            let read = parse_transcript(body).unwrap();
            let said: Vec<&str> = read.phrases.iter().map(|phrase| phrase.text.as_str()).collect();
            assert_eq!((read.channel.as_deref(), &*said), (channel, texts), "{body}");
        }
        let twice = r#"{"transcript":[{"timestamp":1000,"participantName":"Jane","participantType":"agent","participantId":"1",
            "rcUserId":"2","message":"a","timestamp":null,"participantName":"","participantType":null,"participantId":{},
            "rcUserId":null,"message":[]}]}"#;
        let once = r#"{"transcript":[{"timestamp":1000,"participantName":"Jane","participantType":"agent","participantId":"1",
            "rcUserId":"2","message":"a"}]}"#;
        assert_eq!(parse_transcript(twice), parse_transcript(once));
    }
}
