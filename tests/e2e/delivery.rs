//! Delivery to other systems, through the real binary: every event arrives, whatever dies, refuses or is away, and no sink
//! waits for another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use ringcx_extractor::model::Artifact;
use ringcx_extractor::sim::{Expect, without_depths};
use serde_json::Value;
use support::daemon::{Place, Plan, Rig};
use support::receiver::{Received, Receiver, Reply};

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
}

const SECOND: Duration = Duration::from_secs(1);

/// A sink's settings.
fn sink(name: &str, kind: &str, more: &[(&str, toml::Value)]) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("name".into(), name.into());
    table.insert("type".into(), kind.into());
    table.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    toml::Value::Table(table)
}

fn jsonl(name: &str, more: &[(&str, toml::Value)]) -> toml::Value {
    let more: Vec<(&str, toml::Value)> =
        [("path", format!("out/{name}").into())].into_iter().chain(more.iter().cloned()).collect();
    sink(name, "jsonl", &more)
}

fn webhook(url: &str, more: &[(&str, toml::Value)]) -> toml::Value {
    let all: Vec<(&str, toml::Value)> = [
        ("url", url.into()),
        ("secret", "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==".into()),
        ("allow_private", true.into()),
        ("timeout", "3s".into()),
    ]
    .into_iter()
    .chain(more.iter().cloned())
    .collect();
    sink("hook", "webhook", &all)
}

fn with(plan: Plan, sinks: Vec<toml::Value>) -> Plan {
    plan.set("sinks", sinks)
}

/// The files of a jsonl sink, in the order of their names.
fn files(rig: &Rig, name: &str) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(rig.place.folder.path().join("out").join(name)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The events in a jsonl sink's files.
fn lines(rig: &Rig, name: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for file in files(rig, name) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line in {}", file.display());
        events.extend(
            text.lines().map(|line| ringcx_extractor::lenient_json::from_str::<Value>(line).expect("a whole line")),
        );
    }
    events
}

/// Waits until all of the world is stored and nothing of it is still to be delivered.
async fn delivered(rig: &Rig) {
    rig.settled().await;
    rig.until("everything is delivered", async || {
        sinks(rig).await.iter().all(|sink| sink["pending"] == 0 && !sink["last_delivered"].is_null())
    })
    .await;
}

async fn sinks(rig: &Rig) -> Vec<Value> {
    rig.json(&["status", "--json"]).await["sinks"].as_array().unwrap().clone()
}

async fn sink_named(rig: &Rig, name: &str) -> Value {
    let sinks = rig.json(&["deliver", "status", "--json"]).await;
    sinks.as_array().unwrap().iter().find(|sink| sink["name"] == name).cloned().unwrap_or(Value::Null)
}

/// Finds that these events are what the world holds, each at least once and always the same; returns their ids.
fn as_the_ledger_says(rig: &Rig, events: &[Value]) -> BTreeSet<String> {
    let mut found: BTreeMap<(String, String), &Value> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in events {
        let kind = event["type"].as_str().unwrap().strip_prefix("com.ringcx.").unwrap();
        let key = (event["subject"].as_str().unwrap().to_owned(), kind.to_owned());
        let before = found.insert(key, event);
        assert!(before.is_none_or(|before| before == event), "two events of one version differ: {before:?}, {event}");
        ids.insert(event["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), found.len(), "ids are one of a kind");
    for entry in rig.world().iter().filter(|entry| entry.has_transcript) {
        for artifact in Artifact::ALL {
            let event = found.remove(&(entry.segment_id.clone(), artifact.name().to_owned()));
            let Expect::Body(body) = entry.expect(artifact) else {
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
            assert_eq!(without_depths(data["metadata"].clone()), entry.metadata);
            assert_eq!(
                data["dialog_id"],
                entry.dialog_id.clone().into_iter().map(Value::from).next().unwrap_or_default()
            );
            let part = &data[artifact.name()];
            assert_eq!((&part["outcome"], &part["fetched_at"]), (&"stored".into(), &event["time"]));
            match artifact {
                Artifact::Transcript => {
                    let sent: Value = ringcx_extractor::lenient_json::from_slice(body).unwrap();
                    assert_eq!(without_depths(part["body"].clone()), without_depths(sent));
                }
                _ => {
                    let text = serde_json::from_slice::<String>(body);
                    assert_eq!(part["text"], text.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()));
                }
            }
        }
    }
    assert!(found.is_empty(), "events of what is not there: {:?}", found.keys());
    ids
}

async fn files_of_json_lines_hold_every_event_to_the_letter(place: Place) {
    let mut rig = Rig::started(place, with(Plan::live(3 * SECOND), vec![jsonl("lake", &[])])).await;
    delivered(&rig).await;
    let events = lines(&rig, "lake");
    let ids = as_the_ledger_says(&rig, &events);
    assert_eq!(ids.len(), events.len(), "nothing died, so nothing came twice");
    let status = sink_named(&rig, "lake").await;
    assert_eq!((&status["state"], &status["delivered"]), (&"active".into(), &events.len().into()), "{status}");
    for file in files(&rig, "lake") {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    rig.output(&["deliver", "status"]).await;
    rig.stop().await;
}

async fn kills_in_the_middle_lose_no_event_and_leave_no_torn_line(place: Place) {
    let plan = Plan::live(12 * SECOND).sim(|sim| sim.traffic.per_minute = 300.0);
    let mut rig = Rig::started(place, with(plan, vec![jsonl("lake", &[("rotate", "2s".into())])])).await;
    for _ in 0..5 {
        let before = lines_so_far(&rig);
        rig.until("more is delivered", async || lines_so_far(&rig) > before).await;
        rig.kill().await;
        // What a crash between two blocks of a write would have left.
        let newest = files(&rig, "lake").pop().unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(newest)
            .unwrap()
            .write_all(b"{\"specversion\":\"1.0\",\"id")
            .unwrap();
        rig.start();
    }
    delivered(&rig).await;
    // Also where the last crash left nothing to deliver.
    rig.until("the last torn line is cut off", async || {
        files(&rig, "lake").iter().all(|file| std::fs::read(file).unwrap().last().is_none_or(|byte| *byte == b'\n'))
    })
    .await;
    as_the_ledger_says(&rig, &lines(&rig, "lake"));
    assert!(rig.log().contains("a line that a crash had torn is cut off"));
}

/// How many whole lines there are, torn ones left out.
fn lines_so_far(rig: &Rig) -> usize {
    let count = |file: PathBuf| std::fs::read(file).unwrap().iter().filter(|byte| **byte == b'\n').count();
    files(rig, "lake").into_iter().map(count).sum()
}

async fn a_webhook_gets_every_event_signed_with_all_secrets(place: Place) {
    let receiver = Receiver::start(|_| Reply::Status(204)).await;
    let secrets =
        vec![toml::Value::from("whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXct"), "not base64, so taken as it is".into()];
    let mut hook = webhook(&receiver.url, &[("secrets", secrets.into())]);
    hook.as_table_mut().unwrap().remove("secret");
    let rig = Rig::started(place, with(Plan::history(), vec![hook])).await;
    delivered(&rig).await;
    let taken = receiver.taken();
    let events: Vec<Value> = taken.iter().map(|received| received.event.clone()).collect();
    as_the_ledger_says(&rig, &events);
    for received in &taken {
        assert_eq!(received.header("content-type"), "application/cloudevents+json");
        assert_eq!(received.header("webhook-id"), received.id());
        assert!(received.header("user-agent").starts_with("ringcx-extractor/"));
        assert_eq!(received.signed_by(b"new-new-new-new-new-new-"), Some(0), "the first secret signs first");
        assert_eq!(received.signed_by(b"not base64, so taken as it is"), Some(1));
        assert_eq!(received.signed_by(b"another"), None);
    }
}

/// Whether an event is one in so many, always the same ones.
fn one_in(many: u32, received: &Received) -> bool {
    let id = received.id();
    u32::from_str_radix(&id[..6], 16).unwrap().is_multiple_of(many)
}

async fn whatever_the_receiver_answers_nothing_is_lost_and_what_it_refuses_is_kept_for_a_retry(place: Place) {
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    receiver.answer(move |received| {
        if one_in(7, received) {
            return Reply::Status(400);
        }
        match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            at if at % 5 == 1 => Reply::Status(500),
            at if at % 11 == 2 => Reply::Reset,
            at if at % 37 == 3 => Reply::Later(1),
            _ => Reply::Status(200),
        }
    });
    let rig = Rig::started(place, with(Plan::live(4 * SECOND), vec![webhook(&receiver.url, &[])])).await;
    delivered(&rig).await;
    let status = sink_named(&rig, "hook").await;
    let refused = status["failed"].as_u64().unwrap();
    assert!(refused > 0 && status["failures"][0]["status"] == 400, "{status}");
    assert!(receiver.taken().iter().all(|received| !one_in(7, received)));
    receiver.answer(|_| Reply::Status(202));
    let said = rig.output(&["deliver", "retry", "--sink", "hook"]).await;
    assert!(said.contains(&format!("{refused} event")), "{said}");
    rig.until("what was refused is delivered", async || {
        let status = sink_named(&rig, "hook").await;
        status["failed"] == 0 && status["pending"] == 0
    })
    .await;
    let events: Vec<Value> = receiver.taken().into_iter().map(|received| received.event).collect();
    as_the_ledger_says(&rig, &events);
    nothing_secret_is_said(&rig).await;
}

/// Neither the log nor what commands print holds an address or a key.
async fn nothing_secret_is_said(rig: &Rig) {
    let said = format!("{}{}", rig.log(), rig.output(&["deliver", "status", "--json"]).await);
    for secret in ["hook-secret-path", "secret-token", "aHVudGVyMi1", "hunter2", "said by the receiver"] {
        assert!(!said.contains(secret), "{secret} is said");
    }
}

async fn a_sink_that_is_down_delays_no_other_and_catches_up(place: Place) {
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let sinks_of = vec![webhook(&receiver.url, &[]), jsonl("lake", &[])];
    let mut rig = Rig::started(place, with(Plan::live(3 * SECOND), sinks_of)).await;
    rig.settled().await;
    rig.until("the other sink has everything", async || sink_named(&rig, "lake").await["pending"] == 0).await;
    let ids = as_the_ledger_says(&rig, &lines(&rig, "lake"));
    rig.until("the daemon says that the sink rests", async || sink_named(&rig, "hook").await["state"] == "resting")
        .await;
    let status = sink_named(&rig, "hook").await;
    assert!(status["pending"].as_u64().unwrap() >= ids.len() as u64, "nothing of it is lost: {status}");
    assert!(status["waiting"].as_u64().unwrap() <= 2, "a backlog costs no rows: {status}");
    assert_eq!(status["failed"], 0, "{status}");
    // A restart changes nothing about it.
    rig.stop().await;
    rig.start();
    receiver.answer(|_| Reply::Status(200));
    rig.output(&["deliver", "retry", "--all"]).await;
    rig.until("the sink has caught up", async || sink_named(&rig, "hook").await["pending"] == 0).await;
    let events: Vec<Value> = receiver.taken().into_iter().map(|received| received.event).collect();
    assert_eq!(as_the_ledger_says(&rig, &events), ids, "the same events under the same ids");
    nothing_secret_is_said(&rig).await;
}

async fn a_receiver_that_wants_nothing_more_stops_its_sink_until_a_person_starts_it(place: Place) {
    let receiver = Receiver::start(|_| Reply::Status(410)).await;
    let mut rig = Rig::started(place, with(Plan::history(), vec![webhook(&receiver.url, &[])])).await;
    rig.settled().await;
    rig.until("the sink is stopped", async || sink_named(&rig, "hook").await["state"] == "stopped").await;
    rig.says("the sink is stopped; give it another url").await;
    let requests = receiver.requests();
    assert!(requests <= 8, "it was left alone: {requests}");
    rig.stop().await;
    rig.start();
    rig.asks().await;
    assert_eq!(receiver.requests(), requests, "a restart does not start it");
    receiver.answer(|_| Reply::Status(200));
    let said = rig.output(&["deliver", "retry"]).await;
    assert!(said.contains("sink hook is started again"), "{said}");
    rig.until("everything is delivered", async || {
        let status = sink_named(&rig, "hook").await;
        status["pending"] == 0 && status["failed"] == 0 && status["state"] == "active"
    })
    .await;
    let events: Vec<Value> = receiver.taken().into_iter().map(|received| received.event).collect();
    as_the_ledger_says(&rig, &events);
}

async fn a_private_address_is_not_connected_to_by_default(place: Place) {
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    let port = receiver.url.split(':').nth(2).and_then(|rest| rest.split('/').next()).unwrap();
    let by_name = webhook(&format!("http://localhost:{port}/x"), &[("allow_private", false.into())]);
    let mut by_number = webhook(&receiver.url, &[("allow_private", false.into())]);
    by_number.as_table_mut().unwrap().insert("name".into(), "number".into());
    let rig = Rig::started(place, with(Plan::history(), vec![by_name, by_number])).await;
    rig.settled().await;
    for name in ["hook", "number"] {
        rig.until("the sink rests and says why", async || {
            let status = sink_named(&rig, name).await;
            status["state"] == "resting" && status["reason"].as_str().is_some_and(|why| why.contains("allow_private"))
        })
        .await;
    }
    assert_eq!(receiver.requests(), 0);
}

async fn a_new_sink_begins_with_the_archive_or_with_now_and_a_replay_sends_the_rest(place: Place) {
    let mut rig = Rig::started(place, Plan::history()).await;
    rig.settled().await;
    rig.stop().await;
    rig.set("sinks", vec![jsonl("old", &[("start", "beginning".into())]), jsonl("new", &[("start", "now".into())])]);
    let before = sink_named(&rig, "old").await;
    assert!(before["state"] == "new" && before["pending"].as_u64() > Some(0), "{before}");
    rig.run(&["deliver", "replay", "--sink", "new", "--from", "1h", "--to", "2100-01-01"])
        .await
        .is(2, &["no daemon has seen"]);
    rig.start();
    rig.until("the old events are delivered", async || {
        let status = sink_named(&rig, "old").await;
        status["pending"] == 0 && status["delivered"].as_u64() > Some(0)
    })
    .await;
    let ids = as_the_ledger_says(&rig, &lines(&rig, "old"));
    assert_eq!(lines(&rig, "new"), Vec::<Value>::new());
    rig.run(&["deliver", "replay", "--sink", "nobody", "--from", "1h", "--to", "2100-01-01"])
        .await
        .is(2, &["old, new"]);
    rig.run(&["deliver", "replay", "--sink", "new", "--from", "1h", "--to", "2h"]).await.is(2, &["nothing between"]);
    rig.output(&["deliver", "replay", "--sink", "new", "--from", "1h", "--to", "2100-01-01", "--rate", "200"]).await;
    rig.until("the replay is over", async || !sink_named(&rig, "new").await["replays"][0]["finished"].is_null()).await;
    assert_eq!(as_the_ledger_says(&rig, &lines(&rig, "new")), ids, "the same events under the same ids");
    let replay = &sink_named(&rig, "new").await["replays"][0];
    assert_eq!((&replay["sent"], &replay["percent"]), (&ids.len().into(), &100.into()), "{replay}");
    // A sink that is taken out of the settings and comes back goes on where it was.
    rig.stop().await;
    rig.set("sinks", vec![jsonl("new", &[])]);
    assert_eq!(sink_named(&rig, "old").await["state"], "not_in_the_settings");
}

async fn a_sink_gets_only_what_it_asks_for(place: Place) {
    let some = vec![toml::Value::from("auto_summary")];
    let nobody = vec![toml::Value::from("12345")];
    let voice = vec![toml::Value::from("vOiCe")];
    let sinks_of = vec![
        jsonl("summaries", &[("artifacts", some.into())]),
        jsonl("nobody", &[("accounts", nobody.into())]),
        jsonl("voice", &[("channels", voice.into())]),
    ];
    let rig = Rig::started(place, with(Plan::history(), sinks_of)).await;
    rig.settled().await;
    rig.until("nothing is to be delivered", async || sinks(&rig).await.iter().all(|sink| sink["pending"] == 0)).await;
    let events = lines(&rig, "summaries");
    assert!(!events.is_empty() && events.iter().all(|event| event["type"] == "com.ringcx.auto_summary"));
    assert_eq!(lines(&rig, "nobody"), Vec::<Value>::new());
    let voice = lines(&rig, "voice");
    let world = rig.world();
    let is_voice =
        |id: &str| world.iter().any(|entry| entry.segment_id == id && entry.metadata["channelType"] == "VOICE");
    assert!(!voice.is_empty() && voice.iter().all(|event| is_voice(event["subject"].as_str().unwrap())));
}

async fn a_redirect_is_not_followed_and_says_where_it_points(place: Place) {
    let receiver = Receiver::start(|_| Reply::To("https://elsewhere.example/private?token=secret-token")).await;
    let rig = Rig::started(place, with(Plan::history(), vec![webhook(&receiver.url, &[])])).await;
    rig.settled().await;
    rig.until("the sink rests", async || sink_named(&rig, "hook").await["state"] == "resting").await;
    let status = sink_named(&rig, "hook").await;
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("302") && reason.contains("elsewhere.example"), "{reason}");
    assert_eq!(status["failed"], 0, "{status}");
    nothing_secret_is_said(&rig).await;
}

async fn a_daemon_that_ends_does_not_wait_for_a_receiver_that_does_not_answer(place: Place) {
    let receiver = Receiver::start(|_| Reply::Never).await;
    let hook = webhook(&receiver.url, &[("timeout", "1h".into())]);
    let mut rig = Rig::started(place, with(Plan::history(), vec![hook, jsonl("lake", &[])])).await;
    rig.settled().await;
    rig.until("the receiver is asked", async || receiver.requests() > 0).await;
    rig.until("the other sink has everything", async || sink_named(&rig, "lake").await["pending"] == 0).await;
    rig.stop().await;
    receiver.answer(|_| Reply::Status(200));
    rig.start();
    rig.until("everything is delivered", async || sink_named(&rig, "hook").await["pending"] == 0).await;
    let events: Vec<Value> = receiver.taken().into_iter().map(|received| received.event).collect();
    as_the_ledger_says(&rig, &events);
}
