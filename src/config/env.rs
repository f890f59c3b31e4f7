//! Settings from environment variables: `RINGCX__` and the path joined by `__`, in any case.
//!
//! Touches nothing: the variables are an argument. A value takes the type of the key that it is for, so that the secret
//! `00123` stays text; one that does not fit is left as text, for the check of that setting to complain about.

use std::collections::BTreeMap;

use ::config::{Map, Value, ValueKind};
use toml::de::DeValue;

use super::problem::{ConfigError, Place};
use super::schema::{self, Key, Kind, Known};
use super::source::{Layer, Origin, Walk};

/// What every variable that is a setting begins with.
pub(super) const PREFIX: &str = "RINGCX__";

/// The name of the variable that names the file.
pub(super) const FILE: &str = "RINGCX_CONFIG";

/// No list of sections is longer; keeps a mistyped index from filling memory.
const MOST: usize = 10_000;

/// Whether the variable is meant to be a setting.
pub(super) fn is_setting(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// One layer a variable, whole sections before their parts.
pub(super) fn layers(variables: &[(String, String)], problems: &mut Vec<ConfigError>) -> Vec<Layer> {
    let mut by_path: BTreeMap<String, (&str, Value)> = BTreeMap::new();
    for (name, text) in variables.iter().filter(|(name, _)| is_setting(name)) {
        let path = path_of(name);
        match value_of(name, text, &path, problems) {
            Some(_) if by_path.contains_key(&path) => {
                let other = by_path.get(&path).map_or("", |(other, _)| other);
                problems.push(problem(&path, name, format!("{other} sets the same"), "keep one of the two".to_owned()));
            }
            Some(value) => {
                by_path.insert(path, (name, value));
            }
            None => {}
        }
    }
    by_path.into_iter().map(|(path, (_, value))| Layer(Map::from([(path, value)]))).collect()
}

/// `RINGCX__ACCOUNTS__0__NAME` as a path: `accounts[0].name`.
fn path_of(name: &str) -> String {
    let mut path = String::new();
    for step in name.get(PREFIX.len()..).unwrap_or_default().to_ascii_lowercase().split("__") {
        let is_index = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        if is_index && schema::look_up(&path) == Known::Tables {
            path.push_str(&format!("[{step}]"));
        } else {
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(step);
        }
    }
    path
}

/// A path as the variable that sets it.
fn name_of(path: &str) -> String {
    format!(
        "{PREFIX}{}",
        path.replace("].", "__").replace('[', "__").replace(']', "").replace('.', "__").to_uppercase()
    )
}

fn value_of(name: &str, text: &str, path: &str, problems: &mut Vec<ConfigError>) -> Option<Value> {
    let origin = format!("variable {name}");
    let plain = |kind: ValueKind| Some(Value::new(Some(&origin), kind));
    if path.split(['[', ']']).any(|step| step.parse::<usize>().is_ok_and(|index| index >= MOST)) {
        problems.push(problem(path, name, "has too large an index".to_owned(), "number them from 0".to_owned()));
        return None;
    }
    match schema::look_up(path) {
        Known::Leaf(key) if key.kind == Kind::Options => whole(name, text, path, Known::Leaf(key), problems),
        Known::Leaf(key) if is_list(key) && text.trim_start().starts_with('[') => {
            whole(name, text, path, Known::Leaf(key), problems)
        }
        Known::Leaf(key) => plain(typed(key, text, &origin)),
        Known::FileOf(_) => plain(ValueKind::from(text)),
        Known::Option if is_plain(path) => plain(ValueKind::from(text)),
        Known::Table | Known::Tables => whole(name, text, path, schema::look_up(path), problems),
        Known::Option | Known::Unknown => {
            let hint = format!("the nearest known one is {}", name_of(&schema::nearest(path)));
            problems.push(problem(path, name, "is not a known key".to_owned(), hint));
            None
        }
    }
}

/// Text as a value of the setting's type; text where it does not fit.
pub(super) fn typed(key: &Key, text: &str, origin: &str) -> ValueKind {
    let text = if key.kind.is_secret() { text } else { text.trim() };
    match key.kind {
        Kind::Count => text.parse::<i64>().map_or_else(|_| ValueKind::from(text), ValueKind::I64),
        Kind::Flag => match text.to_ascii_lowercase().as_str() {
            "true" => ValueKind::Boolean(true),
            "false" => ValueKind::Boolean(false),
            _ => ValueKind::from(text),
        },
        Kind::List | Kind::Secrets => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(Some(&origin.to_owned()), item)).collect())
        }
        Kind::Text | Kind::Id | Kind::Secret | Kind::Span | Kind::Options => ValueKind::from(text),
    }
}

/// A list or section written in TOML.
fn whole(name: &str, text: &str, path: &str, known: Known, problems: &mut Vec<ConfigError>) -> Option<Value> {
    let Ok(value) = DeValue::parse(text.trim()) else {
        let right = match known {
            Known::Table => r#"write it as in { key = "value" }, or set each of its keys"#,
            Known::Leaf(key) if key.kind == Kind::Options => {
                r#"write it as in { key = "value" }, or set each of its keys"#
            }
            Known::Tables => r#"write it as in [{ key = "value" }], or set each of its keys"#,
            _ => r#"write it as in ["one", "two"], or as in one,two"#,
        };
        problems.push(problem(path, name, "is not TOML".to_owned(), right.to_owned()));
        return None;
    };
    let origin = |_| Origin::Variable(name.to_owned());
    Walk { origin: &origin, file: None, problems }.value(&value, path, known)
}

fn is_list(key: &Key) -> bool {
    matches!(key.kind, Kind::List | Kind::Secrets)
}

/// Whether the `config` crate reads the path as it is meant.
fn is_plain(path: &str) -> bool {
    !path.ends_with('.') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte))
}

fn problem(key: &str, name: &str, what: String, hint: String) -> ConfigError {
    ConfigError { key: key.to_owned(), place: Some(Place::Variable(name.to_owned())), what, hint }
}
