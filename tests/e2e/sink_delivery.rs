//! Delivery to sinks, through the real binary: every event arrives despite crashes, refusals and outages, and no sink waits for
//! another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Tick, Time};
use ringcx_extractor::db::{CompletedJob, Db, JobOutcome, MetadataChunk, OpenMode};
use ringcx_extractor::model::{
    Artifact, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::sim::{ExpectedArtifact, truncate_depth};
use serde_json::Value;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use support::webhook_receiver::{WebhookReceiver, WebhookReply, WebhookRequest};

crate::e2e! {
    files_of_json_lines_hold_every_event_to_the_letter,
    kills_in_the_middle_lose_no_event_and_leave_no_torn_line,
    a_webhook_gets_every_event_signed_with_all_secrets,
    whatever_the_receiver_answers_nothing_is_lost_and_what_it_refuses_is_kept_for_a_retry,
    a_sink_that_is_down_delays_no_other_and_catches_up,
    a_receiver_that_wants_nothing_more_stops_its_sink_until_a_person_starts_it,
    a_private_address_is_not_connected_to_by_default,
    a_new_sink_begins_with_the_archive_or_with_now_and_a_replay_sends_the_rest,
    a_sink_gets_only_what_it_asks_for,
    a_redirect_is_not_followed_and_says_where_it_points,
    a_daemon_that_ends_does_not_wait_for_a_receiver_that_does_not_answer,
    an_erasure_reaches_every_sink_and_then_only_a_hash_stays,
    a_sink_that_asks_for_metadata_is_told_about_every_segment,
    #[ignore = "measures; run with --release"]
    the_rate_at_a_good_receiver_and_at_a_bad_one,
}

const SECOND: Duration = Duration::from_secs(1);

fn sink_settings(name: &str, kind: &str, more: &[(&str, toml::Value)]) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("name".into(), name.into());
    table.insert("type".into(), kind.into());
    table.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    toml::Value::Table(table)
}

fn jsonl_sink(name: &str, more: &[(&str, toml::Value)]) -> toml::Value {
    let more: Vec<(&str, toml::Value)> =
        [("path", format!("out/{name}").into())].into_iter().chain(more.iter().cloned()).collect();
    sink_settings(name, "jsonl", &more)
}

fn webhook_sink(url: &str, more: &[(&str, toml::Value)]) -> toml::Value {
    let all: Vec<(&str, toml::Value)> = [
        ("url", url.into()),
        ("secret", "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==".into()),
        ("allow_private", true.into()),
        ("timeout", "3s".into()),
    ]
    .into_iter()
    .chain(more.iter().cloned())
    .collect();
    sink_settings("hook", "webhook", &all)
}

fn with_sinks(scenario: Scenario, sinks: Vec<toml::Value>) -> Scenario {
    scenario.set("sinks", sinks)
}

/// The files of a JSON lines sink, in order of their names.
fn sink_files(env: &TestEnv, name: &str) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(env.database.folder.path().join("out").join(name)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The events in a JSON lines sink's files.
fn sink_events(env: &TestEnv, name: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for file in sink_files(env, name) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line in {}", file.display());
        events.extend(
            text.lines().map(|line| ringcx_extractor::lenient_json::from_str::<Value>(line).expect("a whole line")),
        );
    }
    events
}

/// Waits until the archive is complete and every sink has received everything.
async fn wait_until_delivered(env: &TestEnv) {
    env.expect_complete_archive().await;
    env.wait_until("everything is delivered", async || {
        sink_statuses(env).await.iter().all(|sink| sink["pending"] == 0 && !sink["last_delivered"].is_null())
    })
    .await;
}

async fn sink_statuses(env: &TestEnv) -> Vec<Value> {
    env.run_json(&["status", "--json"]).await["sinks"].as_array().unwrap().clone()
}

async fn sink_status(env: &TestEnv, name: &str) -> Value {
    let sinks = env.run_json(&["deliver", "status", "--json"]).await;
    sinks.as_array().unwrap().iter().find(|sink| sink["name"] == name).cloned().unwrap_or(Value::Null)
}

/// Asserts that the events match the simulator's ledger: each at least once, and repeated ones equal. Returns their ids.
fn assert_events_match_ledger(env: &TestEnv, events: &[Value]) -> BTreeSet<String> {
    let mut found: BTreeMap<(String, String), &Value> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in events {
        let kind = event["type"].as_str().unwrap().strip_prefix("com.ringcx.").unwrap();
        let key = (event["subject"].as_str().unwrap().to_owned(), kind.to_owned());
        let before = found.insert(key, event);
        assert!(before.is_none_or(|before| before == event), "two events of one version differ: {before:?}, {event}");
        ids.insert(event["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), found.len(), "an id is used twice");
    for entry in env.expected_segments().iter().filter(|entry| entry.has_transcript) {
        for artifact in Artifact::TEXTS {
            let event = found.remove(&(entry.segment_id.clone(), artifact.name().to_owned()));
            let ExpectedArtifact::Body(body) = entry.expected_artifact(artifact) else {
                assert!(event.is_none(), "an event of {artifact} of {}, which is empty", entry.segment_id);
                continue;
            };
            assert!(event.is_some(), "no event of {artifact} of {}", entry.segment_id);
            let event = event.unwrap();
            assert_eq!(event["specversion"], "1.0");
            let source = format!("/accounts/{}/sub-accounts/{}", entry.account.rc, entry.account.sub);
            assert_eq!(event["source"], source.as_str());
            let data = &event["data"];
            assert_eq!(data["segment_id"], entry.segment_id.as_str());
            assert_eq!(truncate_depth(data["metadata"].clone()), entry.metadata);
            assert_eq!(
                data["dialog_id"],
                entry.dialog_id.clone().into_iter().map(Value::from).next().unwrap_or_default()
            );
            let part = &data[artifact.name()];
            assert_eq!((&part["outcome"], &part["fetched_at"]), (&"stored".into(), &event["time"]));
            match artifact {
                Artifact::Transcript => {
                    let sent: Value = ringcx_extractor::lenient_json::from_slice(body).unwrap();
                    assert_eq!(truncate_depth(part["body"].clone()), truncate_depth(sent));
                }
                _ => {
                    let text = serde_json::from_slice::<String>(body);
                    assert_eq!(part["text"], text.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()));
                }
            }
        }
    }
    assert!(found.is_empty(), "events that are not in the ledger: {:?}", found.keys());
    ids
}

async fn files_of_json_lines_hold_every_event_to_the_letter(database: TempDatabase) {
    let mut env =
        TestEnv::with_daemon(database, with_sinks(Scenario::live(3 * SECOND), vec![jsonl_sink("lake", &[])])).await;
    wait_until_delivered(&env).await;
    let events = sink_events(&env, "lake");
    let ids = assert_events_match_ledger(&env, &events);
    assert_eq!(ids.len(), events.len(), "without a crash no event is repeated");
    let status = sink_status(&env, "lake").await;
    assert_eq!((&status["state"], &status["delivered"]), (&"active".into(), &events.len().into()), "{status}");
    for file in sink_files(&env, "lake") {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    env.run_ok(&["deliver", "status"]).await;
    env.stop().await;
}

async fn kills_in_the_middle_lose_no_event_and_leave_no_torn_line(database: TempDatabase) {
    let scenario = Scenario::live(12 * SECOND).configure_sim(|sim| sim.traffic.per_minute = 300.0);
    let mut env =
        TestEnv::with_daemon(database, with_sinks(scenario, vec![jsonl_sink("lake", &[("rotate", "2s".into())])]))
            .await;
    for _ in 0..5 {
        let before = whole_line_count(&env);
        env.wait_until("more is delivered", async || whole_line_count(&env) > before).await;
        env.kill().await;
        // The torn line that a crash in the middle of a write leaves.
        let newest = sink_files(&env, "lake").pop().unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(newest)
            .unwrap()
            .write_all(b"{\"specversion\":\"1.0\",\"id")
            .unwrap();
        env.start();
    }
    wait_until_delivered(&env).await;
    // Also if nothing was left to deliver after the last crash.
    env.wait_until("the last torn line is cut off", async || {
        sink_files(&env, "lake")
            .iter()
            .all(|file| std::fs::read(file).unwrap().last().is_none_or(|byte| *byte == b'\n'))
    })
    .await;
    assert_events_match_ledger(&env, &sink_events(&env, "lake"));
    assert!(env.log().contains("removed a line that a crash had torn"));
}

/// The number of whole lines, without torn ones.
fn whole_line_count(env: &TestEnv) -> usize {
    let count = |file: PathBuf| std::fs::read(file).unwrap().iter().filter(|byte| **byte == b'\n').count();
    sink_files(env, "lake").into_iter().map(count).sum()
}

async fn a_webhook_gets_every_event_signed_with_all_secrets(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(204)).await;
    let secrets =
        vec![toml::Value::from("whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXct"), "not base64, so taken as it is".into()];
    let mut hook = webhook_sink(&receiver.url, &[("secrets", secrets.into())]);
    hook.as_table_mut().unwrap().remove("secret");
    let env = TestEnv::with_daemon(database, with_sinks(Scenario::history(), vec![hook])).await;
    wait_until_delivered(&env).await;
    let accepted = receiver.accepted();
    let events: Vec<Value> = accepted.iter().map(|received| received.event.clone()).collect();
    assert_events_match_ledger(&env, &events);
    for received in &accepted {
        assert_eq!(received.header("content-type"), "application/cloudevents+json");
        assert_eq!(received.header("webhook-id"), received.id());
        assert!(received.header("user-agent").starts_with("ringcx-extractor/"));
        assert_eq!(received.signature_index(b"new-new-new-new-new-new-"), Some(0), "the first secret signs first");
        assert_eq!(received.signature_index(b"not base64, so taken as it is"), Some(1));
        assert_eq!(received.signature_index(b"another"), None);
    }
}

/// Selects a fixed subset of about one event in `n`.
fn is_every_nth(n: u32, received: &WebhookRequest) -> bool {
    let id = received.id();
    u32::from_str_radix(&id[..6], 16).unwrap().is_multiple_of(n)
}

async fn whatever_the_receiver_answers_nothing_is_lost_and_what_it_refuses_is_kept_for_a_retry(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(200)).await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    receiver.set_reply(move |received| {
        if is_every_nth(7, received) {
            return WebhookReply::Status(400);
        }
        match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            at if at % 5 == 1 => WebhookReply::Status(500),
            at if at % 11 == 2 => WebhookReply::Reset,
            at if at % 37 == 3 => WebhookReply::RetryAfter(1),
            _ => WebhookReply::Status(200),
        }
    });
    let env =
        TestEnv::with_daemon(database, with_sinks(Scenario::live(4 * SECOND), vec![webhook_sink(&receiver.url, &[])]))
            .await;
    wait_until_delivered(&env).await;
    let status = sink_status(&env, "hook").await;
    let refused = status["failed"].as_u64().unwrap();
    assert!(refused > 0 && status["failures"][0]["status"] == 400, "{status}");
    assert!(receiver.accepted().iter().all(|received| !is_every_nth(7, received)));
    receiver.set_reply(|_| WebhookReply::Status(202));
    let output = env.run_ok(&["deliver", "retry", "--sink", "hook"]).await;
    assert!(output.contains(&format!("{refused} event")), "{output}");
    env.wait_until("what was refused is delivered", async || {
        let status = sink_status(&env, "hook").await;
        status["failed"] == 0 && status["pending"] == 0
    })
    .await;
    let events: Vec<Value> = receiver.accepted().into_iter().map(|received| received.event).collect();
    assert_events_match_ledger(&env, &events);
    assert_no_secret_printed(&env).await;
}

/// Asserts that neither the log nor `deliver status` prints an address or a key.
async fn assert_no_secret_printed(env: &TestEnv) {
    let printed = format!("{}{}", env.log(), env.run_ok(&["deliver", "status", "--json"]).await);
    for secret in ["hook-secret-path", "secret-token", "aHVudGVyMi1", "hunter2", "said by the receiver"] {
        assert!(!printed.contains(secret), "{secret} is printed");
    }
}

async fn a_sink_that_is_down_delays_no_other_and_catches_up(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(500)).await;
    let settings = vec![webhook_sink(&receiver.url, &[]), jsonl_sink("lake", &[])];
    let mut env = TestEnv::with_daemon(database, with_sinks(Scenario::live(3 * SECOND), settings)).await;
    env.expect_complete_archive().await;
    env.wait_until("the other sink has everything", async || sink_status(&env, "lake").await["pending"] == 0).await;
    let ids = assert_events_match_ledger(&env, &sink_events(&env, "lake"));
    env.wait_until("the sink is paused", async || sink_status(&env, "hook").await["state"] == "resting").await;
    let status = sink_status(&env, "hook").await;
    assert!(status["pending"].as_u64().unwrap() >= ids.len() as u64, "nothing of it is lost: {status}");
    assert!(status["waiting"].as_u64().unwrap() <= 2, "a backlog costs no rows: {status}");
    assert_eq!(status["failed"], 0, "{status}");
    // A restart keeps the backlog.
    env.stop().await;
    env.start();
    receiver.set_reply(|_| WebhookReply::Status(200));
    env.run_ok(&["deliver", "retry", "--all"]).await;
    env.wait_until("the sink has caught up", async || sink_status(&env, "hook").await["pending"] == 0).await;
    let events: Vec<Value> = receiver.accepted().into_iter().map(|received| received.event).collect();
    assert_eq!(assert_events_match_ledger(&env, &events), ids, "the same events under the same ids");
    assert_no_secret_printed(&env).await;
}

async fn a_receiver_that_wants_nothing_more_stops_its_sink_until_a_person_starts_it(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(410)).await;
    let mut env =
        TestEnv::with_daemon(database, with_sinks(Scenario::history(), vec![webhook_sink(&receiver.url, &[])])).await;
    env.expect_complete_archive().await;
    env.wait_until("the sink is stopped", async || sink_status(&env, "hook").await["state"] == "stopped").await;
    env.wait_for_log("the sink is stopped; change its url").await;
    let requests = receiver.request_count();
    assert!(requests <= 8, "the stopped sink sends no more requests: {requests}");
    env.stop().await;
    env.start();
    env.wait_for_request().await;
    assert_eq!(receiver.request_count(), requests, "a restart does not start it");
    receiver.set_reply(|_| WebhookReply::Status(200));
    let output = env.run_ok(&["deliver", "retry"]).await;
    assert!(output.contains("restarted sink hook"), "{output}");
    env.wait_until("everything is delivered", async || {
        let status = sink_status(&env, "hook").await;
        status["pending"] == 0 && status["failed"] == 0 && status["state"] == "active"
    })
    .await;
    let events: Vec<Value> = receiver.accepted().into_iter().map(|received| received.event).collect();
    assert_events_match_ledger(&env, &events);
}

async fn a_private_address_is_not_connected_to_by_default(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(200)).await;
    let port = receiver.url.split(':').nth(2).and_then(|rest| rest.split('/').next()).unwrap();
    let by_name = webhook_sink(&format!("http://localhost:{port}/x"), &[("allow_private", false.into())]);
    let mut by_number = webhook_sink(&receiver.url, &[("allow_private", false.into())]);
    by_number.as_table_mut().unwrap().insert("name".into(), "number".into());
    let env = TestEnv::with_daemon(database, with_sinks(Scenario::history(), vec![by_name, by_number])).await;
    env.expect_complete_archive().await;
    for name in ["hook", "number"] {
        env.wait_until("the sink is paused with the reason", async || {
            let status = sink_status(&env, name).await;
            status["state"] == "resting" && status["reason"].as_str().is_some_and(|why| why.contains("allow_private"))
        })
        .await;
    }
    assert_eq!(receiver.request_count(), 0);
}

async fn a_new_sink_begins_with_the_archive_or_with_now_and_a_replay_sends_the_rest(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.expect_complete_archive().await;
    env.stop().await;
    env.set(
        "sinks",
        vec![jsonl_sink("old", &[("start", "beginning".into())]), jsonl_sink("new", &[("start", "now".into())])],
    );
    let before = sink_status(&env, "old").await;
    assert!(before["state"] == "new" && before["pending"].as_u64() > Some(0), "{before}");
    env.run(&["deliver", "replay", "--sink", "new", "--from", "1h", "--to", "2100-01-01"])
        .await
        .assert_output(2, &["no daemon has started"]);
    env.start();
    env.wait_until("the old events are delivered", async || {
        let status = sink_status(&env, "old").await;
        status["pending"] == 0 && status["delivered"].as_u64() > Some(0)
    })
    .await;
    let ids = assert_events_match_ledger(&env, &sink_events(&env, "old"));
    assert_eq!(sink_events(&env, "new"), Vec::<Value>::new());
    env.run(&["deliver", "replay", "--sink", "nobody", "--from", "1h", "--to", "2100-01-01"])
        .await
        .assert_output(2, &["old, new"]);
    env.run(&["deliver", "replay", "--sink", "new", "--from", "1h", "--to", "2h"])
        .await
        .assert_output(2, &["the range of --from and --to is empty"]);
    env.run_ok(&["deliver", "replay", "--sink", "new", "--from", "1h", "--to", "2100-01-01", "--rate", "200"]).await;
    env.wait_until("the replay is over", async || !sink_status(&env, "new").await["replays"][0]["finished"].is_null())
        .await;
    assert_eq!(assert_events_match_ledger(&env, &sink_events(&env, "new")), ids, "the same events under the same ids");
    let replay = &sink_status(&env, "new").await["replays"][0];
    assert_eq!((&replay["sent"], &replay["percent"]), (&ids.len().into(), &100.into()), "{replay}");
    // A sink that was removed from the settings keeps its position.
    env.stop().await;
    env.set("sinks", vec![jsonl_sink("new", &[])]);
    assert_eq!(sink_status(&env, "old").await["state"], "not_in_the_settings");
}

async fn a_sink_gets_only_what_it_asks_for(database: TempDatabase) {
    let some = vec![toml::Value::from("auto_summary")];
    let nobody = vec![toml::Value::from("12345")];
    let voice = vec![toml::Value::from("vOiCe")];
    let settings = vec![
        jsonl_sink("summaries", &[("artifacts", some.into())]),
        jsonl_sink("nobody", &[("accounts", nobody.into())]),
        jsonl_sink("voice", &[("channels", voice.into())]),
    ];
    let env = TestEnv::with_daemon(database, with_sinks(Scenario::history(), settings)).await;
    env.expect_complete_archive().await;
    env.wait_until("nothing is to be delivered", async || {
        sink_statuses(&env).await.iter().all(|sink| sink["pending"] == 0)
    })
    .await;
    let events = sink_events(&env, "summaries");
    assert!(!events.is_empty() && events.iter().all(|event| event["type"] == "com.ringcx.auto_summary"));
    assert_eq!(sink_events(&env, "nobody"), Vec::<Value>::new());
    let voice = sink_events(&env, "voice");
    let world = env.expected_segments();
    let is_voice =
        |id: &str| world.iter().any(|entry| entry.segment_id == id && entry.metadata["channelType"] == "VOICE");
    assert!(!voice.is_empty() && voice.iter().all(|event| is_voice(event["subject"].as_str().unwrap())));
}

async fn a_redirect_is_not_followed_and_says_where_it_points(database: TempDatabase) {
    let receiver =
        WebhookReceiver::start(|_| WebhookReply::RedirectTo("https://elsewhere.example/private?token=secret-token"))
            .await;
    let env =
        TestEnv::with_daemon(database, with_sinks(Scenario::history(), vec![webhook_sink(&receiver.url, &[])])).await;
    env.expect_complete_archive().await;
    env.wait_until("the sink is paused", async || sink_status(&env, "hook").await["state"] == "resting").await;
    let status = sink_status(&env, "hook").await;
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("302") && reason.contains("elsewhere.example"), "{reason}");
    assert_eq!(status["failed"], 0, "{status}");
    assert_no_secret_printed(&env).await;
}

async fn a_daemon_that_ends_does_not_wait_for_a_receiver_that_does_not_answer(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::NoReply).await;
    let hook = webhook_sink(&receiver.url, &[("timeout", "1h".into())]);
    let mut env =
        TestEnv::with_daemon(database, with_sinks(Scenario::history(), vec![hook, jsonl_sink("lake", &[])])).await;
    env.expect_complete_archive().await;
    env.wait_until("the receiver is asked", async || receiver.request_count() > 0).await;
    env.wait_until("the other sink has everything", async || sink_status(&env, "lake").await["pending"] == 0).await;
    env.stop().await;
    receiver.set_reply(|_| WebhookReply::Status(200));
    env.start();
    env.wait_until("everything is delivered", async || sink_status(&env, "hook").await["pending"] == 0).await;
    let events: Vec<Value> = receiver.accepted().into_iter().map(|received| received.event).collect();
    assert_events_match_ledger(&env, &events);
}

async fn an_erasure_reaches_every_sink_and_then_only_a_hash_stays(database: TempDatabase) {
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(200)).await;
    let settings = vec![webhook_sink(&receiver.url, &[]), jsonl_sink("lake", &[])];
    let env = TestEnv::with_daemon(database, with_sinks(Scenario::history(), settings)).await;
    wait_until_delivered(&env).await;
    let subjects: Vec<Value> = sink_events(&env, "lake").iter().map(|event| event["subject"].clone()).collect();
    let id = subjects[0].as_str().unwrap().to_owned();
    let told = ["copies: sink hook received", "com.ringcx.segment.erased", "copies: sink lake received", "the files"];
    env.run(&["erase", "--segment", &id, "--dry-run"]).await.assert_output(0, &told);
    env.run(&["erase", "--segment", &id, "--yes"]).await.assert_output(0, &told);
    env.wait_until("the webhook is told", async || {
        receiver.accepted().iter().any(|received| received.event["type"] == "com.ringcx.segment.erased")
    })
    .await;
    let last = receiver.accepted().into_iter().rfind(|received| received.event["subject"] == id.as_str()).unwrap();
    assert_eq!(last.event["type"], "com.ringcx.segment.erased", "it is the segment's last event");
    let data = last.event["data"].as_object().unwrap();
    assert_eq!((data.len(), &data["reason"], &data["segment_id"]), (4, &"erasure".into(), &id.as_str().into()));
    env.wait_until("its lines are removed", async || {
        let lines = sink_events(&env, "lake");
        let of_segment: Vec<&Value> = lines.iter().filter(|line| line["subject"] == id.as_str()).collect();
        of_segment.len() == 1 && of_segment[0]["type"] == "com.ringcx.segment.erased"
    })
    .await;
    assert_eq!(
        sink_events(&env, "lake").iter().filter(|line| line["subject"] != id.as_str()).count(),
        subjects.iter().filter(|subject| **subject != *id).count(),
        "all others are there"
    );
    env.run_ok(&["verify"]).await;
}

async fn a_sink_that_asks_for_metadata_is_told_about_every_segment(database: TempDatabase) {
    let contents = vec![toml::Value::from("metadata")];
    let settings = vec![jsonl_sink("crm", &[("artifacts", contents.into())])];
    let env = TestEnv::with_daemon(database, with_sinks(Scenario::history(), settings)).await;
    env.wait_until("every segment is told", async || {
        let told: BTreeSet<String> =
            sink_events(&env, "crm").iter().map(|event| event["subject"].as_str().unwrap().to_owned()).collect();
        env.expected_segments().iter().all(|entry| told.contains(&entry.segment_id))
    })
    .await;
    assert!(sink_events(&env, "crm").iter().all(|event| event["type"] == "com.ringcx.metadata"));
    assert!(env.expected_segments().iter().any(|entry| !entry.has_transcript), "some have no transcript");
}

/// What a receiver accepted: distinct events, and when the first and the last arrived.
#[derive(Default)]
struct RateLog {
    ids: BTreeSet<String>,
    first: Option<Tick>,
    last: Tick,
    requests: u64,
}

/// A receiver that answers after 5 ms, and `percent` of the requests badly, in four ways alike.
async fn start_rate_receiver(percent: u64, log: Arc<Mutex<RateLog>>) -> WebhookReceiver {
    let clock = Clock::system();
    WebhookReceiver::start_discarding(move |received| {
        let mut log = log.lock().unwrap();
        log.requests += 1;
        // Spread over the requests, without a pattern that a retry could meet again.
        let at = (log.requests * 7_919) % 400;
        if at < percent * 4 {
            return match at % 4 {
                0 => WebhookReply::Status(500),
                1 => WebhookReply::RetryAfter(1),
                2 => WebhookReply::NoReply,
                _ => WebhookReply::Reset,
            };
        }
        log.last = clock.tick();
        let now = log.last;
        log.first.get_or_insert(now);
        log.ids.insert(received.id());
        WebhookReply::AcceptAfter(5)
    })
    .await
}

/// Stores a transcript of each of so many segments, as the daemon would.
async fn fill_archive(env: &TestEnv, segments: usize) {
    let db = match env.database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::CreateOrMigrate).await.unwrap(),
        None => Db::open_postgres(&env.database.url.clone().into(), OpenMode::CreateOrMigrate, 4).await.unwrap(),
    };
    let now = env.clock.now();
    let account = db.register_account(&env.main_account(), None, now).await.unwrap();
    let lease = db.acquire_leases(&[account.key], "e2e", SECOND, now).await.unwrap().remove(0);
    let records: Vec<SegmentRecord> = (0..segments)
        .map(|number| SegmentRecord {
            segment_id: format!("rate-{number}"),
            dialog_id: Some(format!("dialog-{}", number / 3)),
            end: Some(now - 60 * SECOND),
            has_transcript: true,
            is_agent: true,
            has_recording: false,
            raw: format!(r#"{{"segmentId":"rate-{number}"}}"#),
        })
        .collect();
    let wants = ArtifactSelection {
        artifacts: ArtifactSet::NONE.with(Artifact::Transcript),
        summaries_for: SummariesFor::Transcribed,
    };
    for part in records.chunks(1_000) {
        let chunk = MetadataChunk {
            lease,
            lane: Lane::Live,
            range: TimeRange { from: Time(0), to: now },
            now,
            wants,
            already_read: &TimeRangeSet::default(),
            urgent_before: None,
            quarantine_retry_delay: SECOND,
            records: part,
            quarantined: &[],
        };
        db.ingest_chunk(chunk).await.unwrap();
        let claims = db.due_items(lease, ArtifactSet::ALL, now, 5_000).await.unwrap();
        let body = Bytes::from(r#"{"channelClass":"VOICE","transcript":[{"message":"good morning"}]}"#);
        let done: Vec<CompletedJob> = claims
            .into_iter()
            .map(|claim| CompletedJob { claim, at: now, outcome: JobOutcome::stored(&body, None) })
            .collect();
        db.complete_jobs(&done).await.unwrap();
    }
    db.close().await;
}

/// Events per second at a receiver that accepts everything, and at one that answers three in ten badly.
async fn the_rate_at_a_good_receiver_and_at_a_bad_one(database: TempDatabase) {
    const EVENTS: usize = 10_000;
    let is_sqlite = database.is_sqlite();
    let quiet = Scenario::history().configure_sim(|sim| sim.traffic.per_minute = 0.01);
    let mut env = TestEnv::new(database, quiet.set("log.filter", "warn")).await;
    fill_archive(&env, EVENTS).await;
    for percent in [0, 30] {
        let log = Arc::<Mutex<RateLog>>::default();
        let receiver = start_rate_receiver(percent, log.clone()).await;
        let mut hook = webhook_sink(&receiver.url, &[("start", "beginning".into())]);
        hook.as_table_mut().unwrap().insert("name".into(), format!("hook-{percent}").into());
        env.set("sinks", vec![hook]);
        env.start();
        let nearly_all = || log.lock().unwrap().ids.len() >= EVENTS * 98 / 100;
        env.wait_until_within(300 * SECOND, "nearly all arrive", async || nearly_all()).await;
        let (took, ids, requests) = {
            let log = log.lock().unwrap();
            (log.last.since(log.first.unwrap()), log.ids.len(), log.requests)
        };
        let rate = ids as f64 / took.as_secs_f64();
        println!("SQLite: {is_sqlite}; {percent} % bad: {ids} events in {took:?}, {rate:.0}/s, {requests} requests");
        env.stop().await;
    }
}
