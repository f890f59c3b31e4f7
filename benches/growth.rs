//! The cost of ingesting, claiming and committing as the archive grows, as ratios against a small archive. One command:
//! `cargo bench --bench growth`.
//!
//! Options: `ROWS=10000,1000000` archived artifacts (`ROWS=10000,1000000,10000000` takes some minutes and 4 GB), `ROUNDS=20`
//! of 500 segments and their 1,500 items, `DATABASE=postgres://…` (an empty database) instead of SQLite.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{AccountKey, CompletedJob, Db, JobOutcome, Lease, MetadataChunk, OpenMode, Stmt};
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

/// One chunk of a large answer.
const SEGMENTS_PER_ROUND: u64 = 500;
const ROWS_PER_INSERT: u64 = 200_000;
const WANTS: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

fn main() {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure());
}

fn env_text(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

async fn open_database(folder: &Path) -> Db {
    match std::env::var("DATABASE") {
        Ok(url) => Db::open_postgres(&SecretString::from(url), OpenMode::CreateOrMigrate, 4).await.unwrap(),
        Err(_) => Db::open_sqlite(&folder.join("bench.db"), OpenMode::CreateOrMigrate).await.unwrap(),
    }
}

/// Inserts archived artifacts up to this many rows, three for each segment, like those of an old account.
async fn insert_archived_rows(db: &Db, account: AccountKey, rows: u64) {
    let sqlite = db.sqlite_path().is_some();
    let segments = rows / 3;
    let mut done = db.count(Stmt::built("select coalesce(max(id), 0) from segment".to_owned())).await.unwrap();
    while done < segments {
        let (from, to) = (done + 1, (done + ROWS_PER_INSERT).min(segments));
        let (numbers, bytes) = if sqlite {
            (
                format!("with recursive n(i) as (select {from} union all select i + 1 from n where i < {to}) "),
                "randomblob(300)",
            )
        } else {
            (
                format!("with n(i) as (select generate_series(cast({from} as bigint), {to})) "),
                "decode(repeat(md5(random()::text), 19), 'hex')",
            )
        };
        let id = if sqlite { "printf('old-%012x', i)" } else { "'old-' || lpad(to_hex(i), 12, '0')" };
        db.run(Stmt::built(format!(
            "insert into segment (id, account, segment_id, ended, has_transcript, is_agent, asked, first_seen, changed, digest, codec, metadata)
             {numbers} select i, {account}, {id}, i * 1000, 1, 1, 7, 0, 0, {digest}, 0, {bytes} from n",
            digest = if sqlite { "randomblob(16)" } else { "decode(md5(random()::text), 'hex')" },
        )))
        .await
        .unwrap();
        db.run(Stmt::built(format!(
            "insert into artifact (item, version, account, feed, outcome, fetched, size, sha256, codec, body)
             {numbers}, k(a) as (select 0 union all select 1 union all select 2)
             select i * 4 + a, 1, {account}, i * 3 + a, 0, 0, 300, {sha}, 0, {bytes} from n, k",
            sha = if sqlite { "randomblob(32)" } else { "decode(repeat(md5(random()::text), 2), 'hex')" },
        )))
        .await
        .unwrap();
        done = to;
    }
    for text in [
        format!("update account set feed = 100000000, done = {rows} where id = {account} and feed < 100000000"),
        if sqlite {
            "select 1".to_owned()
        } else {
            "select setval(pg_get_serial_sequence('segment', 'id'), (select max(id) from segment))".to_owned()
        },
    ] {
        let mut tx = db.begin().await.unwrap();
        tx.run(Stmt::built(text)).await.unwrap();
        tx.commit().await.unwrap();
    }
    if let Ok(url) = std::env::var("DATABASE") {
        // Run the maintenance that the server postpones during bulk inserts, because a grown archive has it behind it.
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for text in ["vacuum analyze", "checkpoint"] {
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
        }
    }
}

/// Milliseconds per 1,000 items for ingest, claim and commit; each is the median of the rounds.
struct OperationCosts([f64; 3]);

async fn measure_operations(db: &Db, owned: Lease, clock: &Clock, series: u64, rounds: u64) -> OperationCosts {
    let mut costs: [Vec<f64>; 3] = Default::default();
    let stretch = TimeRange { from: Time(0), to: Time(1_000_000) };
    let (known, body) = (TimeRangeSet::default(), Bytes::from(vec![b'x'; 3_000]));
    for round in 0..rounds {
        let record = |number| {
            let id = format!("new-{series}-{round}-{number}");
            SegmentRecord {
                raw: format!(r#"{{"segmentId":"{id}","hasTranscript":true}}"#),
                segment_id: id,
                dialog_id: None,
                end: Some(Time(500_000)),
                has_transcript: true,
                is_agent: true,
            }
        };
        let records: Vec<SegmentRecord> = (0..SEGMENTS_PER_ROUND).map(record).collect();
        let now = clock.now();
        let chunk = MetadataChunk {
            lease: owned,
            lane: Lane::Live,
            range: stretch,
            now,
            wants: WANTS,
            already_read: &known,
            urgent_before: None,
            quarantine_retry_delay: Duration::from_secs(60),
            records: &records,
            quarantined: &[],
        };
        let begun = clock.tick();
        db.ingest_chunk(chunk).await.unwrap();
        let announced = clock.tick();
        let claims = db.due_items(owned, ArtifactSet::ALL, now, SEGMENTS_PER_ROUND as usize).await.unwrap();
        let claimed = clock.tick();
        assert_eq!(claims.len() as u64, SEGMENTS_PER_ROUND * 3);
        let settled: Vec<CompletedJob> = claims
            .into_iter()
            .map(|claim| CompletedJob { claim, at: now, outcome: JobOutcome::stored(&body, None) })
            .collect();
        let packed = clock.tick();
        for batch in settled.chunks(500) {
            assert!(db.complete_jobs(batch).await.unwrap().iter().all(|counted| *counted));
        }
        let took = [announced.since(begun), claimed.since(announced), clock.tick().since(packed)];
        for (cost, took) in costs.iter_mut().zip(took) {
            cost.push(took.as_secs_f64() * 1_000_000.0 / (SEGMENTS_PER_ROUND * 3) as f64);
        }
    }
    OperationCosts(costs.map(|mut cost| {
        cost.sort_unstable_by(f64::total_cmp);
        cost[cost.len() / 2]
    }))
}

async fn measure() {
    let clock = Clock::system();
    let sizes: Vec<u64> =
        env_text("ROWS", "10000,1000000").split(',').map(|rows| rows.trim().parse().unwrap()).collect();
    let rounds = env_text("ROUNDS", "20").parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let db = open_database(folder.path()).await;
    let account = db.register_account(&AccountId::new("1", "1"), None, clock.now()).await.unwrap();
    let owned =
        db.acquire_leases(&[account.key], "bench", Duration::from_secs(10), clock.now()).await.unwrap().remove(0);
    println!("{:<16}{:>22}{:>22}{:>22}", "archived", "ingest", "claim", "commit");
    let mut first: Option<OperationCosts> = None;
    for (series, rows) in sizes.into_iter().enumerate() {
        insert_archived_rows(&db, account.key, rows).await;
        let series = series as u64;
        // Warm up the file system and the caches.
        measure_operations(&db, owned, &clock, 1000 + series, 3).await;
        let cost = measure_operations(&db, owned, &clock, series, rounds).await;
        let base = first.as_ref().unwrap_or(&cost);
        let cells: String = cost
            .0
            .iter()
            .zip(base.0)
            .map(|(cost, base)| format!("{:>22}", format!("{cost:.2} ms ({:.2})", cost / base)))
            .collect();
        println!("{rows:<16}{cells}");
        first = first.or(Some(cost));
    }
    println!("milliseconds per 1,000 items, the median of {rounds} rounds; in parentheses the ratio to the first line");
    db.close().await;
}
