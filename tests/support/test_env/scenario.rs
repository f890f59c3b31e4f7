//! A test scenario: the simulator's options and the daemon's settings.

use std::collections::BTreeMap;
use std::time::Duration;

use ringcx_extractor::model::{Artifact, ArtifactSelection, ArtifactSet, SummariesFor};
use ringcx_extractor::sim::{
    AcceptedCredentials, Availability, DelayRange, ExpectedArtifact, ExpectedSegment, Options, SimLimits, Traffic,
    WindowRules,
};
use toml::Value;

/// The simulator's options and the daemon's settings, as a builder.
#[derive(Clone)]
pub struct Scenario {
    pub sim: Options,
    /// By path, such as `discovery.window`.
    pub settings: BTreeMap<String, Value>,
    /// What `settings` request of each segment.
    pub wants: ArtifactSelection,
}

impl Scenario {
    /// About thirty segments that ended before the start. All artifacts are available within a second; there are no limits.
    pub fn history() -> Scenario {
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
            windows: WindowRules { offset: Duration::from_secs(1), ..WindowRules::default() },
            limits: SimLimits::unlimited(),
            ..Options::default()
        };
        let wants = ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };
        let scenario = Scenario { sim, settings: BTreeMap::new(), wants };
        scenario.with_login().with_account().scaled_down()
    }

    /// The same, and segments that continue to end for `length`.
    pub fn live(length: Duration) -> Scenario {
        let mut scenario = Scenario::history();
        scenario.sim.traffic.until = Some(length);
        scenario
    }

    fn with_login(self) -> Scenario {
        let credentials = AcceptedCredentials::default();
        self.set("auth.client_id", credentials.client_id)
            .set("auth.client_secret", credentials.client_secret)
            .set("auth.jwt", credentials.jwt)
    }

    fn with_account(self) -> Scenario {
        let mut account = toml::Table::new();
        account.insert("rc_account_id".into(), self.sim.accounts[0].rc.to_string().into());
        account.insert("sub_account_id".into(), self.sim.accounts[0].sub.to_string().into());
        self.set("accounts", vec![Value::Table(account)])
    }

    /// Changes a setting of the only listed account.
    pub fn account_setting(mut self, key: &str, value: impl Into<Value>) -> Scenario {
        if let Some(Value::Array(accounts)) = self.settings.get_mut("accounts")
            && let Some(Value::Table(account)) = accounts.first_mut()
        {
            account.insert(key.to_owned(), value.into());
        }
        self
    }

    fn scaled_down(self) -> Scenario {
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

    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Scenario {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    pub fn unset(mut self, key: &str) -> Scenario {
        self.settings.remove(key);
        self
    }

    /// Changes the simulator's options.
    pub fn configure_sim(mut self, change: impl FnOnce(&mut Options)) -> Scenario {
        change(&mut self.sim);
        self
    }

    /// Requests transcripts only, for tests of many segments.
    pub fn transcripts_only(mut self) -> Scenario {
        self.wants.artifacts = [Artifact::Transcript].into_iter().collect();
        self.account_setting("artifacts", strings(&["transcript"]))
    }

    /// How long after the simulator's start the simulated data stops changing, unless a test adds to it.
    pub(super) fn settle_duration(&self) -> Duration {
        let Availability { appear_after, late, flip, metadata_edit, transcript_after, summary_after, .. } =
            self.sim.availability;
        let (summary_edit, auto_fill) = (self.sim.availability.summary_edit, self.sim.availability.auto_fill);
        let delay = |delayed: ringcx_extractor::sim::PartialDelay| {
            if delayed.share > 0.0 { delayed.delay.max } else { Duration::ZERO }
        };
        let metadata = appear_after + delay(late) + delay(flip).max(delay(metadata_edit));
        let artifacts = transcript_after.max.max(summary_after.max + delay(summary_edit).max(delay(auto_fill)));
        self.sim.traffic.until.unwrap_or_default() + metadata.max(artifacts)
    }

    /// Whether every artifact of a segment has its final state.
    pub(super) fn is_available(entry: &ExpectedSegment) -> bool {
        Artifact::ALL.into_iter().all(|artifact| *entry.expected_artifact(artifact) != ExpectedArtifact::NotYet)
    }

    /// The text of the settings file.
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
pub fn millis(from: u64, to: u64) -> DelayRange {
    DelayRange::new(Duration::from_millis(from), Duration::from_millis(to))
}
