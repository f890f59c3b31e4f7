//! Whether each sink could take what it is sent, as far as that is known without sending anything.

use std::path::Path;

use rustix::fs::{Access, access};

use super::Line;
use crate::config::{Sink, SinkKind};

/// A line each.
pub(super) fn check(sinks: &[Sink]) -> Vec<Line> {
    sinks.iter().map(|sink| one(&format!("sink {}", sink.name), &sink.kind)).collect()
}

fn one(what: &str, kind: &SinkKind) -> Line {
    const LATER: &str = "not tried, since nothing is sent for a check; `deliver status` tells once the daemon runs";
    match kind {
        SinkKind::Jsonl { path, .. } => match folder(path) {
            Ok(found) => Line::good(what, &format!("jsonl, {}: {found}", path.display())),
            Err(why) => Line::bad(
                what,
                &format!(
                    "jsonl, {}: {why}\nhint: path names a folder that this user may write to, or make",
                    path.display()
                ),
            ),
        },
        SinkKind::Webhook { .. } => Line::good(what, &format!("webhook: {LATER}")),
        SinkKind::ObjectStore { .. } => Line::good(what, &format!("object store: {LATER}")),
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
