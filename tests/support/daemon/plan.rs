//! What a test plays: the simulated world, and the settings that the daemon meets it with.

use std::collections::BTreeMap;
use std::time::Duration;

use ringcx_extractor::model::{Artifact, ArtifactSet, SummariesFor, Wants};
use ringcx_extractor::sim::{
    Availability, Credentials, Expect, LedgerEntry, Options, SimLimits, Spread, Traffic, Windows,
};
use toml::Value;

/// A world and settings, to be varied.
#[derive(Clone)]
pub struct Plan {
    pub sim: Options,
    /// By path, `discovery.window`.
    pub settings: BTreeMap<String, Value>,
    /// What `settings` ask for of each segment.
    pub wants: Wants,
}

impl Plan {
    /// Some thirty segments that ended before the start, everything there within a second, no limits.
    pub fn history() -> Plan {
        let sim = Options {
            traffic: Traffic {
                per_minute: 90.0,
                history: Duration::from_secs(20),
                until: Some(Duration::ZERO),
                utterances: (1, 8),
                ..Traffic::default()
            },
            availability: Availability {
                appear_after: Duration::ZERO,
                transcript_after: millis(0, 800),
                summary_after: millis(0, 800),
                ..Availability::default()
            },
            windows: Windows { offset: Duration::from_secs(1), ..Windows::default() },
            limits: SimLimits::lifted(),
            ..Options::default()
        };
        let wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };
        let plan = Plan { sim, settings: BTreeMap::new(), wants };
        plan.with_login().with_account().scaled_down()
    }

    /// The same, and segments that go on ending for so long.
    pub fn live(length: Duration) -> Plan {
        let mut plan = Plan::history();
        plan.sim.traffic.until = Some(length);
        plan
    }

    fn with_login(self) -> Plan {
        let credentials = Credentials::default();
        self.set("auth.client_id", credentials.client_id)
            .set("auth.client_secret", credentials.client_secret)
            .set("auth.jwt", credentials.jwt)
    }

    fn with_account(self) -> Plan {
        let mut account = toml::Table::new();
        account.insert("rc_account_id".into(), self.sim.accounts[0].rc.to_string().into());
        account.insert("sub_account_id".into(), self.sim.accounts[0].sub.to_string().into());
        self.set("accounts", vec![Value::Table(account)])
    }

    /// Changes the one listed account's settings.
    pub fn account(mut self, key: &str, value: impl Into<Value>) -> Plan {
        if let Some(Value::Array(accounts)) = self.settings.get_mut("accounts")
            && let Some(Value::Table(account)) = accounts.first_mut()
        {
            account.insert(key.to_owned(), value.into());
        }
        self
    }

    fn scaled_down(self) -> Plan {
        const NO_LIMIT: i64 = 100_000;
        self.set("api.request_timeout", "5s")
            .set("discovery.window", "4s")
            .set("discovery.offset", "1s")
            .set("discovery.interval", "1s")
            .set("discovery.max_window", "30s")
            .set("discovery.start", "1m")
            .set("discovery.rechecks", strings(&["3s"]))
            .set("limits.requests_per_minute", NO_LIMIT)
            .set("limits.metadata_per_minute", NO_LIMIT)
            .set("limits.metadata_per_15_minutes", NO_LIMIT)
            .set("limits.token_exchanges_per_minute", NO_LIMIT)
            .set("fetch.retry_initial", "100ms")
            .set("fetch.retry_max", "1s")
            .set("fetch.give_up_after", "1h")
            .set("fetch.revisit", strings(&[]))
            .set("database.instance", "e2e")
            .set("http.listen", "")
            .set("log.filter", "info,ringcx_extractor=debug")
    }

    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Plan {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    pub fn unset(mut self, key: &str) -> Plan {
        self.settings.remove(key);
        self
    }

    /// Changes the simulated world.
    pub fn sim(mut self, change: impl FnOnce(&mut Options)) -> Plan {
        change(&mut self.sim);
        self
    }

    /// Asks for transcripts only: for tests of many segments.
    pub fn transcripts_only(mut self) -> Plan {
        self.wants.artifacts = [Artifact::Transcript].into_iter().collect();
        self.account("artifacts", strings(&["transcript"]))
    }

    /// How long after the simulator's start nothing changes any more, unless a test adds to it.
    pub(super) fn at_rest_after(&self) -> Duration {
        let Availability { appear_after, late, flip, metadata_edit, transcript_after, summary_after, .. } =
            self.sim.availability;
        let (summary_edit, auto_fill) = (self.sim.availability.summary_edit, self.sim.availability.auto_fill);
        let delay = |delayed: ringcx_extractor::sim::Delayed| {
            if delayed.share > 0.0 { delayed.delay.max } else { Duration::ZERO }
        };
        let metadata = appear_after + delay(late) + delay(flip).max(delay(metadata_edit));
        let artifacts = transcript_after.max.max(summary_after.max + delay(summary_edit).max(delay(auto_fill)));
        self.sim.traffic.until.unwrap_or_default() + metadata.max(artifacts)
    }

    /// Whether everything of a segment is there that ever will be.
    pub(super) fn is_there(entry: &LedgerEntry) -> bool {
        Artifact::ALL.into_iter().all(|artifact| *entry.expect(artifact) != Expect::NotYet)
    }

    /// The settings file.
    pub(super) fn toml(&self) -> String {
        let mut file = toml::Table::new();
        for (path, value) in &self.settings {
            match path.split_once('.') {
                None => {
                    file.insert(path.clone(), value.clone());
                }
                Some((section, key)) => {
                    let section = file.entry(section).or_insert_with(|| Value::Table(toml::Table::new()));
                    if let Value::Table(section) = section {
                        section.insert(key.to_owned(), value.clone());
                    }
                }
            }
        }
        file.to_string()
    }
}

/// A list of texts, for a setting.
pub fn strings(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| Value::from(*text)).collect())
}

/// A range of delays in milliseconds.
pub fn millis(from: u64, to: u64) -> Spread {
    Spread::new(Duration::from_millis(from), Duration::from_millis(to))
}
