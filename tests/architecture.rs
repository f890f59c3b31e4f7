//! The arrows between the modules of the program point one way. Those between the crates beneath it do not compile otherwise.

#![allow(clippy::unwrap_used, reason = "a source tree that cannot be read has no architecture")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who must not know of whom, and whom nobody below the daemon may know of.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("broken_answers", &["*", "-clock", "-model"]),
    ("read_progress", &["*", "-clock"]),
    ("coverage", &["*", "-clock", "-model", "-sliding"]),
    ("standing", &["*", "-clock", "-backoff"]),
    ("config", &["*", "-clock", "-model"]),
    ("health", &["*", "-clock"]),
    ("redact", &["*", "-config", "-lenient_json", "-model"]),
    ("table", &["*"]),
    ("keeping", &["*", "-clock", "-lenient_json", "-model", "-db"]),
    ("discover", &["fetch", "daemon", "cli", "http", "sim", "status"]),
    ("fetch", &["discover", "coverage", "daemon", "cli", "http", "sim", "status"]),
    ("search", &["discover", "fetch", "index", "daemon", "cli", "http", "sim", "status"]),
    ("index", &["discover", "fetch", "coverage", "ringcx", "daemon", "cli", "http", "sim", "status"]),
    ("event", &["*", "-clock", "-lenient_json", "-model", "-reading", "-ringcx"]),
    ("sink", &["*", "-clock", "-descriptors", "-model", "-ringcx", "-config", "-event", "-reading", "-table"]),
    (
        "deliver",
        &[
            "*",
            "-clock",
            "-descriptors",
            "-lenient_json",
            "-model",
            "-backoff",
            "-config",
            "-db",
            "-event",
            "-redact",
            "-sink",
        ],
    ),
    ("status", &["discover", "fetch", "daemon", "cli", "http", "sim"]),
    ("verify", &["*", "-clock", "-model", "-db", "-proof"]),
    ("http", &["discover", "cli", "sim"]),
    ("daemon", &["cli", "sim"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file uses, from its `crate::` paths, tests left out.
fn used(text: &str) -> BTreeSet<&str> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = code.flat_map(|line| line.split("crate::").skip(1));
    paths
        .map(|rest| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or(""))
        .collect()
}

#[test]
fn no_arrow_points_against_the_flow() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut looked) = (Vec::new(), BTreeSet::new());
    for file in files {
        let place = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let module = place.split(['/', '.']).next().unwrap().to_owned();
        let Some((_, rules)) = FORBIDDEN.iter().find(|(name, _)| *name == module) else { continue };
        if place.ends_with("tests.rs") || place.contains("/tests/") || place.ends_with("testing.rs") {
            continue;
        }
        looked.insert(module.clone());
        let text = std::fs::read_to_string(&file).unwrap();
        for user in used(&text) {
            let excepted = rules.contains(&format!("-{user}").as_str()) || user == module;
            if (rules.contains(&"*") || rules.contains(&user)) && !excepted {
                wrong.push(format!("{place} uses crate::{user}"));
            }
        }
    }
    assert_eq!(looked.len(), FORBIDDEN.len(), "a module of the list is not there any more");
    assert_eq!(wrong, Vec::<String>::new(), "arrows that point the wrong way");
}

/// What may be written into a statement's text: this program's own words, constants apart, which are in capitals.
const WRITTEN: &[&str] = &["after", "clause", "columns", "from", "limit", "name", "number", "order"];

/// Where statements are put together, and where one is not bound since it cannot be: a path of the settings, quoted.
const ASSERTED: &[&str] =
    &["crates/archive/src/keep/scrub.rs", "crates/archive/src/patient.rs", "crates/archive/src/sql/stmt.rs"];

/// What stands between the braces of the text literal that this begins with.
fn interpolated(literal: &str) -> impl Iterator<Item = &str> {
    let text = literal.trim_start().strip_prefix('"').unwrap_or_default();
    let text = text.split('"').next().unwrap_or_default();
    text.split('{').skip(1).filter_map(|rest| rest.split('}').next())
}

#[test]
fn statements_stand_in_one_place_and_what_comes_from_outside_is_bound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("crates"), &mut files);
    let (mut wrong, mut looked) = (Vec::new(), 0);
    for file in files {
        let place = file.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&text);
        let in_archive = place.starts_with("crates/archive/");
        if !in_archive && code.contains("sqlx::") && place != "crates/model/src/clock.rs" {
            wrong.push(format!("{place} uses sqlx"));
        }
        if code.contains("AssertSqlSafe") && !ASSERTED.contains(&place.as_str()) {
            wrong.push(format!("{place} asserts that a statement is safe"));
        }
        for built in code.split("Stmt::built(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix("format!(")) {
            looked += 1;
            for name in interpolated(built) {
                let constant = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                if !constant && !name.is_empty() && !WRITTEN.contains(&name) {
                    wrong.push(format!("{place} writes {{{name}}} into a statement"));
                }
            }
        }
    }
    assert!(looked > 20, "statements are put together elsewhere now: {looked}");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn no_unsafe_code_is_possible() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"));
    for member in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates")).unwrap() {
        let manifest = std::fs::read_to_string(member.unwrap().path().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true\n"), "{manifest}");
    }
}
