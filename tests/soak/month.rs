//! A month of everything that happens to a daemon, in minutes: a day takes a thirtieth of the time, retention keeps three days.
//!
//! In the first half it is ended, killed and stopped again and again. In the second it lives through everything else without a
//! restart, so that a leak shows. In the end everything that ended within retention must be exported to the letter, everything
//! older be gone, and every sink have had every text.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::AccountId;
use ringcx_extractor::sim::{Delayed, Faults, LedgerEntry, OutageKind, compare};
use rustix::process::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::books::Books;
use super::gauge;
use super::knob;
use super::report::Report;
use super::support::daemon::plan::{millis, strings};
use super::support::daemon::{Place, Plan, Rig};
use super::support::postgres::Cluster;
use super::support::receiver::{Receiver, Reply};

const SECOND: Duration = Duration::from_secs(1);
const DAYS: u32 = 30;
const ACCOUNTS: u32 = 4;
/// So many days from the beginning hold restarts.
const RESTARTS: u32 = 14;

/// What happens on purpose, each at its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    BadDay,
    GoodDay,
    Outage(bool),
    Revoked,
    ReceiverDown,
    ReceiverUp,
    Erase(bool),
    Export,
    Look,
    Backfill,
    End,
    Kill,
    Stop,
    DatabaseStops,
}

/// A month's troubles, by the share of it that has passed, from a seed.
fn troubles(chance: &mut StdRng, postgres: bool) -> Vec<(f64, Trouble)> {
    let mut all = Vec::new();
    for day in 0..DAYS {
        let at = |part: f64| (f64::from(day) + part) / f64::from(DAYS);
        let mut some = |trouble| all.push((at(chance.random_range(0.0..0.9)), trouble));
        some(Trouble::Erase(day % 6 == 5));
        some(Trouble::Look);
        if day % 3 == 1 {
            some(Trouble::Export);
            some(Trouble::Revoked);
        }
        if day % 7 == 3 {
            some(Trouble::Outage(day % 2 == 0));
        }
        if day % 6 == 2 {
            some(Trouble::Backfill);
        }
        if day % 9 == 4 {
            some(Trouble::Stop);
        }
        if postgres && day % 5 == 3 {
            some(Trouble::DatabaseStops);
        }
        if day < RESTARTS {
            some(if day % 2 == 0 { Trouble::End } else { Trouble::Kill });
            some(Trouble::Kill);
        }
        if day % 5 == 4 {
            all.extend([(at(0.0), Trouble::BadDay), (at(1.0), Trouble::GoodDay)]);
        }
        if day % 4 == 2 {
            all.extend([(at(0.1), Trouble::ReceiverDown), (at(0.5), Trouble::ReceiverUp)]);
        }
    }
    all.sort_unstable_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    all
}

fn ids() -> Vec<AccountId> {
    (0..ACCOUNTS).map(|number| AccountId::new("980634004", format!("100{number}"))).collect()
}

fn listed(retention: &str) -> Vec<toml::Value> {
    let listed = ids().into_iter().map(|id| {
        let fields = [
            ("rc_account_id", id.rc.to_string()),
            ("sub_account_id", id.sub.to_string()),
            ("retention", retention.to_owned()),
        ];
        toml::Value::Table(fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    });
    listed.collect()
}

fn sinks(url: &str, rotate: Duration) -> Vec<toml::Value> {
    let rotate = format!("{}s", rotate.as_secs());
    let lake = [("name", "lake"), ("type", "jsonl"), ("path", "out"), ("rotate", &rotate)];
    let hook = [
        ("name", "hook"),
        ("type", "webhook"),
        ("url", url),
        ("secret", "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg=="),
        ("timeout", "2s"),
    ];
    let table = |fields: &[(&str, &str)]| -> toml::Table {
        fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
    };
    let mut hook = table(&hook);
    hook.insert("allow_private".to_owned(), true.into());
    vec![toml::Value::Table(table(&lake)), toml::Value::Table(hook)]
}

fn plan(length: Duration, retention: Duration, url: &str) -> Plan {
    Plan::live(length)
        .set("accounts", listed(&format!("{}s", retention.as_secs())))
        .set("sinks", sinks(url, length / DAYS))
        .set("discovery.rechecks", strings(&["4s", "12s"]))
        .set("fetch.revisit", strings(&["6s"]))
        // Longer than the login may rest after failures, which are not scaled down.
        .set("fetch.give_up_after", "45s")
        .set("log.filter", "warn,ringcx_extractor=info")
        .sim(|sim| {
            sim.accounts = ids();
            sim.seed = knob("SEED", 1);
            sim.traffic.per_minute = knob("PER_MINUTE", 120) as f64;
            sim.traffic.history = 10 * SECOND;
            // Retention counts those from when they were first seen, which these books do not.
            sim.traffic.odd_ends = 0.0;
            sim.availability.appear_after = Duration::from_millis(500);
            sim.availability.late = Delayed::new(0.1, millis(2_800, 7_000));
            sim.availability.flip = Delayed::new(0.1, millis(1_000, 4_000));
            sim.availability.metadata_edit = Delayed::new(0.1, millis(1_000, 4_000));
            sim.availability.transcript_after = millis(0, 5_000);
            sim.availability.summary_after = millis(0, 5_000);
            sim.availability.summary_edit = Delayed::new(0.1, millis(1_000, 3_000));
            sim.availability.auto_fill = Delayed::new(0.1, millis(1_000, 3_000));
            sim.availability.never_transcript = 0.01;
            sim.availability.never_summary = 0.01;
            sim.tokens.access_life = 15 * SECOND;
            sim.tokens.refresh_life = 40 * SECOND;
            sim.tokens.rc_life = 60 * SECOND;
            sim.faults = faults(0.01);
        })
}

fn faults(share: f64) -> Faults {
    let mut faults = Faults::everywhere(share);
    for rates in
        [&mut faults.metadata, &mut faults.transcript, &mut faults.summary, &mut faults.login, &mut faults.accounts]
    {
        rates.slow_for = millis(0, 300);
    }
    // A summary that is missing when it is asked for again stays as it was: that is meant, and would be a difference here.
    faults.summary.not_found = 0.0;
    faults
}

struct Month {
    rig: Rig,
    cluster: Option<Cluster>,
    receiver: Receiver,
    chance: StdRng,
    hook: Books,
    erased: BTreeSet<String>,
    held: Option<String>,
    starts: u32,
    done: std::collections::BTreeMap<String, u32>,
}

pub async fn month(mut place: Place) {
    let length = Duration::from_secs(knob("SOAK_FOR", 600));
    let retention = (length / 10).max(30 * SECOND);
    let seed = knob("SEED", 1);
    let mut chance = StdRng::seed_from_u64(seed);
    let troubles = troubles(&mut chance, !place.is_sqlite());
    let mut cluster = None;
    if !place.is_sqlite() {
        let own = tokio::task::spawn_blocking(Cluster::started).await.unwrap();
        place.url = own.database().expose_secret().to_owned();
        cluster = Some(own);
    }
    println!("{}: {length:?} for a month, seed {seed}", if place.is_sqlite() { "SQLite" } else { "Postgres" });
    let hook = Books::default();
    let receiver = Receiver::forgetful(taking(&hook)).await;
    let rig = Rig::started(place, plan(length, retention, &receiver.url)).await;
    rig.until("the archive is there", async || rig.run(&["status", "--json"]).await.status == 0).await;
    let mut month = Month {
        rig,
        cluster,
        receiver,
        chance,
        hook,
        erased: BTreeSet::new(),
        held: None,
        starts: 1,
        done: Default::default(),
    };
    let report = month.live(length, &troubles).await;
    month.end(retention).await;
    let growing = report.still_growing();
    println!("what happened: {:?}", month.done);
    assert!(growing.is_empty(), "still growing: {growing:#?}");
}

fn taking(hook: &Books) -> impl Fn(&super::support::receiver::Received) -> Reply + Send + 'static {
    let hook = hook.clone();
    move |received| {
        hook.note(&received.event);
        Reply::Status(204)
    }
}

impl Month {
    /// All its days.
    async fn live(&mut self, length: Duration, troubles: &[(f64, Trouble)]) -> Report {
        let mut report = Report::default();
        let samples = (1..=2 * DAYS).map(|half| (f64::from(half) / f64::from(2 * DAYS), None));
        let mut all: Vec<(f64, Option<Trouble>)> =
            troubles.iter().map(|(at, trouble)| (*at, Some(*trouble))).chain(samples).collect();
        all.sort_by(|one, other| one.0.total_cmp(&other.0));
        for (at, what) in all {
            self.rig.clock.sleep_until_time(self.rig.begin + length.mul_f64(at)).await;
            match what {
                Some(trouble) => {
                    let name = format!("{trouble:?}");
                    let name = name.split('(').next().unwrap_or_default().to_owned();
                    *self.done.entry(name).or_default() += 1;
                    self.befalls(trouble, length / DAYS).await;
                }
                None => {
                    assert!(self.rig.is_running(), "the daemon ended by itself");
                    if let Ok(sample) = gauge::look(&mut self.rig).await {
                        report.add(at * f64::from(DAYS), sample);
                    }
                }
            }
        }
        report
    }

    async fn befalls(&mut self, trouble: Trouble, day: Duration) {
        let rig = &mut self.rig;
        match trouble {
            Trouble::BadDay => rig.sim.set_faults(faults(0.05)),
            Trouble::GoodDay => rig.sim.set_faults(faults(0.01)),
            Trouble::Outage(closed) => {
                let now = rig.sim.now();
                let kind = if closed { OutageKind::Closed } else { OutageKind::Unavailable };
                rig.sim.control().outage(now, now + day / 10, kind);
            }
            Trouble::Revoked => rig.sim.control().revoke_all(),
            Trouble::ReceiverDown => {
                let count = std::sync::atomic::AtomicUsize::new(0);
                self.receiver.answer(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
                    0 => Reply::Reset,
                    _ => Reply::Status(503),
                });
            }
            Trouble::ReceiverUp => {
                self.receiver.answer(taking(&self.hook));
                rig.output(&["deliver", "retry", "--all"]).await;
            }
            Trouble::Erase(whole) => self.erase(whole).await,
            Trouble::Export => {
                rig.output(&["export", "-o", "month.jsonl.zst"]).await;
                rig.output(&["verify"]).await;
            }
            Trouble::Look => {
                rig.output(&["status", "--json"]).await;
                rig.run(&["search", "order"]).await.is(0, &[]);
                rig.run(&["audit", "--json"]).await;
            }
            Trouble::Backfill => drop(rig.output(&["backfill", "--from", "20s", "--to", "3s"]).await),
            Trouble::End => {
                rig.signal(Signal::TERM);
                let status = rig.exit(12 * SECOND).await;
                // One that had only just been started does not listen yet.
                assert!(matches!(status, 0 | -15), "the exit status after SIGTERM is {status}");
                self.again();
            }
            Trouble::Kill => {
                rig.kill().await;
                self.again();
            }
            Trouble::Stop => {
                rig.signal(Signal::STOP);
                let long = if self.chance.random_bool(0.3) { 12_000 } else { self.chance.random_range(500..4_000) };
                rig.clock.sleep(Duration::from_millis(long)).await;
                rig.signal(Signal::CONT);
            }
            Trouble::DatabaseStops => {
                let Some(cluster) = &mut self.cluster else { return };
                cluster.crash();
                rig.clock.sleep(Duration::from_millis(self.chance.random_range(200..3_000))).await;
                tokio::task::block_in_place(|| cluster.start());
            }
        }
    }

    fn again(&mut self) {
        self.rig.start();
        self.starts += 1;
    }

    /// Erases a segment that the sinks have had for long; the first that is chosen is held instead.
    async fn erase(&mut self, whole: bool) {
        let rig = &self.rig;
        let now = rig.sim.now();
        let old: Vec<LedgerEntry> = rig
            .sim
            .ledger()
            .ledger_for(ringcx_extractor::model::Stretch { from: now - 20 * SECOND, to: now - 12 * SECOND }, now);
        if old.is_empty() {
            return;
        }
        let id = old[self.chance.random_range(0..old.len())].segment_id.clone();
        if self.held.is_none() {
            rig.output(&["hold", &format!("--segment={id}"), "--reason", "kept"]).await;
            self.held = Some(id);
            return;
        }
        if self.held.as_ref() == Some(&id) {
            return;
        }
        let named = format!("--segment={id}");
        let args: Vec<&str> = ["erase", "--yes", &named].into_iter().chain((!whole).then_some("--quick")).collect();
        let erased = rig.run(&args).await;
        assert!(erased.status <= 1, "{args:?}: {}", erased.text());
        if erased.status != 0 {
            println!("{args:?} ended with 1: {}", erased.text());
        }
        // It is done once that is said, whatever may fail after it.
        if erased.out.contains("erased for good") {
            self.erased.insert(id);
        }
    }

    /// The month is over: everything must be where it belongs.
    async fn end(&mut self, retention: Duration) {
        let rig = &mut self.rig;
        rig.sim.set_faults(Faults::default());
        self.receiver.answer(taking(&self.hook));
        rig.stop().await;
        let stopped = rig.sim.now();
        // What a gap or a backfill brings only after this is meant to stay.
        let before = exported(&rig.output(&["export"]).await);
        rig.set("accounts", listed("forever"));
        rig.start();
        rig.clock.sleep(15 * SECOND).await;
        rig.output(&["deliver", "retry", "--all"]).await;
        let (kept_from, gone_before) = (stopped - retention, stopped - retention.mul_f64(2.0) - 15 * SECOND);
        let mut differences = vec!["not looked yet".to_owned()];
        let end = rig.clock.tick() + 90 * SECOND;
        while !differences.is_empty() && rig.clock.tick() < end {
            rig.clock.sleep(SECOND).await;
            let pending = |status: &Value| {
                status["sinks"].as_array().is_some_and(|sinks| sinks.iter().all(|sink| sink["pending"] == 0))
            };
            let status = rig.json(&["status", "--json"]).await;
            differences = if pending(&status) {
                archive(rig, kept_from, (gone_before, &before), &self.erased, self.held.as_deref()).await
            } else {
                vec![format!("undelivered: {}", status["sinks"])]
            };
        }
        assert!(differences.is_empty(), "the archive differs: {differences:#?}");
        rig.audit_passes().await;
        rig.kept_the_contract();
        rig.output(&["verify"]).await;
        let lake = Books::default();
        lake.read(&rig.place.folder.path().join("out"));
        let world = rig.world();
        // What was first told of when retention had nearly taken it, because reads had waited so long, need not arrive.
        let told_late = |entry: &&LedgerEntry| {
            let end = entry.end.unwrap_or(Time::NONE);
            entry.first_announced.is_some_and(|told| told.since(end) > retention.mul_f64(0.9))
        };
        let late: BTreeSet<String> = world.iter().filter(told_late).map(|entry| entry.segment_id.clone()).collect();
        println!("{} segments were announced when retention had nearly passed", late.len());
        assert!(
            late.len() < 10,
            "{late:?} were announced when retention had nearly passed: reads came hours late by this month's time, which a \
             machine that is busy with other things is enough for; look at `reading` and try it alone"
        );
        let excused: BTreeSet<String> = self.erased.union(&late).cloned().collect();
        let mut wrong = Vec::new();
        for (name, books) in [("lake", &lake), ("hook", &self.hook)] {
            let missing = books.differences(&world, &excused);
            self.stories(&missing, &world).await;
            wrong.extend(missing.into_iter().map(|one| format!("{name}: {one}")));
        }
        let few: Vec<&String> = wrong.iter().take(10).collect();
        assert!(few.is_empty(), "the sinks differ in {} points: {few:#?}", wrong.len());
        self.told(&lake, world.len(), late.len()).await;
    }

    /// Prints what the daemon knows and said of the first segments that these differences name.
    async fn stories(&self, differences: &[String], world: &[LedgerEntry]) {
        let named = |entry: &&LedgerEntry| differences.iter().any(|one| one.contains(&entry.segment_id));
        let log = self.rig.log();
        for entry in world.iter().filter(named).take(5) {
            println!("{entry:?}");
            println!("{}", self.rig.run(&["show", &entry.segment_id, "--json"]).await.text());
            log.lines().filter(|line| line.contains(&entry.segment_id)).for_each(|line| println!("{line}"));
        }
    }

    async fn told(&self, lake: &Books, segments: usize, late: usize) {
        let stats = self.rig.sim.stats();
        let (audit, _) = self.rig.audit().await;
        let sum = |field: &str| -> u64 {
            let accounts = audit["accounts"].as_array().unwrap();
            accounts.iter().filter_map(|account| account["segments"][field].as_u64()).sum()
        };
        println!(
            "{segments} segments in the world, {} announced as the audit says, of which {} are past retention and {} erased; {} starts",
            sum("announced"),
            sum("expired"),
            sum("erased"),
            self.starts
        );
        println!("{} requests; faults: {:?}", stats.requests_in_all(), stats.faults);
        println!("events, and those that came again: lake {:?}, hook {:?}", lake.counts(), self.hook.counts());
        // What was already past retention when it was first told of is not taken in.
        let (announced, least) = (sum("announced"), segments.saturating_sub(late) as u64);
        assert!(
            (least..=segments as u64).contains(&announced),
            "the audit counts {announced}, and {segments} there were"
        );
        assert_eq!(sum("erased"), self.erased.len() as u64);
        if !stats.faults.is_empty() {
            assert!(stats.faults.len() >= 9, "hardly any fault befell the daemon: {:?}", stats.faults);
        }
    }
}

fn exported(export: &str) -> BTreeSet<String> {
    export
        .lines()
        .map(|line| {
            ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segment_id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// In what the export differs from what must be in it: everything since `kept_from`, of what there was while retention held
/// nothing from before `gone_before`, nothing that was erased, and what it has to the letter.
async fn archive(
    rig: &Rig,
    kept_from: Time,
    (gone_before, before): (Time, &BTreeSet<String>),
    erased: &BTreeSet<String>,
    held: Option<&str>,
) -> Vec<String> {
    let export = rig.output(&["export"]).await;
    let ids = exported(&export);
    let (mut expected, mut wrong) = (Vec::new(), Vec::new());
    for entry in rig.world() {
        let end = entry.end.unwrap_or(Time::NONE);
        let (there, gone) = (ids.contains(&entry.segment_id), erased.contains(&entry.segment_id));
        let keeps = held == Some(&entry.segment_id) || end >= kept_from;
        if there && !keeps && end < gone_before && before.contains(&entry.segment_id) {
            wrong.push(format!("{} ended at {} and is still there", entry.segment_id, end.rfc3339()));
        }
        if (there || keeps) && !gone {
            expected.push(entry);
        }
    }
    assert!(expected.len() > 50, "only {} segments are to be compared", expected.len());
    wrong.extend(compare(&export, expected, rig.plan.wants));
    wrong
}
