//! `docs/reference.md` names every setting and every metric as the program knows them. Where it does not,
//! `UPDATE_REFERENCE=1 cargo test --test reference` writes its tables anew.
#![expect(clippy::panic, reason = "a page without its marks cannot be checked")]

mod support;

use std::path::{Path, PathBuf};

use ringcx_extractor::config::schema::{KEYS, Key, Kind};
use support::scrape;

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md")
}

/// The page with what stands between the marks of `name` replaced.
fn replaced(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/reference.md has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("docs/reference.md has no {end}"));
    format!("{before}{begin}{table}{end}{after}")
}

fn settings() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (own, _) = key.path.split_once('.').unwrap_or(("", key.path));
        if own != section {
            section = own;
            let title = section.strip_suffix("[]").map_or(format!("[{section}]"), |list| format!("[[{list}]]"));
            text.push_str(&format!(
                "\n### `{title}`\n\n| setting | kind | default | meaning |\n| --- | --- | --- | --- |\n"
            ));
        }
        let default = match key.default {
            None => String::new(),
            Some("") => "none".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        text.push_str(&format!("| {} | {} | {default} | {} |\n", names(key), kind(key.kind), cell(key.about)));
    }
    text.push('\n');
    text
}

fn names(key: &Key) -> String {
    match key.kind {
        Kind::Secret | Kind::Secrets => format!("`{}`, or `{0}_file`", key.path),
        Kind::Options => format!("`{}.NAME`, or `{0}.NAME_file`", key.path),
        _ => format!("`{}`", key.path),
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Id => "id",
        Kind::Secret => "secret",
        Kind::Secrets => "list of secrets",
        Kind::Span => "span",
        Kind::Count => "whole number",
        Kind::Flag => "true or false",
        Kind::List => "list",
        Kind::Options => "table of secrets",
    }
}

fn metrics() -> String {
    let mut text = "\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for metric in scrape::metrics() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let help = cell(metric.help.trim_end_matches('.'));
        text.push_str(&format!("| `{}` | {} | {} | {help} |\n", metric.name, metric.kind, labels.join(", ")));
    }
    text.push('\n');
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_reference_names_every_setting_and_every_metric_as_the_program_knows_them() {
    let held = std::fs::read_to_string(file()).unwrap();
    let right = replaced(&replaced(&held, "settings", &settings()), "metrics", &metrics());
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(file(), right).unwrap();
        return;
    }
    let differs = held.lines().zip(right.lines()).find(|(held, right)| held != right);
    assert!(
        held == right,
        "docs/reference.md is not what the program knows. It says and should say: {differs:#?}\n\
         `UPDATE_REFERENCE=1 cargo test --test reference` writes it anew"
    );
}

#[test]
fn the_reference_says_what_every_label_can_be() {
    let held = std::fs::read_to_string(file()).unwrap();
    for label in scrape::metrics().into_iter().flat_map(|metric| metric.labels) {
        assert!(held.contains(&format!("\n- `{label}`: ")), "docs/reference.md does not explain the label {label}");
    }
}
