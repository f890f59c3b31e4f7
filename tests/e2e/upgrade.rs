//! Upgrade and rollback, rehearsed: an archive as the first version left it meets today's program, and the other way
//! round. Written against any number of migrations: those that come are tried without a change here.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::path::Path;
use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Access, Db, DbError};
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Executor, PgConnection, Row, SqlSafeStr, SqliteConnection};
use support::daemon::{Place, Plan, Rig};

crate::e2e! {
    an_archive_of_the_first_version_is_all_there_after_the_upgrade,
    a_daemon_goes_on_where_the_one_before_the_upgrade_stopped,
    commands_that_only_look_refuse_an_older_archive_and_say_what_to_do,
    a_rolled_back_program_refuses_the_upgraded_archive_and_takes_the_backup,
    a_migration_that_fails_half_way_leaves_nothing_behind,
}

/// A connection of no version in particular.
enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Raw {
    async fn open(place: &Place) -> Raw {
        match place.url.strip_prefix("sqlite:") {
            Some(file) => {
                let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).foreign_keys(false);
                Raw::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
            }
            None => Raw::Postgres(PgConnection::connect(&place.url).await.unwrap()),
        }
    }

    async fn run(&mut self, statements: &str) {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
        match self {
            Raw::Sqlite(db) => drop(db.execute(statements).await.unwrap()),
            Raw::Postgres(db) => drop(db.execute(statements).await.unwrap()),
        }
    }

    /// The first column of each row.
    async fn texts(&mut self, query: &'static str) -> Vec<String> {
        match self {
            Raw::Sqlite(db) => sqlx::query(query).fetch_all(db).await.unwrap().iter().map(|row| row.get(0)).collect(),
            Raw::Postgres(db) => sqlx::query(query).fetch_all(db).await.unwrap().iter().map(|row| row.get(0)).collect(),
        }
    }

    async fn migrate(&mut self, migrations: Vec<Migration>) -> Result<(), sqlx::migrate::MigrateError> {
        let migrator = Migrator::with_migrations(migrations);
        match self {
            Raw::Sqlite(db) => migrator.run(db).await,
            Raw::Postgres(db) => migrator.run(db).await,
        }
    }

    /// Every table and column, and every index.
    async fn schema(&mut self) -> Vec<String> {
        match self {
            Raw::Sqlite(_) => {
                self.texts("select type || name || coalesce(sql, '') from sqlite_master order by 1").await
            }
            Raw::Postgres(_) => {
                let columns = "select table_name || '.' || column_name || data_type from information_schema.columns
                     where table_schema = 'public' union all select indexdef from pg_indexes where schemaname = 'public' order by 1";
                self.texts(columns).await
            }
        }
    }

    async fn close(self) {
        match self {
            Raw::Sqlite(db) => db.close().await.unwrap(),
            Raw::Postgres(db) => db.close().await.unwrap(),
        }
    }
}

/// Today's migrations for this kind of database, in order.
async fn migrations(place: &Place) -> Vec<Migration> {
    let folder = if place.is_sqlite() { "migrations/sqlite" } else { "migrations/postgres" };
    let migrator = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).await.unwrap();
    let mut all: Vec<Migration> = migrator.iter().cloned().collect();
    all.sort_by_key(|migration| migration.version);
    all
}

async fn up_to(place: &Place, version: i64) -> Vec<Migration> {
    migrations(place).await.into_iter().filter(|migration| migration.version <= version).collect()
}

async fn opened(place: &Place, access: Access) -> Result<Db, DbError> {
    match place.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(Path::new(file), access).await,
        None => Db::open_postgres(&SecretString::from(place.url.clone()), access, 4).await,
    }
}

const TRANSCRIPT: &str = r#"{"channelClass":"VOICE","transcript":[{"text":"Grüß Gott"}],"unknown":1.50}"#;

/// The archive that the first version left, which had read up to `watermark`, with its own words.
async fn leave(place: &Place, rc: &str, sub: &str, watermark: Time) {
    let mut raw = Raw::open(place).await;
    raw.migrate(up_to(place, 1).await).await.unwrap();
    let sqlite = place.is_sqlite();
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
         insert into lateness (account, kind, bucket, count) values (1, 'fetchable', 5, 3);\n",
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
    // Waiting, given up, failed, discarded; and an empty summary that is to be asked for again.
    for (item, state, visit) in [(8, 0, 0), (9, 1, 0), (10, 2, 0), (16, 3, 0), (6, 0, 1)] {
        let lane = if visit > 0 { 3 } else { 0 };
        all += &format!(
            "insert into work (item, segment, artifact, account, lane, state, due, created, tries, again, misses, first_try, last_try, status, reason, visit)
                 values ({item}, {item} / 4, {item} % 4, 1, {lane}, {state}, {}, {late}, 1, 1, 1, {late}, {late}, 404, 'it is not there (404)', {visit});\n",
            watermark.0 + 3_600_000
        );
    }
    if !sqlite {
        // As if the server had given these numbers.
        all += "select setval(pg_get_serial_sequence('account', 'id'), 1), setval(pg_get_serial_sequence('segment', 'id'), 4);";
    }
    raw.run(&all).await;
    raw.close().await;
}

/// What an export of it has to say.
fn left(rc: &str, sub: &str, watermark: Time) -> Vec<Value> {
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

async fn export(rig: &Rig) -> Vec<Value> {
    rig.output(&["export"]).await.lines().map(|line| ringcx_extractor::lenient_json::from_str(line).unwrap()).collect()
}

/// A rig whose archive the first version left, and what is in it.
async fn old(place: Place) -> (Rig, Vec<Value>) {
    let rig = Rig::new(place, Plan::history()).await;
    let (account, watermark) = (rig.main_account(), rig.begin - Duration::from_secs(40));
    leave(&rig.place, &account.rc, &account.sub, watermark).await;
    let left = left(&account.rc, &account.sub, watermark);
    (rig, left)
}

async fn an_archive_of_the_first_version_is_all_there_after_the_upgrade(place: Place) {
    let (rig, left) = old(place).await;
    rig.output(&["migrate"]).await;
    assert_eq!(export(&rig).await, left);
    let status = rig.account().await;
    assert_eq!(status["watermark"], (rig.begin - Duration::from_secs(40)).rfc3339_secs(), "{status}");
    let work =
        json!({"ready": 0, "waiting": 1, "running": 0, "done": 3, "unavailable": 1, "failed": 1, "discarded": 1});
    assert_eq!(status["work"], work);
    assert!(
        rig.output(&["show", "s2"]).await.contains("it is not there (404)"),
        "the tries of an item are its history"
    );
    // Doing it again does nothing.
    rig.output(&["migrate"]).await;
    assert_eq!(export(&rig).await, left);
}

async fn a_daemon_goes_on_where_the_one_before_the_upgrade_stopped(place: Place) {
    let (mut rig, left) = old(place).await;
    // As if a version in between had left an index that knows nothing of what filters go by, and holds itself for complete.
    let mut raw = Raw::open(&rig.place).await;
    raw.migrate(up_to(&rig.place, 7).await).await.unwrap();
    raw.run(
        "insert into search_cursor (account, feed) select id, feed from account;
         insert into meta (key, value) values ('search_version', '1')",
    )
    .await;
    raw.close().await;
    rig.start();
    rig.says("working").await;
    let world = rig.world();
    let all = async || export(&rig).await.len() == left.len() + world.len();
    rig.until("all that ended meanwhile is found", all).await;
    let exported = export(&rig).await;
    assert!(left.iter().all(|line| exported.contains(line)), "what was there is not as it was: {exported:?}");
    let by_filter = ["search", "went well", "--artifact", "agent_summary", "--json"];
    rig.until("the index is built anew", async || rig.output(&by_filter).await.contains("\"s1\"")).await;
    // What is new is read first: the stretch between it and what was read before the upgrade comes after.
    rig.until("nothing is left unread", async || rig.audit().await.0["accounts"][0]["gaps"] == json!([])).await;
    rig.stop().await;
    let audit = rig.audit().await.0;
    assert_eq!(audit["accounts"][0]["gaps"], json!([]), "{audit}");
}

async fn commands_that_only_look_refuse_an_older_archive_and_say_what_to_do(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    let versions: Vec<i64> = migrations(&rig.place).await.iter().map(|migration| migration.version).collect();
    let newest = *versions.last().unwrap();
    Raw::open(&rig.place).await.close().await;
    for version in std::iter::once(0).chain(versions).filter(|version| *version < newest) {
        let mut raw = Raw::open(&rig.place).await;
        raw.migrate(up_to(&rig.place, version).await).await.unwrap();
        let before = raw.schema().await;
        let error = opened(&rig.place, Access::Existing).await.unwrap_err().to_string();
        assert!(error.contains(&format!("is at migration {version}, this program needs {newest}")), "{error}");
        assert!(error.contains("hint: run `ringcx-extractor migrate`"), "{error}");
        for command in ["status", "export", "audit"] {
            rig.run(&[command]).await.is(1, &["ringcx-extractor migrate"]);
        }
        assert_eq!(raw.schema().await, before, "looking has changed something");
        raw.close().await;
    }
    rig.output(&["migrate"]).await;
    rig.output(&["export"]).await;
}

/// A copy of the archive as `docs/operations.md` has it made, or put in the archive's place again.
async fn copied(place: &Place, back: bool) {
    let file = |name: &str| place.folder.path().join(name);
    if place.is_sqlite() && !back {
        let mut raw = Raw::open(place).await;
        raw.run(&format!("vacuum into '{}'", file("backup.db").display())).await;
        raw.close().await;
    } else if place.is_sqlite() {
        std::fs::copy(file("backup.db"), file("archive.db")).unwrap();
        for rest in ["archive.db-wal", "archive.db-shm"] {
            let _ = std::fs::remove_file(file(rest));
        }
    } else {
        let (url, rest) = place.url.split_once('?').unwrap();
        let (server, name) = url.rsplit_once('/').unwrap();
        let mut server = PgConnection::connect(&format!("{server}/postgres?{rest}")).await.unwrap();
        let (from, to) = if back { ("_backup", "") } else { ("", "_backup") };
        let statements =
            format!("drop database if exists {name}{to}; create database {name}{to} template {name}{from}");
        for statement in statements.split(';') {
            server.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))).await.unwrap();
        }
        server.close().await.unwrap();
    }
}

async fn a_rolled_back_program_refuses_the_upgraded_archive_and_takes_the_backup(place: Place) {
    let (mut rig, left) = old(place).await;
    rig.output(&["migrate"]).await;
    copied(&rig.place, false).await;
    // The program that comes after this one.
    let mut later = migrations(&rig.place).await;
    let next = "create table novelty (id bigint); alter table segment rename column asked to wanted".into_sql_str();
    later.push(Migration::new(9_000, "later".into(), MigrationType::Simple, next, false));
    let mut raw = Raw::open(&rig.place).await;
    raw.migrate(later).await.unwrap();
    let after = raw.schema().await;
    for command in ["run", "migrate", "status", "export", "check"] {
        rig.run(&[command])
            .await
            .is(1, &["newer version of this program (migration 9000", "hint: run that version again"]);
    }
    assert_eq!(raw.schema().await, after, "the refused program has changed something");
    raw.close().await;
    assert_eq!(rig.sim.stats().requests_in_all(), 0, "nothing was asked for that could not be stored");
    copied(&rig.place, true).await;
    assert_eq!(export(&rig).await, left);
    rig.start();
    rig.says("working").await;
    rig.stop().await;
}

/// The last table or index that a migration makes, by name.
fn last_made(sql: &str) -> Option<&str> {
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

async fn a_migration_that_fails_half_way_leaves_nothing_behind(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    Raw::open(&rig.place).await.close().await;
    let mut before = 0;
    for migration in migrations(&rig.place).await {
        assert!(!migration.no_tx, "migration {} is not in a transaction", migration.version);
        let mut raw = Raw::open(&rig.place).await;
        raw.migrate(up_to(&rig.place, before).await).await.unwrap();
        if let Some(name) = last_made(migration.sql.as_str()) {
            raw.run(&format!("create table {name} (in_the_way bigint)")).await;
            let schema = raw.schema().await;
            rig.run(&["migrate"]).await.is(1, &["failed to bring the database up to date"]);
            assert_eq!(raw.schema().await, schema, "migration {} has left something behind", migration.version);
            let applied = raw.texts("select cast(version as text) from _sqlx_migrations m order by m.version").await;
            assert_eq!(applied.last().cloned().unwrap_or_default().parse().unwrap_or(0), before);
            raw.run(&format!("drop table {name}")).await;
        }
        raw.close().await;
        before = migration.version;
    }
    rig.output(&["migrate"]).await;
    assert_eq!(export(&rig).await, Vec::<Value>::new());
}
