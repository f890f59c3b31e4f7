//! Generated histories: random sequences of everything that may happen, against what is promised whatever happens.
//!
//! Each seed makes a world (segments that come late, turn, change, are never there), a sequence of operations (time, polls,
//! fetches, commits, faults, deaths, takeovers, clocks that are set, a database that is away) and plays them on a real SQLite
//! database with the program's own planner, budget, pacer, schedule, standing, backoff and store. Only HTTP and the loops are
//! replaced. After every operation a model that is too simple to be wrong is compared with the database; at the end, after a
//! calm, the archive must equal the world and its hash chain must prove true.
//!
//! Seeds that failed stand in `seeds.txt` and are played first, for ever. Then as many as fit into a few seconds, always the
//! same ones; `HISTORIES=5000 cargo test --test histories -- --nocapture` plays so many and tells what happened in them,
//! `DATABASE=postgres` before it plays them on Postgres instead of SQLite, whose clock then shows the history's time.
//! `SEED=17 cargo test --test histories` plays that one. Where one fails its operations are printed, made as few as will still
//! fail.
//!
//! That the model would notice is tried too: faults are put into the driver on purpose, one test each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot unwrap has failed"
)]

mod drain;
mod history;
mod model;
mod operation;
#[path = "../support/postgres.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod postgres;
mod reader;
mod scene;
mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use operation::Operation;
use ringcx_extractor::clock::{Clock, Tick};
use scene::{Plant, Seen, Shelf};
use tempfile::TempDir;

/// How many histories a run plays at least, if nothing else is asked for, and how long it goes on playing more.
const LEAST: u64 = 100;
const PLAYS_FOR: Duration = Duration::from_secs(10);
/// No more than that without being asked.
const MOST: u64 = 5000;
/// Where the seeds begin.
const BASE: u64 = 1_000_000;
/// So many histories share a database file, each with an account of its own: making one takes longer than playing one.
const SHARED: u64 = 25;
/// Threads that play.
const PLAYERS: usize = 4;

/// What must have happened at least once, or the run has shown nothing.
const NOT_VACUOUS: &[&str] = &[
    "histories",
    "answers",
    "429s that burnt no item's try",
    "accounts let go in good order",
    "backfills asked for",
    "backfills completed",
    "belated writes of earlier owners",
    "clocks set back",
    "clocks set forward",
    "commits reported as failed",
    "commits while the database was away",
    "deaths after a commit, before it was known",
    "deaths after the record, before it was known",
    "deaths before a commit",
    "deaths between operations",
    "deaths between the last chunk and the record",
    "deaths in the middle of an answer",
    "endpoints that recovered",
    "failed tries of items",
    "faults of the account's",
    "items given up at their horizon",
    "late results of earlier owners",
    "metadata answers cut short",
    "metadata reads",
    "metadata reads that failed",
    "power cuts",
    "rechecks",
    "records set aside",
    "records that were committed and reported as failed",
    "retries",
    "rivals refused",
    "segments compared with the world at the end",
    "segments found late or turned",
    "takeovers in the middle of an answer",
    "takeovers of a silent owner's account",
    "times the database was away",
    "writes while the database was away",
];

/// Whether `$DATABASE` asks for Postgres.
fn on_postgres() -> bool {
    std::env::var("DATABASE").is_ok_and(|kind| kind == "postgres")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A folder for databases: in memory where the machine has such a place, as nothing here needs to outlive the test.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

struct Player {
    folder: TempDir,
    shelf: Option<Shelf>,
    played: u64,
}

impl Player {
    fn new() -> Player {
        Player { folder: folder(), shelf: None, played: 0 }
    }

    async fn shelf(&mut self) -> Shelf {
        if self.played.is_multiple_of(SHARED)
            && let Some(shelf) = self.shelf.take()
        {
            shelf.close().await;
        }
        self.played += 1;
        if self.shelf.is_none() {
            let path = self.folder.path().join(format!("{}.db", self.played));
            let shelf = match on_postgres() {
                true => Shelf::server(postgres::database()).await,
                false => Shelf::file(path).await,
            };
            self.shelf = Some(shelf.expect("a database"));
        }
        self.shelf.clone().expect("a database")
    }

    async fn play(&mut self, seed: u64, operations: &[Operation], plant: Option<Plant>) -> Result<Seen, String> {
        let shelf = self.shelf().await;
        let label = format!("{seed}-{}", self.played);
        let played = history::play(&shelf, &label, seed, operations, plant).await;
        if played.is_err() {
            // It may have been left closed or in disorder.
            self.shelf = None;
        }
        played.map_err(|broken| broken.0)
    }
}

/// Takes operations out for as long as it still fails.
async fn shortened(player: &mut Player, seed: u64, plant: Option<Plant>) -> Vec<Operation> {
    let mut operations = history::script(seed);
    let mut width = operations.len() / 2;
    while width > 0 {
        let mut from = 0;
        while from < operations.len() {
            let to = (from + width).min(operations.len());
            let fewer = [&operations[..from], &operations[to..]].concat();
            if player.play(seed, &fewer, plant).await.is_err() {
                operations = fewer;
            } else {
                from = to;
            }
        }
        width /= 2;
    }
    operations
}

fn told(seed: u64, why: &str, operations: &[Operation]) -> String {
    let listed: Vec<String> = operations.iter().map(|operation| format!("  {operation:?}")).collect();
    format!(
        "seed {seed}: {why}\nas few operations as will fail ({}):\n{}\nplay it again: SEED={seed} cargo test --test histories\n\
         it is kept in tests/histories/seeds.txt and played first from now on",
        operations.len(),
        listed.join("\n")
    )
}

/// Plays seeds on several threads, the first `least` of them and then more until `until`; what was seen, and the first few
/// that failed.
fn play_all(seeds: &[u64], least: usize, until: Tick) -> (Seen, Vec<(u64, String)>) {
    let clock = Clock::system();
    let more = |nth: usize| nth < least || clock.tick() < until;
    let (next, seen, failed) = (AtomicUsize::new(0), Mutex::new(Seen::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS.min(seeds.len()) {
            scope.spawn(|| {
                runtime().block_on(async {
                    let mut player = Player::new();
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        let Some(seed) = seeds.get(nth).copied().filter(|_| more(nth)) else { break };
                        match player.play(seed, &history::script(seed), None).await {
                            Ok(one) => seen.lock().unwrap().merge(&one),
                            Err(_) if failed.lock().unwrap().len() > 3 => break,
                            Err(why) => {
                                let operations = shortened(&mut player, seed, None).await;
                                let why = match player.play(seed, &operations, None).await {
                                    Err(short) => short,
                                    Ok(_) => format!("{why} (not every time)"),
                                };
                                failed.lock().unwrap().push((seed, told(seed, &why, &operations)));
                            }
                        }
                    }
                });
            });
        }
    });
    (seen.into_inner().unwrap(), failed.into_inner().unwrap())
}

fn seeds_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/histories/seeds.txt")
}

/// Seeds that failed once.
fn kept() -> Vec<u64> {
    let text = std::fs::read_to_string(seeds_file()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Adds a seed to those that are played first from now on.
fn keep(seed: u64) {
    if kept().contains(&seed) {
        return;
    }
    // Where the sources are read-only, the message is all there is.
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(seeds_file()) {
        let _ = writeln!(file, "{seed}");
    }
}

#[test]
fn whatever_happens_nothing_is_lost_doubled_or_asked_for_too_often() {
    let only = number("SEED");
    let asked = number("HISTORIES");
    let seeds: Vec<u64> = match only {
        Some(seed) => vec![seed],
        None => kept().into_iter().chain(BASE..BASE + asked.unwrap_or(MOST)).collect(),
    };
    let least = if only.or(asked).is_some() { seeds.len() } else { kept().len() + LEAST as usize };
    let (seen, failed) = play_all(&seeds, least, Clock::system().tick() + PLAYS_FOR);
    for (what, times) in &seen.0 {
        println!("{times:>9} {what}");
    }
    failed.iter().for_each(|(seed, _)| keep(*seed));
    let told: Vec<&str> = failed.iter().map(|(_, told)| told.as_str()).collect();
    assert!(told.is_empty(), "{} histories broke a promise\n\n{}", told.len(), told.join("\n\n"));
    if only.is_none() && asked.is_none_or(|asked| asked >= LEAST) {
        let missing: Vec<&&str> =
            NOT_VACUOUS.iter().filter(|what| seen.0.get(**what).is_none_or(|times| *times == 0)).collect();
        assert!(missing.is_empty(), "never happened, so nothing is shown about it: {missing:?}");
    }
}

#[test]
fn two_accounts_with_owners_of_their_own_do_not_disturb_each_other() {
    let pairs = number("PAIRS").unwrap_or(15);
    let seen = runtime().block_on(async {
        let (mut player, mut seen) = (Player::new(), Seen::default());
        for seed in (BASE..).step_by(2).take(usize::try_from(pairs).unwrap_or(15)) {
            let shelf = player.shelf().await;
            let labels = [format!("{seed}-one"), format!("{seed}-other")];
            match history::play_two(&shelf, [&labels[0], &labels[1]], [seed, seed + 1]).await {
                Ok(one) => seen.merge(&one),
                Err(why) => panic!("seeds {seed} and {} together: {}", seed + 1, why.0),
            }
        }
        seen
    });
    let together = seen.0.get("commits of two accounts together").copied().unwrap_or(0);
    println!("{pairs} pairs, {together} commits of two accounts together");
    assert!(together > 0, "no two results were committed together");
}

/// Plays seeds with a fault in the driver until one is noticed; what was said of it.
fn noticed(plant: Plant) -> String {
    runtime().block_on(async {
        let mut player = Player::new();
        for seed in BASE..BASE + 40 {
            if let Err(why) = player.play(seed, &history::script(seed), Some(plant)).await {
                return why;
            }
        }
        panic!("40 histories with {plant:?} in them, and none was noticed");
    })
}

macro_rules! noticed {
    ($($name:ident: $plant:ident, $($words:literal)|+;)+) => {
        $(#[test] fn $name() {
            let why = noticed(Plant::$plant);
            assert!([$($words),+].iter().any(|words| why.contains(words)), "{why}");
        })+
    };
}

noticed! {
    a_lost_commit_is_noticed: LostCommit, "the feed stands at" | "counted twice" | "are counted as done" | "was stored twice" | "was tried";
    a_doubled_claim_is_noticed: DoubledClaim, "handed out twice";
    a_skipped_window_is_noticed: SkippedWindow, "is not stored";
    half_an_answer_taken_for_a_whole_one_is_noticed: HalfAnswer, "is not stored";
    an_earlier_owners_result_in_the_new_ones_name_is_noticed: ForgedEpoch, "the feed stands at" | "are counted as done" | "stands as" | "was tried" | "did not count";
    a_try_burnt_by_the_accounts_fault_is_noticed: BurntTries, "lost a try";
    a_request_beside_the_budget_is_noticed: NoReservation, "are allowed";
    a_doubled_result_is_noticed: DoubledResult, "the feed stands at";
}
