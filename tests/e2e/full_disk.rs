//! A full disk under the archive, a sink or an export: it is reported, nothing is lost, and work continues by itself when there is
//! room.
//!
//! The disk is a small tmpfs, which only root can mount. For other users these tests print that they were skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::test_env::{Scenario, TempDatabase, TestEnv, WAIT_TIMEOUT};
use tempfile::TempDir;

crate::e2e! {
    sinks_on_a_full_disk_say_so_hold_up_nobody_and_lose_nothing,
    an_export_that_does_not_fit_names_the_file_and_leaves_nothing_behind,
}

/// A small tmpfs, unmounted with the test.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` if this user cannot mount a disk.
    fn mount_new(size: &str) -> Option<SmallDisk> {
        let disk = SmallDisk(tempfile::tempdir().unwrap());
        if disk.mount(&format!("size={size}")) {
            return Some(disk);
        }
        println!("skipped: mounting a small disk needs root");
        None
    }

    fn mount(&self, options: &str) -> bool {
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.path())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn grow(&self, size: &str) {
        assert!(self.mount(&format!("remount,size={size}")));
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_out_and_nothing_is_lost() {
    let Some(disk) = SmallDisk::mount_new("1500k") else { return };
    let mut database = TempDatabase::sqlite();
    database.url = format!("sqlite:{}", disk.path().join("archive.db").display());
    let scenario = Scenario::live(6 * Duration::from_secs(1)).configure_sim(|sim| {
        sim.traffic.per_minute = 1_200.0;
        sim.traffic.utterances = (20, 40);
    });
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("the disk is full", async || env.log().contains("is full")).await;
    assert!(env.is_running(), "the daemon goes on");
    disk.grow("200m");
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_start_is_waited_out_too() {
    let Some(disk) = SmallDisk::mount_new("8m") else { return };
    let mut database = TempDatabase::sqlite();
    database.url = format!("sqlite:{}", disk.path().join("archive.db").display());
    let mut env = TestEnv::with_daemon(database, Scenario::live(3 * Duration::from_secs(1))).await;
    env.wait_until("the archive is there", async || env.run(&["status", "--json"]).await.status == 0).await;
    env.stop().await;
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    env.start();
    env.wait_for_log("the disk is full").await;
    assert!(env.is_running(), "the daemon waits");
    drop(file);
    std::fs::remove_file(ballast).unwrap();
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_does_not_fit_says_so_and_leaves_nothing_behind() {
    let Some(disk) = SmallDisk::mount_new("64k") else { return };
    let mut env = TestEnv::with_daemon(TempDatabase::sqlite(), Scenario::history().transcripts_only()).await;
    env.expect_complete_archive().await;
    let copy = disk.path().join("copy.db").display().to_string();
    env.run(&["backup", &copy])
        .await
        .assert_output(1, &["failed to write", "the disk has 0 MiB", "hint: free some space"]);
    assert!(files_ending_with(disk.path(), "").is_empty());
    disk.grow("20m");
    env.run_ok(&["backup", &copy]).await;
    assert_eq!(files_ending_with(disk.path(), "").len(), 1);
    env.stop().await;
}

fn sink_settings(name: &str, kind: &str, key: &str, target: &str) -> toml::Value {
    let pairs = [("name", name), ("type", kind), (key, target)].map(|(key, value)| (key.to_owned(), value.into()));
    toml::Value::Table(pairs.into_iter().collect())
}

/// The files below a folder whose path ends with `ending`.
fn files_ending_with(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// The events below a folder by id. Asserts that each line is whole, and that repeated events are equal.
fn read_events(folder: &Path) -> BTreeMap<String, Value> {
    let mut events = BTreeMap::new();
    for file in files_ending_with(folder, ".jsonl") {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line in {}", file.display());
        for line in text.lines() {
            let event: Value = ringcx_extractor::lenient_json::from_str(line).expect("a whole line");
            let before = events.insert(event["id"].as_str().unwrap().to_owned(), event.clone());
            assert!(before.is_none_or(|before| before == event), "an event that came again differs: {event}");
        }
    }
    events
}

/// `deliver status --json`, by name.
async fn sinks_by_name(env: &TestEnv) -> BTreeMap<String, Value> {
    let sinks = env.run_json(&["deliver", "status", "--json"]).await;
    let named = |sink: &Value| (sink["name"].as_str().unwrap().to_owned(), sink.clone());
    sinks.as_array().unwrap().iter().map(named).collect()
}

async fn sinks_on_a_full_disk_say_so_hold_up_nobody_and_lose_nothing(database: TempDatabase) {
    let Some(disk) = SmallDisk::mount_new("48k") else { return };
    let roomy = database.folder.path().join("roomy");
    let (lines, objects) = (disk.path().join("lines"), disk.path().join("objects"));
    let scenario = Scenario::live(4 * Duration::from_secs(1))
        .configure_sim(|sim| {
            sim.traffic.per_minute = 300.0;
            sim.traffic.utterances = (10, 20);
        })
        .set(
            "sinks",
            vec![
                sink_settings("roomy", "jsonl", "path", &roomy.display().to_string()),
                sink_settings("lines", "jsonl", "path", &lines.display().to_string()),
                sink_settings("objects", "object_store", "url", &format!("file://{}", objects.display())),
            ],
        );
    let mut env = TestEnv::with_daemon(database, scenario).await;
    // The full sinks hold up nothing: everything is fetched, and the sink with room has all events.
    env.expect_complete_archive().await;
    let has_all = async || {
        let sinks = sinks_by_name(&env).await;
        sinks["roomy"]["pending"] == 0 && sinks["lines"]["state"] == "resting" && sinks["objects"]["state"] == "resting"
    };
    // An object collects events for a minute.
    env.wait_until_within(3 * WAIT_TIMEOUT, "one sink has all, two have no room", has_all).await;
    let all = read_events(&roomy);
    let blocked = sinks_by_name(&env).await;
    for (name, folder) in [("lines", &lines), ("objects", &objects)] {
        let reason = blocked[name]["reason"].as_str().unwrap_or_default();
        let named = reason.contains(&folder.display().to_string());
        assert!(named && reason.contains("the disk is full; free some disk space"), "{name}: {}", blocked[name]);
        assert!(blocked[name]["pending"].as_u64().unwrap() > 0 && blocked[name]["failed"] == 0, "{}", blocked[name]);
    }
    for command in [&["deliver", "status"][..], &["status"]] {
        let text = env.run_ok(command).await;
        assert!(text.contains("the disk is full"), "{command:?}: {text}");
    }
    assert!(env.log().contains("the disk is full"), "it is not logged");
    assert!(files_ending_with(disk.path(), ".part").is_empty(), "half an object stays");
    disk.grow("50m");
    env.run_ok(&["deliver", "retry"]).await;
    let none_pending = async || sinks_by_name(&env).await.values().all(|sink| sink["pending"] == 0);
    env.wait_until_within(3 * WAIT_TIMEOUT, "everything is delivered", none_pending).await;
    env.stop().await;
    for folder in [&roomy, &lines, &objects] {
        let ids = |events: &BTreeMap<String, Value>| events.keys().cloned().collect::<BTreeSet<String>>();
        let there = read_events(folder);
        assert_eq!(ids(&there), ids(&all), "below {}", folder.display());
        assert_eq!(there, all, "below {}", folder.display());
    }
    let wanted: usize = env.run_json(&["deliver", "status", "--json"]).await[0]["delivered"].as_u64().unwrap() as usize;
    assert!(all.len() <= wanted && all.len() > 30, "{} events, {wanted} delivered", all.len());
}

async fn an_export_that_does_not_fit_names_the_file_and_leaves_nothing_behind(database: TempDatabase) {
    let Some(disk) = SmallDisk::mount_new("24k") else { return };
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.expect_complete_archive().await;
    env.stop().await;
    for (name, format) in [("all.jsonl", "jsonl"), ("all.csv", "csv"), ("all.parquet", "parquet"), ("all.txt", "text")]
    {
        let file = disk.path().join(name);
        std::fs::write(&file, "what was there before").unwrap();
        let path = file.display().to_string();
        let ballast = disk.path().join("ballast");
        // Leave too little room for any of the formats.
        std::fs::write(&ballast, vec![1; 12 * 1024]).unwrap();
        let export = env.run(&["export", "--format", format, "-o", &path]).await;
        export.assert_output(
            1,
            &[&format!("failed to write {path}: the disk is full"), "free space or name a file on another disk"],
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "what was there before");
        assert_eq!(
            files_ending_with(disk.path(), "").len(),
            2,
            "something of the export stays: {:?}",
            files_ending_with(disk.path(), "")
        );
        std::fs::remove_file(&ballast).unwrap();
        std::fs::remove_file(&file).unwrap();
    }
    disk.grow("20m");
    let path = disk.path().join("all.jsonl").display().to_string();
    env.run_ok(&["export", "-o", &path]).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), env.run_ok(&["export"]).await);
}
