//! The kinds of queries that the search benchmark runs: every form and filter that the command offers.

use rand::Rng;
use rand::rngs::StdRng;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::Lease;
use ringcx_extractor::search::{DocumentSource, Filters, SortOrder};
use ringcx_extractor::sim::workload::{AGENT_COUNT, VOCABULARY_SIZE, person_name};

use super::{FIRST_END_MS, SEED, Workload, env_number};

/// A kind of query: a query text, an order and filters.
pub struct QueryKind {
    pub name: &'static str,
    pub query: QueryGenerator,
    pub order: SortOrder,
    pub filters: FilterGenerator,
}

pub type QueryGenerator = fn(&[String], &mut StdRng) -> String;
pub type FilterGenerator = fn(&Lease, &mut StdRng) -> Filters;

fn no_filter(_: &Lease, _: &mut StdRng) -> Filters {
    Filters::default()
}

fn one_account(owned: &Lease, _: &mut StdRng) -> Filters {
    Filters { account: Some(owned.account), ..Filters::default() }
}

fn filter_channel(channel: &str) -> Filters {
    Filters { channel: Some(channel.to_owned()), ..Filters::default() }
}

/// 80 % of the segments.
fn voice(_: &Lease, _: &mut StdRng) -> Filters {
    filter_channel("voice")
}

/// 7 % of the segments.
fn email(_: &Lease, _: &mut StdRng) -> Filters {
    filter_channel("email")
}

fn no_channel(_: &Lease, _: &mut StdRng) -> Filters {
    filter_channel("carrier pigeon")
}

/// About one segment in six.
fn outbound_sales(_: &Lease, _: &mut StdRng) -> Filters {
    let (direction, disposition) = (Some("outbound".to_owned()), Some("sale".to_owned()));
    Filters { direction, disposition, ..Filters::default() }
}

fn filter_agent(agent: String) -> Filters {
    Filters { agent: Some(agent), ..Filters::default() }
}

/// One segment in three hundred.
fn one_agent(_: &Lease, rng: &mut StdRng) -> Filters {
    filter_agent((400_000 + rng.random_range(0..AGENT_COUNT)).to_string())
}

fn one_name(_: &Lease, rng: &mut StdRng) -> Filters {
    filter_agent(person_name(rng.random_range(0..AGENT_COUNT)))
}

/// One segment in twenty-four.
fn a_first_name(_: &Lease, rng: &mut StdRng) -> Filters {
    filter_agent(person_name(rng.random_range(0..AGENT_COUNT)).split(' ').take(1).collect())
}

/// A few segments.
fn a_caller(_: &Lease, rng: &mut StdRng) -> Filters {
    let number = rng.random_range(0..env_number("TRANSCRIPTS", 100_000));
    filter_agent(Workload::new(SEED).contact_number(number).trim_start_matches('+').to_owned())
}

fn unknown_name(_: &Lease, _: &mut StdRng) -> Filters {
    filter_agent("Nobody Ever".to_owned())
}

fn a_name_and_email(owned: &Lease, rng: &mut StdRng) -> Filters {
    Filters { channel: Some("email".to_owned()), ..one_name(owned, rng) }
}

/// One segment in five.
fn notes(_: &Lease, _: &mut StdRng) -> Filters {
    Filters { sources: vec![DocumentSource::Notes], ..Filters::default() }
}

/// One day near the beginning of the archive.
fn one_day(_: &Lease, _: &mut StdRng) -> Filters {
    let (from, to) = (Some(Time(FIRST_END_MS + 10 * 3_600_000)), Some(Time(FIRST_END_MS + 34 * 3_600_000)));
    Filters { from, to, ..Filters::default() }
}

fn frequent(words: &[String], rng: &mut StdRng) -> String {
    words[rng.random_range(0..30)].clone()
}

fn common(words: &[String], rng: &mut StdRng) -> String {
    words[rng.random_range(30..300)].clone()
}

fn usual(words: &[String], rng: &mut StdRng) -> String {
    words[rng.random_range(300..2000)].clone()
}

fn rare(words: &[String], rng: &mut StdRng) -> String {
    words[rng.random_range(5000..VOCABULARY_SIZE)].clone()
}

fn prefix(word: &str, letters: usize) -> String {
    word.chars().take(letters).collect()
}

fn phrase(words: &[String], rng: &mut StdRng) -> String {
    format!("\"{} {}\"", frequent(words, rng), frequent(words, rng))
}

fn two_usual_words(words: &[String], rng: &mut StdRng) -> String {
    format!("{} {}", usual(words, rng), usual(words, rng))
}

fn a_usual_and_a_frequent_word(words: &[String], rng: &mut StdRng) -> String {
    format!("{} {}", usual(words, rng), frequent(words, rng))
}

fn a_phrase_that_hardly_occurs(words: &[String], rng: &mut StdRng) -> String {
    format!("\"{} {} {}\"", frequent(words, rng), usual(words, rng), frequent(words, rng))
}

fn a_beginning_of_five_letters(words: &[String], rng: &mut StdRng) -> String {
    format!("{}*", prefix(&rare(words, rng), 5))
}

fn a_beginning_of_three_letters(words: &[String], rng: &mut StdRng) -> String {
    format!("{}*", prefix(&usual(words, rng), 3))
}

fn a_word_without_another(words: &[String], rng: &mut StdRng) -> String {
    format!("{} -{}", usual(words, rng), frequent(words, rng))
}

fn a_phrase_of_three_frequent_words(words: &[String], rng: &mut StdRng) -> String {
    format!("\"{} {} {}\"", frequent(words, rng), frequent(words, rng), frequent(words, rng))
}

fn a_phrase_with_a_beginning(words: &[String], rng: &mut StdRng) -> String {
    format!("\"{} {}\"*", frequent(words, rng), prefix(&usual(words, rng), 3))
}

fn either_of_two_phrases(words: &[String], rng: &mut StdRng) -> String {
    let mut one = || format!("\"{} {}\"", frequent(words, rng), usual(words, rng));
    format!("{} OR {}", one(), one())
}

fn a_word_without_a_phrase(words: &[String], rng: &mut StdRng) -> String {
    format!("{} -\"{} {}\"", usual(words, rng), frequent(words, rng), frequent(words, rng))
}

fn a_beginning_after_a_frequent_word(words: &[String], rng: &mut StdRng) -> String {
    format!("\"{} {}\"*", frequent(words, rng), prefix(&rare(words, rng), 5))
}

fn a_beginning(words: &[String], rng: &mut StdRng) -> String {
    format!("{}*", prefix(&usual(words, rng), 3))
}

const fn best(name: &'static str, query: QueryGenerator, filters: FilterGenerator) -> QueryKind {
    QueryKind { name, query, order: SortOrder::Best, filters }
}

const fn newest(name: &'static str, query: QueryGenerator, filters: FilterGenerator) -> QueryKind {
    QueryKind { name, query, order: SortOrder::Newest, filters }
}

pub const QUERY_KINDS: &[QueryKind] = &[
    best("a rare word", rare, no_filter),
    best("a usual word", usual, no_filter),
    best("a common word", common, no_filter),
    best("a word that is everywhere", frequent, no_filter),
    best("two usual words", two_usual_words, no_filter),
    best("a usual and a frequent word", a_usual_and_a_frequent_word, no_filter),
    best("a phrase of frequent words", phrase, no_filter),
    best("a phrase that hardly occurs", a_phrase_that_hardly_occurs, no_filter),
    best("a beginning of five letters", a_beginning_of_five_letters, no_filter),
    best("a beginning of three letters", a_beginning_of_three_letters, no_filter),
    best("a word without another", a_word_without_another, no_filter),
    best("a phrase of three frequent words", a_phrase_of_three_frequent_words, no_filter),
    best("a phrase with a beginning", a_phrase_with_a_beginning, no_filter),
    best("either of two phrases", either_of_two_phrases, no_filter),
    best("a word without a phrase", a_word_without_a_phrase, no_filter),
    newest("a phrase, newest first", phrase, no_filter),
    newest("a usual word, newest first", usual, no_filter),
    best("a usual word, one account", usual, one_account),
    best("a frequent word, one account", frequent, one_account),
    best("a phrase, one account", phrase, one_account),
    best("a frequent word, one day", frequent, one_day),
    best("a phrase, one day", phrase, one_day),
    best("a beginning after a frequent word", a_beginning_after_a_frequent_word, no_filter),
    newest("a common word, newest first", common, no_filter),
    best("a frequent word, voice", frequent, voice),
    best("a frequent word, e-mail", frequent, email),
    newest("a common word, e-mail, newest", common, email),
    best("a frequent word, no such channel", frequent, no_channel),
    best("a usual word, no such channel", usual, no_channel),
    best("a phrase, no such channel", phrase, no_channel),
    best("a frequent word, outbound sales", frequent, outbound_sales),
    best("a usual word, one agent", usual, one_agent),
    best("a frequent word, one agent", frequent, one_agent),
    best("a usual word, by name", usual, one_name),
    best("a common word, by name", common, one_name),
    best("a frequent word, by name", frequent, one_name),
    newest("a frequent word, by name, newest", frequent, one_name),
    best("a phrase, by name", phrase, one_name),
    best("a beginning, by name", a_beginning, one_name),
    best("a frequent word, by first name", frequent, a_first_name),
    best("a frequent word, name and e-mail", frequent, a_name_and_email),
    best("a frequent word, one caller", frequent, a_caller),
    best("a frequent word, nobody", frequent, unknown_name),
    best("a frequent word in notes", frequent, notes),
    best("a usual word in notes", usual, notes),
];
