//! Figures that are gathered at the moment of a scrape, and the metrics that they become. Pure.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::clock::{Time, millis};
use crate::model::Endpoint;

/// What there is to say at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// When it is.
    pub now: Time,
    /// Whether the database answers and takes results.
    pub database_up: bool,
    /// Whether the disk under the database takes writes, as far as anybody has noticed.
    pub disk_up: bool,
    /// Whether the last login, or use of a token, succeeded.
    pub login_up: bool,
    /// Whether `/readyz` says so.
    pub ready: bool,
    /// Whether this replica works, rather than standing by.
    pub working: bool,
    /// By how many seconds the API's clock is ahead of this machine's.
    pub clock_skew_seconds: f64,
    /// When the login's JWT credential ends, where it says so.
    pub credential_expires: Option<Time>,
    /// Changes of the archive that the full-text index has not followed, and how many seconds the first has waited;
    /// `None` where nobody knows.
    pub index_lag: Option<(u64, u64)>,
    /// Of each account.
    pub accounts: Vec<AccountFigures>,
    /// Of each sink.
    pub sinks: Vec<SinkFigures>,
    /// How late things were: kind, the power of two of the seconds, how many; kinds that begin with `fresh_` are
    /// freshness, by artifact.
    pub lateness: Vec<(String, i64, u64)>,
    /// The codes of the open findings, once for each.
    pub findings: Vec<String>,
}

/// What there is to say of an account.
#[derive(Debug, Clone, Default)]
pub struct AccountFigures {
    /// `subAccountId`.
    pub sub: String,
    /// Everything before it has been read.
    pub watermark: Option<Time>,
    /// Items by state.
    pub work: WorkFigures,
    /// Requests of the last minute, in its budget.
    pub requests_last_minute: u64,
    /// The budget.
    pub request_limit: u64,
    /// Requests refused with 429 since the owner started.
    pub refused: u64,
    /// What is not asked for at present.
    pub paused: Vec<Endpoint>,
    /// The age of the oldest unfinished item, in seconds; 0 where there is none.
    pub oldest_unfinished_seconds: u64,
    /// How much time has never been read that should have been, in seconds.
    pub gaps_seconds: u64,
    /// What unfinished items need at least, at the budget's rate, in seconds.
    pub drain_seconds: u64,
    /// Records of metadata that could not be understood and that no later read has settled.
    pub set_aside: u64,
    /// Whether the login no longer sees it.
    pub missing: bool,
    /// Backfills that are not complete.
    pub backfills: u64,
    /// How much time they still have to read, in seconds.
    pub backfill_unread_seconds: u64,
}

/// Items by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkFigures {
    /// Due now.
    pub ready: u64,
    /// Backing off.
    pub waiting: u64,
    /// Being fetched.
    pub running: u64,
    /// Stored or known to be empty.
    pub done: u64,
    /// Gave up at the horizon.
    pub unavailable: u64,
    /// Will not work without a person.
    pub failed: u64,
}

/// What there is to say of a sink.
#[derive(Debug, Clone, Default)]
pub struct SinkFigures {
    /// Its name in the settings.
    pub name: String,
    /// Events that wait.
    pub pending: u64,
    /// Events that were given up.
    pub failed: u64,
    /// When the last event was delivered.
    pub last_delivered: Option<Time>,
    /// Whether it takes nothing at present.
    pub resting: bool,
    /// Whether it wants nothing more.
    pub stopped: bool,
}

/// What can be paused.
const PAUSABLE: [Endpoint; 4] =
    [Endpoint::Metadata, Endpoint::Transcript, Endpoint::AgentSummary, Endpoint::AutoSummary];

/// The largest power of two in the lateness histogram: some 12 days.
const LATEST: i64 = 20;

/// How the kinds of lateness begin that are freshness; the artifact's name follows.
const FRESH: &str = "fresh_";

type Labels = Vec<(&'static str, String)>;

/// One metric with its samples.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Gauge(Vec<(Labels, f64)>),
    Counter(Vec<(Labels, u64)>),
    Histogram(Vec<(Labels, Bars)>),
}

/// A histogram's content: counts by upper bound, not summed up.
#[derive(Debug, Default)]
struct Bars {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

/// All metrics that figures become, in the order in which they are written.
#[derive(Debug)]
pub(super) struct Sheet(Vec<Metric>);

impl Sheet {
    pub(super) fn of(figures: &Figures) -> Sheet {
        let mut sheet = Sheet(Vec::with_capacity(32));
        sheet.process(figures);
        sheet.progress(figures);
        sheet.budget(figures);
        sheet.index(figures);
        sheet.sinks(figures);
        sheet.lateness(figures);
        sheet
    }

    fn process(&mut self, figures: &Figures) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        self.gauge("build_info", "1, with the version of the program as its label", None, vec![(version, 1.0)]);
        let flag = |up: bool| vec![(Labels::new(), f64::from(u8::from(up)))];
        self.gauge("ready", "1 where the program can make progress, as /readyz says", None, flag(figures.ready));
        self.gauge("working", "1 where this replica works, 0 where it stands by", None, flag(figures.working));
        self.gauge("database_up", "1 where the database answers and takes results", None, flag(figures.database_up));
        self.gauge(
            "disk_up",
            "0 where the disk under the database is full or cannot be written to",
            None,
            flag(figures.disk_up),
        );
        self.gauge(
            "login_up",
            "1 where the API took the last login, or none was needed yet",
            None,
            flag(figures.login_up),
        );
        let skew = vec![(Labels::new(), figures.clock_skew_seconds)];
        self.gauge("clock_skew", "By how much the API's clock is ahead of this machine's", Some(Unit::Seconds), skew);
        let left = |at: Time| (at.0.saturating_sub(figures.now.0)) as f64 / 1000.0;
        let left = figures.credential_expires.map(|at| (Labels::new(), left(at)));
        self.gauge(
            "jwt_expires",
            "Time until the login's JWT credential ends, negative once it has; absent where it has no end",
            Some(Unit::Seconds),
            left.into_iter().collect(),
        );
        let mut findings: BTreeMap<&str, f64> = BTreeMap::new();
        for code in &figures.findings {
            *findings.entry(code).or_default() += 1.0;
        }
        let findings = findings.into_iter().map(|(code, count)| (vec![("code", code.to_owned())], count));
        self.gauge(
            "finding",
            "Findings that are open, by code; none of a code that has none",
            None,
            findings.collect(),
        );
    }

    fn progress(&mut self, figures: &Figures) {
        let seconds = Some(Unit::Seconds);
        let (now, of) = (figures.now, Of(&figures.accounts));
        let watermarks = of.some(|account| account.watermark.map(in_seconds));
        self.gauge(
            "watermark",
            "Everything that ended before this moment (seconds since 1970) has been discovered",
            seconds.clone(),
            watermarks,
        );
        let lags = of.some(|account| Some(millis(now.since(account.watermark?)) as f64 / 1000.0));
        self.gauge("lag", "How far the watermark is behind now", seconds.clone(), lags);
        let gaps = of.each(|account| account.gaps_seconds as f64);
        self.gauge("gaps", "How much time has never been read that should have been", seconds.clone(), gaps);
        let missing = of.each(|account| f64::from(u8::from(account.missing)));
        self.gauge("account_missing", "1 where the login no longer sees the account", None, missing);
        let backfills = of.each(|account| account.backfills as f64);
        self.gauge("backfills", "Backfills that were asked for and are not complete", None, backfills);
        let unread = of.each(|account| account.backfill_unread_seconds as f64);
        self.gauge("backfill_unread", "How much time of them is still to be read", seconds.clone(), unread);
        let aside = of.each(|account| account.set_aside as f64);
        self.gauge("records_set_aside", "Records of metadata that could not be understood so far", None, aside);
        let items = figures.accounts.iter().flat_map(|account| {
            let work = &account.work;
            let states = [
                ("ready", work.ready),
                ("waiting", work.waiting),
                ("running", work.running),
                ("unavailable", work.unavailable),
                ("failed", work.failed),
            ];
            states.map(|(state, count)| (label(account, Some(("state", state))), count as f64))
        });
        self.gauge("work_items", "Artifacts asked for and not stored, by state", None, items.collect());
        let done = figures.accounts.iter().map(|account| (label(account, None), account.work.done));
        self.counter("items_done", "Artifacts stored, or known to be empty", done.collect());
        let oldest = of.each(|account| account.oldest_unfinished_seconds as f64);
        self.gauge(
            "oldest_unfinished",
            "Age of the oldest artifact that is neither stored nor given up; 0 where there is none",
            seconds.clone(),
            oldest,
        );
        let drain = of.each(|account| account.drain_seconds as f64);
        self.gauge("drain", "Time that unfinished artifacts need at least, at the budget's rate", seconds, drain);
    }

    fn budget(&mut self, figures: &Figures) {
        let of = Of(&figures.accounts);
        let used = of.each(|account| account.requests_last_minute as f64);
        self.gauge(
            "requests_last_minute",
            "Requests sent in the last 60 seconds, out of the account's budget",
            None,
            used,
        );
        let limits = of.each(|account| account.request_limit as f64);
        self.gauge("request_limit", "Requests that the budget allows in any 60 seconds", None, limits);
        let refused = figures.accounts.iter().map(|account| (label(account, None), account.refused));
        self.counter("refused", "Requests that the API refused with 429 since the start", refused.collect());
        let paused = figures.accounts.iter().flat_map(|account| {
            PAUSABLE.map(|endpoint| {
                let paused = f64::from(u8::from(account.paused.contains(&endpoint)));
                (label(account, Some(("endpoint", endpoint.name()))), paused)
            })
        });
        self.gauge("paused", "1 where the endpoint is not asked for this account at present", None, paused.collect());
    }

    fn index(&mut self, figures: &Figures) {
        let of = |figure: fn((u64, u64)) -> u64| {
            figures.index_lag.map(|lag| (Labels::new(), figure(lag) as f64)).into_iter().collect()
        };
        self.gauge(
            "search_index_lag_changes",
            "Changes of the archive that the full-text index has not followed yet",
            None,
            of(|lag| lag.0),
        );
        self.gauge(
            "search_index_lag",
            "How long the first change has waited that the full-text index has not followed; 0 where there is none",
            Some(Unit::Seconds),
            of(|lag| lag.1),
        );
    }

    fn sinks(&mut self, figures: &Figures) {
        let each = |figure: fn(&SinkFigures) -> u64| {
            figures.sinks.iter().map(|sink| (vec![("sink", sink.name.clone())], figure(sink) as f64)).collect()
        };
        self.gauge("sink_pending_events", "Events that wait for delivery", None, each(|sink| sink.pending));
        self.gauge("sink_failed_events", "Events that were given up", None, each(|sink| sink.failed));
        let last = figures
            .sinks
            .iter()
            .filter_map(|sink| Some((vec![("sink", sink.name.clone())], in_seconds(sink.last_delivered?))));
        self.gauge(
            "sink_last_delivered",
            "When the last event was delivered (seconds since 1970)",
            Some(Unit::Seconds),
            last.collect(),
        );
        self.gauge(
            "sink_resting",
            "1 where the sink takes nothing at present and is tried again by itself",
            None,
            each(|sink| u64::from(sink.resting)),
        );
        self.gauge(
            "sink_stopped",
            "1 where the sink said that it wants nothing more, and a person has to act",
            None,
            each(|sink| u64::from(sink.stopped)),
        );
    }

    fn lateness(&mut self, figures: &Figures) {
        let (mut late, mut fresh) = (Vec::new(), Vec::new());
        for (kind, power, count) in &figures.lateness {
            match kind.strip_prefix(FRESH) {
                Some(artifact) => add(&mut fresh, "artifact", artifact, (*power, *count)),
                None => add(&mut late, "kind", kind, (*power, *count)),
            }
        }
        self.histogram(
            "freshness",
            "From a segment's end to its artifact being stored, backfill left out; the sum is estimated from the middles of the \
             buckets",
            fresh,
        );
        self.histogram(
            "lateness",
            "How long after a segment's end things happened: appear (a segment found late), flip (hasTranscript turned true), \
             fetchable (a transcript stored, backfill as well); the sum is estimated from the middles of the buckets",
            late,
        );
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, Bars)>) {
        self.0.push(Metric { name, help, unit: Some(Unit::Seconds), samples: Samples::Histogram(samples) });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, unit: Option<Unit>, samples: Vec<(Labels, f64)>) {
        self.0.push(Metric { name, help, unit, samples: Samples::Gauge(samples) });
    }

    fn counter(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, u64)>) {
        self.0.push(Metric { name, help, unit: None, samples: Samples::Counter(samples) });
    }
}

/// Adds a bucket to the histogram with this label; those of one label come together.
fn add(to: &mut Vec<(Labels, Bars)>, label: &'static str, value: &str, (power, count): (i64, u64)) {
    if to.last().is_none_or(|(labels, _)| labels.first().is_none_or(|(_, held)| held != value)) {
        to.push((vec![(label, value.to_owned())], Bars::powers_of_two()));
    }
    if let Some((_, bars)) = to.last_mut() {
        bars.add(power, count);
    }
}

/// Samples by account.
struct Of<'a>(&'a [AccountFigures]);

impl Of<'_> {
    fn each(&self, figure: impl Fn(&AccountFigures) -> f64) -> Vec<(Labels, f64)> {
        self.some(|account| Some(figure(account)))
    }

    fn some(&self, figure: impl Fn(&AccountFigures) -> Option<f64>) -> Vec<(Labels, f64)> {
        self.0.iter().filter_map(|account| Some((label(account, None), figure(account)?))).collect()
    }
}

fn label(account: &AccountFigures, more: Option<(&'static str, &'static str)>) -> Labels {
    let mut labels = vec![("sub_account", account.sub.clone())];
    labels.extend(more.map(|(name, value)| (name, value.to_owned())));
    labels
}

fn in_seconds(time: Time) -> f64 {
    time.0 as f64 / 1000.0
}

impl Bars {
    /// Buckets for everything from below two seconds on.
    fn powers_of_two() -> Bars {
        let bounds = (0..=LATEST).map(|power| ((1_u64 << (power + 1)) as f64, 0));
        Bars { buckets: bounds.chain([(f64::INFINITY, 0)]).collect(), ..Bars::default() }
    }

    /// Bucket `power` holds what took from 2^power to below 2^(power + 1) seconds.
    fn add(&mut self, power: i64, count: u64) {
        let power = power.clamp(0, LATEST + 1);
        if let Some((_, held)) = usize::try_from(power).ok().and_then(|index| self.buckets.get_mut(index)) {
            *held += count;
        }
        self.count += count;
        self.sum += 1.5 * (1_u64 << power) as f64 * count as f64;
    }
}

impl Collector for Sheet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for metric in &self.0 {
            let kind = match &metric.samples {
                Samples::Gauge(_) => MetricType::Gauge,
                Samples::Counter(_) => MetricType::Counter,
                Samples::Histogram(_) => MetricType::Histogram,
            };
            // As the registry does for what is registered with it.
            let help = format!("{}.", metric.help);
            let mut to = encoder.encode_descriptor(metric.name, &help, metric.unit.as_ref(), kind)?;
            match &metric.samples {
                Samples::Gauge(samples) => {
                    for (labels, value) in samples {
                        if labels.is_empty() {
                            to.encode_gauge(value)?;
                        } else {
                            to.encode_family(labels)?.encode_gauge(value)?;
                        }
                    }
                }
                Samples::Counter(samples) => {
                    for (labels, value) in samples {
                        to.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
                    }
                }
                Samples::Histogram(samples) => {
                    for (labels, bars) in samples {
                        let mut to = to.encode_family(labels)?;
                        to.encode_histogram::<NoLabelSet>(bars.sum, bars.count, &bars.buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}
