//! `[[sinks]]`: who is told of what is new.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use ::config::{Value, ValueKind};
use base64::Engine;
use regex::Regex;
use secrecy::{ExposeSecret, SecretString};

use super::super::problem::quoted;
use super::super::reader::{Given, Reader, Section};
use super::super::schema;
use super::super::settings::{ObjectFormat, Redact, Sink, SinkKind, SinkStart};
use super::accounts::artifacts;
use super::url;

/// What every sink may have.
const COMMON: [&str; 8] = ["name", "type", "start", "artifacts", "accounts", "channels", "redact", "give_up_after"];

#[derive(Clone, Copy)]
enum Type {
    Jsonl,
    Webhook,
    ObjectStore,
}

impl Type {
    const ALL: [(&'static str, Type); 3] =
        [("jsonl", Type::Jsonl), ("webhook", Type::Webhook), ("object_store", Type::ObjectStore)];

    /// What only sinks of this type have.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Type::Jsonl => &["path", "rotate"],
            Type::Webhook => &["url", "secret", "secrets", "timeout", "allow_private"],
            Type::ObjectStore => &["url", "format", "options"],
        }
    }
}

/// All sinks; no name twice.
pub(super) fn sinks(reader: &mut Reader<'_>) -> Option<Vec<Sink>> {
    let mut names = BTreeMap::new();
    let mut paths = BTreeMap::new();
    let sections = reader.sections("sinks");
    let read: Vec<Option<Sink>> = sections
        .iter()
        .map(|section| {
            let sink = sink(reader, section);
            let path = reader.text(section, "path").filter(|_| sink.is_some()).map(|given| given.value);
            once(reader, section, "path", path, &mut paths);
            let name = reader.text(section, "name").map(|given| given.value);
            once(reader, section, "name", name, &mut names);
            sink
        })
        .collect();
    read.into_iter().collect()
}

/// Two sinks of one name would share their progress, two of one path their files.
fn once(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
    value: Option<String>,
    seen: &mut BTreeMap<String, String>,
) {
    let Some(value) = value else { return };
    match seen.get(&value) {
        Some(first) => {
            let what = format!("{} is that of {first} too", quoted(&value));
            let place = reader.place_of(section, name);
            reader.wrong(&section.key(name), place, what, "give each sink its own");
        }
        None => {
            seen.insert(value, section.path.clone());
        }
    }
}

fn sink(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Sink> {
    let name = name(reader, section);
    let start = reader.choice(section, "start", &[("now", SinkStart::Now), ("beginning", SinkStart::Beginning)]);
    let artifacts = artifacts(reader, section);
    let accounts = set(reader, section, "accounts");
    let channels = set(reader, section, "channels");
    let redact = reader.each(section, "redact", redact);
    let give_up_after = reader.span(section, "give_up_after");
    let kind = reader.choice(section, "type", &Type::ALL).and_then(|kind| {
        refuse_others(reader, section, kind);
        match kind {
            Type::Jsonl => jsonl(reader, section),
            Type::Webhook => webhook(reader, section),
            Type::ObjectStore => object_store(reader, section),
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

/// A name is typed on the command line and stands in metrics.
fn name(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<String> {
    const HINT: &str = "give letters, digits, - and _, such as \"lake\"";
    let given = reader.required(section, "name", HINT)?;
    if !given.value.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
        return reader.refuse(&given, format!("{} holds other characters", quoted(&given.value)), HINT);
    }
    Some(given.value)
}

fn set(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<BTreeSet<String>> {
    Some(reader.texts(section, name)?.into_iter().map(|given| given.value).collect())
}

/// What belongs to another type does nothing here, which its author would not expect.
fn refuse_others(reader: &mut Reader<'_>, section: &Section<'_>, kind: Type) {
    let type_name = |kind: Type| Type::ALL.iter().find(|(_, other)| other.keys() == kind.keys()).map_or("", |(n, _)| n);
    for name in section.names() {
        let setting = name.strip_suffix("_file").unwrap_or(&name);
        if COMMON.contains(&setting) || kind.keys().contains(&setting) {
            continue;
        }
        let place = reader.place_of(section, &name);
        let what = format!("is no setting of a sink of type {}", type_name(kind));
        reader.wrong(&section.key(&name), place, what, &format!("this type has {}", kind.keys().join(", ")));
    }
}

fn redact(reader: &mut Reader<'_>, item: &Given<Value>) -> Option<Redact> {
    const HINT: &str = r#"give "card", "email", "phone", or { name = "order", pattern = 'ORD-\d+' }"#;
    match &item.value.kind {
        ValueKind::String(text) => match text.trim() {
            "card" => Some(Redact::Card),
            "email" => Some(Redact::Email),
            "phone" => Some(Redact::Phone),
            other => reader.refuse(item, format!("{} is not known here", quoted(other)), HINT),
        },
        ValueKind::Table(_) => {
            let section = reader.inner(item);
            let name = reader.required(&section, "name", HINT);
            let pattern = reader.required(&section, "pattern", HINT).and_then(|given| own_pattern(reader, &given));
            Some(Redact::Pattern { name: name?.value, pattern: pattern? })
        }
        _ => reader.refuse(item, "is neither a name nor a pattern".to_owned(), HINT),
    }
}

fn own_pattern(reader: &mut Reader<'_>, given: &Given<String>) -> Option<Regex> {
    match Regex::new(&given.value) {
        Ok(pattern) if pattern.is_match("") => reader.refuse(
            given,
            "matches the empty string, so everywhere".to_owned(),
            "let it match one character at least",
        ),
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let text = error.to_string();
            let why = text.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or("too large");
            let what = format!("{} is not a regular expression: {why}", quoted(&given.value));
            reader.refuse(given, what, "backslashes stay as they are in 'single quotes'")
        }
    }
}

fn jsonl(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<SinkKind> {
    let path = reader.required(section, "path", r#"give the folder of its files, such as "out""#);
    let rotate = reader.span(section, "rotate");
    Some(SinkKind::Jsonl { path: PathBuf::from(path?.value), rotate: rotate? })
}

fn webhook(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<SinkKind> {
    const HINT: &str = r#"give where to send, such as "https://example.org/hook""#;
    let url =
        required_url(reader, section, HINT).and_then(|given| match url::web(given.value.expose_secret().trim()) {
            Ok(url) => Some(SecretString::from(String::from(url))),
            Err(what) => reader.refuse(&given, what, HINT),
        });
    let secrets = signing_secrets(reader, section);
    let timeout: Option<Duration> = reader.span(section, "timeout");
    let allow_private = reader.flag(section, "allow_private");
    Some(SinkKind::Webhook { url: url?, secrets: secrets?, timeout: timeout?, allow_private: allow_private? })
}

fn required_url(reader: &mut Reader<'_>, section: &Section<'_>, hint: &str) -> Option<Given<SecretString>> {
    match reader.secret(section, "url") {
        Some(given) => Some(given.map(|secret| secret.value)),
        None if reader.is_problem(&section.key("url_file")) => None,
        None => reader.missing(section, "url", hint),
    }
}

/// From `secret` or `secrets`; at least one.
fn signing_secrets(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Vec<SecretString>> {
    const HINT: &str = "give secret, or secrets while it is being changed, the first of which signs";
    let (one, several) = (reader.secret_given(section, "secret"), reader.secret_given(section, "secrets"));
    if let (Some(_), Some(several)) = (&one, &several) {
        return reader.refuse(several, "is given together with secret".to_owned(), HINT);
    }
    let given = match (one, several) {
        (Some(_), _) => vec![reader.secret(section, "secret")?.map(|secret| secret.value)],
        (_, Some(several)) => match reader.secrets(section, "secrets")? {
            none if none.is_empty() => return reader.refuse(&several, "holds no secret".to_owned(), HINT),
            secrets => secrets,
        },
        (None, None) => return reader.missing(section, "secret", HINT),
    };
    let checked: Vec<Option<SecretString>> = given
        .into_iter()
        .map(|given| {
            let text = given.value.expose_secret();
            if text.starts_with("whsec_") && signing_key(text).is_none() {
                let hint = "copy it again: after whsec_ comes base64";
                return reader.refuse(&given, "is not a whole Standard Webhooks secret".to_owned(), hint);
            }
            match signing_key(text).map_or(text.len(), |key| key.len()) {
                MIN_SIGNING_KEY_BYTES.. => Some(given.value),
                bytes => {
                    let what =
                        format!("signs with {bytes} bytes, fewer than {MIN_SIGNING_KEY_BYTES}: anyone could guess it");
                    reader.refuse(&given, what, "make one with `ringcx-extractor deliver new-secret`")
                }
            }
        })
        .collect();
    checked.into_iter().collect()
}

/// The fewest bytes that a secret may sign with (Standard Webhooks, "Signature scheme": 24 to 64).
const MIN_SIGNING_KEY_BYTES: usize = 24;

/// The bytes that a secret signs with, as the Standard Webhooks libraries read it: base64, with or without `whsec_` before
/// it. `None` where it is not base64: then its text is the key.
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let secret = secret.trim();
    base64::prelude::BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()
}

fn object_store(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<SinkKind> {
    const HINT: &str = r#"give "s3://bucket/prefix", or the same with gs or az, or "file:///absolute/path""#;
    let url = required_url(reader, section, HINT).and_then(|given| {
        url::object_store(given.value.expose_secret().trim())
            .map_err(|what| reader.refuse::<_, ()>(&given, what, HINT))
            .ok()
    });
    let format =
        reader.choice(section, "format", &[("jsonl", ObjectFormat::Jsonl), ("parquet", ObjectFormat::Parquet)]);
    let options = options(reader, section);
    Some(SinkKind::ObjectStore { url: url?, format: format?, options: options? })
}

/// What is passed to the store: all of it secret, each from its own file if so wanted, none of it empty.
fn options(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<BTreeMap<String, SecretString>> {
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
        if let Some(given) = reader.secret_of_any_form(&section, &name) {
            options.insert(name, given.value.value);
        }
    }
    Some(options)
}
