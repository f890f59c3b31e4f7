//! Only the daemon's user can read what the program leaves on the machine: file and folder modes, no core file, no access to its
//! memory or environment. Stored data holds no secret.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringcx_extractor::sim::SECRET_MARK;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use support::postgres_cluster;
use support::test_env::{Scenario, TempDatabase, TestEnv, WAIT_TIMEOUT};

crate::e2e! {
    whatever_is_written_is_for_this_user_alone_and_holds_no_secret,
    a_crash_leaves_no_core_file,
}

/// Collects every file and folder below `folder`.
fn collect_paths(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_paths(&path, found);
        }
        found.push(path);
    }
}

async fn whatever_is_written_is_for_this_user_alone_and_holds_no_secret(mut database: TempDatabase) {
    let held = database.folder.path().join("held");
    if database.is_sqlite() {
        database.url = format!("sqlite:{}", held.join("deep/archive.db").display());
    } else {
        std::fs::create_dir(&held).unwrap();
    }
    let mut lake = toml::Table::new();
    for (key, value) in [("name", "lake"), ("type", "jsonl"), ("path", "held/lake")] {
        lake.insert(key.into(), value.into());
    }
    let sinks = vec![toml::Value::Table(lake)];
    let mut env = TestEnv::with_daemon(database, Scenario::history().set("sinks", sinks)).await;
    env.expect_complete_archive().await;
    // `object_store_sink.rs` checks the folder of an object store: collecting an object takes a minute.
    env.wait_until("everything is delivered", async || {
        let status = env.run_json(&["status", "--json"]).await;
        status["sinks"].as_array().unwrap().iter().all(|sink| sink["pending"] == 0 && !sink["last_delivered"].is_null())
    })
    .await;
    for (format, file) in [("jsonl", "a.jsonl"), ("csv", "a.csv"), ("parquet", "a.parquet"), ("text", "a.txt")] {
        env.run_ok(&["export", "--format", format, "-o", &format!("held/{file}")]).await;
    }
    let mut found = Vec::new();
    collect_paths(&held, &mut found);
    assert!(found.len() >= 6, "{found:?}");
    // The check includes SQLite's write-ahead log.
    assert!(!env.database.is_sqlite() || found.iter().any(|path| path.ends_with("archive.db-wal")), "{found:?}");
    for path in &found {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let made_by_us = !path.is_dir() || path.ends_with("deep") || path.ends_with("lake");
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert!(!made_by_us || mode == expected, "{} has mode {mode:o}", path.display());
        if !path.is_dir() {
            let bytes = std::fs::read(path).unwrap();
            let secret = bytes.windows(SECRET_MARK.len()).any(|part| part == SECRET_MARK.as_bytes());
            assert!(!secret, "{} holds a secret", path.display());
        }
    }
    if !env.database.is_sqlite() {
        let dump = postgres_cluster::dump_database(&env.database.url);
        assert!(dump.contains("COPY public.segment") && !dump.contains(SECRET_MARK), "the database holds a secret");
    }
    env.stop().await;
}

async fn a_crash_leaves_no_core_file(database: TempDatabase) {
    let most = getrlimit(Resource::Core).maximum;
    // Child processes inherit the limit.
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).unwrap();
    // Whether the kernel leaves a core file here at all.
    let folder = database.folder.path().to_owned();
    let control = Command::new("sh").args(["-c", "kill -ABRT $$"]).current_dir(&folder).status().unwrap();
    let leaves_core_files = std::os::unix::process::ExitStatusExt::core_dumped(&control);
    for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")) {
            std::fs::remove_file(file).unwrap();
        }
    }
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.wait_for_request().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", env.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    for signal in [Signal::ABORT, Signal::TRAP] {
        env.signal(signal);
        assert_eq!(env.wait_for_exit(WAIT_TIMEOUT).await, -signal.as_raw());
        assert!(!env.left_core_file());
        env.start();
        env.wait_for_request().await;
    }
    if !leaves_core_files {
        println!("the kernel leaves no core file here, so the result shows little");
    }
    env.expect_complete_archive().await;
    env.stop().await;
}

const NOBODY_UID: u32 = 65_534;

#[test]
fn nobody_else_of_the_same_user_reads_its_memory_or_environment() {
    let folder = tempfile::tempdir().unwrap();
    let read = |pid: u32, what: &str| {
        let mut cat = Command::new("cat");
        cat.arg(format!("/proc/{pid}/{what}")).uid(NOBODY_UID).gid(NOBODY_UID);
        cat.output().is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    let started = |program: &Path, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().env("RINGCX__AUTH__API_TOKEN", "planted").uid(NOBODY_UID).gid(NOBODY_UID);
        // It waits for a database that does not exist.
        command.env("RINGCX__DATABASE__URL", "postgres://nobody@127.0.0.1:1/none").env("RINGCX__HTTP__LISTEN", "");
        command.env("RINGCX_CONFIG", folder.path().join("local.toml"));
        command.stderr(std::fs::File::create(folder.path().join("log")).unwrap()).spawn()
    };
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let settings = "[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"2\"\n";
    std::fs::write(folder.path().join("local.toml"), settings).unwrap();
    let Ok(mut control) = started(Path::new("sleep"), "60") else {
        println!("skipped: running as another user needs root");
        return;
    };
    let control_readable = read(control.id(), "environ");
    control.kill().unwrap();
    control.wait().unwrap();
    let binary = folder.path().join("binary");
    std::fs::copy(env!("CARGO_BIN_EXE_ringcx-extractor"), &binary).unwrap();
    let mut daemon = started(&binary, "run").unwrap();
    let waits = || std::fs::read_to_string(folder.path().join("log")).unwrap().contains("retrying");
    for _ in 0..3_000 {
        if waits() || daemon.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(waits(), "{}", std::fs::read_to_string(folder.path().join("log")).unwrap());
    let daemon_readable = read(daemon.id(), "environ") || read(daemon.id(), "maps");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(
        control_readable && !daemon_readable,
        "another process of the user can read: any process {control_readable}, the daemon {daemon_readable}"
    );
}
