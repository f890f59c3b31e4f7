//! Archives as earlier versions left them, written with their own migrations and plain SQL, and what an export must print of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use hmac::{Hmac, Mac};
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::AccountId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::migrate::{Migration, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Executor, PgConnection, Row, SqliteConnection};

use crate::support::test_env::TempDatabase;

/// The newest of the migrations that were merged into the first one of today.
pub const LAST_MERGED: i64 = 25;

/// The newest migration of the first edition.
pub const FIRST_EDITION: i64 = 11;

/// The id of the segment that was erased.
pub const ERASED_ID: &str = "erased-segment";

const TRANSCRIPT: &str = r#"{"channelClass":"VOICE","transcript":[{"text":"Grüß Gott"}],"unknown":1.50}"#;
const SECRET: [u8; 32] = [7; 32];

/// A connection that runs no migrations.
pub enum RawConnection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl RawConnection {
    pub async fn open(database: &TempDatabase) -> RawConnection {
        match database.url.strip_prefix("sqlite:") {
            Some(file) => {
                let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).foreign_keys(false);
                RawConnection::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
            }
            None => RawConnection::Postgres(PgConnection::connect(&database.url).await.unwrap()),
        }
    }

    pub async fn run(&mut self, statements: &str) {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
        match self {
            RawConnection::Sqlite(db) => drop(db.execute(statements).await.unwrap()),
            RawConnection::Postgres(db) => drop(db.execute(statements).await.unwrap()),
        }
    }

    /// The first column of each row.
    pub async fn texts(&mut self, query: &str) -> Vec<String> {
        let query = sqlx::AssertSqlSafe(query.to_owned());
        match self {
            RawConnection::Sqlite(db) => {
                sqlx::query(query).fetch_all(db).await.unwrap().iter().map(|row| row.get(0)).collect()
            }
            RawConnection::Postgres(db) => {
                sqlx::query(query).fetch_all(db).await.unwrap().iter().map(|row| row.get(0)).collect()
            }
        }
    }

    pub async fn migrate(&mut self, migrations: Vec<Migration>) -> Result<(), sqlx::migrate::MigrateError> {
        let migrator = Migrator::with_migrations(migrations);
        match self {
            RawConnection::Sqlite(db) => migrator.run(db).await,
            RawConnection::Postgres(db) => migrator.run(db).await,
        }
    }

    /// Every table and column, and every index.
    pub async fn schema(&mut self) -> Vec<String> {
        self.texts(match self {
            RawConnection::Sqlite(_) => {
                "select m.name || c.cid || c.name || c.type || c.\"notnull\" || coalesce(c.dflt_value, '') || c.pk
                 from sqlite_master m join pragma_table_xinfo(m.name) c where m.type = 'table'
                 union all select type || name || coalesce(sql, '') from sqlite_master where type <> 'table' order by 1"
            }
            RawConnection::Postgres(_) => {
                "select table_name || ordinal_position || column_name || data_type || is_nullable || coalesce(column_default, '')
                 from information_schema.columns where table_schema = 'public'
                 union all select indexdef from pg_indexes where schemaname = 'public'
                 union all select conrelid::regclass || pg_get_constraintdef(oid) from pg_constraint
                 where connamespace = 'public'::regnamespace order by 1"
            }
        })
        .await
    }

    /// A query for the content of each table with its columns of now. It leaves out the full-text index, which is rebuilt, and `meta`.
    pub async fn content_queries(&mut self) -> Vec<String> {
        self.texts(match self {
            RawConnection::Sqlite(_) => {
                "select 'select json_array(' || group_concat('quote(' || c.name || ')') || ') from ' || m.name || ' order by 1'
                 from sqlite_master m join pragma_table_info(m.name) c where m.type = 'table' and m.name not like 'sqlite%'
                 and m.name not like '%sqlx%' and m.name not like 'search%' and m.name <> 'meta' group by m.name order by 1"
            }
            RawConnection::Postgres(_) => {
                "select 'select cast(row(' || string_agg(column_name, ',' order by column_name) || ') as text) from ' || table_name || ' order by 1'
                 from information_schema.columns where table_schema = 'public' and table_name not like '%sqlx%'
                 and table_name not like 'search%' and table_name <> 'meta' group by table_name order by 1"
            }
        })
        .await
    }

    /// The rows that these queries find.
    pub async fn contents(&mut self, queries: &[String]) -> Vec<String> {
        let mut rows = Vec::new();
        for query in queries {
            rows.push(query.clone());
            rows.extend(self.texts(query).await);
        }
        rows
    }

    /// Makes this event (`insert`, `update` or `delete`) of a table fail, or lets it succeed again.
    pub async fn obstruct(&mut self, event: &str, table: &str, obstructed: bool) {
        let statements = match (&self, obstructed) {
            (RawConnection::Sqlite(_), true) => {
                format!("create trigger obstacle before {event} on {table} begin select raise(abort, 'obstructed'); end")
            }
            (RawConnection::Postgres(_), true) => format!(
                "create function obstruct() returns trigger language plpgsql as 'begin raise exception ''obstructed''; end';
                 create trigger obstacle before {event} on {table} for each row execute function obstruct()"
            ),
            (RawConnection::Sqlite(_), false) => "drop trigger obstacle".to_owned(),
            (RawConnection::Postgres(_), false) => "drop function obstruct cascade".to_owned(),
        };
        self.run(&statements).await;
    }

    pub async fn close(self) {
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

pub async fn migrations(database: &TempDatabase) -> Vec<Migration> {
    migrations_in("migrations", database).await
}

pub async fn migrations_up_to(database: &TempDatabase, version: i64) -> Vec<Migration> {
    migrations(database).await.into_iter().filter(|migration| migration.version <= version).collect()
}

/// The migrations that were merged into the first one of today, up to this version.
pub async fn merged_migrations_up_to(database: &TempDatabase, version: i64) -> Vec<Migration> {
    let all = migrations_in("migrations/until_25", database).await;
    all.into_iter().filter(|migration| migration.version <= version).collect()
}

/// `H` of `docs/proof.md`.
fn hash_fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(u32::try_from(field.len()).unwrap().to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().to_vec()
}

fn utc_day(time_ms: i64) -> i64 {
    time_ms.div_euclid(86_400_000)
}

/// A hash that is keyed with the archive's secret.
fn keyed_hash(kind: &str, value: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&SECRET).unwrap();
    mac.update(format!("{kind}\0{value}").as_bytes());
    mac.finalize().into_bytes()[..16].to_vec()
}

/// An archive of an account that an earlier version has read up to `watermark`, with some of everything that it wrote.
pub struct EarlierArchive {
    pub account: AccountId,
    pub watermark: Time,
}

impl EarlierArchive {
    fn ended(&self) -> i64 {
        self.watermark.0 - 60_000
    }

    fn late(&self) -> i64 {
        self.watermark.0 - 30_000
    }

    fn segments(&self) -> [(i64, i64, i64); 4] {
        let ended = self.ended();
        [(1, 7, ended), (2, 7, ended + 1), (3, 0, ended + 2), (4, 1, self.late())]
    }

    /// Creates it with the migrations up to `version`, the first edition's or later.
    pub async fn create(&self, database: &TempDatabase, version: i64) {
        let mut raw = RawConnection::open(database).await;
        raw.migrate(merged_migrations_up_to(database, version).await).await.unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let blob = |bytes: &[u8]| {
            if database.is_sqlite() { format!("x'{}'", hex(bytes)) } else { format!("'\\x{}'::bytea", hex(bytes)) }
        };
        let (artifacts, heads) = self.artifact_rows(&blob);
        raw.run(&self.account_rows(&heads, &blob)).await;
        raw.run(&self.segment_rows(&blob)).await;
        raw.run(&artifacts).await;
        raw.run(&self.progress_rows()).await;
        raw.run(&self.deletion_rows(&blob)).await;
        if !database.is_sqlite() {
            // Advance the sequences past these ids.
            raw.run("select setval(pg_get_serial_sequence('account', 'id'), 1), setval(pg_get_serial_sequence('segment', 'id'), 4)")
                .await;
        }
        raw.close().await;
    }

    /// The account, with a manifest of the day before.
    fn account_rows(&self, heads: &[Vec<u8>], blob: &impl Fn(&[u8]) -> String) -> String {
        let (AccountId { rc, sub, .. }, ended, late) = (&self.account, self.ended(), self.late());
        let (day, genesis, ledger) = (utc_day(ended) - 1, [0; 32], hash_fields(&[b"ringcx-extractor ledger 1"]));
        let manifest = hash_fields(&[
            b"ringcx-extractor manifest 1",
            sub.as_bytes(),
            &day.to_be_bytes(),
            &0_i64.to_be_bytes(),
            &2_i64.to_be_bytes(),
            &heads[2],
            &0_i64.to_be_bytes(),
            &ledger,
            &late.to_be_bytes(),
            &genesis,
        ]);
        let [head, middle, manifest, ledger, genesis] =
            [&heads[4], &heads[2], &manifest, &ledger, &genesis.to_vec()].map(|hash| blob(hash));
        format!(
            "insert into account (id, rc, sub, name, created, live_start, feed, done, chain, manifest) values
                 (1, '{rc}', '{sub}', 'Support', 1, {ended} - 60000, 4, 3, {head}, {manifest});
             insert into manifest (account, day, chain_from, feed, head, segments, ledger, sealed, previous, hash) values
                 (1, {day}, 0, 2, {middle}, 0, {ledger}, {late}, {genesis}, {manifest});"
        )
    }

    /// Segments, an earlier version of one, and the digests of their ids by day.
    fn segment_rows(&self, blob: &impl Fn(&[u8]) -> String) -> String {
        let late = self.late();
        let mut days: BTreeMap<i64, [i64; 3]> = BTreeMap::new();
        let mut all = String::new();
        for (id, asked, end) in self.segments() {
            let metadata = format!(r#"{{"segmentId":"s{id}","dialogId":"d","unknown":[1.0,null]}}"#);
            all += &format!(
                "insert into segment (id, account, segment_id, dialog_id, ended, has_transcript, is_agent, asked, first_seen, changed, digest, codec, metadata)
                     values ({id}, 1, 's{id}', 'd', {end}, {}, 1, {asked}, {late}, {late}, {}, 0, {});\n",
                i64::from(asked > 0),
                blob(&Sha256::digest(metadata.as_bytes())[..16]),
                blob(metadata.as_bytes())
            );
            let hash = Sha256::digest(format!("s{id}"));
            let half = |at: usize| i64::from_be_bytes(hash[at..at + 8].try_into().unwrap());
            let day = days.entry(utc_day(end)).or_default();
            *day = [day[0] + 1, day[1].wrapping_add(half(0)), day[2].wrapping_add(half(8))];
        }
        for (day, [segments, high, low]) in days {
            all += &format!(
                "insert into announced (account, day, segments, digest_high, digest_low) values (1, {day}, {segments}, {high}, {low});\n"
            );
        }
        all + &format!(
            "insert into segment_version (segment, seen, what, codec, metadata) values (1, {late}, 'metadata changed', 0, {});\n",
            blob(br#"{"segmentId":"s1","dialogId":"d"}"#)
        )
    }

    /// Artifacts, an erased feed entry and work, and the heads of the feed's chain before and after each entry.
    fn artifact_rows(&self, blob: &impl Fn(&[u8]) -> String) -> (String, Vec<Vec<u8>>) {
        let (late, salt) = (self.late(), [1; 16]);
        let (mut all, mut heads) = (String::new(), vec![vec![0; 32]]);
        let link = |head: &[u8], leaf: &[u8]| hash_fields(&[b"ringcx-extractor link 1", head, leaf]);
        for (feed, item, outcome, body) in
            [(1_i64, 4_i64, 0_i64, TRANSCRIPT), (2, 5, 0, "\"It went \\\"well\\\"\""), (3, 6, 1, "")]
        {
            let (sum, size) = (Sha256::digest(body.as_bytes()), i64::try_from(body.len()).unwrap());
            let leaf = hash_fields(&[
                b"ringcx-extractor leaf 1",
                &salt,
                &feed.to_be_bytes(),
                self.account.sub.as_bytes(),
                format!("s{}", item / 4).as_bytes(),
                &(item % 4).to_be_bytes(),
                &1_i64.to_be_bytes(),
                &outcome.to_be_bytes(),
                &late.to_be_bytes(),
                &size.to_be_bytes(),
                &sum,
            ]);
            heads.push(link(heads.last().unwrap(), &leaf));
            all += &format!(
                "insert into artifact (item, version, account, feed, outcome, fetched, size, sha256, codec, body, salt)
                     values ({item}, 1, 1, {feed}, {outcome}, {late}, {size}, {}, 0, {}, {});\n",
                blob(&sum),
                blob(body.as_bytes()),
                blob(&salt)
            );
        }
        let erased = Sha256::digest("an erased entry");
        heads.push(link(heads.last().unwrap(), &erased));
        all += &format!("insert into erased_leaf (account, feed, leaf) values (1, 4, {});\n", blob(&erased));
        // Waiting, unavailable, failed, discarded; and an empty summary that is due for a refresh.
        for (item, state, visit) in [(8, 0, 0), (9, 1, 0), (10, 2, 0), (16, 3, 0), (6, 0, 1)] {
            let lane = if visit > 0 { 3 } else { 0 };
            all += &format!(
                "insert into work (item, segment, artifact, account, lane, state, due, created, tries, again, misses, first_try, last_try, status, reason, visit)
                     values ({item}, {item} / 4, {item} % 4, 1, {lane}, {state}, {}, {late}, 1, 1, 1, {late}, {late}, 404, 'it is not there (404)', {visit});\n",
                self.watermark.0 + 3_600_000
            );
        }
        (all, heads)
    }

    /// Coverage, attempts, limits, search and delivery.
    fn progress_rows(&self) -> String {
        let (ended, late, to) = (self.ended(), self.late(), self.watermark.0);
        format!(
            "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values
                 (1, 'live', {ended} - 60000, {late}, 2, {late}, {late}), (1, 'live', {late}, {to}, 1, {to}, {to}),
                 (1, 'recheck:3600', {ended} - 60000, {ended}, 1, {late}, {late}), (1, 'backfill:1', {ended}, {late}, 1, {late}, {late});
             insert into coverage_level (account, pass, base) values (1, 'recheck:3600', {ended});
             insert into backfill (account, from_ms, to_ms, newest_first, created, finished) values (1, {ended}, {late}, 1, {late}, {late});
             insert into reading (account, nth, at, took, lane, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low)
                 values (1, 0, {late}, 9, 'live', {ended} - 60000, {to}, 4, 4, 0, 0, 0, 1, 2);
             insert into replica (name, version, started, heartbeat, released, stats) values ('old', '0.0.1', 1, 2, 3, '{{}}');
             insert into attempt (item, slot, nth, at, status, reason) values (8, 1, 1, {late}, 404, 'it is not there (404)');
             insert into lateness (account, kind, bucket, count) values (1, 'fetchable', 5, 3);
             insert into pause (account, endpoint, since, until, times, status, reason)
                 values (1, 'auto_summary', {late}, {late} + 1, 1, 429, 'too many requests (429)');
             insert into reservation (key, reserved, counted) values ('login', {late}, {late});
             insert into search_cursor (account, feed) values (1, 4);
             insert into meta (key, value) values ('search_version', '1'), ('export', '1'),
                 ('export:1', '{{\"at\":{late},\"feeds\":{{\"1\":3}}}}');
             insert into sink (name, created, place, stopped, reason) values
                 ('lines', {late}, 'earlier', null, null), ('gone', 1, 'earlier', 2, 'it was refused');
             insert into sink_cursor (sink, account, feed, delivered, last_delivered) values (1, 1, 1, 1, {late}), (2, 1, 1, 1, {late});
             insert into sink_event (sink, account, feed, item, state, tries, waited, first_try, last_try, due, status, reason)
                 values (2, 1, 1, 4, 1, 3, 9, {late}, {late}, {late}, 500, 'it failed (500)');"
        )
    }

    /// An erased segment, a hold, and the journal of both.
    fn deletion_rows(&self, blob: &impl Fn(&[u8]) -> String) -> String {
        let (late, day) = (self.late(), utc_day(self.ended()));
        let key = base64::engine::general_purpose::STANDARD.encode(SECRET);
        let [segment, contact] =
            [keyed_hash("segment", ERASED_ID), keyed_hash("contact", "12013770791")].map(|hash| blob(&hash));
        format!(
            "insert into meta (key, value) values ('keeping.key', '{key}');
             insert into tombstone (account, hash, at, kind, day, counted) values (1, {segment}, {late}, 0, {day}, 1);
             insert into erased (account, day, kind, segments, transcripts, agent_summaries, auto_summaries) values (1, {day}, 0, 1, 1, 0, 0);
             insert into aside (account, digest, segment_id, reason, raw, first_seen, last_seen, times, from_ms, to_ms, due, resolved) values
                 (1, {segment}, 'odd', 'it has no end time', {segment}, {late}, {late}, 1, {late}, {late} + 1, {late}, {late});
             insert into hold (account, kind, value, reason, placed, who) values (1, 'contact', '+1 201 377 0791', 'case 7', {late}, 'anna');
             insert into journal (at, who, what, account, kind, subject, segments, records, hold, reason) values
                 ({late}, 'anna', 'erase', 1, 'segment', {segment}, 1, 0, null, 'request 7'),
                 ({late}, 'anna', 'hold', 1, 'contact', {contact}, 0, 0, 1, 'case 7');"
        )
    }

    /// What an export of it must print.
    pub fn expected_export(&self) -> Vec<Value> {
        let at = |millis: i64| Time(millis).rfc3339();
        let line = |id: usize, parts: [Value; 3]| {
            let ([transcript, agent_summary, auto_summary], (.., end)) = (parts, self.segments()[id - 1]);
            json!({
                "rc_account_id": &*self.account.rc, "sub_account_id": &*self.account.sub, "dialog_id": "d",
                "segment_id": format!("s{id}"), "segment_end": at(end),
                "metadata": {"segmentId": format!("s{id}"), "dialogId": "d", "unknown": [1.0, null]},
                "transcript": transcript, "agent_summary": agent_summary, "auto_summary": auto_summary,
            })
        };
        let none = || json!({"outcome": "not_requested"});
        let is = |outcome: &str| json!({"outcome": outcome});
        let (late, body) = (at(self.late()), serde_json::from_str::<Value>(TRANSCRIPT).unwrap());
        let stored = [
            json!({"outcome": "stored", "fetched_at": late, "body": body}),
            json!({"outcome": "stored", "fetched_at": late, "text": "It went \"well\""}),
            json!({"outcome": "not_populated", "fetched_at": late}),
        ];
        vec![
            line(1, stored),
            line(2, [is("pending"), is("unavailable"), is("failed")]),
            line(3, [none(), none(), none()]),
            line(4, [is("discarded"), none(), none()]),
        ]
    }
}
