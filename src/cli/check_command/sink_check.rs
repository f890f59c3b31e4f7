//! Checks whether each sink can accept events, as far as possible without sending anything.

use std::path::Path;

use rustix::fs::{Access, access};

use super::CheckLine;
use crate::clock::Clock;
use crate::config::{ObjectFormat, Sink, SinkKind};
use crate::sink::SinkError;
use crate::sink::object_store::ObjectStoreSink;
use crate::sink::webhook::WebhookSink;

/// Checks all sinks, with one line each.
pub(super) fn check(sinks: &[Sink], clock: &Clock) -> Vec<CheckLine> {
    sinks.iter().map(|sink| check_sink(&format!("sink {}", sink.name), &sink.kind, clock)).collect()
}

fn check_sink(what: &str, kind: &SinkKind, clock: &Clock) -> CheckLine {
    const NOT_SENT: &str = "nothing is sent during a check; `deliver test` sends a test event";
    match kind {
        SinkKind::Jsonl { path, .. } => check_folder(what, "jsonl", path, "path"),
        SinkKind::Webhook(settings) => match WebhookSink::new(settings, clock.clone()) {
            Ok(_) => CheckLine::ok(what, &format!("webhook: the settings are valid; {NOT_SENT}")),
            Err(error) => CheckLine::failed(what, &format!("webhook: {error}")).with_hint(error.hint.as_deref()),
        },
        SinkKind::ObjectStore { url, format, options } => {
            check_store(what, ObjectStoreSink::new(url, *format, options), NOT_SENT)
        }
        SinkKind::Lake(lake) => {
            check_store(what, ObjectStoreSink::new(&lake.url, ObjectFormat::Parquet, &lake.options), NOT_SENT)
        }
    }
}

fn check_store(what: &str, store: Result<ObjectStoreSink, SinkError>, not_sent: &str) -> CheckLine {
    match store {
        Ok(store) => match store.folder() {
            Some(folder) => check_folder(what, "object store", folder, "url"),
            None => CheckLine::ok(what, &format!("object store: the settings are valid; {not_sent}")),
        },
        Err(error) => CheckLine::failed(what, &format!("object store: {error}")).with_hint(error.hint.as_deref()),
    }
}

fn check_folder(what: &str, kind: &str, path: &Path, key: &str) -> CheckLine {
    match folder_state(path) {
        Ok(found) => CheckLine::ok(what, &format!("{kind}, {}: {found}", path.display())),
        Err(why) => {
            let hint = format!("{key} must name a folder that this user can write to or create");
            CheckLine::failed(what, &format!("{kind}, {}: {why}", path.display())).with_hint(Some(&hint))
        }
    }
}

/// Whether files can be created in the folder, or the folder itself. Creates nothing.
fn folder_state(path: &Path) -> Result<&'static str, String> {
    // The last ancestor of a relative path is empty and stands for the working directory.
    let here = |path: &Path| if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path.to_owned() };
    let found = path.ancestors().map(here).find(|path| path.exists());
    let Some(found) = found else { return Err("the folder does not exist".to_owned()) };
    if !found.is_dir() {
        return Err(format!("{} is not a folder", found.display()));
    }
    match access(&found, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if found == path => Ok("the folder is writable"),
        Ok(()) => Ok("the folder will be created"),
        Err(error) => Err(format!("{} is not writable: {}", found.display(), std::io::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_or_can_be_made_will_do_and_a_file_will_not() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(folder_state(here.path()), Ok("the folder is writable"));
        assert_eq!(folder_state(&here.path().join("a/b")), Ok("the folder will be created"));
        assert!(!here.path().join("a").exists(), "a check creates nothing");
        let file = here.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(folder_state(&file).unwrap_err().ends_with("file is not a folder"));
        assert!(folder_state(&file.join("below")).is_err());
        assert_eq!(folder_state(Path::new("nowhere-near")), Ok("the folder will be created"));
    }
}
