//! Who is meant, who is held, and when retention acts. Pure.

use std::collections::HashSet;
use std::time::Duration;

use crate::db::{AsideText, Hold, SegmentRef, Texts};
use crate::lenient_json;
use crate::model::{Certainty, Participants, Subject, occurs};

/// How long retention lets things gather at the most.
const LONGEST_SLACK: Duration = Duration::from_secs(24 * 3600);

/// How far past retention the oldest may be before anything is taken: so that it is done in portions, and not every hour for
/// a handful.
pub fn slack(retention: Duration) -> Duration {
    (retention / 100).min(LONGEST_SLACK)
}

/// Who takes part in a segment, as its texts say; nobody where it is gone meanwhile.
pub(super) fn participants(texts: Option<&Texts>) -> Participants {
    let Some(texts) = texts else { return Participants::default() };
    let metadata = texts.metadata.iter().map(String::as_str);
    let mut participants = Participants::read(metadata, texts.transcripts.iter().map(Vec::as_slice));
    participants.is_unreadable |= texts.damaged;
    participants.fragments = texts.fragments.iter().map(|text| lenient_json::decode(text).into_owned()).collect();
    participants
}

/// The hold that keeps this segment, and how certainly it means it: of several the most certain. A hold keeps what it may
/// mean, too: rather too much than too little.
pub(super) fn held_by<'a>(
    holds: &'a [Hold],
    segment: &SegmentRef,
    participants: Option<&Participants>,
) -> Option<(&'a Hold, Certainty)> {
    let certainty = |hold: &Hold| {
        if hold.subject.names(&segment.segment_id, segment.dialog_id.as_deref()) {
            return Certainty::Certain;
        }
        participants.map_or(Certainty::Not, |participants| hold.subject.concern(participants).certainty)
    };
    let of_account = holds.iter().filter(|hold| concerns(hold, segment.account));
    let kept = of_account.map(|hold| (hold, certainty(hold))).filter(|(_, certainty)| *certainty > Certainty::Not);
    // Of equals the first.
    kept.rev().max_by_key(|(_, certainty)| *certainty)
}

/// Whether a request, or the erasure of these segments, is about this record.
pub(super) fn aside_is_meant(subject: &Subject, going: &HashSet<(i64, &str)>, aside: &AsideText) -> Certainty {
    let with_a_segment = match &aside.segment_id {
        Some(id) => subject.names(id, None) || going.contains(&(aside.account, id.as_str())),
        None => going.iter().any(|(account, id)| *account == aside.account && occurs(&aside.raw, id)),
    };
    if with_a_segment { Certainty::Certain } else { subject.in_record(&aside.raw) }
}

/// The first hold that keeps this record.
pub(super) fn aside_held_by<'a>(holds: &'a [Hold], aside: &AsideText) -> Option<&'a Hold> {
    holds.iter().find(|hold| keeps_aside(hold, aside))
}

/// Whether a hold keeps this record, or may mean it.
pub(super) fn keeps_aside(hold: &Hold, aside: &AsideText) -> bool {
    concerns(hold, aside.account)
        && hold.subject.concerns_record(aside.segment_id.as_deref(), &aside.raw) > Certainty::Not
}

pub(super) fn concerns(hold: &Hold, account: i64) -> bool {
    hold.account.is_none_or(|own| own == account)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    fn segment(account: i64, id: &str, dialog: Option<&str>) -> SegmentRef {
        SegmentRef {
            key: 1,
            account,
            sub: "1".into(),
            segment_id: id.into(),
            dialog_id: dialog.map(str::to_owned),
            ended: Time(0),
        }
    }

    fn hold(id: i64, account: Option<i64>, subject: Subject) -> Hold {
        Hold { id, account, subject, reason: None, placed: Time(0), who: "me".into() }
    }

    fn texts(contact: &str) -> Texts {
        Texts { metadata: vec![format!(r#"{{"contactEndpointAddress":"{contact}"}}"#)], ..Texts::default() }
    }

    fn aside(account: i64, id: Option<&str>, raw: &str) -> AsideText {
        AsideText { account, digest: vec![1], segment_id: id.map(str::to_owned), raw: raw.into() }
    }

    #[test]
    fn a_hold_keeps_what_it_names_in_its_account_only() {
        let holds = [
            hold(1, Some(2), Subject::Segment("s".into())),
            hold(2, None, Subject::Dialog("d".into())),
            hold(3, None, Subject::Contact("+49 30 123456".into())),
        ];
        let by = |segment: &SegmentRef, texts: Option<&Texts>| {
            let participants = texts.map(|texts| participants(Some(texts)));
            held_by(&holds, segment, participants.as_ref()).map(|(hold, _)| hold.id)
        };
        assert_eq!(by(&segment(2, "s", None), None), Some(1));
        assert_eq!(by(&segment(1, "s", None), None), None);
        assert_eq!(by(&segment(1, "s", Some("d")), None), Some(2));
        assert_eq!(by(&segment(1, "t", None), Some(&texts("004930123456"))), Some(3));
        assert_eq!(by(&segment(1, "t", None), Some(&texts("030123456"))), Some(3), "within the country");
        assert_eq!(by(&segment(1, "t", None), Some(&texts("30123456"))), Some(3), "alike");
        assert_eq!(by(&segment(1, "t", None), Some(&texts("030123457"))), None);
        assert_eq!(by(&segment(1, "t", Some("d")), Some(&texts("30123456"))), Some(2), "the more certain");
        let damaged = Texts { damaged: true, ..texts("030123457") };
        assert_eq!(by(&segment(1, "t", None), Some(&damaged)), Some(3), "it may be that contact's");
        let page = Texts { fragments: vec![b"<html>502".to_vec()], ..texts("1") };
        assert_eq!(by(&segment(1, "t", None), Some(&page)), None, "it will be asked for again");
        let page = Texts { fragments: vec![b"<html>+49 30 123456".to_vec()], ..texts("1") };
        assert_eq!(by(&segment(1, "t", None), Some(&page)), Some(3));
        let unread = Texts { transcripts: vec![b"{".to_vec()], ..texts("1") };
        assert_eq!(by(&segment(1, "t", None), Some(&unread)), Some(3), "it may be that contact's");
        assert_eq!(by(&segment(2, "s", None), Some(&unread)), Some(1));
    }

    #[test]
    fn a_record_goes_with_its_segment_or_for_what_it_says() {
        let contact = Subject::Contact("jane@example.com".into());
        let going = HashSet::from([(1, "s-1")]);
        for (aside, certainty) in [
            (aside(1, Some("s-1"), "{}"), Certainty::Certain),
            (aside(1, None, r#"{"segmentId":["s-1"]}"#), Certainty::Certain),
            (aside(1, None, "mail JANE@example.com"), Certainty::Certain),
            (aside(1, None, "no JSON"), Certainty::Unreadable),
            (aside(2, Some("s-1"), "{}"), Certainty::Not),
            (aside(1, Some("s-2"), r#"{"note":"like s-1"}"#), Certainty::Not),
        ] {
            assert_eq!(aside_is_meant(&contact, &going, &aside), certainty, "{aside:?}");
        }
    }

    #[test]
    fn a_hold_keeps_a_record_too() {
        let holds = [hold(1, None, Subject::Segment("s".into())), hold(2, Some(7), Subject::Dialog("d".into()))];
        assert!(aside_held_by(&holds, &aside(1, Some("s"), "x")).is_some());
        assert!(aside_held_by(&holds, &aside(7, None, "broken, of dialog d")).is_some());
        assert!(aside_held_by(&holds, &aside(1, None, "broken, of dialog d")).is_none());
        let holds = [hold(1, None, Subject::Contact("+12013770791".into()))];
        assert!(aside_held_by(&holds, &aside(1, None, "call 201-377-0791, cut o")).is_some());
    }

    #[test]
    fn retention_waits_for_a_hundredth_and_never_for_more_than_a_day() {
        let secs = Duration::from_secs;
        assert_eq!(slack(secs(100)), secs(1));
        assert_eq!(slack(secs(2555 * 86_400)), secs(86_400));
    }
}
