//! Transcripts: what was said, by whom and when, as the API's JSON.
//!
//! The body is checked to be a transcript, and returned unchanged.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Endpoint};
use crate::raw_fields::RawFields;

use super::api_call::{ApiCall, empty_answer_error, error_code_error};
use super::error::{ApiError, ErrorCause, printable_code};
use super::rate_limit::{Pacer, Permit};
use super::{ApiClient, FetchedArtifact, Login, ResponseBody, checked_path_segment};

/// The largest accepted transcript or summary, after decoding.
pub(super) const MAX_ARTIFACT_BYTES: usize = 64 * 1024 * 1024;

/// Fetches the transcript of a segment (contract.md, Transcripts). Never
/// [`FetchedArtifact::Empty`].
///
/// # Errors
/// By [`ApiError::fault`]. A 200 with an `errorCode` is [`crate::backoff::Fault::NotYet`]. So is
/// one without content, with [`crate::ErrorCause::Empty`] and, if it has phrases, the whole body.
pub async fn fetch_transcript(
    api: &ApiClient,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    account: &AccountId,
    dialog: &str,
    segment: &str,
) -> Result<FetchedArtifact, ApiError> {
    let endpoint = Endpoint::Transcript;
    let encoded = |id| checked_path_segment(endpoint, id);
    let url = format!(
        "{}/voice/api/cx/integration/v1/accounts/{}/sub-accounts/{}/transcripts/dialogs/{}/segments/{}",
        api.hosts().ringcx,
        encoded(&account.rc)?,
        encoded(&account.sub)?,
        encoded(dialog)?,
        encoded(segment)?,
    );
    let call = ApiCall { api, login, pacer, endpoint, quota: None };
    let answer = call.send(permit, |token| Ok(token.authorise(api.client().get(&url)))).await?;
    answer.check_content_encoding()?;
    let (status, charset) = (answer.status(), answer.charset());
    let body = ResponseBody { bytes: answer.read_body(MAX_ARTIFACT_BYTES).await?, charset };
    check_transcript(&body).map_err(|error| match error.cause {
        ErrorCause::Undecodable => error.with_status(status).with_body_start(&body.bytes),
        _ => error,
    })?;
    Ok(FetchedArtifact::Body(body))
}

/// Checks that a 200 holds a transcript with content. One without content is not available yet, in
/// all forms: `[]`, `null`, an empty text or object, no such key, empty phrases, an empty body.
pub(super) fn check_transcript(body: &ResponseBody) -> Result<(), ApiError> {
    let undecodable = |why| ApiError::undecodable(Endpoint::Transcript, why);
    let text = charset::decode_text(body.charset, &body.bytes);
    if !trim_blank(&text).starts_with('{') && is_empty_json(&text) {
        return Err(empty_answer_error(Endpoint::Transcript));
    }
    let shape: ResponseShape = lenient_json::from_str(&text).ok_or_else(|| undecodable("it is not a JSON object"))?;
    if let Some(code) = shape.error_code.as_ref().filter(|code| is_error_code(code)) {
        return Err(error_code_error(Endpoint::Transcript, printable_code(code)));
    }
    match shape.transcript {
        Some(PhraseContent::WithContent) => Ok(()),
        Some(PhraseContent::Blank) => Err(empty_answer_error(Endpoint::Transcript).with_whole_body(body)),
        Some(PhraseContent::None) => Err(empty_answer_error(Endpoint::Transcript)),
        Some(PhraseContent::NotAList) => Err(undecodable("its transcript is no array")),
        None if shape.has_channel_class || !shape.has_other_content => Err(empty_answer_error(Endpoint::Transcript)),
        None => Err(undecodable("it holds no transcript")),
    }
}

/// Longer texts are not checked: an empty value is short.
const MAX_EMPTY_JSON_BYTES: usize = 256;

fn trim_blank(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

/// Whether a JSON text, or a text sent in its place, is empty.
fn is_empty_json(text: &str) -> bool {
    let trimmed = trim_blank(text);
    trimmed.len() <= MAX_EMPTY_JSON_BYTES
        && match lenient_json::parse_value(trimmed) {
            // A list inside a string, as in `"[]"`.
            Some(Value::String(inner)) => inner.len() < trimmed.len() && is_empty_json(&inner),
            Some(value) => is_blank(&value),
            None => trimmed.is_empty(),
        }
}

/// Whether an `errorCode` in a 200 means an error. Null, an empty text, and the zero that some
/// services send for "none" do not. Any other does, whatever else the body holds: with an error the
/// transcript may be incomplete.
pub(super) fn is_error_code(code: &Value) -> bool {
    match code {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !matches!(text.trim(), "" | "0"),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

/// The checked parts of a 200.
#[derive(Default)]
pub(super) struct ResponseShape {
    pub(super) error_code: Option<Value>,
    transcript: Option<PhraseContent>,
    has_channel_class: bool,
    /// Whether it holds any other content.
    has_other_content: bool,
}

/// Ordered by content, the least first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PhraseContent {
    /// No phrases.
    None,
    /// Not a list.
    NotAList,
    /// Phrases without content.
    Blank,
    /// At least one phrase with content.
    WithContent,
}

impl PhraseContent {
    fn classify(raw: &RawValue) -> PhraseContent {
        if !raw.get().starts_with('[') {
            return if is_empty_json(raw.get()) { PhraseContent::None } else { PhraseContent::NotAList };
        }
        match serde_json::Deserializer::from_str(raw.get()).deserialize_seq(BlankPhrases) {
            Ok(0) => PhraseContent::None,
            Ok(_) => PhraseContent::Blank,
            // An unreadable list may have content.
            Err(_) => PhraseContent::WithContent,
        }
    }
}

/// Counts phrases without content. Fails at the first phrase with content, since nearly all
/// transcripts begin with one: the rest is not read a second time.
struct BlankPhrases;

impl<'de> Visitor<'de> for BlankPhrases {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("phrases without content")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut phrases: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(phrase) = phrases.next_element::<&RawValue>()? {
            if has_content(phrase.get()) {
                return Err(A::Error::custom("a phrase with content"));
            }
            count += 1;
        }
        Ok(count)
    }
}

/// The keys of a phrase that tell who said it and when, but not what.
const ATTRIBUTION_KEYS: [&str; 5] = ["participantId", "participantName", "participantType", "rcUserId", "timestamp"];

/// Whether a phrase has any content besides [`ATTRIBUTION_KEYS`]: a message, or a field that this
/// program does not know. Of a repeated key both values count.
fn has_content(phrase: &str) -> bool {
    let Some(phrase) = lenient_json::to_strict(phrase) else { return true };
    let is_blank = |value: &str| serde_json::from_str(value).is_ok_and(|value| is_blank(&value));
    match serde_json::from_str::<RawFields<'_>>(&phrase) {
        Ok(RawFields(fields)) => {
            fields.iter().any(|(key, value)| !ATTRIBUTION_KEYS.contains(&key.as_ref()) && !is_blank(value.get()))
        }
        Err(_) => !is_blank(&phrase),
    }
}

/// Whether a value is empty at every depth.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.iter().all(is_blank),
        Value::Object(fields) => fields.values().all(is_blank),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

impl<'de> Deserialize<'de> for ResponseShape {
    /// Of a repeated transcript the one with more content counts, of a repeated error code the one
    /// that means an error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ResponseShape, D::Error> {
        let mut shape = ResponseShape::default();
        for (key, value) in RawFields::deserialize(deserializer)?.0 {
            match key.as_ref() {
                "errorCode" => {
                    shape.error_code = shape.error_code.filter(is_error_code).or_else(|| Some(parse_error_code(value)));
                }
                "errorMessage" => {}
                "channelClass" => shape.has_channel_class = true,
                "transcript" => shape.transcript = shape.transcript.max(Some(PhraseContent::classify(value))),
                _ => shape.has_other_content |= !is_empty_json(value.get()),
            }
        }
        Ok(shape)
    }
}

/// An unreadable value counts as an error code.
fn parse_error_code(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Bool(true))
}

#[cfg(test)]
mod tests;
