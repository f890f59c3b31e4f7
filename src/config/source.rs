//! Where settings come from: the file and the environment, as layers for the `config` crate.
//!
//! Reads the file. Guarantees that only known keys get through, each value with its origin (the line or the variable);
//! everything else becomes a problem that names the nearest known key and quotes no value.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, Place};
use super::schema::{self, Kind, Known};

/// Where the file is looked for when nothing names it.
pub(super) const PLACES: [&str; 2] = ["config/local.toml", "/etc/ringcx-extractor/config.toml"];

/// The file to read: the one named on the command line or in `named` (`$RINGCX_CONFIG`), else the first of `places`
/// that exists.
pub(super) fn find(cli: Option<&Path>, named: Option<&str>, places: &[PathBuf]) -> Option<PathBuf> {
    cli.map(Path::to_path_buf)
        .or_else(|| named.map(PathBuf::from))
        .or_else(|| places.iter().find(|path| !is_absent(path)).cloned())
}

/// One that may exist but cannot be looked at must not be passed over in silence: reading it will say why. But where the
/// folder that the command is typed in is closed to its user, as somebody's home is to the daemon's, no file in it is meant.
fn is_absent(path: &Path) -> bool {
    let denied = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    let closed = || path.is_relative() && Path::new(".").metadata().is_err_and(denied);
    matches!(path.try_exists(), Ok(false)) || closed()
}

/// The file's text.
pub(super) fn read(path: &Path, named_by: Option<&str>) -> Result<String, ConfigError> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()));
    text.map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)).map_err(|why| ConfigError {
        key: String::new(),
        place: None,
        what: format!("failed to read {}: {why}", path.display()),
        hint: match named_by {
            Some(by) => format!("{by} names it: give the path of a file that exists and is readable"),
            None => "make it readable, or name another file with --config".to_owned(),
        },
    })
}

/// Where a value came from, as the `config` crate carries it: text.
pub(super) enum Origin {
    Line(usize),
    Variable(String),
}

impl Origin {
    /// Reads back what [`Origin::text`] wrote.
    pub(super) fn of(value: &Value) -> Option<Origin> {
        let (kind, rest) = value.origin()?.split_once(' ')?;
        match kind {
            "line" => rest.parse().ok().map(Origin::Line),
            _ => Some(Origin::Variable(rest.to_owned())),
        }
    }

    pub(super) fn place(self, file: Option<&Path>) -> Place {
        match self {
            Origin::Line(line) => Place::Line(file.unwrap_or(Path::new("")).to_path_buf(), line),
            Origin::Variable(name) => Place::Variable(name),
        }
    }

    fn text(&self) -> String {
        match self {
            Origin::Line(line) => format!("line {line}"),
            Origin::Variable(name) => format!("variable {name}"),
        }
    }
}

/// What one source says, by path.
#[derive(Clone)]
pub(super) struct Layer(pub(super) Map<String, Value>);

/// Names only: the values may be secret.
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

/// What the file says. With a syntax error in it, `None`: what could be made of the rest would only mislead.
pub(super) fn from_file(text: &str, file: &Path, problems: &mut Vec<ConfigError>) -> Option<Layer> {
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(errors.iter().map(|error| ConfigError {
            key: String::new(),
            place: Some(match error.span() {
                Some(span) => Place::Line(file.to_path_buf(), line_of(span.start)),
                None => Place::File(file.to_path_buf()),
            }),
            // Its message alone: its display quotes the line, which may hold a secret.
            what: format!("is not TOML: {}", error.message()),
            hint: "text stands in quotes, lists in brackets, and each key once".to_owned(),
        }));
        return None;
    }
    let origin = |at: usize| Origin::Line(line_of(at));
    let mut walk = Walk { origin: &origin, file: Some(file), problems };
    Some(Layer(walk.table(table.get_ref(), "")))
}

/// Follows parsed TOML along the table of known keys.
pub(super) struct Walk<'a> {
    /// The origin of what stands at this offset.
    pub(super) origin: &'a dyn Fn(usize) -> Origin,
    pub(super) file: Option<&'a Path>,
    pub(super) problems: &'a mut Vec<ConfigError>,
}

impl Walk<'_> {
    /// The known ones of a table's entries.
    fn table(&mut self, table: &DeTable<'_>, path: &str) -> Map<String, Value> {
        let mut known = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            // A name that would read as more than one step must not be taken for the path that it looks like.
            let plain = !name.is_empty() && !name.contains(['.', '[', ']']);
            match if plain { schema::look_up(&path) } else { Known::Unknown } {
                Known::Unknown => self.unknown(&path, key.span().start),
                found => {
                    if let Some(value) = self.value(value, &path, found) {
                        known.insert(name.to_owned(), value);
                    }
                }
            }
        }
        known
    }

    /// A value whose shape is that of what is known at its path.
    pub(super) fn value(&mut self, value: &Spanned<DeValue<'_>>, path: &str, known: Known) -> Option<Value> {
        let kind = match (known, value.get_ref()) {
            (Known::Table, DeValue::Table(table)) => ValueKind::Table(self.table(table, path)),
            (Known::Table, _) => return self.wrong(path, value, "is a section", &format!("write [{path}]")),
            (Known::Tables, DeValue::Array(items)) => ValueKind::Array(self.tables(items, path)),
            (Known::Tables, _) => {
                return self.wrong(path, value, "is a list of sections", &format!("write [[{path}]]"));
            }
            (Known::Leaf(key), DeValue::Array(items)) if key.kind == Kind::List => {
                ValueKind::Array(items.iter().enumerate().map(|(i, item)| self.item(item, path, i)).collect())
            }
            // Their names mean the same in any case, and arrive in lower case from the environment.
            (Known::Leaf(key), DeValue::Table(table)) if key.kind == Kind::Options => ValueKind::Table(
                table.iter().map(|(name, v)| (name.get_ref().to_ascii_lowercase(), self.plain(v))).collect(),
            ),
            _ => return Some(self.plain(value)),
        };
        Some(self.with_origin(value, kind))
    }

    fn tables<'v>(&mut self, items: impl IntoIterator<Item = &'v Spanned<DeValue<'v>>>, path: &str) -> Vec<Value> {
        items
            .into_iter()
            .enumerate()
            .map(|(i, item)| {
                let path = format!("{path}[{i}]");
                // One that is no table leaves a place, so that those after it keep their index.
                self.value(item, &path, Known::Table).unwrap_or_default()
            })
            .collect()
    }

    /// An element of a list of settings, which may be a table where the known keys say so.
    fn item(&mut self, item: &Spanned<DeValue<'_>>, path: &str, index: usize) -> Value {
        let path = format!("{path}[{index}]");
        match item.get_ref() {
            DeValue::Table(table) if schema::look_up(&path) == Known::Table => {
                let table = self.table(table, &path);
                self.with_origin(item, ValueKind::Table(table))
            }
            _ => self.plain(item),
        }
    }

    /// A value as it stands.
    fn plain(&self, value: &Spanned<DeValue<'_>>) -> Value {
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => ValueKind::I64(number),
                Err(_) => ValueKind::Float(f64::MAX),
            },
            DeValue::Float(number) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
            // A time without quotes means the same as with them.
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Array(items) => ValueKind::Array(items.iter().map(|item| self.plain(item)).collect()),
            DeValue::Table(table) => {
                ValueKind::Table(table.iter().map(|(key, v)| (key.get_ref().to_string(), self.plain(v))).collect())
            }
        };
        self.with_origin(value, kind)
    }

    fn with_origin(&self, value: &Spanned<DeValue<'_>>, kind: ValueKind) -> Value {
        Value::new(Some(&(self.origin)(value.span().start).text()), kind)
    }

    fn wrong(&mut self, path: &str, value: &Spanned<DeValue<'_>>, what: &str, hint: &str) -> Option<Value> {
        self.problem(path, value.span().start, format!("{what}, not a value"), hint.to_owned());
        None
    }

    fn unknown(&mut self, path: &str, at: usize) {
        let nearest = schema::nearest(path);
        self.problem(path, at, "is not a known key".to_owned(), format!("the nearest known one is {nearest}"));
    }

    fn problem(&mut self, key: &str, at: usize, what: String, hint: String) {
        let place = Some((self.origin)(at).place(self.file));
        self.problems.push(ConfigError { key: key.to_owned(), place, what, hint });
    }
}
