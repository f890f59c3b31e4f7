//! Reads a transcript's body in one pass: what people read of it is kept, everything else passed over. A search reads
//! hundreds of bodies, the index all of them.
//!
//! Pure, and as lenient as reading the whole as JSON and looking the fields up: a value of another type than expected is none.
//! Of a name that comes twice the last counts that says anything, and of two transcripts the fuller one.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::{Conversation, Phrase};
use crate::{lenient_json, lenient_time};

/// Reads it; `None` where it is no JSON object.
pub(super) fn conversation(text: &str) -> Option<Conversation> {
    lenient_json::from_str::<Object<Conversation>>(text)?.0
}

/// A field's name, told from the others without keeping it.
enum Key {
    Channel,
    Transcript,
    Time,
    Name,
    Kind,
    Id,
    RcUser,
    Message,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Key;

            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "channelClass" => Key::Channel,
                    "transcript" => Key::Transcript,
                    "timestamp" => Key::Time,
                    "participantName" => Key::Name,
                    "participantType" => Key::Kind,
                    "participantId" => Key::Id,
                    "rcUserId" => Key::RcUser,
                    "message" => Key::Message,
                    _ => Key::Other,
                })
            }

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
        }
        deserializer.deserialize_identifier(Reader)
    }
}

/// What can be put together from the fields of an object.
trait Fields: Default {
    /// Takes the value of this name, if it is one of its own; whether it did.
    fn take<'de, A: MapAccess<'de>>(&mut self, name: Key, map: &mut A) -> Result<bool, A::Error>;
}

impl Fields for Conversation {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: Key, map: &mut A) -> Result<bool, A::Error> {
        match name {
            Key::Channel => self.channel = map.next_value::<Scalar>()?.word().or(self.channel.take()),
            Key::Transcript => {
                let phrases = map.next_value::<List>()?.0;
                if fullness(&phrases) >= fullness(&self.phrases) {
                    self.phrases = phrases;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Fields for Phrase {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: Key, map: &mut A) -> Result<bool, A::Error> {
        match name {
            Key::Time => self.at = map.next_value::<Scalar>()?.millis().or(self.at),
            Key::Name => self.name = map.next_value::<Scalar>()?.word().or(self.name.take()),
            Key::Kind => self.kind = map.next_value::<Scalar>()?.word().or(self.kind.take()),
            Key::Id => self.participant = map.next_value::<Scalar>()?.word().or(self.participant.take()),
            Key::RcUser => self.rc_user = map.next_value::<Scalar>()?.word().or(self.rc_user.take()),
            Key::Message => {
                if let Some(text) = map.next_value::<Scalar>()?.word() {
                    self.text = text;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// How much is said in a transcript.
fn fullness(phrases: &[Phrase]) -> (usize, usize) {
    (phrases.iter().map(|phrase| phrase.text.len()).sum(), phrases.len())
}

/// An object's fields; none where it is something else.
struct Object<T>(Option<T>);

/// The objects of an array; none where it is something else.
#[derive(Default)]
struct List(Vec<Phrase>);

/// A text or a number; neither where it is something else.
enum Scalar {
    Text(String),
    Number(Number),
    Other,
}

impl Scalar {
    /// As [`super::word`].
    fn word(self) -> Option<String> {
        match self {
            Scalar::Text(text) if !text.trim().is_empty() => Some(text),
            Scalar::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// As milliseconds since 1970.
    fn millis(self) -> Option<i64> {
        lenient_time::parse(&self.word()?).map(|time| time.0)
    }
}

/// What a value is to one who wants something else.
macro_rules! passed_over {
    ($nothing:expr; $($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> { Ok($nothing) })*

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }
    };
}

macro_rules! drained {
    (seq $nothing:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
    (map $nothing:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
}

impl<'de, T: Fields> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(T);
        impl<'de, T: Fields> Visitor<'de> for Reader<T> {
            type Value = Object<T>;

            fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Object<T>, A::Error> {
                while let Some(name) = map.next_key::<Key>()? {
                    if !self.0.take(name, &mut map)? {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Object(Some(self.0)))
            }

            passed_over!(Object(None); visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
            drained!(seq Object(None));
        }
        deserializer.deserialize_any(Reader(T::default()))
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = List;

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
                let mut phrases = Vec::new();
                while let Some(phrase) = seq.next_element::<Object<Phrase>>()? {
                    phrases.extend(phrase.0);
                }
                Ok(List(phrases))
            }

            passed_over!(List::default(); visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
            drained!(map List::default());
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Scalar;

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Number::from_f64(number).map_or(Scalar::Other, Scalar::Number))
            }

            passed_over!(Scalar::Other; visit_bool: bool);
            drained!(seq Scalar::Other);
            drained!(map Scalar::Other);
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::word;
    use super::*;

    /// The same by way of the whole as JSON.
    fn looked_up(text: &str) -> Option<Conversation> {
        let value: Value = serde_json::from_str(text).ok()?;
        let object = value.as_object()?;
        let phrase = |value: &Value| {
            let object = value.as_object()?;
            let field = |name: &str| object.get(name).and_then(word);
            let at = field("timestamp").and_then(|text| lenient_time::parse(&text)).map(|time| time.0);
            let (name, kind) = (field("participantName"), field("participantType"));
            let text = field("message").unwrap_or_default();
            Some(Phrase { at, name, kind, participant: field("participantId"), rc_user: field("rcUserId"), text })
        };
        let phrases = match object.get("transcript") {
            Some(Value::Array(phrases)) => phrases.iter().filter_map(phrase).collect(),
            _ => Vec::new(),
        };
        Some(Conversation { channel: object.get("channelClass").and_then(word), phrases })
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
                prop_assert_eq!(conversation(&body), looked_up(&body), "{}", body);
            }
        }
    }

    #[test]
    fn what_is_no_object_or_not_whole_is_none() {
        for body in
            [r#"{"transcript":[{"message":"a"}]} trailing"#, r#"{"transcript":[{"message":"a"}"#, "[1]", "\"x\"", ""]
        {
            assert_eq!(conversation(body), None, "{body}");
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
            let read = conversation(body).unwrap();
            let said: Vec<&str> = read.phrases.iter().map(|phrase| phrase.text.as_str()).collect();
            assert_eq!((read.channel.as_deref(), &*said), (channel, texts), "{body}");
        }
        let twice = r#"{"transcript":[{"timestamp":1000,"participantName":"Jane","participantType":"agent","participantId":"1",
            "rcUserId":"2","message":"a","timestamp":null,"participantName":"","participantType":null,"participantId":{},
            "rcUserId":null,"message":[]}]}"#;
        let once = r#"{"transcript":[{"timestamp":1000,"participantName":"Jane","participantType":"agent","participantId":"1",
            "rcUserId":"2","message":"a"}]}"#;
        assert_eq!(conversation(twice), conversation(once));
    }
}
