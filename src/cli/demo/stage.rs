//! What is played: how long, at what speed, with which faults and which settings. Pure.

use std::path::Path;
use std::time::Duration;

use crate::clock::Time;
use crate::model::{AccountId, ArtifactSet, SummariesFor, Wants};
use crate::sim::{Availability, Delayed, Faults, Options, Rates, Spread, Traffic};

/// What the accounts ask for, as the settings below say (they are the defaults).
pub(super) const WANTS: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

/// The sink's name, and that of the folder beside the archive that its files are in.
pub(super) const SINK: &str = "lake";

const MINUTE: u64 = 60;
const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * MINUTE)
}

/// What ended before the start and lies in the first window.
const HISTORY: Duration = minutes(30);
/// Each stretch of time is read again so long after its end. Not an hour and a day as by default: nobody would wait.
const RECHECK: Duration = minutes(20);
/// No segment appears, and none gets its transcript, later than so long after its end.
const LATEST: Duration = minutes(19);
/// What it takes as a rule, after the last segment, until everything has been read again and fetched.
const SETTLES: Duration = minutes(30);
/// What it may take before it counts as stuck.
const STUCK: Duration = minutes(50);
/// The least traffic that shows anything.
const LEAST_TRAFFIC: Duration = minutes(5);

/// When what happens; spans and moments are of the simulated time unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    /// How many times as fast as the clock on the wall.
    pub(super) speed: u32,
    /// How long segments go on coming about.
    pub(super) traffic: Duration,
    /// When it begins.
    pub(super) start: Time,
    /// How long was asked for, by the clock on the wall.
    asked: Duration,
}

impl Schedule {
    /// For so long in all, by the clock on the wall, where that leaves enough time to come to rest.
    pub(super) fn new(length: Duration, speed: u32) -> Schedule {
        let all = length.saturating_mul(speed);
        let traffic = all.saturating_sub(SETTLES).max(LEAST_TRAFFIC.max(all / 3));
        Schedule { speed, traffic, start: Time(0), asked: length }
    }

    /// The same, such that nothing of it lies after `present`.
    pub(super) fn ending_by(self, present: Time) -> Schedule {
        Schedule { start: present - self.traffic - STUCK, ..self }
    }

    /// When the last segment has ended.
    pub(super) fn end(&self) -> Time {
        self.start + self.traffic
    }

    /// From when on nothing changes any more in RingCX.
    pub(super) fn settled_from(&self) -> Time {
        self.end() + LATEST + minutes(1)
    }

    /// When it counts as stuck.
    pub(super) fn given_up_at(&self) -> Time {
        self.end() + STUCK
    }

    /// How long it takes by the clock on the wall, as a rule.
    pub(super) fn planned(&self) -> Duration {
        ((self.traffic + SETTLES) / self.speed).max(self.asked)
    }

    /// How long it takes at the least, by the clock on the wall: nothing is shown for a moment only.
    pub(super) fn least(&self) -> Duration {
        self.traffic / self.speed
    }
}

/// The accounts: ids and names.
fn accounts() -> [(AccountId, &'static str); 2] {
    [
        (AccountId::new("980634004", "15300002"), "Support EMEA"),
        (AccountId::new("980634004", "15300017"), "Sales Americas"),
    ]
}

/// The simulated RingCX: the vendor's limits, and everything going wrong now and then.
pub(super) fn options(schedule: &Schedule) -> Options {
    let [(support, _), (sales, _)] = accounts();
    let artifact = Rates {
        status_500: 0.02,
        status_503: 0.01,
        reset: 0.02,
        truncate: 0.01,
        error_code: 0.01,
        not_found: 0.05,
        ..Rates::default()
    };
    let metadata = Rates { status_500: 0.03, reset: 0.02, truncate: 0.02, ..Rates::default() };
    Options {
        seed: 7,
        accounts: vec![support.clone(), sales.clone()],
        traffic: Traffic {
            per_minute_of: vec![(support, 5.0), (sales, 3.0)],
            history: HISTORY,
            until: Some(schedule.traffic),
            empty_summaries: 0.15,
            ..Traffic::default()
        },
        availability: Availability {
            // From within the first read of a segment's time to just before it is read again.
            late: Delayed::new(0.08, Spread::new(minutes(4), minutes(9))),
            flip: Delayed::new(0.08, Spread::new(minutes(4), minutes(9))),
            transcript_after: Spread::secs(60, 420),
            ..Availability::default()
        },
        faults: Faults { metadata, transcript: artifact, summary: artifact, ..Faults::default() },
        ..Options::default()
    }
}

/// The settings file: what the daemon runs on, and what commands find the archive by afterwards.
pub(super) fn settings(base: &str, database: &Path, listen: &str) -> String {
    let credentials = Options::default().credentials;
    let (base, text) = (quoted(base), quoted);
    let mut file = format!(
        "# Written by `ringcx-extractor demo`: a simulated RingCX, gone by now, and the archive that it filled.\n\n\
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
        RECHECK.as_secs() / MINUTE,
        text(&format!("sqlite:{}", database.display())),
        text(listen),
        text(SINK),
        text(&database.with_file_name(SINK).to_string_lossy()),
    ));
    file
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Accounts, DatabaseUrl, SinkKind};

    const PRESENT: Time = Time::from_secs(1_790_000_000);

    #[test]
    fn a_minute_at_sixty_times_the_speed_is_an_hour_with_its_end() {
        let schedule = Schedule::new(Duration::from_secs(60), 60).ending_by(PRESENT);
        assert_eq!(schedule.traffic, minutes(30));
        assert_eq!(schedule.planned(), Duration::from_secs(60));
        assert_eq!(schedule.given_up_at(), PRESENT);
    }

    #[test]
    fn what_is_too_short_to_come_to_rest_takes_longer() {
        let schedule = Schedule::new(Duration::from_secs(5), 60).ending_by(PRESENT);
        assert_eq!(schedule.traffic, LEAST_TRAFFIC);
        assert!(schedule.planned() > Duration::from_secs(20));
        assert!(schedule.settled_from() < schedule.given_up_at());
    }

    #[test]
    fn nothing_is_later_than_the_recheck_can_find() {
        let availability = options(&Schedule::new(minutes(1), 60)).availability;
        let latest = availability.appear_after + availability.late.delay.max + availability.flip.delay.max;
        assert!(latest < LATEST && LATEST < RECHECK, "{latest:?}");
        assert!(availability.transcript_after.max < LATEST);
    }

    #[test]
    fn the_settings_that_are_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let database = folder.path().join("it's \"the\" archive.db");
        std::fs::write(&path, settings("http://127.0.0.1:4711", &database, "127.0.0.1:8480")).unwrap();
        let loaded = config::load(Some(&path), []).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.settings.discovery.rechecks, [RECHECK]);
        assert_eq!(loaded.settings.http.listen.as_deref(), Some("127.0.0.1:8480"));
        assert!(
            matches!(&loaded.settings.accounts, Accounts::Listed(listed) if listed.iter().all(|one| one.policy.wants == WANTS) && listed.len() == 2)
        );
        assert!(matches!(&loaded.settings.database.url, DatabaseUrl::Sqlite(held) if *held == database));
        let sink = &loaded.settings.sinks[0];
        assert!(matches!(&sink.kind, SinkKind::Jsonl { path, .. } if *path == folder.path().join(SINK)), "{sink:?}");
    }
}
