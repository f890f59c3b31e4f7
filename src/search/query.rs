//! What people look for: words, "phrases", beginnings* and -exclusions, joined by AND, OR, NOT and parentheses.
//!
//! Pure. Any text is either understood or refused, with the place and what would do; nothing is quietly ignored but
//! punctuation. What was read is put in the one form that both databases are asked in: conditions that must all be met,
//! each by any of its alternatives, and words that must not occur.

use super::words::{is_hangul, words};
use crate::db::Needle;

/// Words and phrases that one query may have.
const MOST_TERMS: usize = 32;
/// The same once parentheses are multiplied out, each with the alternatives in front of it and behind it.
const MOST_ALTERNATIVES: usize = 128;
/// Parentheses within parentheses.
const DEEPEST: usize = 16;
/// Words that a phrase may have: fewer than two blocks of the index overlap by. A phrase of a script without spaces has one for
/// each character.
const LONGEST_PHRASE: usize = 60;
/// Letters that a beginning must have: shorter ones would match half the archive, and the index knows beginnings of so many.
const SHORTEST_PREFIX: usize = 3;

/// A query that was understood: every one of `all` must be met, by any of its alternatives, and nothing of `none` may
/// occur.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What must occur; each is a choice.
    pub all: Vec<Vec<Needle>>,
    /// What must not.
    pub none: Vec<Needle>,
}

impl Query {
    /// What an index is asked for in the place of `all`. It knows beginnings of a phrase's last word only: where another may
    /// go on, what stands before and behind is asked for by itself, which lets more through and misses nothing.
    pub fn proposed(&self) -> Vec<Vec<Needle>> {
        let mut all = Vec::with_capacity(self.all.len());
        for choice in &self.all {
            if let [needle] = choice.as_slice() {
                all.extend(pieces(needle).into_iter().map(|piece| vec![piece]));
                continue;
            }
            let longest = |needle| pieces(needle).into_iter().max_by_key(|piece| piece.words.concat().len());
            all.push(choice.iter().filter_map(longest).collect());
        }
        all
    }
}

/// A phrase, cut behind each word that may go on.
fn pieces(needle: &Needle) -> Vec<Needle> {
    let words: Vec<&[String]> = needle.words.split_inclusive(|word| may_go_on(word)).collect();
    let last = words.len().saturating_sub(1);
    let piece =
        |(nth, words): (usize, &&[String])| Needle { words: words.to_vec(), prefix: nth < last || needle.prefix };
    words.iter().enumerate().map(piece).collect()
}

/// Whether a word of a phrase matches the beginning of a longer one: particles follow a Korean word without a space.
pub(super) fn may_go_on(word: &str) -> bool {
    word.ends_with(is_hangul)
}

/// Why a query cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

const HINT: &str = "words must all occur, in any order; \"a phrase\" as it stands; refund* for a beginning; -word to exclude; one OR other; (one OR other) word";
const QUOTE: &str = "put the text into double quotes to look for its words as they stand";

fn refuse<T>(why: impl std::fmt::Display, hint: &str) -> Result<T, QueryError> {
    Err(QueryError(format!("failed to read the query: {why}\nhint: {hint}")))
}

/// The same with the place, in characters from the first.
fn refuse_at<T>(at: usize, why: impl std::fmt::Display, hint: &str) -> Result<T, QueryError> {
    refuse(format_args!("at character {}: {why}", at + 1), hint)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Term {
        text: String,
        prefix: bool,
        quoted: bool,
    },
    Or,
    And,
    Not,
    /// The hyphen before what is excluded.
    Minus,
    Open,
    Close,
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Token::Or => "OR",
            Token::And => "AND",
            Token::Not => "NOT",
            Token::Minus => "the hyphen",
            Token::Open => "the opening parenthesis",
            Token::Close => "the closing parenthesis",
            Token::Term { .. } => "the word",
        }
    }
}

/// Reads a query.
///
/// # Errors
/// Where it asks for nothing, for more than can be looked up, or is not understood.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    let tokens = tokens(text)?;
    let terms = tokens.iter().filter(|(token, _)| matches!(token, Token::Term { .. })).count();
    if terms > MOST_TERMS {
        return refuse(format_args!("it has more than {MOST_TERMS} words and phrases"), HINT);
    }
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    let query = parser.conjunction()?;
    if let Some((Token::Close, at)) = parser.peek() {
        return refuse_at(at, "this parenthesis was never opened", "take it away, or put ( where the group begins");
    }
    if query.all.is_empty() {
        let why = match query.none.is_empty() {
            true => "there is no word in it",
            false => "it only says what must not occur; say what must",
        };
        return refuse(why, HINT);
    }
    Ok(query)
}

/// Reads tokens by descent: a conjunction of choices, a choice of units joined by OR, a unit being a term, a group in
/// parentheses or what is excluded.
struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<(Token, usize)> {
        self.tokens.get(self.next).cloned()
    }

    fn take(&mut self, wanted: &Token) -> Option<usize> {
        let (_, at) = self.peek().filter(|(token, _)| token == wanted)?;
        self.next += 1;
        Some(at)
    }

    /// Up to the end, or a closing parenthesis that is left to the caller.
    fn conjunction(&mut self) -> Result<Query, QueryError> {
        let mut query = Query { all: Vec::new(), none: Vec::new() };
        let mut first = true;
        while self.peek().is_some_and(|(token, _)| token != Token::Close) {
            if let Some(at) = self.take(&Token::And)
                && first
            {
                return lone(&Token::And, at);
            }
            first = false;
            let choice = self.choice()?;
            query.none.extend(choice.none);
            for choice in choice.all {
                if !query.all.contains(&choice) {
                    query.all.push(choice);
                }
            }
            bounded(&query.all)?;
        }
        Ok(query)
    }

    fn choice(&mut self) -> Result<Query, QueryError> {
        let mut choice = self.unit()?;
        while let Some(at) = self.take(&Token::Or) {
            let other = self.unit()?;
            if !choice.none.is_empty() || !other.none.is_empty() {
                let hint = "write the exclusion beside the choice: (refund OR money) -late";
                return refuse_at(at, "OR joins what may occur, not what must not", hint);
            }
            choice.all = either(&choice.all, &other.all)?;
        }
        Ok(choice)
    }

    fn unit(&mut self) -> Result<Query, QueryError> {
        let Some((token, at)) = self.peek() else { return self.unfinished() };
        match token {
            Token::Term { text, prefix, quoted } => {
                self.next += 1;
                let needle = needle(&text, prefix, quoted, at)?;
                Ok(Query { all: vec![vec![needle]], none: Vec::new() })
            }
            Token::Open => {
                self.next += 1;
                self.group(at)
            }
            Token::Not | Token::Minus => {
                self.next += 1;
                let inner = self.unit()?;
                // What is in none of these has none of their alternatives.
                match inner.all.as_slice() {
                    [choice] if inner.none.is_empty() => Ok(Query { all: Vec::new(), none: choice.clone() }),
                    _ => {
                        let hint = "exclude words, phrases or a choice: -(late OR slow)";
                        refuse_at(at, "several words at once cannot be excluded together", hint)
                    }
                }
            }
            Token::Or | Token::And => lone(&token, at),
            Token::Close => self.unfinished(),
        }
    }

    /// Where a unit should begin and nothing is there.
    fn unfinished(&self) -> Result<Query, QueryError> {
        match self.next.checked_sub(1).and_then(|before| self.tokens.get(before)) {
            Some((token, at)) => lone(token, *at),
            None => refuse("there is no word in it", HINT),
        }
    }

    fn group(&mut self, at: usize) -> Result<Query, QueryError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return refuse_at(at, format_args!("more than {DEEPEST} parentheses within one another"), HINT);
        }
        let query = self.conjunction()?;
        self.depth -= 1;
        if self.take(&Token::Close).is_none() {
            return refuse_at(at, "this parenthesis is never closed", "put ) where the group ends, or take ( away");
        }
        if query.all.is_empty() && query.none.is_empty() {
            return refuse_at(at, "there is no word in these parentheses", "fill them, or take them away");
        }
        Ok(query)
    }
}

fn lone<T>(token: &Token, at: usize) -> Result<T, QueryError> {
    let hint = match token {
        Token::Or | Token::And => {
            "put a word on both sides of it; to look for the word itself, write it in small letters"
        }
        Token::Not => "put what is excluded after it; to look for the word itself, write it in small letters",
        _ => HINT,
    };
    refuse_at(at, format_args!("{} stands alone", token.name()), hint)
}

/// What is met where either of two is.
fn either(one: &[Vec<Needle>], other: &[Vec<Needle>]) -> Result<Vec<Vec<Needle>>, QueryError> {
    let mut all: Vec<Vec<Needle>> = Vec::new();
    for first in one {
        for second in other {
            let mut choice = first.clone();
            choice.extend(second.iter().filter(|needle| !first.contains(needle)).cloned());
            if !all.contains(&choice) {
                all.push(choice);
            }
        }
        bounded(&all)?;
    }
    Ok(all)
}

fn bounded(all: &[Vec<Needle>]) -> Result<(), QueryError> {
    match all.iter().map(Vec::len).sum::<usize>() {
        0..=MOST_ALTERNATIVES => Ok(()),
        _ => refuse("its parentheses make too many combinations", "ask for less at once, in several searches"),
    }
}

fn needle(text: &str, prefix: bool, quoted: bool, at: usize) -> Result<Needle, QueryError> {
    let words = words(text);
    if words.len() > LONGEST_PHRASE {
        let what = if quoted { "phrase" } else { "word" };
        let why = format!("this {what} has {} words, at most {LONGEST_PHRASE} can be looked up", words.len());
        return refuse_at(at, why, "leave some of them off");
    }
    let last = words.last().map(String::as_str).unwrap_or_default();
    if prefix && last.is_ascii() && last.len() < SHORTEST_PREFIX {
        let why = format!("{last}* would match nearly everything; a beginning needs {SHORTEST_PREFIX} letters");
        return refuse_at(at, why, "write more of the word");
    }
    let prefix = prefix || may_go_on(last);
    Ok(Needle { words, prefix })
}

fn is_quote(letter: char) -> bool {
    matches!(letter, '"' | '“' | '”' | '„' | '«' | '»')
}

fn is_open(letter: char) -> bool {
    matches!(letter, '(' | '（')
}

fn is_close(letter: char) -> bool {
    matches!(letter, ')' | '）')
}

/// Cuts a query up, each token with the character at which it begins.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>, QueryError> {
    let letters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        let rest = letters.get(at + 1..).unwrap_or_default();
        let next = rest.first().copied();
        let (token, length) = match letter {
            letter if letter.is_whitespace() => {
                at += 1;
                continue;
            }
            letter if is_open(*letter) => (Some(Token::Open), 1),
            letter if is_close(*letter) => (Some(Token::Close), 1),
            letter if is_quote(*letter) => phrase(at, rest)?,
            '-' if next.is_some_and(|next| next.is_alphanumeric() || is_quote(next) || is_open(next)) => {
                (Some(Token::Minus), 1)
            }
            '-' => {
                let hint = "write -word to exclude a word, without a space; or leave the hyphen off";
                return refuse_at(at, "this hyphen excludes nothing", hint);
            }
            '–' | '—' | '−' if next.is_some_and(char::is_alphanumeric) => {
                return refuse_at(
                    at,
                    "a dash excludes nothing",
                    "write -word with a hyphen, or put a space after the dash",
                );
            }
            '!' if next.is_some_and(|next| next.is_alphanumeric() || is_quote(next) || is_open(next)) => {
                return refuse_at(at, "! excludes nothing", "write -word to exclude a word");
            }
            _ => {
                let ends = |letter: &char| {
                    letter.is_whitespace() || is_quote(*letter) || is_open(*letter) || is_close(*letter)
                };
                let end = rest.iter().position(ends).unwrap_or(rest.len());
                let term = letters.get(at..=at + end).unwrap_or_default();
                let behind = rest.get(end..).unwrap_or_default();
                let is_word = |(token, _): &(Token, usize)| matches!(token, Token::Term { .. });
                let is_question = tokens.iter().any(is_word) && !behind.iter().any(|letter| letter.is_alphanumeric());
                (plain(at, term, behind.first().copied(), is_question)?, term.len())
            }
        };
        tokens.extend(token.map(|token| (token, at)));
        at += length;
    }
    Ok(tokens)
}

/// A phrase, after its opening quote; and how many characters it takes with both quotes. Without a word it is nothing.
fn phrase(at: usize, rest: &[char]) -> Result<(Option<Token>, usize), QueryError> {
    let Some(length) = rest.iter().position(|letter| is_quote(*letter)) else {
        return refuse_at(
            at,
            "this quotation mark has no second one",
            "put one where the phrase ends, or take it away",
        );
    };
    let (inside, after) = rest.split_at(length);
    let starred = after.get(1) == Some(&'*');
    if let Some('~' | '^') = after.get(1) {
        return refuse_at(at + length + 2, "this mark means nothing after a phrase", "leave it off");
    }
    let (inside, prefix) = match inside.split_last() {
        Some(('*', inside)) => (inside, true),
        _ => (inside, starred),
    };
    if let Some(nth) = inside.iter().position(|letter| *letter == '*') {
        return refuse_at(at + 1 + nth, "a star can stand only at the end", "leave it off, or write two phrases");
    }
    let text: String = inside.iter().collect();
    let term = (!words(&text).is_empty()).then_some(Token::Term { text, prefix, quoted: true });
    Ok((term, length + 2 + usize::from(starred)))
}

/// What stands without quotes, and what follows it at once; nothing where it is punctuation only. A question mark at the end
/// of a query of several words (`is_question`) is one; elsewhere it is meant for a letter.
fn plain(at: usize, letters: &[char], next: Option<char>, is_question: bool) -> Result<Option<Token>, QueryError> {
    let text: String = letters.iter().collect();
    match text.as_str() {
        "OR" => return Ok(Some(Token::Or)),
        "AND" => return Ok(Some(Token::And)),
        "NOT" => return Ok(Some(Token::Not)),
        "|" | "||" => return refuse_at(at, "this means nothing between two words", "write OR between them"),
        "&&" => return refuse_at(at, "this means nothing between two words", "write AND between them, or nothing"),
        _ if text == "NEAR" || text.starts_with("NEAR/") => {
            let hint = "words side by side rank higher anyway; to look for the word itself, write it in small letters";
            return refuse_at(at, "NEAR is not understood", hint);
        }
        _ => {}
    }
    let last = letters.len() - 1;
    let is_letter_in =
        |part: Option<&[char]>| part.is_some_and(|part| part.iter().any(|letter| letter.is_alphanumeric()));
    let is_letter = |nth: usize| letters.get(nth).is_some_and(|letter| letter.is_alphanumeric());
    for (nth, letter) in letters.iter().enumerate() {
        let (before, after) = (nth > 0 && is_letter(nth - 1), is_letter(nth + 1));
        let here = at + nth;
        match letter {
            '*' if nth == last && before => {}
            '*' => {
                let hint = "write refund* for words that begin so; or put the text into double quotes without the star";
                return refuse_at(here, "a star can stand only at the end of a word", hint);
            }
            '~' | '^' if before || letters.get(nth + 1).is_some_and(|next| next.is_alphabetic()) => {
                return refuse_at(
                    here,
                    format_args!("{letter} is not understood: words are found as they are written"),
                    QUOTE,
                );
            }
            '?' if is_letter_in(letters.get(nth + 1..)) => {
                let hint = "write refund* for words that begin so; or put the text into double quotes";
                return refuse_at(here, "? does not stand for a letter", hint);
            }
            '?' if !is_question && is_letter_in(letters.get(..nth)) => {
                let hint = "leave it off; or write refund* for words that begin so";
                return refuse_at(here, "? does not stand for a letter", hint);
            }
            '&' if letters.get(nth + 1) == Some(&'&') => {
                return refuse_at(here, "this means nothing between two words", "write AND between them, or nothing");
            }
            '|' => return refuse_at(here, "this means nothing between two words", "write OR between them"),
            ':' if (after || (nth == last && next.is_some_and(|next| is_quote(next) || is_open(next))))
                && letters.iter().take(nth).all(|letter| letter.is_ascii_alphabetic() || *letter == '_')
                && nth > 0 =>
            {
                let hint = "the filters are options beside the query, such as --agent or the fields of the page; to look for the text, put it into double quotes";
                return refuse_at(at, "a field cannot be named in the query", hint);
            }
            _ => {}
        }
    }
    let prefix = letters.last() == Some(&'*');
    Ok((!words(&text).is_empty()).then_some(Token::Term { text, prefix, quoted: false }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(text: &str) -> String {
        said_by(&parse(text).unwrap())
    }

    fn said_by(query: &Query) -> String {
        let needle = |needle: &Needle| needle.words.join(" ") + if needle.prefix { "*" } else { "" };
        let all: Vec<String> =
            query.all.iter().map(|choice| choice.iter().map(needle).collect::<Vec<_>>().join("|")).collect();
        let none: Vec<String> = query.none.iter().map(|one| format!("-{}", needle(one))).collect();
        [all, none].concat().join(" + ")
    }

    #[test]
    fn words_phrases_beginnings_exclusions_and_choices_are_understood() {
        assert_eq!(said("Refund  late"), "refund + late");
        assert_eq!(said("\"Charged twice\" -ok"), "charged twice + -ok");
        assert_eq!(said("ref* -\"not now\" “once again”*"), "ref* + once again* + -not now");
        assert_eq!(said("refund OR money late OR delayed"), "refund|money + late|delayed");
        assert_eq!(said("refund AND late NOT angry"), "refund + late + -angry");
        assert_eq!(said("john@example.com order-123 – x"), "john example com + order 123 + x");
        assert_eq!(said("李小 \"a phrase\" or"), "李 小 + a phrase + or");
        assert_eq!(said("10:30 ~50 AT&T (030)12 + 5,00 …"), "10 30 + 50 + at t + 030 + 12 + 5 00");
        assert_eq!(said("where is my refund?"), "where + is + my + refund");
        assert_eq!(said("(why OR when) late?? …"), "why|when + late");
        assert_eq!(said("note: \"a phrase?\" (refund?)"), "note + a phrase + refund");
        assert_eq!(said("환불 \"환불 요청\" 환불2"), "환불* + 환불 요청* + 환불 2");
    }

    #[test]
    fn operators_and_parentheses_join() {
        assert_eq!(said("refund AND late"), "refund + late");
        assert_eq!(said("(refund OR late) money"), "refund|late + money");
        assert_eq!(said("(refund late) OR money"), "refund|money + late|money");
        assert_eq!(said("(a b) OR (c d)"), "a|c + a|d + b|c + b|d");
        assert_eq!(said("((refund)) AND NOT (late OR \"too slow\")"), "refund + -late + -too slow");
        assert_eq!(said("(refund -late) money"), "refund + money + -late");
        assert_eq!(said("refund OR late AND money"), "refund|late + money");
        assert_eq!(said("（refund OR ref*）x"), "refund|ref* + x");
        assert_eq!(said("a OR a b"), "a + b");
    }

    #[test]
    fn where_words_of_a_phrase_may_go_on_the_index_is_asked_for_its_pieces() {
        let proposed = |text: &str| {
            let query = parse(text).unwrap();
            said_by(&Query { all: query.proposed(), none: query.none })
        };
        assert_eq!(proposed("\"환불 요청\" late"), "환불* + 요청* + late");
        assert_eq!(proposed("\"CS팀 환불 now\" -\"환불 요청\""), "cs 팀* + 환불* + now + -환불 요청*");
        assert_eq!(proposed("\"환불 요청서\" OR \"too late\""), "요청서*|too late");
        assert_eq!(proposed("\"too late\" ref* 환불"), "too late + ref* + 환불*");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        let why = |text: &str| parse(text).unwrap_err().to_string();
        assert!(why("").contains("no word"));
        assert!(why("?! \"\" …").contains("no word"));
        assert!(why("-late").contains("only says what must not"));
        assert!(why("re*").contains("3 letters") && why("\"is re\"*").contains("3 letters"));
        assert!(why("a OR -b").contains("OR joins") && why("-b OR a").contains("OR joins"));
        assert!(why(&"x ".repeat(33)).contains("more than 32"));
        assert!(why(&format!("\"{}\"", "x ".repeat(61))).contains("at most 60"));
        let group = |from: u8| (from..from + 12).map(|n| format!("w{n} ")).collect::<String>();
        assert!(why(&format!("({}) OR ({})", group(0), group(12))).contains("too many combinations"));
        assert!(why(&format!("{}a{}", "(".repeat(17), ")".repeat(17))).contains("within one another"));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (text, at) in [
            ("ref*nd", 4),
            ("*fund", 1),
            ("late ref**", 9),
            ("*", 1),
            ("\"a * b\"", 4),
            ("refund~1", 7),
            ("refund~", 7),
            ("\"too late\"~3", 11),
            ("refund^2", 7),
            ("r?fund", 2),
            ("r??fund", 2),
            ("?efund", 1),
            ("late ??fund", 6),
            ("refun?", 6),
            ("refun??", 6),
            ("refun? late", 6),
            ("-refun?", 7),
            ("say agent:\"Jane Doe\"", 5),
            ("agent:(jane OR bob)", 1),
            ("agent:“Jane”", 1),
            ("refund&&late", 7),
            ("refund&& late", 7),
            ("(refund OR late", 1),
            ("refund OR late)", 15),
            ("a ()", 3),
            ("a (…)", 3),
            ("say \"too late", 5),
            ("15\" screen", 3),
            ("OR refund", 1),
            ("refund OR", 8),
            ("refund OR OR late", 11),
            ("(refund OR) late", 9),
            ("AND refund", 1),
            ("refund AND", 8),
            ("refund AND OR late", 12),
            ("refund NOT", 8),
            ("a NOT NOT", 7),
            ("refund - late", 8),
            ("refund --late", 8),
            ("refund —late", 8),
            ("refund !late", 8),
            ("refund | late", 8),
            ("refund|late", 7),
            ("refund && late", 8),
            ("refund NEAR/3 late", 8),
            ("refund agent:jane", 8),
            ("refund -(late slow)", 8),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!(" at character {at}: ")) && error.contains("\nhint: "), "{text}: {error}");
        }
    }

    /// What a query says of a text in which these words occur, by itself.
    #[derive(Debug, Clone)]
    enum Tree {
        Word(u8),
        And(Vec<Tree>),
        Or(Vec<Tree>),
    }

    impl Tree {
        fn text(&self) -> String {
            let joined =
                |parts: &[Tree], by: &str| format!("({})", parts.iter().map(Tree::text).collect::<Vec<_>>().join(by));
            match self {
                Tree::Word(n) => format!("w{n}"),
                Tree::And(parts) => joined(parts, if parts.len() % 2 == 0 { " AND " } else { " " }),
                Tree::Or(parts) => joined(parts, " OR "),
            }
        }

        fn is_met(&self, words: u8) -> bool {
            match self {
                Tree::Word(n) => words & (1 << n) != 0,
                Tree::And(parts) => parts.iter().all(|part| part.is_met(words)),
                Tree::Or(parts) => parts.iter().any(|part| part.is_met(words)),
            }
        }
    }

    fn tree() -> impl Strategy<Value = Tree> {
        (0..6_u8).prop_map(Tree::Word).prop_recursive(3, 12, 3, |inner| {
            let parts = proptest::collection::vec(inner, 1..4);
            prop_oneof![parts.clone().prop_map(Tree::And), parts.prop_map(Tree::Or)]
        })
    }

    proptest! {
        #[test]
        fn a_query_means_what_its_tree_says(tree in tree(), without in 0..8_u8, words in any::<u8>()) {
            let is_there = |needle: &Needle| words & (1 << needle.words[0][1..].parse::<u8>().unwrap()) != 0;
            let excluded = if without < 6 { format!(" NOT w{without}") } else { String::new() };
            if let Ok(query) = parse(&(tree.text() + &excluded)) {
                let met = query.all.iter().all(|choice| choice.iter().any(is_there)) && !query.none.iter().any(is_there);
                prop_assert_eq!(met, tree.is_met(words) && (without >= 6 || words & (1 << without) == 0));
            }
        }

        #[test]
        fn no_text_upsets_it(text in "(\\PC|[\"*\\-()~|\\s]|OR |NOT |AND ){0,40}") {
            if let Err(error) = &parse(&text) {
                prop_assert!(error.to_string().contains("\nhint: "));
            }
            if let Ok(query) = parse(&text) {
                prop_assert!(query.all.iter().chain([&query.none]).flatten().all(|needle| !needle.words.is_empty()));
                prop_assert!(query.all.iter().all(|choice| !choice.is_empty()));
            }
        }
    }
}
