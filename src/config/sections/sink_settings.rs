//! `[[sinks]]`: the systems that receive events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine;
use regex::Regex;
use secrecy::{ExposeSecret, SecretString};

use super::super::checker::Checker;
use super::super::config_error::quoted;
use super::super::secret::Secret;
use super::super::setting_types::{SecretText, StoreOption, Text};
use super::super::settings::{RedactionRule, Sink, SinkKind};
use super::super::settings_document::{RedactionEntry, SinkSection, SinkType};
use super::account_settings::build_artifacts;
use super::url;

/// The settings that only some types of sinks have.
const JSONL_KEYS: &[&str] = &["path", "rotate"];
const WEBHOOK_KEYS: &[&str] = &["url", "secret", "secrets", "timeout", "allow_private"];
const OBJECT_STORE_KEYS: &[&str] = &["url", "format", "options"];

/// Options of object stores whose own names end in `_file`. They are paths for the store, not files
/// of secrets.
const OPTIONS_THAT_ARE_PATHS: &[&str] = &[
    "aws_container_authorization_token_file",
    "aws_web_identity_token_file",
    "azure_federated_token_file",
    "container_authorization_token_file",
    "federated_token_file",
    "web_identity_token_file",
];

/// Builds all sinks. Two of one name would share their progress, and two of one path their files.
pub(super) fn build_sinks(sections: Vec<Option<SinkSection>>, checker: &mut Checker<'_>) -> Option<Vec<Sink>> {
    const HINT: &str = "give each sink its own value";
    let (mut names, mut paths) = (BTreeMap::new(), BTreeMap::new());
    checker.each_section("sinks", sections, |section, at, checker| {
        let sink = build_sink(section, at, checker)?;
        if let SinkKind::Jsonl { path, .. } = &sink.kind {
            let path = path.to_string_lossy().into_owned();
            checker.unique(&format!("{at}.path"), path, at, &mut paths, HINT)?;
        }
        checker.unique(&format!("{at}.name"), sink.name.clone(), at, &mut names, HINT)?;
        Some(sink)
    })
}

fn build_sink(section: SinkSection, at: &str, checker: &mut Checker<'_>) -> Option<Sink> {
    let key = |name: &str| format!("{at}.{name}");
    let name = build_name(&key("name"), section.name, checker);
    let artifacts = build_artifacts(at, section.artifacts, checker);
    let accounts = checker.texts(&key("accounts"), section.accounts);
    let channels = checker.texts(&key("channels"), section.channels);
    let redact = build_redaction(&key("redact"), section.redact, checker);
    let kind = checker.require(&key("type"), section.r#type, r#"give "jsonl", "webhook" or "object_store""#)?;
    reject_foreign_keys(at, kind, checker);
    let url = |parse: fn(&str) -> Result<String, String>, hint: &str, checker: &mut Checker<'_>| {
        let given = checker.secret(&key("url"), section.url, section.url_file);
        let given = checker.require(&key("url"), given, hint)?;
        checker.accept(&given.source(&key("url")), parse(given.value.expose_secret().trim()), hint)
    };
    let kind = match kind {
        SinkType::Jsonl => {
            let path = checker.require(&key("path"), section.path.0, r#"give the folder of its files, such as "out""#);
            SinkKind::Jsonl { path: PathBuf::from(path?), rotate: section.rotate.0 }
        }
        SinkType::Webhook => {
            let parse = |text: &str| url::parse_web_url(text).map(String::from);
            let url = url(parse, r#"give the target URL, such as "https://example.org/hook""#, checker);
            let one = (section.secret, section.secret_file);
            let several = (section.secrets.map(|secrets| secrets.0).unwrap_or_default(), section.secrets_file);
            let secrets = build_signing_secrets(at, one, several, checker);
            SinkKind::Webhook {
                url: SecretString::from(url?),
                secrets: secrets?,
                timeout: section.timeout.0,
                allow_private: section.allow_private,
            }
        }
        SinkType::ObjectStore => {
            const HINT: &str = r#"give "s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix" or "file:///absolute/path""#;
            let url = url(url::parse_object_store_url, HINT, checker);
            let options = build_options(&key("options"), section.options, checker);
            SinkKind::ObjectStore { url: url?, format: section.format, options }
        }
    };
    Some(Sink {
        name: name?,
        start: section.start,
        artifacts: artifacts?,
        accounts,
        channels,
        redact,
        give_up_after: section.give_up_after.0,
        kind,
    })
}

/// Checks the name, which is used on the command line and in metrics.
pub(super) fn build_name(path: &str, name: Text, checker: &mut Checker<'_>) -> Option<String> {
    const HINT: &str = "give letters, digits, - and _, such as \"lake\"";
    let name = checker.require(path, name.0, HINT)?;
    let is_valid = name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    let checked = if is_valid { Ok(name) } else { Err(format!("{} contains other characters", quoted(&name))) };
    checker.accept(path, checked, HINT)
}

/// Rejects the settings of another type of sink, because they would have no effect.
fn reject_foreign_keys(at: &str, kind: SinkType, checker: &mut Checker<'_>) {
    let (type_name, own) = match kind {
        SinkType::Jsonl => ("jsonl", JSONL_KEYS),
        SinkType::Webhook => ("webhook", WEBHOOK_KEYS),
        SinkType::ObjectStore => ("object_store", OBJECT_STORE_KEYS),
    };
    let all: BTreeSet<&str> = [JSONL_KEYS, WEBHOOK_KEYS, OBJECT_STORE_KEYS].concat().into_iter().collect();
    for name in all.into_iter().filter(|name| !own.contains(name)) {
        for path in [format!("{at}.{name}"), format!("{at}.{name}_file")] {
            if checker.is_set(&path) {
                let what = format!("is not a setting of a sink of type {type_name}");
                checker.reject(&path, what, &format!("this type has {}", own.join(", ")));
            }
        }
    }
}

/// The hint for a redaction rule that cannot be used.
pub(in super::super) const REDACTION_HINT: &str =
    r#"give "card", "email", "phone", or { name = "order", pattern = 'ORD-\d+' }"#;

pub(super) fn build_redaction(
    path: &str,
    entries: Vec<Option<RedactionEntry>>,
    checker: &mut Checker<'_>,
) -> Vec<RedactionRule> {
    let mut rules = Vec::new();
    for (i, entry) in entries.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        rules.extend(match entry {
            Some(RedactionEntry::BuiltIn(name)) => match name.trim() {
                "card" => Some(RedactionRule::Card),
                "email" => Some(RedactionRule::Email),
                "phone" => Some(RedactionRule::Phone),
                other => {
                    checker.reject(&path, format!("{} is not a valid value", quoted(other)), REDACTION_HINT);
                    None
                }
            },
            Some(RedactionEntry::Custom { name, pattern }) => {
                let name = checker.require(&format!("{path}.name"), name.0, REDACTION_HINT);
                let pattern = build_pattern(&format!("{path}.pattern"), pattern, checker);
                name.zip(pattern).map(|(name, pattern)| RedactionRule::Pattern { name, pattern })
            }
            None => None,
        });
    }
    rules
}

fn build_pattern(path: &str, pattern: Text, checker: &mut Checker<'_>) -> Option<Regex> {
    let text = checker.require(path, pattern.0, REDACTION_HINT)?;
    match Regex::new(&text) {
        Ok(pattern) if !pattern.is_match("") => return Some(pattern),
        Ok(_) => {
            let what = "matches the empty string, which occurs everywhere";
            checker.reject(path, what, "let it match at least one character");
        }
        Err(error) => {
            let error = error.to_string();
            let why = error.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or("too large");
            let what = format!("{} is not a regular expression: {why}", quoted(&text));
            checker.reject(path, what, "in 'single quotes' a backslash needs no escape");
        }
    }
    None
}

/// Builds the signing secrets from `secret` or `secrets`; at least one.
fn build_signing_secrets(
    at: &str,
    one: (Option<SecretText>, Text),
    several: (Vec<SecretText>, Text),
    checker: &mut Checker<'_>,
) -> Option<Vec<SecretString>> {
    const HINT: &str = "give secret, or secrets while it is rotated: the first is the new one";
    let key = |name: &str| format!("{at}.{name}");
    let filled = |name: &str| [key(name), key(&format!("{name}_file"))].into_iter().find(|key| checker.is_filled(key));
    let given: Vec<(String, SecretString)> = match (filled("secret"), filled("secrets")) {
        (Some(_), Some(several)) => {
            checker.reject(&several, "is set together with secret", HINT);
            return None;
        }
        (Some(_), None) => {
            let secret = checker.secret(&key("secret"), one.0, one.1)?;
            vec![(secret.source(&key("secret")), secret.value)]
        }
        (None, Some(several_key)) => {
            let secrets = build_secrets(&key("secrets"), several.0, several.1, checker)?;
            if secrets.is_empty() && !checker.has_problem(&key("secrets")) {
                checker.reject(&several_key, "contains no secret", HINT);
            }
            secrets
        }
        (None, None) => checker.require(&key("secret"), None, HINT)?,
    };
    let checked = given.into_iter().map(|(path, secret)| {
        let text = secret.expose_secret();
        if text.starts_with("whsec_") && signing_key(text).is_none() {
            let what = "is not a complete Standard Webhooks secret";
            checker.reject(&path, what, "copy it again: base64 follows whsec_");
            return None;
        }
        let bytes = signing_key(text).map_or(text.len(), |key| key.len());
        if bytes < MIN_SIGNING_KEY_BYTES {
            let what = format!(
                "signs with {bytes} bytes, but the minimum is {MIN_SIGNING_KEY_BYTES}: a shorter key is insecure"
            );
            checker.reject(&path, what, "create one with `ringcx-extractor deliver new-secret`");
            return None;
        }
        Some(secret)
    });
    let checked: Vec<Option<SecretString>> = checked.collect();
    checked.into_iter().collect::<Option<Vec<_>>>().filter(|secrets| !secrets.is_empty())
}

/// Returns a list of secrets, each with its key. They are set directly, or by a file with one per
/// line.
fn build_secrets(
    path: &str,
    direct: Vec<SecretText>,
    file: Text,
    checker: &mut Checker<'_>,
) -> Option<Vec<(String, SecretString)>> {
    if let Some(file) = checker.secret_file(path, !direct.is_empty(), file)? {
        let file: Text = file.to_string_lossy().into_owned().into();
        let content: Secret = checker.multiline_secret(path, None, file)?;
        let lines = content.value.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
        return Some(lines.map(|line| (content.source(path), SecretString::from(line))).collect());
    }
    let direct = direct.into_iter().enumerate().map(|(i, secret)| (format!("{path}[{i}]"), secret.0));
    let (empty, direct): (Vec<_>, Vec<_>) = direct.partition(|(_, secret)| secret.expose_secret().trim().is_empty());
    empty.iter().for_each(|(key, _)| checker.reject(key, "is empty", "leave it out"));
    Some(direct)
}

/// The minimum length of a signing key (Standard Webhooks, "Signature scheme": 24 to 64 bytes).
const MIN_SIGNING_KEY_BYTES: usize = 24;

/// Decodes the key of a secret like the Standard Webhooks libraries: base64, with or without the
/// prefix `whsec_`. Returns `None` if it is not base64; then the text itself is the key.
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let secret = secret.trim();
    base64::prelude::BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()
}

/// Builds the options of the store. Each is secret and may come from a file; empty options are
/// dropped.
fn build_options(
    path: &str,
    given: BTreeMap<String, StoreOption>,
    checker: &mut Checker<'_>,
) -> BTreeMap<String, SecretString> {
    let mut by_name: BTreeMap<String, (Option<SecretText>, Text)> = BTreeMap::new();
    for (name, StoreOption(value)) in given {
        match name.strip_suffix("_file") {
            Some(secret) if !OPTIONS_THAT_ARE_PATHS.contains(&&*name) => {
                by_name.entry(secret.to_owned()).or_default().1 = value.expose_secret().to_owned().into();
            }
            _ => by_name.entry(name).or_default().0 = Some(SecretText(value)),
        }
    }
    let options = by_name.into_iter().filter_map(|(name, (direct, file))| {
        let secret = checker.multiline_secret(&format!("{path}.{name}"), direct, file)?;
        Some((name, secret.value))
    });
    options.collect()
}
