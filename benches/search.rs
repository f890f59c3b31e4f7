//! How quickly a large archive is searched and how fast the index follows it. One command:
//! `TRANSCRIPTS=1000000 cargo bench --bench search`; `POSTGRES=1` measures on a Postgres of its own, `ROUNDS=20` is how
//! often each kind of query is asked.
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

use std::fmt::Write as _;
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
use ringcx_extractor::search::{Filters, Order, find, parse};

const NOW: Time = Time(1_800_000_000_000);
const BEGIN: i64 = 1_700_000_000_000;
const CHUNK: u64 = 1000;
const WORDS: usize = 30_000;
const ACCOUNTS: u64 = 10;

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

fn transcript(words: &[String], chance: &mut StdRng) -> String {
    let mut body = String::from(r#"{"channelClass":"VOICE","errorCode":null,"errorMessage":null,"transcript":["#);
    for turn in 0..chance.random_range(8..40) {
        let (name, role) = if turn % 2 == 0 { ("Jane Doe", "agent") } else { ("+15551234", "contact") };
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

/// Stores so many transcripts; returns how many bytes they have.
async fn fill(db: &Db, owned: &[Owned], transcripts: u64, words: &[String]) -> u64 {
    let (mut bytes, mut chance) = (0, StdRng::seed_from_u64(1));
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
                raw: format!(r#"{{"segmentId":"p-v-{n:032x}","dialogId":"d-{n:032x}","segmentType":"AGENT","channelClass":"VOICE","channelType":"VOICE","dialogOrigination":"INBOUND","segmentParticipantId":"{}","agentDisposition":"Success","agentNotes":null,"hasTranscript":true}}"#, n % 97),
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
            let body = Bytes::from(transcript(words, &mut chance));
            bytes += body.len() as u64;
            batch.push(Settled { claim, at: NOW, settlement: Settlement::stored(&body, None) });
        }
        for part in batch.chunks(500) {
            db.settle(part).await.unwrap();
        }
    }
    bytes
}

async fn index_bytes(db: &Db) -> u64 {
    let stmt = match db {
        Db::Sqlite(_) => {
            sql("select sum(pgsize) from dbstat where name glob 'search_*' or name glob 'sqlite_autoindex_search_*'")
        }
        Db::Postgres(_) => sql("select pg_total_relation_size('search_block')"),
    };
    db.first(stmt).await.unwrap().unwrap().count(0).unwrap()
}

/// A kind of query: how it is asked.
struct Kind {
    name: &'static str,
    query: fn(&[String], &mut StdRng) -> String,
    order: Order,
    account: bool,
}

fn frequent(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(0..30)].clone()
}

fn middling(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(300..2000)].clone()
}

fn rare(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(5000..WORDS)].clone()
}

const KINDS: &[Kind] = &[
    Kind { name: "a rare word", query: rare, order: Order::Best, account: false },
    Kind { name: "a usual word", query: middling, order: Order::Best, account: false },
    Kind { name: "a word that is everywhere", query: frequent, order: Order::Best, account: false },
    Kind {
        name: "two usual words",
        query: |words, chance| format!("{} {}", middling(words, chance), middling(words, chance)),
        order: Order::Best,
        account: false,
    },
    Kind {
        name: "a usual and a frequent word",
        query: |words, chance| format!("{} {}", middling(words, chance), frequent(words, chance)),
        order: Order::Best,
        account: false,
    },
    Kind {
        name: "a phrase of frequent words",
        query: |words, chance| format!("\"{} {}\"", frequent(words, chance), frequent(words, chance)),
        order: Order::Best,
        account: false,
    },
    Kind {
        name: "a phrase that hardly occurs",
        query: |words, chance| {
            format!("\"{} {} {}\"", frequent(words, chance), middling(words, chance), frequent(words, chance))
        },
        order: Order::Best,
        account: false,
    },
    Kind {
        name: "a beginning of five letters",
        query: |words, chance| format!("{}*", rare(words, chance).chars().take(5).collect::<String>()),
        order: Order::Best,
        account: false,
    },
    Kind {
        name: "a beginning of three letters",
        query: |words, chance| format!("{}*", middling(words, chance).chars().take(3).collect::<String>()),
        order: Order::Best,
        account: false,
    },
    Kind {
        name: "a word without another",
        query: |words, chance| format!("{} -{}", middling(words, chance), frequent(words, chance)),
        order: Order::Best,
        account: false,
    },
    Kind { name: "a usual word, newest first", query: middling, order: Order::Newest, account: false },
    Kind { name: "a usual word, one account", query: middling, order: Order::Best, account: true },
];

/// The median and the 95th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[(times.len() * 95 / 100).min(times.len() - 1)])
}

async fn measure() {
    let (transcripts, rounds) = (knob("TRANSCRIPTS", 100_000), knob("ROUNDS", 20));
    let clock = Clock::system();
    let folder = tempfile::tempdir().unwrap();
    let db = if knob("POSTGRES", 0) == 1 {
        Db::open_postgres(&postgres::database(), Access::Own, 4).await.unwrap()
    } else {
        Db::open_sqlite(&folder.path().join("bench.db"), Access::Own).await.unwrap()
    };
    let words = vocabulary();
    let mut owned = Vec::new();
    for account in 0..ACCOUNTS {
        owned.push(own(&db, account).await);
    }
    let tick = clock.tick();
    let bytes = fill(&db, &owned, transcripts, &words).await;
    println!("{transcripts} transcripts of {} bytes stored in {:.1?}", bytes / transcripts, clock.tick().since(tick));
    let tick = clock.tick();
    let indexer = Indexer::new(db.clone());
    while indexer.step(&owned).await.unwrap() == Progress::Did {}
    let took = clock.tick().since(tick).as_secs_f64();
    let held = index_bytes(&db).await;
    println!(
        "indexed in {took:.1} s: {:.0} a second; {} bytes each, {:.2} of the JSON",
        transcripts as f64 / took,
        held / transcripts,
        held as f64 / bytes as f64
    );
    ask(&db, &clock, &owned, rounds, transcripts, &words).await;
    db.close().await;
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
    println!("{:<32}{:>10}{:>10}{:>10}{:>8}", "", "p50", "p95", "ratio", "hits");
    println!("{:<32}{:>10.2?}", "twenty segments by number", base);
    let (mut all, mut slowest) = (Vec::new(), Duration::ZERO);
    for kind in KINDS {
        let (mut times, mut hits) = (Vec::new(), 0);
        for round in 0..rounds {
            let query = parse(&(kind.query)(words, &mut chance)).unwrap();
            let account = kind.account.then(|| owned[round as usize % owned.len()].account);
            let tick = clock.tick();
            let findings = find(db, &query, &Filters { account, ..Filters::default() }, kind.order, 20).await.unwrap();
            times.push(clock.tick().since(tick));
            hits += findings.hits.len();
        }
        all.extend_from_slice(&times);
        let (p50, p95) = percentiles(times);
        slowest = slowest.max(p95);
        let ratio = p95.as_secs_f64() / base.as_secs_f64();
        println!("{:<32}{p50:>10.2?}{p95:>10.2?}{ratio:>10.0}{:>8.1}", kind.name, hits as f64 / rounds as f64);
    }
    let (p50, p95) = percentiles(all);
    let ratio = p95.as_secs_f64() / base.as_secs_f64();
    println!("{:<32}{p50:>10.2?}{p95:>10.2?}{ratio:>10.0}", "all of them");
}
