//! Several replicas on one Postgres: killed, stopped and continued at random under exact limits. Nothing is lost, nothing
//! doubled, no limit broken, and the accounts are shared: each belongs to one process at a time, as the simulator sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::model::AccountId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);
const ACCOUNTS: u32 = 6;
/// What was sent before a take-over may arrive so long after it, when its sender was killed.
const LATE: Duration = Duration::from_secs(2);

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
    Plan::live(length).set("accounts", listed).set("limits.requests_per_minute", 240).sim(move |sim| {
        sim.accounts = ids;
        sim.limits.requests_per_minute = 240;
        sim.traffic.per_minute = 20.0;
        sim.keep_arrivals = true;
    })
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
    drop(one);
}

/// Has Postgres itself write down who takes which account, and when.
async fn watch(rig: &Rig) -> PgConnection {
    rig.output(&["migrate"]).await;
    let mut db = PgConnection::connect(&rig.place.url).await.unwrap();
    for statement in [
        "create table taken (account bigint, at bigint, epoch bigint)",
        "create function note() returns trigger language plpgsql as $$ begin
             insert into taken values (new.id, extract(epoch from clock_timestamp()) * 1000, new.epoch); return new; end $$",
        "create trigger note after update on account for each row
             when (new.epoch <> old.epoch and new.owner is not null) execute function note()",
    ] {
        sqlx::query(statement).execute(&mut db).await.unwrap();
    }
    db
}

/// When each account was taken, by the simulator's ticks.
async fn takes(rig: &Rig, db: &mut PgConnection, id: &AccountId) -> Vec<Tick> {
    let query = "select at from taken where account = (select id from account where sub = $1) order by epoch";
    let taken: Vec<i64> = sqlx::query_scalar(query).bind(&*id.sub).fetch_all(db).await.unwrap();
    let (now, tick) = (rig.clock.now(), rig.clock.tick());
    taken.into_iter().map(|at| Tick(tick.0.saturating_sub(now.since(Time(at))))).collect()
}

/// Finds that whatever was asked for an account came from one process at a time: each run of requests from one process begins
/// after a take of its own, and the run before it has ended by then.
async fn one_owner_at_a_time(rig: &Rig, db: &mut PgConnection) -> usize {
    let mut changes = 0;
    for id in &rig.plan.sim.accounts {
        let (arrivals, takes) = (rig.sim.arrivals_by_login(id), takes(rig, db, id).await);
        let mut before: Option<(usize, Tick, u64)> = None;
        for (at, login) in arrivals {
            if before.is_some_and(|(_, _, who)| who == login) {
                before = before.map(|(take, _, who)| (take, at, who));
                continue;
            }
            // By a few milliseconds the wall clock that Postgres reads and the ticks may part.
            let take = takes.partition_point(|taken| *taken <= at + Duration::from_millis(50));
            assert!(take > 0, "{id} was asked for before anybody owned it");
            if let Some((earlier, last, _)) = before {
                let story =
                    || format!("taken {takes:?}; the one before asked last at {last:?}, this one first at {at:?}");
                assert!(take > earlier, "{id}: login {login} asked under another's ownership: {}", story());
                assert!(
                    last <= takes[take - 1] + LATE,
                    "{id}: its last owner went on after {login} had taken it: {}",
                    story()
                );
                changes += 1;
            }
            before = Some((take, at, login));
        }
    }
    changes
}

/// For so long: now and then one of three is killed and started again, or stopped for longer than a take-over takes.
async fn killed_and_stopped(rig: &Rig, length: Duration, seed: u64) -> (Vec<Replica>, usize, usize) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut replicas: Vec<Replica> = ["one", "two", "three"].map(|name| Replica::start(rig, name)).into();
    let begun = rig.clock.tick();
    let (mut kills, mut stops) = (0, 0);
    while rig.clock.tick().since(begun) < length {
        rig.clock.sleep(Duration::from_millis(chance.random_range(1_500..5_000))).await;
        let number = chance.random_range(0..replicas.len());
        if chance.random_bool(0.25) {
            // Continued, it must notice before it sends anything.
            replicas[number].signal(Signal::STOP);
            rig.clock.sleep(13 * SECOND).await;
            replicas[number].signal(Signal::CONT);
            stops += 1;
        } else {
            let name = replicas[number].name.clone();
            drop(replicas.remove(number));
            replicas.push(Replica::start(rig, &name));
            kills += 1;
        }
    }
    (replicas, kills, stops)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stopped_and_continued_at_random_nothing_is_lost_and_no_limit_broken() {
    let length = 40 * SECOND;
    let rig = Rig::new(Place::postgres().await, plan(length)).await;
    let mut db = watch(&rig).await;
    let (replicas, kills, stops) = killed_and_stopped(&rig, length, 3).await;
    assert!(kills + stops > 4 && stops > 0, "hardly anything happened: {kills} kills, {stops} stops");
    rig.settled().await;
    assert!(one_owner_at_a_time(&rig, &mut db).await > 3, "the accounts hardly ever changed hands");
    let owners = owners(&rig).await;
    assert_eq!(owners.len(), ACCOUNTS as usize, "{owners:?}");
    drop(replicas);
}

/// `cargo test --release --test replicas -- --ignored --nocapture`: two minutes at more than the limits allow, so that every
/// account sends as fast as it may; `FOR` (seconds) and `SEED` are the knobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes four minutes"]
async fn two_minutes_of_kills_under_full_load_break_nothing() {
    let knob = |name: &str, usual: u64| std::env::var(name).map_or(usual, |value| value.parse().unwrap());
    let length = Duration::from_secs(knob("FOR", 120));
    let plan = plan(length).set("limits.metadata_per_minute", 80).sim(|sim| {
        sim.limits.metadata_per_minute = 80;
        sim.traffic.per_minute = 60.0;
    });
    let rig = Rig::new(Place::postgres().await, plan).await;
    let mut db = watch(&rig).await;
    let (replicas, kills, stops) = killed_and_stopped(&rig, length, knob("SEED", 1)).await;
    rig.until_within(300 * SECOND, "everything is fetched", async || rig.differences(&rig.world()).await.is_empty())
        .await;
    rig.settled().await;
    let changes = one_owner_at_a_time(&rig, &mut db).await;
    let stats = rig.sim.stats();
    println!(
        "{kills} kills, {stops} stops of 13 s, {changes} changes of owner seen; {} requests, {} refused, at most {} of 240 in any \
         minute; {} segments, export equals ledger",
        stats.requests_in_all(),
        stats.refused_in_all(),
        stats.peak_per_minute,
        rig.world().len()
    );
    drop(replicas);
}
