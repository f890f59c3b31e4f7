//! The JSON Schema of the settings, generated from `Document`, and look-ups in it: which keys
//! there are, the type of each, and the known key that is most similar to an unknown one.

use std::path::Path;
use std::sync::LazyLock;

use ::config::{Value, ValueKind};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value as Json, json};

use super::config_error::{ConfigError, SettingLocation};
use super::settings_document::Document;

static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings
        .with_transform(RecursiveTransform(adapt_to_toml))
        .into_generator()
        .into_root_schema_for::<Document>()
        .into()
});

/// TOML has no null, which is how schemars writes an optional value. Every table with fixed names
/// is closed.
fn adapt_to_toml(schema: &mut Schema) {
    if schema.get("properties").is_some() {
        schema.insert("additionalProperties".to_owned(), json!(false));
    }
    if schema.get("default").is_some_and(Json::is_null) {
        schema.remove("default");
    }
    for name in ["type", "enum"] {
        let Some(Json::Array(items)) = schema.get_mut(name) else { continue };
        items.retain(|item| !item.is_null() && item != "null");
        if let ("type", [only]) = (name, items.as_slice()) {
            let only = only.clone();
            schema.insert(name.to_owned(), only);
        }
    }
}

/// The JSON Schema of the settings file, for editors.
pub fn json_schema() -> &'static Json {
    &SCHEMA
}

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// A table of settings.
    Section,
    /// A list of tables of settings.
    Sections,
    /// Text.
    Text,
    /// One of some names.
    Choice,
    /// An id: text, or a whole number.
    Id,
    /// Text that is never shown; `x_file` can replace it.
    Secret,
    /// A list of secrets; `x_file` contains one per line.
    Secrets,
    /// A duration in `humantime` format.
    Span,
    /// A whole number.
    Count,
    /// True or false.
    Flag,
    /// A list.
    List,
    /// A table of secrets with free names; `x_file` can replace each.
    Options,
    /// The name of a redaction rule, or a table with a pattern.
    Redaction,
}

impl SettingKind {
    /// The type that a node of the schema describes.
    pub(super) fn of(node: &Json) -> SettingKind {
        let has = |key: &str| node.get(key).is_some();
        match node["type"].as_str() {
            Some("object") if has("properties") => SettingKind::Section,
            Some("object") => SettingKind::Options,
            Some("array") => match SettingKind::of(&node["items"]) {
                SettingKind::Section => SettingKind::Sections,
                SettingKind::Secret => SettingKind::Secrets,
                _ => SettingKind::List,
            },
            Some("integer") => SettingKind::Count,
            Some("boolean") => SettingKind::Flag,
            _ if has("writeOnly") => SettingKind::Secret,
            _ if has("anyOf") => SettingKind::Redaction,
            _ if has("enum") || has("oneOf") => SettingKind::Choice,
            _ if node["format"] == "span" => SettingKind::Span,
            _ if node["type"].is_array() => SettingKind::Id,
            _ => SettingKind::Text,
        }
    }
}

/// The definition of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingSpec {
    /// The path; `[]` stands for any element of a list.
    pub path: String,
    /// The type.
    pub kind: SettingKind,
    /// The default, as written in an environment variable; `None` if there is none.
    pub default: Option<String>,
    /// The description.
    pub about: String,
}

/// All settings, sections included, by name.
pub fn settings() -> Vec<SettingSpec> {
    let mut found = Vec::new();
    add_settings(&SCHEMA, "", &mut found);
    found
}

fn add_settings(table: &Json, path: &str, found: &mut Vec<SettingSpec>) {
    for (name, node) in tables_of(table).flat_map(|table| table["properties"].as_object()).flatten() {
        let path = join(path, name);
        let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let default = node.get("default").map(|default| match default.as_array() {
            Some(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
            None => text(default),
        });
        let about = node["description"].as_str().unwrap_or_default().replace('\n', " ");
        found.push(SettingSpec { path: path.clone(), kind: SettingKind::of(node), default, about });
        add_settings(node, &path, found);
        if let Some(items) = node.get("items") {
            add_settings(items, &format!("{path}[]"), found);
        }
    }
}

/// The alternatives of a node that may be a table.
fn tables_of(node: &Json) -> impl Iterator<Item = &Json> {
    std::iter::once(node).chain(node["anyOf"].as_array().into_iter().flatten())
}

/// The node of a name in a table.
fn child<'n>(node: &'n Json, name: &str) -> Option<&'n Json> {
    tables_of(node).find_map(|table| {
        let options = table.get("additionalProperties").filter(|options| options.is_object());
        table["properties"].get(name).or(options)
    })
}

/// The node at a path, which may contain indices (`accounts[0].name`).
pub(super) fn node_at(path: &str) -> Option<&'static Json> {
    path.split('.').try_fold(json_schema(), |node, part| {
        let mut names = part.split('[');
        let node = child(node, names.next()?)?;
        names.try_fold(node, |node, _| node.get("items"))
    })
}

/// The names and indices of a path.
pub(super) fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[']).map(|step| step.trim_end_matches(']'))
}

/// The path of a name in a table.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// Adds a problem for each key of a source that is not a setting, and for each section that is not
/// a table.
pub(super) fn check_keys(value: &Value, path: &str, node: &Json, file: Option<&Path>, problems: &mut Vec<ConfigError>) {
    let place = |value: &Value| value.origin().map(|origin| SettingLocation::of_origin(origin, file));
    match (SettingKind::of(node), &value.kind) {
        (SettingKind::Section | SettingKind::Options | SettingKind::Redaction, ValueKind::Table(table)) => {
            for (name, value) in table {
                let path = join(path, name);
                if let Some(node) = child(node, name) {
                    check_keys(value, &path, node, file, problems);
                } else {
                    let hint = format!("the nearest known key is {}", nearest_path(&path));
                    problems.push(ConfigError::new(&path, place(value), "is not a known key", &hint));
                }
            }
        }
        (SettingKind::Section, _) => {
            let hint = format!("write [{path}]");
            problems.push(ConfigError::new(path, place(value), "is a section, not a value", &hint));
        }
        (_, ValueKind::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                check_keys(item, &format!("{path}[{i}]"), &node["items"], file, problems);
            }
        }
        _ => {}
    }
}

/// Lists the values of a choice for a hint.
pub(super) fn list_choices(node: &Json) -> String {
    let documented = node["oneOf"].as_array().into_iter().flatten();
    let names: Vec<String> = std::iter::once(node)
        .chain(documented)
        .flat_map(|node| node.get("const").into_iter().chain(node["enum"].as_array().into_iter().flatten()))
        .map(Json::to_string)
        .collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Finds the known path that is most similar to an unknown one, and keeps its indices.
pub(super) fn nearest_path(unknown: &str) -> String {
    let pattern = pattern_of(unknown);
    let (section, name) = split_section(&pattern);
    let similarity = |candidate: &SettingSpec| {
        let (its_section, its_name) = split_section(&candidate.path);
        let names = strsim::normalized_damerau_levenshtein(name, its_name);
        // The section counts half: a key in the wrong section is found in its own, and a misspelt
        // key in the same section.
        names + 0.5 * strsim::normalized_damerau_levenshtein(section, its_section)
    };
    let best = settings().into_iter().rev().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let mut path = best.map_or_else(String::new, |best| best.path);
    let mut indices = unknown.split('[').skip(1).filter_map(|rest| rest.split_once(']').map(|(index, _)| index));
    while path.contains("[]") {
        path = path.replacen("[]", &format!("[{}]", indices.next().unwrap_or("0")), 1);
    }
    path
}

fn split_section(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// Removes indices: `accounts[12].name` becomes `accounts[].name`.
fn pattern_of(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |pattern, part| pattern + "[]" + part.split_once(']').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_described() {
        for setting in settings() {
            let is_file = setting.path.strip_suffix("_file").and_then(node_at).is_some();
            assert!(is_file || !setting.about.is_empty(), "{}", setting.path);
        }
    }

    #[test]
    fn a_path_is_found_whatever_its_index() {
        assert_eq!(pattern_of("accounts[12].name"), "accounts[].name");
        let kind = |path: &str| node_at(path).map(SettingKind::of);
        assert_eq!(kind("accounts[12].name"), Some(SettingKind::Text));
        assert_eq!(kind("auth.jwt_file"), Some(SettingKind::Text));
        assert_eq!(kind("auth.client_id_file"), None);
        assert_eq!(kind("sinks[3].options.aws_region"), Some(SettingKind::Secret));
        assert_eq!(kind("accounts"), Some(SettingKind::Sections));
        assert_eq!(kind("accounts[0]"), Some(SettingKind::Section));
        assert_eq!(kind("discovery"), Some(SettingKind::Section));
        assert_eq!(kind("discover"), None);
    }

    #[test]
    fn the_nearest_known_key_is_what_a_person_meant() {
        for (wrong, right) in [
            ("discovery.windw", "discovery.window"),
            ("discovry", "discovery"),
            ("acounts", "accounts"),
            ("accounts[2].sub_acount_id", "accounts[2].sub_account_id"),
            ("auth.client_secrt", "auth.client_secret"),
            ("auth.jwtfile", "auth.jwt_file"),
            ("discovery.requests_per_minute", "limits.requests_per_minute"),
            ("limits.requests_per_min", "limits.requests_per_minute"),
            ("fetch.max_window", "discovery.max_window"),
            ("sinks[1].typ", "sinks[1].type"),
        ] {
            assert_eq!(nearest_path(wrong), right, "for {wrong}");
        }
    }
}
