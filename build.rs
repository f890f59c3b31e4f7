//! Tells the program which commit it was built from, and the time of that commit, for `--version`.
//!
//! The same source gives the same program: the time is `SOURCE_DATE_EPOCH` or that of the commit,
//! never that of the build. Without a repository, `RINGCX_COMMIT` or the record that Cargo adds to
//! a published package names the commit. A source without any of these builds too.

use std::path::Path;
use std::process::Command;

/// What decides whether the sources are those of the commit.
const SOURCES: [&str; 6] = ["src", "crates", "migrations", "Cargo.toml", "Cargo.lock", "build.rs"];

fn main() {
    println!("cargo::rerun-if-env-changed=RINGCX_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    // A debug build stays as it is when only the commit changes, so that tests are not built again.
    if variable("PROFILE").as_deref() == Some("release") {
        for path in SOURCES.into_iter().map(str::to_owned).chain(git(&["rev-parse", "--git-path", "logs/HEAD"])) {
            if Path::new(&path).exists() {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    let commit = variable("RINGCX_COMMIT").or_else(commit_of_package).or_else(commit_of_repository);
    let time = variable("SOURCE_DATE_EPOCH").or_else(|| git(&["log", "-1", "--format=%ct"]));
    println!("cargo::rustc-env=RINGCX_BUILD_COMMIT={}", commit.unwrap_or_default());
    println!("cargo::rustc-env=RINGCX_BUILD_EPOCH={}", time.unwrap_or_default());
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The commit in `.cargo_vcs_info.json`, which Cargo adds to a package.
fn commit_of_package() -> Option<String> {
    let record = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let commit = record.split_once("\"sha1\": \"")?.1.split_once('"')?.0;
    Some(commit.chars().take(12).collect())
}

fn commit_of_repository() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    status.extend(SOURCES);
    Some(if git(&status).is_some() { format!("{commit}-modified") } else { commit })
}

/// The output of a git command, if it is not empty. A repository around this folder is another
/// project's.
fn git(arguments: &[&str]) -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
