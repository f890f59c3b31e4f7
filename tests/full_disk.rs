//! A disk that is full: the daemon says so, stops asking for what it cannot store, and goes on by itself when there is room.
//!
//! The disk is a small tmpfs, which only root may mount: as anyone else the test says that it was not run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::daemon::{Place, Plan, Rig};

struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn mount(&self, options: &str) -> bool {
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.0)
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_out_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk(folder.path());
    if !disk.mount("size=1500k") {
        println!("not run: mounting a small disk takes root");
        return;
    }
    let mut place = Place::sqlite();
    place.url = format!("sqlite:{}", folder.path().join("archive.db").display());
    let plan = Plan::live(6 * Duration::from_secs(1)).sim(|sim| {
        sim.traffic.per_minute = 1_200.0;
        sim.traffic.utterances = (20, 40);
    });
    let mut rig = Rig::started(place, plan).await;
    rig.until("the disk is full", async || rig.log().contains("is full")).await;
    assert!(rig.is_running(), "the daemon goes on");
    assert!(disk.mount("remount,size=200m"));
    rig.settled().await;
    rig.stop().await;
}
