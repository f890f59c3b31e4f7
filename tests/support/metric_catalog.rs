//! A metrics page that contains every metric with every label, and the list of metrics parsed from it.

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::metrics::{AccountMetrics, Metrics, MetricsFormat, MetricsSnapshot, SinkMetrics};
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::ringcx::{ErrorCause, RequestObserver};

/// A metric as the page describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// With `_total` for a counter, without `_bucket` for a histogram.
    pub name: String,
    pub kind: String,
    pub help: String,
    /// Without the label `le`.
    pub labels: Vec<String>,
}

/// A `/metrics` page in which every metric has a sample.
pub fn sample_page() -> String {
    let metrics = Metrics::new();
    metrics.on_request(Endpoint::Transcript, Ok(200), Duration::from_millis(120));
    metrics.count_access("key", "search");
    metrics.count_refused_access("wrong");
    metrics.on_request(Endpoint::Login, Err(ErrorCause::UntrustedCertificate), Duration::from_millis(3));
    let figures = MetricsSnapshot {
        accounts: vec![AccountMetrics { sub: "10".to_owned(), watermark: Some(Time(0)), ..AccountMetrics::default() }],
        sinks: vec![SinkMetrics { name: "lake".to_owned(), last_delivered: Some(Time(0)), ..SinkMetrics::default() }],
        index_lag: Some((12, 90)),
        wal_bytes: Some(4096),
        credential_expires: Some(Time(0)),
        findings: vec!["login_refused".to_owned()],
        lateness: vec![("appear".to_owned(), 9, 4), ("fresh_transcript".to_owned(), 3, 2)],
        ..MetricsSnapshot::default()
    };
    metrics.render(&figures, MetricsFormat::Text).expect("a page")
}

/// Every metric of the page, in order.
pub fn all_metrics() -> Vec<Metric> {
    let page = sample_page();
    let described = |line: &str| {
        let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
        let kind = page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let kind = kind.unwrap_or_else(|| panic!("{name} has no type")).to_owned();
        Some(Metric { name: name.to_owned(), kind, help: help.to_owned(), labels: label_names(&page, name) })
    };
    page.lines().filter_map(described).collect()
}

fn label_names(page: &str, name: &str) -> Vec<String> {
    let sampled = |line: &&str| {
        let rest = line.strip_prefix(name).map(|rest| rest.trim_start_matches("_bucket"));
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let sample = page.lines().find(sampled).unwrap_or_else(|| panic!("{name} has no sample"));
    let inside = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
    let names = inside.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    names.filter(|name| *name != "le").map(str::to_owned).collect()
}
