//! What is left on the machine is for the daemon's user alone: the modes of files and folders, no core file, no look into its
//! memory or environment; and what is stored holds no secret.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringcx_extractor::sim::SECRET_MARK;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use support::daemon::{PATIENCE, Place, Plan, Rig};
use support::postgres;

crate::e2e! {
    whatever_is_written_is_for_this_user_alone_and_holds_no_secret,
    a_crash_leaves_no_core_file,
}

/// Every file and folder in it, itself left out.
fn all_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all_in(&path, found);
        }
        found.push(path);
    }
}

async fn whatever_is_written_is_for_this_user_alone_and_holds_no_secret(mut place: Place) {
    let held = place.folder.path().join("held");
    if place.is_sqlite() {
        place.url = format!("sqlite:{}", held.join("deep/archive.db").display());
    } else {
        std::fs::create_dir(&held).unwrap();
    }
    let mut lake = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "held/lake")] {
        lake.insert(key.into(), value.into());
    }
    let sinks = vec![toml::Value::Table(lake)];
    let mut rig = Rig::started(place, Plan::history().set("sinks", sinks)).await;
    rig.settled().await;
    // What an object store's folder holds is looked at where objects are (`object_store.rs`): gathering one takes a minute.
    rig.until("everything is delivered", async || {
        let status = rig.json(&["status", "--json"]).await;
        status["sinks"].as_array().unwrap().iter().all(|sink| sink["pending"] == 0 && !sink["last_delivered"].is_null())
    })
    .await;
    for (format, file) in [("jsonl", "a.jsonl"), ("csv", "a.csv"), ("parquet", "a.parquet"), ("text", "a.txt")] {
        rig.output(&["export", "--format", format, "-o", &format!("held/{file}")]).await;
    }
    let mut found = Vec::new();
    all_in(&held, &mut found);
    assert!(found.len() >= 6, "{found:?}");
    // What the daemon has written and not yet folded back into its file is looked through as well.
    assert!(!rig.place.is_sqlite() || found.iter().any(|path| path.ends_with("archive.db-wal")), "{found:?}");
    for path in &found {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let made_by_us = !path.is_dir() || path.ends_with("deep") || path.ends_with("lake");
        let right = if path.is_dir() { 0o700 } else { 0o600 };
        assert!(!made_by_us || mode == right, "{} has mode {mode:o}", path.display());
        if !path.is_dir() {
            let bytes = std::fs::read(path).unwrap();
            let secret = bytes.windows(SECRET_MARK.len()).any(|part| part == SECRET_MARK.as_bytes());
            assert!(!secret, "{} holds a secret", path.display());
        }
    }
    if !rig.place.is_sqlite() {
        let dump = postgres::dump(&rig.place.url);
        assert!(dump.contains("COPY public.segment") && !dump.contains(SECRET_MARK), "the database holds a secret");
    }
    rig.stop().await;
}

async fn a_crash_leaves_no_core_file(place: Place) {
    let most = getrlimit(Resource::Core).maximum;
    // What this process may, those that it starts may as well.
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).unwrap();
    // Whether a core file would be left here at all.
    let folder = place.folder.path().to_owned();
    let control = Command::new("sh").args(["-c", "kill -ABRT $$"]).current_dir(&folder).status().unwrap();
    let would = std::os::unix::process::ExitStatusExt::core_dumped(&control);
    for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")) {
            std::fs::remove_file(file).unwrap();
        }
    }
    let mut rig = Rig::started(place, Plan::history()).await;
    rig.asks().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", rig.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    for signal in [Signal::ABORT, Signal::TRAP] {
        rig.signal(signal);
        assert_eq!(rig.exit(PATIENCE).await, -signal.as_raw());
        assert!(!rig.dumped_core());
        rig.start();
        rig.asks().await;
    }
    if !would {
        println!("whether the kernel would have left a core file could not be seen here");
    }
    rig.settled().await;
    rig.stop().await;
}

/// Somebody without rights of his own, where root can be him.
const NOBODY: u32 = 65_534;

#[test]
fn nobody_else_of_the_same_user_reads_its_memory_or_environment() {
    let folder = tempfile::tempdir().unwrap();
    let read = |pid: u32, what: &str| {
        let mut cat = Command::new("cat");
        cat.arg(format!("/proc/{pid}/{what}")).uid(NOBODY).gid(NOBODY);
        cat.output().is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    let started = |program: &Path, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().env("RINGCX__AUTH__API_TOKEN", "planted").uid(NOBODY).gid(NOBODY);
        // It waits for a database that is not there.
        command.env("RINGCX__DATABASE__URL", "postgres://nobody@127.0.0.1:1/none").env("RINGCX__HTTP__LISTEN", "");
        command.env("RINGCX_CONFIG", folder.path().join("local.toml"));
        command.stderr(std::fs::File::create(folder.path().join("log")).unwrap()).spawn()
    };
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let settings = "[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"2\"\n";
    std::fs::write(folder.path().join("local.toml"), settings).unwrap();
    let Ok(mut control) = started(Path::new("sleep"), "60") else {
        println!("not run: being somebody else takes root");
        return;
    };
    let could = read(control.id(), "environ");
    control.kill().unwrap();
    control.wait().unwrap();
    let binary = folder.path().join("binary");
    std::fs::copy(env!("CARGO_BIN_EXE_ringcx-extractor"), &binary).unwrap();
    let mut daemon = started(&binary, "run").unwrap();
    let waits = || std::fs::read_to_string(folder.path().join("log")).unwrap().contains("trying again");
    while !waits() && daemon.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(waits(), "{}", std::fs::read_to_string(folder.path().join("log")).unwrap());
    let seen = read(daemon.id(), "environ") || read(daemon.id(), "maps");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(could && !seen, "somebody else's look: at any process {could}, at the daemon {seen}");
}
