//! `[[sinks]]`: the systems that receive events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use ::config::{Value, ValueKind};
use base64::Engine;
use regex::Regex;
use secrecy::{ExposeSecret, SecretString};

use super::super::config_error::quoted;
use super::super::schema;
use super::super::settings::{ObjectFormat, RedactionRule, Sink, SinkKind, SinkStart};
use super::super::settings_reader::{Section, SettingsReader, SourcedValue};
use super::account_settings::read_artifacts;
use super::url;

/// The settings of every sink.
const COMMON_KEYS: [&str; 8] =
    ["name", "type", "start", "artifacts", "accounts", "channels", "redact", "give_up_after"];

#[derive(Clone, Copy)]
enum SinkType {
    Jsonl,
    Webhook,
    ObjectStore,
}

impl SinkType {
    const ALL: [(&'static str, SinkType); 3] =
        [("jsonl", SinkType::Jsonl), ("webhook", SinkType::Webhook), ("object_store", SinkType::ObjectStore)];

    /// The settings of this type of sink only.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            SinkType::Jsonl => &["path", "rotate"],
            SinkType::Webhook => &["url", "secret", "secrets", "timeout", "allow_private"],
            SinkType::ObjectStore => &["url", "format", "options"],
        }
    }
}

/// Reads all sinks; their names must be unique.
pub(super) fn read_sinks(reader: &mut SettingsReader<'_>) -> Option<Vec<Sink>> {
    let mut names = BTreeMap::new();
    let mut paths = BTreeMap::new();
    let sections = reader.sections("sinks");
    let read: Vec<Option<Sink>> = sections
        .iter()
        .map(|section| {
            let sink = read_sink(reader, section);
            let path = reader.text(section, "path").filter(|_| sink.is_some()).map(|given| given.value);
            require_unique(reader, section, "path", path, &mut paths);
            let name = reader.text(section, "name").map(|given| given.value);
            require_unique(reader, section, "name", name, &mut names);
            sink
        })
        .collect();
    read.into_iter().collect()
}

/// Rejects a repeated value: two sinks of one name would share their progress, and two of one path
/// their files.
fn require_unique(
    reader: &mut SettingsReader<'_>,
    section: &Section<'_>,
    name: &str,
    value: Option<String>,
    seen: &mut BTreeMap<String, String>,
) {
    let Some(value) = value else { return };
    match seen.get(&value) {
        Some(first) => {
            let what = format!("{} is also used by {first}", quoted(&value));
            let location = reader.location_of(section, name);
            reader.add_problem(&section.key(name), location, what, "give each sink its own value");
        }
        None => {
            seen.insert(value, section.path.clone());
        }
    }
}

fn read_sink(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<Sink> {
    let name = read_name(reader, section);
    let start = reader.choice(section, "start", &[("now", SinkStart::Now), ("beginning", SinkStart::Beginning)]);
    let artifacts = read_artifacts(reader, section);
    let accounts = read_set(reader, section, "accounts");
    let channels = read_set(reader, section, "channels");
    let redact = reader.each(section, "redact", read_redaction_rule);
    let give_up_after = reader.span(section, "give_up_after");
    let kind = reader.choice(section, "type", &SinkType::ALL).and_then(|kind| {
        reject_foreign_keys(reader, section, kind);
        match kind {
            SinkType::Jsonl => read_jsonl(reader, section),
            SinkType::Webhook => read_webhook(reader, section),
            SinkType::ObjectStore => read_object_store(reader, section),
        }
    });
    Some(Sink {
        name: name?,
        start: start?,
        artifacts: artifacts?,
        accounts: accounts?,
        channels: channels?,
        redact: redact?,
        give_up_after: give_up_after?,
        kind: kind?,
    })
}

/// Reads the name, which is used on the command line and in metrics.
fn read_name(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<String> {
    const HINT: &str = "give letters, digits, - and _, such as \"lake\"";
    let given = reader.required(section, "name", HINT)?;
    if !given.value.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
        return reader.reject(&given, format!("{} contains other characters", quoted(&given.value)), HINT);
    }
    Some(given.value)
}

fn read_set(reader: &mut SettingsReader<'_>, section: &Section<'_>, name: &str) -> Option<BTreeSet<String>> {
    Some(reader.texts(section, name)?.into_iter().map(|given| given.value).collect())
}

/// Rejects the settings of another type of sink, because they would have no effect.
fn reject_foreign_keys(reader: &mut SettingsReader<'_>, section: &Section<'_>, kind: SinkType) {
    let type_name =
        |kind: SinkType| SinkType::ALL.iter().find(|(_, other)| other.keys() == kind.keys()).map_or("", |(n, _)| n);
    for name in section.names() {
        let setting = name.strip_suffix("_file").unwrap_or(&name);
        if COMMON_KEYS.contains(&setting) || kind.keys().contains(&setting) {
            continue;
        }
        let location = reader.location_of(section, &name);
        let what = format!("is not a setting of a sink of type {}", type_name(kind));
        reader.add_problem(&section.key(&name), location, what, &format!("this type has {}", kind.keys().join(", ")));
    }
}

fn read_redaction_rule(reader: &mut SettingsReader<'_>, item: &SourcedValue<Value>) -> Option<RedactionRule> {
    const HINT: &str = r#"give "card", "email", "phone", or { name = "order", pattern = 'ORD-\d+' }"#;
    match &item.value.kind {
        ValueKind::String(text) => match text.trim() {
            "card" => Some(RedactionRule::Card),
            "email" => Some(RedactionRule::Email),
            "phone" => Some(RedactionRule::Phone),
            other => reader.reject(item, format!("{} is not a valid value", quoted(other)), HINT),
        },
        ValueKind::Table(_) => {
            let section = reader.item_section(item);
            let name = reader.required(&section, "name", HINT);
            let pattern = reader.required(&section, "pattern", HINT).and_then(|given| parse_pattern(reader, &given));
            Some(RedactionRule::Pattern { name: name?.value, pattern: pattern? })
        }
        _ => reader.reject(item, "is neither a name nor a pattern".to_owned(), HINT),
    }
}

fn parse_pattern(reader: &mut SettingsReader<'_>, given: &SourcedValue<String>) -> Option<Regex> {
    match Regex::new(&given.value) {
        Ok(pattern) if pattern.is_match("") => reader.reject(
            given,
            "matches the empty string, which occurs everywhere".to_owned(),
            "let it match at least one character",
        ),
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let text = error.to_string();
            let why = text.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or("too large");
            let what = format!("{} is not a regular expression: {why}", quoted(&given.value));
            reader.reject(given, what, "in 'single quotes' a backslash needs no escape")
        }
    }
}

fn read_jsonl(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<SinkKind> {
    let path = reader.required(section, "path", r#"give the folder of its files, such as "out""#);
    let rotate = reader.span(section, "rotate");
    Some(SinkKind::Jsonl { path: PathBuf::from(path?.value), rotate: rotate? })
}

fn read_webhook(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<SinkKind> {
    const HINT: &str = r#"give the target URL, such as "https://example.org/hook""#;
    let url = read_required_url(reader, section, HINT).and_then(|given| {
        match url::parse_web_url(given.value.expose_secret().trim()) {
            Ok(url) => Some(SecretString::from(String::from(url))),
            Err(what) => reader.reject(&given, what, HINT),
        }
    });
    let secrets = read_signing_secrets(reader, section);
    let timeout: Option<Duration> = reader.span(section, "timeout");
    let allow_private = reader.flag(section, "allow_private");
    Some(SinkKind::Webhook { url: url?, secrets: secrets?, timeout: timeout?, allow_private: allow_private? })
}

fn read_required_url(
    reader: &mut SettingsReader<'_>,
    section: &Section<'_>,
    hint: &str,
) -> Option<SourcedValue<SecretString>> {
    match reader.secret(section, "url") {
        Some(given) => Some(given.map(|secret| secret.value)),
        None if reader.has_problem(&section.key("url_file")) => None,
        None => reader.report_missing(section, "url", hint),
    }
}

/// Reads the signing secrets from `secret` or `secrets`; at least one.
fn read_signing_secrets(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<Vec<SecretString>> {
    const HINT: &str = "give secret, or secrets while it is rotated: the first is the new one";
    let (one, several) = (reader.secret_source(section, "secret"), reader.secret_source(section, "secrets"));
    if let (Some(_), Some(several)) = (&one, &several) {
        return reader.reject(several, "is set together with secret".to_owned(), HINT);
    }
    let given = match (one, several) {
        (Some(_), _) => vec![reader.secret(section, "secret")?.map(|secret| secret.value)],
        (_, Some(several)) => match reader.secrets(section, "secrets")? {
            none if none.is_empty() => return reader.reject(&several, "contains no secret".to_owned(), HINT),
            secrets => secrets,
        },
        (None, None) => return reader.report_missing(section, "secret", HINT),
    };
    let checked: Vec<Option<SecretString>> = given
        .into_iter()
        .map(|given| {
            let text = given.value.expose_secret();
            if text.starts_with("whsec_") && signing_key(text).is_none() {
                let hint = "copy it again: base64 follows whsec_";
                return reader.reject(&given, "is not a complete Standard Webhooks secret".to_owned(), hint);
            }
            match signing_key(text).map_or(text.len(), |key| key.len()) {
                MIN_SIGNING_KEY_BYTES.. => Some(given.value),
                bytes => {
                    let what = format!(
                        "signs with {bytes} bytes, but the minimum is {MIN_SIGNING_KEY_BYTES}: a shorter key is insecure"
                    );
                    reader.reject(&given, what, "create one with `ringcx-extractor deliver new-secret`")
                }
            }
        })
        .collect();
    checked.into_iter().collect()
}

/// The minimum length of a signing key (Standard Webhooks, "Signature scheme": 24 to 64 bytes).
const MIN_SIGNING_KEY_BYTES: usize = 24;

/// Decodes the key of a secret like the Standard Webhooks libraries: base64, with or without the
/// prefix `whsec_`. Returns `None` if it is not base64; then the text itself is the key.
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let secret = secret.trim();
    base64::prelude::BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()
}

fn read_object_store(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<SinkKind> {
    const HINT: &str =
        r#"give "s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix" or "file:///absolute/path""#;
    let url = read_required_url(reader, section, HINT).and_then(|given| {
        url::parse_object_store_url(given.value.expose_secret().trim())
            .map_err(|what| reader.reject::<_, ()>(&given, what, HINT))
            .ok()
    });
    let format =
        reader.choice(section, "format", &[("jsonl", ObjectFormat::Jsonl), ("parquet", ObjectFormat::Parquet)]);
    let options = read_options(reader, section);
    Some(SinkKind::ObjectStore { url: url?, format: format?, options: options? })
}

/// Reads the options of the store. Each is secret and may come from a file; empty options are
/// dropped.
fn read_options(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<BTreeMap<String, SecretString>> {
    let section = reader.subsection(section, "options");
    let is_path = |name: &str| schema::OPTIONS_THAT_ARE_PATHS.contains(&name);
    let names: BTreeSet<String> = section
        .names()
        .into_iter()
        .map(|name| match name.strip_suffix("_file") {
            Some(secret) if !is_path(&name) => secret.to_owned(),
            _ => name,
        })
        .collect();
    let mut options = BTreeMap::new();
    for name in names {
        if let Some(given) = reader.multiline_secret(&section, &name) {
            options.insert(name, given.value.value);
        }
    }
    Some(options)
}
