//! Secrets that stand in a file of their own.
//!
//! Reads such files, and nothing else. No message of it holds any of what a file contains.

use std::io::Read;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

/// What to do about a file that could not be used.
pub(super) const FILE_HINT: &str =
    "give the path of a readable file that holds the secret and nothing else (a newline at the end is dropped)";

/// More than any secret takes; keeps a path such as `/dev/zero` from filling memory.
const LARGEST: u64 = 1 << 20;

/// The file's content without one newline at its end.
///
/// # Errors
/// Says why the file cannot be used.
pub(super) fn from_file(path: &Path) -> Result<SecretString, String> {
    let failed = |why: &str| format!("failed to read {}: {why}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error.to_string()))?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| failed(&error.to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(failed("it is larger than 1 MiB, so it is no secret"));
    }
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(failed("it is empty"));
    }
    Ok(SecretString::from(secret))
}

/// The secret, if it is one line: what goes into a header or a form cannot hold line breaks, and one that does was
/// copied with something beside it.
///
/// # Errors
/// Says what is wrong, without quoting.
pub(super) fn one_line(secret: SecretString) -> Result<SecretString, String> {
    if secret.expose_secret().chars().any(char::is_control) {
        return Err("holds a line break or another control character".to_owned());
    }
    Ok(secret)
}
