//! Whether a document meets a query, how well, and which passage of it to show.
//!
//! Pure, and the last word: whatever a database's index proposes is judged here by the text itself, so that both give the
//! same answer in the same order.

use std::ops::Range;

use super::document::Document;
use super::query::{Query, may_go_on};
use super::words;
use crate::db::Needle;

/// How soon more of the same word stops counting.
const SATURATION: f64 = 1.2;
/// How much a document's length counts against it.
const LENGTH: f64 = 0.5;
/// Words of a document that is neither long nor short.
const USUAL: f64 = 200.0;
/// Words within which matches count as near one another.
const WINDOW: usize = 24;
/// Characters of a passage.
const PASSAGE: usize = 200;
/// Characters of a passage in front of the first match.
const LEAD: usize = 60;

/// A document that meets the query.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The more the better.
    pub score: f64,
    /// Who said the passage.
    pub speaker: Option<String>,
    /// How far into the conversation.
    pub offset: Option<String>,
    /// The passage that shows best what was looked for.
    pub passage: Passage,
}

/// A piece of text with what matches in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The text; an ellipsis stands where it was cut.
    pub text: String,
    /// The matches, as byte ranges of the text, in order.
    pub matches: Vec<Range<usize>>,
}

/// A word and where it stands.
struct Word {
    /// Its bytes in the joined words.
    word: Range<usize>,
    /// Which part of the document; `None` for a break between speakers.
    part: Option<usize>,
    /// Its bytes in the part's text.
    text: Range<usize>,
}

struct Words {
    joined: String,
    list: Vec<Word>,
}

impl Words {
    fn of(document: &Document) -> Words {
        let mut words = Words { joined: String::new(), list: Vec::new() };
        let mut before: Option<&Option<String>> = None;
        for (index, part) in document.parts.iter().enumerate() {
            if before.is_some_and(|before| *before != part.speaker) {
                let end = words.joined.len();
                words.list.push(Word { word: end..end, part: None, text: 0..0 });
            }
            words::each(&part.text, |word, text| {
                let start = words.joined.len();
                words.joined.push_str(word);
                words.list.push(Word { word: start..words.joined.len(), part: Some(index), text });
            });
            before = Some(&part.speaker);
        }
        words
    }

    fn at(&self, index: usize) -> &str {
        self.list.get(index).and_then(|word| self.joined.get(word.word.clone())).unwrap_or_default()
    }

    fn matches_at(&self, needle: &Needle, index: usize) -> bool {
        let last = needle.words.len().saturating_sub(1);
        index + needle.words.len() <= self.list.len()
            && needle.words.iter().enumerate().all(|(nth, wanted)| {
                let word = self.at(index + nth);
                let goes_on = if nth == last { needle.prefix } else { may_go_on(wanted) };
                if goes_on { word.starts_with(wanted.as_str()) } else { word == wanted }
            })
    }

    fn places<'a>(&'a self, needle: &'a Needle) -> impl Iterator<Item = usize> + 'a {
        (0..self.list.len()).filter(|index| self.matches_at(needle, *index))
    }
}

/// Something found: where, how many words, and for which condition of the query.
#[derive(Clone, Copy)]
struct Spot {
    at: usize,
    words: usize,
    clause: usize,
}

/// Judges a document; `None` where it does not meet the query.
pub fn judge(document: &Document, query: &Query) -> Option<Judged> {
    let words = Words::of(document);
    if query.none.iter().any(|needle| words.places(needle).next().is_some()) {
        return None;
    }
    let mut spots: Vec<Spot> = Vec::new();
    let length = words.list.len() as f64 / USUAL;
    let mut score = 0.0;
    for (clause, choice) in query.all.iter().enumerate() {
        let before = spots.len();
        for needle in choice {
            spots.extend(words.places(needle).map(|at| Spot { at, words: needle.words.len(), clause }));
        }
        let times = (spots.len() - before) as f64;
        if times == 0.0 {
            return None;
        }
        score += times * (SATURATION + 1.0) / (times + SATURATION * (1.0 - LENGTH + LENGTH * length));
    }
    spots.sort_by_key(|spot| (spot.at, spot.clause));
    let best = best_window(&words, &spots)?;
    let clauses = query.all.len();
    if clauses > 1 {
        let near = (best.clauses - 1) as f64 / (clauses - 1) as f64;
        score += near + near / (1.0 + best.slack as f64 / 4.0);
    }
    let part = document.parts.get(best.part)?;
    let marks = spots.iter().filter(|spot| words.list.get(spot.at).and_then(|word| word.part) == Some(best.part));
    let marks: Vec<Range<usize>> = marks.map(|spot| words.stretch(*spot, best.part)).collect();
    let focus = words.stretch(best.first, best.part).start;
    Some(Judged {
        score,
        speaker: part.speaker.clone(),
        offset: part.offset.clone(),
        passage: cut(&part.text, &marks, focus),
    })
}

impl Words {
    /// The bytes of a part's text that a match covers there.
    fn stretch(&self, spot: Spot, part: usize) -> Range<usize> {
        let inside = self.list.iter().skip(spot.at).take(spot.words).take_while(|word| word.part == Some(part));
        let (mut start, mut end) = (usize::MAX, 0);
        for word in inside {
            (start, end) = (start.min(word.text.start), end.max(word.text.end));
        }
        start.min(end)..end
    }
}

struct Window {
    /// How many different conditions are met in it.
    clauses: usize,
    /// Words in it that match nothing.
    slack: usize,
    part: usize,
    first: Spot,
}

/// The few words of one part in which most of the query is met.
fn best_window(words: &Words, spots: &[Spot]) -> Option<Window> {
    let mut best: Option<Window> = None;
    for (start, first) in spots.iter().enumerate() {
        let Some(part) = words.list.get(first.at).and_then(|word| word.part) else { continue };
        let mut met = [false; 64];
        let (mut clauses, mut covered, mut end) = (0, 0, first.at);
        for spot in spots.iter().skip(start) {
            let here = words.list.get(spot.at).and_then(|word| word.part);
            if spot.at >= first.at + WINDOW || here != Some(part) {
                break;
            }
            let Some(met) = met.get_mut(spot.clause) else { continue };
            if !std::mem::replace(met, true) {
                clauses += 1;
                covered += spot.words;
                end = end.max(spot.at + spot.words);
            }
        }
        let slack = (end - first.at).saturating_sub(covered);
        if best.as_ref().is_none_or(|best| (clauses, best.slack) > (best.clauses, slack)) {
            best = Some(Window { clauses, slack, part, first: *first });
        }
    }
    best
}

/// Cuts a passage out of a text, with the byte `focus` near its beginning.
fn cut(text: &str, marks: &[Range<usize>], focus: usize) -> Passage {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let nth = starts.partition_point(|at| *at < focus);
    let from = if starts.len() <= PASSAGE { 0 } else { nth.saturating_sub(LEAD).min(starts.len() - PASSAGE) };
    let byte = |nth: usize| starts.get(nth).copied().unwrap_or(text.len());
    let (mut begin, mut end) = (byte(from), byte(from + PASSAGE));
    // Whole words, where there are spaces to cut at.
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
    let ahead = if begin > 0 { "…" } else { "" };
    let behind = if end < text.len() { "…" } else { "" };
    let passage = format!("{ahead}{}{behind}", text.get(begin..end).unwrap_or_default());
    let mut matches: Vec<Range<usize>> = Vec::new();
    for mark in marks.iter().map(|mark| mark.start.max(begin)..mark.end.min(end)).filter(|mark| mark.start < mark.end) {
        let mark = mark.start - begin + ahead.len()..mark.end - begin + ahead.len();
        match matches.last_mut() {
            Some(last) if mark.start < last.end => last.end = last.end.max(mark.end),
            _ => matches.push(mark),
        }
    }
    Passage { text: passage, matches }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::document::Part;
    use super::super::query::parse;
    use super::*;

    fn document(parts: &[(&str, &str)]) -> Document {
        let part = |(speaker, text): &(&str, &str)| Part {
            speaker: Some((*speaker).to_owned()),
            offset: None,
            text: (*text).to_owned(),
        };
        Document { parts: parts.iter().map(part).collect() }
    }

    fn judged(text: &str, query: &str) -> Option<Judged> {
        judge(&document(&[("A", text)]), &parse(query).unwrap())
    }

    fn marked(judged: &Judged) -> Vec<&str> {
        judged.passage.matches.iter().map(|range| &judged.passage.text[range.clone()]).collect()
    }

    #[test]
    fn every_condition_counts() {
        assert!(judged("The Refund is late", "refund late").is_some());
        assert!(judged("The Refund is late", "refund soon").is_none());
        assert!(judged("The Refund is late", "refund -late").is_none());
        assert!(judged("The Refund is late", "\"late refund\"").is_none());
        assert!(judged("The Refund is late", "ref* OR soon").is_some());
        let two = document(&[("A", "I want my"), ("B", "money")]);
        assert!(judge(&two, &parse("\"my money\"").unwrap()).is_none());
        let one = document(&[("A", "I want my"), ("A", "money")]);
        assert!(judge(&one, &parse("\"my money\"").unwrap()).is_some());
    }

    #[test]
    fn korean_words_of_a_phrase_match_with_their_particles() {
        for text in ["환불을 요청했습니다", "환불 요청", "CS팀에 환불을 요청"] {
            assert!(judged(text, "\"환불 요청\"").is_some(), "{text}");
            assert!(judged(text, "환불 -\"환불 요청\"").is_none(), "{text}");
        }
        assert!(judged("요청한 환불", "\"환불 요청\"").is_none());
        assert!(judged("환불을 꼭 요청", "\"환불 요청\"").is_none());
        assert_eq!(marked(&judged("네, 환불을 요청했습니다.", "\"환불 요청\"").unwrap()), ["환불을 요청했습니다"]);
    }

    #[test]
    fn the_passage_is_where_most_of_the_query_is_met() {
        let parts = [("A", "a refund, you say"), ("B", "Yes, the réfund is LATE."), ("A", "late")];
        let judged = judge(&document(&parts), &parse("late refund").unwrap()).unwrap();
        assert_eq!(judged.speaker.as_deref(), Some("B"));
        assert_eq!(judged.passage.text, "Yes, the réfund is LATE.");
        assert_eq!(marked(&judged), ["réfund", "LATE"]);
    }

    #[test]
    fn nearness_and_number_make_the_score() {
        let score = |text: &str| judged(text, "refund late").unwrap().score;
        let far = format!("refund {} late", "x ".repeat(60));
        assert!(score("the refund is late") > score(&far));
        assert!(score("the refund is late, late, late") > score("the refund is late"));
        assert!(score("the refund is late") > score(&format!("the refund is late {}", "x ".repeat(900))));
    }

    #[test]
    fn a_long_text_is_cut_between_words_around_the_match() {
        let text = format!("{}needle {}", "before ".repeat(100), "after ".repeat(100));
        let judged = judged(&text, "needle").unwrap();
        assert!(judged.passage.text.starts_with("…before ") && judged.passage.text.ends_with(" after…"));
        assert_eq!(marked(&judged), ["needle"]);
        assert!(judged.passage.text.chars().count() <= PASSAGE + 2);
    }

    proptest! {
        #[test]
        fn every_passage_holds_its_matches(text in "([a-cäß李.] ?){1,600}", query in "[a-cäß李]( [a-c]{1,3}\\*?)?") {
            let (document, query) = (document(&[("A", &text)]), parse(&query));
            if let Ok(query) = query && let Some(judged) = judge(&document, &query) {
                prop_assert!(!judged.passage.matches.is_empty());
                let mut last = 0;
                for range in &judged.passage.matches {
                    prop_assert!(range.start >= last && range.start < range.end);
                    prop_assert!(judged.passage.text.get(range.clone()).is_some());
                    last = range.end;
                }
            }
        }
    }
}
