//! Several replicas on one Postgres, killed, stopped and continued at random under exact limits. Nothing is lost or doubled, no
//! limit is exceeded, and the accounts are shared: by the simulator's requests, each belongs to one process at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

#[path = "../support/mod.rs"]
mod support;

mod rolling_upgrade;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::model::AccountId;
use ringcx_extractor::sim::{Burst, QuotaScope};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use support::test_env::daemon_process::current_program;
use support::test_env::scenario::strings;
use support::test_env::{Scenario, TempDatabase, TestEnv};

const SECOND: Duration = Duration::from_secs(1);
const ACCOUNT_COUNT: u32 = 6;
/// A request of a killed replica may arrive this long after a take-over.
const MAX_LATE_ARRIVAL: Duration = Duration::from_secs(2);

struct Replica {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Replica {
    fn start(env: &TestEnv, name: &str) -> Replica {
        Replica::start_program(env, name, &current_program(), "daemon.log")
    }

    /// Starts a replica of this program, which appends to this log in the database's folder.
    fn start_program(env: &TestEnv, name: &str, program: &Path, log: &str) -> Replica {
        let log = env.database.folder.path().join(log);
        let stderr = std::fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let child = Command::new(program)
            .arg("--config")
            .arg(env.config())
            .arg("run")
            .env_clear()
            .env("RINGCX__DATABASE__INSTANCE", name)
            .current_dir(env.database.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Replica { name: name.to_owned(), log, child }
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

fn account_ids() -> Vec<AccountId> {
    (0..ACCOUNT_COUNT).map(|number| AccountId::new("980634004", format!("100{number}"))).collect()
}

/// The `accounts` setting, with these artifacts.
fn account_settings(artifacts: &[&str]) -> Vec<toml::Value> {
    let listed = account_ids().into_iter().map(|id| {
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

fn scenario(length: Duration) -> Scenario {
    let mut sink = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "out")] {
        sink.insert(key.into(), value.into());
    }
    let sinks = vec![toml::Value::Table(sink)];
    let scenario = Scenario::live(length).set("sinks", sinks).set("accounts", account_settings(&[]));
    scenario.set("limits.requests_per_minute", 240).configure_sim(move |sim| {
        sim.accounts = account_ids();
        sim.limits.requests_per_minute = 240;
        sim.traffic.per_minute = 20.0;
        sim.keep_arrivals = true;
    })
}

async fn account_owners(env: &TestEnv) -> Vec<String> {
    let output = env.run(&["status", "--json"]).await;
    // Before the first replica has created the tables, `status` fails.
    if output.status != 0 {
        return Vec::new();
    }
    let status: Value = serde_json::from_str(&output.out).unwrap();
    let accounts = status["accounts"].as_array().unwrap();
    accounts.iter().filter_map(|account| account["owner"].as_str().map(str::to_owned)).collect()
}

fn is_shared_evenly(owners: &[String], names: &[&str]) -> bool {
    let each = ACCOUNT_COUNT as usize / names.len();
    names.iter().all(|name| owners.iter().filter(|owner| owner == name).count() == each)
}

/// Waits until everything is delivered. Asserts that the replicas' files hold an event of every transcript.
async fn assert_delivered(env: &TestEnv) {
    env.wait_until("everything is delivered", async || {
        env.run_json(&["status", "--json"]).await["sinks"][0]["pending"] == 0
    })
    .await;
    let mut missing: BTreeSet<String> = env
        .expected_segments()
        .into_iter()
        .filter(|entry| entry.has_transcript)
        .map(|entry| entry.segment_id)
        .collect();
    for file in std::fs::read_dir(env.database.folder.path().join("out")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        // A replica that was killed for good may have left a torn line at the end.
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
    let env = TestEnv::new(TempDatabase::postgres().await, scenario(5 * SECOND)).await;
    let one = Replica::start(&env, "one");
    env.wait_until("one owns every account", async || is_shared_evenly(&account_owners(&env).await, &["one"])).await;
    let mut two = Replica::start(&env, "two");
    let three = Replica::start(&env, "three");
    env.wait_until("all three share", async || is_shared_evenly(&account_owners(&env).await, &["one", "two", "three"]))
        .await;
    // A second process under the same name is refused.
    let mut twin = Replica::start(&env, "one");
    env.wait_until("the twin ends", async || twin.child.try_wait().unwrap().is_some()).await;
    assert_eq!(twin.child.wait().unwrap().code(), Some(1));
    env.wait_for_log("give each replica a unique name").await;
    // After an orderly shutdown its accounts move at once; after a kill, when its lease has expired.
    two.signal(Signal::TERM);
    assert_eq!(two.child.wait().unwrap().code(), Some(0));
    env.wait_until("two's accounts have moved", async || {
        is_shared_evenly(&account_owners(&env).await, &["one", "three"])
    })
    .await;
    three.signal(Signal::KILL);
    env.wait_until_within(15 * SECOND, "one has taken over", async || {
        is_shared_evenly(&account_owners(&env).await, &["one"])
    })
    .await;
    env.expect_complete_archive().await;
    assert_delivered(&env).await;
    drop(one);
}

/// Has Postgres record each change of an account's owner, with its time.
async fn record_owner_changes(env: &TestEnv) -> PgConnection {
    env.run_ok(&["migrate"]).await;
    let mut db = PgConnection::connect(&env.database.url).await.unwrap();
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

/// When an account was acquired, in the simulator's ticks.
async fn acquisition_ticks(env: &TestEnv, db: &mut PgConnection, id: &AccountId) -> Vec<Tick> {
    let query = "select at from taken where account = (select id from account where sub = $1) order by epoch";
    let taken: Vec<i64> = sqlx::query_scalar(query).bind(&*id.sub).fetch_all(db).await.unwrap();
    let (now, tick) = (env.clock.now(), env.clock.tick());
    taken.into_iter().map(|at| Tick(tick.0.saturating_sub(now.since(Time(at))))).collect()
}

/// Asserts that one process at a time sent an account's requests: each run of requests from one process begins after its own
/// acquisition, and the previous run has ended by then. Returns the number of changes.
async fn assert_one_owner_at_a_time(env: &TestEnv, db: &mut PgConnection) -> usize {
    let mut changes = 0;
    for id in &env.scenario.sim.accounts {
        let (arrivals, takes) = (env.sim.arrivals_by_login(id), acquisition_ticks(env, db, id).await);
        let mut before: Option<(usize, Tick, u64)> = None;
        for (at, login) in arrivals {
            if before.is_some_and(|(_, _, who)| who == login) {
                before = before.map(|(take, _, who)| (take, at, who));
                continue;
            }
            // Postgres' wall clock and the ticks may differ by a few milliseconds.
            let take = takes.partition_point(|taken| *taken <= at + Duration::from_millis(50));
            assert!(take > 0, "{id} was requested before anybody owned it");
            if let Some((earlier, last, _)) = before {
                let details = || {
                    format!("acquired {takes:?}; last request of the previous owner {last:?}, first of this one {at:?}")
                };
                assert!(take > earlier, "{id}: login {login} sent requests under another's lease: {}", details());
                assert!(
                    last <= takes[take - 1] + MAX_LATE_ARRIVAL,
                    "{id}: its previous owner continued after {login} had acquired it: {}",
                    details()
                );
                changes += 1;
            }
            before = Some((take, at, login));
        }
    }
    changes
}

/// Runs three replicas for `length`. Kills and restarts one at random intervals, or stops it for longer than a take-over takes.
/// Returns the replicas, the kills and the stops.
async fn kill_and_stop_at_random(env: &TestEnv, length: Duration, seed: u64) -> (Vec<Replica>, usize, usize) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut replicas: Vec<Replica> = ["one", "two", "three"].map(|name| Replica::start(env, name)).into();
    let started = env.clock.tick();
    let (mut kills, mut stops) = (0, 0);
    while env.clock.tick().since(started) < length {
        env.clock.sleep(Duration::from_millis(chance.random_range(1_500..5_000))).await;
        let number = chance.random_range(0..replicas.len());
        if chance.random_bool(0.25) {
            // When continued, it must notice the lost lease before it sends anything.
            replicas[number].signal(Signal::STOP);
            env.clock.sleep(13 * SECOND).await;
            replicas[number].signal(Signal::CONT);
            stops += 1;
        } else {
            let name = replicas[number].name.clone();
            drop(replicas.remove(number));
            replicas.push(Replica::start(env, &name));
            kills += 1;
        }
    }
    (replicas, kills, stops)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stopped_and_continued_at_random_nothing_is_lost_and_no_limit_broken() {
    let length = 40 * SECOND;
    let env = TestEnv::new(TempDatabase::postgres().await, scenario(length)).await;
    let mut db = record_owner_changes(&env).await;
    let (replicas, kills, stops) = kill_and_stop_at_random(&env, length, 3).await;
    assert!(kills + stops > 4 && stops > 0, "too few faults: {kills} kills, {stops} stops");
    env.expect_complete_archive().await;
    assert_delivered(&env).await;
    assert!(assert_one_owner_at_a_time(&env, &mut db).await > 3, "the accounts changed owners too rarely");
    let owners = account_owners(&env).await;
    assert_eq!(owners.len(), ACCOUNT_COUNT as usize, "{owners:?}");
    drop(replicas);
}

/// `cargo test --release --test replicas two_minutes -- --ignored --nocapture`: two minutes of more work than the limits allow, so that every
/// account sends at its limit. Options: `FOR` (seconds) and `SEED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes four minutes"]
async fn two_minutes_of_kills_under_full_load_break_nothing() {
    let env_number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |value| value.parse().unwrap());
    let length = Duration::from_secs(env_number("FOR", 120));
    let scenario = scenario(length).set("limits.metadata_per_minute", 80).configure_sim(|sim| {
        sim.limits.metadata_per_minute = 80;
        sim.traffic.per_minute = 60.0;
    });
    let env = TestEnv::new(TempDatabase::postgres().await, scenario).await;
    let mut db = record_owner_changes(&env).await;
    let (replicas, kills, stops) = kill_and_stop_at_random(&env, length, env_number("SEED", 1)).await;
    env.wait_until_within(300 * SECOND, "everything is fetched", async || {
        env.archive_differences(&env.expected_segments()).await.is_empty()
    })
    .await;
    env.expect_complete_archive().await;
    let changes = assert_one_owner_at_a_time(&env, &mut db).await;
    let stats = env.sim.stats();
    println!(
        "{kills} kills, {stops} stops of 13 s, {changes} changes of owner seen; {} requests, {} refused, at most {} of 240 in any \
         minute; {} segments, export equals ledger",
        stats.total_requests(),
        stats.total_refused(),
        stats.peak_per_minute,
        env.expected_segments().len()
    );
    drop(replicas);
}

/// Six accounts with a backlog of more than a minute, and one shared budget of ten requests a second.
async fn env_with_one_budget() -> TestEnv {
    let scenario = Scenario::history()
        .transcripts_only()
        .set("accounts", account_settings(&["transcript"]))
        .set("discovery.window", "1m")
        .set("discovery.interval", "1m")
        .set("discovery.max_window", "1h")
        .set("limits.scope", "login")
        .set("limits.requests_per_minute", 600)
        .configure_sim(|sim| {
            sim.accounts = account_ids();
            sim.limits.scope = QuotaScope::Login;
            sim.limits.requests_per_minute = 600;
            sim.keep_arrivals = true;
            sim.traffic.per_minute = 0.0;
            sim.traffic.transcribed = 1.0;
        });
    let env = TestEnv::new(TempDatabase::postgres().await, scenario).await;
    for id in account_ids() {
        env.sim.add_burst(&id, Burst { from: env.begin - 15 * SECOND, width: 10 * SECOND, count: 200 });
    }
    env
}

/// Requests of all accounts that arrived since then.
fn arrived_since(env: &TestEnv, since: Tick) -> usize {
    account_ids().iter().flat_map(|id| env.sim.arrivals(id)).filter(|at| *at >= since).count()
}

/// The longest time since then without a request.
fn longest_silence(env: &TestEnv, since: Tick) -> Duration {
    let mut arrivals: Vec<Tick> =
        account_ids().iter().flat_map(|id| env.sim.arrivals(id)).filter(|at| *at >= since).collect();
    arrivals.insert(0, since);
    arrivals.sort_unstable();
    arrivals.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
}

/// Asserts that the budget is used in full for five seconds, from the owner's first request on.
async fn assert_full_budget_used(env: &TestEnv, who: &str) {
    let started = env.clock.tick();
    env.wait_until(&format!("{who} sends a request"), async || arrived_since(env, started) > 0).await;
    let from = env.clock.tick();
    env.clock.sleep(5 * SECOND).await;
    let used = arrived_since(env, from);
    println!("{who}: {used} requests in five seconds, of 50");
    assert!((45..=57).contains(&used), "{who} made {used} requests in five seconds, of 50 that the login allows");
    assert_eq!(env.sim.stats().total_refused(), 0);
}

async fn wait_until_all_owned_by(env: &TestEnv, name: &str) {
    let what = format!("all accounts belong to {name}");
    env.wait_until_within(20 * SECOND, &what, async || is_shared_evenly(&account_owners(env).await, &[name])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_share_one_budget_change_hands_together_and_it_is_used_in_full_and_never_exceeded() {
    let env = env_with_one_budget().await;
    let one = Replica::start(&env, "one");
    wait_until_all_owned_by(&env, "one").await;
    let two = Replica::start(&env, "two");
    assert_full_budget_used(&env, "one").await;
    // One is stopped for longer than its lease lasts, and continued when two has used the budget for a while.
    one.signal(Signal::STOP);
    wait_until_all_owned_by(&env, "two").await;
    assert_full_budget_used(&env, "two").await;
    one.signal(Signal::CONT);
    env.wait_for_log("another replica has taken this account over").await;
    // Two shuts down in order, and one acquires the accounts again. It must discard what it remembers of the budget, and wait the
    // two seconds in which two's last requests may still arrive.
    let left = env.clock.tick();
    two.signal(Signal::TERM);
    wait_until_all_owned_by(&env, "one").await;
    assert_full_budget_used(&env, "one, which had it before,").await;
    let silence = longest_silence(&env, left);
    assert!(silence >= 2 * SECOND, "one began {silence:?} after two had ended");
    // Three is running when one is killed.
    let three = Replica::start(&env, "three");
    env.clock.sleep(3 * SECOND).await;
    drop(one);
    wait_until_all_owned_by(&env, "three").await;
    assert_full_budget_used(&env, "three").await;
    env.assert_contract_kept();
    assert!(env.sim.stats().peak_per_minute <= 600);
    drop(three);
}
