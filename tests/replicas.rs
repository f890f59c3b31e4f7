//! Several replicas on one Postgres: killed, stopped and continued at random under exact limits. Nothing is lost, nothing
//! doubled, no limit broken, and the accounts are shared: each belongs to one process at a time, as the simulator sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::model::AccountId;
use ringcx_extractor::sim::{Burst, Scope};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use support::daemon::plan::strings;
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

fn ids() -> Vec<AccountId> {
    (0..ACCOUNTS).map(|number| AccountId::new("980634004", format!("100{number}"))).collect()
}

/// The accounts as the settings list them, for these artifacts.
fn listed(artifacts: &[&str]) -> Vec<toml::Value> {
    let listed = ids().into_iter().map(|id| {
        let mut account = toml::Table::new();
        account.insert("rc_account_id".into(), id.rc.to_string().into());
        account.insert("sub_account_id".into(), id.sub.to_string().into());
        if !artifacts.is_empty() {
            account.insert("artifacts".into(), strings(artifacts));
        }
        toml::Value::Table(account)
    });
    listed.collect()
}

fn plan(length: Duration) -> Plan {
    let mut sink = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "out")] {
        sink.insert(key.into(), value.into());
    }
    let sinks = vec![toml::Value::Table(sink)];
    let plan = Plan::live(length).set("sinks", sinks).set("accounts", listed(&[]));
    plan.set("limits.requests_per_minute", 240).sim(move |sim| {
        sim.accounts = ids();
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
            let event: Value = ringcx_extractor::lenient_json::from_str(line).expect("a whole line");
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
    delivered(&rig).await;
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

/// Six accounts with a backlog for a minute and more, and one budget of ten requests a second for all of them.
async fn one_budget_for_all() -> Rig {
    let plan = Plan::history()
        .transcripts_only()
        .set("accounts", listed(&["transcript"]))
        .set("discovery.window", "1m")
        .set("discovery.interval", "1m")
        .set("discovery.max_window", "1h")
        .set("limits.scope", "login")
        .set("limits.requests_per_minute", 600)
        .sim(|sim| {
            sim.accounts = ids();
            sim.limits.scope = Scope::Login;
            sim.limits.requests_per_minute = 600;
            sim.keep_arrivals = true;
            sim.traffic.per_minute = 0.0;
            sim.traffic.transcribed = 1.0;
        });
    let rig = Rig::new(Place::postgres().await, plan).await;
    for id in ids() {
        rig.sim.add_burst(&id, Burst { from: rig.begin - 15 * SECOND, width: 10 * SECOND, count: 200 });
    }
    rig
}

/// Requests of all accounts that arrived since.
fn arrived_since(rig: &Rig, since: Tick) -> usize {
    ids().iter().flat_map(|id| rig.sim.arrivals(id)).filter(|at| *at >= since).count()
}

/// The longest time since then in which nothing arrived.
fn longest_silence(rig: &Rig, since: Tick) -> Duration {
    let mut arrivals: Vec<Tick> = ids().iter().flat_map(|id| rig.sim.arrivals(id)).filter(|at| *at >= since).collect();
    arrivals.insert(0, since);
    arrivals.sort_unstable();
    arrivals.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
}

/// Finds the whole budget used for five seconds, once whoever has it has begun.
async fn all_of_it_is_used(rig: &Rig, who: &str) {
    let begun = rig.clock.tick();
    rig.until(&format!("{who} asks"), async || arrived_since(rig, begun) > 0).await;
    let from = rig.clock.tick();
    rig.clock.sleep(5 * SECOND).await;
    let used = arrived_since(rig, from);
    println!("{who}: {used} requests in five seconds, of 50");
    assert!((45..=57).contains(&used), "{who} made {used} requests in five seconds, of 50 that the login allows");
    assert_eq!(rig.sim.stats().refused_in_all(), 0);
}

async fn all_belong_to(rig: &Rig, name: &str) {
    let what = format!("all accounts belong to {name}");
    rig.until_within(20 * SECOND, &what, async || shared_by(&owners(rig).await, &[name])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_share_one_budget_change_hands_together_and_it_is_used_in_full_and_never_exceeded() {
    let rig = one_budget_for_all().await;
    let one = Replica::start(&rig, "one");
    all_belong_to(&rig, "one").await;
    let two = Replica::start(&rig, "two");
    all_of_it_is_used(&rig, "one").await;
    // One is stopped for longer than its signs of life last, and continued when two has long had the budget.
    one.signal(Signal::STOP);
    all_belong_to(&rig, "two").await;
    all_of_it_is_used(&rig, "two").await;
    one.signal(Signal::CONT);
    rig.says("another replica has taken this account over").await;
    // Two leaves in good order: one takes back what it had, and must not go by what it remembers of it, but leave the two
    // seconds in which two's last requests may still arrive.
    let left = rig.clock.tick();
    two.signal(Signal::TERM);
    all_belong_to(&rig, "one").await;
    all_of_it_is_used(&rig, "one, which had it before,").await;
    let silence = longest_silence(&rig, left);
    assert!(silence >= 2 * SECOND, "one began {silence:?} after two had ended");
    // Three is there when one is killed.
    let three = Replica::start(&rig, "three");
    rig.clock.sleep(3 * SECOND).await;
    drop(one);
    all_belong_to(&rig, "three").await;
    all_of_it_is_used(&rig, "three").await;
    rig.kept_the_contract();
    assert!(rig.sim.stats().peak_per_minute <= 600);
    drop(three);
}
