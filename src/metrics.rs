//! The metrics: their names, and their Prometheus text.
//!
//! Counts API requests as they happen, as the API client's observer, and renders the values that
//! others gathered. Knows neither the database nor HTTP. Labels are sub-accounts, endpoints, states
//! and sinks only: their number grows with the settings and never with the traffic. No label holds
//! anything that a customer said.

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::model::Endpoint;
use crate::ringcx::{ErrorCause, RequestObserver};

mod collector;

pub use collector::{AccountMetrics, MetricsSnapshot, SinkMetrics};

use collector::StatusCollector;

/// The prefix of every metric name.
const METRIC_PREFIX: &str = "ringcx";

/// Upper bounds of the request durations in seconds. A response usually takes tenths of a second;
/// metadata may take minutes.
const DURATION_BUCKETS_SECONDS: [f64; 12] = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0, 60.0];

type Labels = Vec<(&'static str, &'static str)>;

/// The text formats of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0, for scrapers that ask for it.
    OpenMetrics,
    /// The Prometheus text format, which every scraper reads.
    Text,
}

impl MetricsFormat {
    /// The format that the scraper's `Accept` header asks for.
    pub(crate) fn negotiate(accept: Option<&str>) -> MetricsFormat {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => MetricsFormat::OpenMetrics,
            _ => MetricsFormat::Text,
        }
    }

    /// The value of `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            MetricsFormat::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The counters of the process. Share one instance in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    accesses: Family<Labels, Counter>,
    refused_accesses: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Creates counters that are zero.
    pub fn new() -> Metrics {
        let requests = Family::<Labels, Counter>::default();
        let durations = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(DURATION_BUCKETS_SECONDS)
        });
        let (accesses, refused_accesses) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        let mut registry = Registry::with_prefix(METRIC_PREFIX);
        registry.register("requests", "API requests, by endpoint and outcome", requests.clone());
        registry.register(
            "accesses",
            "Entries of the access log by this process, by reader and action",
            accesses.clone(),
        );
        registry.register(
            "refused_accesses",
            "Requests for conversations that were refused, by reason",
            refused_accesses.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from sending a request to the response headers, or to the failure",
            Unit::Seconds,
            durations.clone(),
        );
        Metrics { registry, requests, accesses, refused_accesses, durations }
    }

    /// Counts an entry of the access log, by the kind of reader and the action.
    pub fn count_access(&self, reader: &'static str, action: &'static str) {
        self.accesses.get_or_create(&vec![("reader", reader), ("action", action)]).inc();
    }

    /// Counts a request for conversations that was refused.
    pub fn count_refused_access(&self, reason: &'static str) {
        self.refused_accesses.get_or_create(&vec![("reason", reason)]).inc();
    }

    /// Renders all metrics: these counters, and the values of the snapshot.
    ///
    /// # Errors
    /// If the encoder fails, which writing to memory does not.
    pub fn render(&self, snapshot: &MetricsSnapshot, format: MetricsFormat) -> Result<String, std::fmt::Error> {
        let mut page = String::with_capacity(4096 + snapshot.accounts.len() * 1600);
        text::encode_registry(&mut page, &self.registry)?;
        let mut registry = Registry::with_prefix(METRIC_PREFIX);
        registry.register_collector(Box::new(StatusCollector::from_snapshot(snapshot)));
        text::encode_registry(&mut page, &registry)?;
        text::encode_eof(&mut page)?;
        Ok(match format {
            MetricsFormat::OpenMetrics => page,
            MetricsFormat::Text => to_prometheus_text(&page),
        })
    }
}

impl RequestObserver for Metrics {
    fn on_request(&self, endpoint: Endpoint, result: Result<u16, ErrorCause>, took: Duration) {
        let endpoint = ("endpoint", endpoint.name());
        self.requests.get_or_create(&vec![endpoint, ("outcome", outcome_label(result))]).inc();
        self.durations.get_or_create(&vec![endpoint]).observe(took.as_secs_f64());
    }
}

/// The class of a response: few enough for a label, and separate where the remedies differ.
fn outcome_label(result: Result<u16, ErrorCause>) -> &'static str {
    match result {
        Err(ErrorCause::UntrustedCertificate) => "certificate",
        Err(_) => "no_answer",
        Ok(200..=299) => "ok",
        Ok(300..=399) => "redirect",
        Ok(401) => "unauthorised",
        Ok(403) => "forbidden",
        Ok(404) => "not_found",
        Ok(429) => "rate_limited",
        Ok(400..=499) => "client_error",
        Ok(_) => "server_error",
    }
}

/// Rewrites OpenMetrics as the Prometheus text format. There, a counter's `_total` is part of its
/// name, and units and the end mark do not exist.
fn to_prometheus_text(page: &str) -> String {
    let counters: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|kind| Some((kind, line.strip_prefix(kind)?)));
        match described.and_then(|(kind, rest)| Some((kind, rest.split_once(' ')?))) {
            Some((kind, (name, rest))) if counters.contains(&name) => {
                text.extend([kind, name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
