//! A month of faults in minutes: a day takes a thirtieth of the time, and retention keeps three days.
//!
//! In the first half the daemon is terminated, killed and suspended repeatedly. In the second half all other faults occur without
//! a restart, so that a leak shows. In the end, everything within retention must be exported unchanged, everything older be gone,
//! and every sink have received every text.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::AccountId;
use ringcx_extractor::sim::{ExpectedSegment, Faults, OutageKind, PartialDelay, compare_export};
use rustix::process::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::delivery_log::DeliveryLog;
use super::env_number;
use super::growth_report::GrowthReport;
use super::resource_sample;
use super::support::postgres_cluster::PostgresCluster;
use super::support::test_env::scenario::{millis, strings};
use super::support::test_env::{Scenario, TempDatabase, TestEnv};
use super::support::webhook_receiver::{WebhookReceiver, WebhookReply, WebhookRequest};

const SECOND: Duration = Duration::from_secs(1);
const DAYS: u32 = 30;
const ACCOUNT_COUNT: u32 = 4;
/// The first days, which have restarts.
const DAYS_WITH_RESTARTS: u32 = 14;

/// A scheduled event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MonthEvent {
    RaiseFaultRate,
    LowerFaultRate,
    /// Whether connections are refused, instead of answered with 503.
    Outage(bool),
    RevokeTokens,
    ReceiverDown,
    ReceiverUp,
    /// Whether the database file is rewritten too.
    Erase(bool),
    Export,
    QueryCommands,
    Backfill,
    Terminate,
    Kill,
    Suspend,
    CrashDatabase,
}

/// The events of a month, each with its time as a share of the month.
fn schedule_events(rng: &mut StdRng, postgres: bool) -> Vec<(f64, MonthEvent)> {
    let mut all = Vec::new();
    for day in 0..DAYS {
        let at = |part: f64| (f64::from(day) + part) / f64::from(DAYS);
        let mut at_random_time = |event| all.push((at(rng.random_range(0.0..0.9)), event));
        at_random_time(MonthEvent::Erase(day % 6 == 5));
        at_random_time(MonthEvent::QueryCommands);
        if day % 3 == 1 {
            at_random_time(MonthEvent::Export);
            at_random_time(MonthEvent::RevokeTokens);
        }
        if day % 7 == 3 {
            at_random_time(MonthEvent::Outage(day % 2 == 0));
        }
        if day % 6 == 2 {
            at_random_time(MonthEvent::Backfill);
        }
        if day % 9 == 4 {
            at_random_time(MonthEvent::Suspend);
        }
        if postgres && day % 5 == 3 {
            at_random_time(MonthEvent::CrashDatabase);
        }
        if day < DAYS_WITH_RESTARTS {
            at_random_time(if day % 2 == 0 { MonthEvent::Terminate } else { MonthEvent::Kill });
            at_random_time(MonthEvent::Kill);
        }
        if day % 5 == 4 {
            all.extend([(at(0.0), MonthEvent::RaiseFaultRate), (at(1.0), MonthEvent::LowerFaultRate)]);
        }
        if day % 4 == 2 {
            all.extend([(at(0.1), MonthEvent::ReceiverDown), (at(0.5), MonthEvent::ReceiverUp)]);
        }
    }
    all.sort_unstable_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    all
}

fn account_ids() -> Vec<AccountId> {
    (0..ACCOUNT_COUNT).map(|number| AccountId::new("980634004", format!("100{number}"))).collect()
}

fn account_settings(retention: &str) -> Vec<toml::Value> {
    let listed = account_ids().into_iter().map(|id| {
        let fields = [
            ("rc_account_id", id.rc.to_string()),
            ("sub_account_id", id.sub.to_string()),
            ("retention", retention.to_owned()),
        ];
        toml::Value::Table(fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    });
    listed.collect()
}

fn sink_settings(url: &str, rotate: Duration) -> Vec<toml::Value> {
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

fn scenario(length: Duration, retention: Duration, url: &str) -> Scenario {
    Scenario::live(length)
        .set("accounts", account_settings(&format!("{}s", retention.as_secs())))
        .set("sinks", sink_settings(url, length / DAYS))
        .set("discovery.rechecks", strings(&["4s", "12s"]))
        .set("fetch.revisit", strings(&["6s"]))
        // Longer than the pauses of the login after failures, which are not scaled down.
        .set("fetch.give_up_after", "45s")
        .set("log.filter", "warn,ringcx_extractor=info")
        .configure_sim(|sim| {
            sim.accounts = account_ids();
            sim.seed = env_number("SEED", 1);
            sim.traffic.per_minute = env_number("PER_MINUTE", 120) as f64;
            sim.traffic.history = 10 * SECOND;
            // Retention counts such segments from when they were first seen, which this comparison does not know.
            sim.traffic.odd_ends = 0.0;
            sim.availability.appear_after = Duration::from_millis(500);
            sim.availability.late = PartialDelay::new(0.1, millis(2_800, 7_000));
            sim.availability.flip = PartialDelay::new(0.1, millis(1_000, 4_000));
            sim.availability.metadata_edit = PartialDelay::new(0.1, millis(1_000, 4_000));
            sim.availability.transcript_after = millis(0, 5_000);
            sim.availability.summary_after = millis(0, 5_000);
            sim.availability.summary_edit = PartialDelay::new(0.1, millis(1_000, 3_000));
            sim.availability.auto_fill = PartialDelay::new(0.1, millis(1_000, 3_000));
            sim.availability.never_transcript = 0.01;
            sim.availability.never_summary = 0.01;
            sim.tokens.access_lifetime = 15 * SECOND;
            sim.tokens.refresh_lifetime = 40 * SECOND;
            sim.tokens.rc_lifetime = 60 * SECOND;
            sim.faults = fault_rates(0.01);
        })
}

fn fault_rates(share: f64) -> Faults {
    let mut faults = Faults::everywhere(share);
    for rates in
        [&mut faults.metadata, &mut faults.transcript, &mut faults.summary, &mut faults.login, &mut faults.accounts]
    {
        rates.slow_for = millis(0, 300);
    }
    // A summary that is missing at a refresh stays as stored, by design; here that would count as a difference.
    faults.summary.not_found = 0.0;
    faults
}

struct MonthTrial {
    env: TestEnv,
    cluster: Option<PostgresCluster>,
    receiver: WebhookReceiver,
    rng: StdRng,
    hook: DeliveryLog,
    erased: BTreeSet<String>,
    held: Option<String>,
    starts: u32,
    done: std::collections::BTreeMap<String, u32>,
}

pub async fn a_month_of_faults_loses_nothing(mut database: TempDatabase) {
    let length = Duration::from_secs(env_number("SOAK_FOR", 600));
    let retention = (length / 10).max(30 * SECOND);
    let seed = env_number("SEED", 1);
    let mut rng = StdRng::seed_from_u64(seed);
    let events = schedule_events(&mut rng, !database.is_sqlite());
    let mut cluster = None;
    if !database.is_sqlite() {
        let own = tokio::task::spawn_blocking(PostgresCluster::start_new).await.unwrap();
        database.url = own.create_database().expose_secret().to_owned();
        cluster = Some(own);
    }
    println!("{}: {length:?} for a month, seed {seed}", if database.is_sqlite() { "SQLite" } else { "Postgres" });
    let hook = DeliveryLog::default();
    let receiver = WebhookReceiver::start_discarding(recording_reply(&hook)).await;
    let env = TestEnv::with_daemon(database, scenario(length, retention, &receiver.url)).await;
    env.wait_until("the archive is created", async || env.run(&["status", "--json"]).await.status == 0).await;
    let mut month = MonthTrial {
        env,
        cluster,
        receiver,
        rng,
        hook,
        erased: BTreeSet::new(),
        held: None,
        starts: 1,
        done: Default::default(),
    };
    let report = month.run_days(length, &events).await;
    month.finish(retention).await;
    let growing = report.growing_figures();
    println!("what happened: {:?}", month.done);
    assert!(growing.is_empty(), "keeps growing: {growing:#?}");
}

fn recording_reply(hook: &DeliveryLog) -> impl Fn(&WebhookRequest) -> WebhookReply + Send + 'static {
    let hook = hook.clone();
    move |received| {
        hook.record_event(&received.event);
        WebhookReply::Status(204)
    }
}

impl MonthTrial {
    /// Runs all days, and takes a sample twice a day.
    async fn run_days(&mut self, length: Duration, events: &[(f64, MonthEvent)]) -> GrowthReport {
        let mut report = GrowthReport::default();
        let samples = (1..=2 * DAYS).map(|half| (f64::from(half) / f64::from(2 * DAYS), None));
        let mut all: Vec<(f64, Option<MonthEvent>)> =
            events.iter().map(|(at, event)| (*at, Some(*event))).chain(samples).collect();
        all.sort_by(|one, other| one.0.total_cmp(&other.0));
        for (at, what) in all {
            self.env.clock.sleep_until_time(self.env.begin + length.mul_f64(at)).await;
            match what {
                Some(event) => {
                    let name = format!("{event:?}");
                    let name = name.split('(').next().unwrap_or_default().to_owned();
                    *self.done.entry(name).or_default() += 1;
                    self.apply_event(event, length / DAYS).await;
                }
                None => {
                    assert!(self.env.is_running(), "the daemon ended by itself");
                    match resource_sample::take_sample(&mut self.env).await {
                        Ok(sample) => report.add(at * f64::from(DAYS), sample),
                        Err(error) => println!("no sample on day {:.1}: {error}", at * f64::from(DAYS)),
                    }
                }
            }
        }
        report
    }

    async fn apply_event(&mut self, event: MonthEvent, day: Duration) {
        let env = &mut self.env;
        match event {
            MonthEvent::RaiseFaultRate => env.sim.set_faults(fault_rates(0.05)),
            MonthEvent::LowerFaultRate => env.sim.set_faults(fault_rates(0.01)),
            MonthEvent::Outage(closed) => {
                let now = env.sim.now();
                let kind = if closed { OutageKind::Closed } else { OutageKind::Unavailable };
                env.sim.control().add_outage(now, now + day / 10, kind);
            }
            MonthEvent::RevokeTokens => env.sim.control().revoke_all_tokens(),
            MonthEvent::ReceiverDown => {
                let count = std::sync::atomic::AtomicUsize::new(0);
                self.receiver.set_reply(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
                    0 => WebhookReply::Reset,
                    _ => WebhookReply::Status(503),
                });
            }
            MonthEvent::ReceiverUp => {
                self.receiver.set_reply(recording_reply(&self.hook));
                env.run_ok(&["deliver", "retry", "--all"]).await;
            }
            MonthEvent::Erase(whole) => self.erase(whole).await,
            MonthEvent::Export => {
                env.run_ok(&["export", "-o", "month.jsonl.zst"]).await;
                env.run_ok(&["verify"]).await;
            }
            MonthEvent::QueryCommands => {
                env.run_ok(&["status", "--json"]).await;
                env.run(&["search", "order"]).await.assert_output(0, &[]);
                env.run(&["audit", "--json"]).await;
            }
            MonthEvent::Backfill => drop(env.run_ok(&["backfill", "--from", "20s", "--to", "3s"]).await),
            MonthEvent::Terminate => {
                env.signal(Signal::TERM);
                let status = env.wait_for_exit(12 * SECOND).await;
                // A daemon that was just started does not handle the signal yet.
                assert!(matches!(status, 0 | -15), "the exit status after SIGTERM is {status}");
                self.restart();
            }
            MonthEvent::Kill => {
                env.kill().await;
                self.restart();
            }
            MonthEvent::Suspend => {
                env.signal(Signal::STOP);
                let long = if self.rng.random_bool(0.3) { 12_000 } else { self.rng.random_range(500..4_000) };
                env.clock.sleep(Duration::from_millis(long)).await;
                env.signal(Signal::CONT);
            }
            MonthEvent::CrashDatabase => {
                let Some(cluster) = &mut self.cluster else { return };
                cluster.crash();
                env.clock.sleep(Duration::from_millis(self.rng.random_range(200..3_000))).await;
                tokio::task::block_in_place(|| cluster.start());
            }
        }
    }

    fn restart(&mut self) {
        self.env.start();
        self.starts += 1;
    }

    /// Erases a segment that the sinks received some time ago. The first chosen segment is put on hold instead.
    async fn erase(&mut self, whole: bool) {
        let env = &self.env;
        let now = env.sim.now();
        let old: Vec<ExpectedSegment> = env
            .sim
            .expected_archive()
            .segments_in(ringcx_extractor::model::TimeRange { from: now - 20 * SECOND, to: now - 12 * SECOND }, now);
        if old.is_empty() {
            return;
        }
        let id = old[self.rng.random_range(0..old.len())].segment_id.clone();
        if self.held.is_none() {
            env.run_ok(&["hold", &format!("--segment={id}"), "--reason", "kept"]).await;
            self.held = Some(id);
            return;
        }
        if self.held.as_ref() == Some(&id) {
            return;
        }
        let named = format!("--segment={id}");
        let args: Vec<&str> = ["erase", "--yes", &named].into_iter().chain((!whole).then_some("--quick")).collect();
        let erased = env.run(&args).await;
        assert!(erased.status <= 1, "{args:?}: {}", erased.text());
        if erased.status != 0 {
            println!("{args:?} ended with 1: {}", erased.text());
        }
        // This line means that the segment is erased, whatever fails afterwards.
        if erased.out.contains("erased permanently") {
            self.erased.insert(id);
        }
    }

    /// Checks the archive and the sinks after the month.
    async fn finish(&mut self, retention: Duration) {
        let env = &mut self.env;
        env.sim.set_faults(Faults::default());
        self.receiver.set_reply(recording_reply(&self.hook));
        env.stop().await;
        let stopped = env.sim.now();
        // Segments that a late read adds after this are not expected to expire.
        let before = exported_ids(&env.run_ok(&["export"]).await);
        env.set("accounts", account_settings("forever"));
        env.start();
        env.clock.sleep(15 * SECOND).await;
        env.run_ok(&["deliver", "retry", "--all"]).await;
        let (kept_from, gone_before) = (stopped - retention, stopped - retention.mul_f64(2.0) - 15 * SECOND);
        let mut differences = vec!["not compared yet".to_owned()];
        let end = env.clock.tick() + 90 * SECOND;
        while !differences.is_empty() && env.clock.tick() < end {
            env.clock.sleep(SECOND).await;
            let pending = |status: &Value| {
                status["sinks"].as_array().is_some_and(|sinks| sinks.iter().all(|sink| sink["pending"] == 0))
            };
            let status = env.run_json(&["status", "--json"]).await;
            differences = if pending(&status) {
                archive_differences(env, kept_from, (gone_before, &before), &self.erased, self.held.as_deref()).await
            } else {
                vec![format!("undelivered: {}", status["sinks"])]
            };
        }
        assert!(differences.is_empty(), "the archive differs: {differences:#?}");
        env.wait_for_audit().await;
        env.assert_contract_kept();
        env.run_ok(&["verify"]).await;
        let lake = DeliveryLog::default();
        lake.read_folder(&env.database.folder.path().join("out"));
        let world = env.expected_segments();
        // A segment that was first announced shortly before its retention ends, because reads were late, may be missing.
        let announced_late = |entry: &&ExpectedSegment| {
            let end = entry.end.unwrap_or(Time::NONE);
            entry.first_announced.is_some_and(|announced| announced.since(end) > retention.mul_f64(0.9))
        };
        let late: BTreeSet<String> =
            world.iter().filter(announced_late).map(|entry| entry.segment_id.clone()).collect();
        println!("{} segments were announced shortly before their retention ended", late.len());
        assert!(
            late.len() < 10,
            "{late:?} were announced shortly before their retention ended: reads were hours late in this month's time. A busy \
             machine is enough for that; check the table `reading` and run the test alone"
        );
        let excused: BTreeSet<String> = self.erased.union(&late).cloned().collect();
        // An erasure, on request or by retention, also takes the text out of the JSON lines files, and tells the receiver.
        let kept = exported_ids(&env.run_ok(&["export"]).await);
        let gone = world.iter().map(|entry| &entry.segment_id).filter(|id| !kept.contains(*id)).cloned();
        let gone: BTreeSet<String> = excused.iter().cloned().chain(gone).collect();
        let left = lake.segments_with_text().into_iter().filter(|id| !kept.contains(id));
        let mut wrong: Vec<String> = left.map(|id| format!("lake: a text of {id}, which was erased")).collect();
        let told = self.hook.erased_segments();
        let untold = self.hook.segments_with_text().into_iter().filter(|id| !kept.contains(id) && !told.contains(id));
        wrong.extend(untold.map(|id| format!("hook: {id} was erased, and no event said so")));
        for (name, log, excused) in [("lake", &lake, &gone), ("hook", &self.hook, &excused)] {
            let missing = log.differences(&world, excused);
            self.print_histories(&missing, &world).await;
            wrong.extend(missing.into_iter().map(|one| format!("{name}: {one}")));
        }
        let few: Vec<&String> = wrong.iter().take(10).collect();
        assert!(few.is_empty(), "the sinks differ in {} points: {few:#?}", wrong.len());
        self.print_summary(&lake, world.len(), late.len()).await;
    }

    /// Prints what the daemon stored and logged about the first segments that the differences name.
    async fn print_histories(&self, differences: &[String], world: &[ExpectedSegment]) {
        let named = |entry: &&ExpectedSegment| differences.iter().any(|one| one.contains(&entry.segment_id));
        let log = self.env.log();
        for entry in world.iter().filter(named).take(5) {
            println!("{entry:?}");
            println!("{}", self.env.run(&["show", &entry.segment_id, "--json"]).await.text());
            log.lines().filter(|line| line.contains(&entry.segment_id)).for_each(|line| println!("{line}"));
        }
    }

    async fn print_summary(&self, lake: &DeliveryLog, segments: usize, late: usize) {
        let stats = self.env.sim.stats();
        let (audit, _) = self.env.audit_json().await;
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
        println!("{} requests; faults: {:?}", stats.total_requests(), stats.faults);
        println!("events, and those that came again: lake {:?}, hook {:?}", lake.counts(), self.hook.counts());
        // Segments that were past retention when first announced are not stored.
        let (announced, least) = (sum("announced"), segments.saturating_sub(late) as u64);
        assert!((least..=segments as u64).contains(&announced), "the audit counts {announced} of {segments} segments");
        assert_eq!(sum("erased"), self.erased.len() as u64);
        if !stats.faults.is_empty() {
            assert!(stats.faults.len() >= 9, "too few kinds of faults occurred: {:?}", stats.faults);
        }
    }
}

fn exported_ids(export: &str) -> BTreeSet<String> {
    export
        .lines()
        .map(|line| {
            ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segment_id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// How the export differs from what it must contain: every segment since `kept_from`, none of the segments in `before` that ended
/// before `gone_before`, no erased segment, and each one unchanged.
async fn archive_differences(
    env: &TestEnv,
    kept_from: Time,
    (gone_before, before): (Time, &BTreeSet<String>),
    erased: &BTreeSet<String>,
    held: Option<&str>,
) -> Vec<String> {
    let export = env.run_ok(&["export"]).await;
    let ids = exported_ids(&export);
    let (mut expected, mut wrong) = (Vec::new(), Vec::new());
    for entry in env.expected_segments() {
        let end = entry.end.unwrap_or(Time::NONE);
        let (there, gone) = (ids.contains(&entry.segment_id), erased.contains(&entry.segment_id));
        let keeps = held == Some(&entry.segment_id) || end >= kept_from;
        if there && !keeps && end < gone_before && before.contains(&entry.segment_id) {
            wrong.push(format!("{} ended at {} and is still stored", entry.segment_id, end.rfc3339()));
        }
        if (there || keeps) && !gone {
            expected.push(entry);
        }
    }
    assert!(expected.len() > 50, "only {} segments are to be compared", expected.len());
    wrong.extend(compare_export(&export, expected, env.scenario.wants));
    wrong
}
