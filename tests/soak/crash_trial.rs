//! Hundreds of `kill -9`: while the archive is created, while the daemon starts, works and stops, and of concurrent commands.
//!
//! The daemon works at its limits, which the simulator counts, and writes JSON lines files. In the end every text must be stored
//! and delivered unchanged, and no request refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::db::{Db, OpenMode, sql};
use ringcx_extractor::sim::compare_export;
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::Value;

use super::delivery_log::DeliveryLog;
use super::env_number;
use super::support::test_env::scenario::strings;
use super::support::test_env::{Scenario, TempDatabase, TestEnv};

const SECOND: Duration = Duration::from_secs(1);
/// The limit of the daemon and of the simulator.
const REQUESTS_PER_MINUTE: u32 = 600;

pub async fn hundreds_of_kills_lose_nothing(database: TempDatabase) {
    let (kills, seed) = (env_number("KILLS", 200), env_number("SEED", 1));
    let name = if database.is_sqlite() { "SQLite" } else { "Postgres" };
    println!("{name}: {kills} kills, seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let creation_kills = kills / 5;
    let progress = kill_during_creation(&database, creation_kills, &mut rng).await;
    println!("{name}: {creation_kills} kills while the archive was created, which then had: {progress:?}");
    kill_during_work(database, kills - creation_kills, &mut rng).await;
}

async fn new_database_of_same_kind(database: &TempDatabase) -> TempDatabase {
    if database.is_sqlite() { TempDatabase::sqlite() } else { TempDatabase::postgres().await }
}

/// Kills daemons while they create their archives, and lets each finish its work. Returns what the kills left behind.
async fn kill_during_creation(database: &TempDatabase, kills: u64, rng: &mut StdRng) -> BTreeMap<String, u32> {
    let mut progress = BTreeMap::new();
    let mut left = kills;
    while left > 0 {
        let mut env = TestEnv::new(new_database_of_same_kind(database).await, Scenario::history()).await;
        for _ in 0..left.min(4) {
            env.start();
            env.clock.sleep(Duration::from_millis(rng.random_range(0..120))).await;
            env.kill().await;
            *progress.entry(creation_progress(&env.database).await).or_default() += 1;
            left -= 1;
        }
        env.start();
        env.expect_complete_archive().await;
        env.run_ok(&["verify"]).await;
        env.stop().await;
    }
    progress
}

/// How far the creation of an archive has got.
async fn creation_progress(database: &TempDatabase) -> String {
    let db = match database.url.strip_prefix("sqlite:") {
        Some(path) if std::fs::metadata(Path::new(path)).map_or(0, |file| file.len()) == 0 => {
            return "nothing".to_owned();
        }
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await,
        None => Db::open_postgres(&SecretString::from(database.url.clone()), OpenMode::Existing, 2).await,
    };
    let Ok(db) = db else { return "no schema".to_owned() };
    let accounts = db.count(sql("select count(*) from account")).await;
    db.close().await;
    match accounts {
        Ok(0) => "its schema".to_owned(),
        _ => "its account".to_owned(),
    }
}

fn scenario(length: Duration) -> Scenario {
    let sink = [("name", "lake"), ("type", "jsonl"), ("path", "out"), ("rotate", "10s")];
    let sink: toml::Table = sink.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    Scenario::live(length)
        .set("sinks", vec![toml::Value::Table(sink)])
        .set("discovery.window", "10s")
        .set("discovery.interval", "2s")
        .set("discovery.rechecks", strings(&["15s"]))
        .set("limits.requests_per_minute", i64::from(REQUESTS_PER_MINUTE))
        .set("limits.metadata_per_minute", 40)
        .set("limits.metadata_per_15_minutes", 600)
        .set("limits.token_exchanges_per_minute", 60)
        .configure_sim(|sim| {
            sim.traffic.per_minute = 180.0;
            sim.limits.requests_per_minute = REQUESTS_PER_MINUTE;
            sim.limits.metadata_per_minute = 40;
            sim.limits.metadata_per_15_minutes = 600;
            sim.limits.exchanges_per_minute = 60;
        })
}

/// The process that is killed, and its state.
#[derive(Debug, Clone, Copy)]
enum KillTarget {
    DaemonWorking,
    DaemonStarting,
    DaemonStopping,
    EraseCommand,
    ExportCommand,
    EraseWithVacuum,
}

struct CrashTrial {
    env: TestEnv,
    erased: BTreeSet<String>,
    exports: u32,
}

async fn kill_during_work(database: TempDatabase, kills: u64, rng: &mut StdRng) {
    let length = Duration::from_millis(kills * 1_300).max(10 * SECOND);
    let env = TestEnv::new(database, scenario(length)).await;
    let mut trial = CrashTrial { env, erased: BTreeSet::new(), exports: 0 };
    let mut kill_counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut done = 0;
    while done < kills {
        let target = match rng.random_range(0..20) {
            _ if done == 0 => KillTarget::DaemonWorking,
            0..10 => KillTarget::DaemonWorking,
            10..13 => KillTarget::DaemonStarting,
            13..15 => KillTarget::DaemonStopping,
            15 => KillTarget::EraseCommand,
            16..18 => KillTarget::ExportCommand,
            _ => KillTarget::EraseWithVacuum,
        };
        let (command, daemon) = trial.kill(target, rng).await;
        // While a command is killed, the daemon works.
        let state = if command > 0 { KillTarget::DaemonWorking } else { target };
        for (who, killed) in [(target, command), (state, daemon)] {
            *kill_counts.entry(format!("{who:?}")).or_default() += killed;
            done += u64::from(killed);
        }
    }
    println!("killed: {kill_counts:?}");
    trial.finish(length).await;
}

impl CrashTrial {
    /// One round. Returns how many commands and how many daemons were killed.
    async fn kill(&mut self, target: KillTarget, rng: &mut StdRng) -> (u32, u32) {
        let millis = |rng: &mut StdRng, most| Duration::from_millis(rng.random_range(0..most));
        self.env.start();
        let wait = match target {
            KillTarget::DaemonStarting => millis(rng, 250),
            _ => {
                self.env.wait_for_request().await;
                millis(rng, 1_500)
            }
        };
        self.env.clock.sleep(wait).await;
        let killed_commands = match target {
            KillTarget::EraseCommand | KillTarget::EraseWithVacuum => {
                let quick = matches!(target, KillTarget::EraseCommand).then_some("--quick");
                match self.pick_erasable_segment(rng) {
                    Some(id) => {
                        let named = format!("--segment={id}");
                        let args: Vec<&str> = ["erase", "--yes", &named].into_iter().chain(quick).collect();
                        self.kill_command(&args, millis(rng, 150)).await;
                        self.erase(&id).await;
                        1
                    }
                    None => 0,
                }
            }
            KillTarget::ExportCommand => {
                self.kill_command(&["export", "-o", "whole.jsonl"], millis(rng, 1_000)).await;
                self.check_export();
                1
            }
            KillTarget::DaemonStopping => {
                self.env.signal(Signal::TERM);
                self.env.clock.sleep(millis(rng, 60)).await;
                0
            }
            _ => 0,
        };
        // After SIGTERM it may have ended already.
        self.env.signal_if_running(Signal::KILL);
        let status = self.env.wait_for_exit(10 * SECOND).await;
        assert!(
            status == -9 || (status == 0 && matches!(target, KillTarget::DaemonStopping)),
            "the daemon ended with {status}"
        );
        (killed_commands, u32::from(status == -9))
    }

    async fn kill_command(&self, args: &[&str], after: Duration) {
        let mut child = self.env.spawn(args);
        self.env.clock.sleep(after).await;
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// A segment that was delivered and not erased.
    fn pick_erasable_segment(&self, rng: &mut StdRng) -> Option<String> {
        let delivered = DeliveryLog::default();
        delivered.read_whole_lines(&self.env.database.folder.path().join("out"));
        let segments = delivered.segments();
        let segments: Vec<&String> = segments.iter().filter(|id| !self.erased.contains(*id)).collect();
        (!segments.is_empty()).then(|| segments[rng.random_range(0..segments.len())].clone())
    }

    /// Erases a segment that a killed command may or may not have erased.
    async fn erase(&mut self, id: &str) {
        let named = format!("--segment={id}");
        let erased = self.env.run(&["erase", "--yes", &named, "--quick"]).await;
        assert!(erased.status <= 1, "{}", erased.text());
        assert!(erased.status == 0 || erased.text().contains("contains nothing"), "{}", erased.text());
        self.env.run(&["show", "--", id]).await.assert_output(1, &["erased"]);
        self.erased.insert(id.to_owned());
    }

    /// Asserts that an export file is whole, if it exists.
    fn check_export(&mut self) {
        let Ok(text) = std::fs::read_to_string(self.env.database.folder.path().join("whole.jsonl")) else { return };
        assert!(text.ends_with('\n'), "an export was torn");
        text.lines()
            .for_each(|line| drop(ringcx_extractor::lenient_json::from_str::<Value>(line).expect("a whole line")));
        self.exports += 1;
    }

    async fn finish(mut self, length: Duration) {
        let CrashTrial { env, erased, exports } = &mut self;
        env.clock.sleep_until_time(env.begin + length + 2 * SECOND).await;
        env.start();
        let differences = async |env: &TestEnv| {
            let export = env.run_ok(&["export"]).await;
            let world = env.expected_segments().into_iter().filter(|entry| !erased.contains(&entry.segment_id));
            compare_export(&export, world, env.scenario.wants)
        };
        let end = env.clock.tick() + 400 * SECOND;
        while !differences(env).await.is_empty() {
            assert!(env.clock.tick() < end, "not complete: {:#?}", differences(env).await);
            env.clock.sleep(SECOND).await;
        }
        env.wait_for_audit().await;
        env.assert_contract_kept();
        env.wait_until("all is delivered", async || {
            env.run_json(&["status", "--json"]).await["sinks"][0]["pending"] == 0
        })
        .await;
        env.run_ok(&["verify"]).await;
        env.stop().await;
        let delivered = DeliveryLog::default();
        delivered.read_folder(&env.database.folder.path().join("out"));
        let world = env.expected_segments();
        let differences = delivered.differences(&world, erased);
        assert!(differences.is_empty(), "the files differ: {differences:#?}");
        let (stats, (events, again)) = (env.sim.stats(), delivered.counts());
        println!(
            "{} segments, {} requests, most in any 60 s {} of {REQUESTS_PER_MINUTE}, refused {}; {} erased, {exports} exports found whole; \
             {events} events, {again} of them again",
            world.len(),
            stats.total_requests(),
            stats.peak_per_minute,
            stats.total_refused(),
            erased.len()
        );
        assert_eq!(stats.total_refused(), 0, "requests beyond a limit: {:?}", stats.refused);
    }
}
