//! A page of metrics that holds every metric there is, with every label.

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::metrics::{AccountFigures, Figures, Format, Metrics, SinkFigures};
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::ringcx::{Cause, Observe};

/// A metric, as its page describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// A counter's with `_total`, a histogram's without `_bucket`.
    pub name: String,
    pub kind: String,
    pub help: String,
    /// Without `le`.
    pub labels: Vec<String>,
}

/// What a daemon shows to whoever scrapes it.
pub fn page() -> String {
    let metrics = Metrics::new();
    metrics.request(Endpoint::Transcript, Ok(200), Duration::from_millis(120));
    metrics.request(Endpoint::Login, Err(Cause::Untrusted), Duration::from_millis(3));
    let figures = Figures {
        accounts: vec![AccountFigures { sub: "10".to_owned(), watermark: Some(Time(0)), ..AccountFigures::default() }],
        sinks: vec![SinkFigures { name: "lake".to_owned(), last_delivered: Some(Time(0)), ..SinkFigures::default() }],
        index_lag: Some((12, 90)),
        credential_expires: Some(Time(0)),
        findings: vec!["login_refused".to_owned()],
        lateness: vec![("appear".to_owned(), 9, 4), ("fresh_transcript".to_owned(), 3, 2)],
        ..Figures::default()
    };
    metrics.render(&figures, Format::Text).expect("a page")
}

/// Every metric on it, in its order.
pub fn metrics() -> Vec<Metric> {
    let page = page();
    let described = |line: &str| {
        let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
        let kind = page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let kind = kind.unwrap_or_else(|| panic!("{name} has no type")).to_owned();
        Some(Metric { name: name.to_owned(), kind, help: help.to_owned(), labels: labels(&page, name) })
    };
    page.lines().filter_map(described).collect()
}

fn labels(page: &str, name: &str) -> Vec<String> {
    let sampled = |line: &&str| {
        let rest = line.strip_prefix(name).map(|rest| rest.trim_start_matches("_bucket"));
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let sample = page.lines().find(sampled).unwrap_or_else(|| panic!("{name} has no sample"));
    let inside = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
    let names = inside.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    names.filter(|name| *name != "le").map(str::to_owned).collect()
}
