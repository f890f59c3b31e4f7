//! Exports the manifests to a file for auditors, signs it with the operator's key, and has a
//! time-stamp authority date it. Each can be checked without this program: see docs/proof.md.
//!
//! Whoever owns the database and the key can rewrite the past and sign it, but gets no time stamp
//! of an earlier day for it.

mod signing_key;
mod time_stamp;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub(crate) use signing_key::SigningKey;
pub(crate) use time_stamp::{parse_authority, time_stamp_file};

use crate::clock::Time;
use crate::db::AccountChain;
use crate::export::Target;
use crate::verify;

/// Added to the name of the export.
pub(crate) const SIGNATURE_SUFFIX: &str = ".sig";
/// Added to the name of the export.
pub(crate) const TIME_STAMP_SUFFIX: &str = ".tsr";

/// Writes all manifests and heads of these accounts as JSON lines; returns the number of lines.
///
/// # Errors
/// If the file cannot be written. An existing file is then unchanged.
pub(crate) fn write_manifests(path: &Path, chains: &[AccountChain], now: Time) -> anyhow::Result<u64> {
    let mut target = Target::file(path)?;
    let mut count = 0;
    for line in chains.iter().flat_map(|chain| verify::manifest_lines(chain, now)) {
        let text = serde_json::to_string(&line)?;
        writeln!(target, "{text}").with_context(|| format!("failed to write {}", path.display()))?;
        count += 1;
    }
    target.finish()?;
    Ok(count)
}

/// The file beside this one whose name has this ending added.
pub(crate) fn sibling(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
