//! The types of single settings: how each is deserialized, and its part of the JSON Schema.
//!
//! An error whose text has a `hint:` is shown as it is. For every other error,
//! [`super::settings_document`] describes the mistake, because the messages of serde may quote
//! secrets.

use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::config_error::quoted;
use super::time_parse::parse_span;
use crate::model::{Artifact, ArtifactSet};

/// The hint for a span that cannot be used.
pub(super) const SPAN_HINT: &str = r#"write a number and its unit, such as "250ms", "15m" or "7d""#;

/// A positive span of time, and its default.
#[derive(Clone, Copy, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "span"))]
pub(super) struct Span<const DEFAULT_SECS: u64 = 0>(pub(super) Duration);

impl<const DEFAULT_SECS: u64> Default for Span<DEFAULT_SECS> {
    fn default() -> Self {
        Span(Duration::from_secs(DEFAULT_SECS))
    }
}

impl<'de, const DEFAULT_SECS: u64> Deserialize<'de> for Span<DEFAULT_SECS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let problem = match parse_span(&text) {
            Some(Duration::ZERO) => "must be greater than zero",
            Some(span) => return Ok(Span(span)),
            None => "is not a span of time",
        };
        Err(D::Error::custom(format!("{} {problem}\n  hint: {SPAN_HINT}", quoted(&text))))
    }
}

impl<const DEFAULT_SECS: u64> Serialize for Span<DEFAULT_SECS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = humantime::format_duration(self.0).to_string();
        serializer.serialize_str(&text.replace("days", "d").replace("day", "d"))
    }
}

/// A [`Span`] as a field of type `Duration`.
pub(super) mod span {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(<Span>::deserialize(deserializer)?.0)
    }

    pub(in crate::config) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Span::<0>(*span).serialize(serializer)
    }
}

/// A list of spans as a field of type `Vec<Duration>`, ascending and unique.
pub(super) mod spans {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let mut spans: Vec<Duration> = List::<Span>::deserialize(deserializer)?.0.iter().map(|span| span.0).collect();
        spans.sort_unstable();
        spans.dedup();
        Ok(spans)
    }

    pub(in crate::config) fn serialize<S: Serializer>(spans: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(spans.iter().map(|span| Span::<0>(*span)))
    }
}

/// A list. An element that was rejected is `null`, so that those after it keep their index.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        Ok(List(Vec::<Option<T>>::deserialize(deserializer)?.into_iter().flatten().collect()))
    }
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List(Vec::new())
    }
}

/// Text without the white space around it; empty text is `None`, as if it were not set.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String")]
#[schemars(with = "String", inline)]
pub(super) struct Text(pub(super) Option<String>);

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }
}

/// The text of a value that needs no quotes.
fn unquoted_text<E: Error>(value: Value, is_flag_allowed: bool) -> Result<String, E> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) if number.is_i64() => Ok(number.to_string()),
        Value::Bool(flag) if is_flag_allowed => Ok(flag.to_string()),
        _ => Err(E::custom("is not text")),
    }
}

/// An id: text, or a whole number.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(with = "String", inline, extend("type" = ["string", "integer"]))]
pub(super) struct Id(pub(super) Option<String>);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        Ok(Id(Text::from(unquoted_text(Value::deserialize(deserializer)?, false)?).0))
    }
}

/// A secret as it stands in the settings.
#[derive(Deserialize, JsonSchema)]
#[schemars(with = "String", inline, extend("writeOnly" = true))]
pub(super) struct SecretText(pub(super) SecretString);

/// An option of an object store: a secret, a number or a flag.
#[derive(JsonSchema)]
#[schemars(with = "String", inline, extend("type" = ["string", "integer", "boolean"], "writeOnly" = true))]
pub(super) struct StoreOption(pub(super) SecretString);

impl<'de> Deserialize<'de> for StoreOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StoreOption, D::Error> {
        Ok(StoreOption(unquoted_text(Value::deserialize(deserializer)?, true)?.into()))
    }
}

/// The artifacts of an account; the texts by default.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(with = "Vec<String>", inline, extend("items" = { "type": "string", "enum": Artifact::ALL }))]
pub(super) struct Artifacts(pub(super) List<Artifact>);

impl Default for Artifacts {
    fn default() -> Artifacts {
        Artifacts(List(ArtifactSet::TEXTS.iter().collect()))
    }
}

/// What a sink receives: artifacts, the texts by default, and metadata.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(with = "Vec<String>", inline, extend("items" = { "type": "string", "enum": SinkContent::NAMES }))]
pub(super) struct SinkContents(pub(super) List<SinkContent>);

/// One kind of events that a sink can receive.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SinkContent {
    Metadata,
    #[serde(untagged)]
    Artifact(Artifact),
}

impl SinkContent {
    const NAMES: [&'static str; 5] = ["transcript", "agent_summary", "auto_summary", "recording", "metadata"];

    /// The artifact, unless it is metadata.
    pub(super) fn artifact(self) -> Option<Artifact> {
        match self {
            SinkContent::Metadata => None,
            SinkContent::Artifact(artifact) => Some(artifact),
        }
    }
}

impl Default for SinkContents {
    fn default() -> SinkContents {
        SinkContents(List(ArtifactSet::TEXTS.iter().map(SinkContent::Artifact).collect()))
    }
}

/// How long the archive keeps a segment: `forever`, or a span of time.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", inline, extend("default" = "forever"))]
pub(super) struct Retention(pub(super) Option<Duration>);

impl TryFrom<String> for Retention {
    type Error = String;

    fn try_from(text: String) -> Result<Retention, String> {
        match (text.trim(), parse_span(&text)) {
            ("forever", _) => Ok(Retention(None)),
            (_, Some(span)) if !span.is_zero() => Ok(Retention(Some(span))),
            _ => Err(format!(
                "{} is not a span of time\n  hint: give \"forever\" or a span of time such as \"2555d\"",
                quoted(&text)
            )),
        }
    }
}
