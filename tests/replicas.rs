//! Several replicas on one Postgres: killed, stopped and continued at random under exact limits. Nothing is lost, nothing
//! doubled, no limit broken, and the accounts are shared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::model::AccountId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);
const ACCOUNTS: u32 = 6;

struct Replica {
    name: String,
    child: Child,
}

impl Replica {
    fn start(rig: &Rig, name: &str) -> Replica {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(rig.place.folder.path().join("daemon.log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"))
            .arg("--config")
            .arg(rig.config())
            .arg("run")
            .env_clear()
            .env("RINGCX__DATABASE__INSTANCE", name)
            .current_dir(rig.place.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Replica { name: name.to_owned(), child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plan(length: Duration) -> Plan {
    let ids: Vec<AccountId> = (0..ACCOUNTS).map(|number| AccountId::new("980634004", format!("100{number}"))).collect();
    let listed = ids.iter().map(|id| {
        let mut account = toml::Table::new();
        account.insert("rc_account_id".into(), id.rc.to_string().into());
        account.insert("sub_account_id".into(), id.sub.to_string().into());
        toml::Value::Table(account)
    });
    let listed: Vec<toml::Value> = listed.collect();
    let mut sink = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "out")] {
        sink.insert(key.into(), value.into());
    }
    let sinks = vec![toml::Value::Table(sink)];
    Plan::live(length).set("sinks", sinks).set("accounts", listed).set("limits.requests_per_minute", 240).sim(
        move |sim| {
            sim.accounts = ids;
            sim.limits.requests_per_minute = 240;
            sim.traffic.per_minute = 20.0;
        },
    )
}

async fn owners(rig: &Rig) -> Vec<String> {
    let output = rig.run(&["status", "--json"]).await;
    // Before the first replica has made the tables there is nothing to be seen.
    if output.status != 0 {
        return Vec::new();
    }
    let status: Value = serde_json::from_str(&output.out).unwrap();
    let accounts = status["accounts"].as_array().unwrap();
    accounts.iter().filter_map(|account| account["owner"].as_str().map(str::to_owned)).collect()
}

fn shared_by(owners: &[String], names: &[&str]) -> bool {
    let each = ACCOUNTS as usize / names.len();
    names.iter().all(|name| owners.iter().filter(|owner| owner == name).count() == each)
}

/// Waits until everything is delivered, and finds an event of every transcript in the files of one replica or another.
async fn delivered(rig: &Rig) {
    rig.until("everything is delivered", async || rig.json(&["status", "--json"]).await["sinks"][0]["pending"] == 0)
        .await;
    let mut missing: BTreeSet<String> =
        rig.world().into_iter().filter(|entry| entry.has_transcript).map(|entry| entry.segment_id).collect();
    for file in std::fs::read_dir(rig.place.folder.path().join("out")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        // One that was killed and never came back may have left a torn line at the end.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let event: Value = serde_json::from_str(line).expect("a whole line");
            if event["type"] == "com.ringcx.transcript" {
                missing.remove(event["subject"].as_str().unwrap());
            }
        }
    }
    assert!(missing.is_empty(), "nobody delivered {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_take_over_and_hand_over() {
    let rig = Rig::new(Place::postgres().await, plan(5 * SECOND)).await;
    let one = Replica::start(&rig, "one");
    rig.until("one has everything", async || shared_by(&owners(&rig).await, &["one"])).await;
    let mut two = Replica::start(&rig, "two");
    let three = Replica::start(&rig, "three");
    rig.until("all three share", async || shared_by(&owners(&rig).await, &["one", "two", "three"])).await;
    // A second process under the same name is refused.
    let mut twin = Replica::start(&rig, "one");
    rig.until("the twin ends", async || twin.child.try_wait().unwrap().is_some()).await;
    assert_eq!(twin.child.wait().unwrap().code(), Some(1));
    rig.says("give each replica a name of its own").await;
    // Ended in good order, its accounts move at once; killed, after its signs of life have lapsed.
    two.signal(Signal::TERM);
    assert_eq!(two.child.wait().unwrap().code(), Some(0));
    rig.until("two's accounts have moved", async || shared_by(&owners(&rig).await, &["one", "three"])).await;
    three.signal(Signal::KILL);
    rig.until_within(15 * SECOND, "one has taken over", async || shared_by(&owners(&rig).await, &["one"])).await;
    rig.settled().await;
    delivered(&rig).await;
    drop(one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stopped_and_continued_at_random_nothing_is_lost_and_no_limit_broken() {
    let mut chance = StdRng::seed_from_u64(3);
    let length = 40 * SECOND;
    let rig = Rig::new(Place::postgres().await, plan(length)).await;
    let mut replicas: Vec<Replica> = ["one", "two", "three"].map(|name| Replica::start(&rig, name)).into();
    let begun = rig.clock.tick();
    let mut kills = 0;
    while rig.clock.tick().since(begun) < length {
        rig.clock.sleep(Duration::from_millis(chance.random_range(1_500..5_000))).await;
        let number = chance.random_range(0..replicas.len());
        if chance.random_bool(0.25) {
            // Stopped for longer than a take-over takes, then continued: it must notice before it sends anything.
            replicas[number].signal(Signal::STOP);
            rig.clock.sleep(13 * SECOND).await;
            replicas[number].signal(Signal::CONT);
        } else {
            let name = replicas[number].name.clone();
            drop(replicas.remove(number));
            replicas.push(Replica::start(&rig, &name));
        }
        kills += 1;
    }
    assert!(kills > 4, "hardly anything happened");
    rig.settled().await;
    delivered(&rig).await;
    let owners = owners(&rig).await;
    assert_eq!(owners.len(), ACCOUNTS as usize, "{owners:?}");
}
