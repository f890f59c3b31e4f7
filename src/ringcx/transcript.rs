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
/// word in it, with [`crate::ringcx::Cause::Empty`] and, where it has phrases all the same, the whole body.
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
    if matches!(text.trim(), "" | "null") {
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
        None if shape.channel_class || shape.keys == 0 => Err(empty(Endpoint::Transcript)),
        None => Err(undecodable("it holds no transcript")),
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
    keys: usize,
}

enum Phrases {
    /// Something was said.
    Words,
    /// There are phrases, and nothing in any of them.
    Blank,
    /// There are none.
    None,
    /// It is no list of phrases.
    Other,
}

impl Phrases {
    fn of(raw: &RawValue) -> Phrases {
        match raw.get().trim() {
            "null" | "\"\"" => return Phrases::None,
            text if text.starts_with('{') => {
                let is_empty = text.trim_start_matches('{').trim_start().starts_with('}');
                return if is_empty { Phrases::None } else { Phrases::Other };
            }
            text if !text.starts_with('[') => return Phrases::Other,
            _ => {}
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
    match lenient_json::value(phrase) {
        Some(Value::Object(fields)) => {
            fields.iter().any(|(key, value)| !CIRCUMSTANCES.contains(&key.as_str()) && !is_blank(value))
        }
        Some(other) => !is_blank(&other),
        None => true,
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
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

    /// A key that comes twice counts as it came last.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::default();
        while let Some(Key(key)) = map.next_key()? {
            shape.keys += 1;
            match key.as_ref() {
                "errorCode" => shape.error_code = Some(code_of(map.next_value()?)),
                "channelClass" => {
                    map.next_value::<IgnoredAny>()?;
                    shape.channel_class = true;
                }
                "transcript" => shape.transcript = Some(Phrases::of(map.next_value()?)),
                _ => {
                    map.next_value::<IgnoredAny>()?;
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
