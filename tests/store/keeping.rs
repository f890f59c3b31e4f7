//! What is erased is gone and does not come back; what is held stays; retention takes what is past it; and all of it is
//! counted and written down. On both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::audit::{Audit, Question, audit};
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{
    Announced, BrokenAnswer, Chunk, Claim, Db, DbFault, Done, Entry, Erased, ExportRange, Gone, Owned, Reading,
    Scrubbed, SegmentRef, Settled, Settlement, sql,
};
use ringcx_extractor::keeping::{self, Cursor, Found, Request};
use ringcx_extractor::model::{
    AccountId, ArtifactSet, AsideRecord, Lane, SegmentRecord, State, Stretch, Stretches, Subject, SummariesFor, Wants,
};
use support::TestDb;

crate::on_both! {
    a_person_is_found_in_every_field_and_in_every_writing,
    what_is_only_alike_is_named_and_left_unless_it_is_included,
    what_cannot_be_read_is_on_hold_and_is_named,
    a_value_that_lost_a_letter_is_named_and_held,
    a_record_that_cannot_be_read_is_named_and_held,
    an_answer_that_will_be_asked_for_again_hides_nobody_and_holds_up_nothing,
    a_hold_of_a_kind_that_is_not_known_keeps_everything,
    without_its_key_the_archive_neither_erases_nor_takes_in,
    a_hold_says_how_much_it_keeps,
    what_is_erased_does_not_come_back_and_is_counted,
    a_dialog_goes_whole_and_in_all_accounts,
    a_contact_is_found_in_metadata_old_and_new_and_in_transcripts,
    what_was_under_way_for_an_erased_segment_counts_for_nothing,
    a_number_once_used_is_never_used_again,
    an_id_that_is_not_there_yet_is_kept_out,
    records_set_aside_go_too_and_stay_away,
    a_segment_that_a_record_set_aside_names_too_is_counted_once,
    a_hold_keeps_what_it_names,
    a_hold_placed_between_looking_and_erasing_is_heeded,
    retention_takes_what_is_past_it_and_nothing_else,
    retention_is_its_owners_alone,
    an_unusual_pass_leaves_out_what_is_held_and_its_notice_is_kept,
    retention_knows_when_the_archive_was_last_written,
    what_is_past_retention_when_it_is_announced_is_not_taken_in,
    what_is_announced_while_it_is_erased_does_not_stay,
    the_journal_only_grows,
    thousands_go_at_once,
}

const DAY: i64 = 86_400_000;
const NOW: Time = Time(20_000 * DAY + DAY / 2);
const ALL: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

fn ago(minutes: i64) -> Time {
    NOW.plus_millis(-minutes * 60_000)
}

fn record(id: &str, dialog: &str, end: Option<Time>, contact: &str) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(dialog.to_owned()),
        end,
        has_transcript: true,
        is_agent: true,
        raw: format!(r#"{{"segmentId":"{id}","dialogId":"{dialog}","contactEndpointAddress":"{contact}"}}"#),
    }
}

async fn own(db: &Db, sub: &str) -> Owned {
    let account = db.enrol(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.take(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

const READ: Stretch = Stretch { from: Time(20_000 * DAY - 300 * DAY), to: Time(20_000 * DAY + DAY / 2 - 360_000) };

async fn announce(db: &Db, owned: Owned, records: &[SegmentRecord]) -> Announced {
    announce_all(db, owned, Lane::Recheck, (records, &[]), None).await
}

async fn announce_all(
    db: &Db,
    owned: Owned,
    lane: Lane,
    (records, asides): (&[SegmentRecord], &[AsideRecord]),
    kept_since: Option<Time>,
) -> Announced {
    let known = Stretches::default();
    let repair = Duration::from_secs(60);
    let (stretch, urgent_before) = (READ, None);
    let chunk =
        Chunk { owned, lane, stretch, now: NOW, wants: ALL, known: &known, urgent_before, repair, records, asides };
    db.announce_kept(chunk, kept_since).await.unwrap()
}

async fn claims(db: &Db, owned: Owned) -> Vec<Claim> {
    db.due(owned, ArtifactSet::ALL, NOW, 50_000).await.unwrap()
}

fn stored(claim: Claim, body: String) -> Settled {
    Settled { claim, at: NOW, settlement: Settlement::stored(&Bytes::from(body), Some(NOW + Duration::from_secs(60))) }
}

fn failed(claim: Claim, reason: &str) -> Settled {
    let (state, due, reason) = (State::Open, NOW, reason.to_owned());
    Settled {
        claim,
        at: NOW,
        settlement: Settlement::Failed { state, due, misses: 1, refusals: 0, status: Some(404), reason, broken: None },
    }
}

/// Announces, and fetches everything.
async fn filled(db: &Db, owned: Owned, records: &[SegmentRecord]) {
    let announced = announce(db, owned, records).await;
    db.start_live(owned.account, READ.from).await.unwrap();
    let reading = Reading {
        at: NOW,
        done: NOW,
        lane: Lane::Live,
        stretch: READ,
        announced,
        passes: vec![("live".to_owned(), READ)],
        finished: Vec::new(),
    };
    db.record_reading(owned, &reading).await.unwrap();
    let batch: Vec<Settled> = claims(db, owned)
        .await
        .into_iter()
        .map(|claim| stored(claim, r#"{"transcript":[{"message":"said"}]}"#.to_owned()))
        .collect();
    for part in batch.chunks(1000) {
        assert!(db.settle(part).await.unwrap().iter().all(|counted| *counted));
    }
}

fn request(subject: Subject) -> Request {
    Request {
        subject,
        account: None,
        who: "officer@host".to_owned(),
        reason: Some("a request".to_owned()),
        include_alike: false,
        include_unreadable: false,
    }
}

fn contact(value: &str) -> Subject {
    Subject::Contact(value.to_owned())
}

fn segment(id: &str) -> Subject {
    Subject::Segment(id.to_owned())
}

async fn erase(db: &Db, request: &Request) -> (Erased, Found) {
    let found = keeping::look(db, request, &mut |_| {}).await.unwrap();
    let done = keeping::erase(db, request, found, NOW, &mut |_| {}).await.unwrap();
    db.forget_for_good().await.unwrap();
    done
}

async fn ids(db: &Db) -> Vec<String> {
    let segments = db.segments_after(ExportRange::default(), None, 100_000).await.unwrap();
    segments.into_iter().map(|segment| segment.segment_id).collect()
}

async fn count(db: &Db, table: &'static str) -> i64 {
    db.first(ringcx_extractor::db::Stmt::built(format!("select count(*) from {table}")))
        .await
        .unwrap()
        .unwrap()
        .int(0)
        .unwrap()
}

async fn ask(db: &Db) -> Audit {
    let question = Question {
        from: None,
        to: None,
        account: None,
        now: NOW,
        offset: Duration::from_secs(300),
        interval: Duration::from_secs(300),
        configured: Vec::new(),
    };
    audit(db, &question).await.unwrap()
}

async fn hold(db: &Db, subject: Subject, account: Option<i64>) -> i64 {
    let entry =
        Entry { who: "officer@host".into(), what: Done::Hold, subject: Some(subject), hold: None, reason: None };
    db.place_hold(&entry, account, NOW).await.unwrap()
}

async fn what_is_erased_does_not_come_back_and_is_counted(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let records = [
        record("one", "d1", Some(ago(100)), "1"),
        record("two", "d2", Some(ago(90)), "2"),
        record("three", "d3", None, "3"),
    ];
    filled(db, owned, &records).await;
    for id in ["one", "three"] {
        let (erased, found) = erase(db, &request(segment(id))).await;
        assert_eq!((erased, found.is_held()), (Erased { segments: 1, records: 0, unknown: 0 }, false));
    }
    assert_eq!(ids(db).await, ["two"]);
    for (table, left) in [("artifact", 3), ("work", 3), ("attempt", 0), ("segment_version", 0), ("tombstone", 2)] {
        assert_eq!(count(db, table).await, left, "{table}");
    }
    let fresh = own(db, "a").await;
    for lane in [Lane::Recheck, Lane::Backfill] {
        let again = announce_all(db, fresh, lane, (&records, &[]), None).await;
        assert_eq!((again.segments, again.added, again.queued), (3, 0, 0), "it still counts as announced, and no more");
    }
    assert_eq!(ids(db).await, ["two"]);
    let answer = ask(db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    let account = &answer.accounts[0];
    assert_eq!((account.segments.announced, account.segments.erased, account.ledger.held), (3, 2, 1));
    assert!(account.artifacts.iter().all(|artifact| (artifact.asked, artifact.stored, artifact.erased) == (3, 1, 2)));
    assert_eq!(db.tombstone("one", None).await.unwrap().map(|stone| stone.gone), Some(Gone::Erased));
    assert_eq!(db.tombstone("two", None).await.unwrap(), None);
    let (_, found) = erase(db, &request(segment("one"))).await;
    assert!(found.is_nothing());
}

async fn a_dialog_goes_whole_and_in_all_accounts(test: TestDb) {
    let db = &test.db;
    let (first, second) = (own(db, "a").await, own(db, "b").await);
    let end = Some(ago(100));
    filled(db, first, &[record("one", "d", end, "1"), record("two", "d", end, "1"), record("three", "e", end, "1")])
        .await;
    filled(db, second, &[record("one", "d", end, "1")]).await;
    let of_one = Request { account: Some(second.account), ..request(Subject::Dialog("d".into())) };
    assert_eq!(erase(db, &of_one).await.0.segments, 1);
    assert_eq!(erase(db, &request(Subject::Dialog("d".into()))).await.0.segments, 2);
    assert_eq!(ids(db).await, ["three"]);
    assert!(ask(db).await.complete);
}

async fn a_contact_is_found_in_metadata_old_and_new_and_in_transcripts(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let end = Some(ago(100));
    let records = [
        record("now", "d1", end, "+1 (201) 377-0791"),
        record("before", "d2", end, "0012013770791"),
        record("national", "d3", end, "2013770791"),
        record("spoken", "d4", end, ""),
        record("agent", "d5", end, ""),
    ];
    announce(db, owned, &records).await;
    announce(db, owned, &[record("before", "d2", end, "changed")]).await;
    let said = |kind: &str| {
        format!(r#"{{"transcript":[{{"participantType":"{kind}","participantName":"12013770791","message":"x"}}]}}"#)
    };
    let batch: Vec<Settled> = claims(db, owned)
        .await
        .into_iter()
        .map(|claim| {
            let kind = if claim.segment_id == "spoken" { "contact" } else { "agent" };
            stored(claim, said(kind))
        })
        .collect();
    db.settle(&batch).await.unwrap();
    let (erased, found) = erase(db, &request(Subject::Contact("+12013770791".into()))).await;
    assert_eq!((erased.segments, named(&found.alike)), (3, vec!["national"]));
    assert_eq!(ids(db).await, ["agent", "national"]);
}

async fn what_was_under_way_for_an_erased_segment_counts_for_nothing(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    announce(db, owned, &[record("one", "d", Some(ago(100)), "1"), record("two", "d2", Some(ago(90)), "1")]).await;
    let mut batch = Vec::new();
    for (nth, claim) in claims(db, owned).await.into_iter().filter(|claim| claim.segment_id == "one").enumerate() {
        let revisited = Claim { visit: 1, ..claim.clone() };
        batch.push(match nth {
            0 => stored(claim, "secret".into()),
            1 => failed(claim, "secret"),
            _ => {
                let settlement = Settlement::Failed {
                    state: State::Unavailable,
                    due: NOW,
                    misses: 1,
                    refusals: 0,
                    status: None,
                    reason: "secret".into(),
                    broken: None,
                };
                Settled { claim: revisited, at: NOW, settlement }
            }
        });
    }
    assert_eq!(batch.len(), 3);
    erase(db, &request(segment("one"))).await;
    assert_eq!(db.settle(&batch).await.unwrap(), [false, false, false]);
    for (table, left) in [("artifact", 0), ("attempt", 0), ("work", 3), ("segment", 1)] {
        assert_eq!(count(db, table).await, left, "{table}");
    }
}

async fn a_number_once_used_is_never_used_again(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let end = Some(ago(100));
    announce(db, owned, &[record("one", "d", end, "1"), record("two", "d", end, "1")]).await;
    let late = claims(db, owned).await.into_iter().find(|claim| claim.segment_id == "two").unwrap();
    erase(db, &request(segment("two"))).await;
    announce(db, owned, &[record("three", "d", end, "1"), record("four", "d", end, "1")]).await;
    erase(db, &request(segment("four"))).await;
    announce(db, owned, &[record("five", "d", end, "1")]).await;
    let mut keys = Vec::new();
    for id in ["one", "three", "five"] {
        keys.push(db.segments_named(id).await.unwrap()[0].key);
    }
    assert!(keys.iter().all(|key| *key != late.item.segment()), "{keys:?}");
    // What came late for the erased one must not become another's.
    assert_eq!(db.settle(&[stored(late, "of two".into())]).await.unwrap(), [false]);
    assert_eq!(count(db, "artifact").await, 0);
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

async fn an_id_that_is_not_there_yet_is_kept_out(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &[record("other", "d", Some(ago(100)), "1")]).await;
    let (_, found) = erase(db, &request(segment("early"))).await;
    assert!(found.is_nothing(), "without an account it cannot be kept out");
    let named = Request { account: Some(owned.account), ..request(segment("early")) };
    assert_eq!(erase(db, &named).await.0, Erased { segments: 0, records: 0, unknown: 1 });
    assert!(erase(db, &named).await.1.is_nothing(), "once is enough");
    assert_eq!(ask(db).await.accounts[0].segments.erased, 0, "nothing was announced yet");
    for _ in 0..2 {
        let again = announce(db, owned, &[record("early", "d", Some(ago(50)), "1")]).await;
        assert_eq!((again.segments, again.added), (1, 0));
    }
    assert_eq!(ids(db).await, ["other"]);
    let answer = ask(db).await;
    assert!(answer.complete);
    assert_eq!(answer.accounts[0].segments.erased, 1, "counted once, when it was announced");
}

async fn records_set_aside_go_too_and_stay_away(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let aside = |id: Option<&str>, raw: &str| AsideRecord {
        segment_id: id.map(str::to_owned),
        reason: "it is broken".to_owned(),
        raw: raw.to_owned(),
    };
    let asides = [
        aside(Some("one"), r#"{"segmentId":"one","hasTranscript":"?"}"#),
        aside(None, "mail of Jane@Example.com, cut o"),
        aside(Some("two"), r#"{"segmentId":"two","contactEndpointAddress":"JANE@example.com"}"#),
        aside(None, "mail of joe@example.com"),
    ];
    let first = announce_all(db, owned, Lane::Live, (&[], &asides), None).await;
    assert_eq!(first.aside, 4);
    assert_eq!(erase(db, &request(segment("one"))).await.0.records, 1);
    assert_eq!(erase(db, &request(Subject::Contact("jane@example.com".into()))).await.0.records, 2);
    let again = announce_all(db, owned, Lane::Recheck, (&[], &asides), None).await;
    assert_eq!(again.aside, 1);
    assert_eq!(count(db, "aside").await, 1);
    // Understood at last, it is kept out all the same, and counted.
    announce(db, owned, &[record("one", "d", Some(ago(50)), "1")]).await;
    assert_eq!(ids(db).await, Vec::<String>::new());
    assert_eq!(ask(db).await.accounts[0].segments.erased, 1);
}

async fn a_segment_that_a_record_set_aside_names_too_is_counted_once(test: TestDb) {
    let (db, owned) = (&test.db, own(&test.db, "a").await);
    let one = [record("one", "d", Some(ago(60)), "x")];
    let raw = r#"{"segmentId":"one","dialogId":null,"hasTranscript":true}"#.to_owned();
    let aside = [AsideRecord { segment_id: Some("one".to_owned()), reason: "broken".to_owned(), raw }];
    announce_all(db, owned, Lane::Live, (&one, &aside), None).await;
    let (erased, _) = erase(db, &request(segment("one"))).await;
    assert_eq!((erased.segments, erased.records), (1, 1));
    announce(db, owned, &one).await;
    let gone = db.first(sql("select cast(sum(segments) as bigint) from erased")).await.unwrap().unwrap();
    assert_eq!(gone.int(0).unwrap(), 1);
}

async fn a_hold_keeps_what_it_names(test: TestDb) {
    let db = &test.db;
    let (owned, other) = (own(db, "a").await, own(db, "b").await);
    let end = Some(ago(100));
    filled(db, owned, &[record("one", "d", end, "+49 30 123456"), record("two", "d", end, "1")]).await;
    filled(db, other, &[record("one", "d", end, "1")]).await;
    let kept = hold(db, Subject::Contact("004930123456".into()), None).await;
    let (erased, found) = erase(db, &request(Subject::Dialog("d".into()))).await;
    assert_eq!((erased.segments, found.held.len()), (2, 1), "the others go");
    assert_eq!(found.holds()[0].0.id, kept);
    assert_eq!(ids(db).await, ["one"]);
    // In another account it keeps nothing.
    assert!(db.release_hold(kept, "officer@host", None, NOW).await.unwrap().is_some());
    hold(db, segment("one"), Some(other.account)).await;
    assert_eq!(erase(db, &request(segment("one"))).await.0.segments, 1);
    let journal = db.journal(None).await.unwrap();
    let said: Vec<&str> = journal.iter().map(|row| row.what.as_str()).collect();
    assert_eq!(said, ["hold", "erase", "erase", "refused", "release", "hold", "erase"]);
    assert!(db.release_hold(99, "officer@host", None, NOW).await.unwrap().is_none());
    let of_contact = db.journal(Some(&Subject::Contact("+49 30 123 456".into()))).await.unwrap();
    assert_eq!(of_contact.len(), 2, "it was held and released");
}

async fn a_hold_placed_between_looking_and_erasing_is_heeded(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &[record("one", "d", Some(ago(100)), "1"), record("two", "d", Some(ago(100)), "1")]).await;
    let request = request(Subject::Dialog("d".into()));
    let found = keeping::look(db, &request, &mut |_| {}).await.unwrap();
    hold(db, segment("two"), None).await;
    let (erased, found) = keeping::erase(db, &request, found, NOW, &mut |_| {}).await.unwrap();
    assert_eq!((erased.segments, found.held.len()), (1, 1));
    assert_eq!(ids(db).await, ["two"]);
}

fn named(segments: &[SegmentRef]) -> Vec<&str> {
    segments.iter().map(|segment| segment.segment_id.as_str()).collect()
}

/// A segment with these further fields, of `(id, fields)`.
fn with_fields(id: &str, fields: &str) -> SegmentRecord {
    let raw = format!(r#"{{"segmentId":"{id}","dialogId":"d-{id}"{fields}}}"#);
    SegmentRecord { raw, ..record(id, &format!("d-{id}"), Some(ago(100)), "") }
}

/// Announces these, with the same fields but for the id, and stores a transcript for those that have one.
async fn talked(db: &Db, owned: Owned, segments: &[(&str, &str, &str)]) {
    let records: Vec<SegmentRecord> = segments.iter().map(|(id, fields, _)| with_fields(id, fields)).collect();
    announce(db, owned, &records).await;
    let body = |id: &str| segments.iter().find(|(of, ..)| *of == id).map_or("", |(.., body)| body).to_owned();
    let batch: Vec<Settled> = claims(db, owned)
        .await
        .into_iter()
        .map(|claim| match body(&claim.segment_id) {
            body if body.is_empty() || claim.item.0 % 4 != 0 => stored(claim, "{}".to_owned()),
            body => stored(claim, body),
        })
        .collect();
    assert!(db.settle(&batch).await.unwrap().iter().all(|counted| *counted));
}

async fn a_person_is_found_in_every_field_and_in_every_writing(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let segments = [
        ("channel", r#","channelEndpointAddress":"+49 30 1234567""#, ""),
        ("contact", ",\"contactEndpointAddress\":\"\u{202a}+49\u{a0}30\u{2009}1234567\u{202c}\"", ""),
        ("id", r#","channelId":49301234567"#, ""),
        ("newer", r#","ani":"tel:+49-30-1234567","dnis":"1""#, ""),
        ("twice", r#","ani":"004930 1234567","ani":"x""#, ""),
        ("trunk", r#","dnis":"+49 (0)30 1234567""#, ""),
        ("national", r#","dnis":"030/1234567""#, ""),
        (
            "cut",
            "",
            r#"{"transcript":[{"participantType":"contact","participantId":"whatsapp:+49301234567","message":"cut \ud83d"}]}"#,
        ),
        (
            "customer",
            "",
            r#"{"x":1e999,"transcript":[{"participantType":"customer","participantName":"Jane <sip:+49301234567@pbx>"}]}"#,
        ),
        (
            "untyped",
            r#","segmentParticipantId":"901""#,
            r#"{"transcript":[{"participantId":"901"},{"participantId":"+49301234567","participantType":null}]}"#,
        ),
        ("agent", r#","segmentParticipantId":"+49301234567""#, r#"{"transcript":[{"participantId":"+49301234567"}]}"#),
        ("other", r#","ani":"+49301234568","agentNotes":"+49301234567""#, ""),
    ];
    talked(db, owned, &segments).await;
    let found =
        keeping::look(db, &request(contact("sips:+49301234567@example.com;user=phone")), &mut |_| {}).await.unwrap();
    let meant = ["channel", "contact", "customer", "cut", "id", "newer", "trunk", "twice", "untyped", "national"];
    assert_eq!(named(&found.segments), meant);
    assert_eq!((named(&found.national), found.agents, found.is_incomplete()), (vec!["national"], 1, false));
    for typed in ["\u{200e}00 49 30 1234567", "+４９(0)30\u{2011}1234567", "49-30-1234567", "030 1234567"] {
        assert_eq!(erase_dry(db, typed).await.len(), meant.len(), "{typed}");
    }
    // The same number in another country: one without a code may be either's.
    announce(db, owned, &[with_fields("austrian", r#","ani":"+43 30 1234567""#)]).await;
    let found = keeping::look(db, &request(contact("+49301234567")), &mut |_| {}).await.unwrap();
    assert_eq!((found.segments.len(), named(&found.alike)), (meant.len() - 1, vec!["national"]));
    let found = keeping::look(db, &request(contact("030 1234567")), &mut |_| {}).await.unwrap();
    assert_eq!((named(&found.segments), found.alike.len()), (vec!["national"], meant.len()));
    let (erased, _) = erase(db, &request(contact("+49301234567"))).await;
    assert_eq!(erased.segments, meant.len() as u64 - 1);
    assert_eq!(ids(db).await, ["agent", "austrian", "national", "other"]);
}

async fn erase_dry(db: &Db, typed: &str) -> Vec<SegmentRef> {
    keeping::look(db, &request(contact(typed)), &mut |_| {}).await.unwrap().segments
}

async fn what_is_only_alike_is_named_and_left_unless_it_is_included(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let segments = [
        ("sure", r#","ani":"+12013770791""#, ""),
        ("short", r#","ani":"2013770791""#, ""),
        ("untold", "", r#"{"transcript":[{"participantId":"12013770791"}]}"#),
    ];
    talked(db, owned, &segments).await;
    let raw = "{\"ani\":\"201-377-0791\", cut o".to_owned();
    let aside = AsideRecord { segment_id: None, reason: "broken".into(), raw };
    announce_all(db, owned, Lane::Live, (&[], &[aside]), None).await;
    let (erased, found) = erase(db, &request(contact("+1 201 377 0791"))).await;
    assert_eq!((erased.segments, erased.records, named(&found.alike)), (1, 0, vec!["short", "untold"]));
    assert!(found.is_incomplete() && found.alike_asides.len() == 1);
    let all = Request { include_alike: true, ..request(contact("+1 201 377 0791")) };
    let (erased, found) = erase(db, &all).await;
    assert_eq!((erased.segments, erased.records, found.is_incomplete()), (2, 1, false));
}

async fn what_cannot_be_read_is_on_hold_and_is_named(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let segments = [
        ("broken", "", "{"),
        ("whole", "", "{}"),
        ("half", r#","x":"\ud83d""#, r#"{"transcript":[{"message":"\ud83d"}]}"#),
    ];
    talked(db, owned, &segments).await;
    announce(db, owned, &[SegmentRecord { raw: "{".to_owned(), ..with_fields("unread", "") }]).await;
    let kept = hold(db, contact("jane@example.com"), None).await;
    let (erased, found) = erase(db, &request(contact("joe@example.com"))).await;
    assert_eq!((erased.segments, named(&found.unreadable)), (0, vec!["broken", "unread"]));
    assert!(!found.is_to_go() && found.is_incomplete() && !found.is_nothing());
    let all = Request { include_unreadable: true, ..request(contact("joe@example.com")) };
    let (erased, found) = erase(db, &all).await;
    assert_eq!((erased.segments, found.held.len(), found.holds()[0].0.id), (0, 2, kept));
    let mut cursor = Cursor::default();
    while keeping::expire(db, owned, NOW, "retention@test", NOW, &mut cursor).await.unwrap().is_some() {}
    assert_eq!((ids(db).await, cursor.unreadable), (vec!["broken".to_owned(), "unread".to_owned()], 2));
    assert!(db.release_hold(kept, "officer@host", None, NOW).await.unwrap().is_some());
    let (erased, found) = erase(db, &all).await;
    assert_eq!((erased.segments, found.is_incomplete()), (2, false));
}

async fn look(db: &Db, value: &str) -> Found {
    keeping::look(db, &request(contact(value)), &mut |_| {}).await.unwrap()
}

async fn a_value_that_lost_a_letter_is_named_and_held(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let deep = format!(r#","contactEndpointAddress":{}{{"x":"+49301234567"}}{}"#, "[".repeat(130), "]".repeat(130));
    let nul = r#","contactEndpointAddress":"jane@example.com\u0000""#;
    let half = r#","contactEndpointAddress":"jane@example.com\ud83d""#;
    let said = |name: &[u8]| {
        let parts: [&[u8]; 3] = [
            br#"{"transcript":[{"participantType":"contact","participantName":""#,
            name,
            br#"","message":"\ud83d"}]}"#,
        ];
        Bytes::from(parts.concat())
    };
    let names: [(&str, &[u8]); 4] = [
        ("cut", br"Jane Roe \ud83d"),
        ("latin", b"Jos\xe9 Roe"),
        ("nil", br"Jane\u0000 Roe"),
        ("other", b"Max Muster"),
    ];
    let records = [with_fields("deep", &deep), with_fields("nul", nul), with_fields("half", half)]
        .into_iter()
        .chain(names.map(|(id, _)| with_fields(id, "")));
    announce(db, owned, &records.collect::<Vec<_>>()).await;
    let batch: Vec<Settled> = claims(db, owned)
        .await
        .into_iter()
        .map(|claim| match names.iter().find(|(id, _)| *id == claim.segment_id && claim.item.0 % 4 == 0) {
            Some((_, name)) => Settled { claim, at: NOW, settlement: Settlement::stored(&said(name), None) },
            None => stored(claim, "{}".to_owned()),
        })
        .collect();
    db.settle(&batch).await.unwrap();
    for (value, sure, alike) in [
        ("Jane Roe", vec!["nil"], vec!["cut"]),
        ("José Roe", vec![], vec!["latin"]),
        ("jane@example.com", vec!["nul"], vec!["half"]),
        ("+49301234567", vec![], vec![]),
    ] {
        let found = look(db, value).await;
        assert_eq!((named(&found.segments), named(&found.alike)), (sure, alike), "{value}");
        assert!(named(&found.unreadable).contains(&"deep") && found.is_incomplete(), "{value}");
    }
    hold(db, contact("José Roe"), None).await;
    assert_eq!(expire_all(db, owned, NOW).await, 3, "what was read whole and is another's");
    assert_eq!(ids(db).await, ["cut", "deep", "half", "latin"]);
}

fn aside(id: Option<&str>, raw: &str) -> AsideRecord {
    AsideRecord { segment_id: id.map(str::to_owned), reason: "it is broken".to_owned(), raw: raw.to_owned() }
}

async fn a_record_that_cannot_be_read_is_named_and_held(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let asides = [
        aside(None, r#"{"segmentId":"x",,"contactEndpointAddress":"jane\u0040example.com"}"#),
        aside(None, r#"{"segmentId":"y",,"contactEndpointAddress":"jane@ex"#),
        aside(Some("one"), r#"{"segmentId":"one","segmentEndTimeMs":"?","ani":"jane@example.com"}"#),
        aside(Some("two"), r#"{"segmentId":"two","segmentEndTimeMs":"?","ani":"joe@example.com"}"#),
    ];
    // Of a time that is past retention nothing is taken in but what a hold may mean.
    let past = |asides| announce_all(db, owned, Lane::Backfill, (&[], asides), Some(NOW));
    assert_eq!(past(&asides[..]).await.aside, 0);
    let kept = hold(db, contact("jane@example.com"), None).await;
    assert_eq!(past(&asides[..]).await.aside, 3);
    assert_eq!(keeping::expire_asides(db, owned, NOW, "retention@test", NOW).await.unwrap().records, 0);
    // It stays when its segment goes, by erasure or by retention.
    announce_all(
        db,
        owned,
        Lane::Live,
        (&[record("one", "d", Some(ago(60)), "joe"), record("two", "d", Some(ago(60)), "joe")], &asides),
        None,
    )
    .await;
    let (erased, found) = erase(db, &request(segment("one"))).await;
    assert_eq!((erased.segments, erased.records, found.held_asides.len()), (1, 0, 1));
    assert_eq!(expire_all(db, owned, NOW).await, 1);
    assert_eq!(count(db, "aside").await, 3, "but joe's, which went with its segment");
    assert!(db.release_hold(kept, "officer@host", None, NOW).await.unwrap().is_some());
    let found = look(db, "jane@example.com").await;
    assert_eq!((found.asides.len(), found.unreadable_asides.len()), (2, 1));
    let found = look(db, "somebody").await;
    assert_eq!((found.asides.len(), found.unreadable_asides.len(), found.is_incomplete()), (0, 2, true));
    let all = Request { include_unreadable: true, ..request(contact("jane@example.com")) };
    let (erased, found) = erase(db, &all).await;
    assert_eq!((erased.records, found.is_incomplete(), count(db, "aside").await), (3, false, 0));
}

async fn an_answer_that_will_be_asked_for_again_hides_nobody_and_holds_up_nothing(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    announce(db, owned, &[with_fields("page", ""), with_fields("part", "")]).await;
    let broken = |claim: Claim, state| {
        let body: &[u8] =
            if claim.segment_id == "page" { b"<html>502" } else { br#"{"transcript":[{"participantName":"Jane Roe","# };
        let broken = Some(BrokenAnswer { kind: 1, alike: 1, start: Bytes::copy_from_slice(body) });
        let settlement = Settlement::Failed {
            state,
            due: NOW,
            misses: 0,
            refusals: 0,
            status: Some(200),
            reason: "it is not JSON".into(),
            broken,
        };
        Settled { claim, at: NOW, settlement }
    };
    for (state, alike, unreadable) in
        [(State::Open, vec!["part"], vec![]), (State::Failed, vec![], vec!["page", "part"])]
    {
        let transcripts = claims(db, owned).await.into_iter().filter(|claim| claim.item.0 % 4 == 0);
        let batch: Vec<Settled> = transcripts.map(|claim| broken(claim, state)).collect();
        assert_eq!(db.settle(&batch).await.unwrap(), [true, true]);
        let found = look(db, "jane roe").await;
        assert_eq!((named(&found.alike), named(&found.unreadable)), (alike, unreadable), "{state:?}");
        assert_eq!(look(db, "joe").await.is_nothing(), state == State::Open);
    }
}

/// Places a hold of a kind that the schema does not know, as a damaged or a newer database may have it.
async fn hold_of_another_kind(db: &Db) {
    let place = "insert into hold (kind, value, placed, who) values ('queue', 'x', 0, 'me')";
    let steps = match db.file() {
        Some(_) => ["pragma ignore_check_constraints = on", place, "pragma ignore_check_constraints = off"],
        None => ["alter table hold drop constraint hold_kind_check", place, "select 1"],
    };
    let mut tx = db.begin().await.unwrap();
    for step in steps {
        tx.run(sql(step)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn a_hold_of_a_kind_that_is_not_known_keeps_everything(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &[record("one", "d", Some(ago(100)), "1")]).await;
    let before = look(db, "1").await;
    hold_of_another_kind(db).await;
    let refused = [
        keeping::look(db, &request(segment("one")), &mut |_| {}).await.map(drop),
        keeping::erase(db, &request(contact("1")), before, NOW, &mut |_| {}).await.map(drop),
        keeping::expire(db, owned, NOW, "retention@test", NOW, &mut Cursor::default()).await.map(drop),
        keeping::expire_asides(db, owned, NOW, "retention@test", NOW).await.map(drop),
        db.release_hold(1, "officer@host", None, NOW).await.map(drop),
    ];
    for result in refused {
        let error = result.unwrap_err();
        assert!(error.to_string().starts_with("hold.kind of row 1 holds queue"), "{error}");
    }
    assert_eq!(ids(db).await, ["one"]);
}

async fn without_its_key_the_archive_neither_erases_nor_takes_in(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let records = [record("one", "d", Some(ago(100)), "1"), record("two", "d", Some(ago(100)), "1")];
    filled(db, owned, &records).await;
    erase(db, &request(segment("one"))).await;
    db.run(sql("delete from meta where key = 'keeping.key'")).await.unwrap();
    let found = keeping::look(db, &request(segment("two")), &mut |_| {}).await.unwrap();
    assert!(keeping::erase(db, &request(segment("two")), found, NOW, &mut |_| {}).await.is_err());
    let known = Stretches::default();
    let chunk = Chunk {
        owned,
        lane: Lane::Recheck,
        stretch: READ,
        now: NOW,
        wants: ALL,
        known: &known,
        urgent_before: None,
        repair: Duration::from_secs(60),
        records: &records,
        asides: &[],
    };
    let error = db.announce_kept(chunk, None).await.unwrap_err();
    assert!(error.to_string().contains("archive's key in the table meta"), "{error}");
    assert!(db.tombstone("one", None).await.is_err() && db.journal(Some(&segment("one"))).await.is_err());
    assert_eq!(ids(db).await, ["two"]);
}

async fn a_hold_says_how_much_it_keeps(test: TestDb) {
    let db = &test.db;
    let (owned, other) = (own(db, "a").await, own(db, "b").await);
    let talk = r#"{"transcript":[{"participantType":"agent","participantName":"Agent Smith"},{"participantType":"contact","participantName":"Jane Roe"}]}"#;
    talked(db, owned, &[("one", r#","ani":"2013770791""#, talk), ("two", "", talk), ("three", "", "{")]).await;
    talked(db, other, &[("four", "", talk)]).await;
    let raw = r#"{"segmentId":"two","ani":"Jane Roe","hasTranscript":"?"}"#.to_owned();
    let aside = AsideRecord { segment_id: Some("two".into()), reason: "broken".into(), raw };
    announce_all(db, owned, Lane::Live, (&[], &[aside]), None).await;
    for (subject, account) in [
        (segment("two"), None),
        (segment("nobody"), None),
        (Subject::Dialog("d-one".into()), None),
        (contact("jane roe"), None),
        (contact("jane roe"), Some(other.account)),
        (contact("agent smith"), Some(other.account)),
        (contact("+12013770791"), None),
    ] {
        hold(db, subject, account).await;
    }
    let holds = db.holds(None).await.unwrap();
    let counts = keeping::count_holds(db, &holds, &mut |_| {}).await.unwrap();
    let counts: Vec<[u64; 4]> =
        counts.iter().map(|count| [count.segments, count.possible, count.records, count.agents]).collect();
    assert_eq!(counts, [[1, 0, 1, 0], [0; 4], [1, 0, 0, 0], [4, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [2, 2, 0, 0]]);
}

async fn expire_all(db: &Db, owned: Owned, cutoff: Time) -> u64 {
    let (mut cursor, mut taken) = (Cursor::default(), 0);
    while let Some(erased) = keeping::expire(db, owned, cutoff, "retention@test", NOW, &mut cursor).await.unwrap() {
        taken += erased.segments;
    }
    taken
}

async fn retention_takes_what_is_past_it_and_nothing_else(test: TestDb) {
    let db = &test.db;
    let (owned, other) = (own(db, "a").await, own(db, "b").await);
    let day = |days: i64| Some(NOW.plus_millis(-days * DAY));
    let records = [
        record("old", "d1", day(40), "1"),
        record("held", "d2", day(41), "1"),
        record("young", "d3", day(20), "1"),
        record("endless", "d4", None, "1"),
    ];
    filled(db, owned, &records).await;
    filled(db, other, &[record("theirs", "d1", day(40), "1")]).await;
    hold(db, Subject::Dialog("d2".into()), None).await;
    let month = Duration::from_secs(30 * 86_400);
    assert!(keeping::is_due(db, owned.account, month, NOW).await.unwrap());
    assert!(!keeping::is_due(db, owned.account, 3 * month, NOW).await.unwrap());
    let cutoff = NOW - month;
    assert_eq!(expire_all(db, owned, cutoff).await, 1);
    assert_eq!(expire_all(db, owned, cutoff).await, 0);
    assert_eq!(ids(db).await, ["endless", "held", "theirs", "young"]);
    assert_eq!(announce_all(db, owned, Lane::Backfill, (&records, &[]), Some(cutoff)).await.added, 0);
    // Without an end time it counts from when it was first seen.
    assert_eq!(expire_all(db, owned, NOW + Duration::from_secs(1)).await, 2);
    assert_eq!(ids(db).await, ["held", "theirs"]);
    // Kept for ever from now on, it does not come back either.
    assert_eq!(announce(db, owned, &records).await.added, 0);
    let answer = ask(db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!((answer.accounts[0].segments.expired, answer.accounts[0].segments.announced), (3, 4));
}

async fn an_unusual_pass_leaves_out_what_is_held_and_its_notice_is_kept(test: TestDb) {
    let (db, owned) = (&test.db, own(&test.db, "20").await);
    let (retention, days) = (Duration::from_secs(30 * 86_400), |days: i64| Some(NOW.plus_millis(-days * DAY)));
    let mut records: Vec<SegmentRecord> =
        (0..20).map(|nth| record(&format!("old-{nth}"), if nth < 15 { "kept" } else { "d" }, days(40), "x")).collect();
    records.extend((0..20).map(|nth| record(&format!("new-{nth}"), "d", days(1), "x")));
    filled(db, owned, &records).await;
    let cutoff = NOW - retention;
    let unusual = async |cutoff| keeping::unusually_due(db, owned.account, retention, cutoff).await.unwrap();
    let found = unusual(cutoff).await.unwrap();
    assert_eq!((found.oldest, found.due, found.held), (NOW.plus_millis(-40 * DAY), 20, 40));
    assert_eq!(unusual(NOW.plus_millis(-39 * DAY)).await, None, "overdue by no more than usual");
    let subject = Some(Subject::Dialog("kept".into()));
    let entry = Entry { who: "me".into(), what: Done::Hold, subject, hold: None, reason: None };
    db.place_hold(&entry, None, NOW).await.unwrap();
    assert_eq!(unusual(cutoff).await, None, "five that no hold keeps");

    assert_eq!(keeping::notice(db, owned.account).await.unwrap(), None);
    let mut notice = keeping::RetentionNotice {
        retention,
        announced: NOW,
        waited: Duration::from_secs(60),
        segments: 20,
        approved: false,
    };
    keeping::keep_notice(db, owned.account, &notice).await.unwrap();
    assert_eq!(keeping::notice(db, owned.account).await.unwrap(), Some(notice.clone()));
    db.approve_retention(owned.account, NOW).await.unwrap();
    notice.waited *= 2;
    keeping::keep_notice(db, owned.account, &notice).await.unwrap();
    notice.approved = true;
    assert_eq!(keeping::notice(db, owned.account).await.unwrap(), Some(notice), "an approval is never lost");
    db.drop_retention_notice(owned.account).await.unwrap();
    assert_eq!(keeping::notice(db, owned.account).await.unwrap(), None);
}

async fn retention_knows_when_the_archive_was_last_written(test: TestDb) {
    let (db, owned) = (&test.db, own(&test.db, "20").await);
    assert_eq!(db.newest_stored(owned.account, true).await.unwrap(), None);
    filled(db, owned, &[record("s", "d", Some(ago(60)), "x")]).await;
    assert_eq!(db.newest_stored(owned.account, true).await.unwrap(), Some(NOW));
    db.run(sql("update artifact set fetched = $1").bind(NOW.plus_millis(DAY))).await.unwrap();
    let newest = db.newest_stored(owned.account, true).await.unwrap();
    assert_eq!(newest, Some(NOW.plus_millis(DAY)));
    assert!(keeping::stored_later_than(NOW, newest).is_some());
    // A heartbeat of a clock that was ahead, which counts as long as the API's time is not believed.
    let replica =
        sql("insert into replica (name, version, started, heartbeat, stats) values ('gone', '1', 0, $1, '{}')");
    db.run(replica.bind(NOW.plus_millis(2 * DAY))).await.unwrap();
    assert_eq!(db.newest_stored(owned.account, true).await.unwrap(), Some(NOW.plus_millis(2 * DAY)));
    assert_eq!(db.newest_stored(owned.account, false).await.unwrap(), newest);
    // A person has approved: what is dated ahead is known to be wrong from then on, also for the passes that follow.
    db.approve_retention(owned.account, NOW).await.unwrap();
    db.drop_retention_notice(owned.account).await.unwrap();
    assert_eq!(db.newest_stored(owned.account, true).await.unwrap(), None);
    db.run(sql("update artifact set fetched = $1").bind(NOW.plus_millis(3 * DAY))).await.unwrap();
    assert_eq!(db.newest_stored(owned.account, true).await.unwrap(), Some(NOW.plus_millis(3 * DAY)));
}

async fn retention_is_its_owners_alone(test: TestDb) {
    let db = &test.db;
    let before = own(db, "a").await;
    filled(db, before, &[record("one", "d", Some(ago(100)), "1")]).await;
    own(db, "a").await;
    let error = keeping::expire(db, before, NOW, "retention@test", NOW, &mut Cursor::default()).await.unwrap_err();
    assert_eq!(error.fault(), DbFault::Lost);
    assert_eq!(ids(db).await, ["one"]);
}

async fn what_is_past_retention_when_it_is_announced_is_not_taken_in(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    hold(db, Subject::Contact("keep@example.com".into()), None).await;
    let records = [
        record("past", "d1", Some(ago(100)), "1"),
        record("held", "d2", Some(ago(100)), "keep@example.com"),
        record("edge", "d3", Some(ago(60)), "1"),
        record("endless", "d4", None, "1"),
    ];
    let sum = announce_all(db, owned, Lane::Backfill, (&records, &[]), Some(ago(60))).await;
    assert_eq!((sum.segments, sum.added, sum.queued), (4, 3, 9));
    assert_eq!(ids(db).await, ["endless", "held", "edge"]);
    // Kept for longer from now on, it is taken in.
    assert_eq!(announce(db, owned, &records).await.added, 1);
}

async fn what_is_announced_while_it_is_erased_does_not_stay(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &[record("other", "d", Some(ago(100)), "1")]).await;
    for round in 0..15 {
        let id = format!("s{round}");
        let records = [record(&id, "d2", Some(ago(90)), "1"), record("other", "d", Some(ago(100)), "1")];
        announce(db, owned, &records).await;
        let late: Vec<Settled> = claims(db, owned).await.into_iter().map(|claim| failed(claim, "secret")).collect();
        let about = request(segment(&id));
        let ((erased, _), _, _, settled) = tokio::join!(
            erase(db, &about),
            announce(db, owned, &records),
            announce(db, owned, &records),
            db.settle(&late),
        );
        settled.unwrap();
        assert_eq!(erased.segments, 1);
    }
    assert_eq!(ids(db).await, ["other"]);
    assert_eq!((count(db, "work").await, count(db, "attempt").await), (3, 0));
    assert!(ask(db).await.complete);
}

async fn the_journal_only_grows(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &[record("one", "d", Some(ago(100)), "1")]).await;
    erase(db, &request(segment("one"))).await;
    for text in ["update journal set who = 'nobody'", "delete from journal"] {
        assert!(db.run(sql(text)).await.is_err(), "{text}");
    }
    let row = db.journal(None).await.unwrap().remove(0);
    assert_eq!((row.who.as_str(), row.what.as_str(), row.segments), ("officer@host", "erase", 1));
    assert_eq!((row.sub.as_deref(), row.reason.as_deref(), row.at), (Some("a"), Some("a request"), NOW));
    assert_eq!(db.journal(Some(&segment("one"))).await.unwrap().len(), 1);
    assert_eq!(db.journal(Some(&segment("two"))).await.unwrap().len(), 0);
}

async fn thousands_go_at_once(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let records: Vec<SegmentRecord> = (0..2500)
        .map(|n| record(&format!("s{n}"), if n % 5 == 0 { "other" } else { "d" }, Some(ago(n)), "1"))
        .collect();
    filled(db, owned, &records).await;
    assert_eq!(erase(db, &request(Subject::Dialog("d".into()))).await.0.segments, 2000);
    let again = announce(db, owned, &records).await;
    assert_eq!((again.segments, again.added), (2500, 0));
    let answer = ask(db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!((answer.accounts[0].segments.erased, answer.accounts[0].ledger.held), (2000, 500));
}

/// Words that are planted wherever a segment leaves something, each short enough not to be compressed.
fn word(what: &str, n: usize) -> String {
    format!("zq{what}{:07x}qz", (n * 48_271 + 11) % 0x0fff_ffff)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_a_word_of_what_was_erased_is_left_in_the_files() {
    let test = support::sqlite().await;
    let db = &test.db;
    let owned = own(db, "a").await;
    let numbers: HashMap<String, usize> = (0..1800).map(|n| (word("id", n), n)).collect();
    // A file in which rows have moved about: many, of all lengths, changed again and again.
    for round in 0..30 {
        let records: Vec<SegmentRecord> = (round * 60..round * 60 + 60).map(|n| planted(n, 0)).collect();
        announce(db, owned, &records).await;
        let changed: Vec<SegmentRecord> = (0..round * 60).step_by(7).map(|n| planted(n, round)).collect();
        announce(db, owned, &changed).await;
        let batch: Vec<Settled> = claims(db, owned)
            .await
            .into_iter()
            .filter(|claim| claim.item.0 % 5 != 0)
            .map(|claim| {
                let n = numbers[&claim.segment_id];
                if claim.item.0 % 3 == 0 { failed(claim, &word("reason", n)) } else { stored(claim, word("said", n)) }
            })
            .collect();
        db.settle(&batch).await.unwrap();
        let raw = format!("{} {}", word("aside", round), "x".repeat(round * 9));
        let aside = AsideRecord { segment_id: Some(planted(round * 60, 0).segment_id), reason: "broken".into(), raw };
        announce_all(db, owned, Lane::Live, (&[], &[aside]), None).await;
    }
    let gone: Vec<usize> = (0..1800).filter(|n| n % 3 != 1).collect();
    let before = files(&test);
    assert!(gone.iter().filter(|n| before.contains(&word("said", **n))).count() > 300, "nothing was planted");
    assert!(gone.iter().filter(|n| before.contains(&word("reason", **n))).count() > 300, "nothing was planted");
    assert_eq!(erase(db, &request(Subject::Dialog("to go".into()))).await.0.segments, 1200);
    assert_eq!(db.scrub(true, &Clock::system()).await.unwrap(), Scrubbed::Clean);
    let after = files(&test);
    for n in gone {
        for what in ["id", "note", "said", "reason"] {
            assert!(!after.contains(&word(what, n)), "a word is left: {what} of segment {n}");
        }
    }
    for round in (0..30).filter(|round| round * 60 % 3 != 1) {
        assert!(!after.contains(&word("aside", round)), "a word is left: a record set aside");
    }
    assert!(after.contains(&word("id", 1)), "what was not erased is still there");
}

fn planted(n: usize, version: usize) -> SegmentRecord {
    let id = word("id", n);
    let note = format!("{} v{version}{}", word("note", n), "-".repeat((n + version) % 30));
    let dialog = if n % 3 == 1 { "to stay" } else { "to go" };
    SegmentRecord { raw: note, segment_id: id, ..record("", dialog, Some(ago(200)), "") }
}

/// All planted words that lie anywhere in the database's folder.
fn files(test: &TestDb) -> HashSet<String> {
    let planted = regex::Regex::new("zq[a-z]+?[0-9a-f]{7}qz").unwrap();
    let mut words = HashSet::new();
    for entry in std::fs::read_dir(test.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        words.extend(planted.find_iter(&String::from_utf8_lossy(&bytes)).map(|word| word.as_str().to_owned()));
    }
    words
}
