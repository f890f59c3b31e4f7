//! An archive or a sink's file becomes read-only: the daemon reports it with a hint, loses nothing, and recovers by itself when
//! it can write again.
//!
//! The exception is the file that SQLite maps into memory: the kernel may end the process, and the next one continues.
//!
//! Making an open file immutable needs root and a file system that supports it; elsewhere the tests print that they were skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringcx_extractor::model::Endpoint;
use rustix::process::Signal;
use support::test_env::{Scenario, TempDatabase, TestEnv};

const SECOND: Duration = Duration::from_secs(1);

/// Files that nobody can write, not even root or through an open descriptor, until this is dropped.
struct ImmutableFiles(Vec<PathBuf>);

impl ImmutableFiles {
    fn set(files: Vec<PathBuf>) -> ImmutableFiles {
        assert!(change_attribute("+i", &files), "files that can be made immutable");
        ImmutableFiles(files)
    }
}

impl Drop for ImmutableFiles {
    fn drop(&mut self) {
        change_attribute("-i", &self.0);
    }
}

fn change_attribute(change: &str, files: &[PathBuf]) -> bool {
    Command::new("chattr").arg(change).args(files).status().is_ok_and(|status| status.success())
}

/// Whether files in this folder can be made immutable.
fn can_make_immutable(folder: &Path) -> bool {
    let file = folder.join("try");
    let mut open = std::fs::File::create(&file).unwrap();
    let immutable = change_attribute("+i", std::slice::from_ref(&file));
    let refused = std::io::Write::write_all(&mut open, b"x").is_err();
    change_attribute("-i", std::slice::from_ref(&file));
    std::fs::remove_file(&file).unwrap();
    if !(immutable && refused) {
        println!("skipped: making an open file immutable needs root and a file system that supports it");
    }
    immutable && refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_becomes_read_only_is_waited_for_and_nothing_is_lost() {
    let database = TempDatabase::sqlite();
    if !can_make_immutable(database.folder.path()) {
        return;
    }
    let archive = database.folder.path().join("archive.db");
    let scenario = Scenario::live(8 * SECOND).set("http.listen", "127.0.0.1:0");
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("something is fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    // Without the `-shm` file, which SQLite maps into memory: when the file system refuses a write to it, the kernel sends
    // SIGBUS once the page has been written back. See the test below.
    let files = ["", "-wal"].map(|end| PathBuf::from(format!("{}{end}", archive.display())));
    let immutable = ImmutableFiles::set(files.into());
    // The first write that fails may store a result, or renew the leases.
    let log_lines = [
        "the database does not accept results; fetching stops until it does",
        "the database is unavailable; tasks that need it wait",
    ];
    env.wait_until("it is logged", async || log_lines.iter().any(|line| env.log().contains(line))).await;
    let readyz = format!("{}readyz", env.dashboard_url().await);
    env.wait_until("it is not ready", async || {
        let (status, body) = support::http_get(&readyz).await;
        status == 503 && body.contains("\"what\":\"disk\"") && body.contains("hint")
    })
    .await;
    env.run(&["check"]).await.assert_output(1, &["FAILED", "database", "hint: "]);
    // After a while it requests nothing that it could not store.
    let mut before = env.sim.stats().total_requests();
    env.wait_until("it sends no more requests", async || {
        env.clock.sleep(SECOND).await;
        let now = env.sim.stats().total_requests();
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(env.is_running());
    drop(immutable);
    let recovery_lines = ["the database accepts results again", "the database is available again"];
    env.wait_until("the recovery is logged", async || recovery_lines.iter().any(|line| env.log().contains(line))).await;
    env.wait_until("it is ready", async || support::http_get(&readyz).await.0 == 200).await;
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mapped_becoming_read_only_too_costs_a_restart_at_most() {
    let database = TempDatabase::sqlite();
    if !can_make_immutable(database.folder.path()) {
        return;
    }
    let archive = database.folder.path().join("archive.db");
    let mut env = TestEnv::with_daemon(database, Scenario::live(3 * SECOND)).await;
    env.wait_until("something is fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    let files = ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{}{end}", archive.display())));
    let shared = std::fs::File::open(&files[2]).unwrap();
    // Write the pages back, so that the next write reaches the file system.
    shared.sync_all().unwrap();
    let immutable = ImmutableFiles::set(files.into());
    let deadline = env.clock.tick() + 30 * SECOND;
    let is_reported = |env: &TestEnv| env.log().contains("the database does not accept results");
    while env.is_running() && !is_reported(&env) && env.clock.tick() < deadline {
        env.clock.sleep(SECOND / 20).await;
    }
    drop(immutable);
    if !env.is_running() {
        assert_eq!(env.wait_for_exit(SECOND).await, -Signal::BUS.as_raw(), "the signal that ended it");
        env.start();
    }
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_read_only_from_the_start_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    if !can_make_immutable(folder.path()) {
        return;
    }
    let mut database = TempDatabase::sqlite();
    database.url = format!("sqlite:{}", folder.path().join("archive.db").display());
    let mut env = TestEnv::new(database, Scenario::history()).await;
    let immutable = ImmutableFiles::set(vec![folder.path().to_owned()]);
    env.run(&["run"]).await.assert_output(1, &["failed to create the database", "archive.db", "hint: the folder must"]);
    drop(immutable);
    env.start();
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_file_becomes_read_only_is_waited_for_and_nothing_is_lost() {
    let database = TempDatabase::sqlite();
    if !can_make_immutable(database.folder.path()) {
        return;
    }
    let mut lake = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "out")] {
        lake.insert(key.into(), value.into());
    }
    let out = database.folder.path().join("out");
    let mut env =
        TestEnv::with_daemon(database, Scenario::live(8 * SECOND).set("sinks", vec![toml::Value::Table(lake)])).await;
    let files = || -> Vec<PathBuf> {
        let listed = std::fs::read_dir(&out).into_iter().flatten().map(|entry| entry.unwrap().path());
        listed.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect()
    };
    env.wait_until("events are written", async || !files().is_empty()).await;
    let immutable = ImmutableFiles::set(files());
    env.wait_until("deliver status prints the reason", async || {
        let text = env.run(&["deliver", "status"]).await.text();
        text.contains("Operation not permitted") || text.contains("ermission denied")
    })
    .await;
    // Nothing else waits for the sink.
    env.expect_complete_archive().await;
    drop(immutable);
    env.wait_until("everything is delivered", async || {
        env.run_json(&["status", "--json"]).await["sinks"][0]["pending"] == 0
    })
    .await;
    let lines = files().iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>();
    let ids: Vec<String> = lines
        .lines()
        .map(|line| {
            ringcx_extractor::lenient_json::from_str::<serde_json::Value>(line).expect("a whole line")["id"].to_string()
        })
        .collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    let segments = env.expected_segments();
    let bodies = ringcx_extractor::model::Artifact::TEXTS.into_iter().flat_map(|artifact| {
        segments.iter().filter(move |entry| {
            entry.has_transcript
                && matches!(entry.expected_artifact(artifact), ringcx_extractor::sim::ExpectedArtifact::Body(_))
        })
    });
    assert_eq!(distinct.len(), bodies.count(), "events in the files");
    env.stop().await;
}
