//! The alerts and the dashboard in `deploy` use existing metrics only, and each alert's symptom is in the operations guide.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use ringcx_extractor::health::FindingCode;
use support::metric_catalog;

fn read_file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The names of all series; a histogram has three.
fn series_names() -> BTreeSet<String> {
    let names = metric_catalog::all_metrics().into_iter().flat_map(|metric| match metric.kind.as_str() {
        "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", metric.name)).to_vec(),
        _ => vec![metric.name],
    });
    names.collect()
}

/// Every word of a text that has the metrics' prefix.
fn metric_names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("ringcx_")).map(str::to_owned).collect()
}

/// Collects the texts of a key anywhere in a JSON document.
fn collect_texts<'a>(json: &'a serde_json::Value, key: &str, found: &mut Vec<&'a str>) {
    match json {
        serde_json::Value::Object(object) => {
            found.extend(object.get(key).and_then(|text| text.as_str()));
            object.values().for_each(|value| collect_texts(value, key, found));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect_texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_their_tests_name_only_metrics_that_exist() {
    for file in ["deploy/prometheus/alerts.yaml", "deploy/prometheus/tests.yaml"] {
        let names = metric_names_in(&read_file(file));
        assert!(names.len() > 15, "{file} names {names:?} only");
        assert_eq!(names.difference(&series_names()).collect::<Vec<_>>(), Vec::<&String>::new(), "in {file}");
    }
}

#[test]
fn the_dashboard_asks_only_for_metrics_that_exist() {
    let text = read_file("deploy/grafana/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    collect_texts(&dashboard, "expr", &mut queries);
    collect_texts(&dashboard, "definition", &mut queries);
    let names = metric_names_in(&queries.join("\n"));
    assert!(names.len() > 20, "it queries {names:?} only");
    assert_eq!(names.difference(&series_names()).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_panel_says_what_it_shows_and_none_lies_upon_another() {
    let dashboard: serde_json::Value = serde_json::from_str(&read_file("deploy/grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut occupied = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has the id of another panel");
        let described = panel["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(described || panel["type"] == "row", "{title} does not say what it shows");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && occupied.insert(cell), "{title} overlaps another panel, or the edge");
        }
    }
    let rows: Vec<&str> =
        panels.iter().filter(|panel| panel["type"] == "row").filter_map(|panel| panel["title"].as_str()).collect();
    let expected = [
        "Health",
        "Freshness and lag",
        "Backlog and budget by account",
        "API latency and outcomes by endpoint",
        "Sinks and search",
        "Lateness",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn every_alert_is_tested_waits_says_what_to_do_and_can_be_looked_up() {
    let (alerts, tests, guide) = (
        read_file("deploy/prometheus/alerts.yaml"),
        read_file("deploy/prometheus/tests.yaml"),
        read_file("docs/operations.md"),
    );
    let mut seen = 0;
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let value = |key: &str| {
            let line = alert.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{key}: ")));
            line.unwrap_or_else(|| panic!("{name} has no {key}")).trim_matches('"')
        };
        assert!(["critical", "warning", "info"].contains(&value("severity")), "{name}");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
        assert!(!value("for").is_empty() && !value("summary").is_empty());
        assert!(value("description").split(". ").count() > 1 && !value("description").contains("://"), "{name}");
        let row = format!("\n| {} |", value("symptom"));
        assert!(guide.contains(&row), "{name}: the guide has no symptom {:?}", value("symptom"));
        seen += 1;
    }
    assert!(seen > 20, "{seen} alerts only");
}

#[test]
fn every_finding_of_the_guide_exists() {
    let guide = read_file("docs/operations.md");
    let (_, section) = guide.split_once("\n### Findings\n").unwrap();
    let (section, _) = section.split_once("\n### ").unwrap();
    let (_, table) = section.split_once("| code | severity | meaning |").unwrap();
    let cells = table.lines().filter_map(|row| row.split('|').nth(1));
    let codes: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(codes.len() > 30, "{codes:?}");
    for code in codes {
        let known: FindingCode = serde_json::from_value(code.into()).unwrap();
        assert!(!matches!(known, FindingCode::Other(_)), "the program does not know {code}");
    }
}
