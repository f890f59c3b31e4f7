//! What is wrong with the settings, and where: one [`ConfigError`] a problem, all of them at once in [`ConfigErrors`].
//!
//! Touches nothing. Guarantees that whatever is printed names the key, the file and line or the environment variable,
//! and what would be right; whoever builds a problem never quotes the value of a secret.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, counted from 1.
    Line(PathBuf, usize),
    /// The file, where the line is not known or the setting is missing.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(file, line) => write!(f, "{}:{line}", file.display()),
            Place::File(file) => write!(f, "{}", file.display()),
            Place::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One problem with one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the setting, such as `discovery.window` or `accounts[0].name`; empty if it concerns no single one.
    pub key: String,
    /// Where it was found; `None` if nowhere.
    pub place: Option<Place>,
    /// What is wrong. Never the value of a secret.
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.place) {
            ("", None) => {}
            ("", Some(place)) => write!(f, "{place}: ")?,
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(place)) => write!(f, "{key} ({place}): ")?,
        }
        write!(f, "{}\n  hint: {}", self.what, self.hint)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with the settings; never empty. Calls for exit status 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

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

/// A value as a message may quote it: in quotes, control characters escaped, cut where it grows long.
pub(super) fn quoted(value: &str) -> String {
    const LONGEST: usize = 60;
    if value.chars().count() <= LONGEST {
        return format!("{value:?}");
    }
    format!("{:?}…", value.chars().take(LONGEST).collect::<String>())
}
