//! Whether each sink could take what it is sent, as far as that is known without sending anything.

use std::path::Path;

use rustix::fs::{Access, access};

use super::Line;
use crate::clock::Clock;
use crate::config::{Sink, SinkKind};
use crate::sink::object_store::ObjectStoreSink;
use crate::sink::webhook::WebhookSink;

/// A line each.
pub(super) fn check(sinks: &[Sink], clock: &Clock) -> Vec<Line> {
    sinks.iter().map(|sink| one(&format!("sink {}", sink.name), &sink.kind, clock)).collect()
}

fn one(what: &str, kind: &SinkKind, clock: &Clock) -> Line {
    const LATER: &str = "nothing is sent for a check; `deliver status` tells more once the daemon runs";
    match kind {
        SinkKind::Jsonl { path, .. } => written(what, "jsonl", path, "path"),
        SinkKind::Webhook { url, secrets, timeout, allow_private } => {
            match WebhookSink::new(url, secrets, *timeout, *allow_private, clock.clone()) {
                Ok(_) => Line::good(what, &format!("webhook: its settings can be used; {LATER}")),
                Err(error) => Line::bad(what, &format!("webhook: {error}")),
            }
        }
        SinkKind::ObjectStore { url, format, options } => match ObjectStoreSink::new(url, *format, options) {
            Ok(store) => match store.folder() {
                Some(folder) => written(what, "object store", folder, "url"),
                None => Line::good(what, &format!("object store: its settings can be used; {LATER}")),
            },
            Err(error) => Line::bad(what, &format!("object store: {error}")),
        },
    }
}

fn written(what: &str, kind: &str, path: &Path, key: &str) -> Line {
    match folder(path) {
        Ok(found) => Line::good(what, &format!("{kind}, {}: {found}", path.display())),
        Err(why) => Line::bad(
            what,
            &format!(
                "{kind}, {}: {why}\nhint: {key} names a folder that this user may write to, or make",
                path.display()
            ),
        ),
    }
}

/// Whether files can be made in the folder, or the folder itself; makes nothing.
fn folder(path: &Path) -> Result<&'static str, String> {
    // A relative path ends in the empty one, which is the working directory.
    let here = |path: &Path| if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path.to_owned() };
    let found = path.ancestors().map(here).find(|path| path.exists());
    let Some(found) = found else { return Err("there is no such folder".to_owned()) };
    if !found.is_dir() {
        return Err(format!("{} is not a folder", found.display()));
    }
    match access(&found, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if found == path => Ok("the folder can be written to"),
        Ok(()) => Ok("the folder will be made"),
        Err(error) => Err(format!("{} cannot be written to: {}", found.display(), std::io::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_or_can_be_made_will_do_and_a_file_will_not() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(folder(here.path()), Ok("the folder can be written to"));
        assert_eq!(folder(&here.path().join("a/b")), Ok("the folder will be made"));
        assert!(!here.path().join("a").exists(), "a check makes nothing");
        let file = here.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(folder(&file).unwrap_err().ends_with("file is not a folder"));
        assert!(folder(&file.join("below")).is_err());
        assert_eq!(folder(Path::new("nowhere-near")), Ok("the folder will be made"));
    }
}
