//! Turns the state of the program, as it is at a scrape, into Prometheus metrics. Pure.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::clock::{Time, millis};
use crate::health::WorkCounts;
use crate::model::Endpoint;

/// The values that a scrape reports.
#[derive(Debug, Clone, Default)]
pub struct MetricsSnapshot {
    /// The time of the scrape.
    pub now: Time,
    /// Whether the database answers and accepts results.
    pub database_up: bool,
    /// Whether the disk under the database accepts writes, as far as is known.
    pub disk_up: bool,
    /// Size of SQLite's write-ahead log; `None` on Postgres.
    pub wal_bytes: Option<u64>,
    /// Whether the last login, or use of a token, succeeded.
    pub login_up: bool,
    /// Whether `/readyz` reports ready.
    pub ready: bool,
    /// Whether this replica works on accounts, or is on standby.
    pub working: bool,
    /// How many seconds the API's clock is ahead of this machine's.
    pub clock_skew_seconds: f64,
    /// When the login's JWT credential expires, if it does.
    pub credential_expires: Option<Time>,
    /// How many changes the full-text index lacks, and how many seconds the first has waited;
    /// `None` if unknown.
    pub index_lag: Option<(u64, u64)>,
    /// Per account.
    pub accounts: Vec<AccountMetrics>,
    /// Per sink.
    pub sinks: Vec<SinkMetrics>,
    /// Counts of delays: kind, power of two of the seconds, count. Kinds that begin with `fresh_`
    /// are freshness, by artifact.
    pub lateness: Vec<(String, i64, u64)>,
    /// The code of each open finding.
    pub findings: Vec<String>,
}

/// The values of one account.
#[derive(Debug, Clone, Default)]
pub struct AccountMetrics {
    /// `subAccountId`.
    pub sub: String,
    /// Every segment that ended earlier was discovered.
    pub watermark: Option<Time>,
    /// Items by state.
    pub work: WorkCounts,
    /// Requests of the last minute that count against the limit.
    pub requests_last_minute: u64,
    /// Requests per minute that the limit allows.
    pub request_limit: u64,
    /// Requests refused with 429 since the owner started.
    pub refused: u64,
    /// Endpoints whose circuit breaker is open.
    pub paused: Vec<Endpoint>,
    /// Age of the oldest unfinished item in seconds; 0 if there is none.
    pub oldest_unfinished_seconds: u64,
    /// Total time that should have been read and was not, in seconds.
    pub gaps_seconds: u64,
    /// Minimum time to fetch all unfinished items at the request limit, in seconds.
    pub drain_seconds: u64,
    /// Quarantined metadata records that no later read has resolved.
    pub set_aside: u64,
    /// Whether the login no longer sees the account.
    pub missing: bool,
    /// Backfills that are not complete.
    pub backfills: u64,
    /// Time that they still have to read, in seconds.
    pub backfill_unread_seconds: u64,
}

/// The values of one sink.
#[derive(Debug, Clone, Default)]
pub struct SinkMetrics {
    /// The sink's name in the settings.
    pub name: String,
    /// Events that wait for delivery.
    pub pending: u64,
    /// Events that were given up.
    pub failed: u64,
    /// When the last event was delivered.
    pub last_delivered: Option<Time>,
    /// Whether delivery is paused.
    pub resting: bool,
    /// Whether the sink asked for no more events.
    pub stopped: bool,
}

/// The endpoints that have a circuit breaker.
const PAUSABLE_ENDPOINTS: [Endpoint; 5] =
    [Endpoint::Metadata, Endpoint::Transcript, Endpoint::AgentSummary, Endpoint::AutoSummary, Endpoint::Recording];

/// The largest power of two in the lateness histogram: about 12 days.
const MAX_LATENESS_POWER: i64 = 20;

/// The prefix of the lateness kinds that are freshness; the artifact's name follows.
const FRESHNESS_PREFIX: &str = "fresh_";

type Labels = Vec<(&'static str, String)>;

/// One metric with its samples.
#[derive(Debug)]
struct MetricFamily {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: FamilySamples,
}

#[derive(Debug)]
enum FamilySamples {
    Gauge(Vec<(Labels, f64)>),
    Counter(Vec<(Labels, u64)>),
    Histogram(Vec<(Labels, HistogramData)>),
}

/// A histogram: counts by upper bound, not cumulative.
#[derive(Debug, Default)]
struct HistogramData {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

/// All metric families of a snapshot, in output order.
#[derive(Debug)]
pub(super) struct StatusCollector(Vec<MetricFamily>);

impl StatusCollector {
    pub(super) fn from_snapshot(snapshot: &MetricsSnapshot) -> StatusCollector {
        let mut collector = StatusCollector(Vec::with_capacity(32));
        collector.add_process(snapshot);
        collector.add_progress(snapshot);
        collector.add_budget(snapshot);
        collector.add_index(snapshot);
        collector.add_sinks(snapshot);
        collector.add_lateness(snapshot);
        collector
    }

    fn add_process(&mut self, snapshot: &MetricsSnapshot) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        self.gauge("build_info", "Always 1; the label holds the version of the program", None, vec![(version, 1.0)]);
        let flag = |up: bool| vec![(Labels::new(), f64::from(u8::from(up)))];
        self.gauge("ready", "1 if the program can make progress, as /readyz reports", None, flag(snapshot.ready));
        self.gauge(
            "working",
            "1 if this replica works on accounts, 0 if it is on standby",
            None,
            flag(snapshot.working),
        );
        self.gauge("database_up", "1 if the database answers and accepts results", None, flag(snapshot.database_up));
        self.gauge("disk_up", "0 if the disk under the database is full or not writable", None, flag(snapshot.disk_up));
        let wal = snapshot.wal_bytes.map(|bytes| (Labels::new(), bytes as f64));
        self.gauge(
            "sqlite_wal",
            "Size of SQLite's write-ahead log; absent on Postgres. A checkpoint shrinks it to 64 MiB",
            Some(Unit::Bytes),
            wal.into_iter().collect(),
        );
        self.gauge(
            "login_up",
            "1 if the API accepted the last login, or none was needed yet",
            None,
            flag(snapshot.login_up),
        );
        let skew = vec![(Labels::new(), snapshot.clock_skew_seconds)];
        self.gauge("clock_skew", "How far the API's clock is ahead of this machine's clock", Some(Unit::Seconds), skew);
        let left = |at: Time| (at.0.saturating_sub(snapshot.now.0)) as f64 / 1000.0;
        let left = snapshot.credential_expires.map(|at| (Labels::new(), left(at)));
        self.gauge(
            "jwt_expires",
            "Time until the login's JWT credential expires, negative after that; absent if it does not expire",
            Some(Unit::Seconds),
            left.into_iter().collect(),
        );
        let mut findings: BTreeMap<&str, f64> = BTreeMap::new();
        for code in &snapshot.findings {
            *findings.entry(code).or_default() += 1.0;
        }
        let findings = findings.into_iter().map(|(code, count)| (vec![("code", code.to_owned())], count));
        self.gauge(
            "finding",
            "Open findings by code; a code without an open finding is absent",
            None,
            findings.collect(),
        );
    }

    fn add_progress(&mut self, snapshot: &MetricsSnapshot) {
        let seconds = Some(Unit::Seconds);
        let (now, samples) = (snapshot.now, AccountSamples(&snapshot.accounts));
        let watermarks = samples.sample_present(|account| account.watermark.map(unix_seconds));
        self.gauge(
            "watermark",
            "Every segment that ended before this time (seconds since 1970) was discovered",
            seconds.clone(),
            watermarks,
        );
        let lags = samples.sample_present(|account| Some(millis(now.since(account.watermark?)) as f64 / 1000.0));
        self.gauge("lag", "How far the watermark is behind the current time", seconds.clone(), lags);
        let gaps = samples.sample_each(|account| account.gaps_seconds as f64);
        self.gauge("gaps", "Total time that should have been read and was not", seconds.clone(), gaps);
        let missing = samples.sample_each(|account| f64::from(u8::from(account.missing)));
        self.gauge("account_missing", "1 if the login no longer sees the account", None, missing);
        let backfills = samples.sample_each(|account| account.backfills as f64);
        self.gauge("backfills", "Requested backfills that are not complete", None, backfills);
        let unread = samples.sample_each(|account| account.backfill_unread_seconds as f64);
        self.gauge("backfill_unread", "Time that open backfills still have to read", seconds.clone(), unread);
        let aside = samples.sample_each(|account| account.set_aside as f64);
        self.gauge("records_set_aside", "Metadata records that could not be understood so far", None, aside);
        let items = snapshot.accounts.iter().flat_map(|account| {
            let work = &account.work;
            let states = [
                ("ready", work.ready),
                ("waiting", work.waiting),
                ("running", work.running),
                ("unavailable", work.unavailable),
                ("failed", work.failed),
            ];
            states.map(|(state, count)| (account_labels(account, Some(("state", state))), count as f64))
        });
        self.gauge("work_items", "Requested artifacts that are not stored, by state", None, items.collect());
        let done = snapshot.accounts.iter().map(|account| (account_labels(account, None), account.work.done));
        self.counter("items_done", "Artifacts that are stored, or known to be empty", done.collect());
        let oldest = samples.sample_each(|account| account.oldest_unfinished_seconds as f64);
        self.gauge(
            "oldest_unfinished",
            "Age of the oldest artifact that is neither stored nor given up; 0 if there is none",
            seconds.clone(),
            oldest,
        );
        let drain = samples.sample_each(|account| account.drain_seconds as f64);
        self.gauge("drain", "Minimum time to fetch all unfinished artifacts at the request limit", seconds, drain);
    }

    fn add_budget(&mut self, snapshot: &MetricsSnapshot) {
        let samples = AccountSamples(&snapshot.accounts);
        let used = samples.sample_each(|account| account.requests_last_minute as f64);
        self.gauge(
            "requests_last_minute",
            "Requests sent in the last 60 seconds that count against the account's limit",
            None,
            used,
        );
        let limits = samples.sample_each(|account| account.request_limit as f64);
        self.gauge("request_limit", "Requests that the limit allows in any 60 seconds", None, limits);
        let refused = snapshot.accounts.iter().map(|account| (account_labels(account, None), account.refused));
        self.counter("refused", "Requests that the API refused with 429 since the start", refused.collect());
        let paused = snapshot.accounts.iter().flat_map(|account| {
            PAUSABLE_ENDPOINTS.map(|endpoint| {
                let paused = f64::from(u8::from(account.paused.contains(&endpoint)));
                (account_labels(account, Some(("endpoint", endpoint.name()))), paused)
            })
        });
        self.gauge("paused", "1 if requests to the endpoint are paused for the account", None, paused.collect());
    }

    fn add_index(&mut self, snapshot: &MetricsSnapshot) {
        let sample = |value: fn((u64, u64)) -> u64| {
            snapshot.index_lag.map(|lag| (Labels::new(), value(lag) as f64)).into_iter().collect()
        };
        self.gauge(
            "search_index_lag_changes",
            "Changes of the archive that the full-text index does not contain yet",
            None,
            sample(|lag| lag.0),
        );
        self.gauge(
            "search_index_lag",
            "Age of the oldest change that the full-text index does not contain yet; 0 if there is none",
            Some(Unit::Seconds),
            sample(|lag| lag.1),
        );
    }

    fn add_sinks(&mut self, snapshot: &MetricsSnapshot) {
        let sample_sinks = |value: fn(&SinkMetrics) -> u64| {
            snapshot.sinks.iter().map(|sink| (vec![("sink", sink.name.clone())], value(sink) as f64)).collect()
        };
        self.gauge("sink_pending_events", "Events that wait for delivery", None, sample_sinks(|sink| sink.pending));
        self.gauge("sink_failed_events", "Events that were given up", None, sample_sinks(|sink| sink.failed));
        let last = snapshot
            .sinks
            .iter()
            .filter_map(|sink| Some((vec![("sink", sink.name.clone())], unix_seconds(sink.last_delivered?))));
        self.gauge(
            "sink_last_delivered",
            "When the last event was delivered (seconds since 1970)",
            Some(Unit::Seconds),
            last.collect(),
        );
        self.gauge(
            "sink_resting",
            "1 if delivery to the sink is paused and retried automatically",
            None,
            sample_sinks(|sink| u64::from(sink.resting)),
        );
        self.gauge(
            "sink_stopped",
            "1 if the sink asked for no more events and a person has to act",
            None,
            sample_sinks(|sink| u64::from(sink.stopped)),
        );
    }

    fn add_lateness(&mut self, snapshot: &MetricsSnapshot) {
        let (mut late, mut fresh) = (Vec::new(), Vec::new());
        for (kind, power, count) in &snapshot.lateness {
            match kind.strip_prefix(FRESHNESS_PREFIX) {
                Some(artifact) => add_bucket(&mut fresh, "artifact", artifact, (*power, *count)),
                None => add_bucket(&mut late, "kind", kind, (*power, *count)),
            }
        }
        self.histogram(
            "freshness",
            "Time from a segment's end until its artifact was stored, without backfill; the sum is estimated from the \
             midpoints of the buckets",
            fresh,
        );
        self.histogram(
            "lateness",
            "Time from a segment's end until: appear (the segment was found late), flip (hasTranscript turned true), \
             fetchable (a transcript was stored, including backfill); the sum is estimated from the midpoints of the buckets",
            late,
        );
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, HistogramData)>) {
        self.0.push(MetricFamily { name, help, unit: Some(Unit::Seconds), samples: FamilySamples::Histogram(samples) });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, unit: Option<Unit>, samples: Vec<(Labels, f64)>) {
        self.0.push(MetricFamily { name, help, unit, samples: FamilySamples::Gauge(samples) });
    }

    fn counter(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, u64)>) {
        self.0.push(MetricFamily { name, help, unit: None, samples: FamilySamples::Counter(samples) });
    }
}

/// Adds a bucket to the histogram with this label value. Buckets of one label must be adjacent.
fn add_bucket(
    histograms: &mut Vec<(Labels, HistogramData)>,
    label_name: &'static str,
    label_value: &str,
    (power, count): (i64, u64),
) {
    if histograms.last().is_none_or(|(labels, _)| labels.first().is_none_or(|(_, last)| last != label_value)) {
        histograms.push((vec![(label_name, label_value.to_owned())], HistogramData::powers_of_two()));
    }
    if let Some((_, histogram)) = histograms.last_mut() {
        histogram.add(power, count);
    }
}

/// Samples by account.
struct AccountSamples<'a>(&'a [AccountMetrics]);

impl AccountSamples<'_> {
    fn sample_each(&self, value: impl Fn(&AccountMetrics) -> f64) -> Vec<(Labels, f64)> {
        self.sample_present(|account| Some(value(account)))
    }

    fn sample_present(&self, value: impl Fn(&AccountMetrics) -> Option<f64>) -> Vec<(Labels, f64)> {
        self.0.iter().filter_map(|account| Some((account_labels(account, None), value(account)?))).collect()
    }
}

fn account_labels(account: &AccountMetrics, more: Option<(&'static str, &'static str)>) -> Labels {
    let mut labels = vec![("sub_account", account.sub.clone())];
    labels.extend(more.map(|(name, value)| (name, value.to_owned())));
    labels
}

fn unix_seconds(time: Time) -> f64 {
    time.0 as f64 / 1000.0
}

impl HistogramData {
    /// Empty buckets, the first of which ends at two seconds.
    fn powers_of_two() -> HistogramData {
        let bounds = (0..=MAX_LATENESS_POWER).map(|power| ((1_u64 << (power + 1)) as f64, 0));
        HistogramData { buckets: bounds.chain([(f64::INFINITY, 0)]).collect(), ..HistogramData::default() }
    }

    /// Bucket `power` holds delays from 2^power to below 2^(power + 1) seconds.
    fn add(&mut self, power: i64, count: u64) {
        let power = power.clamp(0, MAX_LATENESS_POWER + 1);
        if let Some((_, held)) = usize::try_from(power).ok().and_then(|index| self.buckets.get_mut(index)) {
            *held += count;
        }
        self.count += count;
        self.sum += 1.5 * (1_u64 << power) as f64 * count as f64;
    }
}

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for metric in &self.0 {
            let kind = match &metric.samples {
                FamilySamples::Gauge(_) => MetricType::Gauge,
                FamilySamples::Counter(_) => MetricType::Counter,
                FamilySamples::Histogram(_) => MetricType::Histogram,
            };
            // The registry adds the same dot to the metrics that are registered with it.
            let help = format!("{}.", metric.help);
            let mut encoder = encoder.encode_descriptor(metric.name, &help, metric.unit.as_ref(), kind)?;
            match &metric.samples {
                FamilySamples::Gauge(samples) => {
                    for (labels, value) in samples {
                        if labels.is_empty() {
                            encoder.encode_gauge(value)?;
                        } else {
                            encoder.encode_family(labels)?.encode_gauge(value)?;
                        }
                    }
                }
                FamilySamples::Counter(samples) => {
                    for (labels, value) in samples {
                        encoder.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
                    }
                }
                FamilySamples::Histogram(samples) => {
                    for (labels, histogram) in samples {
                        let mut encoder = encoder.encode_family(labels)?;
                        encoder.encode_histogram::<NoLabelSet>(
                            histogram.sum,
                            histogram.count,
                            &histogram.buckets,
                            None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}
