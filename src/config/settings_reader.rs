//! Reads typed settings from the merged layers and records every problem.
//!
//! Reads the files of secrets ([`secret_setting`]). If a required setting is `None`, a problem is
//! recorded. No problem quotes a secret.

mod secret_setting;

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use ::config::{Map, Value, ValueKind};

use super::config_error::{ConfigError, SettingLocation, quoted};
use super::env_source;
use super::file_source::Origin;
use super::schema::{self, SchemaNode, SettingKind};
use super::time_parse::parse_span;

pub(super) use secret_setting::SecretValue;

const SPAN_HINT: &str = r#"write a number and its unit, such as "250ms", "15m" or "7d""#;

/// Reads settings, and collects problems and warnings.
pub(super) struct SettingsReader<'a> {
    root: Section<'a>,
    file: Option<&'a Path>,
    /// The problems so far.
    pub(super) problems: Vec<ConfigError>,
    /// The warnings so far.
    pub(super) warnings: Vec<String>,
}

/// A section of the settings.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    /// The path, such as `accounts[0]`; empty for the root.
    pub(super) path: String,
    table: Option<&'a Map<String, Value>>,
    location: Option<SettingLocation>,
}

impl Section<'_> {
    /// The path of a setting in this section.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The location of the section, or of the file if it is missing.
    pub(super) fn location(&self) -> Option<SettingLocation> {
        self.location.clone()
    }

    /// Whether the section is present.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The names of the settings in this section.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.into_iter().flatten().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }
}

/// A value with its key and location, for messages.
#[derive(Debug, Clone)]
pub(super) struct SourcedValue<T> {
    pub(super) value: T,
    pub(super) key: String,
    pub(super) location: Option<SettingLocation>,
}

impl<T> SourcedValue<T> {
    /// Converts the value.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> SourcedValue<U> {
        SourcedValue { value: change(self.value), key: self.key, location: self.location }
    }

    fn with<U>(&self, value: U) -> SourcedValue<U> {
        SourcedValue { value, key: self.key.clone(), location: self.location.clone() }
    }
}

impl<'a> SettingsReader<'a> {
    pub(super) fn new(root: &'a Value, file: Option<&'a Path>, problems: Vec<ConfigError>) -> SettingsReader<'a> {
        let root = Section {
            path: String::new(),
            table: table_of(root),
            location: file.map(|f| SettingLocation::File(f.into())),
        };
        SettingsReader { root, file, problems, warnings: Vec::new() }
    }

    /// The section with this name; empty if it is missing.
    pub(super) fn section(&self, name: &str) -> Section<'a> {
        let value = self.root.table.and_then(|table| table.get(name));
        let location = value.and_then(|value| self.location(value)).or_else(|| self.root.location.clone());
        Section { path: name.to_owned(), table: value.and_then(table_of), location }
    }

    /// The sections of a list.
    pub(super) fn sections(&mut self, name: &str) -> Vec<Section<'a>> {
        let list = self.root.table.and_then(|table| table.get(name));
        let Some(ValueKind::Array(items)) = list.map(|list| &list.kind) else { return Vec::new() };
        let mut sections = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{name}[{i}]");
            match table_of(item) {
                Some(table) => {
                    let location = self.location(item).or_else(|| self.root.location.clone());
                    sections.push(Section { path, table: Some(table), location });
                }
                None => self.report_gap(&path, i),
            }
        }
        sections
    }

    fn report_gap(&mut self, path: &str, index: usize) {
        if self.has_problem(path) {
            return;
        }
        let what = "is missing, but an entry with a higher index is set".to_owned();
        self.add_problem(path, None, what, &format!("number the entries from 0 without leaving out {index}"));
    }

    /// Records a problem.
    pub(super) fn add_problem(&mut self, key: &str, location: Option<SettingLocation>, what: String, hint: &str) {
        let problem = ConfigError { key: key.to_owned(), location, what, hint: hint.to_owned() };
        // A setting that is read twice has its problem only once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Records a problem with a value; returns `None` in place of the value.
    pub(super) fn reject<T, U>(&mut self, given: &SourcedValue<T>, what: String, hint: &str) -> Option<U> {
        self.add_problem(&given.key, given.location.clone(), what, hint);
        None
    }

    /// Records that a required setting is missing, unless it has a problem already.
    pub(super) fn report_missing<T>(&mut self, section: &Section<'_>, name: &str, hint: &str) -> Option<T> {
        let key = section.key(name);
        if !self.has_problem(&key) {
            let given = self.location_of(section, name);
            let what = if given.is_some() { "is empty" } else { "is missing" };
            self.add_problem(&key, given.or_else(|| section.location.clone()), what.to_owned(), hint);
        }
        None
    }

    /// Whether a problem with this key has been recorded.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// Records a warning about a setting.
    pub(super) fn warn(&mut self, section: &Section<'_>, name: &str, what: &str) {
        let location = self.location_of(section, name).map(|location| format!(" ({location})"));
        self.warnings.push(format!("{}{}: {what}", section.key(name), location.unwrap_or_default()));
    }

    /// The location of a setting, if it is set.
    pub(super) fn location_of(&self, section: &Section<'_>, name: &str) -> Option<SettingLocation> {
        self.raw_value(section, name).and_then(|given| given.location)
    }

    /// Whether the setting is set.
    pub(super) fn is_set(&self, section: &Section<'_>, name: &str) -> bool {
        self.raw_value(section, name).is_some()
    }

    /// The value as it is set, without the default.
    fn raw_value<'v>(&self, section: &Section<'v>, name: &str) -> Option<SourcedValue<&'v Value>> {
        let value = section.table?.get(name).filter(|value| !matches!(value.kind, ValueKind::Nil))?;
        Some(SourcedValue { value, key: section.key(name), location: self.location(value) })
    }

    /// The value as it is set, else the default.
    fn value_or_default(&self, section: &Section<'_>, name: &str) -> Option<SourcedValue<Value>> {
        if let Some(given) = self.raw_value(section, name) {
            return Some(given.with(given.value.clone()));
        }
        let path = section.key(name);
        let spec = schema::find_setting(&path)?;
        let value = Value::new(None, env_source::typed_value(spec, spec.default?, ""));
        Some(SourcedValue { value, key: path, location: None })
    }

    fn location(&self, value: &Value) -> Option<SettingLocation> {
        Origin::of_value(value).map(|origin| origin.location(self.file))
    }

    /// Reads a text; returns `None` if it is empty, or neither set nor defaulted.
    pub(super) fn text(&mut self, section: &Section<'_>, name: &str) -> Option<SourcedValue<String>> {
        let given = self.value_or_default(section, name)?;
        let text = self.as_text(&given)?;
        let text = text.trim();
        (!text.is_empty()).then(|| given.with(text.to_owned()))
    }

    /// Reads a required text.
    pub(super) fn required(&mut self, section: &Section<'_>, name: &str, hint: &str) -> Option<SourcedValue<String>> {
        let text = self.text(section, name);
        text.or_else(|| self.report_missing(section, name, hint))
    }

    fn as_text(&mut self, given: &SourcedValue<Value>) -> Option<String> {
        // An item of a list has the type of the list.
        let path = given.key.strip_suffix(']').and_then(|path| path.rsplit_once('[')).map(|(list, _)| list);
        let node = schema::resolve_path(path.unwrap_or(&given.key));
        let may_be_number =
            matches!(node, SchemaNode::Leaf(key) if matches!(key.kind, SettingKind::Id | SettingKind::List));
        match &given.value.kind {
            ValueKind::String(text) => Some(text.clone()),
            ValueKind::I64(number) if may_be_number || node == SchemaNode::Option => Some(number.to_string()),
            ValueKind::Boolean(flag) if node == SchemaNode::Option => Some(flag.to_string()),
            _ => self.reject(given, "is not text".to_owned(), "write it in quotes"),
        }
    }

    /// Reads one of several names and returns its value.
    pub(super) fn choice<T: Copy>(&mut self, section: &Section<'_>, name: &str, all: &[(&str, T)]) -> Option<T> {
        let names = one_of(all);
        let given = self.required(section, name, &names)?;
        self.match_choice(&given, all)
    }

    /// Returns the value of a name.
    pub(super) fn match_choice<T: Copy>(&mut self, given: &SourcedValue<String>, all: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = all.iter().find(|(name, _)| *name == given.value) {
            return Some(*value);
        }
        self.reject(given, format!("{} is not a valid value", quoted(&given.value)), &one_of(all))
    }

    /// Reads a positive span of time.
    pub(super) fn span(&mut self, section: &Section<'_>, name: &str) -> Option<Duration> {
        let given = self.value_or_default(section, name)?;
        self.as_span(&given)
    }

    /// Reads a span of at least one second; the API counts in whole seconds.
    pub(super) fn window(&mut self, section: &Section<'_>, name: &str) -> Option<Duration> {
        let given = self.value_or_default(section, name)?;
        let seconds = self.as_span(&given)?.as_secs();
        match seconds {
            0 => self.reject(
                &given,
                "is less than a second".to_owned(),
                "the API counts whole seconds: give one or more",
            ),
            _ => Some(Duration::from_secs(seconds)),
        }
    }

    /// Reads positive spans of time; sorts them and removes duplicates.
    pub(super) fn spans(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<Duration>> {
        let mut spans = self.each(section, name, |reader, item| reader.as_span(item))?;
        spans.sort_unstable();
        spans.dedup();
        Some(spans)
    }

    fn as_span(&mut self, given: &SourcedValue<Value>) -> Option<Duration> {
        let ValueKind::String(text) = &given.value.kind else {
            return self.reject(given, "is not a span of time".to_owned(), SPAN_HINT);
        };
        match parse_span(text) {
            None => self.reject(given, format!("{} is not a span of time", quoted(text)), SPAN_HINT),
            Some(Duration::ZERO) => {
                self.reject(given, format!("{} must be greater than zero", quoted(text)), SPAN_HINT)
            }
            span => span,
        }
    }

    /// Reads a whole number from 1 to `max`.
    pub(super) fn count(&mut self, section: &Section<'_>, name: &str, max: u32) -> Option<NonZeroU32> {
        let given = self.value_or_default(section, name)?;
        let hint = match max {
            u32::MAX => "give a whole number from 1".to_owned(),
            _ => format!("give a whole number from 1 to {max}"),
        };
        match &given.value.kind {
            ValueKind::I64(number) => {
                let count = u32::try_from(*number).ok().filter(|count| *count <= max).and_then(NonZeroU32::new);
                count.or_else(|| self.reject(&given, format!("{number} is out of range"), &hint))
            }
            ValueKind::String(text) => {
                self.reject(&given, format!("{} is not a whole number", quoted(text)), &unquoted(&given, &hint))
            }
            _ => self.reject(&given, "is not a whole number".to_owned(), &hint),
        }
    }

    /// Reads true or false.
    pub(super) fn flag(&mut self, section: &Section<'_>, name: &str) -> Option<bool> {
        let given = self.value_or_default(section, name)?;
        match &given.value.kind {
            ValueKind::Boolean(flag) => Some(*flag),
            _ => self.reject(&given, "is neither true nor false".to_owned(), &unquoted(&given, "write true or false")),
        }
    }

    /// Reads texts; ids among them may be numbers. Empty texts are rejected.
    pub(super) fn texts(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<SourcedValue<String>>> {
        self.each(section, name, |reader, item| {
            let text = reader.as_text(item)?.trim().to_owned();
            if text.is_empty() {
                return reader.reject(item, "is empty".to_owned(), "leave it out");
            }
            Some(item.with(text))
        })
    }

    /// Reads each item of a list with `read`; returns `None` if one is invalid.
    pub(super) fn each<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        mut read: impl FnMut(&mut Self, &SourcedValue<Value>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let given = self.value_or_default(section, name)?;
        let ValueKind::Array(items) = &given.value.kind else {
            return self.reject(&given, "is not a list".to_owned(), r#"write it in brackets, as in ["one", "two"]"#);
        };
        let read_all: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let location = self.location(item).or_else(|| given.location.clone());
                read(self, &SourcedValue { value: item.clone(), key: format!("{}[{i}]", given.key), location })
            })
            .collect();
        read_all.into_iter().collect()
    }

    /// The section of a list item that is a table.
    pub(super) fn item_section<'v>(&self, given: &'v SourcedValue<Value>) -> Section<'v> {
        Section { path: given.key.clone(), table: table_of(&given.value), location: given.location.clone() }
    }

    /// A table within a section.
    pub(super) fn subsection<'v>(&mut self, section: &Section<'v>, name: &str) -> Section<'v> {
        let given = self.raw_value(section, name);
        let table = given.as_ref().and_then(|given| table_of(given.value));
        if let (Some(given), None) = (&given, table) {
            self.add_problem(
                &given.key,
                given.location.clone(),
                "is not a table".to_owned(),
                "write it as { key = \"value\" }",
            );
        }
        Section { path: section.key(name), table, location: given.and_then(|given| given.location) }
    }
}

/// Adds to a hint that in a file the value has no quotes.
fn unquoted<T>(given: &SourcedValue<T>, hint: &str) -> String {
    match given.location {
        Some(SettingLocation::Variable(_)) => hint.to_owned(),
        _ => format!("{hint}, without quotes"),
    }
}

/// Lists the names for a hint.
fn one_of<T>(all: &[(&str, T)]) -> String {
    let names: Vec<String> = all.iter().map(|(name, _)| format!("{name:?}")).collect();
    match names.split_last() {
        Some((last, [])) => format!("give {last}"),
        Some((last, others)) => format!("give {} or {last}", others.join(", ")),
        None => String::new(),
    }
}

fn table_of(value: &Value) -> Option<&Map<String, Value>> {
    match &value.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}
