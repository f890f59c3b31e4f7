//! How quickly a large archive is searched and how fast the index follows it. One command:
//! `TRANSCRIPTS=1000000 cargo bench --bench search`; `POSTGRES=1` measures on a Postgres of its own, `ROUNDS=20` is how
//! often each kind of query is asked. `DATABASE=postgres://…` or `DATABASE=a file` is filled where it is empty and otherwise
//! asked as it is, so that an archive that took long to make can be asked again.
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
use ringcx_extractor::search::{Filters, Order, Source, find, parse};
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
    filters: fn(&Owned, &mut StdRng) -> Filters,
}

fn none(_: &Owned, _: &mut StdRng) -> Filters {
    Filters::default()
}

fn one_account(owned: &Owned, _: &mut StdRng) -> Filters {
    Filters { account: Some(owned.account), ..Filters::default() }
}

fn channel(channel: &str) -> Filters {
    Filters { channel: Some(channel.to_owned()), ..Filters::default() }
}

/// Four of five.
fn voice(_: &Owned, _: &mut StdRng) -> Filters {
    channel("voice")
}

/// One in twenty.
fn email(_: &Owned, _: &mut StdRng) -> Filters {
    channel("email")
}

fn no_channel(_: &Owned, _: &mut StdRng) -> Filters {
    channel("carrier pigeon")
}

/// One in six or so.
fn outbound_sales(_: &Owned, _: &mut StdRng) -> Filters {
    let (direction, disposition) = (Some("outbound".to_owned()), Some("sale".to_owned()));
    Filters { direction, disposition, ..Filters::default() }
}

fn agent_is(agent: String) -> Filters {
    Filters { agent: Some(agent), ..Filters::default() }
}

/// One in a hundred.
fn one_agent(_: &Owned, chance: &mut StdRng) -> Filters {
    agent_is(chance.random_range(0..AGENTS).to_string())
}

fn one_name(_: &Owned, chance: &mut StdRng) -> Filters {
    agent_is(agent(chance.random_range(0..AGENTS)))
}

/// One in ten.
fn a_first_name(_: &Owned, chance: &mut StdRng) -> Filters {
    agent_is(agent(chance.random_range(0..AGENTS)).split(' ').take(1).collect())
}

/// One of all.
fn a_caller(_: &Owned, chance: &mut StdRng) -> Filters {
    agent_is(format!("1555{:07}", chance.random_range(0..knob("TRANSCRIPTS", 100_000))))
}

fn nobody(_: &Owned, _: &mut StdRng) -> Filters {
    agent_is("Nobody Ever".to_owned())
}

fn a_name_and_email(owned: &Owned, chance: &mut StdRng) -> Filters {
    Filters { channel: Some("email".to_owned()), ..one_name(owned, chance) }
}

/// One document in twenty.
fn notes(_: &Owned, _: &mut StdRng) -> Filters {
    Filters { sources: vec![Source::Notes], ..Filters::default() }
}

/// A day of the past.
fn one_day(_: &Owned, _: &mut StdRng) -> Filters {
    let (from, to) = (Some(Time(BEGIN + 10 * 3_600_000)), Some(Time(BEGIN + 34 * 3_600_000)));
    Filters { from, to, ..Filters::default() }
}

fn frequent(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(0..30)].clone()
}

fn common(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(30..300)].clone()
}

fn middling(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(300..2000)].clone()
}

fn rare(words: &[String], chance: &mut StdRng) -> String {
    words[chance.random_range(5000..WORDS)].clone()
}

fn phrase(words: &[String], chance: &mut StdRng) -> String {
    format!("\"{} {}\"", frequent(words, chance), frequent(words, chance))
}

const KINDS: &[Kind] = &[
    Kind { name: "a rare word", query: rare, order: Order::Best, filters: none },
    Kind { name: "a usual word", query: middling, order: Order::Best, filters: none },
    Kind { name: "a common word", query: common, order: Order::Best, filters: none },
    Kind { name: "a word that is everywhere", query: frequent, order: Order::Best, filters: none },
    Kind {
        name: "two usual words",
        query: |words, chance| format!("{} {}", middling(words, chance), middling(words, chance)),
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a usual and a frequent word",
        query: |words, chance| format!("{} {}", middling(words, chance), frequent(words, chance)),
        order: Order::Best,
        filters: none,
    },
    Kind { name: "a phrase of frequent words", query: phrase, order: Order::Best, filters: none },
    Kind {
        name: "a phrase that hardly occurs",
        query: |words, chance| {
            format!("\"{} {} {}\"", frequent(words, chance), middling(words, chance), frequent(words, chance))
        },
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a beginning of five letters",
        query: |words, chance| format!("{}*", rare(words, chance).chars().take(5).collect::<String>()),
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a beginning of three letters",
        query: |words, chance| format!("{}*", middling(words, chance).chars().take(3).collect::<String>()),
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a word without another",
        query: |words, chance| format!("{} -{}", middling(words, chance), frequent(words, chance)),
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a phrase of three frequent words",
        query: |words, chance| {
            format!("\"{} {} {}\"", frequent(words, chance), frequent(words, chance), frequent(words, chance))
        },
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a phrase with a beginning",
        query: |words, chance| format!("\"{} {}\"*", frequent(words, chance), &middling(words, chance)[..3]),
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "either of two phrases",
        query: |words, chance| {
            let mut one = || format!("\"{} {}\"", frequent(words, chance), middling(words, chance));
            format!("{} OR {}", one(), one())
        },
        order: Order::Best,
        filters: none,
    },
    Kind {
        name: "a word without a phrase",
        query: |words, chance| {
            format!("{} -\"{} {}\"", middling(words, chance), frequent(words, chance), frequent(words, chance))
        },
        order: Order::Best,
        filters: none,
    },
    Kind { name: "a phrase, newest first", query: phrase, order: Order::Newest, filters: none },
    Kind { name: "a usual word, newest first", query: middling, order: Order::Newest, filters: none },
    Kind { name: "a usual word, one account", query: middling, order: Order::Best, filters: one_account },
    Kind { name: "a frequent word, one account", query: frequent, order: Order::Best, filters: one_account },
    Kind { name: "a phrase, one account", query: phrase, order: Order::Best, filters: one_account },
    Kind { name: "a frequent word, one day", query: frequent, order: Order::Best, filters: one_day },
    Kind { name: "a phrase, one day", query: phrase, order: Order::Best, filters: one_day },
    Kind {
        name: "a beginning after a frequent word",
        query: |words, chance| format!("\"{} {}\"*", frequent(words, chance), &rare(words, chance)[..5]),
        order: Order::Best,
        filters: none,
    },
    Kind { name: "a common word, newest first", query: common, order: Order::Newest, filters: none },
    Kind { name: "a frequent word, voice", query: frequent, order: Order::Best, filters: voice },
    Kind { name: "a frequent word, e-mail", query: frequent, order: Order::Best, filters: email },
    Kind { name: "a common word, e-mail, newest", query: common, order: Order::Newest, filters: email },
    Kind { name: "a frequent word, no such channel", query: frequent, order: Order::Best, filters: no_channel },
    Kind { name: "a usual word, no such channel", query: middling, order: Order::Best, filters: no_channel },
    Kind { name: "a phrase, no such channel", query: phrase, order: Order::Best, filters: no_channel },
    Kind { name: "a frequent word, outbound sales", query: frequent, order: Order::Best, filters: outbound_sales },
    Kind { name: "a usual word, one agent", query: middling, order: Order::Best, filters: one_agent },
    Kind { name: "a frequent word, one agent", query: frequent, order: Order::Best, filters: one_agent },
    Kind { name: "a usual word, by name", query: middling, order: Order::Best, filters: one_name },
    Kind { name: "a common word, by name", query: common, order: Order::Best, filters: one_name },
    Kind { name: "a frequent word, by name", query: frequent, order: Order::Best, filters: one_name },
    Kind { name: "a frequent word, by name, newest", query: frequent, order: Order::Newest, filters: one_name },
    Kind { name: "a phrase, by name", query: phrase, order: Order::Best, filters: one_name },
    Kind {
        name: "a beginning, by name",
        query: |words, chance| format!("{}*", &middling(words, chance)[..3]),
        order: Order::Best,
        filters: one_name,
    },
    Kind { name: "a frequent word, by first name", query: frequent, order: Order::Best, filters: a_first_name },
    Kind { name: "a frequent word, name and e-mail", query: frequent, order: Order::Best, filters: a_name_and_email },
    Kind { name: "a frequent word, one caller", query: frequent, order: Order::Best, filters: a_caller },
    Kind { name: "a frequent word, nobody", query: frequent, order: Order::Best, filters: nobody },
    Kind { name: "a frequent word in notes", query: frequent, order: Order::Best, filters: notes },
    Kind { name: "a usual word in notes", query: middling, order: Order::Best, filters: notes },
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

async fn count(db: &Db, text: &'static str) -> u64 {
    db.first(sql(text)).await.unwrap().unwrap().count(0).unwrap()
}

async fn index(db: &Db, clock: &Clock, owned: &[Owned]) {
    let (tick, indexer) = (clock.tick(), Indexer::new(db.clone()));
    while indexer.step(owned).await.unwrap() == Progress::Did {}
    let (took, transcripts) = (clock.tick().since(tick).as_secs_f64(), held(db).await);
    println!("indexed in {took:.1} s: {:.0} a second", transcripts as f64 / took);
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
