//! Hits as people and programs see them.

use serde::Serialize;

use crate::cli::terminal;
use crate::clock::Time;
use crate::reading::one_line;
use crate::search::Hit;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Stand in a table where a style begins and ends: they take no room, and nobody says them.
const MARKS: [(char, &str); 2] = [('\u{2061}', BOLD), ('\u{2062}', PLAIN)];

/// A hit as JSON.
#[derive(Serialize)]
struct Line<'a> {
    rc_account_id: &'a str,
    sub_account_id: &'a str,
    dialog_id: Option<&'a str>,
    segment_id: &'a str,
    segment_end: Option<String>,
    artifact: &'static str,
    version: Option<i64>,
    speaker: Option<&'a str>,
    offset: Option<&'a str>,
    passage: &'a str,
    /// Where the matches are in the passage, in characters: from, to.
    matches: Vec<(usize, usize)>,
    score: f64,
}

/// A hit on a line of its own.
pub(super) fn json(hit: &Hit) -> serde_json::Result<String> {
    let (segment, judged) = (&hit.segment, &hit.judged);
    let text = judged.passage.text.as_str();
    let letters = |bytes: usize| text.get(..bytes).map_or(0, |before| before.chars().count());
    let line = Line {
        rc_account_id: &segment.account.rc,
        sub_account_id: &segment.account.sub,
        dialog_id: segment.dialog_id.as_deref(),
        segment_id: &segment.segment_id,
        segment_end: segment.ended.map(Time::rfc3339),
        artifact: hit.source.name(),
        version: Some(hit.version).filter(|version| *version > 0),
        speaker: judged.speaker.as_deref(),
        offset: judged.offset.as_deref(),
        passage: text,
        matches: judged.passage.matches.iter().map(|range| (letters(range.start), letters(range.end))).collect(),
        score: (judged.score * 1000.0).round() / 1000.0,
    };
    Ok(format!("{}\n", serde_json::to_string(&line)?))
}

/// Begins the first line of each hit in the table; takes no room.
const FIRST: char = '\u{2064}';

/// All hits, each with its passage and below it the id by which `show` shows the whole, on a line of its own so that it
/// can be copied.
pub(super) fn table(hits: &[Hit], width: usize) -> String {
    let header = ["ended", "account", "found in", "passage"];
    let mut table = terminal::table(header, header.len() - 1, width);
    for hit in hits {
        let segment = &hit.segment;
        table.add_row([
            format!("{FIRST}{}", segment.ended.map_or_else(|| "unknown".to_owned(), Time::rfc3339_secs)),
            one_line(&segment.account.sub),
            source(hit),
            marked(hit),
        ]);
    }
    let text = format!("{}\n", table.trim_fmt());
    let mut styled = String::with_capacity(text.len() + hits.len() * 80);
    let mut ids = hits.iter().map(|hit| format!("  {DIM}{}{PLAIN}\n", one_line(&hit.segment.segment_id)));
    let mut id: Option<String> = None;
    for line in text.split_inclusive('\n') {
        if line.starts_with(FIRST) {
            styled.extend(std::mem::replace(&mut id, ids.next()));
        }
        let mut line = line.trim_start_matches(FIRST).to_owned();
        let open = line.chars().rev().find(|letter| MARKS.iter().any(|(mark, _)| mark == letter));
        if open.is_some_and(|mark| mark != MARKS[1].0) {
            // A word so long that it goes on in the next line.
            line.insert(line.trim_end().len(), MARKS[1].0);
        }
        for (mark, style) in MARKS {
            line = line.replace(mark, style);
        }
        styled.push_str(&line);
    }
    styled.extend(id);
    styled
}

fn source(hit: &Hit) -> String {
    let mut text = hit.source.name().replace('_', " ");
    if let Some(speaker) = &hit.judged.speaker {
        text.push_str(&format!("\n{}", unmarked(speaker)));
    }
    if let Some(offset) = &hit.judged.offset {
        text.push_str(&format!("\nat {offset}"));
    }
    text
}

fn unmarked(text: &str) -> String {
    text.chars().filter(|letter| *letter != FIRST && !MARKS.iter().any(|(mark, _)| mark == letter)).collect()
}

/// The passage with a mark around each word that matches, so that a line may break between them.
fn marked(hit: &Hit) -> String {
    let passage = &hit.judged.passage;
    let mut text = String::with_capacity(passage.text.len() + passage.matches.len() * 8);
    let mut at = 0;
    for range in &passage.matches {
        text.push_str(&unmarked(passage.text.get(at..range.start).unwrap_or_default()));
        for (nth, word) in passage.text.get(range.clone()).unwrap_or_default().split(' ').enumerate() {
            let space = if nth > 0 { " " } else { "" };
            text.push_str(&format!("{space}{}{}{}", MARKS[0].0, unmarked(word), MARKS[1].0));
        }
        at = range.end;
    }
    text.push_str(&unmarked(passage.text.get(at..).unwrap_or_default()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::SegmentRow;
    use crate::model::AccountId;
    use crate::search::Source;
    use crate::search::score::{Judged, Passage};

    fn hit() -> Hit {
        let text = "…yes, the réfund is very late";
        let find = |word: &str| text.find(word).map(|at| at..at + word.len()).unwrap();
        Hit {
            segment: SegmentRow {
                key: 1,
                account: AccountId::new("980634004", "99999999"),
                account_key: 1,
                segment_id: "p-v-93bd0e6f0f0a479ea8025fe8f8ec3e1d-1721690897808-190dcc63d90ab".to_owned(),
                dialog_id: None,
                ended: Time::parse("2026-11-20T09:00:00Z"),
                has_transcript: true,
                first_seen: Time(0),
                metadata: "{}".to_owned(),
            },
            source: Source::ALL[0],
            version: 1,
            judged: Judged {
                score: 1.23456,
                speaker: Some("Jane (agent)".to_owned()),
                offset: Some("00:07".to_owned()),
                passage: Passage { text: text.to_owned(), matches: vec![find("réfund is"), find("late")] },
            },
        }
    }

    #[test]
    fn a_hit_is_laid_out_with_its_matches_marked() {
        let text = table(&[hit()], 80).replace(BOLD, "<").replace(DIM, "{").replace(PLAIN, ">");
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
        let line: serde_json::Value = serde_json::from_str(&json(&hit()).unwrap()).unwrap();
        assert_eq!(line["matches"], serde_json::json!([[10, 19], [25, 29]]));
        assert_eq!((line["score"].as_f64(), line["artifact"].as_str()), (Some(1.235), Some("transcript")));
        assert_eq!(line["dialog_id"], serde_json::Value::Null);
    }
}
