//! Collects the problems and warnings, each with the place of its setting. No problem quotes a
//! secret.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::config::{Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};

use super::config_error::{ConfigError, SettingLocation, quoted};
use super::schema;
use super::secret::{self, FILE_HINT, Secret};
use super::setting_types::{Id, List, SecretText, Text};

/// What the settings are loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadScope {
    /// Everything: a login and accounts are required.
    All,
    /// To read the archive: neither login nor accounts are required, and no secret but the
    /// database's is needed.
    Archive,
}

/// The only secret that reading the archive needs.
const DATABASE_URL: &str = "database.url";

/// The problems and warnings of the merged settings.
pub(super) struct Checker<'a> {
    pub(super) scope: LoadScope,
    /// The merged settings; the origin of a value is a line or a variable.
    pub(super) merged: &'a Value,
    pub(super) file: Option<&'a Path>,
    pub(super) problems: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
    /// Secrets whose files cannot be read, and that the scope does not need.
    pub(super) unreadable: BTreeSet<String>,
}

impl Checker<'_> {
    fn value(&self, path: &str) -> Option<&Value> {
        schema::steps(path)
            .try_fold(self.merged, |value, step| match &value.kind {
                ValueKind::Table(table) => table.get(step),
                ValueKind::Array(items) => items.get(step.parse::<usize>().ok()?),
                _ => None,
            })
            .filter(|value| !matches!(value.kind, ValueKind::Nil))
    }

    /// Whether the setting is set, even if it is empty.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.value(path).is_some()
    }

    /// Whether the setting is set to something that is not empty.
    pub(super) fn is_filled(&self, path: &str) -> bool {
        self.value(path).is_some_and(|value| match &value.kind {
            ValueKind::String(text) => !text.trim().is_empty(),
            ValueKind::Array(items) => !items.is_empty(),
            _ => true,
        })
    }

    /// The place of a setting; if it is missing, that of its section.
    pub(super) fn place(&self, path: &str) -> Option<SettingLocation> {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        let value = self.value(path).or_else(|| self.value(parent));
        match value.and_then(Value::origin) {
            Some(origin) => Some(SettingLocation::of_origin(origin, self.file)),
            None => self.file.map(|file| SettingLocation::File(file.to_path_buf())),
        }
    }

    pub(super) fn is_from_environment(&self, path: &str) -> bool {
        matches!(self.place(path), Some(SettingLocation::Variable(_)))
    }

    /// Records a problem with a setting.
    pub(super) fn reject(&mut self, path: &str, what: impl Into<String>, hint: &str) {
        self.problems.push(ConfigError::new(path, self.place(path), what, hint));
    }

    /// Records a problem that has no place.
    pub(super) fn reject_absent(&mut self, path: &str, what: &str, hint: &str) {
        self.problems.push(ConfigError::new(path, None, what, hint));
    }

    /// Whether a problem with this setting, an element of it, or its file has been recorded.
    pub(super) fn has_problem(&self, path: &str) -> bool {
        let is_part = |rest: &str| ["", "_file"].contains(&rest) || rest.starts_with('[');
        self.problems.iter().any(|problem| problem.key.strip_prefix(path).is_some_and(is_part))
    }

    /// Records a warning about a setting.
    pub(super) fn warn(&mut self, path: &str, what: &str) {
        let place = self.place(path).filter(|_| self.is_set(path)).map(|place| format!(" ({place})"));
        self.warnings.push(format!("{path}{}: {what}", place.unwrap_or_default()));
    }

    /// Records a problem with an invalid value; returns the valid one.
    pub(super) fn accept<T>(&mut self, path: &str, result: Result<T, String>, hint: &str) -> Option<T> {
        result.map_err(|what| self.reject(path, what, hint)).ok()
    }

    /// Returns a required value. A missing one is a problem, unless it has one already.
    pub(super) fn require<T>(&mut self, path: &str, value: Option<T>, hint: &str) -> Option<T> {
        if value.is_none() && !self.has_problem(path) && !self.unreadable.contains(path) {
            self.reject(path, if self.is_set(path) { "is empty" } else { "is missing" }, hint);
        }
        value
    }

    /// Builds each section of a list. A section that is `None` has a problem, or was left out by
    /// variables with a higher index.
    pub(super) fn each_section<S, T>(
        &mut self,
        name: &str,
        sections: Vec<Option<S>>,
        mut build: impl FnMut(S, &str, &mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut built = Vec::new();
        for (i, section) in sections.into_iter().enumerate() {
            let path = format!("{name}[{i}]");
            let is_rejected = self.has_problem(&path);
            if section.is_none() && !is_rejected {
                let hint = format!("number the entries from 0 without leaving out {i}");
                self.reject_absent(&path, "is missing, but an entry with a higher index is set", &hint);
            }
            built.push(section.filter(|_| !is_rejected).and_then(|section| build(section, &path, self)));
        }
        // A sink whose secret cannot be read is left out.
        if self.scope == LoadScope::Archive && name == "sinks" {
            return Some(built.into_iter().flatten().collect());
        }
        built.into_iter().collect()
    }

    /// Rejects a value that another section has; `seen` has the section of each value.
    pub(super) fn unique(
        &mut self,
        path: &str,
        value: String,
        section: &str,
        seen: &mut BTreeMap<String, String>,
        hint: &str,
    ) -> Option<String> {
        if let Some(first) = seen.get(&value) {
            self.reject(path, format!("{} is also used by {first}", quoted(&value)), hint);
            return None;
        }
        seen.insert(value.clone(), section.to_owned());
        Some(value)
    }

    /// Returns the texts of a list, none of which may be empty.
    pub(super) fn texts(&mut self, path: &str, texts: List<Id>) -> BTreeSet<String> {
        let texts = texts.0.into_iter().enumerate().filter_map(|(i, id)| {
            if id.0.is_none() {
                self.reject(&format!("{path}[{i}]"), "is empty", "leave it out");
            }
            id.0
        });
        texts.collect()
    }

    /// Returns a secret of one line.
    pub(super) fn secret(&mut self, path: &str, direct: Option<SecretText>, file: Text) -> Option<Secret> {
        let secret = self.multiline_secret(path, direct, file)?;
        match secret::require_single_line(secret.value.clone()) {
            Ok(_) => Some(secret),
            Err(what) => {
                self.reject(&secret.source(path), what, "copy only the secret, on one line");
                None
            }
        }
    }

    /// Returns a secret, which is set directly or by a file. Empty ones count as not set.
    pub(super) fn multiline_secret(&mut self, path: &str, direct: Option<SecretText>, file: Text) -> Option<Secret> {
        let direct = direct.map(|secret| secret.0).filter(|secret| !secret.expose_secret().trim().is_empty());
        match self.secret_file(path, direct.is_some(), file)? {
            Some(file) => {
                let key = format!("{path}_file");
                let read = secret::read_file(&file);
                if read.is_err() && self.scope == LoadScope::Archive && path != DATABASE_URL {
                    self.unreadable.insert(path.to_owned());
                    return None;
                }
                let value = self.accept(&key, read, FILE_HINT)?;
                Some(Secret { value, file: Some((key, file)) })
            }
            None => direct.map(|value: SecretString| Secret { value, file: None }),
        }
    }

    /// The file of a secret, if it comes from one. The environment overrides either form with the
    /// other. Both forms in one source are a problem, for which this returns the outer `None`.
    pub(super) fn secret_file(&mut self, path: &str, is_direct: bool, file: Text) -> Option<Option<PathBuf>> {
        let Some(file) = file.0 else { return Some(None) };
        let file_key = format!("{path}_file");
        let from_environment = self.is_from_environment(&file_key);
        if is_direct && self.is_from_environment(path) == from_environment {
            self.reject(&file_key, format!("is set together with {path}"), "keep one of the two");
            return None;
        }
        Some(Some(PathBuf::from(file)).filter(|_| !is_direct || from_environment))
    }
}
