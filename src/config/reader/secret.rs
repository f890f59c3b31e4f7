//! Secrets among the settings: given themselves, or by the path of a file.
//!
//! Reads such files. No problem that is noted here quotes a value.

use std::path::PathBuf;

use ::config::{Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};

use super::super::problem::Place;
use super::super::secret;
use super::{Given, Reader, Section};

/// A secret, and the file that it came from.
pub(in crate::config) struct Secret {
    pub(in crate::config) value: SecretString,
    pub(in crate::config) file: Option<PathBuf>,
}

impl Reader<'_> {
    /// Whether a secret is given, itself or by its file; with where.
    pub(in crate::config) fn secret_given(&self, section: &Section<'_>, name: &str) -> Option<Given<()>> {
        let file = format!("{name}_file");
        [name, &file].into_iter().find_map(|name| self.not_empty(section, name)).map(|given| given.with(()))
    }

    fn not_empty<'v>(&self, section: &Section<'v>, name: &str) -> Option<Given<&'v Value>> {
        self.raw(section, name).filter(|given| match &given.value.kind {
            ValueKind::String(text) => !text.trim().is_empty(),
            ValueKind::Array(items) => !items.is_empty(),
            _ => true,
        })
    }

    /// A secret of one line, given itself or by its file, else the default.
    pub(in crate::config) fn secret(&mut self, section: &Section<'_>, name: &str) -> Option<Given<Secret>> {
        let given = self.secret_of_any_form(section, name)?;
        match secret::one_line(given.value.value.clone()) {
            Ok(_) => Some(given),
            Err(what) => self.refuse(&given, what, "copy it again, alone and on one line"),
        }
    }

    /// A secret of any number of lines, given itself or by its file, else the default.
    pub(in crate::config) fn secret_of_any_form(&mut self, section: &Section<'_>, name: &str) -> Option<Given<Secret>> {
        if let Some(file) = self.file_of(section, name)? {
            return self.in_file(&file);
        }
        // A key given as empty means that there is none, not that the default is wanted.
        let given = match self.raw(section, name) {
            Some(_) => self.not_empty(section, name).map(|given| given.with(given.value.clone())),
            None => self.given(section, name),
        }?;
        let text = self.as_text(&given)?;
        Some(given.with(Secret { value: SecretString::from(text), file: None }))
    }

    /// The secret in a file.
    fn in_file(&mut self, given: &Given<&Value>) -> Option<Given<Secret>> {
        let ValueKind::String(path) = &given.value.kind else {
            return self.refuse(given, "is not a path".to_owned(), secret::FILE_HINT);
        };
        let path = PathBuf::from(path.trim());
        match secret::from_file(&path) {
            Ok(value) => Some(given.with(Secret { value, file: Some(path) })),
            Err(what) => self.refuse(given, what, secret::FILE_HINT),
        }
    }

    /// The file to take a secret from, if any: the environment overrides either form with the other. Both from one
    /// source are a problem, and then the outer `None`.
    fn file_of<'v>(&mut self, section: &Section<'v>, name: &str) -> Option<Option<Given<&'v Value>>> {
        let itself = self.not_empty(section, name);
        let file = self.not_empty(section, &format!("{name}_file"));
        let (Some(itself), Some(file)) = (&itself, &file) else { return Some(file) };
        let from_env = |given: &Given<&Value>| matches!(given.place, Some(Place::Variable(_)));
        if from_env(itself) == from_env(file) {
            return self.refuse(file, format!("is given together with {}", itself.key), "keep one of the two");
        }
        Some(from_env(file).then(|| file.clone()))
    }

    /// A list of secrets, given itself or by a file with one a line; empty where there is none.
    pub(in crate::config) fn secrets(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<Given<SecretString>>> {
        if let Some(file) = self.file_of(section, name)? {
            let content = self.in_file(&file)?;
            let lines = content.value.value.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
            return Some(lines.map(|line| file.with(SecretString::from(line))).collect());
        }
        if self.not_empty(section, name).is_none() {
            return Some(Vec::new());
        }
        self.each(section, name, |reader, item| match &item.value.kind {
            ValueKind::String(text) if text.trim().is_empty() => {
                reader.refuse(item, "is empty".to_owned(), "leave it out")
            }
            ValueKind::String(text) => Some(item.with(SecretString::from(text.as_str()))),
            _ => reader.refuse(item, "is not text".to_owned(), "write it in quotes"),
        })
    }
}
