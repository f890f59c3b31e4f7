//! Scores documents and extracts the passage to display. Pure.
//!
//! The index of a database returns candidates only. Whether a document matches is decided here by
//! its text, so both databases return the same hits in the same order.

use std::ops::Range;

use super::document::Document;
use super::query::{Query, matches_as_prefix};
use super::tokenizer;
use crate::db::SearchTerm;

/// BM25's k1: how quickly further occurrences of a term stop counting.
const BM25_K1: f64 = 1.2;
/// BM25's b: how much the length of a document lowers its score.
const BM25_B: f64 = 0.5;
/// BM25's average document length, as a constant.
const AVERAGE_DOCUMENT_WORDS: f64 = 200.0;
/// Matches within this many words are near each other.
const PROXIMITY_WINDOW_WORDS: usize = 24;
/// Characters of a passage.
const PASSAGE_CHARS: usize = 200;
/// Characters of a passage before the first match.
const PASSAGE_LEAD_CHARS: usize = 60;

/// How a document matches the query.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentMatch {
    /// The score; higher is better.
    pub(crate) score: f64,
    /// The speaker of the passage.
    pub(crate) speaker: Option<String>,
    /// Time of the passage since the start of the conversation.
    pub(crate) offset: Option<String>,
    /// The passage with the most clauses of the query.
    pub passage: Passage,
}

/// An extract of a text with its matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The text, with an ellipsis where it was cut.
    pub text: String,
    /// The matches, as byte ranges of the text, in order.
    pub matches: Vec<Range<usize>>,
}

/// The positions of a word.
struct WordPosition {
    /// Its bytes in the joined words.
    word: Range<usize>,
    /// The part of the document; `None` for a separator between speakers.
    part: Option<usize>,
    /// Its bytes in the part's text.
    text: Range<usize>,
}

struct DocumentWords {
    joined: String,
    list: Vec<WordPosition>,
}

impl DocumentWords {
    fn of(document: &Document) -> DocumentWords {
        let mut words = DocumentWords { joined: String::new(), list: Vec::new() };
        let mut previous: Option<&Option<String>> = None;
        for (index, part) in document.parts.iter().enumerate() {
            if previous.is_some_and(|previous| *previous != part.speaker) {
                let end = words.joined.len();
                words.list.push(WordPosition { word: end..end, part: None, text: 0..0 });
            }
            tokenizer::for_each_word(&part.text, |word, text| {
                let start = words.joined.len();
                words.joined.push_str(word);
                words.list.push(WordPosition { word: start..words.joined.len(), part: Some(index), text });
            });
            previous = Some(&part.speaker);
        }
        words
    }

    fn at(&self, index: usize) -> &str {
        self.list.get(index).and_then(|word| self.joined.get(word.word.clone())).unwrap_or_default()
    }

    fn matches_at(&self, term: &SearchTerm, index: usize) -> bool {
        let last = term.words.len().saturating_sub(1);
        index + term.words.len() <= self.list.len()
            && term.words.iter().enumerate().all(|(nth, wanted)| {
                let word = self.at(index + nth);
                let is_prefix = if nth == last { term.is_prefix } else { matches_as_prefix(wanted) };
                if is_prefix { word.starts_with(wanted.as_str()) } else { word == wanted }
            })
    }

    fn positions_of<'a>(&'a self, term: &'a SearchTerm) -> impl Iterator<Item = usize> + 'a {
        (0..self.list.len()).filter(|index| self.matches_at(term, *index))
    }
}

/// A match: its first word, its number of words, and its clause of the query.
#[derive(Clone, Copy)]
struct MatchPosition {
    at: usize,
    words: usize,
    clause: usize,
}

/// Scores a document by the term frequency of BM25 and by proximity; `None` where it does not match
/// the query.
pub fn score_document(document: &Document, query: &Query) -> Option<DocumentMatch> {
    let words = DocumentWords::of(document);
    if query.excluded.iter().any(|term| words.positions_of(term).next().is_some()) {
        return None;
    }
    let mut positions: Vec<MatchPosition> = Vec::new();
    let length = words.list.len() as f64 / AVERAGE_DOCUMENT_WORDS;
    let mut score = 0.0;
    for (clause, alternatives) in query.required.iter().enumerate() {
        let before = positions.len();
        for term in alternatives {
            positions.extend(words.positions_of(term).map(|at| MatchPosition { at, words: term.words.len(), clause }));
        }
        let times = (positions.len() - before) as f64;
        if times == 0.0 {
            return None;
        }
        score += times * (BM25_K1 + 1.0) / (times + BM25_K1 * (1.0 - BM25_B + BM25_B * length));
    }
    positions.sort_by_key(|position| (position.at, position.clause));
    let clauses = query.required.len();
    let best = best_window(&words, &positions, clauses)?;
    if clauses > 1 {
        let proximity = (best.clauses - 1) as f64 / (clauses - 1) as f64;
        score += proximity + proximity / (1.0 + best.unmatched_words as f64 / 4.0);
    }
    let part = document.parts.get(best.part)?;
    let ranges =
        positions.iter().filter(|position| words.list.get(position.at).and_then(|word| word.part) == Some(best.part));
    let ranges: Vec<Range<usize>> = ranges.map(|position| words.match_range(*position, best.part)).collect();
    let focus = words.match_range(best.first, best.part).start;
    Some(DocumentMatch {
        score,
        speaker: part.speaker.clone(),
        offset: part.offset.clone(),
        passage: extract_passage(&part.text, &ranges, focus),
    })
}

/// Where the words and phrases of a query occur in each part of a document, as byte ranges of its text, in
/// order and without overlaps. The document need not match the query as a whole.
pub(crate) fn matches_in_parts(document: &Document, query: &Query) -> Vec<Vec<Range<usize>>> {
    let words = DocumentWords::of(document);
    let mut found: Vec<Vec<Range<usize>>> = vec![Vec::new(); document.parts.len()];
    for term in query.required.iter().flatten() {
        for at in words.positions_of(term) {
            // A phrase may go on in the next turn of the same speaker.
            for index in at..at + term.words.len() {
                let word = words.list.get(index).and_then(|word| Some((word.part?, word.text.clone())));
                let Some((part, text)) = word else { continue };
                if let Some(ranges) = found.get_mut(part) {
                    ranges.push(text);
                }
            }
        }
    }
    for ranges in &mut found {
        ranges.sort_by_key(|range| (range.start, range.end));
        ranges.dedup_by(|next, last| {
            let overlaps = next.start < last.end;
            if overlaps {
                last.end = last.end.max(next.end);
            }
            overlaps
        });
    }
    found
}

impl DocumentWords {
    /// The range of a match in a part's text.
    fn match_range(&self, position: MatchPosition, part: usize) -> Range<usize> {
        let inside = self.list.iter().skip(position.at).take(position.words).take_while(|word| word.part == Some(part));
        let (mut start, mut end) = (usize::MAX, 0);
        for word in inside {
            (start, end) = (start.min(word.text.start), end.max(word.text.end));
        }
        start.min(end)..end
    }
}

struct MatchWindow {
    /// How many different clauses match in it.
    clauses: usize,
    /// Words between its matches.
    unmatched_words: usize,
    part: usize,
    first: MatchPosition,
}

/// The window within one part in which most of the query's `clauses` match.
fn best_window(words: &DocumentWords, positions: &[MatchPosition], clauses: usize) -> Option<MatchWindow> {
    let mut best: Option<MatchWindow> = None;
    let mut matched = vec![false; clauses];
    for (start, first) in positions.iter().enumerate() {
        let Some(part) = words.list.get(first.at).and_then(|word| word.part) else { continue };
        matched.fill(false);
        let (mut clauses, mut covered, mut end) = (0, 0, first.at);
        for position in positions.iter().skip(start) {
            let part_here = words.list.get(position.at).and_then(|word| word.part);
            if position.at >= first.at + PROXIMITY_WINDOW_WORDS || part_here != Some(part) {
                break;
            }
            let Some(matched) = matched.get_mut(position.clause) else { continue };
            if !std::mem::replace(matched, true) {
                clauses += 1;
                covered += position.words;
                end = end.max(position.at + position.words);
            }
        }
        let unmatched_words = (end - first.at).saturating_sub(covered);
        if best.as_ref().is_none_or(|best| (clauses, best.unmatched_words) > (best.clauses, unmatched_words)) {
            best = Some(MatchWindow { clauses, unmatched_words, part, first: *first });
        }
    }
    best
}

/// Extracts a passage from a text, with the byte `focus` near its beginning.
fn extract_passage(text: &str, ranges: &[Range<usize>], focus: usize) -> Passage {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let nth = starts.partition_point(|at| *at < focus);
    let from = if starts.len() <= PASSAGE_CHARS {
        0
    } else {
        nth.saturating_sub(PASSAGE_LEAD_CHARS).min(starts.len() - PASSAGE_CHARS)
    };
    let byte = |nth: usize| starts.get(nth).copied().unwrap_or(text.len());
    let (mut begin, mut end) = (byte(from), byte(from + PASSAGE_CHARS));
    // Whole words, where there are spaces.
    if begin > 0
        && let Some(space) = text.get(begin..focus).and_then(|lead| lead.find(' '))
    {
        begin += space + 1;
    }
    if end < text.len()
        && let Some(space) = text.get(begin..end).and_then(|body| body.rfind(' '))
        && begin + space > focus
    {
        end = begin + space;
    }
    let prefix = if begin > 0 { "…" } else { "" };
    let suffix = if end < text.len() { "…" } else { "" };
    let passage = format!("{prefix}{}{suffix}", text.get(begin..end).unwrap_or_default());
    let mut matches: Vec<Range<usize>> = Vec::new();
    for range in
        ranges.iter().map(|range| range.start.max(begin)..range.end.min(end)).filter(|range| range.start < range.end)
    {
        let range = range.start - begin + prefix.len()..range.end - begin + prefix.len();
        match matches.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => matches.push(range),
        }
    }
    Passage { text: passage, matches }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::document::DocumentPart;
    use super::super::query::parse;
    use super::*;

    fn document(parts: &[(&str, &str)]) -> Document {
        let part = |(speaker, text): &(&str, &str)| DocumentPart {
            speaker: Some((*speaker).to_owned()),
            offset: None,
            text: (*text).to_owned(),
        };
        Document { parts: parts.iter().map(part).collect() }
    }

    fn document_match(text: &str, query: &str) -> Option<DocumentMatch> {
        score_document(&document(&[("A", text)]), &parse(query).unwrap())
    }

    fn matched_texts(document_match: &DocumentMatch) -> Vec<&str> {
        document_match.passage.matches.iter().map(|range| &document_match.passage.text[range.clone()]).collect()
    }

    #[test]
    fn all_clauses_must_match() {
        assert!(document_match("The Refund is late", "refund late").is_some());
        assert!(document_match("The Refund is late", "refund soon").is_none());
        assert!(document_match("The Refund is late", "refund -late").is_none());
        assert!(document_match("The Refund is late", "\"late refund\"").is_none());
        assert!(document_match("The Refund is late", "ref* OR soon").is_some());
        let two = document(&[("A", "I want my"), ("B", "money")]);
        assert!(score_document(&two, &parse("\"my money\"").unwrap()).is_none());
        let one = document(&[("A", "I want my"), ("A", "money")]);
        assert!(score_document(&one, &parse("\"my money\"").unwrap()).is_some());
    }

    #[test]
    fn every_occurrence_is_found_in_its_part() {
        let parts = [("A", "A refund, refunds and\nmoney"), ("A", "back"), ("B", "no Réfund")];
        let (document, query) = (document(&parts), parse("refund* OR \"money back\" -no").unwrap());
        let texts: Vec<Vec<&str>> = matches_in_parts(&document, &query)
            .iter()
            .zip(&parts)
            .map(|(ranges, (_, text))| ranges.iter().map(|range| &text[range.clone()]).collect())
            .collect();
        assert_eq!(texts, [vec!["refund", "refunds", "money"], vec!["back"], vec!["Réfund"]]);
    }

    #[test]
    fn korean_words_of_a_phrase_match_with_particles() {
        for text in ["환불을 요청했습니다", "환불 요청", "CS팀에 환불을 요청"] {
            assert!(document_match(text, "\"환불 요청\"").is_some(), "{text}");
            assert!(document_match(text, "환불 -\"환불 요청\"").is_none(), "{text}");
        }
        assert!(document_match("요청한 환불", "\"환불 요청\"").is_none());
        assert!(document_match("환불을 꼭 요청", "\"환불 요청\"").is_none());
        assert_eq!(
            matched_texts(&document_match("네, 환불을 요청했습니다.", "\"환불 요청\"").unwrap()),
            ["환불을 요청했습니다"]
        );
    }

    #[test]
    fn the_passage_is_where_most_clauses_match() {
        let parts = [("A", "a refund, you say"), ("B", "Yes, the réfund is LATE."), ("A", "late")];
        let document_match = score_document(&document(&parts), &parse("late refund").unwrap()).unwrap();
        assert_eq!(document_match.speaker.as_deref(), Some("B"));
        assert_eq!(document_match.passage.text, "Yes, the réfund is LATE.");
        assert_eq!(matched_texts(&document_match), ["réfund", "LATE"]);
    }

    #[test]
    fn proximity_and_frequency_raise_the_score() {
        let score = |text: &str| document_match(text, "refund late").unwrap().score;
        let far = format!("refund {} late", "x ".repeat(60));
        assert!(score("the refund is late") > score(&far));
        assert!(score("the refund is late, late, late") > score("the refund is late"));
        assert!(score("the refund is late") > score(&format!("the refund is late {}", "x ".repeat(900))));
    }

    #[test]
    fn every_clause_of_a_large_query_counts_for_proximity() {
        let words = |letter: char, number: u32| (0..number).map(|n| format!("{letter}{n} ")).collect::<String>();
        // 56 clauses with two alternatives each, and 16 with one.
        let query = format!("(({}) OR ({})) {}", words('a', 7), words('b', 8), words('c', 16));
        let required = parse(&query).unwrap().required.len();
        assert_eq!(required, 72);
        let score = |text: &str| document_match(text, &query).unwrap().score;
        let filler = "x ".repeat(60);
        let together = format!("{}{}{filler}", words('a', 7), words('c', 16));
        let apart = format!("{}{}{filler}c15", words('a', 7), words('c', 15));
        assert!(score(&together) > score(&apart));
    }

    #[test]
    fn a_passage_of_a_long_text_has_whole_words_around_the_match() {
        let text = format!("{}needle {}", "before ".repeat(100), "after ".repeat(100));
        let document_match = document_match(&text, "needle").unwrap();
        assert!(
            document_match.passage.text.starts_with("…before ") && document_match.passage.text.ends_with(" after…")
        );
        assert_eq!(matched_texts(&document_match), ["needle"]);
        assert!(document_match.passage.text.chars().count() <= PASSAGE_CHARS + 2);
    }

    proptest! {
        #[test]
        fn every_passage_contains_its_matches(text in "([a-cäß李.] ?){1,600}", query in "[a-cäß李]( [a-c]{1,3}\\*?)?") {
            let (document, query) = (document(&[("A", &text)]), parse(&query));
            if let Ok(query) = query && let Some(document_match) = score_document(&document, &query) {
                prop_assert!(!document_match.passage.matches.is_empty());
                let mut last = 0;
                for range in &document_match.passage.matches {
                    prop_assert!(range.start >= last && range.start < range.end);
                    prop_assert!(document_match.passage.text.get(range.clone()).is_some());
                    last = range.end;
                }
            }
        }
    }
}
