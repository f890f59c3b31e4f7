//! Erasure, holds and retention through the real binary, while a daemon runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::db::{Db, OpenMode, sql};
use ringcx_extractor::lenient_json;
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{ArtifactScript, FaultRates, Faults, SegmentScript};
use serde_json::Value;
use support::test_env::scenario::{millis, strings};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    what_was_erased_stays_gone_through_recheck_backfill_and_restart,
    a_segment_erased_while_it_is_fetched_stays_gone,
    a_contact_is_erased_and_a_hold_keeps_it_until_it_is_released,
    retention_takes_what_is_past_it_and_nothing_brings_it_back,
    not_a_word_is_left_in_the_files_beside_a_running_daemon,
    a_person_is_found_in_what_really_comes,
    without_a_terminal_nothing_is_erased_but_with_yes,
}

const SECOND: Duration = Duration::from_secs(1);

async fn exported_lines(env: &TestEnv) -> Vec<Value> {
    // Before the daemon has created the database, the export is empty.
    let text = env.run(&["export"]).await.out;
    // Half surrogates are exported as received.
    text.lines().map(|line| lenient_json::parse_value(line).unwrap()).collect()
}

async fn exported_ids(env: &TestEnv) -> Vec<String> {
    exported_lines(env).await.iter().map(|line| line["segment_id"].as_str().unwrap().to_owned()).collect()
}

/// Reads the whole range again with a backfill.
async fn backfill_everything(env: &TestEnv) {
    env.run_ok(&["backfill", "--from", "1h", "--to", "2s", "--wait"]).await;
}

async fn assert_erased(env: &TestEnv, id: &str) {
    assert!(!exported_ids(env).await.contains(&id.to_owned()), "it is exported");
    env.run(&["show", "--", id]).await.assert_output(1, &["erased"]);
    let (audit, status) = env.audit_json().await;
    assert_eq!((status, &audit["accounts"][0]["segments"]["erased"]), (0, &1.into()), "{audit}");
}

async fn what_was_erased_stays_gone_through_recheck_backfill_and_restart(database: TempDatabase) {
    let mut env =
        TestEnv::with_daemon(database, Scenario::live(3 * SECOND).set("discovery.rechecks", strings(&["2s", "4s"])))
            .await;
    env.wait_until("a segment is stored", async || !exported_ids(&env).await.is_empty()).await;
    let id = exported_ids(&env).await.remove(0);
    let dry = env.run(&["erase", "--segment", &id, "--dry-run"]).await;
    dry.assert_output(0, &["to erase: 1 segment", &id]);
    assert!(exported_ids(&env).await.contains(&id), "a dry run erased it");
    env.run(&["erase", "--yes", "--segment", &id, "--reason", "request 7"])
        .await
        .assert_output(0, &["erased permanently: 1 segment"]);
    assert!(!exported_ids(&env).await.contains(&id));
    env.clock.sleep_until_time(env.begin + 8 * SECOND).await;
    backfill_everything(&env).await;
    env.wait_for_audit().await;
    assert_erased(&env, &id).await;
    env.stop().await;
    env.start();
    backfill_everything(&env).await;
    env.wait_for_audit().await;
    assert_erased(&env, &id).await;
    env.run(&["erase", "--yes", "--segment", &id]).await.assert_output(1, &["contains nothing"]);
    let journal = env.run_json(&["erase", "--journal", "--json"]).await;
    assert_eq!(
        (&journal["what"], &journal["segments"], &journal["reason"]),
        (&"erase".into(), &1.into(), &"request 7".into())
    );
    assert!(!journal.to_string().contains(&id), "the journal names what was erased");
    let others = env.expected_segments().iter().filter(|entry| entry.segment_id != id).count();
    assert_eq!(exported_ids(&env).await.len(), others, "the others are all there");
}

async fn a_segment_erased_while_it_is_fetched_stays_gone(database: TempDatabase) {
    let scenario = Scenario::history().configure_sim(|sim| {
        sim.traffic.per_minute = 0.01;
        let slow = FaultRates { slow: 1.0, slow_for: millis(2_500, 3_000), ..FaultRates::default() };
        sim.faults = Faults { transcript: slow, summary: slow, ..Faults::default() };
    });
    let mut env = TestEnv::new(database, scenario).await;
    env.sim.add_segment(SegmentScript::new(&env.main_account(), env.begin - 5 * SECOND));
    env.start();
    env.wait_until("requests are under way", async || {
        env.sim.stats().requests.get(&Endpoint::Transcript).is_some_and(|asked| *asked > 0)
            && !exported_ids(&env).await.is_empty()
    })
    .await;
    for id in exported_ids(&env).await {
        env.run(&["erase", "--yes", "--segment", &id, "--quick"]).await.assert_output(0, &["erased permanently"]);
    }
    env.clock.sleep_until_time(env.begin + 9 * SECOND).await;
    assert_eq!(exported_ids(&env).await, Vec::<String>::new());
    env.wait_for_audit().await;
    let (audit, _) = env.audit_json().await;
    let account = &audit["accounts"][0];
    assert!(account["segments"]["erased"].as_u64() > Some(0), "{account}");
    assert_eq!(account["artifacts"][0]["stored"], 0);
    assert_eq!(env.queue_items(&[]).await, Vec::<Value>::new());
    env.assert_contract_kept();
}

async fn a_contact_is_erased_and_a_hold_keeps_it_until_it_is_released(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.wait_until_complete().await;
    let number = |line: &Value| line["metadata"]["contactEndpointAddress"].as_str().unwrap_or_default().to_owned();
    let contact = exported_lines(&env).await.iter().map(number).find(|number| !number.is_empty()).unwrap();
    let all = exported_ids(&env).await.len();
    env.run(&["hold", "--contact", &contact, "--reason", "case 9"]).await.assert_output(0, &["placed hold 1"]);
    env.run(&["erase", "--yes", "--contact", &contact]).await.assert_output(1, &["hold 1 (case 9)"]);
    assert_eq!(exported_ids(&env).await.len(), all);
    let holds = env.run_json(&["hold", "--list", "--json"]).await;
    assert_eq!((&holds["kind"], &holds["value"]), (&"contact".into(), &contact.as_str().into()));
    env.run(&["hold", "--release", "1"]).await.assert_output(0, &["released hold 1"]);
    env.run(&["hold", "--release", "1"]).await.assert_output(1, &["there is no hold 1"]);
    env.run(&["erase", "--yes", "--contact", &contact]).await.assert_output(0, &["erased permanently"]);
    assert!(exported_lines(&env).await.iter().all(|line| number(line) != contact));
    let journal = env.run_ok(&["erase", "--journal", "--contact", &contact]).await;
    for what in ["hold", "refused", "release", "erase"] {
        assert!(journal.contains(what), "{journal}");
    }
    assert!(!journal.contains(&contact), "the journal names what was erased");
    env.wait_for_audit().await;
    env.run(&["erase"]).await.assert_output(2, &["no subject was given"]);
    env.run(&["hold"]).await.assert_output(2, &["no subject was given"]);
}

async fn retention_takes_what_is_past_it_and_nothing_brings_it_back(database: TempDatabase) {
    let scenario =
        Scenario::history().account_setting("retention", "25s").configure_sim(|sim| sim.traffic.history = 20 * SECOND);
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("a segment is stored", async || !exported_ids(&env).await.is_empty()).await;
    let newest = env.expected_segments().iter().filter_map(|entry| entry.end).max().unwrap();
    env.clock.sleep_until_time(newest + 26 * SECOND).await;
    env.wait_until("everything is erased", async || exported_ids(&env).await.is_empty()).await;
    env.stop().await;
    env.start();
    backfill_everything(&env).await;
    assert_eq!(exported_ids(&env).await, Vec::<String>::new());
    env.wait_for_audit().await;
    let (audit, _) = env.audit_json().await;
    assert!(audit["accounts"][0]["segments"]["expired"].as_u64() > Some(0), "{}", audit["accounts"][0]["segments"]);
    let journal = env.run_ok(&["erase", "--journal"]).await;
    assert!(journal.contains("retention@e2e"), "{journal}");
}

async fn not_a_word_is_left_in_the_files_beside_a_running_daemon(database: TempDatabase) {
    if !database.is_sqlite() {
        // The program does not control Postgres' files (docs/keeping.md).
        return;
    }
    let mut env = TestEnv::new(database, Scenario::live(20 * SECOND)).await;
    let end = env.begin - 5 * SECOND;
    let body = |word: &str| ArtifactScript::Body(end, Bytes::from(word.to_owned()));
    let id = env.sim.add_segment(SegmentScript {
        segment_id: Some("zqsegmentqz".into()),
        dialog_id: Some("zqdialogqz".into()),
        transcript: body(r#"{"transcript":[{"message":"zqtranscriptqz"}]}"#),
        agent_summary: body("zqagentqz"),
        auto_summary: body("zqautoqz"),
        ..SegmentScript::new(&env.main_account(), end)
    });
    env.start();
    env.wait_until("its texts are stored", async || {
        let line = exported_lines(&env).await.into_iter().find(|line| line["segment_id"] == *id);
        line.is_some_and(|line| {
            line["auto_summary"]["outcome"] == "stored" && line["transcript"]["outcome"] == "stored"
        })
    })
    .await;
    let words = ["zqsegmentqz", "zqdialogqz", "zqtranscriptqz", "zqagentqz", "zqautoqz"];
    let before = database_bytes(&env);
    assert!(words.iter().all(|word| before.contains(word)), "the words are not in the files");
    env.run(&["erase", "--yes", "--dialog", "zqdialogqz"]).await.assert_output(0, &["erased permanently: 1 segment"]);
    let after = database_bytes(&env);
    for word in words {
        assert!(!after.contains(word), "a word is left: {word}");
    }
    assert!(env.is_running(), "the daemon ended");
    // Everything else still arrives.
    env.clock.sleep_until_time(env.begin + 21 * SECOND).await;
    env.wait_until("everything else is stored", async || {
        let world = env.expected_segments();
        exported_ids(&env).await.len() == world.iter().filter(|entry| entry.segment_id != id).count()
    })
    .await;
    env.wait_for_audit().await;
}

/// Starts a daemon whose archive holds exactly these segments, of `(id, fields, transcript)`.
async fn archive_scripted_segments(database: TempDatabase, segments: &[(&str, &str, &str)]) -> TestEnv {
    let mut env = TestEnv::new(
        database,
        Scenario::history().transcripts_only().configure_sim(|sim| sim.traffic.per_minute = 0.0),
    )
    .await;
    let end = env.begin - 5 * SECOND;
    for (id, fields, transcript) in segments {
        let ended = end.rfc3339();
        let raw = format!(
            r#"{{"segmentId":"{id}","dialogId":"d-{id}","segmentEndTimeMs":"{ended}","segmentType":"AGENT","hasTranscript":true{fields}}}"#
        );
        env.sim.add_segment(SegmentScript {
            segment_id: Some((*id).to_owned()),
            dialog_id: Some(format!("d-{id}")),
            raw_record: Some(raw),
            transcript: ArtifactScript::Body(end, Bytes::from((*transcript).to_owned())),
            ..SegmentScript::new(&env.main_account(), end)
        });
    }
    env.start();
    env.wait_until("every transcript is stored", async || {
        let lines = env.run(&["export"]).await.out;
        lines.matches(r#""outcome":"stored""#).count() == segments.len()
    })
    .await;
    env
}

async fn a_person_is_found_in_what_really_comes(database: TempDatabase) {
    let talk = r#"{"transcript":[{"participantId":"901","participantName":"Agent Smith","participantType":"agent","message":"hi"},
        {"participantId":"c1","participantName":"Jane Roe","participantType":"contact","message":"hi"}]}"#;
    let cut = r#"{"transcript":[{"participantType":"contact","participantId":"+4930123456","message":"x"},
        {"participantType":"agent","message":"cut \ud83d"}]}"#;
    let ends = r#","contactEndpointAddress":"+17312066731","channelEndpointAddress":"+12013770791""#;
    let segments = [
        ("out", ends, talk),
        ("cut", "", cut),
        ("short", r#","ani":"7312066731""#, "{\"transcript\":[{\"message\":\"hm\"}]}"),
    ];
    let env = archive_scripted_segments(database, &segments).await;
    let agent = env.run(&["hold", "--contact", "agent smith"]).await;
    agent.assert_output(
        0,
        &[
            "placed hold 1",
            "it protects 0 segments now",
            "warning: hold 1 protects nothing yet",
            "agents are not contacts",
        ],
    );
    env.run(&["hold", "--segment", "nobody"])
        .await
        .assert_output(0, &["warning: hold 2 protects nothing yet", "nothing of this segment"]);
    let cut = env.run(&["hold", "--contact", "tel:030-123456"]).await;
    cut.assert_output(0, &["placed hold 3", "it protects 1 segment now"]);
    assert!(!cut.text().contains("warning"), "{}", cut.text());
    let listed = env.run_ok(&["hold", "--list", "--json"]).await;
    let counts: Vec<Value> = listed
        .lines()
        .map(|line| ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segments"].clone())
        .collect();
    assert_eq!(counts, [0, 0, 1]);
    env.run(&["hold", "--list"]).await.assert_output(0, &["nothing yet", "1 segment", "warning: hold 2"]);
    env.run(&["erase", "--yes", "--contact", "\u{202a}+49\u{a0}30 123456\u{202c}"])
        .await
        .assert_output(1, &["kept by hold 3"]);
    env.run(&["hold", "--release", "3"]).await.assert_output(0, &["released hold 3"]);
    let nobody = env.run(&["erase", "--yes", "--contact", "Agent Smith"]).await;
    nobody.assert_output(1, &["contains nothing of this contact", "agents are not contacts"]);
    env.run(&["erase", "--dry-run", "--contact", "sip:+12013770791@pbx"])
        .await
        .assert_output(0, &["to erase: 1 segment", "out"]);
    let alike = env.run(&["erase", "--yes", "--contact", "+1 (731) 206-6731"]).await;
    alike.assert_output(1, &["possible match: 1 segment", "  short of account", "erased permanently: 1 segment"]);
    env.run(&["erase", "--yes", "--contact", "+17312066731"])
        .await
        .assert_output(1, &["nothing was erased", "--include-alike"]);
    assert_eq!(exported_ids(&env).await, ["cut", "short"]);
    env.run(&["erase", "--yes", "--contact", "+17312066731", "--include-alike"])
        .await
        .assert_output(0, &["erased permanently: 1 segment"]);
    // Unreadable content is named, and stays unless it is included explicitly.
    let db = open_database(&env.database).await;
    let damage = sql("update artifact set codec = 0, body = $1");
    db.run(damage.bind(b"oops".to_vec())).await.unwrap();
    db.close().await;
    let damaged = env.run(&["erase", "--yes", "--contact", "jane roe"]).await;
    damaged
        .assert_output(1, &["possible match: 1 segment", "  cut of account", "cannot be read", "nothing was erased"]);
    env.run(&["hold", "--contact", "jane roe"])
        .await
        .assert_output(0, &["it protects 1 segment (1 of them as a precaution", "cannot be read", "  cut of account"]);
    env.run(&["erase", "--yes", "--include-unreadable", "--contact", "joe"])
        .await
        .assert_output(1, &["on hold: 1 piece", "may therefore belong to a contact on hold:\n  cut of account"]);
    env.run(&["hold", "--release", "4"]).await.assert_output(0, &[]);
    env.run(&["hold", "--release", "1"]).await.assert_output(0, &[]);
    env.run(&["erase", "--yes", "--include-unreadable", "--contact", "joe"])
        .await
        .assert_output(0, &["erased permanently: 1 segment"]);
    assert_eq!(exported_ids(&env).await, Vec::<String>::new());
}

async fn open_database(database: &TempDatabase) -> Db {
    match database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await.unwrap(),
        None => Db::open_postgres(&database.url.clone().into(), OpenMode::Existing, 2).await.unwrap(),
    }
}

async fn without_a_terminal_nothing_is_erased_but_with_yes(database: TempDatabase) {
    let ends = r#","contactEndpointAddress":"+17312066731""#;
    let mut env =
        archive_scripted_segments(database, &[("one", ends, "{\"transcript\":[{\"message\":\"hm\"}]}")]).await;
    for answer in ["n", "y", ""] {
        env.set_launcher(&["sh", "-c", &format!(r#"echo {answer} | "$0" "$@""#)]);
        for about in [["--contact", "+17312066731"], ["--segment", "one"], ["--segment", "none"]] {
            env.run(&["erase", about[0], about[1]])
                .await
                .assert_output(2, &["nothing was erased", "hint: --dry-run", "--yes"]);
        }
        env.run(&["erase", "--segment", "one", "--dry-run"]).await.assert_output(0, &["to erase: 1 segment"]);
        assert_eq!(exported_ids(&env).await, ["one"]);
    }
    env.set_launcher(&[]);
    env.run(&["erase", "--segment", "one", "--yes"]).await.assert_output(0, &["erased permanently"]);
    env.run(&["erase", "--contact", "\u{200e} \u{202c}", "--yes"]).await.assert_output(2, &["--contact is empty"]);
}

/// The database file, its log and its shared memory, as text.
fn database_bytes(env: &TestEnv) -> String {
    let path = env.database.url.strip_prefix("sqlite:").unwrap();
    ["", "-wal", "-shm"]
        .iter()
        .filter_map(|end| std::fs::read(format!("{path}{end}")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}
