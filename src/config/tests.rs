//! Loading as a whole: files in temporary folders, the environment as an argument.

mod environment;
mod lookup;
mod mistakes;
mod sample;
mod secrets;
mod values;

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// What every legal file needs.
const LEAST: &str = r#"
[auth]
api_token = "token"
[[accounts]]
rc_account_id = "1"
sub_account_id = "2"
"#;

/// A file in a folder of its own.
struct File {
    folder: TempDir,
}

impl File {
    fn new(text: &str) -> File {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("local.toml"), text).unwrap();
        File { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("local.toml")
    }

    /// A file beside it.
    fn beside(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
        load_from(Some(&self.path()), vars(env), &[])
    }
}

fn vars(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    File::new(text).load(env)
}

/// What is legal on top of the least.
fn settings(more: &str, env: &[(&str, &str)]) -> Settings {
    load_text(&format!("{LEAST}{more}"), env).unwrap_or_else(|errors| panic!("{errors}")).settings
}

/// The problems as they are printed, without the folder.
fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let file = File::new(text);
    let errors = file.load(env).unwrap_err();
    assert!(!errors.0.is_empty());
    let folder = format!("{}/", file.folder.path().display());
    errors.0.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
}

/// The one problem that comes of this on top of the least.
fn problem(more: &str) -> String {
    let mut all = problems(&format!("{LEAST}{more}"), &[]);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}
