//! `[recordings]`: the store of recordings.

use std::path::{Path, PathBuf};

use super::super::checker::Checker;
use super::super::settings::{Accounts, Database, DatabaseUrl, RecordingPlace, RecordingSettings, Sink};
use super::super::settings_document::{MAX_RECORDING_BYTES, RecordingsSection};
use super::{sink_settings, url};
use crate::model::Artifact;

const STORE: &str = "recordings.store";
const STORE_HINT: &str = r#"give "file:recordings", "file:///absolute/path", "s3://bucket/prefix", "gs://bucket/prefix" or "az://container/prefix""#;

/// The folder if no store is set: beside the SQLite file, or in the working directory.
const DEFAULT_FOLDER: &str = "recordings";

/// Builds the settings of the store.
pub(super) fn build_recordings(
    section: RecordingsSection,
    database: &Database,
    checker: &mut Checker<'_>,
) -> Option<RecordingSettings> {
    let options = sink_settings::build_secret_values("recordings.options", section.options, checker);
    let store = match section.store.0 {
        Some(text) => checker.accept(STORE, parse_store(&text), STORE_HINT),
        None => Some(RecordingPlace::Folder(default_folder(database))),
    };
    if matches!(store, Some(RecordingPlace::Folder(_))) && !options.is_empty() {
        checker.warn("recordings.options", "has no effect: the store is a folder");
    }
    if !(1..=MAX_RECORDING_BYTES).contains(&section.max_bytes) {
        let hint = format!("give a number of bytes from 1 to {MAX_RECORDING_BYTES}");
        checker.reject("recordings.max_bytes", format!("{} is out of range", section.max_bytes), &hint);
    }
    Some(RecordingSettings { store: store?, options, format: section.format, max_bytes: section.max_bytes })
}

/// Warns if several replicas may each have a folder of their own.
pub(super) fn warn_about_local_folder(
    accounts: &Accounts,
    database: &Database,
    recordings: &RecordingSettings,
    checker: &mut Checker<'_>,
) {
    let policies: Vec<_> = match accounts {
        Accounts::Listed(listed) => listed.iter().map(|account| account.policy).collect(),
        Accounts::Discovered(discovered) => vec![discovered.policy],
    };
    let wants = policies.iter().any(|policy| policy.wants.artifacts.contains(Artifact::Recording));
    let is_local = matches!(recordings.store, RecordingPlace::Folder(_));
    if wants && is_local && matches!(database.url, DatabaseUrl::Postgres(_)) {
        let what = "is a folder, and the database is Postgres: every replica and command needs this same folder";
        checker.warn(STORE, what);
    }
}

/// Rejects links to recordings in a folder.
pub(super) fn check_recording_links(sinks: &[Sink], recordings: &RecordingSettings, checker: &mut Checker<'_>) {
    if matches!(recordings.store, RecordingPlace::Bucket(_)) {
        return;
    }
    for (i, _) in sinks.iter().enumerate().filter(|(_, sink)| sink.recording_url_expiry.is_some()) {
        let what = "is set, but recordings.store is a folder, which has no links";
        let path = format!("sinks[{i}].recording_url_expiry");
        checker.reject(&path, what, "set recordings.store to a bucket, or remove the setting");
    }
}

fn default_folder(database: &Database) -> PathBuf {
    match &database.url {
        DatabaseUrl::Sqlite(file) => file.parent().unwrap_or(Path::new("")).join(DEFAULT_FOLDER),
        DatabaseUrl::Postgres(_) => PathBuf::from(DEFAULT_FOLDER),
    }
}

fn parse_store(text: &str) -> Result<RecordingPlace, String> {
    let Some(rest) = text.strip_prefix("file:") else {
        return url::parse_object_store_url(text).map(RecordingPlace::Bucket);
    };
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("has two slashes after file: write none for a relative path, or three".to_owned()),
        None => rest,
    };
    if path.trim_end_matches('/').is_empty() {
        return Err("names no folder".to_owned());
    }
    Ok(RecordingPlace::Folder(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_folder_or_a_bucket() {
        let folder = |path: &str| Ok(RecordingPlace::Folder(PathBuf::from(path)));
        assert_eq!(parse_store("file:recordings"), folder("recordings"));
        assert_eq!(parse_store("file:/var/audio"), folder("/var/audio"));
        assert_eq!(parse_store("file:///var/audio"), folder("/var/audio"));
        assert_eq!(parse_store("s3://bucket/a"), Ok(RecordingPlace::Bucket("s3://bucket/a".to_owned())));
        for wrong in ["", "recordings", "file:", "file:/", "file://host/x", "s3://", "s3://k:s@b", "ftp://x"] {
            assert!(parse_store(wrong).is_err(), "{wrong}");
        }
    }
}
