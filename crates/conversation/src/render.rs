//! Renders transcripts and metadata as text for a page or a terminal.
//!
//! Pure. Parsing is lenient: a value that is null, missing or of an undocumented type is left out
//! and never an error. Text for a terminal passes through [`clean_text`], so that no message can
//! move the cursor or hide another.

pub mod caption;
mod html;
mod segment_metadata;
mod transcript_parser;

use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::lenient_json;

pub use segment_metadata::{CHANNEL_FIELDS, Metadata};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Phrase {
    /// When it was said, in milliseconds since 1970.
    pub at: Option<i64>,
    /// The speaker's name.
    pub name: Option<String>,
    /// The speaker's type: `agent`, `contact` or another word of the API.
    pub kind: Option<String>,
    /// The speaker's id within the conversation.
    pub participant: Option<String>,
    /// The speaker's RingCentral user id.
    pub rc_user: Option<String>,
    /// The text; an HTML e-mail is converted to text.
    pub text: String,
}

/// A transcript.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    /// The channel class, such as `VOICE` or `DIGITAL`.
    pub(crate) channel: Option<String>,
    /// The phrases in order of time if each has one, else in the order received.
    pub phrases: Vec<Phrase>,
}

impl Conversation {
    /// Parses the body of a transcript; returns `None` if it is not a JSON object.
    pub fn parse(body: &[u8]) -> Option<Conversation> {
        Conversation::parse_messages(body, false)
    }

    /// Parses a transcript. With `is_email`, every tag and entity that HTML knows counts as HTML.
    pub fn parse_messages(body: &[u8], is_email: bool) -> Option<Conversation> {
        let mut conversation = transcript_parser::parse_transcript(&decode_utf8(body))?;
        conversation.sort_by_time();
        if !conversation.channel.as_deref().is_some_and(|channel| channel.eq_ignore_ascii_case("VOICE")) {
            for phrase in &mut conversation.phrases {
                if let Some(text) = html::html_to_text(&phrase.text, is_email) {
                    phrase.text = text;
                }
            }
        }
        Some(conversation)
    }

    /// Whether the text of a body may depend on whether its segment is an e-mail conversation.
    pub fn may_hold_markup(body: &[u8]) -> bool {
        // JSON may contain these characters as escapes.
        body.iter().any(|byte| matches!(byte, b'<' | b'&')) || body.windows(4).any(|part| part == b"\\u00")
    }

    /// Parses a transcript, and uses the segment's metadata to tell the agent from contacts where
    /// the transcript gives only an id.
    pub fn read(body: &[u8], metadata: &Metadata) -> Option<Conversation> {
        let mut conversation = Conversation::parse_messages(body, metadata.is_email())?;
        let is_agent = |phrase: &Phrase| metadata.is_agent(phrase.participant.as_deref(), phrase.rc_user.as_deref());
        let is_nameless = |phrase: &Phrase| phrase.name.is_none() && phrase.kind.is_none();
        // Without a known agent, an id is more useful than a guess.
        if conversation.phrases.iter().any(is_nameless) && conversation.phrases.iter().any(is_agent) {
            for phrase in conversation.phrases.iter_mut().filter(|phrase| is_nameless(phrase)) {
                let kind = if is_agent(phrase) { "agent" } else { "contact" };
                phrase.kind = (phrase.participant.is_some() || kind == "agent").then(|| kind.to_owned());
            }
        }
        Some(conversation)
    }

    /// Merges the conversations of a dialog's segments, given in their order. Returns `None` without
    /// any.
    pub fn merge<'a>(conversations: impl IntoIterator<Item = &'a Conversation>) -> Option<Conversation> {
        let mut conversations = conversations.into_iter();
        let mut merged = conversations.next()?.clone();
        for conversation in conversations {
            merged.phrases.extend_from_slice(&conversation.phrases);
        }
        merged.sort_by_time();
        Some(merged)
    }

    fn sort_by_time(&mut self) {
        if self.phrases.iter().all(|phrase| phrase.at.is_some()) && !self.phrases.is_sorted_by_key(|phrase| phrase.at) {
            self.phrases.sort_by_key(|phrase| phrase.at);
        }
    }

    /// When the first phrase was said, in milliseconds since 1970.
    pub fn start(&self) -> Option<i64> {
        self.phrases.iter().filter_map(|phrase| phrase.at).min()
    }

    /// Renders one line per phrase: `00:07 Jane Doe (agent): Hello.` Control characters are
    /// removed, and line breaks within a phrase become spaces.
    pub fn to_plain_text(&self) -> String {
        let start = self.start();
        let mut lines = String::new();
        for phrase in &self.phrases {
            let text = clean_text(&phrase.text).split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(offset) = phrase.offset(start) {
                lines.push_str(&offset);
                lines.push(' ');
            }
            lines.push_str(&phrase.speaker());
            lines.push_str(": ");
            lines.push_str(&text);
            lines.push('\n');
        }
        lines
    }
}

impl Phrase {
    /// The speaker on one line without control characters: `Jane Doe (agent)`.
    pub fn speaker(&self) -> String {
        format_speaker(self.name.as_deref(), self.kind.as_deref(), self.participant.as_deref())
    }

    /// Whether a [`Phrase::speaker`] consists of an id only.
    pub fn is_by_id(speaker: &str) -> bool {
        speaker.starts_with("participant ")
    }

    /// The time since `start` as `mm:ss`, from one hour on as `h:mm:ss`.
    pub fn offset(&self, start: Option<i64>) -> Option<String> {
        let secs = self.at?.saturating_sub(start?).max(0) / 1000;
        let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
        Some(if hours > 0 { format!("{hours}:{minutes:02}:{secs:02}") } else { format!("{minutes:02}:{secs:02}") })
    }
}

fn format_speaker(name: Option<&str>, kind: Option<&str>, participant: Option<&str>) -> String {
    let text = match (name, kind) {
        (Some(name), Some(kind)) => format!("{name} ({kind})"),
        (Some(name), None) => name.to_owned(),
        (None, Some(kind)) => kind.to_owned(),
        (None, None) => match participant {
            Some(id) => format!("participant {id}"),
            None => "unknown speaker".to_owned(),
        },
    };
    clean_line(&text)
}

/// Returns a string or a number as text; returns `None` for other values and for blank strings.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Puts received JSON on one line: line breaks between its tokens become spaces. Invalid JSON, such
/// as a raw control character, is repaired; what is still not JSON becomes a JSON string.
pub fn to_json_line(bytes: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(bytes);
    let bare = text.trim_start_matches('\u{feff}').trim();
    // A line break within a string makes the JSON invalid, so it must be repaired.
    let is_broken = bare.contains(['\n', '\r']) && serde_json::from_str::<IgnoredAny>(bare).is_err();
    let line = |json: &str| RawValue::from_string(json.replace(['\n', '\r'], " ")).ok();
    let sent = if is_broken { None } else { line(bare) };
    let repaired = || line(&lenient_json::to_strict(bare)?);
    sent.or_else(repaired).or_else(|| to_raw_value(&*text).ok()).unwrap_or_else(|| RawValue::NULL.to_owned())
}

/// Escapes the Unicode line separators that JSON allows within strings, from `start` on. Readers
/// such as Python's `splitlines` would otherwise split a line of JSON there.
pub fn escape_line_separators(line: &mut Vec<u8>, start: usize) {
    const ENDS: [(&[u8], &[u8]); 3] =
        [(b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085")];
    let ends = |at: &[u8]| ENDS.iter().find(|(end, _)| at.starts_with(end));
    if !(start..line.len()).any(|at| ends(&line[at..]).is_some()) {
        return;
    }
    let rest = line.split_off(start);
    let mut at = 0;
    while at < rest.len() {
        match ends(&rest[at..]) {
            Some((end, escaped)) => {
                line.extend_from_slice(escaped);
                at += end.len();
            }
            None => {
                line.push(rest[at]);
                at += 1;
            }
        }
    }
}

/// Decodes UTF-8 and replaces invalid bytes; borrows the text if it is valid.
pub fn decode_utf8(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Into::into)
}

/// Cleans a text like [`clean_text`], but keeps tabs and borrows the text if there is nothing to
/// remove.
pub fn clean_text_cow(text: &str) -> std::borrow::Cow<'_, str> {
    let plain = |letter: char| match letter {
        '\n' | '\t' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        _ => !letter.is_control(),
    };
    let ascii = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if text.as_bytes().iter().all(ascii) || text.chars().all(plain) { text.into() } else { clean_text(text).into() }
}

/// Cleans a text for a table cell: removes control characters, which databases reject, and keeps
/// line breaks as received.
pub fn clean_cell(text: &str) -> String {
    text.split("\r\n").map(clean_text_cow).collect::<Vec<_>>().join("\r\n")
}

/// Removes control characters, terminal escape sequences and direction marks. Line breaks stay, and
/// tabs become spaces.
pub fn clean_text(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\n' | '\u{2028}' | '\u{2029}' => kept.push('\n'),
            '\t' => kept.push(' '),
            '\u{1b}' => rest = skip_escape(rest),
            '\u{9b}' => rest = skip_parameters(rest.clone()).unwrap_or(rest),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            _ if character.is_control() => {}
            _ => kept.push(character),
        }
    }
    kept
}

/// Cleans a text like [`clean_text`] and puts it on one line with single spaces.
pub fn clean_line(text: &str) -> String {
    // Most texts need no change.
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && text.trim() == text && !text.contains("  ") {
        return text.to_owned();
    }
    clean_text(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Skips an escape sequence. An incomplete one loses only its first character, so that the rest of
/// the text stays readable.
fn skip_escape(rest: std::str::Chars<'_>) -> std::str::Chars<'_> {
    let mut next = rest.clone();
    match next.next() {
        Some('[') => skip_parameters(next).unwrap_or(rest),
        // A command to the terminal, such as its title, up to its terminator.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let mut end = next.clone();
            loop {
                match end.next() {
                    Some('\u{7}' | '\u{9c}') => return end,
                    Some('\u{1b}') if end.as_str().starts_with('\\') => {
                        end.next();
                        return end;
                    }
                    Some('\n') | None => return rest,
                    Some(_) => {}
                }
            }
        }
        Some('@'..='~') => next,
        _ => rest,
    }
}

/// Skips the parameters and the final character of a control sequence; returns `None` if it is not
/// one.
fn skip_parameters(mut rest: std::str::Chars<'_>) -> Option<std::str::Chars<'_>> {
    loop {
        match rest.next()? {
            '\u{20}'..='\u{3f}' => {}
            '\u{40}'..='\u{7e}' => return Some(rest),
            _ => return None,
        }
    }
}

/// Wraps clean text into lines of at most `width` columns, between words where possible. Line
/// breaks stay. Returns at least one line, which may be empty.
pub fn wrap_text(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2);
    let mut lines = Vec::new();
    for paragraph in text.trim_end().split('\n') {
        let mut line = String::new();
        let mut used = 0;
        for word in paragraph.split_whitespace() {
            for piece in split_word(word, width) {
                let wide = piece.width();
                if used > 0 && used + 1 + wide > width {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                if used > 0 {
                    line.push(' ');
                    used += 1;
                }
                line.push_str(&piece);
                used += wide;
            }
        }
        lines.push(line);
    }
    lines
}

/// Splits a word into pieces of at most `width` columns.
fn split_word(word: &str, width: usize) -> Vec<String> {
    if word.width() <= width {
        return vec![word.to_owned()];
    }
    let mut pieces = vec![String::new()];
    let mut used = 0;
    for character in word.chars() {
        let wide = character.width().unwrap_or(0);
        if used + wide > width {
            pieces.push(String::new());
            used = 0;
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
        used += wide;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_of_json_is_one_line_to_everyone() {
        let json = "[\"a\u{2028}b\u{2029}c\u{85}d€\"]";
        let mut line = b"before\xe2\x80\xa8".to_vec();
        let start = line.len();
        line.extend_from_slice(json.as_bytes());
        escape_line_separators(&mut line, start);
        assert_eq!(&line[start..], "[\"a\\u2028b\\u2029c\\u0085d€\"]".as_bytes());
        let read: Value = serde_json::from_slice(&line[start..]).unwrap();
        assert_eq!(read, serde_json::from_str::<Value>(json).unwrap());
    }

    #[test]
    fn a_transcript_is_read_with_whatever_is_missing_left_out() {
        let body = br#"{"channelClass":"VOICE","errorCode":null,"new":[1],"transcript":[
            {"participantName":"Jane Doe","participantType":"agent","timestamp":"1721651880000","message":"Hello"},
            {"participantType":"contact","timestamp":1721651887500,"message":"Hi\nthere"},
            {"participantId":17,"timestamp":null,"message":"?"}, null, {"message":null}]}"#;
        let read = Conversation::parse(body).unwrap();
        assert_eq!(read.channel.as_deref(), Some("VOICE"));
        assert_eq!(
            read.to_plain_text(),
            "00:00 Jane Doe (agent): Hello\n00:07 contact: Hi there\nparticipant 17: ?\nunknown speaker: \n"
        );
    }

    #[test]
    fn phrases_are_read_in_order_of_time_where_all_have_one() {
        let said = |times: [&str; 3]| {
            let phrases: Vec<String> = times
                .iter()
                .zip(["one", "two", "three"])
                .map(|(time, text)| format!(r#"{{"participantId":"p","timestamp":{time},"message":"{text}"}}"#))
                .collect();
            Conversation::parse(format!(r#"{{"transcript":[{}]}}"#, phrases.join(",")).as_bytes())
                .unwrap()
                .to_plain_text()
        };
        assert_eq!(
            said([r#""2024-07-22T12:38:09.000+0000""#, "1721651880", r#""1721651887000""#]),
            "00:00 participant p: two\n00:07 participant p: three\n00:09 participant p: one\n"
        );
        assert_eq!(said(["2000", "null", "1000"]).matches("00:0").count(), 2);
        assert!(said(["2000", "null", "1000"]).starts_with("00:01 participant p: one\nparticipant p: two"));
        assert!(said(["1000", "1000", "1000"]).starts_with("00:00 participant p: one\n00:00 participant p: two"));
    }

    #[test]
    fn speakers_without_name_and_type_are_told_apart_by_the_metadata() {
        let body = br#"{"transcript":[{"participantId":901,"message":"a"},{"participantId":"7","message":"b"},
            {"participantId":"8","participantName":"Jane","message":"c"},{"message":"d"}]}"#;
        let plain = |metadata: &str| Conversation::read(body, &Metadata::parse(metadata)).unwrap().to_plain_text();
        let told = "agent: a\ncontact: b\nJane: c\nunknown speaker: d\n";
        assert_eq!(plain(r#"{"segmentParticipantId":"901"}"#), told);
        assert_eq!(plain(r#"{"agentId":901}"#), told);
        assert_eq!(plain("{}"), told.replace("agent", "participant 901").replace("contact", "participant 7"));
        let body = br#"{"transcript":[{"rcUserId":"5","participantId":"1","message":"a"},{"participantId":"2","message":"b"}]}"#;
        for metadata in ["{}", r#"{"segmentParticipantRcExtensionId":5}"#] {
            let read = Conversation::read(body, &Metadata::parse(metadata)).unwrap();
            assert_eq!(read.to_plain_text(), "agent: a\ncontact: b\n");
        }
    }

    #[test]
    fn html_is_read_as_text_but_for_what_was_spoken() {
        let said = |channel: &str| {
            let body = format!(r#"{{"channelClass":"{channel}","transcript":[{{"message":"<p>Hi &amp; bye</p>"}}]}}"#);
            Conversation::parse(body.as_bytes()).unwrap().phrases.remove(0).text
        };
        assert_eq!((said("DIGITAL").trim(), &*said("VOICE")), ("Hi & bye", "<p>Hi &amp; bye</p>"));
    }

    #[test]
    fn an_e_mail_is_html_by_any_tag_or_entity_and_a_chat_is_not() {
        let body = br#"{"channelClass":"DIGITAL","transcript":[{"message":"<b>Ref\u0075nd</b> of 5&nbsp;&euro;"},{"message":"a < b"}]}"#;
        let texts = |metadata: &str| {
            let read = Conversation::read(body, &Metadata::parse(metadata)).unwrap();
            read.phrases.into_iter().map(|phrase| phrase.text).collect::<Vec<_>>()
        };
        assert_eq!(texts(r#"{"channelType":"EMAIL"}"#), ["Refund of 5 €", "a < b"]);
        assert_eq!(texts(r#"{"channelType":"WHATSAPP"}"#), ["<b>Refund</b> of 5&nbsp;&euro;", "a < b"]);
        assert!(Conversation::may_hold_markup(body) && Conversation::may_hold_markup(br#"{"m":"5\u0026euro;"}"#));
        assert!(!Conversation::may_hold_markup(br#"{"m":"5 \u20ac"}"#));
    }

    #[test]
    fn json_that_goes_out_is_as_it_came_where_it_is_json() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        for json in [r#"{"a":"\ud83d","b":1e999}"#, r#"{"a":1,"a":2}"#, &format!(r#"{{"a":{deep}}}"#)] {
            assert_eq!(to_json_line(json.as_bytes()).get(), json);
        }
        assert_eq!(
            to_json_line(b"\xef\xbb\xbf{\"a\":\n\"x\ny\x01\xff\"}").get(),
            "{\"a\": \"x\\u000ay\\u0001\u{fffd}\"}"
        );
        assert_eq!(to_json_line(b"{oops").get(), "\"{oops\"");
    }

    #[test]
    fn what_is_no_transcript_is_not_read_as_one() {
        assert_eq!(Conversation::parse(b"[]"), None);
        assert_eq!(Conversation::parse(b"oops"), None);
        assert_eq!(Conversation::parse(br#"{"transcript":"no"}"#), Some(Conversation::default()));
    }

    #[test]
    fn from_an_hour_on_the_offset_says_the_hour() {
        let phrase = |at| Phrase { at, ..Phrase::default() };
        assert_eq!(phrase(Some(3_661_000)).offset(Some(0)).as_deref(), Some("1:01:01"));
        assert_eq!(phrase(Some(599_999)).offset(Some(0)).as_deref(), Some("09:59"));
        assert_eq!(phrase(None).offset(Some(0)), None);
    }

    #[test]
    fn nothing_that_moves_a_cursor_gets_through() {
        assert_eq!(clean_text("a\x1b[31mred\x1b[0m b"), "ared b");
        assert_eq!(clean_text("\x1b]0;title\x07x\x1b]8;;http://e\x1b\\y"), "xy");
        assert_eq!(clean_text("a\r\nb\tc\x08\u{7f}\u{9b}2Jd"), "a\nb cd");
        assert_eq!(clean_text("\u{202e}evil\u{2066}"), "evil");
        assert_eq!(clean_text("\x1b]never ended"), "]never ended");
        assert_eq!(clean_text("naïve 👩‍💻 日本"), "naïve 👩‍💻 日本");
    }

    #[test]
    fn text_is_wrapped_between_words_and_long_words_are_broken() {
        assert_eq!(wrap_text("the quick brown fox", 9), ["the quick", "brown fox"]);
        assert_eq!(wrap_text("abcdefgh ij", 5), ["abcde", "fgh", "ij"]);
        assert_eq!(wrap_text("a\n\nb\n", 5), ["a", "", "b"]);
        assert_eq!(wrap_text("日本語です", 4), ["日本", "語で", "す"]);
        assert_eq!(wrap_text("", 5), [""]);
    }

    proptest! {
        #[test]
        fn no_body_upsets_it_and_no_phrase_is_lost(
            bytes in any::<Vec<u8>>(), messages in proptest::collection::vec(".{1,20}", 0..6),
        ) {
            Conversation::parse(&bytes);
            let phrases: Vec<Value> = messages.iter().map(|text| serde_json::json!({"message": text})).collect();
            let body = serde_json::json!({"transcript": phrases}).to_string();
            let read = Conversation::parse(body.as_bytes()).map(|read| read.phrases.len());
            prop_assert_eq!(read, Some(messages.len()));
        }

        #[test]
        fn whatever_stands_in_one_message_the_others_are_read_and_the_whole_stays_an_object(
            fault in proptest::collection::vec(any::<u8>().prop_filter("would end the string", |byte| !b"\"\\".contains(byte)), 0..40),
            escape in "(|\\\\u[0-9a-f]{0,4}|\\\\[nx/])",
        ) {
            let body = [
                br#"{"transcript":[{"message":"before"},{"message":"x"#,
                escape.as_bytes(),
                b" ",
                &fault,
                br#"","new":1e999},{"message":"after"}]}"#,
            ]
            .concat();
            let read = Conversation::parse(&body).unwrap();
            prop_assert_eq!(read.phrases.len(), 3);
            prop_assert_eq!((&*read.phrases[0].text, &*read.phrases[2].text), ("before", "after"));
            let line = to_json_line(&body);
            let is_object = line.get().starts_with(r#"{"transcript":[{"message":"before"}"#);
            prop_assert!(is_object);
        }

        #[test]
        fn no_text_leaves_a_control_character_but_line_breaks(text in "(\\PC|[\\x00-\\x1f\\x7f\\u{80}-\\u{9f}]|\\x1b[\\[\\]P]){0,40}") {
            prop_assert!(clean_text(&text).chars().all(|character| character == '\n' || !character.is_control()));
        }

        #[test]
        fn wrapped_lines_fit_and_keep_every_letter(text in "[a-z 日\\n]{0,80}", width in 2_usize..20) {
            let lines = wrap_text(&text, width);
            prop_assert!(lines.iter().all(|line| line.width() <= width));
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
