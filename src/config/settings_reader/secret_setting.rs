//! Reads secret settings, which are set directly or as the path of a file. No recorded problem
//! quotes a value.

use std::path::PathBuf;

use ::config::{Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};

use super::super::config_error::SettingLocation;
use super::super::secret_file;
use super::{Section, SettingsReader, SourcedValue};

/// A secret, and its file if it came from one.
pub(in crate::config) struct SecretValue {
    pub(in crate::config) value: SecretString,
    pub(in crate::config) file: Option<PathBuf>,
}

impl SettingsReader<'_> {
    /// The key and location of a secret, if it is set directly or by a file.
    pub(in crate::config) fn secret_source(&self, section: &Section<'_>, name: &str) -> Option<SourcedValue<()>> {
        let file = format!("{name}_file");
        [name, &file].into_iter().find_map(|name| self.non_empty(section, name)).map(|given| given.with(()))
    }

    fn non_empty<'v>(&self, section: &Section<'v>, name: &str) -> Option<SourcedValue<&'v Value>> {
        self.raw_value(section, name).filter(|given| match &given.value.kind {
            ValueKind::String(text) => !text.trim().is_empty(),
            ValueKind::Array(items) => !items.is_empty(),
            _ => true,
        })
    }

    /// Reads a secret of one line, set directly or by a file, else the default.
    pub(in crate::config) fn secret(&mut self, section: &Section<'_>, name: &str) -> Option<SourcedValue<SecretValue>> {
        let given = self.multiline_secret(section, name)?;
        match secret_file::require_single_line(given.value.value.clone()) {
            Ok(_) => Some(given),
            Err(what) => self.reject(&given, what, "copy only the secret, on one line"),
        }
    }

    /// Reads a secret of any number of lines, set directly or by a file, else the default.
    pub(in crate::config) fn multiline_secret(
        &mut self,
        section: &Section<'_>,
        name: &str,
    ) -> Option<SourcedValue<SecretValue>> {
        if let Some(file) = self.secret_file_of(section, name)? {
            return self.read_file(&file);
        }
        // An empty value means no secret, not the default.
        let given = match self.raw_value(section, name) {
            Some(_) => self.non_empty(section, name).map(|given| given.with(given.value.clone())),
            None => self.value_or_default(section, name),
        }?;
        let text = self.as_text(&given)?;
        Some(given.with(SecretValue { value: SecretString::from(text), file: None }))
    }

    /// Reads the secret in a file.
    fn read_file(&mut self, given: &SourcedValue<&Value>) -> Option<SourcedValue<SecretValue>> {
        let ValueKind::String(path) = &given.value.kind else {
            return self.reject(given, "is not a path".to_owned(), secret_file::FILE_HINT);
        };
        let path = PathBuf::from(path.trim());
        match secret_file::read_secret(&path) {
            Ok(value) => Some(given.with(SecretValue { value, file: Some(path) })),
            Err(what) => self.reject(given, what, secret_file::FILE_HINT),
        }
    }

    /// The file of a secret, if it comes from one. The environment overrides either form with the
    /// other. Both forms in one source are a problem, for which this returns the outer `None`.
    fn secret_file_of<'v>(&mut self, section: &Section<'v>, name: &str) -> Option<Option<SourcedValue<&'v Value>>> {
        let direct = self.non_empty(section, name);
        let file = self.non_empty(section, &format!("{name}_file"));
        let (Some(direct), Some(file)) = (&direct, &file) else { return Some(file) };
        let from_env = |given: &SourcedValue<&Value>| matches!(given.location, Some(SettingLocation::Variable(_)));
        if from_env(direct) == from_env(file) {
            return self.reject(file, format!("is set together with {}", direct.key), "keep one of the two");
        }
        Some(from_env(file).then(|| file.clone()))
    }

    /// Reads a list of secrets, set directly or by a file with one per line; empty if none is set.
    pub(in crate::config) fn secrets(
        &mut self,
        section: &Section<'_>,
        name: &str,
    ) -> Option<Vec<SourcedValue<SecretString>>> {
        if let Some(file) = self.secret_file_of(section, name)? {
            let content = self.read_file(&file)?;
            let lines = content.value.value.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
            return Some(lines.map(|line| file.with(SecretString::from(line))).collect());
        }
        if self.non_empty(section, name).is_none() {
            return Some(Vec::new());
        }
        self.each(section, name, |reader, item| match &item.value.kind {
            ValueKind::String(text) if text.trim().is_empty() => {
                reader.reject(item, "is empty".to_owned(), "leave it out")
            }
            ValueKind::String(text) => Some(item.with(SecretString::from(text.as_str()))),
            _ => reader.reject(item, "is not text".to_owned(), "write it in quotes"),
        })
    }
}
