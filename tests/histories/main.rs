//! Model-based tests: random histories of everything that can happen, checked against the promises of the program.
//!
//! Each seed generates a simulated API (segments that appear late, change, or never become available) and a sequence of
//! operations (time, polls, fetches, commits, faults, crashes, take-overs, clock changes, database outages). They run on a real
//! SQLite database with the program's planner, budget, pacer, fetch machine, backoff and database code. Only HTTP and the loops are
//! replaced. After each operation a simple model is compared with the database. At the end, after a time without
//! faults, the archive must equal the simulated API, and its hash chain must verify.
//!
//! Seeds that failed once are in `seeds.txt` and run first. Then as many as fit into a few seconds, always the same ones.
//! `HISTORIES=5000 cargo test --test histories -- --nocapture` runs that many and prints the counts of events. `DATABASE=postgres`
//! runs them on Postgres, whose clock then shows the history's time. `SEED=17 cargo test --test histories` runs one seed. A
//! failing history is shortened and printed.
//!
//! One test for each injected fault of the driver checks that the model notices it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot unwrap has failed"
)]

mod discovery_driver;
mod fetch_driver;
mod history_run;
mod operation;
#[path = "../support/postgres_cluster.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod postgres_cluster;
mod reference_model;
mod run_context;
mod simulated_api;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use operation::Operation;
use ringcx_extractor::clock::{Clock, Tick};
use run_context::{DriverFault, EventCounts, SharedDatabase};
use tempfile::TempDir;

/// By default a run has at least `MIN_HISTORIES`, more until `PLAY_DURATION` is over, and at most `MAX_HISTORIES`.
const MIN_HISTORIES: u64 = 100;
const PLAY_DURATION: Duration = Duration::from_secs(10);
const MAX_HISTORIES: u64 = 5000;
const FIRST_SEED: u64 = 1_000_000;
/// Histories that share a database, each with its own account, because creating a database takes longer than a history.
const HISTORIES_PER_DATABASE: u64 = 25;
const PLAYER_THREADS: usize = 4;

/// Events that must have happened at least once; otherwise the run shows nothing about them.
const REQUIRED_EVENTS: &[&str] = &[
    "histories",
    "answers",
    "API dates ahead",
    "API dates behind",
    "429s that counted no attempt",
    "accounts released in order",
    "backfills requested",
    "backfills completed",
    "late writes of previous owners",
    "clocks set back",
    "clocks set forward",
    "commits reported as failed",
    "commits while the database was unavailable",
    "crashes after a commit, before the process knew",
    "crashes after the record, before the process knew",
    "crashes before a commit",
    "crashes between operations",
    "crashes between the last chunk and the record",
    "crashes in the middle of an answer",
    "corrected starts of an account",
    "endpoints that recovered",
    "failed attempts",
    "account faults",
    "items deferred by a clock that was ahead",
    "items given up at their horizon",
    "late results of previous owners",
    "truncated metadata answers",
    "metadata reads",
    "metadata reads that failed",
    "panics in the middle of a step",
    "pauses of discovery",
    "power cuts",
    "reads dropped in the middle",
    "rechecks",
    "records set aside",
    "records that were committed and reported as failed",
    "recoveries of discovery",
    "recoveries that could not be recorded",
    "resumes by an operator",
    "retries",
    "rival acquisitions refused",
    "segments compared at the end",
    "starts with a clock far ahead",
    "late segments and flags",
    "take-overs in the middle of an answer",
    "take-overs after a lease expired",
    "database outages",
    "writes while the database was unavailable",
    "requests that panicked",
    "probes that panicked",
    "ends of pauses that could not be recorded",
    "pauses restored at a start",
    "results that were not accepted",
    "late queries that returned completed items",
    "clocks set back while an item was on cooldown",
    "resumes during a pause",
];

/// Whether `$DATABASE` asks for Postgres.
fn on_postgres() -> bool {
    std::env::var("DATABASE").is_ok_and(|kind| kind == "postgres")
}

fn env_number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A folder for databases, in memory where possible.
fn temp_folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

struct HistoryPlayer {
    folder: TempDir,
    database: Option<SharedDatabase>,
    played: u64,
}

impl HistoryPlayer {
    fn new() -> HistoryPlayer {
        HistoryPlayer { folder: temp_folder(), database: None, played: 0 }
    }

    async fn next_database(&mut self) -> SharedDatabase {
        if self.played.is_multiple_of(HISTORIES_PER_DATABASE)
            && let Some(database) = self.database.take()
        {
            database.close().await;
        }
        self.played += 1;
        if self.database.is_none() {
            let path = self.folder.path().join(format!("{}.db", self.played));
            let database = match on_postgres() {
                true => SharedDatabase::open_server(postgres_cluster::create_database()).await,
                false => SharedDatabase::open_file(path).await,
            };
            self.database = Some(database.expect("a database"));
        }
        self.database.clone().expect("a database")
    }

    async fn play(
        &mut self,
        seed: u64,
        operations: &[Operation],
        fault: Option<DriverFault>,
    ) -> Result<EventCounts, String> {
        let database = self.next_database().await;
        let label = format!("{seed}-{}", self.played);
        let played = history_run::play_history(&database, &label, seed, operations, fault).await;
        if played.is_err() {
            // The failed run may have left it closed or inconsistent.
            self.database = None;
        }
        played.map_err(|violation| violation.0)
    }
}

/// Removes operations as long as the history still fails.
async fn shorten_failure(player: &mut HistoryPlayer, seed: u64, fault: Option<DriverFault>) -> Vec<Operation> {
    let mut operations = history_run::operations_of_seed(seed);
    let mut width = operations.len() / 2;
    while width > 0 {
        let mut from = 0;
        while from < operations.len() {
            let to = (from + width).min(operations.len());
            let fewer = [&operations[..from], &operations[to..]].concat();
            if player.play(seed, &fewer, fault).await.is_err() {
                operations = fewer;
            } else {
                from = to;
            }
        }
        width /= 2;
    }
    operations
}

fn describe_failure(seed: u64, message: &str, operations: &[Operation]) -> String {
    let listed: Vec<String> = operations.iter().map(|operation| format!("  {operation:?}")).collect();
    format!(
        "seed {seed}: {message}\nthe shortest failing sequence ({} operations):\n{}\nrun it again: SEED={seed} cargo test --test histories\n\
         the seed is saved in tests/histories/seeds.txt and runs first from now on",
        operations.len(),
        listed.join("\n")
    )
}

/// Runs seeds on several threads: the first `minimum` of them, and then more until `until`. Returns the event counts and the first
/// few failures.
fn play_all(seeds: &[u64], minimum: usize, until: Tick) -> (EventCounts, Vec<(u64, String)>) {
    let clock = Clock::system();
    let continues = |nth: usize| nth < minimum || clock.tick() < until;
    let (next, events, failed) = (AtomicUsize::new(0), Mutex::new(EventCounts::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PLAYER_THREADS.min(seeds.len()) {
            scope.spawn(|| {
                runtime().block_on(async {
                    let mut player = HistoryPlayer::new();
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        let Some(seed) = seeds.get(nth).copied().filter(|_| continues(nth)) else { break };
                        match player.play(seed, &history_run::operations_of_seed(seed), None).await {
                            Ok(one) => events.lock().unwrap().merge(&one),
                            Err(_) if failed.lock().unwrap().len() > 3 => break,
                            Err(why) => {
                                let operations = shorten_failure(&mut player, seed, None).await;
                                let why = match player.play(seed, &operations, None).await {
                                    Err(short) => short,
                                    Ok(_) => format!("{why} (not every time)"),
                                };
                                failed.lock().unwrap().push((seed, describe_failure(seed, &why, &operations)));
                            }
                        }
                    }
                });
            });
        }
    });
    (events.into_inner().unwrap(), failed.into_inner().unwrap())
}

fn seeds_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/histories/seeds.txt")
}

/// Seeds that failed once.
fn failed_seeds() -> Vec<u64> {
    let text = std::fs::read_to_string(seeds_file()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Adds a seed to those that run first.
fn save_failed_seed(seed: u64) {
    if failed_seeds().contains(&seed) {
        return;
    }
    // With read-only sources, the printed seed has to do.
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(seeds_file()) {
        let _ = writeln!(file, "{seed}");
    }
}

#[test]
fn whatever_happens_nothing_is_lost_doubled_or_asked_for_too_often() {
    let only_seed = env_number("SEED");
    let requested = env_number("HISTORIES");
    let seeds: Vec<u64> = match only_seed {
        Some(seed) => vec![seed],
        None => failed_seeds().into_iter().chain(FIRST_SEED..FIRST_SEED + requested.unwrap_or(MAX_HISTORIES)).collect(),
    };
    let minimum =
        if only_seed.or(requested).is_some() { seeds.len() } else { failed_seeds().len() + MIN_HISTORIES as usize };
    let (events, failed) = play_all(&seeds, minimum, Clock::system().tick() + PLAY_DURATION);
    for (what, times) in &events.0 {
        println!("{times:>9} {what}");
    }
    failed.iter().for_each(|(seed, _)| save_failed_seed(*seed));
    let messages: Vec<&str> = failed.iter().map(|(_, message)| message.as_str()).collect();
    assert!(messages.is_empty(), "{} histories broke a promise\n\n{}", messages.len(), messages.join("\n\n"));
    if only_seed.is_none() && requested.is_none_or(|requested| requested >= MIN_HISTORIES) {
        let missing: Vec<&&str> =
            REQUIRED_EVENTS.iter().filter(|what| events.0.get(**what).is_none_or(|times| *times == 0)).collect();
        assert!(missing.is_empty(), "these events never happened: {missing:?}");
    }
}

#[test]
fn two_accounts_with_owners_of_their_own_do_not_disturb_each_other() {
    let pairs = env_number("PAIRS").unwrap_or(15);
    let events = runtime().block_on(async {
        let (mut player, mut events) = (HistoryPlayer::new(), EventCounts::default());
        for seed in (FIRST_SEED..).step_by(2).take(usize::try_from(pairs).unwrap_or(15)) {
            let database = player.next_database().await;
            let labels = [format!("{seed}-one"), format!("{seed}-other")];
            match history_run::play_pair(&database, [&labels[0], &labels[1]], [seed, seed + 1]).await {
                Ok(one) => events.merge(&one),
                Err(why) => panic!("seeds {seed} and {} together: {}", seed + 1, why.0),
            }
        }
        events
    });
    let together = events.0.get("commits of two accounts together").copied().unwrap_or(0);
    println!("{pairs} pairs, {together} commits of two accounts together");
    assert!(together > 0, "no two results were committed together");
}

/// Runs seeds with a fault in the driver until it is noticed. Returns the violation.
fn run_until_noticed(fault: DriverFault) -> String {
    runtime().block_on(async {
        let mut player = HistoryPlayer::new();
        for seed in FIRST_SEED..FIRST_SEED + MIN_HISTORIES {
            if let Err(why) = player.play(seed, &history_run::operations_of_seed(seed), Some(fault)).await {
                return why;
            }
        }
        panic!("{MIN_HISTORIES} histories with {fault:?}, and it was not noticed");
    })
}

macro_rules! noticed {
    ($($name:ident: $fault:ident, $($words:literal)|+;)+) => {
        $(#[test] fn $name() {
            let why = run_until_noticed(DriverFault::$fault);
            assert!([$($words),+].iter().any(|words| why.contains(words)), "{why}");
        })+
    };
}

noticed! {
    a_lost_commit_is_noticed: LostCommit, "the feed stands at" | "counted twice" | "are counted as done" | "was stored twice" | "was tried";
    a_doubled_claim_is_noticed: DoubledClaim, "dispatched twice";
    a_skipped_window_is_noticed: SkippedWindow, "is not stored";
    half_an_answer_taken_for_a_whole_one_is_noticed: HalfAnswer, "is not stored" | "is held of";
    an_earlier_owners_result_in_the_new_ones_name_is_noticed: ForgedEpoch, "the feed stands at" | "are counted as done" | "has the state" | "was tried" | "did not count";
    an_attempt_charged_for_an_account_fault_is_noticed: AccountFaultChargedToItem, "was charged an attempt";
    a_request_beside_the_budget_is_noticed: NoReservation, "are allowed";
    a_doubled_result_is_noticed: DoubledResult, "the feed stands at";
}
