//! Dependencies between the modules of the program go one way only. Between crates, the compiler checks this.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// For each module, the modules that it must not use. `*` forbids all; `-name` or `-name::part` is an exception.
const MODULE_RULES: &[(&str, &[&str])] = &[
    ("access", &["*", "-clock", "-model", "-config", "-db", "-metrics", "-redact", "-render"]),
    ("broken_answers", &["*", "-clock", "-model"]),
    ("build_info", &["*", "-clock"]),
    ("read_progress", &["*", "-clock"]),
    ("config", &["*", "-clock", "-model"]),
    ("health", &["*", "-clock", "-model"]),
    ("redact", &["*", "-config", "-lenient_json", "-model"]),
    ("parquet_writer", &["*"]),
    ("erasure", &["*", "-clock", "-lenient_json", "-model", "-db"]),
    ("discover", &["fetch", "pipeline::fetch", "daemon", "cli", "http", "sim", "status"]),
    ("fetch", &["discover", "discovery", "coverage", "pipeline::discovery", "daemon", "cli", "http", "sim", "status"]),
    ("discovery", &["fetch"]),
    ("coverage", &["discovery", "fetch"]),
    ("delivery", &["*", "-backoff", "-clock"]),
    ("search", &["discover", "fetch", "search_indexer", "daemon", "cli", "http", "sim", "status"]),
    ("segment_filter", &["*", "-render", "-search::segment_fields"]),
    ("report", &["*", "-audit", "-clock", "-config", "-db", "-model", "-render", "-verify"]),
    ("search_indexer", &["discover", "fetch", "coverage", "ringcx", "daemon", "cli", "http", "sim", "status"]),
    ("event", &["*", "-clock", "-lenient_json", "-model", "-render", "-ringcx"]),
    (
        "sink",
        &[
            "*",
            "-clock",
            "-file_descriptors",
            "-model",
            "-ringcx",
            "-config",
            "-event",
            "-folder_sync",
            "-lenient_json",
            "-render",
            "-parquet_writer",
        ],
    ),
    (
        "deliver",
        &[
            "*",
            "-clock",
            "-file_descriptors",
            "-lenient_json",
            "-model",
            "-backoff",
            "-config",
            "-db",
            "-event",
            "-export",
            "-health",
            "-pipeline",
            "-redact",
            "-sink",
        ],
    ),
    ("status", &["discover", "fetch", "daemon", "cli", "http", "sim"]),
    ("verify", &["*", "-clock", "-model", "-db", "-proof"]),
    ("archive_reader", &["discover", "fetch", "deliver", "daemon", "cli", "http", "mcp", "sim"]),
    ("operator_actions", &["discover", "fetch", "deliver", "daemon", "cli", "http", "mcp", "sim"]),
    ("mcp", &["discover", "fetch", "deliver", "daemon", "cli", "http", "sim", "db"]),
    ("http", &["discover", "cli", "sim"]),
    ("daemon", &["cli", "sim"]),
];

fn collect_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The paths that follow `crate::` in a file, without its unit tests.
fn used_paths(text: &str) -> BTreeSet<&str> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = code.flat_map(|line| line.split("crate::").skip(1));
    paths
        .map(|rest| {
            rest.split(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '_' | ':')).next().unwrap_or("")
        })
        .collect()
}

#[test]
fn no_arrow_points_against_the_flow() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut violations, mut checked) = (Vec::new(), BTreeSet::new());
    for (root, file) in ["src", "crates/pipeline/src"].map(|folder| root.join(folder)).iter().flat_map(|root| {
        let mut files = Vec::new();
        collect_sources(root, &mut files);
        files.into_iter().map(move |file| (root, file))
    }) {
        let path = file.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let module = path.split(['/', '.']).next().unwrap().to_owned();
        let Some((_, rules)) = MODULE_RULES.iter().find(|(name, _)| *name == module) else { continue };
        if path.ends_with("tests.rs") || path.contains("/tests/") || path.ends_with("fixtures.rs") {
            continue;
        }
        checked.insert(module.clone());
        let text = std::fs::read_to_string(&file).unwrap();
        for used in used_paths(&text) {
            let name = used.split("::").next().unwrap_or(used);
            let mut exceptions = rules.iter().filter_map(|rule| rule.strip_prefix('-'));
            let allowed =
                name == module || exceptions.any(|rule| name == rule || used.starts_with(&format!("{rule}::")));
            let forbidden = |rule: &&str| ["*", name, used].contains(rule) || used.starts_with(&format!("{rule}::"));
            if rules.iter().any(forbidden) && !allowed {
                violations.push(format!("{path} uses crate::{name}"));
            }
        }
    }
    assert_eq!(checked.len(), MODULE_RULES.len(), "a module of the list does not exist");
    assert_eq!(violations, Vec::<String>::new(), "forbidden dependencies");
}

/// Variables that may be interpolated into a statement's text; they hold this program's own words. Constants are allowed too.
const ALLOWED_INTERPOLATIONS: &[&str] =
    &["after", "clause", "column", "columns", "name", "number", "order", "time_cast", "uuid_cast"];

/// Files that may assert that a statement is safe: they build statements, or quote a path that cannot be bound.
const SQL_ASSERTION_FILES: &[&str] = &[
    "crates/archive/src/deletion/wipe_free_pages.rs",
    "crates/archive/src/sql/stmt.rs",
    "crates/archive/src/timeout_connection.rs",
];

/// The names between braces in the string literal at the start of this text.
fn interpolated_names(literal: &str) -> impl Iterator<Item = &str> {
    let text = literal.trim_start().strip_prefix('"').unwrap_or_default();
    let text = text.split('"').next().unwrap_or_default();
    text.split('{').skip(1).filter_map(|rest| rest.split('}').next())
}

#[test]
fn statements_stand_in_one_place_and_what_comes_from_outside_is_bound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect_sources(&root.join("src"), &mut files);
    collect_sources(&root.join("crates"), &mut files);
    let (mut violations, mut checked) = (Vec::new(), 0);
    for file in files {
        let path = file.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&text);
        let in_archive = path.starts_with("crates/archive/");
        let may_derive = path.starts_with("crates/model/");
        if !in_archive && !may_derive && code.contains("sqlx::") {
            violations.push(format!("{path} uses sqlx"));
        }
        if code.contains("AssertSqlSafe") && !SQL_ASSERTION_FILES.contains(&path.as_str()) {
            violations.push(format!("{path} asserts that a statement is safe"));
        }
        for built in code.split("Stmt::built(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix("format!(")) {
            checked += 1;
            for name in interpolated_names(built) {
                let constant = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                if !constant && !name.is_empty() && !ALLOWED_INTERPOLATIONS.contains(&name) {
                    violations.push(format!("{path} writes {{{name}}} into a statement"));
                }
            }
        }
    }
    assert!(checked > 20, "only {checked} built statements were found");
    assert_eq!(violations, Vec::<String>::new());
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
