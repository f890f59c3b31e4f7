//! Full exports, exports of changes, and the status, on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::Time;
use ringcx_extractor::config::{self, Settings};
use ringcx_extractor::db::{
    Claim, CompletedJob, Db, DbFault, ExportCursor, ExportRange, IngestSummary, JobOutcome, Lease, MetadataChunk,
    OpenMode, ReplicaRow, Stmt, WindowRead, sql,
};
use ringcx_extractor::erasure::{self, Confirmation, ErasureRequest};
use ringcx_extractor::export::{self, ExportFormat, Selection, Table};
use ringcx_extractor::health::Snapshot;
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, ItemState, Lane, SegmentRecord, Subject, SummariesFor, TimeRange,
    TimeRangeSet,
};
use ringcx_extractor::segment_filter::SegmentFilter;
use ringcx_extractor::status;
use support::TestDb;

crate::on_both! {
    an_export_holds_every_segment_once_and_in_order,
    an_export_of_what_changed_holds_no_more_than_that,
    an_export_of_changes_works_with_any_number_of_accounts,
    a_number_that_no_export_printed_is_not_known,
    a_dialog_is_exported_once_with_all_its_segments,
    an_export_of_changes_tells_erasures_until_they_are_forgotten,
    a_filter_selects_what_an_erasure_would_find,
    the_status_adds_up,
    replicas_that_are_long_gone_are_forgotten_unless_they_own_something,
}

const NOW: Time = Time(1_800_000_000_000);

fn record(id: &str, ended: Option<i64>) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: ended.map(Time),
        has_transcript: true,
        is_agent: true,
        has_recording: false,
        raw: format!(r#"{{"segmentId":"{id}"}}"#),
    }
}

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "host-1", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn ingest(db: &Db, owned: Lease, now: Time, records: &[SegmentRecord]) -> IngestSummary {
    let known = TimeRangeSet::default();
    let wants = ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };
    let stretch = TimeRange { from: Time(0), to: NOW };
    let repair = Duration::from_secs(60);
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: stretch,
        now,
        wants,
        already_read: &known,
        urgent_before: None,
        quarantine_retry_delay: repair,
        records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap()
}

async fn due_claims(db: &Db, owned: Lease, segment: &str) -> Vec<Claim> {
    let due = db.due_items(owned, ArtifactSet::ALL, NOW + Duration::from_secs(86_400), 50_000).await.unwrap();
    due.into_iter().filter(|claim| claim.segment_id == segment).collect()
}

async fn store_answers(db: &Db, owned: Lease, segment: &str) {
    let body = Bytes::from_static(br#"{"transcript":[]}"#);
    let settled = due_claims(db, owned, segment).await.into_iter();
    let settled: Vec<CompletedJob> =
        settled.map(|claim| CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) }).collect();
    assert_eq!(db.complete_jobs(&settled).await.unwrap(), [true; 3]);
}

async fn export_lines(db: &Db, selection: &Selection) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    let mut reported = 0;
    let summary =
        export::write_export(db, selection, ExportFormat::Jsonl, &mut out, &mut |page| reported += page).await.unwrap();
    let lines: Vec<_> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((summary.rows + summary.erased, reported), (lines.len() as u64, summary.rows));
    lines
}

fn segment_ids(lines: &[serde_json::Value]) -> Vec<&str> {
    lines.iter().map(|line| line["segment_id"].as_str().unwrap()).collect()
}

async fn changed_since(db: &Db, mark: &ExportCursor, range: ExportRange) -> Vec<String> {
    let lines = export_lines(db, &Selection { range, since: Some(mark.clone()), ..Selection::default() }).await;
    segment_ids(&lines).into_iter().map(str::to_owned).collect()
}

async fn an_export_holds_every_segment_once_and_in_order(test: TestDb) {
    let (b, a) = (acquire_account(&test.db, "b").await, acquire_account(&test.db, "a").await);
    // Many segments that ended together, so that a page ends among them, and one without an end time.
    let records: Vec<SegmentRecord> = (0..700).map(|n| record(&format!("s{n:04}"), Some(n / 400))).collect();
    ingest(&test.db, b, NOW, &records).await;
    ingest(&test.db, a, NOW, &[record("s0001", Some(0)), record("x", None)]).await;
    store_answers(&test.db, a, "x").await;
    let lines = export_lines(&test.db, &Selection::default()).await;
    assert_eq!(lines.len(), 702);
    let key = |line: &serde_json::Value| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (text("segment_end"), text("sub_account_id"), text("segment_id"))
    };
    assert!(lines.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
    assert_eq!((&lines[0]["segment_id"], &lines[0]["segment_end"]), (&"x".into(), &serde_json::Value::Null));
    assert_eq!(lines[0]["transcript"]["body"], serde_json::json!({"transcript":[]}));
    assert_eq!(lines[1]["transcript"], serde_json::json!({"outcome":"pending"}));
    let range = ExportRange { from: Some(Time(1)), to: Some(Time(2)), account: Some(b.account) };
    assert_eq!(export_lines(&test.db, &Selection { range, ..Selection::default() }).await.len(), 300);
    assert_eq!(
        changed_since(&test.db, &test.db.export_cursor(0).await.unwrap().unwrap(), ExportRange::default()).await.len(),
        702
    );
}

async fn an_export_of_what_changed_holds_no_more_than_that(test: TestDb) {
    let (a, b) = (acquire_account(&test.db, "a").await, acquire_account(&test.db, "b").await);
    let records: Vec<SegmentRecord> = (0..5).map(|n| record(&format!("s{n}"), Some(n))).collect();
    ingest(&test.db, a, NOW, &records).await;
    ingest(&test.db, b, NOW, &records).await;
    store_answers(&test.db, a, "s0").await;
    store_answers(&test.db, b, "s1").await;
    let later = NOW + Duration::from_secs(3600);
    let number = test.db.create_export_cursor(later).await.unwrap();
    let mark = test.db.export_cursor(number).await.unwrap().unwrap();
    let all = ExportRange::default();
    assert!(changed_since(&test.db, &mark, all).await.is_empty());
    // An artifact stored, metadata changed, a new segment of a new account, an item given up.
    store_answers(&test.db, a, "s3").await;
    let flipped = SegmentRecord { raw: "{}".to_owned(), ..record("s2", Some(2)) };
    ingest(&test.db, b, later, &[flipped]).await;
    ingest(&test.db, acquire_account(&test.db, "c").await, later, &[record("s9", Some(9))]).await;
    let claim = due_claims(&test.db, b, "s4").await.remove(0);
    let settlement = JobOutcome::Failed {
        state: ItemState::Unavailable,
        due: later,
        misses: 1,
        refusals: 0,
        status: Some(404),
        reason: "404".to_owned(),
        broken: None,
    };
    test.db.complete_jobs(&[CompletedJob { claim, at: later, outcome: settlement }]).await.unwrap();
    assert_eq!(changed_since(&test.db, &mark, all).await, ["s2", "s3", "s4", "s9"]);
    assert_eq!(changed_since(&test.db, &mark, ExportRange { account: Some(b.account), ..all }).await, ["s2", "s4"]);
    assert_eq!(
        changed_since(&test.db, &mark, ExportRange { from: Some(Time(3)), to: Some(Time(9)), ..all }).await,
        ["s3", "s4"]
    );
    let next = test.db.create_export_cursor(later + Duration::from_secs(3600)).await.unwrap();
    assert_eq!(next, number + 1);
    assert!(changed_since(&test.db, &test.db.export_cursor(next).await.unwrap().unwrap(), all).await.is_empty());
}

async fn an_export_of_changes_works_with_any_number_of_accounts(test: TestDb) {
    let a = acquire_account(&test.db, "a").await;
    let records: Vec<SegmentRecord> = (0..3).map(|n| record(&format!("s{n}"), Some(n))).collect();
    ingest(&test.db, a, NOW, &records).await;
    store_answers(&test.db, a, "s0").await;
    let number = test.db.create_export_cursor(NOW + Duration::from_secs(3600)).await.unwrap();
    let mut cursor = serde_json::to_value(test.db.export_cursor(number).await.unwrap().unwrap()).unwrap();
    let feeds = cursor["feeds"].as_object_mut().unwrap();
    feeds.extend((0..40_000).map(|n| ((1_000_000 + n).to_string(), n.into())));
    let cursor: ExportCursor = serde_json::from_value(cursor).unwrap();
    store_answers(&test.db, a, "s1").await;
    assert_eq!(changed_since(&test.db, &cursor, ExportRange::default()).await, ["s1"]);
}

async fn a_number_that_no_export_printed_is_not_known(test: TestDb) {
    assert_eq!(test.db.create_export_cursor(NOW).await.unwrap(), 1);
    assert!(test.db.export_cursor(1).await.unwrap().is_some());
    for number in [2, -1, i64::MAX] {
        assert_eq!(test.db.export_cursor(number).await.unwrap(), None);
    }
}

fn in_dialog(id: &str, dialog: &str, ended: i64) -> SegmentRecord {
    SegmentRecord { dialog_id: Some(dialog.to_owned()), ..record(id, Some(ended)) }
}

async fn dialogs(db: &Db, selection: Selection) -> Vec<(String, Vec<String>)> {
    let lines = export_lines_of(db, &Selection { table: Table::Dialogs, ..selection }).await;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    let ids = |line: &serde_json::Value| line["segment_ids"].as_array().unwrap().iter().map(text).collect();
    lines.iter().map(|line| (text(&line["dialog_id"]), ids(line))).collect()
}

async fn export_lines_of(db: &Db, selection: &Selection) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    export::write_export(db, selection, ExportFormat::Jsonl, &mut out, &mut |_| {}).await.unwrap();
    String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn a_dialog_is_exported_once_with_all_its_segments(test: TestDb) {
    let a = acquire_account(&test.db, "a").await;
    let mut records = vec![
        in_dialog("one", "x", 10),
        in_dialog("two", "y", 20),
        in_dialog("three", "x", 1_000_000),
        SegmentRecord { dialog_id: None, ..record("alone", Some(30)) },
    ];
    // More than a page lies between the segments of a dialog.
    records.extend((0..600).map(|n| in_dialog(&format!("s{n:04}"), &format!("z{n}"), 1000 + n)));
    ingest(&test.db, a, NOW, &records).await;
    let all = dialogs(&test.db, Selection::default()).await;
    assert_eq!(all.len(), 603);
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(all[0], ("y".to_owned(), owned(&["two"])));
    assert_eq!(all[1], ("-".to_owned(), owned(&["alone"])));
    assert_eq!(all[602], ("x".to_owned(), owned(&["one", "three"])));
    let range = |from, to| ExportRange { from: Some(Time(from)), to: Some(Time(to)), account: None };
    let early = dialogs(&test.db, Selection { range: range(0, 50), ..Selection::default() }).await;
    assert_eq!(early.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["y", "-"], "x ended later");
    let mark = test.db.create_export_cursor(NOW + Duration::from_secs(3600)).await.unwrap();
    let since = test.db.export_cursor(mark).await.unwrap();
    store_answers(&test.db, a, "one").await;
    let changed = dialogs(&test.db, Selection { since, ..Selection::default() }).await;
    assert_eq!(changed, [("x".to_owned(), owned(&["one", "three"]))]);
}

async fn erase(db: &Db, subject: Subject, now: Time) {
    let request = ErasureRequest {
        subject,
        account: None,
        who: "test".to_owned(),
        reason: None,
        include_alike: false,
        include_unreadable: false,
        access_entry: None,
    };
    let plan = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    erasure::execute_plan(db, &request, plan, Confirmation::Everything, now, &mut |_| {}).await.unwrap();
}

async fn an_export_of_changes_tells_erasures_until_they_are_forgotten(test: TestDb) {
    let a = acquire_account(&test.db, "a").await;
    let records =
        [in_dialog("one", "x", 1), in_dialog("two", "x", 2), in_dialog("three", "y", 3), in_dialog("four", "z", 4)];
    ingest(&test.db, a, NOW, &records).await;
    erase(&test.db, Subject::Segment("four".into()), NOW).await;
    assert_eq!(test.db.value::<i64>(sql("select count(*) from export_erasure")).await.unwrap(), Some(0), "no export");
    let later = NOW + Duration::from_secs(3600);
    let mark = test.db.create_export_cursor(later).await.unwrap();
    let since = test.db.export_cursor(mark).await.unwrap();
    erase(&test.db, Subject::Segment("one".into()), later).await;
    erase(&test.db, Subject::Dialog("y".into()), later).await;
    let selection = Selection { since: since.clone(), ..Selection::default() };
    let lines = export_lines_of(&test.db, &selection).await;
    assert_eq!(segment_ids(&lines), ["one", "three"]);
    assert!(lines.iter().all(|line| line["erased_reason"] == "erasure" && line["erased_at"].is_string()), "{lines:?}");
    assert_eq!((&lines[0]["dialog_id"], &lines[0]["sub_account_id"]), (&"x".into(), &"a".into()));
    let rows = export_lines_of(&test.db, &Selection { table: Table::Phrases, ..selection.clone() }).await;
    assert_eq!(segment_ids(&rows), ["one", "three"]);
    // What is left of a dialog is exported again.
    let rows = dialogs(&test.db, selection.clone()).await;
    assert_eq!(rows, [("x".to_owned(), vec!["two".to_owned()]), ("y".to_owned(), vec!["three".to_owned()])]);
    // A filter that leaves the rest of a dialog out does not hide the erasure.
    let filter = SegmentFilter { channel: Some("EMAIL".to_owned()), ..SegmentFilter::default() };
    let rows = dialogs(&test.db, Selection { filter, ..selection.clone() }).await;
    assert_eq!(rows, [("x".to_owned(), vec!["one".to_owned()]), ("y".to_owned(), vec!["three".to_owned()])]);
    // An erasure carries the time at which it began, which may be long before the export's.
    let mark = test.db.create_export_cursor(later + Duration::from_secs(3600)).await.unwrap();
    let since = test.db.export_cursor(mark).await.unwrap();
    assert_eq!(export_lines_of(&test.db, &Selection { since, ..selection.clone() }).await.len(), 2);
    test.db.forget_export_erasures(later + Duration::from_secs(89 * 86_400)).await.unwrap();
    assert_eq!(export_lines_of(&test.db, &selection).await.len(), 2);
    test.db.forget_export_erasures(later + Duration::from_secs(91 * 86_400)).await.unwrap();
    assert_eq!(export_lines_of(&test.db, &selection).await.len(), 0);
}

async fn a_filter_selects_what_an_erasure_would_find(test: TestDb) {
    let a = acquire_account(&test.db, "a").await;
    let with = |id: &str, fields: &str, ended| SegmentRecord {
        raw: format!(r#"{{"segmentId":"{id}",{fields}}}"#),
        ..record(id, Some(ended))
    };
    let records = [
        with("one", r#""contactEndpointAddress":"+49 30 1234567","channelClass":"VOICE""#, 3),
        with("two", r#""ani":"0049301234567","channelClass":"VOICE","agentId":"901""#, 1),
        with("three", r#""channelEndpointAddress":"tel:+49-30-1234567","channelClass":"DIGITAL""#, 2),
        with("four", r#""ani":"+49 30 7654321","channelClass":"VOICE""#, 4),
    ];
    ingest(&test.db, a, NOW, &records).await;
    let subject = Subject::Contact("+49301234567".into());
    let found = erasure::find_subject_segments(&test.db, &subject, None, &mut |_| {}).await.unwrap();
    let mut keys: Vec<_> = found.segments.iter().map(|segment| (segment.ended, segment.key)).collect();
    keys.sort_unstable();
    let subject: Vec<i64> = keys.into_iter().map(|(_, key)| key).collect();
    let selection = Selection { subject: Some(subject), ..Selection::default() };
    assert_eq!(segment_ids(&export_lines_of(&test.db, &selection).await), ["two", "three", "one"]);
    let voice = SegmentFilter { channel: Some("voice".into()), ..SegmentFilter::default() };
    let selection = Selection { filter: voice.clone(), ..selection };
    assert_eq!(segment_ids(&export_lines_of(&test.db, &selection).await), ["two", "one"]);
    let range = ExportRange { from: Some(Time(2)), ..ExportRange::default() };
    let since = test.db.export_cursor(0).await.unwrap();
    for since in [None, since] {
        let selection = Selection { range, since, ..selection.clone() };
        assert_eq!(segment_ids(&export_lines_of(&test.db, &selection).await), ["one"]);
    }
    let agent = SegmentFilter { agent: Some("901".into()), ..voice };
    let selection = Selection { filter: agent, ..Selection::default() };
    assert_eq!(segment_ids(&export_lines_of(&test.db, &selection).await), ["two"]);
}

fn settings() -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("local.toml");
    let text =
        "[auth]\napi_token = \"t\"\n[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"a\"\nname = \"Support\"\n";
    std::fs::write(&file, text).unwrap();
    config::load(Some(&file), Vec::new()).unwrap().settings
}

async fn the_status_adds_up(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    test.db.init_live_start(owned.account, NOW - Duration::from_secs(900)).await.unwrap();
    ingest(&test.db, owned, NOW - Duration::from_secs(30), &[record("s1", Some(1)), record("s2", Some(2))]).await;
    store_answers(&test.db, owned, "s1").await;
    let read = TimeRange { from: NOW - Duration::from_secs(900), to: NOW - Duration::from_secs(300) };
    let reading = WindowRead {
        at: NOW,
        done: NOW,
        lane: Lane::Live,
        range: read,
        summary: IngestSummary::default(),
        purposes: vec![("live".to_owned(), read)],
        finished: Vec::new(),
    };
    test.db.record_window_read(owned, &reading).await.unwrap();
    let stats = r#"{"accounts":{"a":{"running":2,"requests_last_minute":7,"refused":0,"paused_until":null}}}"#;
    let row = ReplicaRow {
        name: "host-1".to_owned(),
        version: "1".to_owned(),
        started: NOW,
        heartbeat: NOW,
        released: None,
        stats: stats.to_owned(),
    };
    test.db.record_heartbeat(&row, NOW).await.unwrap();
    let Snapshot { accounts, replicas, .. } = status::gather(&test.db, &settings(), "host-1", None, NOW).await.unwrap();
    let account = &accounts[0];
    assert_eq!((account.name.as_deref(), account.owner.as_deref()), (Some("Support"), Some("host-1")));
    assert_eq!((account.work.ready, account.work.running, account.work.done), (1, 2, 3));
    assert_eq!((account.lag_seconds, account.oldest_unfinished_seconds), (Some(300), Some(30)));
    assert_eq!((account.requests_last_minute, account.drain_seconds, account.gaps.len()), (7, 2, 0));
    assert!(replicas[0].alive);
}

#[tokio::test]
async fn a_server_that_accepts_no_writes_is_not_ready() {
    let url = tokio::task::spawn_blocking(support::postgres_cluster::create_database).await.unwrap();
    let writable = Db::open_postgres(&url, OpenMode::CreateOrMigrate, 2).await.unwrap();
    writable.ping().await.unwrap();
    let name: Option<String> = writable.value(sql("select cast(current_database() as text)")).await.unwrap();
    let name = name.unwrap();
    let set = Stmt::built(format!("alter database {name} set default_transaction_read_only = on"));
    writable.run(set).await.unwrap();
    let read_only = Db::open_postgres(&url, OpenMode::Existing, 2).await.unwrap();
    let error = read_only.ping().await.unwrap_err();
    assert_eq!(error.fault(), DbFault::Unavailable);
    assert!(error.to_string().contains("accepts no writes"), "{error}");
}

async fn replicas_that_are_long_gone_are_forgotten_unless_they_own_something(test: TestDb) {
    let (db, month) = (&test.db, Duration::from_secs(30 * 86_400));
    let row = |name: &str| ReplicaRow {
        name: name.to_owned(),
        version: String::new(),
        started: NOW,
        heartbeat: NOW,
        released: None,
        stats: String::new(),
    };
    for name in ["container-1", "container-2", "owner", "here"] {
        db.record_heartbeat(&row(name), NOW).await.unwrap();
    }
    let account = db.register_account(&AccountId::new("1", "2"), None, NOW).await.unwrap();
    assert_eq!(db.acquire_leases(&[account.key], "owner", Duration::from_secs(10), NOW).await.unwrap().len(), 1);
    // Postgres uses its own clock, so time passes by moving the stored heartbeats back.
    db.run(sql("update replica set heartbeat = heartbeat - 40 * cast(86400000 as bigint) where name <> 'here'"))
        .await
        .unwrap();
    assert_eq!(db.delete_dead_replicas(month, NOW).await.unwrap(), 2);
    let left: Vec<String> = db.replicas().await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(left, ["here", "owner"]);
}
