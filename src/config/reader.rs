//! Takes settings of the right type out of what the layers say, noting every problem on the way.
//!
//! Reads files that secrets stand in ([`secret`]). Guarantees that `None` for something required comes with a problem,
//! and that no problem quotes a secret.

mod secret;

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use ::config::{Map, Value, ValueKind};

use super::env;
use super::problem::{ConfigError, Place, quoted};
use super::schema::{self, Kind, Known};
use super::source::Origin;
use super::when::parse_span;

pub(super) use secret::Secret;

const SPAN_HINT: &str = r#"write a number and its unit, such as "250ms", "15m" or "7d""#;

/// What is being read, and what has been found wrong with it so far.
pub(super) struct Reader<'a> {
    root: Section<'a>,
    file: Option<&'a Path>,
    /// What is wrong.
    pub(super) problems: Vec<ConfigError>,
    /// What is allowed and yet worth saying.
    pub(super) warnings: Vec<String>,
}

/// A table of settings.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    /// Its path, such as `accounts[0]`; empty for the whole.
    pub(super) path: String,
    table: Option<&'a Map<String, Value>>,
    place: Option<Place>,
}

impl Section<'_> {
    /// The path of one of its settings.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Where it stands, or should.
    pub(super) fn place(&self) -> Option<Place> {
        self.place.clone()
    }

    /// Whether it stands anywhere.
    pub(super) fn is_given(&self) -> bool {
        self.table.is_some()
    }

    /// The names of what is given in it.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.into_iter().flatten().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }
}

/// A value with what a problem with it has to name.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) key: String,
    pub(super) place: Option<Place>,
}

impl<T> Given<T> {
    /// The same with what `change` makes of the value.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        Given { value: change(self.value), key: self.key, place: self.place }
    }

    fn with<U>(&self, value: U) -> Given<U> {
        Given { value, key: self.key.clone(), place: self.place.clone() }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Value, file: Option<&'a Path>, problems: Vec<ConfigError>) -> Reader<'a> {
        let root = Section { path: String::new(), table: table_of(root), place: file.map(|f| Place::File(f.into())) };
        Reader { root, file, problems, warnings: Vec::new() }
    }

    /// The section of this name, empty where it does not stand.
    pub(super) fn section(&self, name: &str) -> Section<'a> {
        let value = self.root.table.and_then(|table| table.get(name));
        let place = value.and_then(|value| self.place(value)).or_else(|| self.root.place.clone());
        Section { path: name.to_owned(), table: value.and_then(table_of), place }
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
                    let place = self.place(item).or_else(|| self.root.place.clone());
                    sections.push(Section { path, table: Some(table), place });
                }
                None => self.gap(&path, i),
            }
        }
        sections
    }

    fn gap(&mut self, path: &str, index: usize) {
        if self.is_problem(path) {
            return;
        }
        let what = "is missing, although one with a higher number is given".to_owned();
        self.wrong(path, None, what, &format!("number them from 0 without leaving out {index}"));
    }

    /// Notes a problem.
    pub(super) fn wrong(&mut self, key: &str, place: Option<Place>, what: String, hint: &str) {
        let problem = ConfigError { key: key.to_owned(), place, what, hint: hint.to_owned() };
        // A setting that is looked at twice is wrong but once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Notes a problem with a value, and stands for the value.
    pub(super) fn refuse<T, U>(&mut self, given: &Given<T>, what: String, hint: &str) -> Option<U> {
        self.wrong(&given.key, given.place.clone(), what, hint);
        None
    }

    /// Notes that something required is not there, unless what is wrong with it has been noted.
    pub(super) fn missing<T>(&mut self, section: &Section<'_>, name: &str, hint: &str) -> Option<T> {
        let key = section.key(name);
        if !self.is_problem(&key) {
            let given = self.place_of(section, name);
            let what = if given.is_some() { "is empty" } else { "is missing" };
            self.wrong(&key, given.or_else(|| section.place.clone()), what.to_owned(), hint);
        }
        None
    }

    /// Whether a problem with this very key has been noted.
    pub(super) fn is_problem(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// Notes something worth saying about a setting.
    pub(super) fn warn(&mut self, section: &Section<'_>, name: &str, what: &str) {
        let place = self.raw(section, name).and_then(|given| given.place).map(|place| format!(" ({place})"));
        self.warnings.push(format!("{}{}: {what}", section.key(name), place.unwrap_or_default()));
    }

    /// Where the setting was given.
    pub(super) fn place_of(&self, section: &Section<'_>, name: &str) -> Option<Place> {
        self.raw(section, name).and_then(|given| given.place)
    }

    /// Whether the setting was given at all.
    pub(super) fn is_given(&self, section: &Section<'_>, name: &str) -> bool {
        self.raw(section, name).is_some()
    }

    /// What was given, as it stands.
    fn raw<'v>(&self, section: &Section<'v>, name: &str) -> Option<Given<&'v Value>> {
        let value = section.table?.get(name).filter(|value| !matches!(value.kind, ValueKind::Nil))?;
        Some(Given { value, key: section.key(name), place: self.place(value) })
    }

    /// What was given, else the default.
    fn given(&self, section: &Section<'_>, name: &str) -> Option<Given<Value>> {
        if let Some(given) = self.raw(section, name) {
            return Some(given.with(given.value.clone()));
        }
        let path = section.key(name);
        let key = schema::setting(&path)?;
        let value = Value::new(None, env::typed(key, key.default?, ""));
        Some(Given { value, key: path, place: None })
    }

    fn place(&self, value: &Value) -> Option<Place> {
        Origin::of(value).map(|origin| origin.place(self.file))
    }

    /// Text; `None` where it is empty, or neither given nor a default.
    pub(super) fn text(&mut self, section: &Section<'_>, name: &str) -> Option<Given<String>> {
        let given = self.given(section, name)?;
        let text = self.as_text(&given)?;
        let text = text.trim();
        (!text.is_empty()).then(|| given.with(text.to_owned()))
    }

    /// Text that must be there.
    pub(super) fn required(&mut self, section: &Section<'_>, name: &str, hint: &str) -> Option<Given<String>> {
        let text = self.text(section, name);
        text.or_else(|| self.missing(section, name, hint))
    }

    fn as_text(&mut self, given: &Given<Value>) -> Option<String> {
        // An item of a list is of the list's kind.
        let path = given.key.strip_suffix(']').and_then(|path| path.rsplit_once('[')).map(|(list, _)| list);
        let known = schema::look_up(path.unwrap_or(&given.key));
        let may_be_number = matches!(known, Known::Leaf(key) if matches!(key.kind, Kind::Id | Kind::List));
        match &given.value.kind {
            ValueKind::String(text) => Some(text.clone()),
            ValueKind::I64(number) if may_be_number || known == Known::Option => Some(number.to_string()),
            ValueKind::Boolean(flag) if known == Known::Option => Some(flag.to_string()),
            _ => self.refuse(given, "is not text".to_owned(), "write it in quotes"),
        }
    }

    /// One of the names, with what it stands for.
    pub(super) fn choice<T: Copy>(&mut self, section: &Section<'_>, name: &str, all: &[(&str, T)]) -> Option<T> {
        let names = one_of(all);
        let given = self.required(section, name, &names)?;
        self.chosen(&given, all)
    }

    /// What the name stands for.
    pub(super) fn chosen<T: Copy>(&mut self, given: &Given<String>, all: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = all.iter().find(|(name, _)| *name == given.value) {
            return Some(*value);
        }
        self.refuse(given, format!("{} is not known here", quoted(&given.value)), &one_of(all))
    }

    /// A positive span of time.
    pub(super) fn span(&mut self, section: &Section<'_>, name: &str) -> Option<Duration> {
        let given = self.given(section, name)?;
        self.as_span(&given)
    }

    /// A span of one second at least; the API counts in whole ones.
    pub(super) fn window(&mut self, section: &Section<'_>, name: &str) -> Option<Duration> {
        let given = self.given(section, name)?;
        let seconds = self.as_span(&given)?.as_secs();
        match seconds {
            0 => self.refuse(
                &given,
                "is less than a second".to_owned(),
                "the API counts whole seconds: give one or more",
            ),
            _ => Some(Duration::from_secs(seconds)),
        }
    }

    /// Positive spans of time, ascending and none twice.
    pub(super) fn spans(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<Duration>> {
        let mut spans = self.each(section, name, |reader, item| reader.as_span(item))?;
        spans.sort_unstable();
        spans.dedup();
        Some(spans)
    }

    fn as_span(&mut self, given: &Given<Value>) -> Option<Duration> {
        let ValueKind::String(text) = &given.value.kind else {
            return self.refuse(given, "is not a span of time".to_owned(), SPAN_HINT);
        };
        match parse_span(text) {
            None => self.refuse(given, format!("{} is not a span of time", quoted(text)), SPAN_HINT),
            Some(Duration::ZERO) => self.refuse(given, format!("{} is no time at all", quoted(text)), SPAN_HINT),
            span => span,
        }
    }

    /// A whole number from 1 to `most`.
    pub(super) fn count(&mut self, section: &Section<'_>, name: &str, most: u32) -> Option<NonZeroU32> {
        let given = self.given(section, name)?;
        let hint = match most {
            u32::MAX => "give a whole number from 1".to_owned(),
            _ => format!("give a whole number from 1 to {most}"),
        };
        match &given.value.kind {
            ValueKind::I64(number) => {
                let count = u32::try_from(*number).ok().filter(|count| *count <= most).and_then(NonZeroU32::new);
                count.or_else(|| self.refuse(&given, format!("{number} is out of range"), &hint))
            }
            ValueKind::String(text) => {
                self.refuse(&given, format!("{} is not a whole number", quoted(text)), &unquoted(&given, &hint))
            }
            _ => self.refuse(&given, "is not a whole number".to_owned(), &hint),
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, section: &Section<'_>, name: &str) -> Option<bool> {
        let given = self.given(section, name)?;
        match &given.value.kind {
            ValueKind::Boolean(flag) => Some(*flag),
            _ => self.refuse(&given, "is neither true nor false".to_owned(), &unquoted(&given, "write true or false")),
        }
    }

    /// Texts; ids among them may be numbers. Empty ones are refused.
    pub(super) fn texts(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<Given<String>>> {
        self.each(section, name, |reader, item| {
            let text = reader.as_text(item)?.trim().to_owned();
            if text.is_empty() {
                return reader.refuse(item, "is empty".to_owned(), "leave it out");
            }
            Some(item.with(text))
        })
    }

    /// Each item of a list as `read` reads it; `None` if one cannot be read.
    pub(super) fn each<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        mut read: impl FnMut(&mut Self, &Given<Value>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let given = self.given(section, name)?;
        let ValueKind::Array(items) = &given.value.kind else {
            return self.refuse(&given, "is not a list".to_owned(), r#"write it in brackets, as in ["one", "two"]"#);
        };
        let read_all: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let place = self.place(item).or_else(|| given.place.clone());
                read(self, &Given { value: item.clone(), key: format!("{}[{i}]", given.key), place })
            })
            .collect();
        read_all.into_iter().collect()
    }

    /// The settings of an item that is a table.
    pub(super) fn inner<'v>(&self, given: &'v Given<Value>) -> Section<'v> {
        Section { path: given.key.clone(), table: table_of(&given.value), place: given.place.clone() }
    }

    /// A table within a section.
    pub(super) fn subsection<'v>(&mut self, section: &Section<'v>, name: &str) -> Section<'v> {
        let given = self.raw(section, name);
        let table = given.as_ref().and_then(|given| table_of(given.value));
        if let (Some(given), None) = (&given, table) {
            self.wrong(
                &given.key,
                given.place.clone(),
                "is not a table".to_owned(),
                "write it as in { key = \"value\" }",
            );
        }
        Section { path: section.key(name), table, place: given.and_then(|given| given.place) }
    }
}

/// The hint, with what to leave out in a file.
fn unquoted<T>(given: &Given<T>, hint: &str) -> String {
    match given.place {
        Some(Place::Variable(_)) => hint.to_owned(),
        _ => format!("{hint}, without quotes"),
    }
}

/// The names, for a hint.
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
