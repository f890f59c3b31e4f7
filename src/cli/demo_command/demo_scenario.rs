//! The scenario of the demo: its duration, speed, faults and settings. Pure.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::model::{AccountId, ArtifactSelection, ArtifactSet, SummariesFor};
use crate::sim::workload::Workload;
use crate::sim::{Availability, DelayRange, FaultRates, Faults, Options, PartialDelay, Traffic};

/// The artifacts to fetch, as in the settings below, which are the defaults.
pub(super) const ARTIFACT_SELECTION: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

/// The name of the sink and of its folder.
pub(super) const SINK_NAME: &str = "lake";

const SECONDS_PER_MINUTE: u64 = 60;
const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * SECONDS_PER_MINUTE)
}

/// The period of traffic before the start, which lies in the first window.
const HISTORY: Duration = minutes(30);
/// The recheck delay, which is shorter than the default so that the demo ends soon.
const RECHECK_DELAY: Duration = minutes(20);
/// The longest delay after its end at which a segment appears or receives its transcript.
const MAX_LATENESS: Duration = minutes(19);
/// The usual time after the last segment until everything has been rechecked and fetched.
const USUAL_COMPLETION_TIME: Duration = minutes(30);
/// The time after the last segment at which the demo gives up.
const COMPLETION_TIMEOUT: Duration = minutes(50);
/// The shortest useful period of traffic.
const MIN_TRAFFIC: Duration = minutes(5);

/// The timeline of the demo, in simulated time unless noted otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DemoTimeline {
    /// The speed of the clock as a multiple of real time.
    pub(super) speed: u32,
    /// How long the simulator creates segments.
    pub(super) traffic: Duration,
    /// The start.
    pub(super) start: Time,
    /// The requested duration, in real time.
    requested: Duration,
}

impl DemoTimeline {
    /// Creates a timeline of `length` in real time, or longer if the work needs it.
    pub(super) fn new(length: Duration, speed: u32) -> DemoTimeline {
        let all = length.saturating_mul(speed);
        let traffic = all.saturating_sub(USUAL_COMPLETION_TIME).max(MIN_TRAFFIC.max(all / 3));
        DemoTimeline { speed, traffic, start: Time(0), requested: length }
    }

    /// Moves the timeline so that it ends at `present` at the latest.
    pub(super) fn ending_by(self, present: Time) -> DemoTimeline {
        DemoTimeline { start: present - self.traffic - COMPLETION_TIMEOUT, ..self }
    }

    /// The end of the last segment.
    pub(super) fn end(&self) -> Time {
        self.start + self.traffic
    }

    /// The time from which the simulated RingCX does not change any more.
    pub(super) fn final_from(&self) -> Time {
        self.end() + MAX_LATENESS + minutes(1)
    }

    /// The time at which the demo gives up.
    pub(super) fn deadline(&self) -> Time {
        self.end() + COMPLETION_TIMEOUT
    }

    /// The usual duration, in real time.
    pub(super) fn planned_duration(&self) -> Duration {
        ((self.traffic + USUAL_COMPLETION_TIME) / self.speed).max(self.requested)
    }

    /// The minimum duration, in real time, so that the progress stays visible.
    pub(super) fn min_duration(&self) -> Duration {
        self.traffic / self.speed
    }
}

/// The seed of everything random.
const SEED: u64 = 7;

/// The ids and names of the accounts.
fn accounts() -> [(AccountId, &'static str); 2] {
    [
        (AccountId::new("980634004", "15300002"), "Support EMEA"),
        (AccountId::new("980634004", "15300017"), "Sales Americas"),
    ]
}

/// The options of the simulated RingCX: the real limits, and occasional faults of every kind.
pub(super) fn simulator_options(timeline: &DemoTimeline) -> Options {
    let [(support, _), (sales, _)] = accounts();
    let artifact = FaultRates {
        status_500: 0.02,
        status_503: 0.01,
        reset: 0.02,
        truncate: 0.01,
        error_code: 0.01,
        not_found: 0.05,
        ..FaultRates::default()
    };
    let metadata = FaultRates { status_500: 0.03, reset: 0.02, truncate: 0.02, ..FaultRates::default() };
    Options {
        seed: SEED,
        accounts: vec![support.clone(), sales.clone()],
        traffic: Traffic {
            per_minute_of: vec![(support, 5.0), (sales, 3.0)],
            history: HISTORY,
            until: Some(timeline.traffic),
            empty_summaries: 0.15,
            workload: Some(Arc::new(Workload::new(SEED))),
            ..Traffic::default()
        },
        availability: Availability {
            // Delays from the first read of a segment's time to just before the recheck.
            late: PartialDelay::new(0.08, DelayRange::new(minutes(4), minutes(9))),
            flip: PartialDelay::new(0.08, DelayRange::new(minutes(4), minutes(9))),
            transcript_after: DelayRange::secs(60, 420),
            ..Availability::default()
        },
        faults: Faults { metadata, transcript: artifact, summary: artifact, ..Faults::default() },
        ..Options::default()
    }
}

/// The settings file of the daemon and of later commands.
pub(super) fn settings_file(base: &str, database: &Path, listen: &str) -> String {
    let credentials = Options::default().credentials;
    let (base, text) = (toml_string(base), toml_string);
    let mut file = format!(
        "# Written by `ringcx-extractor demo`. The simulated RingCX no longer runs; the archive remains.\n\n\
         [api]\nplatform_url = {base}\nringcx_url = {base}\nsummary_url = {base}\n\n\
         [auth]\nclient_id = {}\nclient_secret = {}\njwt = {}\n\n",
        text(&credentials.client_id),
        text(&credentials.client_secret),
        text(&credentials.jwt),
    );
    for (id, name) in accounts() {
        file.push_str(&format!(
            "[[accounts]]\nrc_account_id = {}\nsub_account_id = {}\nname = {}\n\n",
            text(&id.rc),
            text(&id.sub),
            text(name)
        ));
    }
    file.push_str(&format!(
        "[discovery]\nrechecks = [\"{}m\"]\n\n[database]\nurl = {}\ninstance = \"demo\"\n\n[http]\nlisten = {}\n\n\
         [[sinks]]\nname = {}\ntype = \"jsonl\"\npath = {}\nstart = \"beginning\"\n",
        RECHECK_DELAY.as_secs() / SECONDS_PER_MINUTE,
        text(&format!("sqlite:{}", database.display())),
        text(listen),
        text(SINK_NAME),
        text(&database.with_file_name(SINK_NAME).to_string_lossy()),
    ));
    file
}

/// Formats a TOML string.
fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Accounts, DatabaseUrl, SinkKind};

    const PRESENT: Time = Time::from_secs(1_790_000_000);

    #[test]
    fn a_minute_at_sixty_times_the_speed_is_an_hour_with_its_end() {
        let timeline = DemoTimeline::new(Duration::from_secs(60), 60).ending_by(PRESENT);
        assert_eq!(timeline.traffic, minutes(30));
        assert_eq!(timeline.planned_duration(), Duration::from_secs(60));
        assert_eq!(timeline.deadline(), PRESENT);
    }

    #[test]
    fn what_is_too_short_to_come_to_rest_takes_longer() {
        let timeline = DemoTimeline::new(Duration::from_secs(5), 60).ending_by(PRESENT);
        assert_eq!(timeline.traffic, MIN_TRAFFIC);
        assert!(timeline.planned_duration() > Duration::from_secs(20));
        assert!(timeline.final_from() < timeline.deadline());
    }

    #[test]
    fn nothing_is_later_than_the_recheck_can_find() {
        let availability = simulator_options(&DemoTimeline::new(minutes(1), 60)).availability;
        let latest = availability.appear_after + availability.late.delay.max + availability.flip.delay.max;
        assert!(latest < MAX_LATENESS && MAX_LATENESS < RECHECK_DELAY, "{latest:?}");
        assert!(availability.transcript_after.max < MAX_LATENESS);
    }

    #[test]
    fn the_settings_that_are_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let database = folder.path().join("it's \"the\" archive.db");
        std::fs::write(&path, settings_file("http://127.0.0.1:4711", &database, "127.0.0.1:8480")).unwrap();
        let loaded = config::load(Some(&path), []).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.settings.discovery.rechecks, [RECHECK_DELAY]);
        assert_eq!(loaded.settings.http.listen.as_deref(), Some("127.0.0.1:8480"));
        assert!(
            matches!(&loaded.settings.accounts, Accounts::Listed(listed) if listed.iter().all(|one| one.policy.wants == ARTIFACT_SELECTION) && listed.len() == 2)
        );
        assert!(matches!(&loaded.settings.database.url, DatabaseUrl::Sqlite(held) if *held == database));
        let sink = &loaded.settings.sinks[0];
        assert!(
            matches!(&sink.kind, SinkKind::Jsonl { path, .. } if *path == folder.path().join(SINK_NAME)),
            "{sink:?}"
        );
    }
}
