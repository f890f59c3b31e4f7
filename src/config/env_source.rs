//! Settings from environment variables: `RINGCX__` and the path joined by `__`, in any case.
//!
//! `config::Environment` cannot take their place: it cannot set an element of a list, and it either
//! keeps each value as text or guesses its type, which would turn the secret `00123` into a number.
//! Here a value gets the type of its setting. One that does not fit stays text.

use std::collections::BTreeMap;

use ::config::{Value, ValueKind};
use toml::de::DeValue;

use super::config_error::{ConfigError, SettingLocation};
use super::file_source::convert_value;
use super::schema::{self, SettingKind};

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

/// Reads the variables that are settings: path and value of each, whole sections before their parts.
pub(super) fn read_variables(variables: &[(String, String)], problems: &mut Vec<ConfigError>) -> Vec<(String, Value)> {
    let mut by_path: BTreeMap<String, (&str, Value)> = BTreeMap::new();
    for (name, text) in variables.iter().filter(|(name, _)| is_setting(name)) {
        let path = variable_to_path(name);
        let mut report = |key: &str, what: &str, hint: &str| {
            problems.push(ConfigError::new(key, Some(SettingLocation::Variable(name.clone())), what, hint));
        };
        match (parse_variable(name, text, &path), by_path.get(&path)) {
            (Err((what, hint)), _) => report(&path, what, &hint),
            (Ok(_), Some((other, _))) => report(&path, &format!("{other} sets the same key"), "keep one of the two"),
            (Ok(value), None) => {
                if let Some(node) = schema::node_at(&path) {
                    schema::check_keys(&value, &path, node, None, problems);
                }
                by_path.insert(path, (name, value));
            }
        }
    }
    by_path.into_iter().map(|(path, (_, value))| (path, value)).collect()
}

/// Converts `RINGCX__ACCOUNTS__0__NAME` to the path `accounts[0].name`.
fn variable_to_path(name: &str) -> String {
    let mut path = String::new();
    for step in name.get(VARIABLE_PREFIX.len()..).unwrap_or_default().to_ascii_lowercase().split("__") {
        let is_index = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        if is_index && schema::node_at(&path).map(SettingKind::of) == Some(SettingKind::Sections) {
            path.push_str(&format!("[{step}]"));
        } else {
            path = schema::join(&path, step);
        }
    }
    path
}

/// Converts a path to the name of its variable.
fn path_to_variable(path: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", schema::steps(path).collect::<Vec<_>>().join("__").to_uppercase())
}

/// The value of a variable, or what is wrong with it and the remedy.
fn parse_variable(name: &str, text: &str, path: &str) -> Result<Value, (&'static str, String)> {
    let unknown = || {
        Err((
            "is not a known key",
            format!("the nearest known key is {}", path_to_variable(&schema::nearest_path(path))),
        ))
    };
    if path.split(['[', ']']).any(|step| step.parse::<usize>().is_ok_and(|index| index >= MAX_SECTION_INDEX)) {
        return Err(("has too large an index", "number the entries from 0".to_owned()));
    }
    // The `config` crate would parse other names as more than one step.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
    let Some(node) = schema::node_at(path).filter(|_| !path.ends_with('.') && path.chars().all(is_plain)) else {
        return unknown();
    };
    let origin = name.to_owned();
    let trimmed = text.trim();
    let parse_toml = |hint: &str| match DeValue::parse(trimmed) {
        Ok(value) => Ok(convert_value(&value, SettingKind::of(node) == SettingKind::Options, 0, &|_| origin.clone())),
        Err(_) => Err(("is not TOML", hint.to_owned())),
    };
    let kind = match SettingKind::of(node) {
        SettingKind::Section | SettingKind::Options => {
            return parse_toml(r#"write it as { key = "value" }, or set each of its keys"#);
        }
        SettingKind::Sections => return parse_toml(r#"write it as [{ key = "value" }], or set each of its keys"#),
        SettingKind::List | SettingKind::Secrets if trimmed.starts_with('[') => {
            return parse_toml(r#"write it as ["one", "two"], or as one,two"#);
        }
        SettingKind::List | SettingKind::Secrets => {
            let items = trimmed.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| Value::new(Some(&origin), item)).collect::<Vec<_>>().into()
        }
        SettingKind::Count => trimmed.parse::<i64>().map_or_else(|_| trimmed.into(), ValueKind::I64),
        SettingKind::Flag => trimmed.to_ascii_lowercase().parse().map_or_else(|_| trimmed.into(), ValueKind::Boolean),
        SettingKind::Secret => text.into(),
        _ => trimmed.into(),
    };
    Ok(Value::new(Some(&origin), kind))
}
