//! Settings from environment variables: `RINGCX__` and the path joined by `__`, in any case.
//!
//! Pure: the variables are an argument. A value gets the type of its key, so that the secret
//! `00123` stays text. A value that does not fit stays text and is rejected by the validation of
//! the setting.

use std::collections::BTreeMap;

use ::config::{Map, Value, ValueKind};
use toml::de::DeValue;

use super::config_error::{ConfigError, SettingLocation};
use super::file_source::{Layer, Origin, TomlWalker};
use super::schema::{self, SchemaNode, SettingKind, SettingSpec};

/// The prefix of every variable that is a setting.
pub(super) const VARIABLE_PREFIX: &str = "RINGCX__";

/// The variable that names the settings file.
pub(super) const FILE_VARIABLE: &str = "RINGCX_CONFIG";

/// The exclusive limit of an index into a list of sections, so that a mistyped index cannot exhaust
/// memory.
const MAX_SECTION_INDEX: usize = 10_000;

/// Whether the variable is a setting, by its prefix.
pub(super) fn is_setting(name: &str) -> bool {
    name.get(..VARIABLE_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(VARIABLE_PREFIX))
}

/// Creates one layer per variable, whole sections before their parts.
pub(super) fn build_layers(variables: &[(String, String)], problems: &mut Vec<ConfigError>) -> Vec<Layer> {
    let mut by_path: BTreeMap<String, (&str, Value)> = BTreeMap::new();
    for (name, text) in variables.iter().filter(|(name, _)| is_setting(name)) {
        let path = variable_to_path(name);
        match parse_variable(name, text, &path, problems) {
            Some(_) if by_path.contains_key(&path) => {
                let other = by_path.get(&path).map_or("", |(other, _)| other);
                problems.push(problem(
                    &path,
                    name,
                    format!("{other} sets the same key"),
                    "keep one of the two".to_owned(),
                ));
            }
            Some(value) => {
                by_path.insert(path, (name, value));
            }
            None => {}
        }
    }
    by_path.into_iter().map(|(path, (_, value))| Layer(Map::from([(path, value)]))).collect()
}

/// Converts `RINGCX__ACCOUNTS__0__NAME` to the path `accounts[0].name`.
fn variable_to_path(name: &str) -> String {
    let mut path = String::new();
    for step in name.get(VARIABLE_PREFIX.len()..).unwrap_or_default().to_ascii_lowercase().split("__") {
        let is_index = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        if is_index && schema::resolve_path(&path) == SchemaNode::Tables {
            path.push_str(&format!("[{step}]"));
        } else {
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(step);
        }
    }
    path
}

/// Converts a path to the name of its variable.
fn path_to_variable(path: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{}",
        path.replace("].", "__").replace('[', "__").replace(']', "").replace('.', "__").to_uppercase()
    )
}

fn parse_variable(name: &str, text: &str, path: &str, problems: &mut Vec<ConfigError>) -> Option<Value> {
    let origin = format!("variable {name}");
    let to_value = |kind: ValueKind| Some(Value::new(Some(&origin), kind));
    if path.split(['[', ']']).any(|step| step.parse::<usize>().is_ok_and(|index| index >= MAX_SECTION_INDEX)) {
        problems.push(problem(path, name, "has too large an index".to_owned(), "number the entries from 0".to_owned()));
        return None;
    }
    match schema::resolve_path(path) {
        SchemaNode::Leaf(key) if key.kind == SettingKind::Options => {
            parse_toml_value(name, text, path, SchemaNode::Leaf(key), problems)
        }
        SchemaNode::Leaf(key) if is_list(key) && text.trim_start().starts_with('[') => {
            parse_toml_value(name, text, path, SchemaNode::Leaf(key), problems)
        }
        SchemaNode::Leaf(key) => to_value(typed_value(key, text, &origin)),
        SchemaNode::FileOf(_) => to_value(ValueKind::from(text)),
        SchemaNode::Option if is_plain_path(path) => to_value(ValueKind::from(text)),
        SchemaNode::Table | SchemaNode::Tables => {
            parse_toml_value(name, text, path, schema::resolve_path(path), problems)
        }
        SchemaNode::Option | SchemaNode::Unknown => {
            let hint = format!("the nearest known key is {}", path_to_variable(&schema::nearest_path(path)));
            problems.push(problem(path, name, "is not a known key".to_owned(), hint));
            None
        }
    }
}

/// Converts text to the type of the setting; keeps text that does not fit.
pub(super) fn typed_value(key: &SettingSpec, text: &str, origin: &str) -> ValueKind {
    let text = if key.kind.is_secret() { text } else { text.trim() };
    match key.kind {
        SettingKind::Count => text.parse::<i64>().map_or_else(|_| ValueKind::from(text), ValueKind::I64),
        SettingKind::Flag => match text.to_ascii_lowercase().as_str() {
            "true" => ValueKind::Boolean(true),
            "false" => ValueKind::Boolean(false),
            _ => ValueKind::from(text),
        },
        SettingKind::List | SettingKind::Secrets => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(Some(&origin.to_owned()), item)).collect())
        }
        SettingKind::Text | SettingKind::Id | SettingKind::Secret | SettingKind::Span | SettingKind::Options => {
            ValueKind::from(text)
        }
    }
}

/// Parses a list or section that is written in TOML.
fn parse_toml_value(
    name: &str,
    text: &str,
    path: &str,
    known: SchemaNode,
    problems: &mut Vec<ConfigError>,
) -> Option<Value> {
    let Ok(value) = DeValue::parse(text.trim()) else {
        let hint = match known {
            SchemaNode::Table => r#"write it as { key = "value" }, or set each of its keys"#,
            SchemaNode::Leaf(key) if key.kind == SettingKind::Options => {
                r#"write it as { key = "value" }, or set each of its keys"#
            }
            SchemaNode::Tables => r#"write it as [{ key = "value" }], or set each of its keys"#,
            _ => r#"write it as ["one", "two"], or as one,two"#,
        };
        problems.push(problem(path, name, "is not TOML".to_owned(), hint.to_owned()));
        return None;
    };
    let origin = |_| Origin::Variable(name.to_owned());
    TomlWalker { origin: &origin, file: None, problems }.value(&value, path, known)
}

fn is_list(key: &SettingSpec) -> bool {
    matches!(key.kind, SettingKind::List | SettingKind::Secrets)
}

/// Whether the `config` crate parses the path as intended.
fn is_plain_path(path: &str) -> bool {
    !path.ends_with('.') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte))
}

fn problem(key: &str, name: &str, what: String, hint: String) -> ConfigError {
    ConfigError { key: key.to_owned(), location: Some(SettingLocation::Variable(name.to_owned())), what, hint }
}
