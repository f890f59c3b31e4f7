//! Whom or what an erasure or a hold is about: a segment, a dialog, or a contact. Pure.
//!
//! A contact is told by what the API says of it: the `contactEndpointAddress` of a segment's metadata, and the id or the
//! name of a participant of type `contact` in its transcript. Letters' case and surrounding space do not matter. Of what
//! looks like a telephone number only the digits count, without a leading `+` or `00`; a number with its country code and
//! the same one without are two, since nobody can tell which country was meant.

use serde_json::Value;

/// Fewer digits are no telephone number: they could be an extension, or anything.
const SHORTEST_NUMBER: usize = 5;
/// Of fewer digits at the end, many different numbers have the same.
const SHORTEST_NATIONAL: usize = 7;

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

    /// The same for all values that mean the same.
    pub fn normal(&self) -> String {
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => id.clone(),
            Subject::Contact(value) => normal(value),
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

    /// Whether a segment with this metadata is meant, as far as the metadata tells.
    pub fn in_metadata(&self, raw: &str) -> bool {
        let Ok(record) = serde_json::from_str::<Value>(raw) else { return false };
        match self {
            Subject::Segment(id) => text(&record["segmentId"]).as_ref() == Some(id),
            Subject::Dialog(id) => text(&record["dialogId"]).as_ref() == Some(id),
            Subject::Contact(value) => means(&record["contactEndpointAddress"], &normal(value)),
        }
    }

    /// Whether the metadata has another telephone number that ends as this one does, as the same number would with and
    /// without its country code.
    pub fn resembles(&self, raw: &str) -> bool {
        let Subject::Contact(value) = self else { return false };
        let Ok(record) = serde_json::from_str::<Value>(raw) else { return false };
        let Some(other) = text(&record["contactEndpointAddress"]).filter(|other| is_number(other)) else {
            return false;
        };
        let national = |value: &str| normal(value).trim_start_matches('0').to_owned();
        let (one, other) = (national(value), national(&other));
        is_number(value)
            && one != other
            && one.len().min(other.len()) >= SHORTEST_NATIONAL
            && (one.ends_with(&other) || other.ends_with(&one))
    }

    /// Whether a contact in this transcript is meant.
    pub fn in_transcript(&self, body: &[u8]) -> bool {
        let Subject::Contact(value) = self else { return false };
        let wanted = normal(value);
        let body = String::from_utf8_lossy(body);
        let Ok(transcript) = serde_json::from_str::<Value>(body.trim_start_matches('\u{feff}')) else { return false };
        let Some(phrases) = transcript["transcript"].as_array() else { return false };
        phrases.iter().any(|phrase| {
            let contact = phrase["participantType"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("contact"));
            contact && (means(&phrase["participantId"], &wanted) || means(&phrase["participantName"], &wanted))
        })
    }

    /// Whether it occurs in a record that could not be understood: by its fields, or, since it may be no JSON at all, as a
    /// word of its text.
    pub fn in_record(&self, raw: &str) -> bool {
        if self.in_metadata(raw) {
            return true;
        }
        match self {
            Subject::Segment(id) | Subject::Dialog(id) => occurs(raw, id),
            Subject::Contact(value) if is_number(value) => {
                let wanted = normal(value);
                raw.split(|letter: char| !is_of_number(letter)).any(|word| normal(word) == wanted)
            }
            Subject::Contact(value) => occurs(&raw.to_lowercase(), &normal(value)),
        }
    }
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

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn means(value: &Value, wanted: &str) -> bool {
    text(value).is_some_and(|value| normal(&value) == wanted)
}

fn normal(value: &str) -> String {
    let value = value.trim();
    if !is_number(value) {
        return value.to_lowercase();
    }
    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
    digits.strip_prefix("00").unwrap_or(&digits).to_owned()
}

fn is_of_number(letter: char) -> bool {
    letter.is_ascii_digit() || "+-()./ ".contains(letter)
}

fn is_number(value: &str) -> bool {
    value.chars().all(is_of_number) && value.chars().filter(char::is_ascii_digit).count() >= SHORTEST_NUMBER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(value: &str) -> Subject {
        Subject::Contact(value.to_owned())
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let metadata = r#"{"segmentId":"s","contactEndpointAddress":"+1 (201) 377-0791"}"#;
        for value in ["12013770791", "+12013770791", "0012013770791", " 1-201-377-0791 ", "1.201.377.0791"] {
            assert!(contact(value).in_metadata(metadata), "{value}");
        }
        for value in ["2013770791", "+442013770791", "1201377079", "377-0791", ""] {
            assert!(!contact(value).in_metadata(metadata), "{value}");
        }
        assert!(contact("2013770791").in_metadata(r#"{"contactEndpointAddress":2013770791}"#));
    }

    #[test]
    fn a_number_without_its_country_code_is_told_to_be_alike() {
        let metadata = r#"{"contactEndpointAddress":"+49 30 1234567"}"#;
        for value in ["030 1234567", "301234567", "1234567"] {
            assert!(contact(value).resembles(metadata) && !contact(value).in_metadata(metadata), "{value}");
        }
        for value in ["004930 1234567", "234567", "+49 30 1234568", "jane", ""] {
            assert!(!contact(value).resembles(metadata), "{value}");
        }
        assert!(contact("+49 30 1234567").resembles(r#"{"contactEndpointAddress":"0301234567"}"#));
        assert!(!contact("1234567").resembles(r#"{"contactEndpointAddress":"jane"}"#));
    }

    #[test]
    fn an_address_is_the_same_in_capitals() {
        let metadata = r#"{"contactEndpointAddress":"Jane.Doe@Example.com"}"#;
        assert!(contact("jane.doe@example.COM ").in_metadata(metadata));
        assert!(!contact("doe@example.com").in_metadata(metadata));
        assert!(!contact("jane").in_metadata("no JSON with jane"));
    }

    #[test]
    fn a_contact_is_found_in_a_transcript_and_an_agent_of_that_name_is_not() {
        let body = br#"{"transcript":[{"participantId":"c-1","participantName":"Jane Doe","participantType":"contact","message":"hi"},
            {"participantId":"a-1","participantName":"John Roe","participantType":"agent","message":"Max Muster"}]}"#;
        for value in ["jane doe", "c-1", "C-1"] {
            assert!(contact(value).in_transcript(body), "{value}");
        }
        for value in ["john roe", "a-1", "jane", "hi", "max muster"] {
            assert!(!contact(value).in_transcript(body), "{value}");
        }
        assert!(!contact("x").in_transcript(b"[]") && !contact("x").in_transcript(b"oops"));
        assert!(!Subject::Segment("c-1".into()).in_transcript(body));
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
    fn what_is_no_json_is_searched_for_whole_words() {
        let raw = r#"{"segmentId":"seg-1","dialogId":["dia-7"],"contact":"+1 201 377 0791", Jane DOE"#;
        assert!(Subject::Segment("seg-1".into()).in_record(raw));
        assert!(!Subject::Segment("seg".into()).in_record(raw) && !Subject::Segment("eg-1".into()).in_record(raw));
        assert!(Subject::Dialog("dia-7".into()).in_record(raw));
        assert!(contact("12013770791").in_record(raw) && !contact("2013770791").in_record(raw));
        assert!(contact("jane doe").in_record(raw) && !contact("ane doe").in_record(raw));
    }

    #[test]
    fn a_kind_is_read_back_as_it_was_written() {
        for subject in [Subject::Segment("a".into()), Subject::Dialog("b".into()), contact("c")] {
            assert_eq!(Subject::of(subject.kind(), subject.value().to_owned()), Some(subject));
        }
        assert_eq!(Subject::of("other", String::new()), None);
    }
}
