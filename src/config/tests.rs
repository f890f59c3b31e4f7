//! Loading as a whole: files in temporary folders, the environment as an argument.

mod access;
mod environment;
mod lake;
mod lookup;
mod mistakes;
mod sample;
mod secrets;
mod values;

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// The minimal valid file.
const MINIMAL: &str = r#"
[auth]
api_token = "token"
[[accounts]]
rc_account_id = "1"
sub_account_id = "2"
"#;

/// A settings file in a temporary folder.
struct TestFile {
    folder: TempDir,
}

impl TestFile {
    fn new(text: &str) -> TestFile {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("local.toml"), text).unwrap();
        TestFile { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("local.toml")
    }

    /// Writes another file in the folder.
    fn write_sibling(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<LoadedSettings, ConfigErrors> {
        load_from(LoadScope::All, Some(&self.path()), vars(env), &[])
    }
}

fn vars(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<LoadedSettings, ConfigErrors> {
    TestFile::new(text).load(env)
}

/// Loads the minimal file with more text.
fn settings(more: &str, env: &[(&str, &str)]) -> Settings {
    load_text(&format!("{MINIMAL}{more}"), env).unwrap_or_else(|errors| panic!("{errors}")).settings
}

/// The problems as printed, without the folder.
fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let file = TestFile::new(text);
    let errors = file.load(env).unwrap_err();
    assert!(!errors.0.is_empty());
    let folder = format!("{}/", file.folder.path().display());
    errors.0.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
}

/// The only problem of the minimal file with more text.
fn problem(more: &str) -> String {
    let mut all = problems(&format!("{MINIMAL}{more}"), &[]);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}
