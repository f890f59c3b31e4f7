//! Matching of segments and quarantined records with subjects and legal holds. Pure.

use std::collections::HashSet;

use crate::db::{AccountKey, Hold, QuarantinedText, SegmentRef, SegmentTexts};
use crate::lenient_json;
use crate::model::{Certainty, Participants, Subject, contains_word};

/// The participants of a segment according to its texts; none where it was deleted in the meantime.
pub(super) fn participants_of(texts: Option<&SegmentTexts>) -> Participants {
    let Some(texts) = texts else { return Participants::default() };
    let metadata = texts.metadata.iter().map(String::as_str);
    let mut participants = Participants::read(metadata, texts.transcripts.iter().map(Vec::as_slice));
    participants.is_unreadable |= texts.is_damaged;
    participants.fragments = texts.fragments.iter().map(|text| lenient_json::decode_lossy(text).into_owned()).collect();
    participants
}

/// The hold that keeps this segment, with its certainty; of several the most certain. A hold also
/// keeps possible matches.
pub(super) fn find_hold<'a>(
    holds: &'a [Hold],
    segment: &SegmentRef,
    participants: Option<&Participants>,
) -> Option<(&'a Hold, Certainty)> {
    let certainty = |hold: &Hold| {
        if hold.subject.matches_ids(&segment.segment_id, segment.dialog_id.as_deref()) {
            return Certainty::Certain;
        }
        participants.map_or(Certainty::Not, |participants| hold.subject.match_participants(participants).certainty)
    };
    let of_account = holds.iter().filter(|hold| covers_account(hold, segment.account));
    let kept = of_account.map(|hold| (hold, certainty(hold))).filter(|(_, certainty)| *certainty > Certainty::Not);
    // `max_by_key` returns the last of equals; the first is wanted.
    kept.rev().max_by_key(|(_, certainty)| *certainty)
}

/// Whether a subject, or the deletion of these segments, concerns this quarantined record.
pub(super) fn match_quarantined(
    subject: &Subject,
    deleted_ids: &HashSet<(AccountKey, &str)>,
    record: &QuarantinedText,
) -> Certainty {
    let with_segment = match &record.segment_id {
        Some(id) => subject.matches_ids(id, None) || deleted_ids.contains(&(record.account, id.as_str())),
        None => deleted_ids.iter().any(|(account, id)| *account == record.account && contains_word(&record.raw, id)),
    };
    if with_segment { Certainty::Certain } else { subject.match_record_text(&record.raw) }
}

/// The first hold that keeps this quarantined record.
pub(super) fn find_quarantine_hold<'a>(holds: &'a [Hold], record: &QuarantinedText) -> Option<&'a Hold> {
    holds.iter().find(|hold| holds_quarantined(hold, record))
}

/// Whether a hold concerns this quarantined record, or may do so.
pub(super) fn holds_quarantined(hold: &Hold, record: &QuarantinedText) -> bool {
    covers_account(hold, record.account)
        && hold.subject.match_record(record.segment_id.as_deref(), &record.raw) > Certainty::Not
}

pub(super) fn covers_account(hold: &Hold, account: AccountKey) -> bool {
    hold.account.is_none_or(|own| own == account)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    fn segment(account: i64, id: &str, dialog: Option<&str>) -> SegmentRef {
        SegmentRef {
            key: 1,
            account: AccountKey(account),
            sub: "1".into(),
            segment_id: id.into(),
            dialog_id: dialog.map(str::to_owned),
            ended: Time(0),
        }
    }

    fn hold(id: i64, account: Option<i64>, subject: Subject) -> Hold {
        Hold { id, account: account.map(AccountKey), subject, reason: None, placed: Time(0), who: "me".into() }
    }

    fn texts(contact: &str) -> SegmentTexts {
        SegmentTexts {
            metadata: vec![format!(r#"{{"contactEndpointAddress":"{contact}"}}"#)],
            ..SegmentTexts::default()
        }
    }

    fn record(account: i64, id: Option<&str>, raw: &str) -> QuarantinedText {
        QuarantinedText {
            account: AccountKey(account),
            digest: vec![1],
            segment_id: id.map(str::to_owned),
            raw: raw.into(),
        }
    }

    #[test]
    fn a_hold_keeps_its_subject_in_its_account_only() {
        let holds = [
            hold(1, Some(2), Subject::Segment("s".into())),
            hold(2, None, Subject::Dialog("d".into())),
            hold(3, None, Subject::Contact("+49 30 123456".into())),
        ];
        let by = |segment: &SegmentRef, texts: Option<&SegmentTexts>| {
            let participants = texts.map(|texts| participants_of(Some(texts)));
            find_hold(&holds, segment, participants.as_ref()).map(|(hold, _)| hold.id)
        };
        assert_eq!(by(&segment(2, "s", None), None), Some(1));
        assert_eq!(by(&segment(1, "s", None), None), None);
        assert_eq!(by(&segment(1, "s", Some("d")), None), Some(2));
        assert_eq!(by(&segment(1, "t", None), Some(&texts("004930123456"))), Some(3));
        assert_eq!(by(&segment(1, "t", None), Some(&texts("030123456"))), Some(3), "within the country");
        assert_eq!(by(&segment(1, "t", None), Some(&texts("30123456"))), Some(3), "alike");
        assert_eq!(by(&segment(1, "t", None), Some(&texts("030123457"))), None);
        assert_eq!(by(&segment(1, "t", Some("d")), Some(&texts("30123456"))), Some(2), "the more certain");
        let is_damaged = SegmentTexts { is_damaged: true, ..texts("030123457") };
        assert_eq!(by(&segment(1, "t", None), Some(&is_damaged)), Some(3), "it may be that contact's");
        let page = SegmentTexts { fragments: vec![b"<html>502".to_vec()], ..texts("1") };
        assert_eq!(by(&segment(1, "t", None), Some(&page)), None, "it will be asked for again");
        let page = SegmentTexts { fragments: vec![b"<html>+49 30 123456".to_vec()], ..texts("1") };
        assert_eq!(by(&segment(1, "t", None), Some(&page)), Some(3));
        let unread = SegmentTexts { transcripts: vec![b"{".to_vec()], ..texts("1") };
        assert_eq!(by(&segment(1, "t", None), Some(&unread)), Some(3), "it may be that contact's");
        assert_eq!(by(&segment(2, "s", None), Some(&unread)), Some(1));
    }

    #[test]
    fn a_quarantined_record_matches_by_its_segment_or_its_content() {
        let contact = Subject::Contact("jane@example.com".into());
        let deleted_ids = HashSet::from([(AccountKey(1), "s-1")]);
        for (record, certainty) in [
            (record(1, Some("s-1"), "{}"), Certainty::Certain),
            (record(1, None, r#"{"segmentId":["s-1"]}"#), Certainty::Certain),
            (record(1, None, "mail JANE@example.com"), Certainty::Certain),
            (record(1, None, "no JSON"), Certainty::Unreadable),
            (record(2, Some("s-1"), "{}"), Certainty::Not),
            (record(1, Some("s-2"), r#"{"note":"like s-1"}"#), Certainty::Not),
        ] {
            assert_eq!(match_quarantined(&contact, &deleted_ids, &record), certainty, "{record:?}");
        }
    }

    #[test]
    fn a_hold_keeps_a_quarantined_record() {
        let holds = [hold(1, None, Subject::Segment("s".into())), hold(2, Some(7), Subject::Dialog("d".into()))];
        assert!(find_quarantine_hold(&holds, &record(1, Some("s"), "x")).is_some());
        assert!(find_quarantine_hold(&holds, &record(7, None, "broken, of dialog d")).is_some());
        assert!(find_quarantine_hold(&holds, &record(1, None, "broken, of dialog d")).is_none());
        let holds = [hold(1, None, Subject::Contact("+12013770791".into()))];
        assert!(find_quarantine_hold(&holds, &record(1, None, "call 201-377-0791, cut o")).is_some());
    }
}
