//! Search latency in a large archive, and the speed of indexing. One command: `TRANSCRIPTS=1000000 cargo bench --bench search`.
//!
//! Options: `POSTGRES=1` starts a Postgres server. `ROUNDS=20` is the number of queries of each kind. `DATABASE=postgres://…` or
//! `DATABASE=FILE` uses that database: it is filled if it is empty, and otherwise queried as it is, so that an archive can be used
//! again. `INDEX_FOR=300` starts the queries after that many seconds, even if the index is incomplete.
//!
//! The conversations are those of `ringcx_simulator::workload`: all differ, and words follow Zipf's law. Transcripts are stored and
//! indexed as in the daemon. Prints the median and the 95th percentile of each kind, and their ratio to reading twenty segments by number, the least
//! cost of a page of hits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

#[allow(dead_code, reason = "the benchmark uses a part of it")]
#[path = "../tests/support/postgres_cluster.rs"]
mod postgres_cluster;
#[path = "support/search_queries.rs"]
mod search_queries;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{CompletedJob, Db, JobOutcome, Lease, MetadataChunk, OpenMode, sql};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::search::{find, parse};
use ringcx_extractor::search_indexer::{IndexProgress, Indexer};
use ringcx_extractor::sim::workload::Workload;
use search_queries::QUERY_KINDS;
use secrecy::SecretString;

const NOW: Time = Time(1_800_000_000_000);
const FIRST_END_MS: i64 = 1_700_000_000_000;
const SEGMENTS_PER_CHUNK: u64 = 1000;
const SEED: u64 = 1;
const ACCOUNT_COUNT: u64 = 10;

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn acquire_account(db: &Db, sub: u64) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub.to_string()), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "bench", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn store_transcripts(db: &Db, owned: &[Lease], transcripts: u64, workload: &Workload) {
    let only = ArtifactSet::NONE.with(Artifact::Transcript);
    for (nth, first) in (0..transcripts).step_by(SEGMENTS_PER_CHUNK as usize).enumerate() {
        let owned = owned[nth % owned.len()];
        let records: Vec<SegmentRecord> = (first..transcripts.min(first + SEGMENTS_PER_CHUNK))
            .map(|n| {
                let end = Time(FIRST_END_MS + n as i64 * 3000);
                SegmentRecord {
                    segment_id: workload.segment_id(n),
                    dialog_id: Some(workload.dialog_id(n)),
                    end: Some(end),
                    has_transcript: true,
                    is_agent: true,
                    has_recording: false,
                    raw: workload.record(n, "1", end, Some(true)),
                }
            })
            .collect();
        let chunk = MetadataChunk {
            lease: owned,
            lane: Lane::Live,
            range: TimeRange { from: Time(0), to: NOW },
            now: NOW,
            wants: ArtifactSelection { artifacts: only, summaries_for: SummariesFor::Transcribed },
            already_read: &TimeRangeSet::default(),
            urgent_before: None,
            quarantine_retry_delay: Duration::from_secs(60),
            records: &records,
            quarantined: &[],
        };
        db.ingest_chunk(chunk).await.unwrap();
        let claims = db.due_items(owned, only, NOW, SEGMENTS_PER_CHUNK as usize).await.unwrap();
        let mut batch = Vec::with_capacity(claims.len());
        for claim in claims {
            let number = Workload::number_of(&claim.segment_id).unwrap();
            let body = Bytes::from(workload.transcript(number));
            batch.push(CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) });
        }
        for part in batch.chunks(500) {
            db.complete_jobs(part).await.unwrap();
        }
    }
}

async fn index_bytes(db: &Db) -> u64 {
    let stmt = match db {
        // Without free space in pages, about 2 %. A chunk's key takes about 40 bytes.
        Db::Sqlite(_) => sql(
            "select (select sum(length(rest) + 40) from search_posting) + (select sum(length(documents)) from search_run)",
        ),
        Db::Postgres(_) => {
            sql("select pg_total_relation_size('search_posting') + pg_total_relation_size('search_run')")
        }
    };
    db.count(stmt).await.unwrap()
}

/// The median and the 95th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[(times.len() * 95 / 100).min(times.len() - 1)])
}

async fn measure() {
    let (transcripts, rounds) = (env_number("TRANSCRIPTS", 100_000), env_number("ROUNDS", 20));
    let clock = Clock::system();
    let folder = tempfile::tempdir().unwrap();
    let db = match std::env::var("DATABASE") {
        Ok(url) if url.starts_with("postgres") => {
            Db::open_postgres(&SecretString::from(url), OpenMode::CreateOrMigrate, 4).await
        }
        Ok(file) => Db::open_sqlite(Path::new(&file), OpenMode::CreateOrMigrate).await,
        Err(_) if env_number("POSTGRES", 0) == 1 => {
            Db::open_postgres(&postgres_cluster::create_database(), OpenMode::CreateOrMigrate, 4).await
        }
        Err(_) => Db::open_sqlite(&folder.path().join("bench.db"), OpenMode::CreateOrMigrate).await,
    };
    let db = db.unwrap();
    let workload = Workload::new(SEED);
    let mut owned = Vec::new();
    for account in 0..ACCOUNT_COUNT {
        owned.push(acquire_account(&db, account).await);
    }
    if stored_count(&db).await > 0 {
        build_index(&db, &clock, &owned).await;
        let transcripts = stored_count(&db).await;
        run_queries(&db, &clock, &owned, rounds, transcripts, workload.words()).await;
        return db.close().await;
    }
    let tick = clock.tick();
    store_transcripts(&db, &owned, transcripts, &workload).await;
    println!("{transcripts} transcripts stored in {:.1?}", clock.tick().since(tick));
    build_index(&db, &clock, &owned).await;
    run_queries(&db, &clock, &owned, rounds, transcripts, workload.words()).await;
    db.close().await;
}

async fn stored_count(db: &Db) -> u64 {
    query_count(db, "select count(*) from artifact").await
}

async fn indexed_count(db: &Db) -> u64 {
    query_count(db, "select cast(coalesce(sum(feed), 0) as bigint) from search_cursor").await
}

async fn query_count(db: &Db, text: &'static str) -> u64 {
    db.count(sql(text)).await.unwrap()
}

async fn build_index(db: &Db, clock: &Clock, owned: &[Lease]) {
    let (tick, indexer) = (clock.tick(), Indexer::new(db.clone()));
    let (before, seconds) = (indexed_count(db).await, env_number("INDEX_FOR", 86_400));
    while indexer.step(owned).await.unwrap() != IndexProgress::Idle && clock.tick().since(tick).as_secs() < seconds {}
    let (took, transcripts, now) =
        (clock.tick().since(tick).as_secs_f64(), stored_count(db).await, indexed_count(db).await);
    println!("indexed in {took:.1} s: {:.0} a second; {now} of {transcripts} are", (now - before) as f64 / took);
    let json = query_count(db, "select cast(sum(size) as bigint) from artifact").await as f64;
    let whole = match db {
        Db::Sqlite(_) => "select page_count * page_size from pragma_page_count, pragma_page_size",
        Db::Postgres(_) => "select pg_database_size(current_database())",
    };
    let (index, whole) = (index_bytes(db).await as f64, query_count(db, whole).await as f64);
    let (index, whole) = (index / json, whole / json);
    println!(
        "{:.0} bytes each; the index takes {index:.2} of the JSON, all of the database {whole:.2}",
        json / transcripts as f64
    );
}

async fn run_queries(db: &Db, clock: &Clock, owned: &[Lease], rounds: u64, transcripts: u64, words: &[String]) {
    let mut rng = StdRng::seed_from_u64(2);
    let mut base = Vec::new();
    for _ in 0..rounds.max(50) {
        let keys: Vec<i64> = (0..20).map(|_| rng.random_range(1..=transcripts as i64)).collect();
        let tick = clock.tick();
        db.segments_by_key(&keys).await.unwrap();
        base.push(clock.tick().since(tick));
    }
    let base = percentiles(base).0;
    println!("{:<36}{:>10}{:>10}{:>10}{:>8}", "", "p50", "p95", "ratio", "hits");
    println!("{:<36}{:>10.2?}", "twenty segments by number", base);
    let (mut all, mut slowest) = (Vec::new(), (Duration::ZERO, ""));
    for kind in QUERY_KINDS {
        let (mut times, mut hits) = (Vec::new(), 0);
        for round in 0..rounds {
            let query = parse(&(kind.query)(words, &mut rng)).unwrap();
            let filters = (kind.filters)(&owned[round as usize % owned.len()], &mut rng);
            let tick = clock.tick();
            let findings = find(db, &query, &filters, kind.order, 20).await.unwrap();
            times.push(clock.tick().since(tick));
            hits += findings.hits.len();
        }
        all.extend_from_slice(&times);
        let (p50, p95) = percentiles(times);
        slowest = slowest.max((p95, kind.name));
        let ratio = p95.as_secs_f64() / base.as_secs_f64();
        println!("{:<36}{p50:>10.2?}{p95:>10.2?}{ratio:>10.0}{:>8.1}", kind.name, hits as f64 / rounds as f64);
    }
    let (p50, p95) = percentiles(all);
    let ratio = p95.as_secs_f64() / base.as_secs_f64();
    println!("{:<36}{p50:>10.2?}{p95:>10.2?}{ratio:>10.0}", "all of them");
    println!("{:<36}{:>10}{:>10.2?}   {}", "the slowest kind", "", slowest.0, slowest.1);
}
