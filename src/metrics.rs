//! Every metric's name, and how they are written down for Prometheus.
//!
//! Counts the API's requests as they happen (it is the API client's observer) and writes down figures that others
//! gathered. Knows no database and no HTTP. Labels are sub-accounts, endpoints, states and sinks only, so their number
//! grows with the settings and never with the traffic; no label holds anything that a customer said.

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::model::Endpoint;
use crate::ringcx::{Cause, Observe};

mod sheet;

pub use sheet::{AccountFigures, Figures, SinkFigures, WorkFigures};

use sheet::Sheet;

/// What every name begins with.
const PREFIX: &str = "ringcx";

/// Upper bounds of the request durations, in seconds. An answer takes some tenths as a rule; metadata may take minutes.
const DURATIONS: [f64; 12] = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0, 60.0];

type Labels = Vec<(&'static str, &'static str)>;

/// How the metrics are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, for those who ask for it.
    OpenMetrics,
    /// The older text format, which everything reads.
    Text,
}

impl Format {
    /// What the scraper's `Accept` header asks for.
    pub fn accepted(accept: Option<&str>) -> Format {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Format::OpenMetrics,
            _ => Format::Text,
        }
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What is counted as it happens. One for the process; share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// With nothing counted yet.
    pub fn new() -> Metrics {
        let requests = Family::<Labels, Counter>::default();
        let durations =
            Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(DURATIONS));
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register("requests", "Requests to the API, by endpoint and what came of them", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from sending a request to the headers of its answer, or to giving up",
            Unit::Seconds,
            durations.clone(),
        );
        Metrics { registry, requests, durations }
    }

    /// All metrics: what was counted here, and these figures.
    ///
    /// # Errors
    /// Where the encoder fails, which writing to memory does not.
    pub fn render(&self, figures: &Figures, format: Format) -> Result<String, std::fmt::Error> {
        let mut page = String::with_capacity(4096 + figures.accounts.len() * 1600);
        text::encode_registry(&mut page, &self.registry)?;
        let mut gathered = Registry::with_prefix(PREFIX);
        gathered.register_collector(Box::new(Sheet::of(figures)));
        text::encode_registry(&mut page, &gathered)?;
        text::encode_eof(&mut page)?;
        Ok(match format {
            Format::OpenMetrics => page,
            Format::Text => older(&page),
        })
    }
}

impl Observe for Metrics {
    fn request(&self, endpoint: Endpoint, seen: Result<u16, Cause>, took: Duration) {
        let endpoint = ("endpoint", endpoint.name());
        self.requests.get_or_create(&vec![endpoint, ("outcome", outcome(seen))]).inc();
        self.durations.get_or_create(&vec![endpoint]).observe(took.as_secs_f64());
    }
}

/// The class of an answer: few enough for a label, and apart where what to do about them differs.
fn outcome(seen: Result<u16, Cause>) -> &'static str {
    match seen {
        Err(Cause::Untrusted) => "certificate",
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

/// OpenMetrics rewritten as the older text format: there a counter's `_total` is part of its name, and units and the end
/// mark do not exist.
fn older(page: &str) -> String {
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
