//! The subject of an erasure or a hold: a segment, a dialog, or a contact. Pure.
//!
//! A contact is compared with the values in [`Participants`]. Names and addresses must match whole,
//! regardless of case. Telephone numbers are compared as [`PhoneNumber`].

use std::collections::BTreeSet;

use super::folding::fold;
use super::participants::{Participants, collect_scalars, is_damaged};
use super::phone_number::{PhoneNumber, ValueMatch, find_numbers, strip_scheme};
use crate::lenient_json;

/// The subject of an erasure or a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One segment, by its id.
    Segment(String),
    /// All segments of a dialog, by its id.
    Dialog(String),
    /// All segments with this contact: a telephone number, an address, an id or a name.
    Contact(String),
}

/// How certainly a segment or a record belongs to a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// It does not match.
    Not,
    /// It may match: a part of it cannot be read.
    Unreadable,
    /// It may match: a number is alike, or the speaker may be the agent.
    Alike,
    /// It matches by a national number, unless the archive holds this number in several countries.
    National,
    /// It matches.
    Certain,
}

/// The result of matching a contact against the participants of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactMatch {
    /// How certainly the segment matches.
    pub certainty: Certainty,
    /// The numbers with country code that a national number may stand for.
    pub countries: BTreeSet<String>,
    /// Whether an agent of the segment has this name or id.
    pub names_agent: bool,
}

impl Subject {
    /// The kind of the subject, as the database and the command line name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Segment(_) => "segment",
            Subject::Dialog(_) => "dialog",
            Subject::Contact(_) => "contact",
        }
    }

    /// The value as it was entered.
    pub fn value(&self) -> &str {
        match self {
            Subject::Segment(value) | Subject::Dialog(value) | Subject::Contact(value) => value,
        }
    }

    /// Creates a subject from its [`Subject::kind`] and its value.
    pub fn from_kind(kind: &str, value: String) -> Option<Subject> {
        match kind {
            "segment" => Some(Subject::Segment(value)),
            "dialog" => Some(Subject::Dialog(value)),
            "contact" => Some(Subject::Contact(value)),
            _ => None,
        }
    }

    /// The same text for all values with the same meaning, as far as the value alone shows.
    pub fn normalized(&self) -> String {
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => id.clone(),
            Subject::Contact(value) => match parse_wanted(value) {
                ContactValue::Number(number) => number.normalized(),
                ContactValue::Text(text) => text,
            },
        }
    }

    /// [`Subject::normalized`] of the first version of this program, whose journal entries contain
    /// hashes of that form.
    pub fn normalized_v1(&self) -> String {
        let value = self.value().trim();
        let is_of_number = |letter: char| letter.is_ascii_digit() || "+-()./ ".contains(letter);
        let digits: String = value.chars().filter(char::is_ascii_digit).collect();
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => id.clone(),
            Subject::Contact(_) if value.chars().all(is_of_number) && digits.len() >= 5 => {
                digits.strip_prefix("00").unwrap_or(&digits).to_owned()
            }
            Subject::Contact(_) => value.to_lowercase(),
        }
    }

    /// Whether the subject is this segment or its dialog, by id.
    pub fn matches_ids(&self, segment_id: &str, dialog_id: Option<&str>) -> bool {
        match self {
            Subject::Segment(id) => id == segment_id,
            Subject::Dialog(id) => dialog_id == Some(id.as_str()),
            Subject::Contact(_) => false,
        }
    }

    /// Whether the subject is a contact, which only a segment's metadata and texts can match.
    pub fn is_contact(&self) -> bool {
        matches!(self, Subject::Contact(_))
    }

    /// Matches a contact against the participants of a segment. Never matches by id.
    pub fn match_participants(&self, participants: &Participants) -> ContactMatch {
        let mut found = ContactMatch { certainty: Certainty::Not, countries: BTreeSet::new(), names_agent: false };
        let Subject::Contact(value) = self else { return found };
        let wanted = parse_wanted(value);
        if participants.is_unreadable {
            found.certainty = Certainty::Unreadable;
        }
        for value in &participants.contacts {
            let certainty = match match_value(&wanted, value) {
                ValueMatch::Different => continue,
                ValueMatch::OtherCountry(number) => {
                    found.countries.insert(number);
                    continue;
                }
                ValueMatch::Alike => Certainty::Alike,
                ValueMatch::National(number) => {
                    found.countries.insert(number);
                    Certainty::National
                }
                ValueMatch::Same => Certainty::Certain,
            };
            found.certainty = found.certainty.max(certainty);
        }
        if participants.uncertain.iter().any(|value| is_match(&match_value(&wanted, value)))
            || participants.fragments.iter().any(|text| self.match_record_text(text) > Certainty::Unreadable)
        {
            found.certainty = found.certainty.max(Certainty::Alike);
        }
        for value in participants.contacts.iter().chain(&participants.uncertain).filter(|value| is_damaged(value)) {
            found.certainty = found.certainty.max(match_damaged(&wanted, value));
        }
        found.names_agent = participants.agents.iter().any(|value| match_value(&wanted, value) == ValueMatch::Same);
        found
    }

    /// Matches a quarantined record by the segment's id, if that is known, or by its content.
    pub fn match_record(&self, segment_id: Option<&str>, raw: &str) -> Certainty {
        if segment_id.is_some_and(|id| self.matches_ids(id, None)) {
            Certainty::Certain
        } else {
            self.match_record_text(raw)
        }
    }

    /// Matches the content of a quarantined record, which may not be JSON, by whole words. A
    /// contact may occur in any part that cannot be read.
    pub fn match_record_text(&self, raw: &str) -> Certainty {
        let (texts, is_whole) = collect_scalars(raw).unwrap_or_else(|| (unescape(raw), false));
        let found = self.match_texts(raw, &texts);
        let may_be_missed = self.is_contact() && (!is_whole || texts.iter().any(|text| is_damaged(text)));
        if may_be_missed { found.max(Certainty::Unreadable) } else { found }
    }

    fn match_texts(&self, raw: &str, texts: &[String]) -> Certainty {
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => {
                certain_if(contains_word(raw, id) || texts.iter().any(|text| contains_word(text, id)))
            }
            Subject::Contact(value) => match parse_wanted(value) {
                ContactValue::Text(wanted) => certain_if(texts.iter().any(|text| contains_word(&fold(text), &wanted))),
                ContactValue::Number(wanted) => {
                    let found =
                        texts.iter().flat_map(|text| find_numbers(text).into_iter().chain(PhoneNumber::parse(text)));
                    found.map(|number| wanted.compare(&number)).fold(Certainty::Not, |certainty, likeness| {
                        certainty.max(match likeness {
                            ValueMatch::Same => Certainty::Certain,
                            ValueMatch::National(_) | ValueMatch::Alike => Certainty::Alike,
                            ValueMatch::Different | ValueMatch::OtherCountry(_) => Certainty::Not,
                        })
                    })
                }
            },
        }
    }
}

/// A text that is not JSON: as received, and with JSON escapes resolved.
fn unescape(raw: &str) -> Vec<String> {
    // Without its quotes, the text is parsed as the content of one string.
    let resolved = lenient_json::from_str(&format!("\"{} \"", raw.replace('"', " ")));
    [raw.to_owned()].into_iter().chain(resolved).collect()
}

fn certain_if(is_certain: bool) -> Certainty {
    if is_certain { Certainty::Certain } else { Certainty::Not }
}

fn is_match(likeness: &ValueMatch) -> bool {
    matches!(likeness, ValueMatch::Alike | ValueMatch::National(_) | ValueMatch::Same)
}

/// Whether an id or a name contains_word in a text as a whole word.
pub fn contains_word(text: &str, word: &str) -> bool {
    let part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '-' || letter == '_');
    !word.is_empty()
        && text
            .match_indices(word)
            .any(|(at, found)| !part(text[..at].chars().next_back()) && !part(text[at + found.len()..].chars().next()))
}

/// The form in which a value is compared.
#[derive(Debug, PartialEq, Eq)]
enum ContactValue {
    Number(PhoneNumber),
    /// Folded text.
    Text(String),
}

fn parse_value(text: &str) -> ContactValue {
    PhoneNumber::parse(text).map_or_else(
        || ContactValue::Text(fold(strip_scheme(text).as_deref().unwrap_or(text)).trim_matches(['"', '\'']).to_owned()),
        ContactValue::Number,
    )
}

/// Parses the value that was entered; of `Jane Roe <jane@example.com>` the address counts.
fn parse_wanted(value: &str) -> ContactValue {
    parse_value(split_brackets(value, '<', '>').map_or(value, |(_, address)| address))
}

/// Splits a text into the parts before and within brackets.
fn split_brackets(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let (before, rest) = text.split_once(open)?;
    let (within, _) = rest.split_once(close)?;
    (!within.trim().is_empty()).then_some((before, within))
}

/// Compares a received value with the wanted one: as a whole, as an element of a list, or beside a
/// display name.
fn match_value(wanted: &ContactValue, value: &str) -> ValueMatch {
    let compare = |text: &str| match (wanted, parse_value(text)) {
        (ContactValue::Number(wanted), ContactValue::Number(number)) => wanted.compare(&number),
        (ContactValue::Text(wanted), ContactValue::Text(text)) if *wanted == text => ValueMatch::Same,
        _ => ValueMatch::Different,
    };
    let mut best = compare(value);
    if PhoneNumber::parse(value).is_some() {
        return best;
    }
    for part in value.split([',', ';']).chain([value]) {
        best = best.max(compare(part));
        for (open, close) in [('<', '>'), ('(', ')')] {
            if let Some((name, address)) = split_brackets(part, open, close) {
                best = best.max(compare(name)).max(compare(address));
            }
        }
    }
    match wanted {
        ContactValue::Number(wanted) if best == ValueMatch::Different && contains_number(value, wanted) => {
            ValueMatch::Alike
        }
        _ => best,
    }
}

/// Compares a value that lost characters. It cannot match certainly; if the rest fits, it is alike.
fn match_damaged(wanted: &ContactValue, value: &str) -> Certainty {
    const LOST: char = char::REPLACEMENT_CHARACTER;
    // The lost character may have been a letter, an invisible character, a space or a comma.
    let is_alike = |rest: &str| is_match(&match_value(wanted, rest));
    let rests = [value.replace(LOST, ""), value.replace(LOST, " ")];
    let fits = match wanted {
        ContactValue::Text(wanted) => {
            let pieces: Vec<String> = strip_scheme(value).as_deref().unwrap_or(value).split(LOST).map(fold).collect();
            pieces.iter().any(|piece| !piece.is_empty()) && has_pieces(wanted, &pieces)
        }
        ContactValue::Number(_) => false,
    };
    let is_alike = fits || rests.iter().map(String::as_str).chain(value.split(LOST)).any(is_alike);
    if is_alike { Certainty::Alike } else { Certainty::Unreadable }
}

/// Whether a text starts with the first piece, ends with the last, and contains the others in
/// between, in order.
fn has_pieces(text: &str, pieces: &[String]) -> bool {
    let [first, between @ .., last] = pieces else { return false };
    let Some(mut rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
        return false;
    };
    between.iter().all(|piece| {
        let Some((_, after)) = rest.split_once(piece.as_str()) else { return false };
        rest = after;
        true
    })
}

/// Whether a text contains this number.
fn contains_number(text: &str, wanted: &PhoneNumber) -> bool {
    let is_same = |number: &PhoneNumber| matches!(wanted.compare(number), ValueMatch::Same | ValueMatch::National(_));
    wanted.is_distinctive() && find_numbers(text).iter().any(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(value: &str) -> Subject {
        Subject::Contact(value.to_owned())
    }

    fn in_metadata(subject: &Subject, metadata: &str) -> Certainty {
        subject.match_participants(&Participants::read([metadata], [])).certainty
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let metadata = r#"{"segmentId":"s","contactEndpointAddress":"+1 (201) 377-0791"}"#;
        for value in [
            "12013770791",
            "+12013770791",
            "0012013770791",
            " 1-201-377-0791 ",
            "1.201.377.0791",
            "tel:+1-201-377-0791",
            "\u{202a}+1\u{a0}201\u{a0}377\u{2011}0791\u{202c}",
        ] {
            assert_eq!(in_metadata(&contact(value), metadata), Certainty::Certain, "{value}");
        }
        assert_eq!(in_metadata(&contact("2013770791"), metadata), Certainty::Alike);
        for value in ["+442013770791", "1201377079", "377-0791", "201", ""] {
            assert!(in_metadata(&contact(value), metadata) < Certainty::National, "{value}");
        }
        let number = r#"{"contactEndpointAddress":2013770791}"#;
        assert_eq!(in_metadata(&contact("2013770791"), number), Certainty::Certain);
    }

    #[test]
    fn a_number_within_its_country_tells_which_countries_it_may_be_of() {
        let match_address = |value: &str, address: &str| {
            let metadata = format!(r#"{{"channelEndpointAddress":"{address}"}}"#);
            let found = contact(value).match_participants(&Participants::read([metadata.as_str()], []));
            (found.certainty, found.countries.into_iter().collect::<Vec<_>>())
        };
        let german = vec!["49301234567".to_owned()];
        assert_eq!(match_address("+49 30 1234567", "030 1234567"), (Certainty::National, german.clone()));
        assert_eq!(match_address("030 1234567", "+49 30 1234567"), (Certainty::National, german));
        assert_eq!(match_address("+49 30 1234567", "+43 30 1234567"), (Certainty::Not, vec!["43301234567".to_owned()]));
    }

    #[test]
    fn an_address_is_the_same_in_capitals_and_with_a_name_beside_it() {
        for stored in [
            "Jane.Doe@Example.com",
            "mailto:jane.doe@example.com?subject=x",
            "Jane Roe <Jane.Doe@example.com>",
            r#"\"Doe, Jane\" <jane.doe@example.com>"#,
            "jane.doe@example.com (Jane)",
            "joe@example.com; jane.doe@example.com",
            "sip:jane.doe@example.com;transport=tcp",
            "ｊａｎｅ.doe@example.com",
        ] {
            let metadata = format!(r#"{{"contactEndpointAddress":"{stored}"}}"#);
            for value in ["jane.doe@example.COM ", "Jane <jane.doe@example.com>", "mailto:jane.doe@example.com"] {
                assert_eq!(in_metadata(&contact(value), &metadata), Certainty::Certain, "{value} in {stored}");
            }
            assert_eq!(in_metadata(&contact("doe@example.com"), &metadata), Certainty::Not, "{stored}");
        }
        let display = r#"{"contactEndpointAddress":"Jane Roe <+49 30 1234567>","ani":"Joe at 030 7654321"}"#;
        for (value, certainty) in [
            ("jane roe", Certainty::Certain),
            ("+49301234567", Certainty::Certain),
            ("0307654321", Certainty::Alike),
            ("roe", Certainty::Not),
        ] {
            assert_eq!(in_metadata(&contact(value), display), certainty, "{value}");
        }
        assert_eq!(in_metadata(&contact("jane"), "no JSON with jane"), Certainty::Unreadable);
    }

    #[test]
    fn a_contact_is_found_in_a_transcript_and_an_agent_of_that_name_is_not() {
        let body = br#"{"transcript":[{"participantId":"c-1","participantName":"Jane Doe","participantType":"contact","message":"hi"},
            {"participantId":"a-1","participantName":"John Roe","participantType":"agent","message":"Max Muster"}]}"#;
        let participants = Participants::read(["{}"], [body.as_slice()]);
        for (value, certainty, names_agent) in [
            ("jane doe", Certainty::Certain, false),
            ("C-1", Certainty::Certain, false),
            ("john roe", Certainty::Not, true),
            ("a-1", Certainty::Not, true),
            ("jane", Certainty::Not, false),
            ("hi", Certainty::Not, false),
            ("max muster", Certainty::Not, false),
        ] {
            let found = contact(value).match_participants(&participants);
            assert_eq!((found.certainty, found.names_agent), (certainty, names_agent), "{value}");
        }
        assert_eq!(Subject::Segment("c-1".into()).match_participants(&participants).certainty, Certainty::Not);
        let unread = Participants::read(["{}"], [b"oops".as_slice()]);
        assert_eq!(contact("x").match_participants(&unread).certainty, Certainty::Unreadable);
        assert_eq!(Subject::Segment("x".into()).match_participants(&unread).certainty, Certainty::Not);
        let untold = Participants::read(["{}"], [br#"{"transcript":[{"participantId":"c-1"}]}"#.as_slice()]);
        assert_eq!(contact("c-1").match_participants(&untold).certainty, Certainty::Alike);
    }

    #[test]
    fn a_letter_that_was_lost_or_that_nobody_sees_hides_nobody() {
        for (stored, value, certainty) in [
            ("Jane\\u0000 Roe", "jane roe", Certainty::Certain),
            ("jane@example.com\\u0000", "jane@example.com", Certainty::Certain),
            ("+49 30\\u0000 1234567", "+49301234567", Certainty::Certain),
            ("Jos\u{fffd} Roe", "Jos\u{fffd} Roe", Certainty::Certain),
            ("Jos\u{fffd} Roe", "José Roe", Certainty::Alike),
            ("M\u{fffd}ller, J\u{fffd}rg", "müller, jörg", Certainty::Alike),
            ("Jane Roe \\ud83d", "Jane Roe", Certainty::Alike),
            ("Jane \\ud83d Roe", "Jane Roe", Certainty::Alike),
            ("Jane Roe\\ud83dx", "Jane Roe", Certainty::Alike),
            ("jane@example.com\\ud83d", "jane@example.com", Certainty::Alike),
            ("mailto:jane@ex\u{fffd}mple.com", "jane@example.com", Certainty::Alike),
            ("+49\u{fffd}30\u{fffd}1234567", "030 1234567", Certainty::Alike),
            ("Jane <+49\u{fffd}30\u{fffd}1234567>", "+49301234567", Certainty::Alike),
            ("Jos\u{fffd} Roe", "Max Muster", Certainty::Unreadable),
            ("Jos\u{fffd} Roe", "+49301234567", Certainty::Unreadable),
            ("\u{fffd}\u{fffd}", "Jane", Certainty::Unreadable),
        ] {
            let metadata = format!(r#"{{"contactEndpointAddress":"{stored}","agentNotes":"cut \ud83d"}}"#);
            assert_eq!(in_metadata(&contact(value), &metadata), certainty, "{value} in {stored}");
            let talk = |kind: &str| {
                let body = format!(r#"[{{"participantName":"{stored}","participantType":{kind},"message":"\ud83d"}}]"#);
                contact(value).match_participants(&Participants::read(["{}"], [body.as_bytes()])).certainty
            };
            assert_eq!(talk("\"contact\""), certainty, "{value} in {stored}");
            assert_eq!(talk("null"), certainty.min(Certainty::Alike), "{value} in {stored}");
            assert_eq!(talk("\"agent\""), Certainty::Not, "{value} in {stored}");
        }
    }

    #[test]
    fn what_is_left_of_an_answer_is_a_text() {
        let page = "<html>Jane Roe</html> {\"participantName\":\"Jos\\u00e9 R".to_owned();
        let participants = Participants { fragments: vec![page], ..Participants::default() };
        for (value, certainty) in
            [("jane roe", Certainty::Alike), ("José R", Certainty::Alike), ("joe", Certainty::Not)]
        {
            assert_eq!(contact(value).match_participants(&participants).certainty, certainty, "{value}");
        }
    }

    #[test]
    fn ids_are_taken_to_the_letter() {
        let segment = Subject::Segment("S-1".into());
        assert!(segment.matches_ids("S-1", None) && !segment.matches_ids("s-1", None));
        let dialog = Subject::Dialog("d".into());
        assert!(dialog.matches_ids("x", Some("d")) && !dialog.matches_ids("d", None));
        assert!(!contact("S-1").matches_ids("S-1", Some("S-1")));
    }

    #[test]
    fn a_record_is_searched_for_whole_words() {
        let json =
            r#"{"segmentId":"seg-1","dialogId":["dia-7"],"contact":"+1 201\u00a0377 0791","x":["Jane D\u004fE"]}"#;
        for raw in [json.to_owned(), format!("{} Jane DOE", json.replace("\\u00a0", "\u{a0}"))] {
            let find = |subject: Subject| subject.match_record_text(&raw);
            // Of what is no JSON nobody knows what it says.
            let not = if raw == json { Certainty::Not } else { Certainty::Unreadable };
            assert_eq!(find(Subject::Segment("seg-1".into())), Certainty::Certain, "{raw}");
            assert_eq!(find(Subject::Segment("seg".into())), Certainty::Not);
            assert_eq!(find(Subject::Segment("eg-1".into())), Certainty::Not);
            assert_eq!(find(Subject::Dialog("dia-7".into())), Certainty::Certain);
            assert_eq!(find(contact("12013770791")), Certainty::Certain, "{raw}");
            assert_eq!(find(contact("2013770791")), Certainty::Alike);
            assert_eq!(find(contact("7770791")), not);
            assert_eq!(find(contact("jane doe")), Certainty::Certain);
            assert_eq!(find(contact("ane doe")), not);
        }
    }

    #[test]
    fn in_a_record_that_cannot_be_read_whole_anyone_may_stand() {
        let deep = format!(r#"{{"x":{}{{}}{}}}"#, "[".repeat(200), "]".repeat(200));
        let long = format!(r#"{{"x":{}}}"#, "7".repeat(30));
        for (raw, certainty) in [
            (r#"{"x":"y",,"contactEndpointAddress":"jane\u0040example.com"}"#, Certainty::Certain),
            (r#"{"segmentId":"s-\u0031",,"ani":"jane@ex"#, Certainty::Unreadable),
            (r#"{"x":"cut \ud83d"}"#, Certainty::Unreadable),
            ("{\"x\u{fffd}\":1}", Certainty::Unreadable),
            (&deep, Certainty::Unreadable),
            (&long, Certainty::Unreadable),
            (r#"{"segmentId":[1],"ani":"joe@example.com"}"#, Certainty::Not),
        ] {
            assert_eq!(contact("jane@example.com").match_record_text(raw), certainty, "{raw}");
            assert_eq!(Subject::Dialog("d".into()).match_record_text(raw), Certainty::Not, "{raw}");
        }
        assert_eq!(
            Subject::Segment("s-1".into()).match_record_text(r#"{"segmentId":"s-\u0031",,"#),
            Certainty::Certain
        );
    }

    #[test]
    fn what_the_first_version_made_of_a_value_is_known() {
        for (value, first) in
            [("+1 (201) 377-0791", "12013770791"), ("0049 30 1", "49301"), ("1234", "1234"), (" Jane", "jane")]
        {
            assert_eq!(contact(value).normalized_v1(), first);
        }
    }

    #[test]
    fn a_kind_is_read_back_as_it_was_written() {
        for subject in [Subject::Segment("a".into()), Subject::Dialog("b".into()), contact("c")] {
            assert_eq!(Subject::from_kind(subject.kind(), subject.value().to_owned()), Some(subject));
        }
        assert_eq!(Subject::from_kind("other", String::new()), None);
    }
}
