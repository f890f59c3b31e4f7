//! Search latency in a large archive, and the speed of indexing. One command: `TRANSCRIPTS=1000000 cargo bench --bench search`.
//!
//! Options: `POSTGRES=1` starts a Postgres server. `ROUNDS=20` is the number of queries of each kind. `DATABASE=postgres://…` or
//! `DATABASE=FILE` uses that database: it is filled if it is empty, and otherwise queried as it is, so that an archive can be used
//! again. `INDEX_FOR=300` starts the queries after that many seconds, even if the index is incomplete.
//!
//! The words of the transcripts follow Zipf's law (the nth word has a share of 1/n). Transcripts are stored and indexed as in the
//! daemon. Prints the median and the 95th percentile of each kind, and their ratio to reading twenty segments by number, the least
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

use std::fmt::Write as _;
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
use search_queries::QUERY_KINDS;
use secrecy::SecretString;

const NOW: Time = Time(1_800_000_000_000);
const FIRST_END_MS: i64 = 1_700_000_000_000;
const SEGMENTS_PER_CHUNK: u64 = 1000;
const VOCABULARY_SIZE: usize = 30_000;
const ACCOUNT_COUNT: u64 = 10;
const AGENT_COUNT: u64 = 97;

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

/// An artificial vocabulary: the smaller the number, the more frequent and the shorter the word.
fn vocabulary() -> Vec<String> {
    const SYLLABLES: [&str; 20] = [
        "re", "ta", "mo", "li", "ser", "con", "do", "pan", "vi", "ken", "su", "tra", "ne", "ga", "bor", "fi", "ul",
        "chi", "pe", "dra",
    ];
    let word = |number: usize| {
        let (mut left, mut word) = (number, String::new());
        loop {
            word.push_str(SYLLABLES[left % SYLLABLES.len()]);
            left /= SYLLABLES.len();
            if left == 0 {
                return word;
            }
        }
    };
    (0..VOCABULARY_SIZE).map(word).collect()
}

fn random_word<'a>(words: &'a [String], rng: &mut StdRng) -> &'a str {
    let share: f64 = rng.random();
    &words[((words.len() as f64).powf(share) as usize - 1).min(words.len() - 1)]
}

/// The name of the `n`th agent.
fn agent_name(n: u64) -> String {
    const FIRST: [&str; 10] = ["Jane", "Zoë", "Ahmed", "Maria", "Joe", "Li", "Ann", "Bob", "Olga", "Pablo"];
    const LAST: [&str; 10] = ["Doe", "Ångström", "Smith", "Silva", "Roe", "Wei", "Baker", "Novak", "Moreno", "Park"];
    format!("{} {}", FIRST[n as usize % 10], LAST[n as usize / 10 % 10])
}

/// Varied but reproducible metadata of the `n`th segment.
fn metadata_json(n: u64, words: &[String]) -> String {
    let mut rng = StdRng::seed_from_u64(n);
    let (class, kind) = match rng.random_range(0..100) {
        0..80 => ("VOICE", "VOICE"),
        80..95 => ("DIGITAL", "CHAT"),
        _ => ("DIGITAL", "EMAIL"),
    };
    let origin = if rng.random_bool(0.75) { "INBOUND" } else { "OUTBOUND" };
    const DISPOSITIONS: [&str; 8] =
        ["Success", "Call back", "No answer", "Sale", "Complaint", "Wrong number", "Escalated", "Legal hold"];
    let disposition = DISPOSITIONS[8_f64.powf(rng.random::<f64>()) as usize - 1];
    let notes = match rng.random_bool(0.05) {
        true => format!(
            "\"{} {} {}\"",
            random_word(words, &mut rng),
            random_word(words, &mut rng),
            random_word(words, &mut rng)
        ),
        false => "null".to_owned(),
    };
    let agent = n % AGENT_COUNT;
    format!(
        r#"{{"segmentId":"p-v-{n:032x}","dialogId":"d-{n:032x}","segmentType":"AGENT","channelClass":"{class}","channelType":"{kind}","dialogOrigination":"{origin}","segmentParticipantId":"{agent}","agentDisposition":"{disposition}","systemDisposition":"ANSWERED","agentNotes":{notes},"hasTranscript":true}}"#
    )
}

/// The transcript of the `n`th segment, between an agent and a caller with a unique number.
fn transcript_json(n: u64, words: &[String], rng: &mut StdRng) -> String {
    let mut body = String::from(r#"{"channelClass":"VOICE","errorCode":null,"errorMessage":null,"transcript":["#);
    let (agent, caller) = (agent_name(n % AGENT_COUNT), format!("+1555{n:07}"));
    for turn in 0..rng.random_range(8..40) {
        let (name, role) = if turn % 2 == 0 { (&agent, "agent") } else { (&caller, "contact") };
        let comma = if turn == 0 { "" } else { "," };
        let _ = write!(
            body,
            r#"{comma}{{"participantId":"{turn}-8f3a","participantName":"{name}","participantType":"{role}","rcUserId":null,"timestamp":"{}","message":""#,
            FIRST_END_MS + turn * 4000
        );
        for nth in 0..rng.random_range(3..22) {
            let _ = write!(body, "{}{}", if nth == 0 { "" } else { " " }, random_word(words, rng));
        }
        body.push_str(".\"}");
    }
    body.push_str("]}");
    body
}

async fn acquire_account(db: &Db, sub: u64) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub.to_string()), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "bench", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn store_transcripts(db: &Db, owned: &[Lease], transcripts: u64, words: &[String]) {
    let mut rng = StdRng::seed_from_u64(1);
    let only = ArtifactSet::NONE.with(Artifact::Transcript);
    for (nth, first) in (0..transcripts).step_by(SEGMENTS_PER_CHUNK as usize).enumerate() {
        let owned = owned[nth % owned.len()];
        let records: Vec<SegmentRecord> = (first..transcripts.min(first + SEGMENTS_PER_CHUNK))
            .map(|n| SegmentRecord {
                segment_id: format!("p-v-{n:032x}"),
                dialog_id: Some(format!("d-{n:032x}")),
                end: Some(Time(FIRST_END_MS + n as i64 * 3000)),
                has_transcript: true,
                is_agent: true,
                raw: metadata_json(n, words),
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
            let n = u64::from_str_radix(claim.segment_id.trim_start_matches("p-v-"), 16).unwrap();
            let body = Bytes::from(transcript_json(n, words, &mut rng));
            batch.push(CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) });
        }
        for part in batch.chunks(500) {
            db.complete_jobs(part).await.unwrap();
        }
    }
}

async fn index_bytes(db: &Db) -> u64 {
    let stmt = match db {
        // Without free space in pages, about 1 %. A document's number and length take about 40 bytes.
        Db::Sqlite(_) => {
            sql("select (select sum(length(block)) from search_text_data) + (select count(*) * 40 from search_doc)")
        }
        Db::Postgres(_) => sql("select pg_total_relation_size('search_block')"),
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
    let words = vocabulary();
    let mut owned = Vec::new();
    for account in 0..ACCOUNT_COUNT {
        owned.push(acquire_account(&db, account).await);
    }
    if stored_count(&db).await > 0 {
        build_index(&db, &clock, &owned).await;
        let transcripts = stored_count(&db).await;
        run_queries(&db, &clock, &owned, rounds, transcripts, &words).await;
        return db.close().await;
    }
    let tick = clock.tick();
    store_transcripts(&db, &owned, transcripts, &words).await;
    println!("{transcripts} transcripts stored in {:.1?}", clock.tick().since(tick));
    build_index(&db, &clock, &owned).await;
    run_queries(&db, &clock, &owned, rounds, transcripts, &words).await;
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
