//! The real binary as people and scripts meet it: exit status, messages, pipes that close, files that appear whole.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Access, Chunk, Db};
use ringcx_extractor::model::{AccountId, ArtifactSet, Lane, SegmentRecord, Stretch, Stretches, SummariesFor, Wants};
use tempfile::TempDir;

const NOW: Time = Time(1_700_000_000_000);

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = "[auth]\napi_token = \"secret-token\"\n[database]\nurl = \"sqlite:test.db\"\n\
                [[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"77\"\nname = \"Support\"\n";
    std::fs::write(folder.path().join("local.toml"), text).unwrap();
    folder
}

fn binary(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    command.current_dir(folder).env_clear().env("RINGCX_CONFIG", "local.toml");
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    binary(folder).args(args).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A database with so many segments, whose items all wait.
#[tokio::main(flavor = "current_thread")]
async fn fill(folder: &Path, segments: i64) {
    let db = Db::open_sqlite(&folder.join("test.db"), Access::Own).await.unwrap();
    let account = db.enrol(&AccountId::new("1", "77"), None, NOW).await.unwrap();
    let owned = db.take(&[account.key], "host-1", Duration::from_secs(10), NOW).await.unwrap().remove(0);
    let records: Vec<SegmentRecord> = (0..segments)
        .map(|n| SegmentRecord {
            segment_id: format!("s{n:06}"),
            dialog_id: Some("dialog".to_owned()),
            end: Some(NOW.plus_millis(n)),
            has_transcript: true,
            is_agent: true,
            raw: format!(r#"{{"segmentId":"s{n:06}","agentNotes":"{}"}}"#, "x".repeat(200)),
        })
        .collect();
    let chunk = Chunk {
        owned,
        lane: Lane::Live,
        stretch: Stretch { from: Time(0), to: NOW },
        now: NOW,
        wants: Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed },
        known: &Stretches::default(),
        urgent_before: None,
        repair: Duration::from_secs(60),
        records: &records,
        asides: &[],
    };
    db.announce(chunk).await.unwrap();
    db.close().await;
}

#[test]
fn no_configuration_is_a_matter_of_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let output = binary(folder.path()).args(["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = err(&output);
    assert!(said.starts_with("error: failed to load the settings"), "{said}");
    assert!(said.contains("hint:") && !said.contains('\x1b'), "{said}");
    assert_eq!(out(&output), "");
}

#[test]
fn nonsense_on_the_command_line_is_a_matter_of_usage() {
    let folder = folder();
    fill(folder.path(), 1);
    for args in [
        &["nonsense"][..],
        &["export", "--from", "yesterday"],
        &["export", "--from", "2026-01-02", "--to", "2026-01-01"],
        &["export", "--account", "nobody"],
        &["export", "--changed-since", "99"],
        &["queue", "retry"],
    ] {
        assert_eq!(run(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_database_that_is_not_there_is_a_failure_that_says_what_to_do() {
    let folder = folder();
    let output = run(folder.path(), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("\nhint: `ringcx-extractor run` creates it"), "{}", err(&output));
    assert!(!folder.path().join("test.db").exists());
}

#[test]
fn migrate_creates_what_status_then_reads() {
    let folder = folder();
    assert_eq!(out(&run(folder.path(), &["migrate"])), "brought the database up to date\n");
    assert_eq!(out(&run(folder.path(), &["migrate"])), "the database is up to date\n");
    let output = run(folder.path(), &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(status["accounts"][0]["sub_account_id"], "77");
    assert_eq!(status["accounts"][0]["watermark"], serde_json::Value::Null);
    let table = out(&run(folder.path(), &["status"]));
    assert!(table.contains("Support") && table.contains("no daemon is running"), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
}

#[test]
fn an_export_whose_reader_leaves_ends_quietly() {
    let folder = folder();
    fill(folder.path(), 3000);
    let mut child = binary(folder.path()).arg("export").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn an_export_to_a_file_is_whole_private_and_says_where_to_go_on() {
    let folder = folder();
    fill(folder.path(), 1200);
    let output = run(folder.path(), &["export", "-o", "out.jsonl"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(err(&output), "exported 1200 segments to out.jsonl\nfor what changes from here on: --changed-since 1\n");
    let file = folder.path().join("out.jsonl");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1200);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(out(&run(folder.path(), &["export", "-o", "-", "--account", "support"])).lines().count(), 1200);
    let csv = run(folder.path(), &["export", "--format", "csv"]);
    assert_eq!(out(&csv).matches("\r\n").count(), 1201);
    let excel = out(&run(folder.path(), &["export", "--format", "csv", "--excel"]));
    assert!(excel.starts_with('\u{feff}') && excel.matches("\r\n").count() == 1201);
    for format in ["jsonl", "parquet", "text"] {
        let refused = run(folder.path(), &["export", "--format", format, "--excel"]);
        assert_eq!(refused.status.code(), Some(2), "{format}");
        assert!(err(&refused).contains("--excel changes CSV only\nhint: add `--format csv`"), "{}", err(&refused));
    }
}

#[test]
fn a_query_that_is_not_understood_is_refused_with_its_place() {
    let folder = folder();
    fill(folder.path(), 1);
    for (query, at) in [
        ("ref*nd", 4),
        ("refund~1", 7),
        ("(refund OR late", 1),
        ("late \"too slow", 6),
        ("refund AND", 8),
        ("a || b", 3),
    ] {
        let refused = run(folder.path(), &["search", query]);
        assert_eq!(refused.status.code(), Some(2), "{query}");
        let said = err(&refused);
        assert!(said.contains(&format!("at character {at}: ")) && said.contains("\nhint: "), "{query}: {said}");
    }
    for query in ["refund AND late", "(refund OR late) money", "refund NOT (late OR slow)"] {
        assert_eq!(run(folder.path(), &["search", query]).status.code(), Some(0), "{query}");
    }
}

#[test]
fn a_table_is_written_whole_and_holds_every_segment() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let folder = folder();
    fill(folder.path(), 1200);
    let output = run(folder.path(), &["export", "--format", "parquet", "-o", "out.parquet"]);
    assert!(err(&output).starts_with("exported 1200 segments to out.parquet\n"), "{}", err(&output));
    let path = folder.path().join("out.parquet");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 1200);
    let piped = run(folder.path(), &["export", "--format", "parquet"]);
    assert_eq!(piped.stdout, std::fs::read(&path).unwrap());
}

#[test]
fn an_export_leaves_out_what_it_is_told_to() {
    let folder = folder();
    fill(folder.path(), 2);
    let args = ["export", "--redact", "card,email", "--redact", "phone", "--redact-pattern", "note=x{200}"];
    let text = out(&run(folder.path(), &args));
    assert_eq!(text.matches(r#""agentNotes":"[note]""#).count(), 2, "{text}");
    assert!(text.contains(r#""segmentId":"s000001""#), "{text}");
    for wrong in ["x", "=x", "n=(", "n=x*"] {
        let output = run(folder.path(), &["export", "--redact-pattern", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(err(&output).contains("hint: give a name and what to match"), "{}", err(&output));
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = folder();
    fill(folder.path(), 1);
    let output = run(folder.path(), &["export", "-o", "nowhere/out.jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("failed to create nowhere/out.jsonl"), "{}", err(&output));
    assert!(err(&output).contains("hint: the folder must exist"), "{}", err(&output));
}

#[test]
fn a_segment_is_shown_and_a_wrong_id_is_not_found() {
    let folder = folder();
    fill(folder.path(), 2);
    let page = out(&run(folder.path(), &["show", "s000001"]));
    assert!(page.starts_with("Segment s000001\n") && page.contains("first seen"), "{page}");
    let line = out(&run(folder.path(), &["show", "s000001", "--json"]));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["transcript"]["outcome"], "pending");
    assert_eq!(line["history"]["first_seen"], NOW.rfc3339());
    assert_eq!(out(&run(folder.path(), &["show", "--dialog", "dialog", "--json"])).lines().count(), 2);
    let missing = run(folder.path(), &["show", "s9"]);
    assert_eq!((missing.status.code(), out(&missing).as_str()), (Some(1), ""));
    assert!(err(&missing).contains("hint:"), "{}", err(&missing));
}

#[test]
fn items_are_discarded_listed_and_revived() {
    let folder = folder();
    fill(folder.path(), 3);
    let list = |args: &[&str]| out(&run(folder.path(), &[&["queue", "list"], args].concat()));
    assert_eq!(list(&[]), "no such items\n");
    assert_eq!(list(&["--all", "--json"]).lines().count(), 9);
    let args = ["queue", "discard", "s000001", "--artifact", "agent_summary", "--reason", "not wanted"];
    assert_eq!(out(&run(folder.path(), &args)), "1 item discarded\n");
    let line: serde_json::Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!((&line["state"], &line["reason"]), (&"discarded".into(), &"not wanted".into()));
    assert!(list(&[]).contains("not wanted"));
    let story = out(&run(folder.path(), &["queue", "show", "s000001"]));
    assert!(story.contains("agent_summary of segment s000001: discarded"), "{story}");
    assert!(out(&run(folder.path(), &["queue", "retry", "--all"])).starts_with("0 items "));
    assert!(out(&run(folder.path(), &["queue", "retry", "--state", "discarded"])).starts_with("1 item "));
    assert_eq!(list(&[]), "no such items\n");
    assert_eq!(run(folder.path(), &["queue", "retry", "s9"]).status.code(), Some(1));
}

#[test]
fn watching_prints_again_until_it_is_interrupted() {
    let folder = folder();
    fill(folder.path(), 1);
    let mut child = binary(folder.path()).args(["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..2 {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["accounts"][0]["work"]["ready"], 3);
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn completions_know_the_commands() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        assert!(out(&run(folder.path(), &["completions", shell])).contains("migrate"), "{shell}");
    }
}
