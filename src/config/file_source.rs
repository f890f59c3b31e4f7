//! The settings file: where it is, and its format for the `config` crate.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::config::{FileStoredFormat, Format, Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::config_error::{ConfigError, ConfigErrors, SettingLocation};

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

/// TOML for the `config` crate. Its own format stops at the first syntax error and records no
/// lines; here the origin of each value is its line.
#[derive(Debug, Clone)]
pub(super) struct LinedToml(pub(super) PathBuf);

impl Format for LinedToml {
    fn parse(&self, _: Option<&String>, text: &str) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let problems = errors.iter().map(|error| {
                let location = match error.span() {
                    Some(span) => SettingLocation::Line(self.0.clone(), line_of(span.start)),
                    None => SettingLocation::File(self.0.clone()),
                };
                // Only the message: the `Display` form quotes the line, which may contain a secret.
                let what = format!("is not TOML: {}", error.message());
                let hint = "write text in quotes, lists in brackets, and each key only once";
                ConfigError::new("", Some(location), what, hint)
            });
            return Err(Box::new(ConfigErrors(problems.collect())));
        }
        Ok(convert_table(table.get_ref(), false, &|at| line_of(at).to_string()))
    }
}

impl FileStoredFormat for LinedToml {
    fn file_extensions(&self) -> &'static [&'static str] {
        &["toml"]
    }
}

fn convert_table(table: &DeTable<'_>, ignore_case: bool, origin: &dyn Fn(usize) -> String) -> Map<String, Value> {
    let entries = table.iter().map(|(key, value)| {
        let name = if ignore_case { key.get_ref().to_ascii_lowercase() } else { key.get_ref().to_string() };
        // The names of options are case-insensitive; the environment has them in lower case.
        let value = convert_value(value, name == "options", key.span().start, origin);
        (name, value)
    });
    entries.collect()
}

/// Converts parsed TOML; `origin` describes the place of an offset.
pub(super) fn convert_value(
    value: &Spanned<DeValue<'_>>,
    ignore_case: bool,
    at: usize,
    origin: &dyn Fn(usize) -> String,
) -> Value {
    // A number that does not fit becomes one that no setting accepts.
    let kind = match value.get_ref() {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(f64::MAX.into(), ValueKind::I64)
        }
        DeValue::Float(number) => {
            ValueKind::Float(number.as_str().parse().ok().filter(|number: &f64| number.is_finite()).unwrap_or(f64::MAX))
        }
        DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
        // A time without quotes is equivalent to one with quotes.
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => {
            ValueKind::Array(items.iter().map(|item| convert_value(item, false, item.span().start, origin)).collect())
        }
        DeValue::Table(table) => ValueKind::Table(convert_table(table, ignore_case, origin)),
    };
    Value::new(Some(&origin(at)), kind)
}
