//! `backup` and `restore` through the real binary: the drill of a lost archive, and what is refused.
//!
//! The drill prints its seed; `DRILL_SEED=N` repeats one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::earlier_archive::{EarlierArchive, FIRST_EDITION};
use crate::support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::lenient_json;
use ringcx_extractor::sim::SegmentScript;
use serde_json::Value;
use support::postgres_cluster;
use support::test_env::{Scenario, TempDatabase, TestEnv, WAIT_TIMEOUT};

crate::e2e! {
    a_restored_archive_reads_the_gap_again_and_what_was_erased_stays_erased,
}

/// The random choices of a drill.
fn drill_rng() -> StdRng {
    let given = std::env::var("DRILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("DRILL_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn lines_sink() -> toml::Value {
    let pairs = [("name", "lines"), ("type", "jsonl"), ("path", "out"), ("start", "beginning")];
    toml::Value::Array(vec![toml::Value::Table(
        pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
    )])
}

/// Announces segments that end now, and waits until the archive has them.
async fn add_segments(env: &TestEnv, count: usize) -> Vec<String> {
    let before = exported_ids(env).await;
    for _ in 0..count {
        env.sim.add_segment(SegmentScript::new(&env.main_account(), env.sim.now()));
    }
    env.wait_until("new segments are stored", async || exported_ids(env).await.len() >= before.len() + count).await;
    exported_ids(env).await.into_iter().filter(|id| !before.contains(id)).collect()
}

async fn exported_ids(env: &TestEnv) -> Vec<String> {
    let text = env.run(&["export"]).await.out;
    text.lines()
        .map(|line| lenient_json::parse_value(line).unwrap()["segment_id"].as_str().unwrap().to_owned())
        .collect()
}

/// The artifact versions that an archive or the sink's files hold: segment and type.
async fn stored_artifacts(env: &TestEnv) -> BTreeSet<(String, &'static str)> {
    let text = env.run_ok(&["export"]).await;
    let lines = text.lines().map(|line| lenient_json::parse_value(line).unwrap());
    let stored = |line: Value| {
        let id = line["segment_id"].as_str().unwrap().to_owned();
        let kinds = ["transcript", "agent_summary", "auto_summary"].into_iter();
        kinds
            .filter(move |kind| line[kind]["outcome"] == "stored")
            .map(move |kind| (id.clone(), kind))
            .collect::<Vec<_>>()
    };
    lines.flat_map(stored).collect()
}

fn delivered_artifacts(env: &TestEnv) -> BTreeSet<(String, String)> {
    let files = std::fs::read_dir(env.database.folder.path().join("out")).into_iter().flatten().flatten();
    let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect();
    let event = |line: &str| lenient_json::parse_value(line).unwrap();
    let pair = |event: Value| {
        let kind = event["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        (event["subject"].as_str().unwrap().to_owned(), kind)
    };
    text.lines().map(event).map(pair).collect()
}

fn path_of(env: &TestEnv, name: &str) -> String {
    env.database.folder.path().join(name).display().to_string()
}

/// How the archive is copied, lost and restored.
struct Drill {
    /// Kill the daemon and remove the database, so that only the exported journal tells.
    destroys_database: bool,
}

impl Drill {
    async fn back_up(&self, env: &TestEnv) -> String {
        if !env.database.is_sqlite() {
            env.run(&["backup", "x.dump"])
                .await
                .assert_output(2, &["Postgres", "pg_dump --format=custom", "--journal"]);
            return postgres_cluster::dump_database(&env.database.url);
        }
        let copy = path_of(env, "copy.db");
        env.run(&["backup", &copy]).await.assert_output(0, &["checked (integrity_check)"]);
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!Path::new(&format!("{copy}.partial")).exists());
        copy
    }

    async fn lose(&self, env: &mut TestEnv, copy: &str) {
        if env.database.is_sqlite() {
            let refused = env.run(&["restore", copy]).await;
            refused.assert_output(1, &["another daemon", "is using the database", "hint: stop it first"]);
        }
        if !self.destroys_database {
            return env.stop().await;
        }
        env.kill().await;
        if let Some(path) = env.database.url.strip_prefix("sqlite:") {
            std::fs::remove_file(path).unwrap();
        }
    }

    async fn restore(&self, env: &TestEnv, copy: &str, journal: &str) -> String {
        if env.database.is_sqlite() {
            let mut args = vec!["restore", copy];
            if self.destroys_database {
                args.extend(["--journal", journal]);
            }
            return env.run_ok(&args).await;
        }
        env.run(&["restore", "x.dump"]).await.assert_output(2, &["pg_restore --clean", "restore --journal"]);
        postgres_cluster::restore_database(&env.database.url, copy);
        env.run_ok(&["restore", "--journal", journal]).await
    }
}

async fn run_drill(database: TempDatabase, drill: Drill) {
    let mut rng = drill_rng();
    let mut env = TestEnv::with_daemon(database, Scenario::history().set("sinks", lines_sink())).await;
    env.wait_until("segments are stored", async || exported_ids(&env).await.len() > 5).await;
    env.clock.sleep(Duration::from_millis(rng.random_range(0..1500))).await;
    let before = exported_ids(&env).await;
    let copy = drill.back_up(&env).await;
    // Go on: new segments, erasures of an old and a new one, a hold, a backfill.
    let since = add_segments(&env, rng.random_range(3..8)).await;
    let (old, new) = (before[rng.random_range(0..before.len())].clone(), since[rng.random_range(0..3)].clone());
    for id in [&old, &new] {
        env.run(&["erase", "--yes", "--segment", id]).await.assert_output(0, &["erased permanently: 1 segment"]);
    }
    let held = before.iter().chain(&since).find(|id| ![&old, &new].contains(id)).unwrap().clone();
    env.run_ok(&["hold", "--segment", &held, "--reason", "case 7"]).await;
    env.run_ok(&["backfill", "--from", "50s", "--to", "40s"]).await;
    let journal = path_of(&env, "journal.jsonl");
    env.run_ok(&["backup", "--journal", &journal]).await;
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(!text.contains(&old) && !text.contains(&new), "the journal names what was erased");
    assert_eq!(std::fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
    drill.lose(&mut env, &copy).await;
    let said = drill.restore(&env, &copy, &journal).await;
    assert!(said.contains("deleted again: 1 segment; 1 more will not be stored"), "{said}");
    assert!(said.contains("legal holds: 1 placed since") && said.contains("decisions known until 2"), "{said}");
    assert!(!exported_ids(&env).await.contains(&old), "the restored copy has the erased segment");
    env.run_ok(&["verify"]).await;
    env.start();
    add_segments(&env, 1).await;
    let complete = async || {
        let expected: Vec<_> =
            env.expected_segments().into_iter().filter(|entry| ![&old, &new].contains(&&entry.segment_id)).collect();
        env.archive_differences(&expected).await.is_empty()
    };
    env.wait_until_within(2 * WAIT_TIMEOUT, "everything but the erased is there again", complete).await;
    env.wait_for_audit().await;
    env.run_ok(&["verify"]).await;
    for id in [&old, &new] {
        env.run(&["show", "--", id]).await.assert_output(1, &["erased"]);
    }
    env.run(&["hold", "--list"]).await.assert_output(0, &[&held, "case 7"]);
    env.run(&["erase", "--yes", "--segment", &held]).await.assert_output(1, &["on hold"]);
    assert_eq!(env.audit_json().await.0["accounts"][0]["segments"]["erased"], 2);
    let everything = stored_artifacts(&env).await;
    let all_delivered = async || {
        let delivered = delivered_artifacts(&env);
        everything.iter().all(|(id, kind)| delivered.contains(&(id.clone(), (*kind).to_owned())))
    };
    env.wait_until("the sink has everything at least once", all_delivered).await;
    env.stop().await;
}

async fn a_restored_archive_reads_the_gap_again_and_what_was_erased_stays_erased(database: TempDatabase) {
    run_drill(database, Drill { destroys_database: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_and_a_removed_database_are_made_good_by_a_copy_and_the_exported_journal() {
    run_drill(TempDatabase::sqlite(), Drill { destroys_database: true }).await;
}

/// A stopped archive with some segments, and a copy of it.
async fn archive_with_copy() -> (TestEnv, PathBuf, PathBuf) {
    let mut env = TestEnv::with_daemon(TempDatabase::sqlite(), Scenario::history().transcripts_only()).await;
    env.expect_complete_archive().await;
    env.stop().await;
    let (database, copy) = (env.database.folder.path().join("archive.db"), env.database.folder.path().join("copy.db"));
    env.run_ok(&["backup", &copy.display().to_string()]).await;
    (env, database, copy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_replaces_nothing_unasked_and_leaves_nothing_behind() {
    let (env, database, copy) = archive_with_copy().await;
    let (name, before) = (copy.display().to_string(), std::fs::read(&copy).unwrap());
    env.run(&["backup", &name]).await.assert_output(1, &["exists already", "hint:", "--overwrite"]);
    // What an interrupted run left is no obstacle.
    let partial = PathBuf::from(format!("{name}.partial"));
    std::fs::write(&partial, "half a copy").unwrap();
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o644)).unwrap();
    env.run_ok(&["backup", &name, "--overwrite"]).await;
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!Path::new(&format!("{name}.partial")).exists());
    assert_eq!(std::fs::read(&copy).unwrap().len(), before.len());
    for (target, said) in [
        (database.display().to_string(), "it is the archive itself"),
        (env.database.folder.path().display().to_string(), "it is a folder"),
        (path_of(&env, "none/copy.db"), "the folder must exist"),
    ] {
        env.run(&["backup", &target, "--overwrite"]).await.assert_output(1, &[said, "hint:"]);
    }
    // Nor does it empty another file that has the temporary name.
    let archive = std::fs::read(&database).unwrap();
    for (linked, said) in [(&database, "it is the archive itself"), (&copy, "is a symbolic link")] {
        std::os::unix::fs::symlink(linked, &partial).unwrap();
        env.run(&["backup", &name, "--overwrite"]).await.assert_output(1, &[said, "hint:"]);
        std::fs::remove_file(&partial).unwrap();
    }
    assert!(std::fs::read(&database).unwrap() == archive && std::fs::read(&copy).unwrap().len() == before.len());
    env.run(&["backup"]).await.assert_output(2, &["<FILE>"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_sound_copy_of_this_archive_is_refused_and_changes_nothing() {
    let (mut env, database, copy) = archive_with_copy().await;
    let (before, whole) = (exported_ids(&env).await, std::fs::read(&copy).unwrap());
    let bad = env.database.folder.path().join("bad.db");
    let mut damaged = whole.clone();
    for page in (2..whole.len() / 8192).step_by(2) {
        damaged[page * 8192..page * 8192 + 64].fill(0xa5);
    }
    let other = env.database.folder.path().join("other.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&other).create_if_missing(true);
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    sqlx::query("create table t (a)").execute(&mut raw).await.unwrap();
    sqlx::Connection::close(raw).await.unwrap();
    for (content, said) in [
        (Vec::new(), "it is not a SQLite database"),
        (b"\x28\xb5\x2f\xfd compressed, not a database".to_vec(), "it is not a SQLite database"),
        (whole[..whole.len() / 2].to_vec(), "is damaged"),
        (damaged, "is damaged"),
        (std::fs::read(&other).unwrap(), "not an archive of ringcx-extractor"),
    ] {
        std::fs::write(&bad, content).unwrap();
        env.run(&["restore", &bad.display().to_string()]).await.assert_output(1, &[said, "hint:"]);
    }
    for (file, said) in
        [(database.display().to_string(), "the database itself"), (path_of(&env, "none"), "No such file")]
    {
        env.run(&["restore", &file]).await.assert_output(1, &[said, "hint:"]);
    }
    let copy = copy.display().to_string();
    let journal = path_of(&env, "journal.jsonl");
    std::fs::write(&journal, "{}").unwrap();
    env.run(&["restore", &copy, "--journal", &journal]).await.assert_output(1, &["failed to read", "backup --journal"]);
    let mut account = toml::Table::new();
    account.insert("rc_account_id".into(), "1".into());
    account.insert("sub_account_id".into(), "2".into());
    let accounts = env.scenario.settings["accounts"].clone();
    env.set("accounts", vec![toml::Value::Table(account)]);
    env.run(&["restore", &copy]).await.assert_output(1, &["an archive of other accounts", "--other-accounts"]);
    env.set("accounts", accounts);
    assert_eq!(exported_ids(&env).await, before);
    let names = || std::fs::read_dir(env.database.folder.path()).unwrap().map(|file| file.unwrap().file_name());
    let left: Vec<_> = names().filter(|name| name.to_string_lossy().contains("archive.db.re")).collect();
    assert!(left.is_empty(), "{left:?}");
    // A restore that was killed leaves a file that the next one removes.
    std::fs::write(path_of(&env, "archive.db.restoring"), "half a copy").unwrap();
    let said = env.run_ok(&["restore", &copy]).await;
    assert!(said.contains("the replaced database is kept as"), "{said}");
    assert_eq!(exported_ids(&env).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_first_version_is_migrated_and_an_unreadable_database_is_replaced_with_a_warning() {
    let env = TestEnv::new(TempDatabase::sqlite(), Scenario::history()).await;
    let archive = EarlierArchive { account: env.main_account(), watermark: env.begin - Duration::from_secs(40) };
    archive.create(&env.database, FIRST_EDITION).await;
    let (copy, database) = (path_of(&env, "copy.db"), path_of(&env, "archive.db"));
    env.run_ok(&["backup", &copy]).await;
    let _ = std::fs::remove_file(format!("{database}-wal"));
    std::fs::write(&database, "no database any more").unwrap();
    let restored = env.run(&["restore", &copy]).await;
    restored.assert_output(
        0,
        &["restored", "cannot be read", "warning: erasures, holds and backfills made since", "--journal"],
    );
    let exported = env.run_ok(&["export"]).await;
    let lines: Vec<Value> = exported.lines().map(|line| lenient_json::parse_value(line).unwrap()).collect();
    assert_eq!(lines, archive.expected_export());
    env.run_ok(&["verify"]).await;
}
