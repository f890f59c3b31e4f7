//! The search syntax: words, "phrases", prefixes* and -exclusions, joined by AND, OR, NOT and
//! parentheses. Pure.
//!
//! A text is either parsed or rejected, with the position and a hint; only punctuation is ignored.
//! The result has the form that both databases need: a conjunction of clauses, each with
//! alternatives (conjunctive normal form), and excluded terms.

use super::tokenizer::{is_hangul, tokenize};
use crate::db::SearchTerm;

/// Words and phrases that one query may have.
const MAX_TERMS: usize = 32;
/// Alternatives of all clauses after the conversion to conjunctive normal form.
const MAX_ALTERNATIVES: usize = 128;
/// Nesting depth of parentheses.
const MAX_NESTING: usize = 16;
/// Words of a phrase. In a script without spaces each character is a word.
const MAX_PHRASE_WORDS: usize = 60;
/// Letters of a prefix: a shorter one would match half of the archive, and the index has keys for
/// prefixes of this length.
const MIN_PREFIX_LETTERS: usize = 3;

/// A parsed query: a conjunction of clauses, and terms that must not occur.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The clauses. Each one must match in at least one of its alternatives.
    pub required: Vec<Vec<SearchTerm>>,
    /// Terms that must not occur.
    pub excluded: Vec<SearchTerm>,
}

impl Query {
    /// The clauses for the index in place of `required`. The index supports a prefix only as the
    /// last word of a phrase. A phrase with other words that match as a prefix is split after them:
    /// this matches more, and misses nothing.
    pub fn index_clauses(&self) -> Vec<Vec<SearchTerm>> {
        let mut clauses = Vec::with_capacity(self.required.len());
        for alternatives in &self.required {
            if let [term] = alternatives.as_slice() {
                clauses.extend(split_term(term).into_iter().map(|piece| vec![piece]));
                continue;
            }
            let longest_piece = |term| split_term(term).into_iter().max_by_key(|piece| piece.words.concat().len());
            clauses.push(alternatives.iter().filter_map(longest_piece).collect());
        }
        clauses
    }
}

/// Splits a phrase after each word that matches as a prefix.
fn split_term(term: &SearchTerm) -> Vec<SearchTerm> {
    let words: Vec<&[String]> = term.words.split_inclusive(|word| matches_as_prefix(word)).collect();
    let last = words.len().saturating_sub(1);
    let piece = |(nth, words): (usize, &&[String])| SearchTerm {
        words: words.to_vec(),
        is_prefix: nth < last || term.is_prefix,
    };
    words.iter().enumerate().map(piece).collect()
}

/// Whether a word of a phrase also matches longer words: Korean particles follow a word without a
/// space.
pub(super) fn matches_as_prefix(word: &str) -> bool {
    word.ends_with(is_hangul)
}

/// Why a query is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    message: String,
    hint: String,
}

impl QueryError {
    /// What a valid query looks like.
    pub(crate) fn hint(&self) -> &str {
        &self.hint
    }
}

const SYNTAX_HINT: &str = "all words must occur, in any order; \"a phrase\" for words in a row; refund* for a prefix; -word to exclude; one OR other; (one OR other) word";
const QUOTE_HINT: &str = "put the text into double quotes to search for its words literally";

fn syntax_error<T>(why: impl std::fmt::Display, hint: &str) -> Result<T, QueryError> {
    Err(QueryError { message: format!("failed to read the query: {why}"), hint: hint.to_owned() })
}

/// The same with the position, counted in characters.
fn syntax_error_at<T>(at: usize, why: impl std::fmt::Display, hint: &str) -> Result<T, QueryError> {
    syntax_error(format_args!("at character {}: {why}", at + 1), hint)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Term {
        text: String,
        is_prefix: bool,
        is_quoted: bool,
    },
    Or,
    And,
    Not,
    /// The hyphen before an exclusion.
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

/// Parses a query.
///
/// # Errors
/// Where it has no search term, exceeds a limit, or has a syntax error.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    let tokens = lex(text)?;
    let terms = tokens.iter().filter(|(token, _)| matches!(token, Token::Term { .. })).count();
    if terms > MAX_TERMS {
        return syntax_error(format_args!("it has more than {MAX_TERMS} words and phrases"), SYNTAX_HINT);
    }
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    let query = parser.parse_and()?;
    if let Some((Token::Close, at)) = parser.peek() {
        return syntax_error_at(at, "this parenthesis was never opened", "remove it, or put ( where the group begins");
    }
    if query.required.is_empty() {
        let why = match query.excluded.is_empty() {
            true => "there is no word in it",
            false => "it has only exclusions; add a word that must occur",
        };
        return syntax_error(why, SYNTAX_HINT);
    }
    Ok(query)
}

/// A recursive-descent parser. A query is a conjunction of alternatives; alternatives are units
/// joined by OR; a unit is a term, a group in parentheses, or an exclusion.
struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<(Token, usize)> {
        self.tokens.get(self.next).cloned()
    }

    fn take_token(&mut self, expected: &Token) -> Option<usize> {
        let (_, at) = self.peek().filter(|(token, _)| token == expected)?;
        self.next += 1;
        Some(at)
    }

    /// Parses up to the end or a closing parenthesis, which it leaves to the caller.
    fn parse_and(&mut self) -> Result<Query, QueryError> {
        let mut query = Query { required: Vec::new(), excluded: Vec::new() };
        let mut first = true;
        while self.peek().is_some_and(|(token, _)| token != Token::Close) {
            if let Some(at) = self.take_token(&Token::And)
                && first
            {
                return missing_operand(&Token::And, at);
            }
            first = false;
            let part = self.parse_or()?;
            query.excluded.extend(part.excluded);
            for alternatives in part.required {
                if !query.required.contains(&alternatives) {
                    query.required.push(alternatives);
                }
            }
            check_alternatives(&query.required)?;
        }
        Ok(query)
    }

    fn parse_or(&mut self) -> Result<Query, QueryError> {
        let mut query = self.parse_unit()?;
        while let Some(at) = self.take_token(&Token::Or) {
            let other = self.parse_unit()?;
            if !query.excluded.is_empty() || !other.excluded.is_empty() {
                let hint = "write the exclusion after the group: (refund OR money) -late";
                return syntax_error_at(at, "OR cannot join exclusions", hint);
            }
            query.required = distribute_or(&query.required, &other.required)?;
        }
        Ok(query)
    }

    fn parse_unit(&mut self) -> Result<Query, QueryError> {
        let Some((token, at)) = self.peek() else { return self.missing_unit() };
        match token {
            Token::Term { text, is_prefix, is_quoted } => {
                self.next += 1;
                let term = parse_term(&text, is_prefix, is_quoted, at)?;
                Ok(Query { required: vec![vec![term]], excluded: Vec::new() })
            }
            Token::Open => {
                self.next += 1;
                self.parse_group(at)
            }
            Token::Not | Token::Minus => {
                self.next += 1;
                let inner = self.parse_unit()?;
                // Excluding alternatives excludes each of them.
                match inner.required.as_slice() {
                    [alternatives] if inner.excluded.is_empty() => {
                        Ok(Query { required: Vec::new(), excluded: alternatives.clone() })
                    }
                    _ => {
                        let hint = "exclude words, phrases or alternatives: -(late OR slow)";
                        syntax_error_at(at, "a conjunction of several words cannot be excluded", hint)
                    }
                }
            }
            Token::Or | Token::And => missing_operand(&token, at),
            Token::Close => self.missing_unit(),
        }
    }

    /// The error where a unit is missing.
    fn missing_unit(&self) -> Result<Query, QueryError> {
        match self.next.checked_sub(1).and_then(|before| self.tokens.get(before)) {
            Some((token, at)) => missing_operand(token, *at),
            None => syntax_error("there is no word in it", SYNTAX_HINT),
        }
    }

    fn parse_group(&mut self, at: usize) -> Result<Query, QueryError> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return syntax_error_at(
                at,
                format_args!("parentheses are nested more than {MAX_NESTING} levels deep"),
                SYNTAX_HINT,
            );
        }
        let query = self.parse_and()?;
        self.depth -= 1;
        if self.take_token(&Token::Close).is_none() {
            return syntax_error_at(at, "this parenthesis is never closed", "put ) where the group ends, or remove (");
        }
        if query.required.is_empty() && query.excluded.is_empty() {
            return syntax_error_at(at, "there is no word in these parentheses", "fill them, or remove them");
        }
        Ok(query)
    }
}

fn missing_operand<T>(token: &Token, at: usize) -> Result<T, QueryError> {
    let hint = match token {
        Token::Or | Token::And => {
            "put a word on both sides of it; to search for the word itself, write it in lower case"
        }
        Token::Not => "put the excluded term after it; to search for the word itself, write it in lower case",
        _ => SYNTAX_HINT,
    };
    syntax_error_at(at, format_args!("{} has no operand", token.name()), hint)
}

/// The disjunction of two conjunctions, in conjunctive normal form.
fn distribute_or(one: &[Vec<SearchTerm>], other: &[Vec<SearchTerm>]) -> Result<Vec<Vec<SearchTerm>>, QueryError> {
    let mut clauses: Vec<Vec<SearchTerm>> = Vec::new();
    for first in one {
        for second in other {
            let mut alternatives = first.clone();
            alternatives.extend(second.iter().filter(|term| !first.contains(term)).cloned());
            if !clauses.contains(&alternatives) {
                clauses.push(alternatives);
            }
        }
        check_alternatives(&clauses)?;
    }
    Ok(clauses)
}

fn check_alternatives(clauses: &[Vec<SearchTerm>]) -> Result<(), QueryError> {
    match clauses.iter().map(Vec::len).sum::<usize>() {
        0..=MAX_ALTERNATIVES => Ok(()),
        _ => syntax_error("its parentheses result in too many combinations", "split it into several searches"),
    }
}

fn parse_term(text: &str, is_prefix: bool, is_quoted: bool, at: usize) -> Result<SearchTerm, QueryError> {
    let words = tokenize(text);
    if words.len() > MAX_PHRASE_WORDS {
        let what = if is_quoted { "phrase" } else { "word" };
        let why = format!("this {what} has {} words; the limit is {MAX_PHRASE_WORDS}", words.len());
        return syntax_error_at(at, why, "remove some of them");
    }
    let last = words.last().map(String::as_str).unwrap_or_default();
    if is_prefix && last.is_ascii() && last.len() < MIN_PREFIX_LETTERS {
        let why = format!("{last}* would match nearly everything; a prefix needs {MIN_PREFIX_LETTERS} letters");
        return syntax_error_at(at, why, "write more of the word");
    }
    let is_prefix = is_prefix || matches_as_prefix(last);
    Ok(SearchTerm { words, is_prefix })
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

/// Splits a query into tokens, each with the position of its first character.
fn lex(text: &str) -> Result<Vec<(Token, usize)>, QueryError> {
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
            letter if is_quote(*letter) => lex_phrase(at, rest)?,
            '-' if next.is_some_and(|next| next.is_alphanumeric() || is_quote(next) || is_open(next)) => {
                (Some(Token::Minus), 1)
            }
            '-' => {
                let hint = "write -word without a space to exclude a word; or remove the hyphen";
                return syntax_error_at(at, "this hyphen excludes nothing", hint);
            }
            '–' | '—' | '−' if next.is_some_and(char::is_alphanumeric) => {
                return syntax_error_at(
                    at,
                    "a dash excludes nothing",
                    "write -word with a hyphen, or put a space after the dash",
                );
            }
            '!' if next.is_some_and(|next| next.is_alphanumeric() || is_quote(next) || is_open(next)) => {
                return syntax_error_at(at, "! excludes nothing", "write -word to exclude a word");
            }
            _ => {
                let ends = |letter: &char| {
                    letter.is_whitespace() || is_quote(*letter) || is_open(*letter) || is_close(*letter)
                };
                let end = rest.iter().position(ends).unwrap_or(rest.len());
                let term = letters.get(at..=at + end).unwrap_or_default();
                let behind = rest.get(end..).unwrap_or_default();
                let is_word = |(token, _): &(Token, usize)| matches!(token, Token::Term { .. });
                let ends_with_question =
                    tokens.iter().any(is_word) && !behind.iter().any(|letter| letter.is_alphanumeric());
                (lex_word(at, term, behind.first().copied(), ends_with_question)?, term.len())
            }
        };
        tokens.extend(token.map(|token| (token, at)));
        at += length;
    }
    Ok(tokens)
}

/// Reads a phrase after its opening quote. Returns the token, or `None` for a phrase without words,
/// and the number of characters with both quotes.
fn lex_phrase(at: usize, rest: &[char]) -> Result<(Option<Token>, usize), QueryError> {
    let Some(length) = rest.iter().position(|letter| is_quote(*letter)) else {
        return syntax_error_at(
            at,
            "this quotation mark is never closed",
            "put another one where the phrase ends, or remove it",
        );
    };
    let (inside, after) = rest.split_at(length);
    let star_after_quote = after.get(1) == Some(&'*');
    if let Some('~' | '^') = after.get(1) {
        return syntax_error_at(at + length + 2, "this character has no meaning after a phrase", "remove it");
    }
    let (inside, is_prefix) = match inside.split_last() {
        Some(('*', inside)) => (inside, true),
        _ => (inside, star_after_quote),
    };
    if let Some(nth) = inside.iter().position(|letter| *letter == '*') {
        return syntax_error_at(at + 1 + nth, "a star is allowed at the end only", "remove it, or write two phrases");
    }
    let text: String = inside.iter().collect();
    let term = (!tokenize(&text).is_empty()).then_some(Token::Term { text, is_prefix, is_quoted: true });
    Ok((term, length + 2 + usize::from(star_after_quote)))
}

/// Reads an unquoted word; `next` is the character after it. Returns `None` for punctuation only.
/// At the end of a query of several words (`ends_with_question`) a question mark is punctuation;
/// elsewhere it is an error, because people use it as a wildcard.
fn lex_word(
    at: usize,
    letters: &[char],
    next: Option<char>,
    ends_with_question: bool,
) -> Result<Option<Token>, QueryError> {
    let text: String = letters.iter().collect();
    match text.as_str() {
        "OR" => return Ok(Some(Token::Or)),
        "AND" => return Ok(Some(Token::And)),
        "NOT" => return Ok(Some(Token::Not)),
        "|" | "||" => return syntax_error_at(at, "this is not an operator", "write OR between the words"),
        "&&" => return syntax_error_at(at, "this is not an operator", "write AND between the words, or nothing"),
        _ if text == "NEAR" || text.starts_with("NEAR/") => {
            let hint = "adjacent words rank higher anyway; to search for the word itself, write it in lower case";
            return syntax_error_at(at, "NEAR is not supported", hint);
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
                let hint =
                    "write refund* for words with this prefix; or put the text into double quotes without the star";
                return syntax_error_at(here, "a star is allowed at the end of a word only", hint);
            }
            '~' | '^' if before || letters.get(nth + 1).is_some_and(|next| next.is_alphabetic()) => {
                return syntax_error_at(
                    here,
                    format_args!("{letter} is not supported: there is no fuzzy search and no boosting"),
                    QUOTE_HINT,
                );
            }
            '?' if is_letter_in(letters.get(nth + 1..)) => {
                let hint = "write refund* for words with this prefix; or put the text into double quotes";
                return syntax_error_at(here, "? is not a wildcard", hint);
            }
            '?' if !ends_with_question && is_letter_in(letters.get(..nth)) => {
                let hint = "remove it; or write refund* for words with this prefix";
                return syntax_error_at(here, "? is not a wildcard", hint);
            }
            '&' if letters.get(nth + 1) == Some(&'&') => {
                return syntax_error_at(here, "this is not an operator", "write AND between the words, or nothing");
            }
            '|' => return syntax_error_at(here, "this is not an operator", "write OR between the words"),
            ':' if (after || (nth == last && next.is_some_and(|next| is_quote(next) || is_open(next))))
                && letters.iter().take(nth).all(|letter| letter.is_ascii_alphabetic() || *letter == '_')
                && nth > 0 =>
            {
                let hint = "filters are options beside the query, such as --agent, or fields of the page; to search for the text, put it into double quotes";
                return syntax_error_at(at, "the query cannot name a field", hint);
            }
            _ => {}
        }
    }
    let is_prefix = letters.last() == Some(&'*');
    Ok((!tokenize(&text).is_empty()).then_some(Token::Term { text, is_prefix, is_quoted: false }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(text: &str) -> String {
        render(&parse(text).unwrap())
    }

    fn render(query: &Query) -> String {
        let term = |term: &SearchTerm| term.words.join(" ") + if term.is_prefix { "*" } else { "" };
        let required: Vec<String> = query
            .required
            .iter()
            .map(|alternatives| alternatives.iter().map(term).collect::<Vec<_>>().join("|"))
            .collect();
        let excluded: Vec<String> = query.excluded.iter().map(|one| format!("-{}", term(one))).collect();
        [required, excluded].concat().join(" + ")
    }

    #[test]
    fn words_phrases_prefixes_exclusions_and_alternatives_are_parsed() {
        assert_eq!(rendered("Refund  late"), "refund + late");
        assert_eq!(rendered("\"Charged twice\" -ok"), "charged twice + -ok");
        assert_eq!(rendered("ref* -\"not now\" “once again”*"), "ref* + once again* + -not now");
        assert_eq!(rendered("refund OR money late OR delayed"), "refund|money + late|delayed");
        assert_eq!(rendered("refund AND late NOT angry"), "refund + late + -angry");
        assert_eq!(rendered("john@example.com order-123 – x"), "john example com + order 123 + x");
        assert_eq!(rendered("李小 \"a phrase\" or"), "李 小 + a phrase + or");
        assert_eq!(rendered("10:30 ~50 AT&T (030)12 + 5,00 …"), "10 30 + 50 + at t + 030 + 12 + 5 00");
        assert_eq!(rendered("where is my refund?"), "where + is + my + refund");
        assert_eq!(rendered("(why OR when) late?? …"), "why|when + late");
        assert_eq!(rendered("note: \"a phrase?\" (refund?)"), "note + a phrase + refund");
        assert_eq!(rendered("환불 \"환불 요청\" 환불2"), "환불* + 환불 요청* + 환불 2");
    }

    #[test]
    fn operators_and_parentheses_are_parsed() {
        assert_eq!(rendered("refund AND late"), "refund + late");
        assert_eq!(rendered("(refund OR late) money"), "refund|late + money");
        assert_eq!(rendered("(refund late) OR money"), "refund|money + late|money");
        assert_eq!(rendered("(a b) OR (c d)"), "a|c + a|d + b|c + b|d");
        assert_eq!(rendered("((refund)) AND NOT (late OR \"too slow\")"), "refund + -late + -too slow");
        assert_eq!(rendered("(refund -late) money"), "refund + money + -late");
        assert_eq!(rendered("refund OR late AND money"), "refund|late + money");
        assert_eq!(rendered("（refund OR ref*）x"), "refund|ref* + x");
        assert_eq!(rendered("a OR a b"), "a + b");
    }

    #[test]
    fn phrases_with_prefix_words_are_split_for_the_index() {
        let index_clauses = |text: &str| {
            let query = parse(text).unwrap();
            render(&Query { required: query.index_clauses(), excluded: query.excluded })
        };
        assert_eq!(index_clauses("\"환불 요청\" late"), "환불* + 요청* + late");
        assert_eq!(index_clauses("\"CS팀 환불 now\" -\"환불 요청\""), "cs 팀* + 환불* + now + -환불 요청*");
        assert_eq!(index_clauses("\"환불 요청서\" OR \"too late\""), "요청서*|too late");
        assert_eq!(index_clauses("\"too late\" ref* 환불"), "too late + ref* + 환불*");
    }

    #[test]
    fn invalid_queries_are_rejected_with_a_reason() {
        let why = |text: &str| parse(text).unwrap_err().to_string();
        assert!(why("").contains("no word"));
        assert!(why("?! \"\" …").contains("no word"));
        assert!(why("-late").contains("only exclusions"));
        assert!(why("re*").contains("3 letters") && why("\"is re\"*").contains("3 letters"));
        assert!(why("a OR -b").contains("OR cannot") && why("-b OR a").contains("OR cannot"));
        assert!(why(&"x ".repeat(33)).contains("more than 32"));
        assert!(why(&format!("\"{}\"", "x ".repeat(61))).contains("the limit is 60"));
        let group = |from: u8| (from..from + 12).map(|n| format!("w{n} ")).collect::<String>();
        assert!(why(&format!("({}) OR ({})", group(0), group(12))).contains("too many combinations"));
        assert!(why(&format!("{}a{}", "(".repeat(17), ")".repeat(17))).contains("nested more than 16"));
    }

    #[test]
    fn syntax_errors_name_their_position() {
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
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!(" at character {at}: ")), "{text}: {error}");
            assert!(!error.hint().is_empty(), "{text}");
        }
    }

    /// A query as an expression tree, evaluated independently of the parser.
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
        fn a_query_is_equivalent_to_its_expression_tree(tree in tree(), without in 0..8_u8, words in any::<u8>()) {
            let is_there = |term: &SearchTerm| words & (1 << term.words[0][1..].parse::<u8>().unwrap()) != 0;
            let excluded = if without < 6 { format!(" NOT w{without}") } else { String::new() };
            if let Ok(query) = parse(&(tree.text() + &excluded)) {
                let met = query.required.iter().all(|alternatives| alternatives.iter().any(is_there)) && !query.excluded.iter().any(is_there);
                prop_assert_eq!(met, tree.is_met(words) && (without >= 6 || words & (1 << without) == 0));
            }
        }

        #[test]
        fn no_text_causes_a_panic(text in "(\\PC|[\"*\\-()~|\\s]|OR |NOT |AND ){0,40}") {
            if let Err(error) = &parse(&text) {
                prop_assert!(!error.hint().is_empty());
            }
            if let Ok(query) = parse(&text) {
                prop_assert!(query.required.iter().chain([&query.excluded]).flatten().all(|term| !term.words.is_empty()));
                prop_assert!(query.required.iter().all(|alternatives| !alternatives.is_empty()));
            }
        }
    }
}
