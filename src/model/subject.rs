//! Whom or what an erasure or a hold is about: a segment, a dialog, or a contact. Pure.
//!
//! A contact is compared with what [`Participants`] has found. Names and addresses count whole, whatever their letters'
//! case; of a telephone number only what [`PhoneNumber`] makes of it.

use std::collections::BTreeSet;

use super::folding::fold;
use super::participants::{Participants, scalars};
use super::phone_number::{Likeness, PhoneNumber, numbers_in, without_scheme};

/// What is to be erased or kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One segment, by its id.
    Segment(String),
    /// All segments of a dialog, by its id.
    Dialog(String),
    /// All segments with this contact: a telephone number, an address, an id or a name.
    Contact(String),
}

/// How certain it is that a segment or a record is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// It is not.
    Not,
    /// It may be: something of it cannot be read.
    Unreadable,
    /// It may be: a number is alike, or the speaker may be the agent.
    Alike,
    /// By a number within its country, unless there are such numbers of several countries.
    National,
    /// It is.
    Certain,
}

/// What a segment's participants have to do with a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// Whether the segment is meant.
    pub certainty: Certainty,
    /// The numbers with their countries' codes that one number within a country may be.
    pub countries: BTreeSet<String>,
    /// Whether an agent of the segment has this name or id.
    pub names_agent: bool,
}

impl Subject {
    /// What kind it is, as the database and the command line name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Segment(_) => "segment",
            Subject::Dialog(_) => "dialog",
            Subject::Contact(_) => "contact",
        }
    }

    /// As it was typed.
    pub fn value(&self) -> &str {
        match self {
            Subject::Segment(value) | Subject::Dialog(value) | Subject::Contact(value) => value,
        }
    }

    /// The subject of a kind that [`Subject::kind`] names.
    pub fn of(kind: &str, value: String) -> Option<Subject> {
        match kind {
            "segment" => Some(Subject::Segment(value)),
            "dialog" => Some(Subject::Dialog(value)),
            "contact" => Some(Subject::Contact(value)),
            _ => None,
        }
    }

    /// The same for all values that mean the same, as far as the value alone tells.
    pub fn normal(&self) -> String {
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => id.clone(),
            Subject::Contact(value) => match wanted(value) {
                Reading::Number(number) => number.normal(),
                Reading::Text(text) => text,
            },
        }
    }

    /// Whether it is this segment, as far as ids tell.
    pub fn names(&self, segment_id: &str, dialog_id: Option<&str>) -> bool {
        match self {
            Subject::Segment(id) => id == segment_id,
            Subject::Dialog(id) => dialog_id == Some(id.as_str()),
            Subject::Contact(_) => false,
        }
    }

    /// Whether only a segment's texts tell if it is meant.
    pub fn is_contact(&self) -> bool {
        matches!(self, Subject::Contact(_))
    }

    /// Whether a segment with these participants is meant; never by its ids.
    pub fn concern(&self, participants: &Participants) -> Concern {
        let mut concern = Concern { certainty: Certainty::Not, countries: BTreeSet::new(), names_agent: false };
        let Subject::Contact(value) = self else { return concern };
        let wanted = wanted(value);
        if participants.is_unreadable {
            concern.certainty = Certainty::Unreadable;
        }
        for value in &participants.contacts {
            let certainty = match likeness(&wanted, value) {
                Likeness::Different => continue,
                Likeness::OtherCountry(number) => {
                    concern.countries.insert(number);
                    continue;
                }
                Likeness::Alike => Certainty::Alike,
                Likeness::National(number) => {
                    concern.countries.insert(number);
                    Certainty::National
                }
                Likeness::Same => Certainty::Certain,
            };
            concern.certainty = concern.certainty.max(certainty);
        }
        if participants.uncertain.iter().any(|value| is_match(&likeness(&wanted, value))) {
            concern.certainty = concern.certainty.max(Certainty::Alike);
        }
        concern.names_agent = participants.agents.iter().any(|value| likeness(&wanted, value) == Likeness::Same);
        concern
    }

    /// Whether it occurs in a record that could not be understood, as a word of its texts, which may be no JSON at all.
    pub fn in_record(&self, raw: &str) -> Certainty {
        let texts = scalars(raw).unwrap_or_else(|| vec![raw.to_owned()]);
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => {
                certain_if(occurs(raw, id) || texts.iter().any(|text| occurs(text, id)))
            }
            Subject::Contact(value) => match wanted(value) {
                Reading::Text(wanted) => certain_if(texts.iter().any(|text| occurs(&fold(text), &wanted))),
                Reading::Number(wanted) => {
                    let found =
                        texts.iter().flat_map(|text| numbers_in(text).into_iter().chain(PhoneNumber::parse(text)));
                    found.map(|number| wanted.compare(&number)).fold(Certainty::Not, |certainty, likeness| {
                        certainty.max(match likeness {
                            Likeness::Same => Certainty::Certain,
                            Likeness::National(_) | Likeness::Alike => Certainty::Alike,
                            Likeness::Different | Likeness::OtherCountry(_) => Certainty::Not,
                        })
                    })
                }
            },
        }
    }
}

fn certain_if(is_certain: bool) -> Certainty {
    if is_certain { Certainty::Certain } else { Certainty::Not }
}

fn is_match(likeness: &Likeness) -> bool {
    matches!(likeness, Likeness::Alike | Likeness::National(_) | Likeness::Same)
}

/// Whether an id or a name occurs in a text, and not as a part of a longer one.
pub fn occurs(text: &str, word: &str) -> bool {
    let part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '-' || letter == '_');
    !word.is_empty()
        && text
            .match_indices(word)
            .any(|(at, found)| !part(text[..at].chars().next_back()) && !part(text[at + found.len()..].chars().next()))
}

/// What a value can be compared by.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Number(PhoneNumber),
    /// Folded.
    Text(String),
}

fn reading(text: &str) -> Reading {
    PhoneNumber::parse(text).map_or_else(
        || Reading::Text(fold(without_scheme(text).as_deref().unwrap_or(text)).trim_matches(['"', '\'']).to_owned()),
        Reading::Number,
    )
}

/// What was typed: of `Jane Roe <jane@example.com>` the address.
fn wanted(value: &str) -> Reading {
    reading(between(value, '<', '>').map_or(value, |(_, address)| address))
}

/// What stands before and within brackets.
fn between(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let (before, rest) = text.split_once(open)?;
    let (within, _) = rest.split_once(close)?;
    (!within.trim().is_empty()).then_some((before, within))
}

/// How much a received value has in common with what was typed: whole, or one of a list, or with a display name.
fn likeness(wanted: &Reading, value: &str) -> Likeness {
    let compare = |text: &str| match (wanted, reading(text)) {
        (Reading::Number(wanted), Reading::Number(number)) => wanted.compare(&number),
        (Reading::Text(wanted), Reading::Text(text)) if *wanted == text => Likeness::Same,
        _ => Likeness::Different,
    };
    let mut best = compare(value);
    if PhoneNumber::parse(value).is_some() {
        return best;
    }
    for part in value.split([',', ';']).chain([value]) {
        best = best.max(compare(part));
        for (open, close) in [('<', '>'), ('(', ')')] {
            if let Some((name, address)) = between(part, open, close) {
                best = best.max(compare(name)).max(compare(address));
            }
        }
    }
    match wanted {
        Reading::Number(wanted) if best == Likeness::Different && holds_number(value, wanted) => Likeness::Alike,
        _ => best,
    }
}

/// Whether a text holds this number among other things.
fn holds_number(text: &str, wanted: &PhoneNumber) -> bool {
    let is_same = |number: &PhoneNumber| matches!(wanted.compare(number), Likeness::Same | Likeness::National(_));
    wanted.is_long() && numbers_in(text).iter().any(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(value: &str) -> Subject {
        Subject::Contact(value.to_owned())
    }

    fn in_metadata(subject: &Subject, metadata: &str) -> Certainty {
        subject.concern(&Participants::read([metadata], [])).certainty
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
        let concern = |value: &str, address: &str| {
            let metadata = format!(r#"{{"channelEndpointAddress":"{address}"}}"#);
            let concern = contact(value).concern(&Participants::read([metadata.as_str()], []));
            (concern.certainty, concern.countries.into_iter().collect::<Vec<_>>())
        };
        let german = vec!["49301234567".to_owned()];
        assert_eq!(concern("+49 30 1234567", "030 1234567"), (Certainty::National, german.clone()));
        assert_eq!(concern("030 1234567", "+49 30 1234567"), (Certainty::National, german));
        assert_eq!(concern("+49 30 1234567", "+43 30 1234567"), (Certainty::Not, vec!["43301234567".to_owned()]));
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
            let concern = contact(value).concern(&participants);
            assert_eq!((concern.certainty, concern.names_agent), (certainty, names_agent), "{value}");
        }
        assert_eq!(Subject::Segment("c-1".into()).concern(&participants).certainty, Certainty::Not);
        let unread = Participants::read(["{}"], [b"oops".as_slice()]);
        assert_eq!(contact("x").concern(&unread).certainty, Certainty::Unreadable);
        assert_eq!(Subject::Segment("x".into()).concern(&unread).certainty, Certainty::Not);
        let untold = Participants::read(["{}"], [br#"{"transcript":[{"participantId":"c-1"}]}"#.as_slice()]);
        assert_eq!(contact("c-1").concern(&untold).certainty, Certainty::Alike);
    }

    #[test]
    fn ids_are_taken_to_the_letter() {
        let segment = Subject::Segment("S-1".into());
        assert!(segment.names("S-1", None) && !segment.names("s-1", None));
        let dialog = Subject::Dialog("d".into());
        assert!(dialog.names("x", Some("d")) && !dialog.names("d", None));
        assert!(!contact("S-1").names("S-1", Some("S-1")));
    }

    #[test]
    fn a_record_is_searched_for_whole_words() {
        let json =
            r#"{"segmentId":"seg-1","dialogId":["dia-7"],"contact":"+1 201\u00a0377 0791","x":["Jane D\u004fE"]}"#;
        for raw in [json.to_owned(), format!("{} Jane DOE", json.replace("\\u00a0", "\u{a0}"))] {
            let find = |subject: Subject| subject.in_record(&raw);
            assert_eq!(find(Subject::Segment("seg-1".into())), Certainty::Certain, "{raw}");
            assert_eq!(find(Subject::Segment("seg".into())), Certainty::Not);
            assert_eq!(find(Subject::Segment("eg-1".into())), Certainty::Not);
            assert_eq!(find(Subject::Dialog("dia-7".into())), Certainty::Certain);
            assert_eq!(find(contact("12013770791")), Certainty::Certain, "{raw}");
            assert_eq!(find(contact("2013770791")), Certainty::Alike);
            assert_eq!(find(contact("7770791")), Certainty::Not);
            assert_eq!(find(contact("jane doe")), Certainty::Certain);
            assert_eq!(find(contact("ane doe")), Certainty::Not);
        }
    }

    #[test]
    fn a_kind_is_read_back_as_it_was_written() {
        for subject in [Subject::Segment("a".into()), Subject::Dialog("b".into()), contact("c")] {
            assert_eq!(Subject::of(subject.kind(), subject.value().to_owned()), Some(subject));
        }
        assert_eq!(Subject::of("other", String::new()), None);
    }
}
