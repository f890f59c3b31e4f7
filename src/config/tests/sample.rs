use std::collections::BTreeMap;

use super::*;

const SAMPLE: &str = include_str!("../../../config/sample.toml");

/// What a person has to fill in.
const FILLED: [(&str, &str); 5] = [
    ("RINGCX__AUTH__CLIENT_ID", "id"),
    ("RINGCX__AUTH__CLIENT_SECRET", "secret"),
    ("RINGCX__AUTH__JWT", "jwt"),
    ("RINGCX__ACCOUNTS__0__RC_ACCOUNT_ID", "1"),
    ("RINGCX__ACCOUNTS__0__SUB_ACCOUNT_ID", "2"),
];

/// The sample with everything in it that is commented out, alternatives beside one another.
fn uncommented() -> String {
    let is_setting = |rest: &str| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase());
    let lines = SAMPLE.lines().map(|line| line.strip_prefix('#').filter(|rest| is_setting(rest)).unwrap_or(line));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The sample with everything in it that goes together: no other login, no discovery of accounts,
/// no files, one of secret and secrets.
pub(super) fn complete() -> String {
    let others = ["username", "password", "platform_id", "api_token", "secrets"];
    let mut discover = false;
    let mut text = String::new();
    for line in uncommented().lines() {
        discover = if line.starts_with('[') { line == "[discover_accounts]" } else { discover };
        let key = line.split_once(" =").map_or("", |(key, _)| key);
        if !discover && !others.contains(&key) && !key.ends_with("_file") && !line.starts_with("options") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.replace("client_id = \"\"", "client_id = \"id\"")
        .replace("client_secret = \"\"", "client_secret = \"secret\"")
        .replace("jwt = \"\"", "jwt = \"jwt\"")
        .replace("account_id = \"\"", "account_id = \"1\"")
}

/// The text with every path of a secret replaced.
fn with_secrets_at(path: &str, text: &str) -> String {
    let mut parts = text.split("/run/secrets/");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + path + &part[part.find('"').unwrap()..])
}

#[test]
fn the_sample_as_it_is_lacks_only_what_has_to_be_filled_in() {
    let errors = load_text(SAMPLE, &[]).unwrap_err();
    let keys: Vec<&str> = errors.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["accounts[0].rc_account_id", "accounts[0].sub_account_id", "auth"], "{errors}");
    let filled = load_text(SAMPLE, &FILLED).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(filled.warnings, Vec::<String>::new());
    let least = load_text("", &FILLED).unwrap();
    assert_eq!(format!("{:?}", filled.settings), format!("{:?}", least.settings), "the sample states the defaults");
}

#[test]
fn the_sample_with_everything_that_goes_together_is_legal() {
    let loaded = load_text(&complete(), &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.settings.sinks.len(), 4);
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn the_sample_with_its_alternatives_is_legal() {
    let file = TestFile::new("");
    let secret = file.write_sibling("secret", "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0\n");
    let url = file.write_sibling("url", "sqlite:a.db\n");
    let catalog = file.write_sibling("catalog", "ducklake:sqlite:lake.db\n");
    let mut section = "";
    let mut text = String::new();
    let sample = uncommented();
    for line in sample.lines() {
        section = if line.starts_with('[') { line } else { section };
        let key = line.split_once(" =").map_or("", |(key, _)| key);
        let other_login = section == "[auth]"
            && ["client_id", "client_secret", "jwt", "api_token"].contains(&key.trim_end_matches("_file"));
        // What also stands as a file goes.
        let has_file = sample.contains(&format!("\n{key}_file = ")) && !(key == "url" && section == "[[sinks]]");
        let hook_secret = ["url_file", "secret", "secret_file", "proxy_file"].contains(&key) && section == "[[sinks]]";
        if section == "[[accounts]]" || other_login || has_file || hook_secret {
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    let text = text
        .replace("username = \"\"", "username = \"u\"")
        .replace("platform_id = \"\"", "platform_id = \"p\"")
        .replace("/run/secrets/lake_catalog", &catalog)
        .replace("/run/secrets/database_url", &url);
    let text = with_secrets_at(&secret, &text);
    let loaded = load_text(&text, &[]).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert!(matches!(loaded.settings.accounts, Accounts::Discovered(_)));
    assert!(matches!(loaded.settings.auth, Some(Auth::Engage { .. })));
    assert!(loaded.settings.http.token.is_some());
    assert_eq!(loaded.settings.sinks.len(), 4);
}

#[test]
fn the_sample_holds_every_known_key_with_its_default_and_no_other() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let table: toml::Table = uncommented().parse().unwrap_or_else(|error| panic!("{error}"));
    collect(&toml::Value::Table(table), String::new(), &mut found);
    let is_section = |kind| matches!(kind, schema::SettingKind::Section | schema::SettingKind::Sections);
    let settings = schema::settings();
    for key in settings.iter().filter(|key| !is_section(key.kind) && !key.path.contains("[].redact[].")) {
        let values = found.remove(&key.path).unwrap_or_else(|| panic!("{} is not in the sample", key.path));
        if let Some(default) = &key.default {
            assert_eq!(
                values.iter().map(|value| in_largest_unit(value)).collect::<Vec<_>>(),
                [default.as_str()],
                "{}",
                key.path
            );
        }
    }
    let is_free = |path: &String| path.starts_with("sinks[].options.") || path.starts_with("sinks[].headers.");
    assert!(found.keys().all(is_free), "{found:?}");
}

/// The text with its spans as the schema writes them: `72h` is `3d`.
fn in_largest_unit(text: &str) -> String {
    let span = |text: &str| humantime::parse_duration(text).map(humantime::format_duration);
    let parts = text.split(',').map(|part| span(part).map_or_else(|_| part.to_owned(), |span| span.to_string()));
    parts.collect::<Vec<_>>().join(",").replace("days", "d").replace("day", "d")
}

/// Every value by the path that the schema has for it, written as in an environment
/// variable.
fn collect(value: &toml::Value, path: String, found: &mut BTreeMap<String, Vec<String>>) {
    match value {
        toml::Value::Table(table) => {
            if ["sinks[].options", "sinks[].headers"].contains(&path.as_str()) {
                found.entry(path.clone()).or_default().push(String::new());
            }
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(value, path, found);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| collect(item, format!("{path}[]"), found));
        }
        toml::Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(toml::Value::as_str).collect();
            found.entry(path).or_default().push(items.join(","));
        }
        toml::Value::String(text) => found.entry(path).or_default().push(text.clone()),
        other => found.entry(path).or_default().push(other.to_string()),
    }
}
