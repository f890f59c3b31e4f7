//! Upgrade and rollback: the current program opens an archive of the last version before the migrations were merged into one, and an
//! older program an upgraded archive. The tests work with any number of migrations, so new ones need no change here.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::path::Path;
use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Db, DbError, OpenMode};
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Executor, PgConnection, Row, SqlSafeStr, SqliteConnection};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    an_archive_of_the_version_before_is_all_there_after_the_upgrade,
    a_daemon_goes_on_where_the_one_before_the_upgrade_stopped,
    commands_that_only_look_refuse_an_older_archive_and_say_what_to_do,
    an_archive_whose_migrations_are_gone_is_refused_and_left_as_it_is,
    a_rolled_back_program_refuses_the_upgraded_archive_and_takes_the_backup,
    a_migration_that_fails_half_way_leaves_nothing_behind,
}

/// A connection that runs no migrations.
enum RawConnection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl RawConnection {
    async fn open(database: &TempDatabase) -> RawConnection {
        match database.url.strip_prefix("sqlite:") {
            Some(file) => {
                let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).foreign_keys(false);
                RawConnection::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
            }
            None => RawConnection::Postgres(PgConnection::connect(&database.url).await.unwrap()),
        }
    }

    async fn run(&mut self, statements: &str) {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
        match self {
            RawConnection::Sqlite(db) => drop(db.execute(statements).await.unwrap()),
            RawConnection::Postgres(db) => drop(db.execute(statements).await.unwrap()),
        }
    }

    /// The first column of each row.
    async fn texts(&mut self, query: &'static str) -> Vec<String> {
        match self {
            RawConnection::Sqlite(db) => {
                sqlx::query(query).fetch_all(db).await.unwrap().iter().map(|row| row.get(0)).collect()
            }
            RawConnection::Postgres(db) => {
                sqlx::query(query).fetch_all(db).await.unwrap().iter().map(|row| row.get(0)).collect()
            }
        }
    }

    async fn migrate(&mut self, migrations: Vec<Migration>) -> Result<(), sqlx::migrate::MigrateError> {
        let migrator = Migrator::with_migrations(migrations);
        match self {
            RawConnection::Sqlite(db) => migrator.run(db).await,
            RawConnection::Postgres(db) => migrator.run(db).await,
        }
    }

    /// Every table and column, and every index.
    async fn schema(&mut self) -> Vec<String> {
        match self {
            RawConnection::Sqlite(_) => {
                let columns = "select m.name || c.cid || c.name || c.type || c.\"notnull\" || coalesce(c.dflt_value, '') || c.pk
                     from sqlite_master m join pragma_table_xinfo(m.name) c where m.type = 'table'
                     union all select type || name || coalesce(sql, '') from sqlite_master where type <> 'table' order by 1";
                self.texts(columns).await
            }
            RawConnection::Postgres(_) => {
                let columns = "select table_name || ordinal_position || column_name || data_type || is_nullable || coalesce(column_default, '')
                     from information_schema.columns where table_schema = 'public'
                     union all select indexdef from pg_indexes where schemaname = 'public'
                     union all select conrelid::regclass || pg_get_constraintdef(oid) from pg_constraint
                     where connamespace = 'public'::regnamespace order by 1";
                self.texts(columns).await
            }
        }
    }

    async fn close(self) {
        match self {
            RawConnection::Sqlite(db) => db.close().await.unwrap(),
            RawConnection::Postgres(db) => db.close().await.unwrap(),
        }
    }
}

/// The migrations for this kind of database in this folder, in order.
async fn migrations_in(folder: &str, database: &TempDatabase) -> Vec<Migration> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let kind = if database.is_sqlite() { "sqlite" } else { "postgres" };
    let migrator = Migrator::new(folder.join(kind)).await.unwrap();
    let mut all: Vec<Migration> = migrator.iter().cloned().collect();
    all.sort_by_key(|migration| migration.version);
    all
}

async fn migrations(database: &TempDatabase) -> Vec<Migration> {
    migrations_in("migrations", database).await
}

async fn migrations_up_to(database: &TempDatabase, version: i64) -> Vec<Migration> {
    migrations(database).await.into_iter().filter(|migration| migration.version <= version).collect()
}

/// The migrations that were merged into the first one of today, as they were, up to this version.
async fn merged_migrations_up_to(database: &TempDatabase, version: i64) -> Vec<Migration> {
    let all = migrations_in("tests/fixtures/migrations_until_25", database).await;
    all.into_iter().filter(|migration| migration.version <= version).collect()
}

/// The newest of them.
const LAST_MERGED: i64 = 25;

async fn open_database(database: &TempDatabase, access: OpenMode) -> Result<Db, DbError> {
    match database.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(Path::new(file), access).await,
        None => Db::open_postgres(&SecretString::from(database.url.clone()), access, 4).await,
    }
}

const TRANSCRIPT: &str = r#"{"channelClass":"VOICE","transcript":[{"text":"Grüß Gott"}],"unknown":1.50}"#;

/// Creates an archive as the version before the merge left it, with its own texts, read up to `watermark`.
async fn create_earlier_archive(database: &TempDatabase, rc: &str, sub: &str, watermark: Time) {
    let mut raw = RawConnection::open(database).await;
    raw.migrate(merged_migrations_up_to(database, LAST_MERGED).await).await.unwrap();
    let sqlite = database.is_sqlite();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let blob = |bytes: &[u8]| if sqlite { format!("x'{}'", hex(bytes)) } else { format!("'\\x{}'::bytea", hex(bytes)) };
    let (ended, late) = (watermark.0 - 60_000, watermark.0 - 30_000);
    let mut all = format!(
        "insert into account (id, rc, sub, name, created, live_start, feed, done) values (1, '{rc}', '{sub}', 'Support', 1, {ended} - 60000, 3, 3);
         insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values
             (1, 'live', {ended} - 60000, {late}, 2, {late}, {late}), (1, 'live', {late}, {0}, 1, {0}, {0});
         insert into reading (account, nth, at, took, lane, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low) values
             (1, 0, {late}, 9, 'live', {ended} - 60000, {0}, 4, 4, 0, 0, 0, 1, 2);
         insert into replica (name, version, started, heartbeat, released, stats) values ('old', '0.0.1', 1, 2, 3, '{{}}');
         insert into attempt (item, slot, nth, at, status, reason) values (8, 1, 1, {late}, 404, 'it is not there (404)');
         insert into lateness (account, kind, bucket, count) values (1, 'fetchable', 5, 3);
         insert into meta (key, value) values ('records.sealed', '1'), ('search_version', '1');
         insert into search_cursor (account, feed) values (1, 3);\n",
        watermark.0
    );
    for (id, asked, end) in [(1, 7, ended), (2, 7, ended + 1), (3, 0, ended + 2), (4, 1, late)] {
        let metadata = format!(r#"{{"segmentId":"s{id}","dialogId":"d","unknown":[1.0,null]}}"#);
        let digest = blob(&Sha256::digest(metadata.as_bytes())[..16]);
        all += &format!(
            "insert into segment (id, account, segment_id, dialog_id, ended, has_transcript, is_agent, asked, first_seen, changed, digest, codec, metadata)
                 values ({id}, 1, 's{id}', 'd', {end}, {}, 1, {asked}, {late}, {late}, {digest}, 0, {});\n",
            i64::from(asked > 0),
            blob(metadata.as_bytes())
        );
    }
    for (feed, item, outcome, body) in [(1, 4, 0, TRANSCRIPT), (2, 5, 0, "\"It went \\\"well\\\"\""), (3, 6, 1, "")] {
        let (sum, size) = (blob(&Sha256::digest(body.as_bytes())), body.len());
        all += &format!(
            "insert into artifact (item, version, account, feed, outcome, fetched, size, sha256, codec, body)
                 values ({item}, 1, 1, {feed}, {outcome}, {late}, {size}, {sum}, 0, {});\n",
            blob(body.as_bytes())
        );
    }
    // Waiting, unavailable, failed, discarded; and an empty summary that is due for a refresh.
    for (item, state, visit) in [(8, 0, 0), (9, 1, 0), (10, 2, 0), (16, 3, 0), (6, 0, 1)] {
        let lane = if visit > 0 { 3 } else { 0 };
        all += &format!(
            "insert into work (item, segment, artifact, account, lane, state, due, created, tries, again, misses, first_try, last_try, status, reason, visit)
                 values ({item}, {item} / 4, {item} % 4, 1, {lane}, {state}, {}, {late}, 1, 1, 1, {late}, {late}, 404, 'it is not there (404)', {visit});\n",
            watermark.0 + 3_600_000
        );
    }
    if !sqlite {
        // Advance the sequences past these ids.
        all += "select setval(pg_get_serial_sequence('account', 'id'), 1), setval(pg_get_serial_sequence('segment', 'id'), 4);";
    }
    raw.run(&all).await;
    raw.close().await;
}

/// The expected export of that archive.
fn expected_export(rc: &str, sub: &str, watermark: Time) -> Vec<Value> {
    let at = |millis: i64| Time(millis).rfc3339();
    let (ended, late) = (watermark.0 - 60_000, watermark.0 - 30_000);
    let line = |id: i64, end: i64, parts: [Value; 3]| {
        let [transcript, agent_summary, auto_summary] = parts;
        json!({
            "rc_account_id": rc, "sub_account_id": sub, "dialog_id": "d", "segment_id": format!("s{id}"), "segment_end": at(end),
            "metadata": {"segmentId": format!("s{id}"), "dialogId": "d", "unknown": [1.0, null]},
            "transcript": transcript, "agent_summary": agent_summary, "auto_summary": auto_summary,
        })
    };
    let none = || json!({"outcome": "not_requested"});
    let is = |outcome: &str| json!({"outcome": outcome});
    let body: Value = serde_json::from_str(TRANSCRIPT).unwrap();
    let stored = [
        json!({"outcome": "stored", "fetched_at": at(late), "body": body}),
        json!({"outcome": "stored", "fetched_at": at(late), "text": "It went \"well\""}),
        json!({"outcome": "not_populated", "fetched_at": at(late)}),
    ];
    vec![
        line(1, ended, stored),
        line(2, ended + 1, [is("pending"), is("unavailable"), is("failed")]),
        line(3, ended + 2, [none(), none(), none()]),
        line(4, late, [is("discarded"), none(), none()]),
    ]
}

async fn exported_lines(env: &TestEnv) -> Vec<Value> {
    env.run_ok(&["export"]).await.lines().map(|line| ringcx_extractor::lenient_json::from_str(line).unwrap()).collect()
}

/// A test environment whose archive the version before the merge created, and its expected export.
async fn env_with_earlier_archive(database: TempDatabase) -> (TestEnv, Vec<Value>) {
    let env = TestEnv::new(database, Scenario::history()).await;
    let (account, watermark) = (env.main_account(), env.begin - Duration::from_secs(40));
    create_earlier_archive(&env.database, &account.rc, &account.sub, watermark).await;
    let expected = expected_export(&account.rc, &account.sub, watermark);
    (env, expected)
}

async fn an_archive_of_the_version_before_is_all_there_after_the_upgrade(database: TempDatabase) {
    let fresh = if database.is_sqlite() { TempDatabase::sqlite() } else { TempDatabase::postgres().await };
    open_database(&fresh, OpenMode::CreateOrMigrate).await.unwrap().close().await;
    let (env, expected) = env_with_earlier_archive(database).await;
    env.run_ok(&["migrate"]).await;
    assert_eq!(exported_lines(&env).await, expected);
    let status = env.account_status().await;
    assert_eq!(status["watermark"], (env.begin - Duration::from_secs(40)).rfc3339_secs(), "{status}");
    let work =
        json!({"ready": 0, "waiting": 1, "running": 0, "done": 3, "unavailable": 1, "failed": 1, "discarded": 1});
    assert_eq!(status["work"], work);
    assert!(
        env.run_ok(&["show", "s2"]).await.contains("it is not there (404)"),
        "the tries of an item are its history"
    );
    // Migrating again changes nothing.
    env.run_ok(&["migrate"]).await;
    assert_eq!(exported_lines(&env).await, expected);
    let schema = async |database| RawConnection::open(database).await.schema().await;
    assert_eq!(schema(&env.database).await, schema(&fresh).await, "the upgraded schema is that of a new archive");
}

async fn a_daemon_goes_on_where_the_one_before_the_upgrade_stopped(database: TempDatabase) {
    // Its index is empty, but marked as complete by an earlier tokenizer.
    let (mut env, expected) = env_with_earlier_archive(database).await;
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
    env.stop().await;
    let audit = env.audit_json().await.0;
    assert_eq!(audit["accounts"][0]["gaps"], json!([]), "{audit}");
}

async fn commands_that_only_look_refuse_an_older_archive_and_say_what_to_do(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    let newest = migrations(&env.database).await.last().unwrap().version;
    RawConnection::open(&env.database).await.close().await;
    for version in [0, LAST_MERGED] {
        let mut raw = RawConnection::open(&env.database).await;
        raw.migrate(merged_migrations_up_to(&env.database, version).await).await.unwrap();
        let before = raw.schema().await;
        let error = open_database(&env.database, OpenMode::Existing).await.unwrap_err().to_string();
        assert!(error.contains(&format!("is at migration {version}, this program needs {newest}")), "{error}");
        assert!(error.contains("hint: run `ringcx-extractor migrate`"), "{error}");
        for command in ["status", "export", "audit"] {
            env.run(&[command]).await.assert_output(1, &["ringcx-extractor migrate"]);
        }
        assert_eq!(raw.schema().await, before, "a read-only command has changed something");
        raw.close().await;
    }
}

async fn an_archive_whose_migrations_are_gone_is_refused_and_left_as_it_is(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    RawConnection::open(&env.database).await.close().await;
    // The upgrade behind the last of them was interrupted: `records.sealed` is missing.
    for version in [1, 5, 20, LAST_MERGED] {
        let mut raw = RawConnection::open(&env.database).await;
        raw.migrate(merged_migrations_up_to(&env.database, version).await).await.unwrap();
        let before = raw.schema().await;
        for command in ["migrate", "run"] {
            env.run(&[command])
                .await
                .assert_output(1, &[&format!("is at migration {version}"), "at commit 875fca7 first"]);
        }
        assert_eq!(raw.schema().await, before, "the refused program has changed something");
        let applied = raw.texts("select cast(max(version) as text) from _sqlx_migrations").await;
        assert_eq!(applied, [version.to_string()]);
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
    let (mut env, expected) = env_with_earlier_archive(database).await;
    env.run_ok(&["migrate"]).await;
    copy_archive(&env.database, false).await;
    // A migration of a later program.
    let mut later = migrations(&env.database).await;
    let next = "create table novelty (id bigint); alter table segment rename column asked to wanted".into_sql_str();
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
