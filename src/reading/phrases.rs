//! Reads a transcript's phrases without building a tree of the whole: what is not asked for is skipped where it stands.
//!
//! Pure, and as lenient as `reading`: whatever is null, missing or of another type than documented is left out. A key that
//! comes twice counts as it came last.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What people read of a transcript, borrowed from its body where no escape stands in the way.
#[derive(Debug, Default)]
pub struct Phrases<'a> {
    /// `VOICE`, `DIGITAL`.
    pub channel: Option<Cow<'a, str>>,
    /// In the order in which they came.
    pub phrases: Vec<Said<'a>>,
}

/// One thing that someone said.
#[derive(Debug, Default)]
pub struct Said<'a> {
    /// When, in milliseconds since 1970.
    pub at: Option<i64>,
    /// The speaker's name.
    pub name: Option<Cow<'a, str>>,
    /// What the API calls the speaker.
    pub kind: Option<Cow<'a, str>>,
    /// The speaker's id within the conversation.
    pub participant: Option<Cow<'a, str>>,
    /// What was said.
    pub text: Cow<'a, str>,
}

impl<'a> Phrases<'a> {
    /// Reads a transcript's body; `None` where it is no JSON object.
    pub fn read(body: &'a str) -> Option<Phrases<'a>> {
        serde_json::from_str::<Lenient<Phrases<'_>>>(body.trim_start_matches('\u{feff}')).ok()?.0
    }
}

/// A text or a number as text; nothing for the rest, and for a text that is blank.
struct Word<'a>(Option<Cow<'a, str>>);

/// Nothing where it is of another type.
struct Lenient<T>(Option<T>);

/// What can be read from an object, key by key.
trait Object<'de>: Default {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

impl<'de> Object<'de> for Phrases<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "channelClass" => self.channel = map.next_value::<Word<'_>>()?.0,
            "transcript" => self.phrases = map.next_value::<List<'_>>()?.0,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> Object<'de> for Said<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let mut word = || map.next_value::<Word<'_>>().map(|word| word.0);
        match key {
            "timestamp" => self.at = word()?.and_then(|at| at.trim().parse().ok()),
            "participantName" => self.name = word()?,
            "participantType" => self.kind = word()?,
            "participantId" => self.participant = word()?,
            "message" => self.text = word()?.unwrap_or_default(),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

struct Key<'a>(Cow<'a, str>);
struct List<'a>(Vec<Said<'a>>);

struct Words;
struct Keys;
struct Lists;
struct Objects<T>(std::marker::PhantomData<T>);

impl<'de> Deserialize<'de> for Word<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Words).map(Word)
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Keys).map(Key)
    }
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lists).map(|list| List(list.unwrap_or_default()))
    }
}

impl<'de, T: Object<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Objects(std::marker::PhantomData)).map(Lenient)
    }
}

/// The types of JSON that a visitor passes over.
macro_rules! nothing {
    ($($visit:ident($type:ty)),*) => {$(
        fn $visit<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(None)
        }
    )*};
    (null) => {
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    };
    (list) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    };
    (object) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    };
}

fn filled(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    (!text.trim().is_empty()).then_some(text)
}

impl<'de> Visitor<'de> for Words {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(filled(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(filled(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string().into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string().into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(serde_json::Number::from_f64(number).map(|number| number.to_string().into()))
    }

    nothing!(visit_bool(bool));
    nothing!(null);
    nothing!(list);
    nothing!(object);
}

impl<'de> Visitor<'de> for Keys {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

impl<'de> Visitor<'de> for Lists {
    type Value = Option<Vec<Said<'de>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut phrases = Vec::new();
        while let Some(Lenient(phrase)) = list.next_element()? {
            phrases.extend(phrase);
        }
        Ok(Some(phrases))
    }

    nothing!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
    nothing!(null);
    nothing!(object);
}

impl<'de, T: Object<'de>> Visitor<'de> for Objects<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = T::default();
        while let Some(Key(key)) = map.next_key()? {
            object.take(&key, &mut map)?;
        }
        Ok(Some(object))
    }

    nothing!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
    nothing!(null);
    nothing!(list);
}
