//! The command line of the real binary: exit statuses, messages, closed pipes, and files that appear whole or not at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Db, MetadataChunk, OpenMode};
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use tempfile::TempDir;

const NOW: Time = Time(1_700_000_000_000);

fn folder_with_settings() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = "[auth]\napi_token = \"secret-token\"\n[database]\nurl = \"sqlite:test.db\"\n\
                [[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"77\"\nname = \"Support\"\n";
    std::fs::write(folder.path().join("local.toml"), text).unwrap();
    folder
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    command.current_dir(folder).env_clear().env("RINGCX_CONFIG", "local.toml");
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder).args(args).output().unwrap()
}

fn stdout_text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Creates an archive with this many segments, whose items are all pending.
#[tokio::main(flavor = "current_thread")]
async fn create_archive(folder: &Path, segments: i64) {
    let db = Db::open_sqlite(&folder.join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
    let account = db.register_account(&AccountId::new("1", "77"), None, NOW).await.unwrap();
    let owned = db.acquire_leases(&[account.key], "host-1", Duration::from_secs(10), NOW).await.unwrap().remove(0);
    let records: Vec<SegmentRecord> = (0..segments)
        .map(|n| SegmentRecord {
            segment_id: format!("s{n:06}"),
            dialog_id: Some("dialog".to_owned()),
            end: Some(NOW.plus_millis(n)),
            has_transcript: true,
            is_agent: true,
            has_recording: false,
            raw: format!(r#"{{"segmentId":"s{n:06}","agentNotes":"{}"}}"#, "x".repeat(200)),
        })
        .collect();
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: Time(0), to: NOW },
        now: NOW,
        wants: ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed },
        already_read: &TimeRangeSet::default(),
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records: &records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap();
    db.close().await;
}

#[test]
fn no_configuration_is_a_matter_of_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path()).args(["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr_text(&output);
    assert!(said.starts_with("error: failed to load the settings"), "{said}");
    assert!(said.contains("hint:") && !said.contains('\x1b'), "{said}");
    assert_eq!(stdout_text(&output), "");
}

#[test]
fn nonsense_on_the_command_line_is_a_matter_of_usage() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 1);
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
    let folder = folder_with_settings();
    let output = run(folder.path(), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_text(&output).contains("\nhint: `ringcx-extractor run` creates it"), "{}", stderr_text(&output));
    assert!(!folder.path().join("test.db").exists());
}

#[test]
fn migrate_creates_what_status_then_reads() {
    let folder = folder_with_settings();
    assert_eq!(stdout_text(&run(folder.path(), &["migrate"])), "migrated the database to the current schema\n");
    assert_eq!(stdout_text(&run(folder.path(), &["migrate"])), "the database is up to date\n");
    let output = run(folder.path(), &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&stdout_text(&output)).unwrap();
    assert_eq!(status["accounts"][0]["sub_account_id"], "77");
    assert_eq!(status["accounts"][0]["watermark"], serde_json::Value::Null);
    let table = stdout_text(&run(folder.path(), &["status"]));
    assert!(table.contains("Support") && table.contains("no daemon is running"), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
}

#[test]
fn an_export_whose_reader_leaves_ends_quietly() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 3000);
    let mut child = command(folder.path()).arg("export").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr_text(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_health_check_whose_reader_leaves_succeeds() {
    let folder = folder_with_settings();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/healthz", listener.local_addr().unwrap());
    let mut health = command(folder.path());
    health.args(["health", "--url", &url]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = health.spawn().unwrap();
    // Closed before the answer comes.
    drop(child.stdout.take());
    let mut stream = listener.accept().unwrap().0;
    stream.read_exact(&mut [0; 16]).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr_text(&output).as_str()), (Some(0), ""));
}

#[test]
fn an_export_to_a_file_is_whole_private_and_says_where_to_go_on() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 1200);
    let output = run(folder.path(), &["export", "-o", "out.jsonl"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr_text(&output), "exported 1200 segments to out.jsonl\nfor later changes use --changed-since 1\n");
    let file = folder.path().join("out.jsonl");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1200);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(stdout_text(&run(folder.path(), &["export", "-o", "-", "--account", "support"])).lines().count(), 1200);
    let csv = run(folder.path(), &["export", "--format", "csv"]);
    assert_eq!(stdout_text(&csv).matches("\r\n").count(), 1201);
    let excel = stdout_text(&run(folder.path(), &["export", "--format", "csv", "--excel"]));
    assert!(excel.starts_with('\u{feff}') && excel.matches("\r\n").count() == 1201);
    for format in ["jsonl", "parquet", "text"] {
        let refused = run(folder.path(), &["export", "--format", format, "--excel"]);
        assert_eq!(refused.status.code(), Some(2), "{format}");
        assert!(
            stderr_text(&refused).contains("--excel requires CSV\nhint: add `--format csv`"),
            "{}",
            stderr_text(&refused)
        );
    }
}

#[test]
fn a_query_that_is_not_understood_is_refused_with_its_place() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 1);
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
        let said = stderr_text(&refused);
        assert!(said.contains(&format!("at character {at}: ")) && said.contains("\nhint: "), "{query}: {said}");
    }
    for query in ["refund AND late", "(refund OR late) money", "refund NOT (late OR slow)"] {
        assert_eq!(run(folder.path(), &["search", query]).status.code(), Some(0), "{query}");
    }
}

#[test]
fn a_table_is_written_whole_and_holds_every_segment() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let folder = folder_with_settings();
    create_archive(folder.path(), 1200);
    let output = run(folder.path(), &["export", "--format", "parquet", "-o", "out.parquet"]);
    assert!(stderr_text(&output).starts_with("exported 1200 segments to out.parquet\n"), "{}", stderr_text(&output));
    let path = folder.path().join("out.parquet");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 1200);
    let piped = run(folder.path(), &["export", "--format", "parquet"]);
    assert_eq!(piped.stdout, std::fs::read(&path).unwrap());
}

#[test]
fn an_export_leaves_out_what_it_is_told_to() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 2);
    let args = ["export", "--redact", "card,email", "--redact", "phone", "--redact-pattern", "note=x{200}"];
    let text = stdout_text(&run(folder.path(), &args));
    assert_eq!(text.matches(r#""agentNotes":"[note]""#).count(), 2, "{text}");
    assert!(text.contains(r#""segmentId":"s000001""#), "{text}");
    for wrong in ["x", "=x", "n=(", "n=x*"] {
        let output = run(folder.path(), &["export", "--redact-pattern", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(
            stderr_text(&output).contains("hint: give a name and a regular expression"),
            "{}",
            stderr_text(&output)
        );
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 1);
    let output = run(folder.path(), &["export", "-o", "nowhere/out.jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_text(&output).contains("failed to create nowhere/out.jsonl"), "{}", stderr_text(&output));
    assert!(stderr_text(&output).contains("hint: the folder must exist"), "{}", stderr_text(&output));
}

#[test]
fn a_segment_is_shown_and_a_wrong_id_is_not_found() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 2);
    let page = stdout_text(&run(folder.path(), &["show", "s000001"]));
    assert!(page.starts_with("Segment s000001\n") && page.contains("first seen"), "{page}");
    let line = stdout_text(&run(folder.path(), &["show", "s000001", "--json"]));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["transcript"]["outcome"], "pending");
    assert_eq!(line["history"]["first_seen"], NOW.rfc3339());
    assert_eq!(stdout_text(&run(folder.path(), &["show", "--dialog", "dialog", "--json"])).lines().count(), 2);
    let missing = run(folder.path(), &["show", "s9"]);
    assert_eq!((missing.status.code(), stdout_text(&missing).as_str()), (Some(1), ""));
    assert!(stderr_text(&missing).contains("hint:"), "{}", stderr_text(&missing));
}

#[test]
fn items_are_discarded_listed_and_revived() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 3);
    let list = |args: &[&str]| stdout_text(&run(folder.path(), &[&["queue", "list"], args].concat()));
    assert_eq!(list(&[]), "no matching items\n");
    assert_eq!(list(&["--all", "--json"]).lines().count(), 9);
    let args = ["queue", "discard", "s000001", "--artifact", "agent_summary", "--reason", "not wanted"];
    assert_eq!(stdout_text(&run(folder.path(), &args)), "discarded 1 item\n");
    let line: serde_json::Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!((&line["state"], &line["reason"]), (&"discarded".into(), &"not wanted".into()));
    assert!(list(&[]).contains("not wanted"));
    let story = stdout_text(&run(folder.path(), &["queue", "show", "s000001"]));
    assert!(story.contains("agent_summary of segment s000001: discarded"), "{story}");
    assert!(stdout_text(&run(folder.path(), &["queue", "retry", "--all"])).starts_with("0 items "));
    assert!(stdout_text(&run(folder.path(), &["queue", "retry", "--state", "discarded"])).starts_with("1 item "));
    assert_eq!(list(&[]), "no matching items\n");
    assert_eq!(run(folder.path(), &["queue", "retry", "s9"]).status.code(), Some(1));
}

/// Runs a command without write access to its folder: as another user if this one is root, who may write everywhere.
fn run_as_reader(folder: &Path, args: &[&str]) -> Output {
    let program = folder.join("program");
    let mut command = match rustix::process::getuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
            command
        }
        false => Command::new(&program),
    };
    command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").args(["--config", "reader.toml"]).args(args);
    command.output().unwrap()
}

#[test]
fn a_reader_needs_neither_write_access_nor_secrets() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 3);
    assert_eq!(run(folder.path(), &["search", "nothing"]).status.code(), Some(0));
    // The secret's file does not exist for the reader.
    let text = "[auth]\napi_token_file = \"/nowhere/token\"\n[database]\nurl = \"sqlite:test.db\"\n";
    std::fs::write(folder.path().join("reader.toml"), text).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_ringcx-extractor"), folder.path().join("program")).unwrap();
    let set_mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for leftover in ["test.db-wal", "test.db-shm", "test.db.lock"] {
        let _ = std::fs::remove_file(folder.path().join(leftover));
    }
    set_mode(&folder.path().join("test.db"), 0o444);
    set_mode(&folder.path().join("reader.toml"), 0o444);
    set_mode(&folder.path().join("program"), 0o555);
    set_mode(folder.path(), 0o555);
    let read = |args: &[&str]| {
        let output = run_as_reader(folder.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr_text(&output));
        output
    };
    let exported = read(&["export"]);
    assert_eq!(stdout_text(&exported).lines().count(), 3);
    assert!(stderr_text(&exported).contains("read-only"), "{}", stderr_text(&exported));
    assert!(stdout_text(&read(&["search"])).contains("s000002"), "the newest conversation");
    assert!(stdout_text(&read(&["show", "s000001"])).contains("s000001"));
    let status: serde_json::Value = serde_json::from_str(&stdout_text(&read(&["status", "--json"]))).unwrap();
    assert_eq!(status["accounts"][0]["sub_account_id"], "77");
    assert!(stdout_text(&read(&["verify"])).starts_with("intact"));
    for args in [&["audit"][..], &["report"]] {
        // Nothing was read from the API, so the archive is not complete.
        let output = run_as_reader(folder.path(), args);
        assert!(output.status.code() == Some(1) && stderr_text(&output).is_empty(), "{}", stderr_text(&output));
        assert!(stdout_text(&output).contains("77"), "{args:?}");
    }
    assert_eq!(run_as_reader(folder.path(), &["queue", "list"]).status.code(), Some(2), "it needs all settings");
    set_mode(folder.path(), 0o755);
}

#[test]
fn a_report_has_a_row_a_day_and_three_formats() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 3);
    let report = |args: &[&str]| stdout_text(&run(folder.path(), &[&["report"], args].concat()));
    let json: serde_json::Value = serde_json::from_str(&report(&["--format", "json"])).unwrap();
    let day = &json["accounts"][0]["days"][0];
    assert_eq!((&day["day"], &day["announced"], &day["held"]), (&"2023-11-14".into(), &3.into(), &3.into()));
    assert_eq!((&day["transcripts"]["pending"], &day["agrees"]), (&3.into(), &true.into()));
    assert_eq!((&json["complete"], &json["verified"]["intact"]), (&false.into(), &true.into()));
    assert!(report(&["--no-verify"]).contains("not verified"));
    let written = run(folder.path(), &["report", "-o", "report.html"]);
    assert_eq!((written.status.code(), stderr_text(&written).as_str()), (Some(1), "wrote the report to report.html\n"));
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("2023-11-14") && page.contains("Support"), "{page}");
    assert_eq!(run(folder.path(), &["report", "--from", "2d", "--to", "3d"]).status.code(), Some(2));
}

#[test]
fn the_newest_conversations_are_listed_in_pages() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 3);
    let page = run(folder.path(), &["search", "--json", "--limit", "1"]);
    // All segments are of one dialog.
    assert_eq!(stdout_text(&page).lines().count(), 1);
    let hit: serde_json::Value = serde_json::from_str(&stdout_text(&page)).unwrap();
    assert_eq!((&hit["segment_id"], &hit["transcript"]), (&"s000002".into(), &"pending".into()));
    assert!(!stderr_text(&page).contains("more:"), "{}", stderr_text(&page));
    for (args, why) in [
        (&["search", "--page", "0"][..], "invalid --page"),
        (&["search", "--limit", "5000", "--page", "3"], "between 1 and 2"),
        (&["search", "--artifact", "transcript"], "--artifact has no meaning"),
        (&["search", "--hold", "9"], "there is no hold 9"),
        (&["export", "--table", "phrases", "--format", "text"], "no table of phrases"),
        (&["export", "--contact", " "], "--contact is empty"),
    ] {
        let refused = run(folder.path(), args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(
            stderr_text(&refused).contains(why) && stderr_text(&refused).contains("hint:"),
            "{}",
            stderr_text(&refused)
        );
    }
}

#[test]
fn programs_read_holds_plans_and_backfills_as_json() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 3);
    let json = |args: &[&str]| -> serde_json::Value {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr_text(&output));
        serde_json::from_str(&stdout_text(&output)).unwrap()
    };
    let plan = json(&["erase", "--dialog", "dialog", "--dry-run", "--json"]);
    assert_eq!(plan["segments"].as_array().unwrap().len(), 3);
    let hold = json(&["hold", "--segment", "s000001", "--json"]);
    assert_eq!((&hold["segments"], &hold["kind"]), (&1.into(), &"segment".into()));
    let number = hold["id"].to_string();
    assert_eq!(stdout_text(&run(folder.path(), &["export", "--hold", &number])).lines().count(), 1);
    assert_eq!(json(&["hold", "--release", &number, "--json"])["released"], hold["id"]);
    let queued = json(&["backfill", "--from", "2020-01-01", "--to", "2020-01-02", "--json"]);
    assert_eq!((&queued["sub_account_id"], &queued["seconds"]), (&"77".into(), &86_400.into()));
    let id = queued["id"].to_string();
    assert_eq!(json(&["backfill", "cancel", &id, "--json"])["cancelled"], queued["id"]);
    let wide = run(folder.path(), &["backfill", "--from", "40d", "--to", "1d"]);
    assert_eq!(wide.status.code(), Some(2), "wider than a month");
    assert!(stderr_text(&wide).contains("--yes"), "{}", stderr_text(&wide));
}

#[test]
fn watching_prints_again_until_it_is_interrupted() {
    let folder = folder_with_settings();
    create_archive(folder.path(), 1);
    let mut child =
        command(folder.path()).args(["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
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
    let folder = folder_with_settings();
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout_text(&run(folder.path(), &["completions", shell])).contains("migrate"), "{shell}");
    }
}
