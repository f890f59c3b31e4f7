//! Shows search hits as a table or as JSON.

use serde::Serialize;

use super::ConversationHit;
use crate::archive_reader::SearchHitView;
use crate::cli::terminal;
use crate::clock::Time;
use crate::render::clean_line;
use crate::search::SearchHit;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Invisible characters that mark the start and the end of a style in a table, with the escape
/// sequence of each.
const STYLE_MARKS: [(char, &str); 2] = [('\u{2061}', BOLD), ('\u{2062}', RESET)];

/// A match as JSON. The matches of a conversation follow one another, the best one first.
#[derive(Serialize)]
pub(super) struct MatchJson {
    #[serde(flatten)]
    hit: SearchHitView,
    /// The number of its conversation, from 1.
    conversation: usize,
}

/// The JSON of the matches of a conversation.
pub(super) fn to_json(conversation: &ConversationHit, number: usize) -> impl Iterator<Item = MatchJson> {
    let matches = std::iter::once(&conversation.best).chain(&conversation.others);
    matches.map(move |hit| MatchJson { hit: SearchHitView::of(hit), conversation: number })
}

/// An invisible character that marks the first line of each hit in the table.
const HIT_START: char = '\u{2064}';

/// Formats conversations as a table, each with its best match. Below each passage the segment id
/// stands on its own line, so that it can be copied.
pub(super) fn format_table(conversations: &[ConversationHit], width: usize) -> String {
    let header = ["ended", "account", "found in", "passage"];
    let row = |hit: &SearchHit| {
        let segment = &hit.segment;
        [
            format!("{HIT_START}{}", segment.ended.map_or_else(|| "unknown".to_owned(), Time::rfc3339_secs)),
            clean_line(&segment.account.sub),
            format_source(hit),
            mark_matches(hit),
        ]
    };
    let rows = conversations.iter().map(|conversation| row(&conversation.best));
    let text = terminal::format_table(header, header.len() - 1, 0..0, width, rows);
    let mut styled = String::with_capacity(text.len() + conversations.len() * 80);
    let mut ids = conversations.iter().map(|conversation| {
        let others = match conversation.others.len() {
            0 => String::new(),
            1 => " and 1 more match in this conversation".to_owned(),
            more => format!(" and {more} more matches in this conversation"),
        };
        format!("  {DIM}{}{RESET}{others}\n", clean_line(&conversation.best.segment.segment_id))
    });
    let mut id: Option<String> = None;
    for line in text.split_inclusive('\n') {
        if line.starts_with(HIT_START) {
            styled.extend(std::mem::replace(&mut id, ids.next()));
        }
        let mut line = line.trim_start_matches(HIT_START).to_owned();
        let open = line.chars().rev().find(|letter| STYLE_MARKS.iter().any(|(mark, _)| mark == letter));
        if open.is_some_and(|mark| mark != STYLE_MARKS[1].0) {
            // A long word continues on the next line.
            line.insert(line.trim_end().len(), STYLE_MARKS[1].0);
        }
        for (mark, style) in STYLE_MARKS {
            line = line.replace(mark, style);
        }
        styled.push_str(&line);
    }
    styled.extend(id);
    styled
}

fn format_source(hit: &SearchHit) -> String {
    let mut text = hit.source.name().replace('_', " ");
    if let Some(speaker) = &hit.best_match.speaker {
        text.push_str(&format!("\n{}", remove_marks(speaker)));
    }
    if let Some(offset) = &hit.best_match.offset {
        text.push_str(&format!("\nat {offset}"));
    }
    text
}

fn remove_marks(text: &str) -> String {
    text.chars().filter(|letter| *letter != HIT_START && !STYLE_MARKS.iter().any(|(mark, _)| mark == letter)).collect()
}

/// Marks each matching word of the passage separately, so that lines can break between words.
fn mark_matches(hit: &SearchHit) -> String {
    let passage = &hit.best_match.passage;
    let mut text = String::with_capacity(passage.text.len() + passage.matches.len() * 8);
    let mut at = 0;
    for range in &passage.matches {
        text.push_str(&remove_marks(passage.text.get(at..range.start).unwrap_or_default()));
        for (nth, word) in passage.text.get(range.clone()).unwrap_or_default().split(' ').enumerate() {
            let space = if nth > 0 { " " } else { "" };
            text.push_str(&format!("{space}{}{}{}", STYLE_MARKS[0].0, remove_marks(word), STYLE_MARKS[1].0));
        }
        at = range.end;
    }
    text.push_str(&remove_marks(passage.text.get(at..).unwrap_or_default()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::SegmentRow;
    use crate::model::AccountId;
    use crate::search::DocumentSource;
    use crate::search::score::{DocumentMatch, Passage};

    fn hit() -> SearchHit {
        let text = "…yes, the réfund is very late";
        let find = |word: &str| text.find(word).map(|at| at..at + word.len()).unwrap();
        SearchHit {
            segment: SegmentRow {
                key: 1,
                account: AccountId::new("980634004", "99999999"),
                account_key: crate::db::AccountKey(1),
                segment_id: "p-v-93bd0e6f0f0a479ea8025fe8f8ec3e1d-1721690897808-190dcc63d90ab".to_owned(),
                dialog_id: None,
                ended: Time::parse("2026-11-20T09:00:00Z"),
                has_transcript: true,
                first_seen: Time(0),
                metadata: "{}".to_owned(),
            },
            source: DocumentSource::ALL[0],
            version: 1,
            best_match: DocumentMatch {
                score: 1.23456,
                speaker: Some("Jane (agent)".to_owned()),
                offset: Some("00:07".to_owned()),
                passage: Passage { text: text.to_owned(), matches: vec![find("réfund is"), find("late")] },
            },
        }
    }

    #[test]
    fn a_hit_is_laid_out_with_its_matches_marked() {
        let text = format_table(&[ConversationHit { best: hit(), others: Vec::new() }], 80)
            .replace(BOLD, "<")
            .replace(DIM, "{")
            .replace(RESET, ">");
        insta::assert_snapshot!(text, @r"
        ended                account  found in     passage
        2026-11-20T09:00:00Z 99999999 transcript   …yes, the <réfund> <is> very <late>
                                      Jane (agent)
                                      at 00:07
          {p-v-93bd0e6f0f0a479ea8025fe8f8ec3e1d-1721690897808-190dcc63d90ab>
        ");
    }

    #[test]
    fn in_json_matches_are_counted_in_characters() {
        let conversation = ConversationHit { best: hit(), others: vec![hit()] };
        let lines: Vec<serde_json::Value> =
            to_json(&conversation, 7).map(|one| serde_json::to_value(one).unwrap()).collect();
        let line = &lines[0];
        assert_eq!(line["matches"], serde_json::json!([[10, 19], [25, 29]]));
        assert_eq!((line["score"].as_f64(), line["artifact"].as_str()), (Some(1.235), Some("transcript")));
        assert_eq!(line["dialog_id"], serde_json::Value::Null);
        assert_eq!((lines.len(), &lines[1]["conversation"]), (2, &7.into()));
    }
}
