//! Upgrade and rollback: the current program opens archives of the first edition and of later versions, and an older program an
//! upgraded archive. The tests work with any number of migrations, so new ones need no change here.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::earlier_archive::{
    ERASED_ID, EarlierArchive, FIRST_EDITION, LAST_MERGED, RawConnection, merged_migrations_up_to, migrations,
    migrations_up_to,
};
use crate::support;

use std::path::Path;
use std::time::Duration;

use ringcx_extractor::db::{Db, DbError, OpenMode};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::migrate::{Migration, MigrationType};
use sqlx::{Connection, Executor, PgConnection, SqlSafeStr};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    an_archive_of_the_first_edition_is_all_there_after_the_upgrade,
    an_archive_of_the_last_merged_migration_is_all_there_after_the_upgrade,
    every_version_has_the_schema_of_a_new_archive_after_the_upgrade,
    an_interrupted_upgrade_continues_where_it_stopped,
    programs_that_upgrade_one_archive_at_once_all_succeed,
    a_daemon_goes_on_where_the_one_before_the_upgrade_stopped,
    commands_that_only_look_refuse_an_older_archive_and_say_what_to_do,
    a_rolled_back_program_refuses_the_upgraded_archive_and_takes_the_backup,
    a_migration_that_fails_half_way_leaves_nothing_behind,
    a_program_works_beside_a_newer_one_until_a_migration_shuts_it_out,
}

async fn open_database(database: &TempDatabase, access: OpenMode) -> Result<Db, DbError> {
    match database.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(Path::new(file), access).await,
        None => Db::open_postgres(&SecretString::from(database.url.clone()), access, 4).await,
    }
}

async fn another_database(database: &TempDatabase) -> TempDatabase {
    if database.is_sqlite() { TempDatabase::sqlite() } else { TempDatabase::postgres().await }
}

async fn schema(database: &TempDatabase) -> Vec<String> {
    RawConnection::open(database).await.schema().await
}

async fn schema_of_new_archive(database: &TempDatabase) -> Vec<String> {
    let fresh = another_database(database).await;
    open_database(&fresh, OpenMode::CreateOrMigrate).await.unwrap().close().await;
    schema(&fresh).await
}

async fn exported_lines(env: &TestEnv) -> Vec<Value> {
    env.run_ok(&["export"]).await.lines().map(|line| ringcx_extractor::lenient_json::from_str(line).unwrap()).collect()
}

/// A test environment whose archive an earlier version created, and its expected export.
async fn env_with_earlier_archive(database: TempDatabase, version: i64, scenario: Scenario) -> (TestEnv, Vec<Value>) {
    let env = TestEnv::new(database, scenario).await;
    let archive = EarlierArchive { account: env.main_account(), watermark: env.begin - Duration::from_secs(40) };
    archive.create(&env.database, version).await;
    (env, archive.expected_export())
}

/// Asserts that the upgraded archive is what it was, as every command prints it.
async fn assert_all_there(env: &TestEnv, expected: &[Value]) {
    assert_eq!(exported_lines(env).await, expected);
    env.run_ok(&["export", "--changed-since", "1"]).await;
    let status = env.account_status().await;
    assert_eq!(status["watermark"], (env.begin - Duration::from_secs(40)).rfc3339_secs(), "{status}");
    let work =
        json!({"ready": 0, "waiting": 1, "running": 0, "done": 3, "unavailable": 1, "failed": 1, "discarded": 1});
    assert_eq!(status["work"], work);
    let shown = env.run_ok(&["show", "s2"]).await;
    assert!(shown.contains("it is not there (404)"), "the tries of an item are its history: {shown}");
    env.run(&["show", "--", ERASED_ID]).await.assert_output(1, &["erased"]);
    let journal = env.run_ok(&["erase", "--journal", "--json"]).await;
    assert_eq!(journal.lines().count(), 2, "{journal}");
    env.run(&["hold", "--list"]).await.assert_output(0, &["+1 201 377 0791", "case 7", "anna"]);
    env.run(&["deliver", "status"]).await.assert_output(0, &["gone", "it failed (500)"]);
    // What had failed before is the only problem: nothing is missing, and each day has the segments that were announced.
    let audit = env.audit_json().await.0;
    let problems: Vec<&Value> = audit["problems"].as_array().unwrap().iter().map(|problem| &problem["kind"]).collect();
    assert_eq!(problems, ["failed"], "{audit}");
    let segments = json!({"announced": 5, "with_transcript": 3, "erased": 1, "expired": 0});
    assert_eq!(audit["accounts"][0]["segments"], segments);
    let verified = env.run_json(&["verify", "--json"]).await;
    assert_eq!(verified["problems"], json!([]), "{verified}");
    assert_eq!(verified["accounts"][0]["sealed_at_upgrade"], 6, "4 segments, a version and a tombstone: {verified}");
}

async fn assert_upgrade_keeps_everything(database: TempDatabase, version: i64) {
    let (env, expected) = env_with_earlier_archive(database, version, Scenario::history()).await;
    let mut raw = RawConnection::open(&env.database).await;
    // The columns of the first edition: the upgrade fills those that were added later.
    let first_edition = another_database(&env.database).await;
    let mut empty = RawConnection::open(&first_edition).await;
    empty.migrate(merged_migrations_up_to(&first_edition, FIRST_EDITION).await).await.unwrap();
    let queries = empty.content_queries().await;
    empty.close().await;
    let before = raw.contents(&queries).await;
    assert!(before.len() > queries.len() * 3 / 2, "{before:#?}");
    env.run_ok(&["migrate"]).await;
    assert_eq!(raw.contents(&queries).await, before);
    assert_all_there(&env, &expected).await;
    // Migrating again changes nothing.
    let chains = "select cast(account as text) || newest || taken_over from record_chain order by 1";
    let (queries, chained) = (raw.content_queries().await, raw.texts(chains).await);
    let before = raw.contents(&queries).await;
    env.run_ok(&["migrate"]).await;
    assert_eq!((raw.contents(&queries).await, raw.texts(chains).await), (before, chained));
    assert_eq!(raw.schema().await, schema_of_new_archive(&env.database).await);
    // What the upgrade sealed cannot be altered unseen.
    for (change, undo, kind) in [
        ("update hold set value = '+1 201 377 0799'", "update hold set value = '+1 201 377 0791'", "hold"),
        (
            "update segment set dialog_id = 'e' where id = 2",
            "update segment set dialog_id = 'd' where id = 2",
            "metadata",
        ),
        ("update tombstone set at = at + 1", "update tombstone set at = at - 1", "records"),
    ] {
        raw.run(change).await;
        let output = env.run(&["verify", "--json"]).await;
        let verified: Value = serde_json::from_str(&output.out).unwrap();
        assert_eq!((output.status, &verified["problems"][0]["kind"]), (1, &json!(kind)), "{verified}");
        raw.run(undo).await;
    }
    env.run_ok(&["verify"]).await;
    raw.close().await;
}

async fn an_archive_of_the_first_edition_is_all_there_after_the_upgrade(database: TempDatabase) {
    assert_upgrade_keeps_everything(database, FIRST_EDITION).await;
}

async fn an_archive_of_the_last_merged_migration_is_all_there_after_the_upgrade(database: TempDatabase) {
    assert_upgrade_keeps_everything(database, LAST_MERGED).await;
}

async fn every_version_has_the_schema_of_a_new_archive_after_the_upgrade(database: TempDatabase) {
    let expected = schema_of_new_archive(&database).await;
    for Migration { version, .. } in merged_migrations_up_to(&database, LAST_MERGED).await {
        let database = another_database(&database).await;
        let mut raw = RawConnection::open(&database).await;
        raw.migrate(merged_migrations_up_to(&database, version).await).await.unwrap();
        raw.close().await;
        open_database(&database, OpenMode::CreateOrMigrate).await.unwrap().close().await;
        assert_eq!(schema(&database).await, expected, "after migration {version}");
    }
}

async fn an_interrupted_upgrade_continues_where_it_stopped(database: TempDatabase) {
    let (env, expected) = env_with_earlier_archive(database, FIRST_EDITION, Scenario::history()).await;
    let mut raw = RawConnection::open(&env.database).await;
    raw.run("create table record_chain (in_the_way bigint)").await;
    env.run(&["migrate"]).await.assert_output(1, &["failed to bring the database up to date"]);
    raw.run("drop table record_chain").await;
    let chained =
        "select cast((select count(record) from segment_version) as text) || (select count(record) from segment)
                   || (select count(record) from tombstone)";
    let mut states = Vec::new();
    // Each part of the record chain, its end, and the adoption of the merged migrations.
    for (event, table) in [
        ("insert", "record_chain"),
        ("update", "segment"),
        ("update", "tombstone"),
        ("insert", "meta"),
        ("delete", "_sqlx_migrations"),
    ] {
        if table == "record_chain" {
            raw.migrate(merged_migrations_up_to(&env.database, LAST_MERGED).await).await.unwrap();
        }
        raw.obstruct(event, table, true).await;
        env.run(&["migrate"]).await.assert_output(1, &["obstructed"]);
        env.run(&["status"]).await.assert_output(1, &["ringcx-extractor migrate"]);
        raw.obstruct(event, table, false).await;
        states.extend(raw.texts(chained).await);
    }
    assert_eq!(states, ["000", "100", "140", "141", "141"], "what was done is not done again");
    // This is an archive at migration 25 whose record chain is complete.
    let heads = "select cast(account as text) || newest || taken_over from record_chain order by 1";
    let before = raw.texts(heads).await;
    env.run_ok(&["migrate"]).await;
    assert_eq!(raw.texts(heads).await, before);
    assert_all_there(&env, &expected).await;
    raw.close().await;
}

async fn programs_that_upgrade_one_archive_at_once_all_succeed(database: TempDatabase) {
    let (env, expected) = env_with_earlier_archive(database, FIRST_EDITION, Scenario::history()).await;
    let migrate = ["migrate"];
    let outputs = tokio::join!(env.run(&migrate), env.run(&migrate), env.run(&migrate));
    for output in [outputs.0, outputs.1, outputs.2] {
        output.assert_output(0, &[]);
    }
    assert_all_there(&env, &expected).await;
}

async fn a_daemon_goes_on_where_the_one_before_the_upgrade_stopped(database: TempDatabase) {
    let sink: toml::Table = [("name", "lines"), ("type", "jsonl"), ("path", "out")]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let scenario = Scenario::history().set("sinks", vec![toml::Value::Table(sink)]);
    // The index is empty, but marked as complete by an earlier tokenizer.
    let (mut env, expected) = env_with_earlier_archive(database, FIRST_EDITION, scenario).await;
    env.start();
    env.wait_for_log("working").await;
    let world = env.expected_segments();
    let all = async || exported_lines(&env).await.len() == expected.len() + world.len();
    env.wait_until("all that ended meanwhile is found", all).await;
    let exported = exported_lines(&env).await;
    assert!(expected.iter().all(|line| exported.contains(line)), "what was there is not as it was: {exported:?}");
    let by_filter = ["search", "went well", "--artifact", "agent_summary", "--json"];
    env.wait_until("the index is built anew", async || env.run_ok(&by_filter).await.contains("\"s1\"")).await;
    // New windows are read first, then the range between them and the coverage from before the upgrade.
    env.wait_until("nothing is left unread", async || env.audit_json().await.0["accounts"][0]["gaps"] == json!([]))
        .await;
    let delivered = async || {
        let status = env.run_json(&["status", "--json"]).await;
        let mut sinks = status["sinks"].as_array().unwrap().iter();
        sinks.any(|sink| sink["name"] == "lines" && sink["pending"] == 0)
    };
    env.wait_until("the sink has received everything", delivered).await;
    env.stop().await;
    let audit = env.audit_json().await.0;
    assert_eq!(audit["accounts"][0]["gaps"], json!([]), "{audit}");
    // The sink had received the first entry before the upgrade.
    let files = std::fs::read_dir(env.database.folder.path().join("out")).unwrap();
    let events: String = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let old: Vec<&str> = events.lines().filter(|line| line.contains("\"s1\"")).collect();
    assert!(matches!(old[..], [event] if event.contains("agent_summary") && event.contains("It went")), "{old:?}");
    assert_eq!(env.run_json(&["verify", "--json"]).await["problems"], json!([]));
}

async fn commands_that_only_look_refuse_an_older_archive_and_say_what_to_do(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    let newest = migrations(&env.database).await.last().unwrap().version;
    RawConnection::open(&env.database).await.close().await;
    for version in [0, FIRST_EDITION, LAST_MERGED] {
        let mut raw = RawConnection::open(&env.database).await;
        raw.migrate(merged_migrations_up_to(&env.database, version).await).await.unwrap();
        let before = raw.schema().await;
        let error = open_database(&env.database, OpenMode::Existing).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("is at migration {version}, this program needs {newest}")), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.starts_with("run `ringcx-extractor migrate`")), "{error}");
        for command in ["status", "export", "audit"] {
            env.run(&[command]).await.assert_output(1, &["ringcx-extractor migrate"]);
        }
        assert_eq!(raw.schema().await, before, "a read-only command has changed something");
        raw.close().await;
    }
}

/// Backs up the archive as `docs/operations.md` describes, or restores the backup.
async fn copy_archive(database: &TempDatabase, restore: bool) {
    let file = |name: &str| database.folder.path().join(name);
    if database.is_sqlite() && !restore {
        let mut raw = RawConnection::open(database).await;
        raw.run(&format!("vacuum into '{}'", file("backup.db").display())).await;
        raw.close().await;
    } else if database.is_sqlite() {
        std::fs::copy(file("backup.db"), file("archive.db")).unwrap();
        for rest in ["archive.db-wal", "archive.db-shm"] {
            let _ = std::fs::remove_file(file(rest));
        }
    } else {
        let (url, rest) = database.url.split_once('?').unwrap();
        let (server, name) = url.rsplit_once('/').unwrap();
        let mut server = PgConnection::connect(&format!("{server}/postgres?{rest}")).await.unwrap();
        let (from, to) = if restore { ("_backup", "") } else { ("", "_backup") };
        let statements =
            format!("drop database if exists {name}{to}; create database {name}{to} template {name}{from}");
        for statement in statements.split(';') {
            server.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))).await.unwrap();
        }
        server.close().await.unwrap();
    }
}

async fn a_rolled_back_program_refuses_the_upgraded_archive_and_takes_the_backup(database: TempDatabase) {
    let (mut env, expected) = env_with_earlier_archive(database, FIRST_EDITION, Scenario::history()).await;
    env.run_ok(&["migrate"]).await;
    copy_archive(&env.database, false).await;
    // A migration of a later program.
    let mut later = migrations(&env.database).await;
    let next = "create table novelty (id bigint); alter table segment rename column asked to wanted;
        update meta set value = '9000' where key in ('schema.oldest_writer', 'schema.newest_marked')"
        .into_sql_str();
    later.push(Migration::new(9_000, "later".into(), MigrationType::Simple, next, false));
    let mut raw = RawConnection::open(&env.database).await;
    raw.migrate(later).await.unwrap();
    let after = raw.schema().await;
    for command in ["run", "migrate", "status", "export", "check"] {
        env.run(&[command])
            .await
            .assert_output(1, &["newer version of this program (migration 9000", "hint: run that version again"]);
    }
    assert_eq!(raw.schema().await, after, "the refused program has changed something");
    raw.close().await;
    assert_eq!(env.sim.stats().total_requests(), 0, "nothing was asked for that could not be stored");
    copy_archive(&env.database, true).await;
    assert_eq!(exported_lines(&env).await, expected);
    env.start();
    env.wait_for_log("working").await;
    env.stop().await;
}

/// Stands for a replica of the version before while a newer one is rolled out: it opens, and goes on with, a database that was
/// expanded. It releases its accounts and writes no more once a migration took something away.
async fn a_program_works_beside_a_newer_one_until_a_migration_shuts_it_out(database: TempDatabase) {
    let scenario = Scenario::live(8 * Duration::from_secs(1)).set("http.listen", "127.0.0.1:0");
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_log("working").await;
    let mut later = migrations(&env.database).await;
    let expand = "alter table segment add column novelty bigint; create table novelty (id bigint primary key);
        update meta set value = '9000' where key = 'schema.newest_marked'";
    later.push(Migration::new(9_000, "expand".into(), MigrationType::Simple, expand.into_sql_str(), false));
    let mut raw = RawConnection::open(&env.database).await;
    raw.migrate(later.clone()).await.unwrap();
    // A running daemon and a new one, and commands, work on it.
    env.clock.sleep(Duration::from_secs(3)).await;
    env.stop().await;
    assert!(!env.log().contains("newer version"), "a daemon stopped at a database that was only expanded");
    env.start();
    env.wait_for_log("stopped").await;
    env.expect_complete_archive().await;
    env.run_ok(&["verify"]).await;
    let contract = "update meta set value = '9001' where key in ('schema.oldest_writer', 'schema.newest_marked')";
    later.push(Migration::new(9_001, "contract".into(), MigrationType::Simple, contract.into_sql_str(), false));
    raw.migrate(later).await.unwrap();
    env.wait_for_log("released all accounts; writing stops").await;
    let readyz = format!("{}readyz", env.dashboard_url().await);
    let (status, body) = support::http_get(&readyz).await;
    assert!(status == 503 && body.contains("newer version of this program has migrated"), "{status} {body}");
    let heartbeats = "select cast(max(heartbeat) as text) from replica r where r.name <> ''";
    let before = raw.texts(heartbeats).await;
    env.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(raw.texts(heartbeats).await, before, "it still writes");
    env.stop().await;
    env.run(&["run"]).await.assert_output(1, &["newer version", "migration 9001", "hint:"]);
    raw.close().await;
}

/// The name of the last table or index that a migration creates.
fn last_created_object(sql: &str) -> Option<&str> {
    let mut made = sql.split(';').filter_map(|statement| {
        let statement: Vec<&str> = statement.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        let (first, rest) = statement.iter().find(|line| !line.trim().is_empty())?.trim().split_once(' ')?;
        let rest = rest.trim_start_matches("unique ").trim_start_matches("virtual ");
        let name = rest.strip_prefix("table ").or_else(|| rest.strip_prefix("index "))?;
        let name = name.split([' ', '(']).next()?;
        (first.eq_ignore_ascii_case("create") && name != "if").then_some(name)
    });
    made.next_back()
}

async fn a_migration_that_fails_half_way_leaves_nothing_behind(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    RawConnection::open(&env.database).await.close().await;
    let mut before = 0;
    for migration in migrations(&env.database).await {
        assert!(!migration.no_tx, "migration {} is not in a transaction", migration.version);
        let mut raw = RawConnection::open(&env.database).await;
        raw.migrate(migrations_up_to(&env.database, before).await).await.unwrap();
        if let Some(name) = last_created_object(migration.sql.as_str()) {
            raw.run(&format!("create table {name} (in_the_way bigint)")).await;
            let schema = raw.schema().await;
            env.run(&["migrate"]).await.assert_output(1, &["failed to bring the database up to date"]);
            assert_eq!(raw.schema().await, schema, "migration {} has left something behind", migration.version);
            let applied = raw.texts("select cast(version as text) from _sqlx_migrations m order by m.version").await;
            assert_eq!(applied.last().cloned().unwrap_or_default().parse().unwrap_or(0), before);
            raw.run(&format!("drop table {name}")).await;
        }
        raw.close().await;
        before = migration.version;
    }
    env.run_ok(&["migrate"]).await;
    assert_eq!(exported_lines(&env).await, Vec::<Value>::new());
}
