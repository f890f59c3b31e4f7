use super::evaluation::evaluate;
use super::*;
use crate::db::{AccountKey, SegmentSetDigest};
use crate::model::ItemState;

/// A Tuesday at noon.
const NOW: Time = Time::from_secs(1_795_521_600);
const MINUTE: i64 = 60_000;

/// A moment so many minutes before [`NOW`].
fn ago(minutes: i64) -> Time {
    NOW.plus_millis(-minutes * MINUTE)
}

/// From so many minutes ago to so many.
fn range(from: i64, to: i64) -> TimeRange {
    TimeRange { from: ago(from), to: ago(to) }
}

fn covered(pass: &str, range: TimeRange) -> CoverageAuditRow {
    CoverageAuditRow {
        account: AccountKey(1),
        purpose: pass.to_owned(),
        range,
        reads: 4,
        first: ago(115),
        last: ago(1),
    }
}

fn request() -> AuditRequest {
    AuditRequest {
        from: None,
        to: None,
        starts_with_first_read: false,
        account: None,
        now: NOW,
        offset: Duration::from_secs(300),
        interval: Duration::from_secs(300),
        configured: Vec::new(),
    }
}

/// An account that was read from two hours ago up to six minutes ago, with ten segments, all of
/// them well.
fn facts() -> AuditedAccountFacts {
    let count = SegmentSetDigest { segments: 10, digest_high: 5, digest_low: -5 };
    let tally = ArtifactTally { requested: 8, stored: 7, not_populated: 1, ..ArtifactTally::default() };
    AuditedAccountFacts {
        account: AuditedAccount {
            key: AccountKey(1),
            id: AccountId::new("1", "20"),
            name: None,
            live_start: Some(ago(120)),
            missing_since: None,
        },
        is_owner_alive: true,
        pause: None,
        covered: vec![covered("live", range(120, 6))],
        reads: Vec::new(),
        backfills: Vec::new(),
        segments: (10, 8),
        tallies: [tally, tally, tally, ArtifactTally::default()],
        gone: DeletionTally::default(),
        unfinished: Vec::new(),
        closed_items: Vec::new(),
        quarantine_counts: (0, 0),
        quarantined: Vec::new(),
        lateness: Vec::new(),
        days: vec![DailyDigestRow { account: AccountKey(1), day: 20_780, announced: count, stored: count }],
    }
}

fn with_gap() -> AuditedAccountFacts {
    AuditedAccountFacts { covered: vec![covered("live", range(120, 60)), covered("live", range(50, 6))], ..facts() }
}

fn only(audit: &AuditReport) -> &AuditProblem {
    assert_eq!(audit.problems.len(), 1, "{:?}", audit.problems);
    &audit.problems[0]
}

#[test]
fn an_archive_in_which_nothing_is_missing_is_complete() {
    let audit = evaluate(&request(), vec![facts()]);
    assert!(audit.complete, "{:?}", audit.problems);
    assert_eq!(
        audit.verdict,
        "complete: no gap, 10 segments announced and stored, 24 transcripts and summaries requested: 21 stored, 3 empty"
    );
    let account = &audit.accounts[0];
    assert_eq!(account.range, Some(range(120, 6).into()));
    assert_eq!(account.watermark, Some(Rfc3339Time(ago(6))));
    assert_eq!(account.artifacts[0].not_requested, 2);
}

#[test]
fn what_is_gone_is_counted_and_keeps_nothing_from_being_complete() {
    let gone = DeletionTally { erased: 2, expired: 1, requested: [3, 2, 2, 0] };
    let audit = evaluate(&request(), vec![AuditedAccountFacts { gone, ..facts() }]);
    assert!(audit.complete, "{:?}", audit.problems);
    assert_eq!(
        audit.verdict,
        "complete: no gap, 13 segments announced, 10 stored, 2 erased, 1 past retention, 31 transcripts and summaries requested: 21 stored, 3 empty, 7 erased"
    );
    let account = &audit.accounts[0];
    assert_eq!((account.segments.announced, account.segments.erased, account.segments.expired), (13, 2, 1));
    assert_eq!((account.ledger.announced, account.ledger.held, account.ledger.gone), (13, 10, 3));
    let transcripts = &account.artifacts[0];
    let sum = transcripts.stored + transcripts.not_populated + transcripts.erased + transcripts.not_requested;
    assert_eq!((transcripts.asked, transcripts.erased, sum), (11, 3, 13));
}

#[test]
fn a_gap_is_named_exactly_although_the_watermark_stands_before_it() {
    let audit = evaluate(&request(), vec![with_gap()]);
    let account = &audit.accounts[0];
    assert_eq!(account.watermark, Some(Rfc3339Time(ago(60))));
    assert_eq!(account.gaps.len(), 1);
    assert_eq!((account.gaps[0].from, account.gaps[0].to), (Rfc3339Time(ago(60)), Rfc3339Time(ago(50))));
    assert_eq!(account.gaps[0].cause, GapCause::NeverRead);
    assert_eq!(audit.verdict, "NOT complete: 1 gap");
    let problem = only(&audit);
    assert!(problem.hint.contains(&format!("backfill --from {} --to {}", Rfc3339Time(ago(60)), Rfc3339Time(ago(50)))));
}

#[test]
fn a_backfill_that_was_asked_for_and_is_not_read_is_named_with_how_far_it_is() {
    let covered = vec![covered("live", range(120, 6)), covered("backfill:3", range(300, 240))];
    let facts = AuditedAccountFacts { backfills: vec![(3, range(300, 180))], covered, ..facts() };
    let audit = evaluate(&request(), vec![facts.clone()]);
    assert_eq!(audit.verdict, "NOT complete: 1 unfinished backfill");
    let problem = only(&audit);
    assert!(problem.what.starts_with("backfill 3 (") && problem.what.ends_with("): 1 h of 2 h read"), "{problem:?}");
    assert!(problem.hint.contains("`ringcx-extractor backfill cancel 3`"), "{problem:?}");
    let later = AuditRequest { from: Some(ago(100)), ..request() };
    assert!(evaluate(&later, vec![facts]).complete, "it does not touch what is asked about");
}

#[test]
fn a_gap_says_what_keeps_it_open() {
    let cause = |facts: AuditedAccountFacts| evaluate(&request(), vec![facts]).accounts[0].gaps[0].cause;
    assert_eq!(
        cause(AuditedAccountFacts { backfills: vec![(3, range(90, 55))], ..with_gap() }),
        GapCause::BeingBackfilled
    );
    let pause = PauseRow {
        account: AccountKey(1),
        endpoint: Endpoint::Metadata,
        since: ago(30),
        until: NOW,
        times: 3,
        status: Some(403),
        is_login_failure: false,
        reason: "failed to read interaction metadata: 403".to_owned(),
    };
    assert_eq!(cause(AuditedAccountFacts { pause: Some(pause), ..with_gap() }), GapCause::PausedMetadata);
    let mut stalled = with_gap();
    stalled.covered.iter_mut().for_each(|row| row.last = ago(20));
    assert_eq!(cause(stalled.clone()), GapCause::ReadsFailing);
    assert_eq!(cause(AuditedAccountFacts { is_owner_alive: false, ..stalled }), GapCause::NeverRead);
}

#[test]
fn what_lies_before_the_first_read_is_a_gap_only_where_it_was_asked_for() {
    assert!(evaluate(&request(), vec![facts()]).complete);
    let asked = AuditRequest { from: Some(ago(180)), ..request() };
    let audit = evaluate(&asked, vec![facts()]);
    let gap = &audit.accounts[0].gaps[0];
    assert_eq!((gap.from, gap.to, gap.cause), (Rfc3339Time(ago(180)), Rfc3339Time(ago(120)), GapCause::NeverRead));
    assert!(gap.why.contains("before the first read"), "{}", gap.why);
}

#[test]
fn what_cannot_have_been_read_yet_is_no_gap_and_what_should_have_been_is_one() {
    let asked = AuditRequest { to: Some(NOW), ..request() };
    let audit = evaluate(&asked, vec![facts()]);
    assert!(audit.complete, "{:?}", audit.problems);
    assert!(audit.accounts[0].notes.iter().any(|note| note.contains("cannot be read yet")));
    let behind =
        AuditedAccountFacts { covered: vec![covered("live", range(120, 60))], is_owner_alive: false, ..facts() };
    let audit = evaluate(&asked, vec![behind.clone()]);
    let gap = &audit.accounts[0].gaps[0];
    assert_eq!((gap.from, gap.to), (Rfc3339Time(ago(60)), Rfc3339Time(ago(5))));
    // Without an end being asked for, it goes as far as was read, and says how far that is behind.
    let audit = evaluate(&request(), vec![behind]);
    assert!(audit.complete);
    assert!(audit.accounts[0].notes.iter().any(|note| note.contains("1h behind")), "{:?}", audit.accounts[0].notes);
}

#[test]
fn a_tail_of_coverage_that_was_taken_away_is_missed_because_of_the_log() {
    let read = WindowReadRow {
        account: AccountKey(1),
        at: ago(1),
        duration: Duration::from_millis(300),
        lane: "live".to_owned(),
        range: range(20, 6),
        announced: 3,
        added: 3,
        changed: 0,
        flipped: 0,
        quarantined: 0,
    };
    let facts = AuditedAccountFacts { covered: vec![covered("live", range(120, 20))], reads: vec![read], ..facts() };
    let audit = evaluate(&request(), vec![facts]);
    assert_eq!(
        (audit.accounts[0].gaps[0].from, audit.accounts[0].gaps[0].to),
        (Rfc3339Time(ago(20)), Rfc3339Time(ago(6)))
    );
}

#[test]
fn pending_unavailable_and_discarded_are_explained_and_failed_is_not() {
    let mut facts = facts();
    facts.tallies[0] = ArtifactTally {
        requested: 10,
        stored: 7,
        pending: 1,
        unavailable: 1,
        discarded: 1,
        ..ArtifactTally::default()
    };
    let audit = evaluate(&request(), vec![facts.clone()]);
    assert!(audit.complete, "{:?}", audit.problems);
    assert!(audit.verdict.ends_with("21 stored, 2 empty, 1 pending, 1 unavailable, 1 discarded"), "{}", audit.verdict);
    facts.tallies[0] = ArtifactTally { requested: 10, stored: 8, failed: 2, ..ArtifactTally::default() };
    facts.unfinished.push(UnfinishedItemsRow {
        account: AccountKey(1),
        artifact: Artifact::Transcript,
        state: ItemState::Failed,
        status: Some(400),
        reason: Some("the request was refused (400)".to_owned()),
        count: 2,
        due: NOW,
    });
    let audit = evaluate(&request(), vec![facts]);
    assert_eq!(audit.verdict, "NOT complete: 2 failed");
    assert!(only(&audit).what.contains("refused (400)"));
}

#[test]
fn what_is_held_must_be_what_was_announced_in_number_and_in_ids() {
    let mut fewer = facts();
    fewer.days[0].stored.segments = 9;
    let audit = evaluate(&request(), vec![fewer]);
    assert_eq!(audit.verdict, "NOT complete: 1 day that does not add up");
    assert!(only(&audit).what.contains("10 segments were announced, 9 stored"), "{}", only(&audit).what);
    let mut others = facts();
    others.days[0].stored.digest_low = 6;
    let audit = evaluate(&request(), vec![others]);
    assert!(only(&audit).what.contains("not the same ones"), "{}", only(&audit).what);
    assert!(!audit.accounts[0].ledger.agrees);
}

#[test]
fn an_artifact_that_is_nowhere_is_unexplained() {
    let mut facts = facts();
    facts.tallies[1].stored -= 1;
    facts.tallies[1].lost = 1;
    let audit = evaluate(&request(), vec![facts]);
    assert_eq!(audit.verdict, "NOT complete: 1 artifact unexplained");
    assert_eq!(audit.accounts[0].artifacts[1].unexplained, 1);
}

#[test]
fn quarantined_records_keep_it_from_being_complete_until_they_are_resolved() {
    let audit = evaluate(&request(), vec![AuditedAccountFacts { quarantine_counts: (2, 1), ..facts() }]);
    assert_eq!(audit.verdict, "NOT complete: 2 records set aside");
    assert!(evaluate(&request(), vec![AuditedAccountFacts { quarantine_counts: (0, 3), ..facts() }]).complete);
}

#[test]
fn an_account_of_the_settings_of_which_nothing_was_read_is_missing() {
    let configured = vec![(AccountId::new("1", "10"), Some("New".to_owned())), (AccountId::new("1", "20"), None)];
    let audit = evaluate(&AuditRequest { configured, ..request() }, vec![facts()]);
    assert_eq!(audit.verdict, "NOT complete: 1 account never read");
    assert_eq!(only(&audit).sub_account_id, "10");
    assert_eq!(audit.accounts.iter().map(|account| &*account.sub_account_id).collect::<Vec<_>>(), ["10", "20"]);
    assert!(!evaluate(&request(), Vec::new()).complete);
}

#[test]
fn the_json_names_moments_as_everything_else_does() {
    let mut facts = with_gap();
    facts.lateness = vec![("appear".to_owned(), 0, 1), ("appear".to_owned(), 9, 2), ("flip".to_owned(), 10, 3)];
    let json = serde_json::to_value(evaluate(&request(), vec![facts])).unwrap();
    assert_eq!(json["complete"], false);
    let account = &json["accounts"][0];
    assert_eq!(account["gaps"][0]["from"], "2026-11-24T11:00:00Z");
    assert_eq!(account["gaps"][0]["cause"], "never_read");
    assert_eq!(account["watermark"], "2026-11-24T11:00:00Z");
    assert_eq!(account["artifacts"][0]["artifact"], "transcript");
    assert_eq!(account["artifacts"][0]["erased"], 0);
    assert_eq!(account["late"]["appeared"], 3);
    assert_eq!(account["late"]["flipped"], 3);
    assert_eq!(account["late"]["histogram"][0]["from_seconds"], 0);
    assert_eq!(account["late"]["histogram"][1]["from_seconds"], 512);
    assert_eq!(account["late"]["histogram"][1]["to_seconds"], 1024);
    assert_eq!(json["problems"][0]["kind"], "gap");
}

#[test]
fn each_range_shows_how_late_it_was_last_read() {
    let covered = vec![
        covered("live", range(120, 6)),
        covered("recheck:600", range(100, 30)),
        covered("recheck:3600", range(100, 80)),
        covered("recheck:3600", range(400, 130)),
    ];
    let audit = evaluate(&request(), vec![AuditedAccountFacts { covered, ..facts() }]);
    let looks: Vec<_> = audit.accounts[0]
        .last_looked
        .iter()
        .map(|look| (TimeRange { from: look.from.0, to: look.to.0 }, look.recheck_seconds, look.since.0))
        .collect();
    let expected = [
        (range(120, 100), None, ago(115)),
        (range(100, 80), Some(3600.0), ago(40)),
        (range(80, 30), Some(600.0), ago(70)),
        (range(30, 6), None, ago(30)),
    ];
    assert_eq!(looks, expected);
    assert!(audit.complete, "{:?}", audit.problems);
}
