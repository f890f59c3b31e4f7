//! What people look for: words, "phrases", beginnings* and -exclusions.
//!
//! Pure. Any text is either understood or refused with a reason; nothing is quietly ignored but punctuation.

use super::words::words;
use crate::db::Needle;

/// Conditions that one query may have.
const MOST_TERMS: usize = 32;
/// Words that a phrase may have: fewer than two blocks of the index overlap by.
const LONGEST_PHRASE: usize = 32;
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

/// Why a query cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

const HINT: &str = "hint: words must all occur, in any order; \"a phrase\" as it stands; refund* for a beginning; -word to exclude; one OR other";

fn refuse<T>(why: impl std::fmt::Display) -> Result<T, QueryError> {
    Err(QueryError(format!("failed to read the query: {why}\n{HINT}")))
}

enum Token {
    Term { text: String, prefix: bool, excluded: bool, quoted: bool },
    Or,
    Not,
}

/// Reads a query.
///
/// # Errors
/// Where it asks for nothing, or for more than can be looked up.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    let (mut all, mut none): (Vec<Vec<Needle>>, Vec<Needle>) = (Vec::new(), Vec::new());
    let (mut or, mut not) = (false, false);
    for token in tokens(text) {
        let (text, prefix, excluded, quoted) = match token {
            Token::Or => {
                or = !all.is_empty();
                continue;
            }
            Token::Not => {
                not = true;
                continue;
            }
            Token::Term { text, prefix, excluded, quoted } => {
                (text, prefix, excluded || std::mem::take(&mut not), quoted)
            }
        };
        let Some(needle) = needle(&text, prefix, quoted)? else { continue };
        match (excluded, std::mem::take(&mut or)) {
            (true, true) => return refuse("OR joins what may occur, not what must not"),
            (true, false) => none.push(needle),
            (false, true) => match all.last_mut() {
                Some(choice) => choice.push(needle),
                None => all.push(vec![needle]),
            },
            (false, false) => all.push(vec![needle]),
        }
    }
    if all.is_empty() {
        return refuse(if none.is_empty() {
            "there is no word in it"
        } else {
            "it only says what must not occur; say what must"
        });
    }
    if all.iter().map(Vec::len).sum::<usize>() + none.len() > MOST_TERMS {
        return refuse(format_args!("it has more than {MOST_TERMS} words and phrases"));
    }
    Ok(Query { all, none })
}

fn needle(text: &str, prefix: bool, quoted: bool) -> Result<Option<Needle>, QueryError> {
    let words = words(text);
    if words.len() > LONGEST_PHRASE {
        let what = if quoted { "phrase" } else { "word" };
        return refuse(format_args!(
            "a {what} in it has {} words, at most {LONGEST_PHRASE} can be looked up",
            words.len()
        ));
    }
    let Some(last) = words.last() else { return Ok(None) };
    let short = prefix && last.is_ascii() && last.len() < SHORTEST_PREFIX;
    if short {
        return refuse(format_args!(
            "{last}* would match nearly everything; a beginning needs {SHORTEST_PREFIX} letters"
        ));
    }
    Ok(Some(Needle { words, prefix }))
}

fn is_quote(letter: char) -> bool {
    matches!(letter, '"' | '“' | '”' | '„')
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let negated =
            rest.strip_prefix('-').filter(|after| after.starts_with(|c: char| !c.is_whitespace() && c != '-'));
        let body = negated.unwrap_or(rest);
        let excluded = negated.is_some();
        rest = match body.strip_prefix(is_quote) {
            Some(inside) => {
                let end = inside.find(is_quote).unwrap_or(inside.len());
                let after = inside.get(end..).unwrap_or_default();
                let after = after.strip_prefix(is_quote).unwrap_or(after);
                let starred = after.strip_prefix('*');
                let text = inside.get(..end).unwrap_or_default();
                let prefix = starred.is_some() || text.ends_with('*');
                tokens.push(Token::Term { text: text.to_owned(), prefix, excluded, quoted: true });
                starred.unwrap_or(after)
            }
            None => {
                let (text, after) = body.split_at(body.find(char::is_whitespace).unwrap_or(body.len()));
                tokens.push(match (text, excluded) {
                    ("OR", false) => Token::Or,
                    ("NOT", false) => Token::Not,
                    // It is what words side by side mean anyway.
                    ("AND", false) => Token::Term { text: String::new(), prefix: false, excluded, quoted: false },
                    _ => Token::Term { text: text.to_owned(), prefix: text.ends_with('*'), excluded, quoted: false },
                });
                after
            }
        }
        .trim_start();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(text: &str) -> String {
        let needle = |needle: &Needle| needle.words.join(" ") + if needle.prefix { "*" } else { "" };
        let query = parse(text).unwrap();
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
        assert_eq!(said("john@example.com order-123 - x"), "john example com + order 123 + x");
        assert_eq!(said("李小 \"unclosed phrase"), "李 小 + unclosed phrase");
        assert_eq!(said("OR refund or AND"), "refund + or");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        let why = |text: &str| parse(text).unwrap_err().to_string();
        assert!(why("").contains("no word"));
        assert!(why("?! \"\" *").contains("no word"));
        assert!(why("-late").contains("only says what must not"));
        assert!(why("re*").contains("3 letters") && why("\"is re\"*").contains("3 letters"));
        assert!(why("a OR -b").contains("OR joins"));
        assert!(why(&"x ".repeat(33)).contains("more than 32"));
        assert!(why(&format!("\"{}\"", "x ".repeat(33))).contains("at most 32"));
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(text in "(\\PC|[\"*\\-\\s]|OR |NOT |AND ){0,40}") {
            if let Ok(query) = parse(&text) {
                prop_assert!(query.all.iter().chain([&query.none]).flatten().all(|needle| !needle.words.is_empty()));
                prop_assert!(query.all.iter().all(|choice| !choice.is_empty()));
            }
        }
    }
}
