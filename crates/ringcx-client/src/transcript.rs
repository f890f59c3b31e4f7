//! Transcripts: who said what and when, as the JSON that the API sends.
//!
//! The body is checked for being a transcript and handed on untouched.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Endpoint};

use super::call::{Call, empty, not_yet};
use super::error::{ApiError, Cause, sane_code};
use super::limits::{Pacer, Permit};
use super::{Api, Body, Fetched, Login, path_segment};

/// The largest transcript that is taken, after decoding.
pub(super) const CAP: usize = 64 * 1024 * 1024;

/// Fetches the transcript of a segment (contract.md, Transcripts). Never [`Fetched::Empty`].
///
/// # Errors
/// By [`ApiError::fault`]; a 200 whose `errorCode` is set is [`crate::backoff::Fault::NotYet`], and so is one without a
/// word in it, with [`crate::Cause::Empty`] and, where it has phrases all the same, the whole body.
pub async fn transcript(
    api: &Api,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    account: &AccountId,
    dialog: &str,
    segment: &str,
) -> Result<Fetched, ApiError> {
    let endpoint = Endpoint::Transcript;
    let encoded = |id| path_segment(endpoint, id);
    let url = format!(
        "{}/voice/api/cx/integration/v1/accounts/{}/sub-accounts/{}/transcripts/dialogs/{}/segments/{}",
        api.hosts().ringcx,
        encoded(&account.rc)?,
        encoded(&account.sub)?,
        encoded(dialog)?,
        encoded(segment)?,
    );
    let call = Call { api, login, pacer, endpoint, budget: None };
    let answer = call.answer(permit, |token| Ok(token.authorise(api.client().get(&url)))).await?;
    answer.decoded()?;
    let (status, charset) = (answer.status(), answer.charset());
    let body = Body { bytes: answer.bytes(CAP).await?, charset };
    check(&body).map_err(|error| match error.cause {
        Cause::Undecodable => error.with_status(status).of_body(&body.bytes),
        _ => error,
    })?;
    Ok(Fetched::Body(body))
}

/// Whether a 200 holds a transcript with at least one word. One without is not there yet, whatever form it has: `[]`,
/// `null`, an empty text or object, no such key, phrases with nothing in them, no body at all.
pub(super) fn check(body: &Body) -> Result<(), ApiError> {
    let undecodable = |why| ApiError::undecodable(Endpoint::Transcript, why);
    let text = charset::text(body.charset, &body.bytes);
    if !bare(&text).starts_with('{') && says_nothing(&text) {
        return Err(empty(Endpoint::Transcript));
    }
    let shape: Shape = lenient_json::from_str(&text).ok_or_else(|| undecodable("it is not a JSON object"))?;
    if let Some(code) = shape.error_code.as_ref().filter(|code| is_error(code)) {
        return Err(not_yet(Endpoint::Transcript, sane_code(code)));
    }
    match shape.transcript {
        Some(Phrases::Words) => Ok(()),
        Some(Phrases::Blank) => Err(empty(Endpoint::Transcript).of_whole_body(body)),
        Some(Phrases::None) => Err(empty(Endpoint::Transcript)),
        Some(Phrases::Other) => Err(undecodable("its transcript is no array")),
        None if shape.channel_class || !shape.holds_other => Err(empty(Endpoint::Transcript)),
        None => Err(undecodable("it holds no transcript")),
    }
}

/// Longer texts are not looked at: nothing takes hardly any room.
const MAX_NOTHING_BYTES: usize = 256;

fn bare(text: &str) -> &str {
    text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\u{feff}')
}

/// Whether a JSON text, or a text that is sent in its place, holds nothing at all.
fn says_nothing(text: &str) -> bool {
    let bare = bare(text);
    bare.len() <= MAX_NOTHING_BYTES
        && match lenient_json::value(bare) {
            // A list as a text, as in `"[]"`.
            Some(Value::String(inner)) => inner.len() < bare.len() && says_nothing(&inner),
            Some(value) => is_blank(&value),
            None => bare.is_empty(),
        }
}

/// Whether an `errorCode` in a 200 tells of an error. Null, nothing, and the zero that some services send for "none" do
/// not; any other does, whatever else the body holds: what came with an error may be half of it.
pub(super) fn is_error(code: &Value) -> bool {
    match code {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !matches!(text.trim(), "" | "0"),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

/// As much of a 200 as is looked at.
#[derive(Default)]
pub(super) struct Shape {
    pub(super) error_code: Option<Value>,
    transcript: Option<Phrases>,
    channel_class: bool,
    /// Whether it holds anything besides these.
    holds_other: bool,
}

/// The emptier ones first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Phrases {
    /// There are none.
    None,
    /// It is no list of phrases.
    Other,
    /// There are phrases, and nothing in any of them.
    Blank,
    /// Something was said.
    Words,
}

impl Phrases {
    fn of(raw: &RawValue) -> Phrases {
        if !raw.get().starts_with('[') {
            return if says_nothing(raw.get()) { Phrases::None } else { Phrases::Other };
        }
        // What cannot be looked into may hold words.
        let Ok(AnyWords { phrases, words }) = serde_json::from_str(raw.get()) else { return Phrases::Words };
        match (phrases, words) {
            (_, true) => Phrases::Words,
            (true, false) => Phrases::Blank,
            (false, false) => Phrases::None,
        }
    }
}

/// What a list of phrases holds: whether there are any, and whether one of them says anything.
struct AnyWords {
    phrases: bool,
    words: bool,
}

impl<'de> Deserialize<'de> for AnyWords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AnyWords, D::Error> {
        struct Phrases;
        impl<'de> Visitor<'de> for Phrases {
            type Value = AnyWords;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AnyWords, A::Error> {
                let mut found = AnyWords { phrases: false, words: false };
                while !found.words {
                    let Some(phrase) = list.next_element::<&RawValue>()? else { return Ok(found) };
                    found = AnyWords { phrases: true, words: says_anything(phrase.get()) };
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(found)
            }
        }
        deserializer.deserialize_seq(Phrases)
    }
}

/// What tells of a phrase who said it and when, and not what.
const CIRCUMSTANCES: [&str; 5] = ["participantId", "participantName", "participantType", "rcUserId", "timestamp"];

/// Whether a phrase holds anything besides its circumstances: a message, or what this program does not know.
fn says_anything(phrase: &str) -> bool {
    if phrase.starts_with('{') {
        return lenient_json::from_str(phrase).is_none_or(|SaysAnything(says)| says);
    }
    lenient_json::value(phrase).is_none_or(|value| !is_blank(&value))
}

struct SaysAnything(bool);

impl<'de> Deserialize<'de> for SaysAnything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SaysAnything, D::Error> {
        struct Phrase;
        impl<'de> Visitor<'de> for Phrase {
            type Value = SaysAnything;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            /// Of a key that comes twice either value counts.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SaysAnything, A::Error> {
                let mut says = false;
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, Value>()? {
                    says |= !CIRCUMSTANCES.contains(&key.as_ref()) && !is_blank(&value);
                }
                Ok(SaysAnything(says))
            }
        }
        deserializer.deserialize_map(Phrase)
    }
}

/// Whether there is nothing in it, however deep one looks.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.iter().all(is_blank),
        Value::Object(fields) => fields.values().all(is_blank),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_map(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// Of a transcript that comes twice the fuller one counts, and of an error code the one that tells of an error.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::default();
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                "errorCode" => {
                    let code = code_of(map.next_value()?);
                    shape.error_code = shape.error_code.filter(is_error).or(Some(code));
                }
                "errorMessage" => {
                    map.next_value::<IgnoredAny>()?;
                }
                "channelClass" => {
                    map.next_value::<IgnoredAny>()?;
                    shape.channel_class = true;
                }
                "transcript" => shape.transcript = shape.transcript.max(Some(Phrases::of(map.next_value()?))),
                _ => {
                    let other: &RawValue = map.next_value()?;
                    shape.holds_other |= !says_nothing(other.get());
                }
            }
        }
        Ok(shape)
    }
}

/// What cannot be read as a value is an error code all the same.
fn code_of(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Bool(true))
}

#[cfg(test)]
mod tests;
