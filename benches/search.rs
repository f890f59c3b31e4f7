//! How quickly a large archive is searched and how fast the index follows it. One command:
//! `TRANSCRIPTS=1000000 cargo bench --bench search`; `POSTGRES=1` measures on a Postgres of its own, `ROUNDS=20` is how
//! often each kind of query is asked. `DATABASE=postgres://…` or `DATABASE=a file` is filled where it is empty and otherwise
//! asked as it is, so that an archive that took long to make can be asked again; `INDEX_FOR=300` asks it after so many
//! seconds, however far the index has got by then.
//!
//! Transcripts are made up of words as frequent as words are (the nth has a share of 1/n), stored and indexed as the daemon
//! does it. Prints each kind's median and 95th percentile and their ratio to reading twenty segments by number, which
//! is what a page of hits costs at the least.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

#[allow(dead_code, reason = "only some of it is needed here")]
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[path = "support/searches.rs"]
mod searches;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Access, Chunk, Db, Owned, Settled, Settlement, sql};
use ringcx_extractor::index::{Indexer, Progress};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSet, Lane, SegmentRecord, Stretch, Stretches, SummariesFor, Wants,
};
use ringcx_extractor::search::{find, parse};
use searches::KINDS;
use secrecy::SecretString;

const NOW: Time = Time(1_800_000_000_000);
const BEGIN: i64 = 1_700_000_000_000;
const CHUNK: u64 = 1000;
const WORDS: usize = 30_000;
const ACCOUNTS: u64 = 10;
const AGENTS: u64 = 97;

fn knob(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

/// A made-up language: the smaller the number, the more frequent and the shorter the word.
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
    (0..WORDS).map(word).collect()
}

fn any<'a>(words: &'a [String], chance: &mut StdRng) -> &'a str {
    let share: f64 = chance.random();
    &words[((words.len() as f64).powf(share) as usize - 1).min(words.len() - 1)]
}

/// The `n`th of the agents.
fn agent(n: u64) -> String {
    const FIRST: [&str; 10] = ["Jane", "Zoë", "Ahmed", "Maria", "Joe", "Li", "Ann", "Bob", "Olga", "Pablo"];
    const LAST: [&str; 10] = ["Doe", "Ångström", "Smith", "Silva", "Roe", "Wei", "Baker", "Novak", "Moreno", "Park"];
    format!("{} {}", FIRST[n as usize % 10], LAST[n as usize / 10 % 10])
}

/// What the metadata of the `n`th segment say: nearly as varied as in life, and the same whenever they are made.
fn metadata(n: u64, words: &[String]) -> String {
    let mut chance = StdRng::seed_from_u64(n);
    let (class, kind) = match chance.random_range(0..100) {
        0..80 => ("VOICE", "VOICE"),
        80..95 => ("DIGITAL", "CHAT"),
        _ => ("DIGITAL", "EMAIL"),
    };
    let origin = if chance.random_bool(0.75) { "INBOUND" } else { "OUTBOUND" };
    const DISPOSITIONS: [&str; 8] =
        ["Success", "Call back", "No answer", "Sale", "Complaint", "Wrong number", "Escalated", "Legal hold"];
    let disposition = DISPOSITIONS[8_f64.powf(chance.random::<f64>()) as usize - 1];
    let notes = match chance.random_bool(0.05) {
        true => format!("\"{} {} {}\"", any(words, &mut chance), any(words, &mut chance), any(words, &mut chance)),
        false => "null".to_owned(),
    };
    let agent = n % AGENTS;
    format!(
        r#"{{"segmentId":"p-v-{n:032x}","dialogId":"d-{n:032x}","segmentType":"AGENT","channelClass":"{class}","channelType":"{kind}","dialogOrigination":"{origin}","segmentParticipantId":"{agent}","agentDisposition":"{disposition}","systemDisposition":"ANSWERED","agentNotes":{notes},"hasTranscript":true}}"#
    )
}

/// What was said in the `n`th segment, by one of the agents and someone who never calls again.
fn transcript(n: u64, words: &[String], chance: &mut StdRng) -> String {
    let mut body = String::from(r#"{"channelClass":"VOICE","errorCode":null,"errorMessage":null,"transcript":["#);
    let (agent, caller) = (agent(n % AGENTS), format!("+1555{n:07}"));
    for turn in 0..chance.random_range(8..40) {
        let (name, role) = if turn % 2 == 0 { (&agent, "agent") } else { (&caller, "contact") };
        let comma = if turn == 0 { "" } else { "," };
        let _ = write!(
            body,
            r#"{comma}{{"participantId":"{turn}-8f3a","participantName":"{name}","participantType":"{role}","rcUserId":null,"timestamp":"{}","message":""#,
            BEGIN + turn * 4000
        );
        for nth in 0..chance.random_range(3..22) {
            let _ = write!(body, "{}{}", if nth == 0 { "" } else { " " }, any(words, chance));
        }
        body.push_str(".\"}");
    }
    body.push_str("]}");
    body
}

async fn own(db: &Db, sub: u64) -> Owned {
    let account = db.enrol(&AccountId::new("1", sub.to_string()), None, NOW).await.unwrap();
    db.take(&[account.key], "bench", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

/// Stores so many transcripts.
async fn fill(db: &Db, owned: &[Owned], transcripts: u64, words: &[String]) {
    let mut chance = StdRng::seed_from_u64(1);
    let only = ArtifactSet::NONE.with(Artifact::Transcript);
    for (nth, first) in (0..transcripts).step_by(CHUNK as usize).enumerate() {
        let owned = owned[nth % owned.len()];
        let records: Vec<SegmentRecord> = (first..transcripts.min(first + CHUNK))
            .map(|n| SegmentRecord {
                segment_id: format!("p-v-{n:032x}"),
                dialog_id: Some(format!("d-{n:032x}")),
                end: Some(Time(BEGIN + n as i64 * 3000)),
                has_transcript: true,
                is_agent: true,
                raw: metadata(n, words),
            })
            .collect();
        let chunk = Chunk {
            owned,
            lane: Lane::Live,
            stretch: Stretch { from: Time(0), to: NOW },
            now: NOW,
            wants: Wants { artifacts: only, summaries_for: SummariesFor::Transcribed },
            known: &Stretches::default(),
            urgent_before: None,
            repair: Duration::from_secs(60),
            records: &records,
            asides: &[],
        };
        db.announce(chunk).await.unwrap();
        let claims = db.due(owned, only, NOW, CHUNK as usize).await.unwrap();
        let mut batch = Vec::with_capacity(claims.len());
        for claim in claims {
            let n = u64::from_str_radix(claim.segment_id.trim_start_matches("p-v-"), 16).unwrap();
            let body = Bytes::from(transcript(n, words, &mut chance));
            batch.push(Settled { claim, at: NOW, settlement: Settlement::stored(&body, None) });
        }
        for part in batch.chunks(500) {
            db.settle(part).await.unwrap();
        }
    }
}

async fn index_bytes(db: &Db) -> u64 {
    let stmt = match db {
        // Without what pages leave empty, a hundredth; a document's number and its length are some forty bytes.
        Db::Sqlite(_) => {
            sql("select (select sum(length(block)) from search_text_data) + (select count(*) * 40 from search_doc)")
        }
        Db::Postgres(_) => sql("select pg_total_relation_size('search_block')"),
    };
    db.first(stmt).await.unwrap().unwrap().count(0).unwrap()
}

/// The median and the 95th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[(times.len() * 95 / 100).min(times.len() - 1)])
}

async fn measure() {
    let (transcripts, rounds) = (knob("TRANSCRIPTS", 100_000), knob("ROUNDS", 20));
    let clock = Clock::system();
    let folder = tempfile::tempdir().unwrap();
    let db = match std::env::var("DATABASE") {
        Ok(url) if url.starts_with("postgres") => Db::open_postgres(&SecretString::from(url), Access::Own, 4).await,
        Ok(file) => Db::open_sqlite(Path::new(&file), Access::Own).await,
        Err(_) if knob("POSTGRES", 0) == 1 => Db::open_postgres(&postgres::database(), Access::Own, 4).await,
        Err(_) => Db::open_sqlite(&folder.path().join("bench.db"), Access::Own).await,
    };
    let db = db.unwrap();
    let words = vocabulary();
    let mut owned = Vec::new();
    for account in 0..ACCOUNTS {
        owned.push(own(&db, account).await);
    }
    if held(&db).await > 0 {
        index(&db, &clock, &owned).await;
        let transcripts = held(&db).await;
        ask(&db, &clock, &owned, rounds, transcripts, &words).await;
        return db.close().await;
    }
    let tick = clock.tick();
    fill(&db, &owned, transcripts, &words).await;
    println!("{transcripts} transcripts stored in {:.1?}", clock.tick().since(tick));
    index(&db, &clock, &owned).await;
    ask(&db, &clock, &owned, rounds, transcripts, &words).await;
    db.close().await;
}

/// How many transcripts there are.
async fn held(db: &Db) -> u64 {
    count(db, "select count(*) from artifact").await
}

async fn indexed(db: &Db) -> u64 {
    count(db, "select cast(coalesce(sum(feed), 0) as bigint) from search_cursor").await
}

async fn count(db: &Db, text: &'static str) -> u64 {
    db.first(sql(text)).await.unwrap().unwrap().count(0).unwrap()
}

async fn index(db: &Db, clock: &Clock, owned: &[Owned]) {
    let (tick, indexer) = (clock.tick(), Indexer::new(db.clone()));
    let (before, seconds) = (indexed(db).await, knob("INDEX_FOR", 86_400));
    while indexer.step(owned).await.unwrap() != Progress::Idle && clock.tick().since(tick).as_secs() < seconds {}
    let (took, transcripts, now) = (clock.tick().since(tick).as_secs_f64(), held(db).await, indexed(db).await);
    println!("indexed in {took:.1} s: {:.0} a second; {now} of {transcripts} are", (now - before) as f64 / took);
    let json = count(db, "select cast(sum(size) as bigint) from artifact").await as f64;
    let whole = match db {
        Db::Sqlite(_) => "select page_count * page_size from pragma_page_count, pragma_page_size",
        Db::Postgres(_) => "select pg_database_size(current_database())",
    };
    let (index, whole) = (index_bytes(db).await as f64, count(db, whole).await as f64);
    let (index, whole) = (index / json, whole / json);
    println!(
        "{:.0} bytes each; the index takes {index:.2} of the JSON, all of the database {whole:.2}",
        json / transcripts as f64
    );
}

async fn ask(db: &Db, clock: &Clock, owned: &[Owned], rounds: u64, transcripts: u64, words: &[String]) {
    let mut chance = StdRng::seed_from_u64(2);
    let mut base = Vec::new();
    for _ in 0..rounds.max(50) {
        let keys: Vec<i64> = (0..20).map(|_| chance.random_range(1..=transcripts as i64)).collect();
        let tick = clock.tick();
        db.segments_of(&keys).await.unwrap();
        base.push(clock.tick().since(tick));
    }
    let base = percentiles(base).0;
    println!("{:<36}{:>10}{:>10}{:>10}{:>8}", "", "p50", "p95", "ratio", "hits");
    println!("{:<36}{:>10.2?}", "twenty segments by number", base);
    let (mut all, mut slowest) = (Vec::new(), (Duration::ZERO, ""));
    for kind in KINDS {
        let (mut times, mut hits) = (Vec::new(), 0);
        for round in 0..rounds {
            let query = parse(&(kind.query)(words, &mut chance)).unwrap();
            let filters = (kind.filters)(&owned[round as usize % owned.len()], &mut chance);
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
