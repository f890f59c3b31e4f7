//! Transcripts: who said what and when, as the JSON that the API sends.
//!
//! The body is checked for being a transcript and handed on untouched.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Endpoint};

use super::call::{Call, not_yet};
use super::error::{ApiError, sane_code};
use super::limits::{Pacer, Permit};
use super::{Api, Body, Fetched, Login, path_segment};

/// The largest transcript that is taken, after decoding.
pub(super) const CAP: usize = 64 * 1024 * 1024;

/// Fetches the transcript of a segment (contract.md, Transcripts). Never [`Fetched::Empty`].
///
/// # Errors
/// By [`ApiError::fault`]; a 200 whose `errorCode` is set is [`crate::backoff::Fault::NotYet`].
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
    let charset = answer.charset();
    let bytes = answer.bytes(CAP).await?;
    check(charset::text(charset, &bytes).as_bytes())?;
    Ok(Fetched::Body(Body { bytes, charset }))
}

/// Whether a 200 holds a transcript.
pub(super) fn check(body: &[u8]) -> Result<(), ApiError> {
    let undecodable = |why| ApiError::undecodable(Endpoint::Transcript, why);
    let shape: Shape = lenient_json::from_slice(body).ok_or_else(|| undecodable("it is not a JSON object"))?;
    if let Some(code) = shape.error_code.as_ref().filter(|code| is_error(code)) {
        return Err(not_yet(Endpoint::Transcript, sane_code(code)));
    }
    match shape.transcript {
        Some(Phrases::Array | Phrases::Null) => Ok(()),
        Some(Phrases::Other) => Err(undecodable("its transcript is no array")),
        None if shape.channel_class => Ok(()),
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
}

enum Phrases {
    Array,
    Null,
    Other,
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
            match key.as_ref() {
                "errorCode" => shape.error_code = Some(code_of(map.next_value()?)),
                "channelClass" => {
                    map.next_value::<IgnoredAny>()?;
                    shape.channel_class = true;
                }
                "transcript" => {
                    let raw: &RawValue = map.next_value()?;
                    shape.transcript = Some(match raw.get().as_bytes().first() {
                        Some(b'[') => Phrases::Array,
                        Some(b'n') => Phrases::Null,
                        _ => Phrases::Other,
                    });
                }
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
