//! What an export looks like, entry by entry.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::AccountId;

fn slot(outcome: ArtifactStatus) -> SegmentArtifact {
    let answered = matches!(outcome, ArtifactStatus::Stored(_) | ArtifactStatus::NotPopulated);
    let fetched = answered.then(|| Time::parse("2024-07-22T11:30:00.5Z").unwrap());
    SegmentArtifact { status: outcome, fetched, version: 1, due: None, tries: 0, reason: None }
}

fn stored(body: &[u8]) -> SegmentArtifact {
    slot(ArtifactStatus::Stored(body.to_vec()))
}

fn entry(metadata: &str, [transcript, agent, auto]: [SegmentArtifact; 3]) -> SegmentEntry {
    let slots = [transcript, agent, auto, slot(ArtifactStatus::NotRequested)];
    let segment = SegmentRow {
        key: 1,
        account: AccountId::new("980634004", "99999999"),
        account_key: crate::db::AccountKey(1),
        segment_id: "seg-1".to_owned(),
        dialog_id: Some("dia-1".to_owned()),
        ended: Time::parse("2024-07-22T11:24:47Z"),
        has_transcript: true,
        first_seen: Time::from_secs(0),
        metadata: metadata.to_owned(),
    };
    SegmentEntry { segment, slots }
}

fn bytes(entry: &SegmentEntry, format: ExportFormat) -> Vec<u8> {
    written(Table::Segments, format, vec![vec![entry.clone()]], &[])
}

fn written(table: Table, format: ExportFormat, units: Vec<Vec<SegmentEntry>>, erased: &[ErasedSegment]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = unit_writer(table, format, &mut out).unwrap();
    let name = Arc::from("Support");
    for unit in units {
        writer.push(unit, Some(&name)).unwrap();
    }
    for erased in erased {
        writer.push_erased(erased, Some(&name)).unwrap();
    }
    writer.finish().unwrap();
    out
}

fn rendered(entry: &SegmentEntry, format: ExportFormat) -> String {
    String::from_utf8(bytes(entry, format)).unwrap()
}

#[test]
fn a_recording_is_a_reference_where_it_was_requested() {
    let other = || slot(ArtifactStatus::NotPopulated);
    let reference =
        br#"{"object":"ab/ab.wav","sha256":"ab","bytes":7,"type":"audio/wav","duration_ms":61000,"channels":2}"#;
    let mut entry = entry("{}", [other(), other(), other()]);
    let json = |entry: &SegmentEntry| -> serde_json::Value {
        serde_json::from_str(&rendered(entry, ExportFormat::Jsonl)).unwrap()
    };
    assert!(json(&entry).get("recording").is_none(), "as before where none was requested");
    entry.slots[3] = slot(ArtifactStatus::Pending);
    assert_eq!(json(&entry)["recording"], serde_json::json!({ "outcome": "pending" }));
    entry.slots[3] = stored(reference);
    let expected = serde_json::json!({
        "outcome": "stored", "fetched_at": "2024-07-22T11:30:00.500Z", "object": "ab/ab.wav", "sha256": "ab",
        "bytes": 7, "type": "audio/wav", "duration_ms": 61_000, "channels": 2,
    });
    let redacted = entry.clone().redact(&Redactor::new(&[crate::config::RedactionRule::Phone]));
    assert_eq!((json(&entry)["recording"].clone(), json(&redacted)["recording"].clone()), (expected.clone(), expected));
    let csv = rendered(&entry, ExportFormat::Csv);
    assert!(
        csv.contains("recording_outcome,recording_bytes,recording_type,recording_duration_ms,recording_object\r\n")
    );
    assert!(csv.ends_with(",stored,7,audio/wav,61000,ab/ab.wav\r\n"), "{csv}");
}

#[test]
fn a_line_has_the_documented_keys_in_their_order() {
    let body = br#"{"channelClass":"VOICE","transcript":[]}"#;
    let entry = entry("{}", [stored(body), stored(b"\"A \\u00fc\\nsummary\""), slot(ArtifactStatus::NotPopulated)]);
    assert_eq!(
        rendered(&entry, ExportFormat::Jsonl),
        concat!(
            r#"{"rc_account_id":"980634004","sub_account_id":"99999999","dialog_id":"dia-1","segment_id":"seg-1","#,
            r#""segment_end":"2024-07-22T11:24:47.000Z","metadata":{},"#,
            r#""transcript":{"outcome":"stored","fetched_at":"2024-07-22T11:30:00.500Z","body":{"channelClass":"VOICE","transcript":[]}},"#,
            r#""agent_summary":{"outcome":"stored","fetched_at":"2024-07-22T11:30:00.500Z","text":"A ü\nsummary"},"#,
            r#""auto_summary":{"outcome":"not_populated","fetched_at":"2024-07-22T11:30:00.500Z"}}"#,
            "\n"
        )
    );
}

#[test]
fn what_the_api_sent_is_neither_reformatted_nor_broken_over_lines() {
    let metadata =
        "{\"big\":123456789012345678901234567890, \"e\":1.10,\r\n \"twice\":1,\"twice\":2,\"lone\":\"\\ud800\"}";
    let line = rendered(
        &entry(metadata, [stored(b"\xef\xbb\xbf{\n}"), stored(b"raw \xff"), stored(b"")]),
        ExportFormat::Jsonl,
    );
    assert_eq!(line.matches('\n').count(), 1);
    assert!(
        line.contains(
            r#""metadata":{"big":123456789012345678901234567890, "e":1.10,   "twice":1,"twice":2,"lone":"\ud800"},"#
        ),
        "{line}"
    );
    assert!(line.contains(r#""body":{ }"#), "{line}");
    assert!(line.contains("\"text\":\"raw \u{fffd}\""), "{line}");
}

#[test]
fn a_body_that_is_no_json_is_still_a_line_of_json() {
    let line = rendered(
        &entry("oops", [stored(b"{\"a\":"), slot(ArtifactStatus::Failed), slot(ArtifactStatus::NotRequested)]),
        ExportFormat::Jsonl,
    );
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["metadata"], "oops");
    assert_eq!(value["transcript"]["body"], "{\"a\":");
    assert_eq!(value["agent_summary"], serde_json::json!({"outcome":"failed"}));
    assert_eq!(value["auto_summary"], serde_json::json!({"outcome":"not_requested"}));
}

#[test]
fn every_outcome_has_its_documented_name() {
    let all = [
        ArtifactStatus::Stored(Vec::new()),
        ArtifactStatus::NotPopulated,
        ArtifactStatus::Pending,
        ArtifactStatus::Unavailable,
        ArtifactStatus::Failed,
        ArtifactStatus::Discarded,
        ArtifactStatus::NotRequested,
    ];
    assert_eq!(
        all.each_ref().map(outcome_name),
        ["stored", "not_populated", "pending", "unavailable", "failed", "discarded", "not_requested"]
    );
}

#[test]
fn a_segment_without_end_and_dialog_says_null() {
    let mut entry =
        entry("{}", [slot(ArtifactStatus::Pending), slot(ArtifactStatus::Pending), slot(ArtifactStatus::Pending)]);
    (entry.segment.ended, entry.segment.dialog_id) = (None, None);
    let line = rendered(&entry, ExportFormat::Jsonl);
    assert!(line.contains(r#""dialog_id":null,"segment_id":"seg-1","segment_end":null,"#), "{line}");
}

#[test]
fn a_row_reads_back_as_it_was_whatever_its_cells_hold() {
    let summary = "says \"yes\", then\r\nleaves";
    let body = br#"{"transcript":[{"participantType":"agent","message":"a, \"b\""}]}"#;
    let entry =
        entry(r#"{"channelClass":"VOICE"}"#, [stored(body), stored(summary.as_bytes()), slot(ArtifactStatus::Pending)]);
    let out = bytes(&entry, ExportFormat::Csv);
    let text = String::from_utf8(out.clone()).unwrap();
    assert!(text.contains(r#""says ""yes"", then"#), "{text}");
    assert!(text.ends_with("\r\n"), "{text}");
    let mut reader = ::csv::Reader::from_reader(out.as_slice());
    let header = reader.headers().unwrap().clone();
    let row = reader.records().next().unwrap().unwrap();
    let cell = |name: &str| row.get(header.iter().position(|column| column == name).unwrap()).unwrap().to_owned();
    assert_eq!(cell("agent_summary"), summary);
    assert_eq!(cell("transcript"), "agent: a, \"b\"\n");
    assert_eq!(cell("channel_class"), "VOICE");
    assert_eq!((cell("auto_summary"), cell("auto_summary_outcome")), (String::new(), "pending".to_owned()));
}

#[test]
fn a_row_holds_no_control_characters_and_for_excel_no_formula() {
    let body = br#"{"transcript":[{"participantType":"agent","message":"=1+1"}]}"#;
    let metadata = r#"{"agentDisposition":"=cmd|x"}"#;
    let entry = entry(metadata, [stored(body), stored(b"\"a\\u0000b\\u001b[2Jc\""), stored(b"+49 30")]);
    let plain = rendered(&entry, ExportFormat::Csv);
    assert!(
        plain.contains(",abc,stored,2024-07-22T11:30:00.500Z,+49 30,Support,") && plain.contains(",=cmd|x,"),
        "{plain}"
    );
    let excel = rendered(&entry, ExportFormat::CsvForExcel);
    assert!(excel.starts_with("\u{feff}rc_account_id,") && excel.contains(",'=cmd|x,"), "{excel}");
    assert!(excel.contains(",abc,stored,2024-07-22T11:30:00.500Z,'+49 30,Support,"), "{excel}");
}

#[test]
fn text_to_read_cannot_steer_a_terminal() {
    let body = br#"{"transcript":[{"participantName":"\u001b[2JJane","timestamp":"0","message":"Hi\u0007 there"}]}"#;
    let text = rendered(
        &entry("{}", [stored(body), stored(b"\x1b]0;x\x07sum"), slot(ArtifactStatus::Pending)]),
        ExportFormat::Text,
    );
    assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
    assert!(text.contains("00:00 Jane: Hi there\n"), "{text}");
    assert!(text.contains("agent summary:\nsum\n"), "{text}");
    assert!(text.contains("(auto summary: pending)"), "{text}");
}

fn names(folder: &std::path::Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_appears_whole_and_private_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    std::fs::write(&path, "old").unwrap();
    let mut target = Target::file(&path).unwrap();
    target.write_all(b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    drop(target);
    assert_eq!(names(folder.path()), ["out.jsonl"]);
    let mut target = Target::file(&path).unwrap();
    target.write_all(b"new").unwrap();
    target.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(names(folder.path()), ["out.jsonl"]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_name_that_ends_in_zst_is_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl.zst");
    let mut target = Target::file(&path).unwrap();
    target.write_all(&[b'a'; 100_000]).unwrap();
    target.finish().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1000);
    let mut back = Vec::new();
    zstd::Decoder::new(std::fs::File::open(&path).unwrap()).unwrap().read_to_end(&mut back).unwrap();
    assert_eq!(back, [b'a'; 100_000]);
}

#[test]
fn a_folder_is_no_file_and_a_device_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Target::file(folder.path()).err().unwrap().to_string().contains("it is a folder"));
    let mut null = Target::file(std::path::Path::new("/dev/null")).unwrap();
    null.write_all(b"x").unwrap();
    null.finish().unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

/// A row as JSON, times in milliseconds.
fn json(row: &::parquet::record::Row) -> serde_json::Value {
    use ::parquet::record::Field;
    let value = |field: &Field| match field {
        Field::Null => serde_json::Value::Null,
        Field::Str(text) => text.as_str().into(),
        Field::Long(number) | Field::TimestampMillis(number) => (*number).into(),
        Field::Bool(flag) => (*flag).into(),
        Field::ListInternal(list) => list.elements().iter().map(ToString::to_string).collect(),
        other => panic!("{other:?} is of no kind that we write"),
    };
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect::<serde_json::Map<_, _>>().into()
}

fn table(entries: &[SegmentEntry]) -> Vec<serde_json::Value> {
    let units = entries.iter().map(|entry| vec![entry.clone()]).collect();
    parquet_rows(Table::Segments, units, &[])
}

fn parquet_rows(table: Table, units: Vec<Vec<SegmentEntry>>, erased: &[ErasedSegment]) -> Vec<serde_json::Value> {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let out = written(table, ExportFormat::Parquet, units, erased);
    let reader = SerializedFileReader::new(bytes::Bytes::from(out)).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| json(&row.unwrap())).collect()
}

/// Entries of every outcome, with bodies that are odd in every way.
fn odd() -> Vec<SegmentEntry> {
    let body = br#"{"channelClass":"VOICE","big":12345678901234567890123,"one":1.0,"transcript":[
        {"participantName":"Jane","participantType":"agent","timestamp":"1721651880000","message":"card 4111 1111 1111 1111\nnul \u0000 \ud800"}]}"#;
    let metadata = r#"{"channelClass":"VOICE","segmentType":"AGENT","segmentStartTimeMs":"2024-07-22T11:24:40.250Z",
        "agentDisposition":"Success","contactEndpointAddress":"2013770791"}"#;
    let mut nameless = entry("oops", [stored(b"no json"), slot(ArtifactStatus::Failed), stored(b"raw \xff")]);
    (nameless.segment.ended, nameless.segment.dialog_id) = (None, None);
    vec![
        entry(metadata, [stored(body), stored(b"\"A \\u00fc\\nsummary\""), slot(ArtifactStatus::NotPopulated)]),
        nameless,
        entry(
            "{}",
            [slot(ArtifactStatus::Pending), slot(ArtifactStatus::Unavailable), slot(ArtifactStatus::NotRequested)],
        ),
        entry("{}", [slot(ArtifactStatus::Discarded), stored(b""), stored("mail a@b.co".as_bytes())]),
    ]
}

#[test]
fn no_cell_of_a_table_but_json_holds_what_a_database_refuses() {
    let metadata = r#"{"channelClass":"VO\u0000ICE","agentDisposition":"\u001b[2JDone\u0000"}"#;
    let summaries = [stored(b"\"a\\u0000b\\r\\nc\""), stored(b"raw \0\x01 text")];
    let [agent, auto] = summaries;
    let row = table(&[entry(metadata, [slot(ArtifactStatus::Pending), agent, auto])]).remove(0);
    assert_eq!((&row["channel_class"], &row["agent_disposition"]), (&"VOICE".into(), &"Done".into()));
    assert_eq!((&row["agent_summary"], &row["auto_summary"]), (&"ab\r\nc".into(), &"raw  text".into()));
    assert_eq!(row["metadata"], metadata);
}

/// A line with the columns of a table.
fn flat(entry: &SegmentEntry) -> serde_json::Value {
    use serde_json::value::RawValue;
    use serde_json::{Value, json};
    #[derive(serde::Deserialize)]
    struct Raw {
        metadata: Box<RawValue>,
        transcript: Body,
    }
    #[derive(serde::Deserialize)]
    struct Body {
        body: Option<Box<RawValue>>,
    }
    let text = rendered(entry, ExportFormat::Jsonl);
    let raw: Raw = serde_json::from_str(&text).unwrap();
    let line: Value = serde_json::from_str(&text.replace("\\ud800", "")).unwrap();
    let millis = |value: &Value| value.as_str().map(|text| Time::parse(text).unwrap().0);
    let csv = bytes(entry, ExportFormat::Csv);
    let mut csv = ::csv::Reader::from_reader(csv.as_slice());
    let names = csv.headers().unwrap().clone();
    let cells = csv.records().next().unwrap().unwrap();
    let cell = |name: &str| {
        let cell = cells.get(names.iter().position(|column| column == name).unwrap()).unwrap();
        (!cell.is_empty()).then(|| cell.to_owned())
    };
    let part = |name: &str, key: &str| line[name].get(key).cloned().unwrap_or_default();
    json!({
        "rc_account_id": line["rc_account_id"], "sub_account_id": line["sub_account_id"],
        "dialog_id": line["dialog_id"], "segment_id": line["segment_id"], "segment_end": millis(&line["segment_end"]),
        "channel_class": cell("channel_class"), "channel_type": cell("channel_type"), "segment_type": cell("segment_type"),
        "segment_start": cell("segment_start").map(|text| Time::parse(&text).unwrap().0),
        "agent_disposition": cell("agent_disposition"), "metadata": raw.metadata.get(),
        "transcript_outcome": part("transcript", "outcome"), "transcript_fetched_at": millis(&part("transcript", "fetched_at")),
        "transcript": raw.transcript.body.map(|body| body.get().to_owned()), "transcript_text": cell("transcript"),
        "agent_summary_outcome": part("agent_summary", "outcome"),
        "agent_summary_fetched_at": millis(&part("agent_summary", "fetched_at")), "agent_summary": part("agent_summary", "text"),
        "auto_summary_outcome": part("auto_summary", "outcome"),
        "auto_summary_fetched_at": millis(&part("auto_summary", "fetched_at")), "auto_summary": part("auto_summary", "text"),
    })
}

#[test]
fn a_table_holds_what_the_lines_hold_row_for_row() {
    let entries = odd();
    let rows = table(&entries);
    assert_eq!(rows.len(), entries.len());
    for (row, entry) in rows.into_iter().zip(&entries) {
        let lines = flat(entry);
        for (name, value) in lines.as_object().unwrap() {
            assert_eq!(&row[name], value, "{name}");
        }
    }
}

#[test]
fn a_row_shows_what_the_metadata_and_the_settings_say() {
    let metadata = r#"{"dialogOrigination":"INBOUND","contactEndpointAddress":"+4930123","channelEndpointAddress":"800",
        "segmentParticipantId":"901","segmentAgentGroupId":"7","segmentDurationMs":61000,"systemDisposition":"ANSWER",
        "agentDisposition":"Done","agentNotes":"call\nback"}"#;
    let body =
        br#"{"transcript":[{"participantName":"Jane","participantType":"Agent","timestamp":"1000","message":"Hi"},
        {"participantName":"Max","participantType":"contact","timestamp":"3000","message":"Yes"}]}"#;
    let rest = || slot(ArtifactStatus::NotRequested);
    let entry = entry(metadata, [stored(body), rest(), rest()]);
    let row = table(std::slice::from_ref(&entry)).remove(0);
    for (name, value) in [
        ("account_name", serde_json::json!("Support")),
        ("direction", "INBOUND".into()),
        ("contact", "+4930123".into()),
        ("channel_address", "800".into()),
        ("agent", "Jane".into()),
        ("agent_id", "901".into()),
        ("agent_group_id", "7".into()),
        ("duration_ms", 61_000.into()),
        ("system_disposition", "ANSWER".into()),
        ("agent_notes", "call\nback".into()),
        ("has_transcript", true.into()),
        ("speakers", serde_json::json!(["\"Jane (Agent)\"", "\"Max (contact)\""])),
        ("phrases", 2.into()),
        ("transcript_version", 1.into()),
        ("erased_at", serde_json::Value::Null),
    ] {
        assert_eq!(row[name], value, "{name}");
    }
    let out = bytes(&entry, ExportFormat::Csv);
    let mut csv = ::csv::Reader::from_reader(out.as_slice());
    let names = csv.headers().unwrap().clone();
    let cells = csv.records().next().unwrap().unwrap();
    let cell = |name: &str| cells.get(names.iter().position(|column| column == name).unwrap()).unwrap().to_owned();
    assert_eq!(
        (cell("agent"), cell("contact"), cell("duration_ms")),
        ("Jane".into(), "+4930123".into(), "61000".into())
    );
    assert_eq!((cell("agent_notes"), cell("has_transcript")), ("call\nback".into(), "true".into()));
}

#[test]
fn a_phrase_is_a_row_and_a_dialog_is_merged_over_its_segments() {
    let body = |second: &str, text: &str| {
        format!(
            r#"{{"transcript":[{{"participantName":"Jane","participantType":"agent","timestamp":"{second}","message":"{text}"}}]}}"#
        )
    };
    let rest = || slot(ArtifactStatus::NotRequested);
    let segment = |id: &str, body: String, metadata: &str| {
        let mut entry = entry(metadata, [stored(body.as_bytes()), stored(b"\"a summary\""), rest()]);
        entry.segment.segment_id = id.to_owned();
        entry
    };
    let one =
        segment("seg-1", body("1721651880000", "first"), r#"{"agentDisposition":"Moved","segmentParticipantId":"1"}"#);
    let two =
        segment("seg-2", body("1721651940000", "second"), r#"{"agentDisposition":"Done","segmentParticipantId":"2"}"#);
    let dialog = || vec![vec![one.clone(), two.clone()]];
    let row = parquet_rows(Table::Dialogs, dialog(), &[]).remove(0);
    assert_eq!(row["text"], "00:00 Jane (agent): first\n01:00 Jane (agent): second\n");
    assert_eq!(row["segment_ids"], serde_json::json!(["\"seg-1\"", "\"seg-2\""]));
    assert_eq!(row["agent_dispositions"], serde_json::json!(["\"Moved\"", "\"Done\""]));
    assert_eq!((&row["phrases"], &row["segments"], &row["is_settled"]), (&2.into(), &2.into(), &true.into()));
    assert_eq!(row["agent_summary"], "a summary", "the same text once");
    let rows = parquet_rows(Table::Phrases, vec![vec![one.clone()], vec![two.clone()]], &[]);
    let said = |row: &serde_json::Value| (row["segment_id"].clone(), row["phrase"].clone(), row["text"].clone());
    assert_eq!(said(&rows[1]), ("seg-2".into(), 1.into(), "second".into()));
    assert_eq!(
        (&rows[0]["role"], &rows[0]["time"], &rows[0]["offset_ms"]),
        (&"agent".into(), &1_721_651_880_000_i64.into(), &0.into())
    );
    let json = String::from_utf8(written(Table::Phrases, ExportFormat::Jsonl, vec![vec![one.clone()]], &[])).unwrap();
    assert!(
        json.contains(r#""time":"2024-07-22T12:38:00.000Z","offset_ms":0,"speaker":"Jane","role":"agent""#),
        "{json}"
    );
    let text = String::from_utf8(written(Table::Dialogs, ExportFormat::Text, dialog(), &[])).unwrap();
    assert!(text.starts_with("######## dialog dia-1, 2 segments\n") && text.contains("==== segment seg-2"), "{text}");
}

#[test]
fn an_erased_segment_is_a_row_of_its_ids() {
    use crate::db::DeletionReason;
    let erased = ErasedSegment {
        id: 1,
        account: AccountId::new("980634004", "99999999"),
        account_key: crate::db::AccountKey(1),
        segment_id: "gone".to_owned(),
        dialog_id: Some("dia-1".to_owned()),
        at: Time::parse("2026-11-20T09:00:00Z").unwrap(),
        reason: DeletionReason::Erased,
    };
    let erased = std::slice::from_ref(&erased);
    let line = String::from_utf8(written(Table::Segments, ExportFormat::Jsonl, Vec::new(), erased)).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"rc_account_id":"980634004","sub_account_id":"99999999","dialog_id":"dia-1","segment_id":"gone","#,
            r#""erased_at":"2026-11-20T09:00:00.000Z","erased_reason":"erasure"}"#,
            "\n"
        )
    );
    for table in [Table::Segments, Table::Phrases] {
        let row = parquet_rows(table, Vec::new(), erased).remove(0);
        assert_eq!((&row["segment_id"], &row["erased_reason"]), (&"gone".into(), &"erasure".into()));
        assert_eq!(row["segment_end"], serde_json::Value::Null);
    }
    let row = parquet_rows(Table::Dialogs, Vec::new(), erased).remove(0);
    assert_eq!(row["segment_ids"], serde_json::json!(["\"gone\""]));
    let csv = String::from_utf8(written(Table::Segments, ExportFormat::Csv, Vec::new(), erased)).unwrap();
    assert!(csv.ends_with(",2026-11-20T09:00:00.000Z,erasure\r\n"), "{csv}");
    let text = String::from_utf8(written(Table::Segments, ExportFormat::Text, Vec::new(), erased)).unwrap();
    assert!(text.starts_with("==== segment gone erased 2026-11-20T09:00:00Z (erasure)\n"), "{text}");
}

#[test]
fn every_format_is_without_what_is_taken_out() {
    use crate::config::RedactionRule;
    let redactor = Redactor::new(&[RedactionRule::Card, RedactionRule::Email, RedactionRule::Phone]);
    let entries: Vec<SegmentEntry> = odd().into_iter().map(|entry| entry.redact(&redactor)).collect();
    let rows = serde_json::Value::from(table(&entries)).to_string();
    let mut all = vec![rows];
    for format in [ExportFormat::Jsonl, ExportFormat::Csv, ExportFormat::Text] {
        all.push(entries.iter().map(|entry| rendered(entry, format)).collect());
    }
    for text in all {
        assert!(text.contains("[card]") && text.contains("[email]"), "{text}");
        for secret in ["4111 1111", "a@b.co", "2013770791"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    let line = rendered(&entries[0], ExportFormat::Jsonl);
    assert!(line.contains(r#""big":12345678901234567890123,"one":1.0,"#), "{line}");
    assert!(line.contains(r#""contactEndpointAddress":"[phone]""#), "{line}");
}

#[test]
fn what_is_compressed_already_is_not_compressed_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet.zst");
    let mut target = Target::precompressed_file(&path).unwrap();
    target.write_all(b"PAR1").unwrap();
    target.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"PAR1");
}
