//! `docs/reference.md` lists every setting and every metric of the program, and `config/schema.json` describes the settings to
//! editors. `UPDATE_REFERENCE=1 cargo test --test reference` writes both again.
#![expect(clippy::panic, reason = "a page without its marks cannot be checked")]

mod support;

use std::path::{Path, PathBuf};

use ringcx_extractor::config::schema::{self, SettingKind, SettingSpec};
use support::metric_catalog;

fn reference_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md")
}

/// The page with the text between the marks of `name` replaced by `table`.
fn replace_between_marks(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/reference.md has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("docs/reference.md has no {end}"));
    format!("{before}{begin}{table}{end}{after}")
}

fn settings_tables() -> String {
    let mut text = String::new();
    let mut section = "";
    let settings = schema::settings();
    for key in &settings {
        let is_file =
            key.path.strip_suffix("_file").is_some_and(|secret| settings.iter().any(|key| key.path == secret));
        let Some((own, _)) = key.path.split_once('.').filter(|_| !is_file) else { continue };
        if own != section {
            section = own;
            let title = section.strip_suffix("[]").map_or(format!("[{section}]"), |list| format!("[[{list}]]"));
            text.push_str(&format!(
                "\n### `{title}`\n\n| setting | kind | default | meaning |\n| --- | --- | --- | --- |\n"
            ));
        }
        let default = match key.default.as_deref() {
            None => String::new(),
            Some("") => "none".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        text.push_str(&format!(
            "| {} | {} | {default} | {} |\n",
            setting_names(key),
            kind_name(key.kind),
            escape_cell(key.about.trim_end_matches('.'))
        ));
    }
    text.push('\n');
    text
}

fn setting_names(key: &SettingSpec) -> String {
    match key.kind {
        SettingKind::Secret | SettingKind::Secrets => format!("`{}`, or `{0}_file`", key.path),
        SettingKind::Options => format!("`{}.NAME`, or `{0}.NAME_file`", key.path),
        _ => format!("`{}`", key.path),
    }
}

const fn kind_name(kind: SettingKind) -> &'static str {
    match kind {
        SettingKind::Text | SettingKind::Choice => "text",
        SettingKind::Id => "id",
        SettingKind::Secret => "secret",
        SettingKind::Secrets => "list of secrets",
        SettingKind::Span => "span",
        SettingKind::Count => "whole number",
        SettingKind::Flag => "true or false",
        SettingKind::List => "list",
        SettingKind::Options => "table of secrets",
        SettingKind::Section | SettingKind::Sections | SettingKind::Redaction => "section",
    }
}

fn metrics_table() -> String {
    let mut text = "\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for metric in metric_catalog::all_metrics() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let help = escape_cell(metric.help.trim_end_matches('.'));
        text.push_str(&format!("| `{}` | {} | {} | {help} |\n", metric.name, metric.kind, labels.join(", ")));
    }
    text.push('\n');
    text
}

fn escape_cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_reference_names_every_setting_and_every_metric_as_the_program_knows_them() {
    let current = std::fs::read_to_string(reference_path()).unwrap();
    let expected = replace_between_marks(
        &replace_between_marks(&current, "settings", &settings_tables()),
        "metrics",
        &metrics_table(),
    );
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(reference_path(), expected).unwrap();
        return;
    }
    let first_difference = current.lines().zip(expected.lines()).find(|(current, expected)| current != expected);
    assert!(
        current == expected,
        "docs/reference.md differs from the program. Actual and expected line: {first_difference:#?}\n\
         `UPDATE_REFERENCE=1 cargo test --test reference` writes it again"
    );
}

#[test]
fn the_reference_says_what_every_label_can_be() {
    let page = std::fs::read_to_string(reference_path()).unwrap();
    for label in metric_catalog::all_metrics().into_iter().flat_map(|metric| metric.labels) {
        assert!(page.contains(&format!("\n- `{label}`: ")), "docs/reference.md does not explain the label {label}");
    }
}

#[test]
fn the_json_schema_for_editors_describes_the_settings_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/schema.json");
    let expected = format!("{:#}\n", schema::json_schema());
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, expected).unwrap();
        return;
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        expected,
        "config/schema.json differs from the program: `UPDATE_REFERENCE=1 cargo test --test reference` writes it again"
    );
}
