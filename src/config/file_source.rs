//! The settings file as a layer for the `config` crate, and the types that both sources share.
//!
//! Reads the file. Only known keys pass, each value with its origin: a line or a variable. Every
//! other key becomes a problem that names the nearest known key and quotes no value.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::config_error::{ConfigError, SettingLocation};
use super::schema::{self, SchemaNode, SettingKind};

/// The paths of the file that are tried in turn if none is named.
pub(super) const DEFAULT_PATHS: [&str; 2] = ["config/local.toml", "/etc/ringcx-extractor/config.toml"];

/// Finds the file to read: the one on the command line or in `named` (`$RINGCX_CONFIG`), else the
/// first of `default_paths` that exists.
pub(super) fn find_file(cli: Option<&Path>, named: Option<&str>, default_paths: &[PathBuf]) -> Option<PathBuf> {
    cli.map(Path::to_path_buf)
        .or_else(|| named.map(PathBuf::from))
        .or_else(|| default_paths.iter().find(|path| !is_absent(path)).cloned())
}

/// A file that may exist but is not accessible is not skipped, so that reading it reports the
/// cause. Relative paths are skipped if the user cannot access the working directory, as when the
/// daemon's user runs a command in another home.
fn is_absent(path: &Path) -> bool {
    let denied = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    let is_inaccessible = || path.is_relative() && Path::new(".").metadata().is_err_and(denied);
    matches!(path.try_exists(), Ok(false)) || is_inaccessible()
}

/// Reads the text of the file.
pub(super) fn read_file(path: &Path, named_by: Option<&str>) -> Result<String, ConfigError> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()));
    text.map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)).map_err(|why| ConfigError {
        key: String::new(),
        location: None,
        what: format!("failed to read {}: {why}", path.display()),
        hint: match named_by {
            Some(by) => format!("{by} names it: give the path of a file that exists and is readable"),
            None => "make it readable, or name another file with --config".to_owned(),
        },
    })
}

/// The origin of a value, which the `config` crate stores as text.
pub(super) enum Origin {
    Line(usize),
    Variable(String),
}

impl Origin {
    /// Parses the text of [`Origin::to_text`].
    pub(super) fn of_value(value: &Value) -> Option<Origin> {
        let (kind, rest) = value.origin()?.split_once(' ')?;
        match kind {
            "line" => rest.parse().ok().map(Origin::Line),
            _ => Some(Origin::Variable(rest.to_owned())),
        }
    }

    pub(super) fn location(self, file: Option<&Path>) -> SettingLocation {
        match self {
            Origin::Line(line) => SettingLocation::Line(file.unwrap_or(Path::new("")).to_path_buf(), line),
            Origin::Variable(name) => SettingLocation::Variable(name),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Origin::Line(line) => format!("line {line}"),
            Origin::Variable(name) => format!("variable {name}"),
        }
    }
}

/// The values of one source, by path.
#[derive(Clone)]
pub(super) struct Layer(pub(super) Map<String, Value>);

/// Prints only names, because the values may be secret.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Parses the file; returns `None` if it has a syntax error, because the rest would cause
/// misleading problems.
pub(super) fn parse_file(text: &str, file: &Path, problems: &mut Vec<ConfigError>) -> Option<Layer> {
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(errors.iter().map(|error| ConfigError {
            key: String::new(),
            location: Some(match error.span() {
                Some(span) => SettingLocation::Line(file.to_path_buf(), line_of(span.start)),
                None => SettingLocation::File(file.to_path_buf()),
            }),
            // Only the message: the `Display` form quotes the line, which may contain a secret.
            what: format!("is not TOML: {}", error.message()),
            hint: "write text in quotes, lists in brackets, and each key only once".to_owned(),
        }));
        return None;
    }
    let origin = |at: usize| Origin::Line(line_of(at));
    let mut walker = TomlWalker { origin: &origin, file: Some(file), problems };
    Some(Layer(walker.read_table(table.get_ref(), "")))
}

/// Walks over parsed TOML and keeps the known keys.
pub(super) struct TomlWalker<'a> {
    /// Returns the origin of the value at an offset.
    pub(super) origin: &'a dyn Fn(usize) -> Origin,
    pub(super) file: Option<&'a Path>,
    pub(super) problems: &'a mut Vec<ConfigError>,
}

impl TomlWalker<'_> {
    /// Reads the known entries of a table.
    fn read_table(&mut self, table: &DeTable<'_>, path: &str) -> Map<String, Value> {
        let mut known = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            // A quoted name that contains separators must not be parsed as a path.
            let plain = !name.is_empty() && !name.contains(['.', '[', ']']);
            match if plain { schema::resolve_path(&path) } else { SchemaNode::Unknown } {
                SchemaNode::Unknown => self.report_unknown(&path, key.span().start),
                node => {
                    if let Some(value) = self.value(value, &path, node) {
                        known.insert(name.to_owned(), value);
                    }
                }
            }
        }
        known
    }

    /// Converts a value whose shape fits the schema at its path.
    pub(super) fn value(&mut self, value: &Spanned<DeValue<'_>>, path: &str, known: SchemaNode) -> Option<Value> {
        let kind = match (known, value.get_ref()) {
            (SchemaNode::Table, DeValue::Table(table)) => ValueKind::Table(self.read_table(table, path)),
            (SchemaNode::Table, _) => return self.reject(path, value, "is a section", &format!("write [{path}]")),
            (SchemaNode::Tables, DeValue::Array(items)) => ValueKind::Array(self.read_tables(items, path)),
            (SchemaNode::Tables, _) => {
                return self.reject(path, value, "is a list of sections", &format!("write [[{path}]]"));
            }
            (SchemaNode::Leaf(key), DeValue::Array(items)) if key.kind == SettingKind::List => {
                ValueKind::Array(items.iter().enumerate().map(|(i, item)| self.list_item(item, path, i)).collect())
            }
            // Option names are case-insensitive; the environment provides them in lower case.
            (SchemaNode::Leaf(key), DeValue::Table(table)) if key.kind == SettingKind::Options => ValueKind::Table(
                table.iter().map(|(name, v)| (name.get_ref().to_ascii_lowercase(), self.plain_value(v))).collect(),
            ),
            _ => return Some(self.plain_value(value)),
        };
        Some(self.with_origin(value, kind))
    }

    fn read_tables<'v>(&mut self, items: impl IntoIterator<Item = &'v Spanned<DeValue<'v>>>, path: &str) -> Vec<Value> {
        items
            .into_iter()
            .enumerate()
            .map(|(i, item)| {
                let path = format!("{path}[{i}]");
                // An entry that is not a table keeps its position, so that later entries keep their
                // index.
                self.value(item, &path, SchemaNode::Table).unwrap_or_default()
            })
            .collect()
    }

    /// Converts an element of a list, which may be a table if the schema allows it.
    fn list_item(&mut self, item: &Spanned<DeValue<'_>>, path: &str, index: usize) -> Value {
        let path = format!("{path}[{index}]");
        match item.get_ref() {
            DeValue::Table(table) if schema::resolve_path(&path) == SchemaNode::Table => {
                let table = self.read_table(table, &path);
                self.with_origin(item, ValueKind::Table(table))
            }
            _ => self.plain_value(item),
        }
    }

    /// Converts a value without a check.
    fn plain_value(&self, value: &Spanned<DeValue<'_>>) -> Value {
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => ValueKind::I64(number),
                Err(_) => ValueKind::Float(f64::MAX),
            },
            DeValue::Float(number) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
            // A time without quotes is equivalent to one with quotes.
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Array(items) => ValueKind::Array(items.iter().map(|item| self.plain_value(item)).collect()),
            DeValue::Table(table) => ValueKind::Table(
                table.iter().map(|(key, v)| (key.get_ref().to_string(), self.plain_value(v))).collect(),
            ),
        };
        self.with_origin(value, kind)
    }

    fn with_origin(&self, value: &Spanned<DeValue<'_>>, kind: ValueKind) -> Value {
        Value::new(Some(&(self.origin)(value.span().start).to_text()), kind)
    }

    fn reject(&mut self, path: &str, value: &Spanned<DeValue<'_>>, what: &str, hint: &str) -> Option<Value> {
        self.add_problem(path, value.span().start, format!("{what}, not a value"), hint.to_owned());
        None
    }

    fn report_unknown(&mut self, path: &str, at: usize) {
        let nearest = schema::nearest_path(path);
        self.add_problem(path, at, "is not a known key".to_owned(), format!("the nearest known key is {nearest}"));
    }

    fn add_problem(&mut self, key: &str, at: usize, what: String, hint: String) {
        let location = Some((self.origin)(at).location(self.file));
        self.problems.push(ConfigError { key: key.to_owned(), location, what, hint });
    }
}
