//! `kill -9` by the hundred: while the archive is made, while the daemon starts, works and ends, and of the commands beside it.
//!
//! The daemon works at its limits, which the simulator counts, and writes files of JSON lines. In the end everything must be
//! there once, to the letter, and no request have been one too many.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::db::{Access, Db, sql};
use ringcx_extractor::sim::compare;
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::Value;

use super::books::Books;
use super::knob;
use super::support::daemon::plan::strings;
use super::support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);
/// Requests a minute, on both sides.
const LIMIT: u32 = 600;

pub async fn kills(place: Place) {
    let (kills, seed) = (knob("KILLS", 200), knob("SEED", 1));
    let name = if place.is_sqlite() { "SQLite" } else { "Postgres" };
    println!("{name}: {kills} kills, seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let young = kills / 5;
    let found = in_the_cradle(&place, young, &mut chance).await;
    println!("{name}: {young} kills while the archive was made, which then had: {found:?}");
    at_work(place, kills - young, &mut chance).await;
}

async fn another(place: &Place) -> Place {
    if place.is_sqlite() { Place::sqlite() } else { Place::postgres().await }
}

/// Archives that are killed a few times while they are made, and then work; what the kills left behind.
async fn in_the_cradle(place: &Place, kills: u64, chance: &mut StdRng) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut left = kills;
    while left > 0 {
        let mut rig = Rig::new(another(place).await, Plan::history()).await;
        for _ in 0..left.min(4) {
            rig.start();
            rig.clock.sleep(Duration::from_millis(chance.random_range(0..120))).await;
            rig.kill().await;
            *found.entry(made(&rig.place).await).or_default() += 1;
            left -= 1;
        }
        rig.start();
        rig.settled().await;
        rig.output(&["verify"]).await;
        rig.stop().await;
    }
    found
}

/// How far an archive has got.
async fn made(place: &Place) -> String {
    let db = match place.url.strip_prefix("sqlite:") {
        Some(path) if std::fs::metadata(Path::new(path)).map_or(0, |file| file.len()) == 0 => {
            return "nothing".to_owned();
        }
        Some(path) => Db::open_sqlite(Path::new(path), Access::Existing).await,
        None => Db::open_postgres(&SecretString::from(place.url.clone()), Access::Existing, 2).await,
    };
    let Ok(db) = db else { return "some migrations".to_owned() };
    let accounts = db.first(sql("select count(*) from account")).await.map(|row| row.map_or(Ok(0), |row| row.int(0)));
    db.close().await;
    match accounts {
        Ok(Ok(0)) => "all migrations".to_owned(),
        _ => "its account".to_owned(),
    }
}

fn plan(length: Duration) -> Plan {
    let sink = [("name", "lake"), ("type", "jsonl"), ("path", "out"), ("rotate", "10s")];
    let sink: toml::Table = sink.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    Plan::live(length)
        .set("sinks", vec![toml::Value::Table(sink)])
        .set("discovery.window", "10s")
        .set("discovery.interval", "2s")
        .set("discovery.rechecks", strings(&["15s"]))
        .set("limits.requests_per_minute", i64::from(LIMIT))
        .set("limits.metadata_per_minute", 40)
        .set("limits.metadata_per_15_minutes", 600)
        .set("limits.token_exchanges_per_minute", 60)
        .sim(|sim| {
            sim.traffic.per_minute = 180.0;
            sim.limits.requests_per_minute = LIMIT;
            sim.limits.metadata_per_minute = 40;
            sim.limits.metadata_per_15_minutes = 600;
            sim.limits.exchanges_per_minute = 60;
        })
}

/// What is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Working,
    Starting,
    Ending,
    Erasing,
    Exporting,
    Vacuuming,
}

struct Trial {
    rig: Rig,
    erased: BTreeSet<String>,
    exports: u32,
}

async fn at_work(place: Place, kills: u64, chance: &mut StdRng) {
    let length = Duration::from_millis(kills * 1_300).max(10 * SECOND);
    let rig = Rig::new(place, plan(length)).await;
    let mut trial = Trial { rig, erased: BTreeSet::new(), exports: 0 };
    let mut victims: BTreeMap<String, u32> = BTreeMap::new();
    let mut done = 0;
    while done < kills {
        let victim = match chance.random_range(0..20) {
            _ if done == 0 => Victim::Working,
            0..10 => Victim::Working,
            10..13 => Victim::Starting,
            13..15 => Victim::Ending,
            15 => Victim::Erasing,
            16..18 => Victim::Exporting,
            _ => Victim::Vacuuming,
        };
        let (command, daemon) = trial.kill(victim, chance).await;
        // Beside a command that was killed, the daemon was at work.
        let state = if command > 0 { Victim::Working } else { victim };
        for (who, killed) in [(victim, command), (state, daemon)] {
            *victims.entry(format!("{who:?}")).or_default() += killed;
            done += u64::from(killed);
        }
    }
    println!("killed: {victims:?}");
    trial.end(length).await;
}

impl Trial {
    /// One round; how many commands and how many daemons were killed in it.
    async fn kill(&mut self, victim: Victim, chance: &mut StdRng) -> (u32, u32) {
        let millis = |chance: &mut StdRng, most| Duration::from_millis(chance.random_range(0..most));
        self.rig.start();
        let wait = match victim {
            Victim::Starting => millis(chance, 250),
            _ => {
                self.rig.asks().await;
                millis(chance, 1_500)
            }
        };
        self.rig.clock.sleep(wait).await;
        let beside = match victim {
            Victim::Erasing | Victim::Vacuuming => {
                let quick = matches!(victim, Victim::Erasing).then_some("--quick");
                match self.eraseable(chance) {
                    Some(id) => {
                        let named = format!("--segment={id}");
                        let args: Vec<&str> = ["erase", "--yes", &named].into_iter().chain(quick).collect();
                        self.kill_command(&args, millis(chance, 150)).await;
                        self.erase(&id).await;
                        1
                    }
                    None => 0,
                }
            }
            Victim::Exporting => {
                self.kill_command(&["export", "-o", "whole.jsonl"], millis(chance, 1_000)).await;
                self.look_at_export();
                1
            }
            Victim::Ending => {
                self.rig.signal(Signal::TERM);
                self.rig.clock.sleep(millis(chance, 60)).await;
                0
            }
            _ => 0,
        };
        // One that was told to end may just have done so.
        self.rig.signal_if_running(Signal::KILL);
        let status = self.rig.exit(10 * SECOND).await;
        assert!(status == -9 || (status == 0 && matches!(victim, Victim::Ending)), "the daemon ended with {status}");
        (beside, u32::from(status == -9))
    }

    async fn kill_command(&self, args: &[&str], after: Duration) {
        let mut child = self.rig.spawn(args);
        self.rig.clock.sleep(after).await;
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// A segment that the sink should long have had.
    fn eraseable(&self, chance: &mut StdRng) -> Option<String> {
        let books = Books::default();
        books.read_whole_lines(&self.rig.place.folder.path().join("out"));
        let had = books.segments();
        let had: Vec<&String> = had.iter().filter(|id| !self.erased.contains(*id)).collect();
        (!had.is_empty()).then(|| had[chance.random_range(0..had.len())].clone())
    }

    /// Erases what a killed command may or may not have erased.
    async fn erase(&mut self, id: &str) {
        let named = format!("--segment={id}");
        let erased = self.rig.run(&["erase", "--yes", &named, "--quick"]).await;
        assert!(erased.status <= 1, "{}", erased.text());
        assert!(erased.status == 0 || erased.text().contains("holds nothing"), "{}", erased.text());
        self.rig.run(&["show", "--", id]).await.is(1, &["erased"]);
        self.erased.insert(id.to_owned());
    }

    /// What an export left behind is whole, or not there.
    fn look_at_export(&mut self) {
        let Ok(text) = std::fs::read_to_string(self.rig.place.folder.path().join("whole.jsonl")) else { return };
        assert!(text.ends_with('\n'), "an export was torn");
        text.lines()
            .for_each(|line| drop(ringcx_extractor::lenient_json::from_str::<Value>(line).expect("a whole line")));
        self.exports += 1;
    }

    async fn end(mut self, length: Duration) {
        let Trial { rig, erased, exports } = &mut self;
        rig.clock.sleep_until_time(rig.begin + length + 2 * SECOND).await;
        rig.start();
        let differences = async |rig: &Rig| {
            let export = rig.output(&["export"]).await;
            let world = rig.world().into_iter().filter(|entry| !erased.contains(&entry.segment_id));
            compare(&export, world, rig.plan.wants)
        };
        let end = rig.clock.tick() + 400 * SECOND;
        while !differences(rig).await.is_empty() {
            assert!(rig.clock.tick() < end, "not complete: {:#?}", differences(rig).await);
            rig.clock.sleep(SECOND).await;
        }
        rig.audit_passes().await;
        rig.kept_the_contract();
        rig.until("all is delivered", async || rig.json(&["status", "--json"]).await["sinks"][0]["pending"] == 0).await;
        rig.output(&["verify"]).await;
        rig.stop().await;
        let books = Books::default();
        books.read(&rig.place.folder.path().join("out"));
        let world = rig.world();
        let differences = books.differences(&world, erased);
        assert!(differences.is_empty(), "the files differ: {differences:#?}");
        let (stats, (events, again)) = (rig.sim.stats(), books.counts());
        println!(
            "{} segments, {} requests, most in any 60 s {} of {LIMIT}, refused {}; {} erased, {exports} exports found whole; \
             {events} events, {again} of them again",
            world.len(),
            stats.requests_in_all(),
            stats.peak_per_minute,
            stats.refused_in_all(),
            erased.len()
        );
        assert_eq!(stats.refused_in_all(), 0, "requests beyond a limit: {:?}", stats.refused);
    }
}
