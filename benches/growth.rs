//! The cost of ingesting, claiming and committing as the archive grows, as ratios against a small archive. One command:
//! `cargo bench --bench growth`.
//!
//! Options: `ROWS=10000,1000000` archived artifacts (`ROWS=10000,1000000,10000000` takes some minutes and 4 GB), `ROUNDS=20`
//! of 500 segments and their 1,500 items, `DATABASE=postgres://…` (an empty database) instead of SQLite, `BASELINE=FILE`
//!.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Tick, Time};
use ringcx_extractor::db::{AccountKey, CompletedJob, Db, JobOutcome, Lease, MetadataChunk, OpenMode, Stmt};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::sim::workload::Workload;
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};
use support::own_cpu_seconds;

/// One chunk of a large answer.
const SEGMENTS_PER_ROUND: u64 = 500;
const ROWS_PER_INSERT: u64 = 200_000;
const WANTS: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

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

/// Inserts archived artifacts up to this many rows, three for each segment, like those of an old account: with ids in no order, and
/// with smaller texts.
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
        let id = if sqlite { "lower(hex(randomblob(16)))" } else { "md5(random()::text)" };
        db.run(Stmt::built(format!(
            "insert into segment (id, account, segment_id, dialog_id, ended, has_transcript, is_agent, asked, first_seen, changed, digest, codec, metadata)
             {numbers} select i, {account}, {id}, {id}, i * 1000, 1, 1, 7, 0, 0, {digest}, 0, {bytes} from n",
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

/// The names of the operations.
const OPERATIONS: [&str; 3] = ["ingest", "claim", "commit"];

/// Milliseconds and CPU milliseconds of this process per 1,000 items, for each operation: the medians of the rounds.
struct OperationCosts([[f64; 2]; 3]);

/// The time and the CPU seconds that this process has used.
fn meter(clock: &Clock) -> (Tick, f64) {
    (clock.tick(), own_cpu_seconds())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure_operations(
    db: &Db,
    owned: Lease,
    clock: &Clock,
    workload: &Workload,
    series: u64,
    rounds: u64,
) -> OperationCosts {
    let mut costs: [[Vec<f64>; 2]; 3] = Default::default();
    let stretch = TimeRange { from: Time(0), to: Time(1_000_000) };
    let known = TimeRangeSet::default();
    for round in 0..rounds {
        let first = (series * 1000 + round) * SEGMENTS_PER_ROUND;
        let record = |number| SegmentRecord {
            raw: workload.record(number, "1", Time(500_000), Some(true)),
            segment_id: workload.segment_id(number),
            dialog_id: Some(workload.dialog_id(number)),
            end: Some(Time(500_000)),
            has_transcript: true,
            is_agent: true,
            has_recording: false,
        };
        let records: Vec<SegmentRecord> = (first..first + SEGMENTS_PER_ROUND).map(record).collect();
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
        let begun = meter(clock);
        db.ingest_chunk(chunk).await.unwrap();
        let announced = meter(clock);
        let claims = db.due_items(owned, ArtifactSet::ALL, now, SEGMENTS_PER_ROUND as usize).await.unwrap();
        let claimed = meter(clock);
        assert_eq!(claims.len() as u64, SEGMENTS_PER_ROUND * 3);
        let settled: Vec<CompletedJob> = claims
            .into_iter()
            .map(|claim| {
                let body = artifact_text(workload, &claim.segment_id, claim.artifact);
                CompletedJob { claim, at: now, outcome: JobOutcome::stored(&body, None) }
            })
            .collect();
        let packed = meter(clock);
        for batch in settled.chunks(500) {
            assert!(db.complete_jobs(batch).await.unwrap().iter().all(|counted| *counted));
        }
        let spans = [(begun, announced), (announced, claimed), (packed, meter(clock))];
        for ([millis, cpu_millis], (from, to)) in costs.iter_mut().zip(spans) {
            let per_1000_items = 1_000_000.0 / (SEGMENTS_PER_ROUND * 3) as f64;
            millis.push(to.0.since(from.0).as_secs_f64() * per_1000_items);
            cpu_millis.push((to.1 - from.1) * per_1000_items);
        }
    }
    OperationCosts(costs.map(|cost| cost.map(median)))
}

fn artifact_text(workload: &Workload, segment_id: &str, artifact: Artifact) -> Bytes {
    let number = Workload::number_of(segment_id).unwrap();
    match artifact {
        Artifact::Transcript => workload.transcript(number).into(),
        Artifact::AgentSummary => workload.summary(number, 0).into(),
        Artifact::AutoSummary | Artifact::Recording => workload.summary(number, 1).into(),
    }
}

async fn measure() {
    support::print_workload();
    let (clock, workload) = (Clock::system(), support::workload());
    let sizes: Vec<u64> =
        env_text("ROWS", "10000,1000000").split(',').map(|rows| rows.trim().parse().unwrap()).collect();
    let rounds = env_text("ROUNDS", "20").parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let db = open_database(folder.path()).await;
    let account = db.register_account(&AccountId::new("1", "1"), None, clock.now()).await.unwrap();
    let owned =
        db.acquire_leases(&[account.key], "bench", Duration::from_secs(10), clock.now()).await.unwrap().remove(0);
    println!("{:<16}{:>34}{:>34}{:>34}", "archived", OPERATIONS[0], OPERATIONS[1], OPERATIONS[2]);
    let mut first: Option<OperationCosts> = None;
    let mut gate = Vec::new();
    for (series, rows) in sizes.into_iter().enumerate() {
        insert_archived_rows(&db, account.key, rows).await;
        let series = series as u64;
        // Warm up the file system and the caches.
        measure_operations(&db, owned, &clock, &workload, 1000 + series, 3).await;
        let cost = measure_operations(&db, owned, &clock, &workload, series, rounds).await;
        let base = first.as_ref().unwrap_or(&cost);
        let cells: String = cost
            .0
            .iter()
            .zip(base.0)
            .map(|([millis, cpu], base)| {
                let cell = format!("{millis:.2} ms ({:.2}), CPU {cpu:.2} ({:.2})", millis / base[0], cpu / base[1]);
                format!("{cell:>34}")
            })
            .collect();
        println!("{rows:<16}{cells}");
        gate = OPERATIONS
            .iter()
            .zip(base.0.iter().zip(cost.0))
            .map(|(name, (base, cost))| (*name, base[1] / cost[1]))
            .collect();
        first = first.or(Some(cost));
    }
    println!("milliseconds per 1,000 items, medians of {rounds} rounds; in parentheses the ratio to the first line");
    db.close().await;
    support::compare_with_baseline("growth", &gate);
}
