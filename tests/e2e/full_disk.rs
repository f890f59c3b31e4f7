//! A disk that is full, under the archive, a sink or an export: it is said, nothing is lost, and all goes on by itself when
//! there is room.
//!
//! The disk is a small tmpfs, which only root may mount: as anyone else these tests say that they were not run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::daemon::{PATIENCE, Place, Plan, Rig};
use tempfile::TempDir;

crate::e2e! {
    sinks_on_a_full_disk_say_so_hold_up_nobody_and_lose_nothing,
    an_export_that_does_not_fit_names_the_file_and_leaves_nothing_behind,
}

/// A disk of its own, gone with the test.
struct Disk(TempDir);

impl Disk {
    /// None where this user may not mount one.
    fn of(size: &str) -> Option<Disk> {
        let disk = Disk(tempfile::tempdir().unwrap());
        if disk.mount(&format!("size={size}")) {
            return Some(disk);
        }
        println!("not run: mounting a small disk takes root");
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

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_out_and_nothing_is_lost() {
    let Some(disk) = Disk::of("1500k") else { return };
    let mut place = Place::sqlite();
    place.url = format!("sqlite:{}", disk.path().join("archive.db").display());
    let plan = Plan::live(6 * Duration::from_secs(1)).sim(|sim| {
        sim.traffic.per_minute = 1_200.0;
        sim.traffic.utterances = (20, 40);
    });
    let mut rig = Rig::started(place, plan).await;
    rig.until("the disk is full", async || rig.log().contains("is full")).await;
    assert!(rig.is_running(), "the daemon goes on");
    disk.grow("200m");
    rig.settled().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_start_is_waited_out_too() {
    let Some(disk) = Disk::of("8m") else { return };
    let mut place = Place::sqlite();
    place.url = format!("sqlite:{}", disk.path().join("archive.db").display());
    let mut rig = Rig::started(place, Plan::live(3 * Duration::from_secs(1))).await;
    rig.until("the archive is there", async || rig.run(&["status", "--json"]).await.status == 0).await;
    rig.stop().await;
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    rig.start();
    rig.says("the disk is full").await;
    assert!(rig.is_running(), "the daemon waits");
    drop(file);
    std::fs::remove_file(ballast).unwrap();
    rig.settled().await;
    rig.stop().await;
}

fn sink(name: &str, kind: &str, key: &str, place: &str) -> toml::Value {
    let pairs = [("name", name), ("type", kind), (key, place)].map(|(key, value)| (key.to_owned(), value.into()));
    toml::Value::Table(pairs.into_iter().collect())
}

/// The files below a folder, by what their names end in.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
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

/// The events below a folder by their ids; finds that each line is whole, and the same wherever it comes again.
fn events(folder: &Path) -> BTreeMap<String, Value> {
    let mut events = BTreeMap::new();
    for file in files(folder, ".jsonl") {
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
async fn sinks(rig: &Rig) -> BTreeMap<String, Value> {
    let sinks = rig.json(&["deliver", "status", "--json"]).await;
    let named = |sink: &Value| (sink["name"].as_str().unwrap().to_owned(), sink.clone());
    sinks.as_array().unwrap().iter().map(named).collect()
}

async fn sinks_on_a_full_disk_say_so_hold_up_nobody_and_lose_nothing(place: Place) {
    let Some(disk) = Disk::of("48k") else { return };
    let roomy = place.folder.path().join("roomy");
    let (lines, objects) = (disk.path().join("lines"), disk.path().join("objects"));
    let plan = Plan::live(4 * Duration::from_secs(1))
        .sim(|sim| {
            sim.traffic.per_minute = 300.0;
            sim.traffic.utterances = (10, 20);
        })
        .set(
            "sinks",
            vec![
                sink("roomy", "jsonl", "path", &roomy.display().to_string()),
                sink("lines", "jsonl", "path", &lines.display().to_string()),
                sink("objects", "object_store", "url", &format!("file://{}", objects.display())),
            ],
        );
    let mut rig = Rig::started(place, plan).await;
    // What the others do is not held up: all is fetched, and the sink that has room has all of it.
    rig.settled().await;
    let has_all = async || {
        let sinks = sinks(&rig).await;
        sinks["roomy"]["pending"] == 0 && sinks["lines"]["state"] == "resting" && sinks["objects"]["state"] == "resting"
    };
    // An object gathers for a minute.
    rig.until_within(3 * PATIENCE, "one sink has all, two have no room", has_all).await;
    let all = events(&roomy);
    let full = sinks(&rig).await;
    for (name, folder) in [("lines", &lines), ("objects", &objects)] {
        let reason = full[name]["reason"].as_str().unwrap_or_default();
        let named = reason.contains(&folder.display().to_string());
        assert!(named && reason.contains("the disk is full; make room"), "{name}: {}", full[name]);
        assert!(full[name]["pending"].as_u64().unwrap() > 0 && full[name]["failed"] == 0, "{}", full[name]);
    }
    for command in [&["deliver", "status"][..], &["status"]] {
        let text = rig.output(command).await;
        assert!(text.contains("the disk is full"), "{command:?}: {text}");
    }
    assert!(rig.log().contains("the disk is full"), "the log does not say it");
    assert!(files(disk.path(), ".part").is_empty(), "half an object stays");
    disk.grow("50m");
    rig.output(&["deliver", "retry"]).await;
    let none_waits = async || sinks(&rig).await.values().all(|sink| sink["pending"] == 0);
    rig.until_within(3 * PATIENCE, "everything is delivered", none_waits).await;
    rig.stop().await;
    for folder in [&roomy, &lines, &objects] {
        let ids = |events: &BTreeMap<String, Value>| events.keys().cloned().collect::<BTreeSet<String>>();
        let there = events(folder);
        assert_eq!(ids(&there), ids(&all), "below {}", folder.display());
        assert_eq!(there, all, "below {}", folder.display());
    }
    let wanted: usize = rig.json(&["deliver", "status", "--json"]).await[0]["delivered"].as_u64().unwrap() as usize;
    assert!(all.len() <= wanted && all.len() > 30, "{} events, {wanted} delivered", all.len());
}

async fn an_export_that_does_not_fit_names_the_file_and_leaves_nothing_behind(place: Place) {
    let Some(disk) = Disk::of("24k") else { return };
    let mut rig = Rig::started(place, Plan::history()).await;
    rig.settled().await;
    rig.stop().await;
    for (name, format) in [("all.jsonl", "jsonl"), ("all.csv", "csv"), ("all.parquet", "parquet"), ("all.txt", "text")]
    {
        let file = disk.path().join(name);
        std::fs::write(&file, "what was there before").unwrap();
        let path = file.display().to_string();
        let ballast = disk.path().join("ballast");
        // Whatever the format packs it into does not fit.
        let room = std::fs::write(&ballast, vec![1; 12 * 1024]);
        room.unwrap();
        let export = rig.run(&["export", "--format", format, "-o", &path]).await;
        export.is(1, &[&format!("failed to write {path}: the disk is full"), "make room or name a file elsewhere"]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "what was there before");
        assert_eq!(files(disk.path(), "").len(), 2, "something of the export stays: {:?}", files(disk.path(), ""));
        std::fs::remove_file(&ballast).unwrap();
        std::fs::remove_file(&file).unwrap();
    }
    disk.grow("20m");
    let path = disk.path().join("all.jsonl").display().to_string();
    rig.output(&["export", "-o", &path]).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), rig.output(&["export"]).await);
}
