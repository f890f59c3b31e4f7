//! Reads secrets from files. No message contains any content of a file.

use std::io::Read;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

/// The hint for a file that could not be used.
pub(super) const FILE_HINT: &str =
    "give the path of a readable file that contains only the secret (a newline at the end is removed)";

/// The largest secret, so that a path such as `/dev/zero` cannot exhaust memory.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Reads a secret and removes one newline at its end.
///
/// # Errors
/// Returns the reason why the file cannot be used.
pub(super) fn read_secret(path: &Path) -> Result<SecretString, String> {
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
