//! Secrets, and the files that they come from. No message contains any content of a file.

use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::config_error::ConfigError;

/// The hint for a file that could not be used.
pub(super) const FILE_HINT: &str =
    "give the path of a readable file that contains only the secret (a newline at the end is removed)";

/// The largest secret, so that a path such as `/dev/zero` cannot exhaust memory.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// A secret, and the setting and path of its file if it came from one.
#[derive(Debug, Clone)]
pub(crate) struct Secret {
    pub(crate) value: SecretString,
    pub(super) file: Option<(String, PathBuf)>,
}

impl ExposeSecret<str> for Secret {
    fn expose_secret(&self) -> &str {
        self.value.expose_secret()
    }
}

impl Secret {
    /// Reads a secret of one line again if it came from a file.
    pub(super) fn reload(&mut self) -> Result<(), ConfigError> {
        let Some((key, file)) = &self.file else { return Ok(()) };
        let value = read_file(file).and_then(require_single_line);
        self.value = value.map_err(|what| ConfigError::new(key, None, what, FILE_HINT))?;
        Ok(())
    }

    /// The setting that the secret came from: `key` itself, or its file.
    pub(super) fn source(&self, key: &str) -> String {
        self.file.as_ref().map_or(key, |(file_key, _)| file_key).to_owned()
    }
}

/// Reads a secret and removes one newline at its end.
///
/// # Errors
/// Returns the reason why the file cannot be used.
pub(super) fn read_file(path: &Path) -> Result<SecretString, String> {
    let failed = |why: &str| format!("failed to read {}: {why}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error.to_string()))?;
    file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text).map_err(|error| failed(&error.to_string()))?;
    if text.len() as u64 > MAX_SECRET_BYTES {
        return Err(failed("it is larger than 1 MiB, so it is not a secret"));
    }
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(failed("it is empty"));
    }
    Ok(SecretString::from(secret))
}

/// Checks that a secret is a single line. Headers and forms cannot contain line breaks, so other
/// text was copied with it.
///
/// # Errors
/// Returns the problem without the value.
pub(super) fn require_single_line(secret: SecretString) -> Result<SecretString, String> {
    if secret.expose_secret().chars().any(char::is_control) {
        return Err("contains a line break or another control character".to_owned());
    }
    Ok(secret)
}
