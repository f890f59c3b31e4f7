//! Problems with the settings: one [`ConfigError`] per problem, and all of them in
//! [`ConfigErrors`].
//!
//! Pure. Each message names the key, the file and line or the environment variable, and a correct
//! form. The code that creates a problem never quotes the value of a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// The location of a setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingLocation {
    /// A line of the file, counted from 1.
    Line(PathBuf, usize),
    /// The file, if the line is unknown or the setting is missing.
    File(PathBuf),
    /// The environment variable with this name.
    Variable(String),
}

impl SettingLocation {
    /// Converts the origin that the `config` crate keeps of a value: a line number or the name of a
    /// variable.
    pub(super) fn of_origin(origin: &str, file: Option<&Path>) -> SettingLocation {
        match (origin.parse(), file) {
            (Ok(line), Some(file)) => SettingLocation::Line(file.to_path_buf(), line),
            _ => SettingLocation::Variable(origin.to_owned()),
        }
    }
}

impl fmt::Display for SettingLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingLocation::Line(file, line) => write!(f, "{}:{line}", file.display()),
            SettingLocation::File(file) => write!(f, "{}", file.display()),
            SettingLocation::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One problem with one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The path of the setting, such as `discovery.window` or `accounts[0].name`; empty if the
    /// problem is not about a single setting.
    pub(crate) key: String,
    /// Where the setting was found; `None` if it is missing.
    pub(crate) location: Option<SettingLocation>,
    /// What is wrong. Never the value of a secret.
    pub(crate) what: String,
    /// How to correct it.
    pub(crate) hint: String,
}

impl ConfigError {
    pub(super) fn new(key: &str, location: Option<SettingLocation>, what: impl Into<String>, hint: &str) -> Self {
        ConfigError { key: key.to_owned(), location, what: what.into(), hint: hint.to_owned() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.location) {
            ("", None) => {}
            ("", Some(location)) => write!(f, "{location}: ")?,
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(location)) => write!(f, "{key} ({location}): ")?,
        }
        write!(f, "{}\n  hint: {}", self.what, self.hint)
    }
}

impl std::error::Error for ConfigError {}

/// All problems with the settings; never empty. Leads to exit status 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "failed to load the settings:")?,
            n => writeln!(f, "failed to load the settings, {n} problems:")?,
        }
        for problem in &self.0 {
            write!(f, "\n{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(problem: ConfigError) -> ConfigErrors {
        ConfigErrors(vec![problem])
    }
}

/// Quotes a value for a message: in quotes, with control characters escaped, and truncated if it is
/// long.
pub(super) fn quoted(value: &str) -> String {
    const MAX_QUOTED_CHARS: usize = 60;
    if value.chars().count() <= MAX_QUOTED_CHARS {
        return format!("{value:?}");
    }
    format!("{:?}…", value.chars().take(MAX_QUOTED_CHARS).collect::<String>())
}
