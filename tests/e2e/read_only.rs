//! An archive, or a sink's file, that becomes read-only: the daemon says so and what to do, loses nothing, and goes on by
//! itself when it can write again.
//!
//! What SQLite maps into memory is the exception: the kernel ends the process, and the next one goes on from there.
//!
//! That the file system refuses writes to what is open already takes root and a file system that knows how; elsewhere the
//! tests say that they were not run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringcx_extractor::model::Endpoint;
use rustix::process::Signal;
use support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);

/// Files that nobody may write, not even root, nor through what is open.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    fn these(files: Vec<PathBuf>) -> Frozen {
        assert!(chattr("+i", &files), "files to freeze");
        Frozen(files)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(change: &str, files: &[PathBuf]) -> bool {
    Command::new("chattr").arg(change).args(files).status().is_ok_and(|status| status.success())
}

/// Whether files can be frozen in this folder.
fn can_freeze(folder: &Path) -> bool {
    let file = folder.join("try");
    let mut open = std::fs::File::create(&file).unwrap();
    let frozen = chattr("+i", std::slice::from_ref(&file));
    let refused = std::io::Write::write_all(&mut open, b"x").is_err();
    chattr("-i", std::slice::from_ref(&file));
    std::fs::remove_file(&file).unwrap();
    if !(frozen && refused) {
        println!("not run: making what is open read-only takes root, and a file system that can");
    }
    frozen && refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_becomes_read_only_is_waited_for_and_nothing_is_lost() {
    let place = Place::sqlite();
    if !can_freeze(place.folder.path()) {
        return;
    }
    let archive = place.folder.path().join("archive.db");
    let plan = Plan::live(8 * SECOND).set("http.listen", "127.0.0.1:0");
    let mut rig = Rig::started(place, plan).await;
    rig.until("something is fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    // Not what SQLite's processes share: it is mapped into their memory, and to a write that the file system then refuses the
    // kernel's answer is SIGBUS, once the page has been written back, whenever that is. See the test below.
    let files = ["", "-wal"].map(|end| PathBuf::from(format!("{}{end}", archive.display())));
    let frozen = Frozen::these(files.into());
    // Whatever is to be written first finds out: a result, or that this daemon still has its accounts.
    let finds = [
        "the database does not take results; fetching stops until it does",
        "the database is away; what needs it waits",
    ];
    rig.until("it says so", async || finds.iter().any(|words| rig.log().contains(words))).await;
    let readyz = format!("{}readyz", rig.dashboard().await);
    rig.until("it is not ready", async || {
        let (status, body) = support::fetched(&readyz).await;
        status == 503 && body.contains("\"what\":\"disk\"") && body.contains("hint")
    })
    .await;
    rig.run(&["check"]).await.is(1, &["FAILED", "database", "hint: "]);
    // After a while nothing is asked for that could not be stored.
    let mut before = rig.sim.stats().requests_in_all();
    rig.until("nothing is asked for any more", async || {
        rig.clock.sleep(SECOND).await;
        let now = rig.sim.stats().requests_in_all();
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(rig.is_running());
    drop(frozen);
    let healed = ["the database takes results again", "the database is back"];
    rig.until("it says so", async || healed.iter().any(|words| rig.log().contains(words))).await;
    rig.until("it is ready", async || support::fetched(&readyz).await.0 == 200).await;
    rig.settled().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mapped_becoming_read_only_too_costs_a_restart_at_most() {
    let place = Place::sqlite();
    if !can_freeze(place.folder.path()) {
        return;
    }
    let archive = place.folder.path().join("archive.db");
    let mut rig = Rig::started(place, Plan::live(3 * SECOND)).await;
    rig.until("something is fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    let files = ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{}{end}", archive.display())));
    let shared = std::fs::File::open(&files[2]).unwrap();
    // Written back, so that the next write to it asks the file system again.
    shared.sync_all().unwrap();
    let frozen = Frozen::these(files.into());
    let end = rig.clock.tick() + 30 * SECOND;
    let says = |rig: &Rig| rig.log().contains("the database does not take results");
    while rig.is_running() && !says(&rig) && rig.clock.tick() < end {
        rig.clock.sleep(SECOND / 20).await;
    }
    drop(frozen);
    if !rig.is_running() {
        assert_eq!(rig.exit(SECOND).await, -Signal::BUS.as_raw(), "how it ended");
        rig.start();
    }
    rig.settled().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_read_only_from_the_start_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    if !can_freeze(folder.path()) {
        return;
    }
    let mut place = Place::sqlite();
    place.url = format!("sqlite:{}", folder.path().join("archive.db").display());
    let mut rig = Rig::new(place, Plan::history()).await;
    let frozen = Frozen::these(vec![folder.path().to_owned()]);
    rig.run(&["run"]).await.is(1, &["failed to create the database", "archive.db", "hint: the folder must"]);
    drop(frozen);
    rig.start();
    rig.settled().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_file_becomes_read_only_is_waited_for_and_nothing_is_lost() {
    let place = Place::sqlite();
    if !can_freeze(place.folder.path()) {
        return;
    }
    let mut lake = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "out")] {
        lake.insert(key.into(), value.into());
    }
    let out = place.folder.path().join("out");
    let mut rig = Rig::started(place, Plan::live(8 * SECOND).set("sinks", vec![toml::Value::Table(lake)])).await;
    let files = || -> Vec<PathBuf> {
        let listed = std::fs::read_dir(&out).into_iter().flatten().map(|entry| entry.unwrap().path());
        listed.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect()
    };
    rig.until("events are written", async || !files().is_empty()).await;
    let frozen = Frozen::these(files());
    rig.until("it says why", async || {
        let said = rig.run(&["deliver", "status"]).await.text();
        said.contains("Operation not permitted") || said.contains("ermission denied")
    })
    .await;
    // Nothing else waits for it.
    rig.settled().await;
    drop(frozen);
    rig.until("everything is delivered", async || rig.json(&["status", "--json"]).await["sinks"][0]["pending"] == 0)
        .await;
    let lines = files().iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>();
    let ids: Vec<String> = lines
        .lines()
        .map(|line| {
            ringcx_extractor::lenient_json::from_str::<serde_json::Value>(line).expect("a whole line")["id"].to_string()
        })
        .collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    let world = rig.world();
    let bodies = ringcx_extractor::model::Artifact::ALL.into_iter().flat_map(|artifact| {
        world.iter().filter(move |entry| {
            entry.has_transcript && matches!(entry.expect(artifact), ringcx_extractor::sim::Expect::Body(_))
        })
    });
    assert_eq!(distinct.len(), bodies.count(), "events in the files");
    rig.stop().await;
}
