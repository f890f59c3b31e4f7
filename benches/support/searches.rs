//! The kinds of searches that the benchmark asks, every one that the command offers.

use rand::Rng;
use rand::rngs::StdRng;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::Owned;
use ringcx_extractor::search::{Filters, Order, Source};

use super::{AGENTS, BEGIN, WORDS, agent, knob};

/// A kind of query: how it is asked.
pub struct Kind {
    pub name: &'static str,
    pub query: Asked,
    pub order: Order,
    pub filters: Narrowed,
}

pub type Asked = fn(&[String], &mut StdRng) -> String;
pub type Narrowed = fn(&Owned, &mut StdRng) -> Filters;

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

fn two_usual_words(words: &[String], chance: &mut StdRng) -> String {
    format!("{} {}", middling(words, chance), middling(words, chance))
}

fn a_usual_and_a_frequent_word(words: &[String], chance: &mut StdRng) -> String {
    format!("{} {}", middling(words, chance), frequent(words, chance))
}

fn a_phrase_that_hardly_occurs(words: &[String], chance: &mut StdRng) -> String {
    format!("\"{} {} {}\"", frequent(words, chance), middling(words, chance), frequent(words, chance))
}

fn a_beginning_of_five_letters(words: &[String], chance: &mut StdRng) -> String {
    format!("{}*", rare(words, chance).chars().take(5).collect::<String>())
}

fn a_beginning_of_three_letters(words: &[String], chance: &mut StdRng) -> String {
    format!("{}*", middling(words, chance).chars().take(3).collect::<String>())
}

fn a_word_without_another(words: &[String], chance: &mut StdRng) -> String {
    format!("{} -{}", middling(words, chance), frequent(words, chance))
}

fn a_phrase_of_three_frequent_words(words: &[String], chance: &mut StdRng) -> String {
    format!("\"{} {} {}\"", frequent(words, chance), frequent(words, chance), frequent(words, chance))
}

fn a_phrase_with_a_beginning(words: &[String], chance: &mut StdRng) -> String {
    format!("\"{} {}\"*", frequent(words, chance), &middling(words, chance)[..3])
}

fn either_of_two_phrases(words: &[String], chance: &mut StdRng) -> String {
    let mut one = || format!("\"{} {}\"", frequent(words, chance), middling(words, chance));
    format!("{} OR {}", one(), one())
}

fn a_word_without_a_phrase(words: &[String], chance: &mut StdRng) -> String {
    format!("{} -\"{} {}\"", middling(words, chance), frequent(words, chance), frequent(words, chance))
}

fn a_beginning_after_a_frequent_word(words: &[String], chance: &mut StdRng) -> String {
    format!("\"{} {}\"*", frequent(words, chance), &rare(words, chance)[..5])
}

fn a_beginning(words: &[String], chance: &mut StdRng) -> String {
    format!("{}*", &middling(words, chance)[..3])
}

const fn best(name: &'static str, query: Asked, filters: Narrowed) -> Kind {
    Kind { name, query, order: Order::Best, filters }
}

const fn newest(name: &'static str, query: Asked, filters: Narrowed) -> Kind {
    Kind { name, query, order: Order::Newest, filters }
}

pub const KINDS: &[Kind] = &[
    best("a rare word", rare, none),
    best("a usual word", middling, none),
    best("a common word", common, none),
    best("a word that is everywhere", frequent, none),
    best("two usual words", two_usual_words, none),
    best("a usual and a frequent word", a_usual_and_a_frequent_word, none),
    best("a phrase of frequent words", phrase, none),
    best("a phrase that hardly occurs", a_phrase_that_hardly_occurs, none),
    best("a beginning of five letters", a_beginning_of_five_letters, none),
    best("a beginning of three letters", a_beginning_of_three_letters, none),
    best("a word without another", a_word_without_another, none),
    best("a phrase of three frequent words", a_phrase_of_three_frequent_words, none),
    best("a phrase with a beginning", a_phrase_with_a_beginning, none),
    best("either of two phrases", either_of_two_phrases, none),
    best("a word without a phrase", a_word_without_a_phrase, none),
    newest("a phrase, newest first", phrase, none),
    newest("a usual word, newest first", middling, none),
    best("a usual word, one account", middling, one_account),
    best("a frequent word, one account", frequent, one_account),
    best("a phrase, one account", phrase, one_account),
    best("a frequent word, one day", frequent, one_day),
    best("a phrase, one day", phrase, one_day),
    best("a beginning after a frequent word", a_beginning_after_a_frequent_word, none),
    newest("a common word, newest first", common, none),
    best("a frequent word, voice", frequent, voice),
    best("a frequent word, e-mail", frequent, email),
    newest("a common word, e-mail, newest", common, email),
    best("a frequent word, no such channel", frequent, no_channel),
    best("a usual word, no such channel", middling, no_channel),
    best("a phrase, no such channel", phrase, no_channel),
    best("a frequent word, outbound sales", frequent, outbound_sales),
    best("a usual word, one agent", middling, one_agent),
    best("a frequent word, one agent", frequent, one_agent),
    best("a usual word, by name", middling, one_name),
    best("a common word, by name", common, one_name),
    best("a frequent word, by name", frequent, one_name),
    newest("a frequent word, by name, newest", frequent, one_name),
    best("a phrase, by name", phrase, one_name),
    best("a beginning, by name", a_beginning, one_name),
    best("a frequent word, by first name", frequent, a_first_name),
    best("a frequent word, name and e-mail", frequent, a_name_and_email),
    best("a frequent word, one caller", frequent, a_caller),
    best("a frequent word, nobody", frequent, nobody),
    best("a frequent word in notes", frequent, notes),
    best("a usual word in notes", middling, notes),
];
