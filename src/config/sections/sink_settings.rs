//! `[[sinks]]`: the systems that receive events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use secrecy::{ExposeSecret, SecretString};

use super::super::checker::Checker;
use super::super::config_error::quoted;
use super::super::setting_types::{SecretText, SinkContent, SinkContents, StoreOption, Text};
use super::super::settings::{
    DatabaseUrl, LakeCatalog, LakeLayout, LakeSettings, LakeTable, ObjectFormat, RedactionRule, Sink, SinkErasures,
    SinkKind,
};
use super::super::settings_document::{DEFAULT_ROLL_SIZE, RedactionEntry, SinkSection, SinkType};
use super::{parse_database_url, url, webhook_settings};

/// The settings that only some types of sinks have.
const JSONL_KEYS: &[&str] = &["path", "rotate"];
const WEBHOOK_KEYS: &[&str] = &[
    "url",
    "secret",
    "secrets",
    "timeout",
    "allow_private",
    "method",
    "headers",
    "content_type",
    "template",
    "oauth",
    "proxy",
    "unit",
    "settle_after",
    "max_body",
];
const OBJECT_STORE_KEYS: &[&str] =
    &["url", "format", "options", "tables", "layout", "roll_after", "roll_size", "catalog", "expire_after"];
/// Those that only object stores with tables have.
const LAKE_KEYS: &[&str] = &["layout", "roll_after", "roll_size", "catalog", "catalog_file", "expire_after"];
/// Files of less are too small for any reader, and the largest is held in memory.
const ROLL_SIZE_BOUNDS: std::ops::RangeInclusive<u32> = 4_096..=268_435_456;

/// The longest time that a presigned link works.
const MAX_RECORDING_URL_EXPIRY: Duration = Duration::from_secs(7 * 86_400);

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

/// Builds all sinks. Two of one name would share their progress, and two of one path their files. Also
/// returns the names of those that are left out because their secrets cannot be read.
pub(super) fn build_sinks(
    sections: Vec<Option<SinkSection>>,
    checker: &mut Checker<'_>,
) -> Option<(Vec<Sink>, BTreeSet<String>)> {
    const HINT: &str = "give each sink its own value";
    let (mut names, mut paths) = (BTreeMap::new(), BTreeMap::new());
    let (mut lake_urls, mut catalogs) = (BTreeSet::new(), BTreeSet::new());
    let mut left_out = BTreeSet::new();
    let sinks = checker.each_section("sinks", sections, |section, at, checker| {
        let (name, unreadable) = (section.name.0.clone(), checker.unreadable.len());
        let built = build_sink(section, at, checker);
        if built.is_none() && checker.unreadable.len() > unreadable {
            checker.warn(at, "is left out: its secret cannot be read");
            left_out.extend(name);
        }
        let sink = built?;
        if let SinkKind::Jsonl { path, .. } = &sink.kind {
            let path = path.to_string_lossy().into_owned();
            checker.unique(&format!("{at}.path"), path, at, &mut paths, HINT)?;
        }
        if let SinkKind::Lake(lake) = &sink.kind
            && !lake_urls.insert(lake.url.trim_end_matches('/').to_owned())
        {
            checker.reject(&format!("{at}.url"), "is that of another sink with tables", HINT);
            return None;
        }
        // Each would end the files that the other lists.
        if let SinkKind::Lake(lake) = &sink.kind
            && let Some(LakeCatalog::Other(place)) = &lake.catalog
            && !catalogs.insert(catalog_text(place))
        {
            checker.reject(&format!("{at}.catalog"), "is that of another sink with tables", HINT);
            return None;
        }
        checker.unique(&format!("{at}.name"), sink.name.clone(), at, &mut names, HINT)?;
        Some(sink)
    });
    Some((sinks?, left_out))
}

fn build_sink(mut section: SinkSection, at: &str, checker: &mut Checker<'_>) -> Option<Sink> {
    let key = |name: &str| format!("{at}.{name}");
    let name = build_name(&key("name"), std::mem::take(&mut section.name), checker);
    let contents = build_contents(&key("artifacts"), std::mem::take(&mut section.artifacts), checker);
    let accounts = checker.texts(&key("accounts"), std::mem::take(&mut section.accounts));
    let channels = checker.texts(&key("channels"), std::mem::take(&mut section.channels));
    let redact = build_redaction(&key("redact"), std::mem::take(&mut section.redact), checker);
    let recording_url_expiry = section.recording_url_expiry.map(|expiry| expiry.0);
    if recording_url_expiry.is_some_and(|expiry| expiry > MAX_RECORDING_URL_EXPIRY) {
        let what = "is longer than the providers permit";
        checker.reject(&key("recording_url_expiry"), what, "give at most \"7d\"");
    }
    let kind = checker.require(&key("type"), section.r#type, r#"give "jsonl", "webhook" or "object_store""#)?;
    reject_foreign_keys(at, kind, checker);
    let kind = match kind {
        SinkType::Jsonl => {
            let path =
                checker.require(&key("path"), section.path.0.take(), r#"give the folder of its files, such as "out""#);
            SinkKind::Jsonl { path: PathBuf::from(path?), rotate: section.rotate.0 }
        }
        SinkType::Webhook => {
            let webhook = webhook_settings::build_webhook(at, &mut section, checker);
            SinkKind::Webhook(Box::new(webhook?))
        }
        SinkType::ObjectStore => {
            const HINT: &str = r#"give "s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix" or "file:///absolute/path""#;
            let url = build_url(&key("url"), &mut section, url::parse_object_store_url, HINT, checker);
            let options = build_secret_values(&key("options"), std::mem::take(&mut section.options), checker);
            match section.tables.take() {
                None => {
                    reject_lake_keys(at, checker);
                    SinkKind::ObjectStore { url: url?, format: section.format, options }
                }
                Some(tables) => {
                    SinkKind::Lake(Box::new(build_lake(at, &mut section, url?, tables.0, options, checker)?))
                }
            }
        }
    };
    let contents = contents?;
    Some(Sink {
        name: name?,
        start: section.start,
        artifacts: contents.iter().filter_map(|content| content.artifact()).collect(),
        metadata: contents.contains(&SinkContent::Metadata),
        erasures: section.erasures,
        accounts,
        channels,
        redact,
        give_up_after: section.give_up_after.0,
        recording_url_expiry,
        kind,
    })
}

/// Builds an object store with tables.
fn build_lake(
    at: &str,
    section: &mut SinkSection,
    url: String,
    mut tables: Vec<LakeTable>,
    options: BTreeMap<String, SecretString>,
    checker: &mut Checker<'_>,
) -> Option<LakeSettings> {
    let key = |name: &str| format!("{at}.{name}");
    tables.sort_unstable();
    tables.dedup();
    let problems = checker.problems.len();
    if tables.is_empty() && !checker.has_problem(&key("tables")) {
        checker.reject(&key("tables"), "is empty", r#"name "segments", "phrases" or "artifacts", or leave it out"#);
    }
    if checker.is_set(&key("format")) && section.format != ObjectFormat::Parquet {
        checker.reject(&key("format"), "must be parquet where there are tables", r#"leave it out, or give "parquet""#);
    }
    if section.erasures != SinkErasures::All {
        let what = "has no effect on tables: they hold what the archive holds";
        checker.reject(&key("erasures"), what, r#"leave it out, or use a sink without tables"#);
    }
    if section.recording_url_expiry.is_some() {
        let what = "has no effect on tables: their files outlast the links";
        checker.reject(&key("recording_url_expiry"), what, "leave it out, or use a sink without tables");
    }
    // There is no other layout yet.
    let LakeLayout::Hive = section.layout;
    let roll_size = section.roll_size.unwrap_or(DEFAULT_ROLL_SIZE);
    if !ROLL_SIZE_BOUNDS.contains(&roll_size) {
        let hint = format!("give a number of bytes from {} to {}", ROLL_SIZE_BOUNDS.start(), ROLL_SIZE_BOUNDS.end());
        checker.reject(&key("roll_size"), format!("{roll_size} is not a usable size"), &hint);
    }
    let unreadable = checker.unreadable.len();
    let given = checker.secret(&key("catalog"), section.catalog.take(), std::mem::take(&mut section.catalog_file));
    let catalog = given.and_then(|given| {
        let parsed = parse_catalog(given.value.expose_secret().trim());
        checker.accept(&given.source(&key("catalog")), parsed, CATALOG_HINT)
    });
    if catalog.is_none()
        && checker.is_set(&key("expire_after"))
        && !checker.is_set(&key("catalog"))
        && !checker.is_set(&key("catalog_file"))
    {
        checker.reject(&key("expire_after"), "has no effect without a catalog", CATALOG_HINT);
    }
    let is_valid = checker.problems.len() == problems && checker.unreadable.len() == unreadable;
    is_valid.then(|| LakeSettings {
        url,
        options,
        tables,
        roll_after: section.roll_after.0,
        roll_size: u64::from(roll_size),
        catalog: catalog.map(LakeCatalog::Other),
        expire_after: section.expire_after.0,
    })
}

const CATALOG_HINT: &str = r#"give "ducklake:sqlite:/absolute/path" or "ducklake:postgres://user@host/database""#;

fn parse_catalog(text: &str) -> Result<DatabaseUrl, String> {
    let url = text.strip_prefix("ducklake:").ok_or_else(|| "does not begin with ducklake:".to_owned())?;
    parse_database_url(url)
}

fn catalog_text(place: &DatabaseUrl) -> String {
    match place {
        DatabaseUrl::Sqlite(path) => path.display().to_string(),
        DatabaseUrl::Postgres(url) => url.expose_secret().to_owned(),
    }
}

/// Finds the catalogs that are in the archive's database.
pub(super) fn find_archive_catalogs(sinks: &mut [Sink], database: &DatabaseUrl) {
    for sink in sinks {
        if let SinkKind::Lake(lake) = &mut sink.kind {
            let is_same = match (&lake.catalog, database) {
                (Some(LakeCatalog::Other(DatabaseUrl::Sqlite(one))), DatabaseUrl::Sqlite(other)) => one == other,
                (Some(LakeCatalog::Other(DatabaseUrl::Postgres(one))), DatabaseUrl::Postgres(other)) => {
                    one.expose_secret() == other.expose_secret()
                }
                _ => false,
            };
            if is_same {
                lake.catalog = Some(LakeCatalog::Archive);
            }
        }
    }
}

/// Rejects settings of tables where there are none.
fn reject_lake_keys(at: &str, checker: &mut Checker<'_>) {
    for name in LAKE_KEYS {
        let path = format!("{at}.{name}");
        if checker.is_set(&path) {
            checker.reject(&path, "has no effect without tables", r#"add tables, such as ["segments"]"#);
        }
    }
}

/// Checks the URL, which is secret.
pub(super) fn build_url(
    path: &str,
    section: &mut SinkSection,
    parse: fn(&str) -> Result<String, String>,
    hint: &str,
    checker: &mut Checker<'_>,
) -> Option<String> {
    let given = checker.secret(path, section.url.take(), std::mem::take(&mut section.url_file));
    let given = checker.require(path, given, hint)?;
    checker.accept(&given.source(path), parse(given.value.expose_secret().trim()), hint)
}

fn build_contents(path: &str, contents: SinkContents, checker: &mut Checker<'_>) -> Option<Vec<SinkContent>> {
    const HINT: &str =
        r#"name "transcript", "agent_summary", "auto_summary", "recording" or "metadata", or leave it out"#;
    if contents.0.0.is_empty() && !checker.has_problem(path) {
        checker.reject(path, "is empty: nothing would be sent", HINT);
    }
    Some(contents.0.0).filter(|contents| !contents.is_empty())
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

/// Builds a table of values. Each is secret and may come from a file; empty ones are dropped.
pub(super) fn build_secret_values(
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
