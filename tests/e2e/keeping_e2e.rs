//! Erasure, holds and retention through the real binary, beside a daemon that goes on working.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::db::{Access, Db, sql};
use ringcx_extractor::lenient_json;
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{Faults, Rates, Script, SegmentScript};
use serde_json::Value;
use support::daemon::plan::{millis, strings};
use support::daemon::{Place, Plan, Rig};

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

async fn lines(rig: &Rig) -> Vec<Value> {
    // Before the daemon has made the database there is nothing.
    let text = rig.run(&["export"]).await.out;
    // Halves of surrogates stand there as they came.
    text.lines().map(|line| lenient_json::value(line).unwrap()).collect()
}

async fn ids(rig: &Rig) -> Vec<String> {
    lines(rig).await.iter().map(|line| line["segment_id"].as_str().unwrap().to_owned()).collect()
}

/// The whole of what there is has been read once more, by a backfill.
async fn backfilled(rig: &Rig) {
    rig.output(&["backfill", "--from", "1h", "--to", "2s", "--wait"]).await;
}

async fn gone(rig: &Rig, id: &str) {
    assert!(!ids(rig).await.contains(&id.to_owned()), "it is exported");
    rig.run(&["show", "--", id]).await.is(1, &["erased"]);
    let (audit, status) = rig.audit().await;
    assert_eq!((status, &audit["accounts"][0]["segments"]["erased"]), (0, &1.into()), "{audit}");
}

async fn what_was_erased_stays_gone_through_recheck_backfill_and_restart(place: Place) {
    let mut rig = Rig::started(place, Plan::live(3 * SECOND).set("discovery.rechecks", strings(&["2s", "4s"]))).await;
    rig.until("something is there", async || !ids(&rig).await.is_empty()).await;
    let id = ids(&rig).await.remove(0);
    let dry = rig.run(&["erase", "--segment", &id, "--dry-run"]).await;
    dry.is(0, &["to erase: 1 segment", &id]);
    assert!(ids(&rig).await.contains(&id), "that was to be dry");
    rig.run(&["erase", "--yes", "--segment", &id, "--reason", "request 7"])
        .await
        .is(0, &["erased for good: 1 segment"]);
    assert!(!ids(&rig).await.contains(&id));
    rig.clock.sleep_until_time(rig.begin + 8 * SECOND).await;
    backfilled(&rig).await;
    rig.audit_passes().await;
    gone(&rig, &id).await;
    rig.stop().await;
    rig.start();
    backfilled(&rig).await;
    rig.audit_passes().await;
    gone(&rig, &id).await;
    rig.run(&["erase", "--yes", "--segment", &id]).await.is(1, &["holds nothing"]);
    let journal = rig.json(&["erase", "--journal", "--json"]).await;
    assert_eq!(
        (&journal["what"], &journal["segments"], &journal["reason"]),
        (&"erase".into(), &1.into(), &"request 7".into())
    );
    assert!(!journal.to_string().contains(&id), "the journal says what was erased");
    let others = rig.world().iter().filter(|entry| entry.segment_id != id).count();
    assert_eq!(ids(&rig).await.len(), others, "the others are all there");
}

async fn a_segment_erased_while_it_is_fetched_stays_gone(place: Place) {
    let plan = Plan::history().sim(|sim| {
        sim.traffic.per_minute = 0.01;
        let slow = Rates { slow: 1.0, slow_for: millis(2_500, 3_000), ..Rates::default() };
        sim.faults = Faults { transcript: slow, summary: slow, ..Faults::default() };
    });
    let mut rig = Rig::new(place, plan).await;
    rig.sim.add_segment(SegmentScript::new(&rig.main_account(), rig.begin - 5 * SECOND));
    rig.start();
    rig.until("requests are under way", async || {
        rig.sim.stats().requests.get(&Endpoint::Transcript).is_some_and(|asked| *asked > 0)
            && !ids(&rig).await.is_empty()
    })
    .await;
    for id in ids(&rig).await {
        rig.run(&["erase", "--yes", "--segment", &id, "--quick"]).await.is(0, &["erased for good"]);
    }
    rig.clock.sleep_until_time(rig.begin + 9 * SECOND).await;
    assert_eq!(ids(&rig).await, Vec::<String>::new());
    rig.audit_passes().await;
    let (audit, _) = rig.audit().await;
    let account = &audit["accounts"][0];
    assert!(account["segments"]["erased"].as_u64() > Some(0), "{account}");
    assert_eq!(account["artifacts"][0]["stored"], 0);
    assert_eq!(rig.queue(&[]).await, Vec::<Value>::new());
    rig.kept_the_contract();
}

async fn a_contact_is_erased_and_a_hold_keeps_it_until_it_is_released(place: Place) {
    let rig = Rig::started(place, Plan::history()).await;
    rig.complete().await;
    let number = |line: &Value| line["metadata"]["contactEndpointAddress"].as_str().unwrap_or_default().to_owned();
    let contact = lines(&rig).await.iter().map(number).find(|number| !number.is_empty()).unwrap();
    let all = ids(&rig).await.len();
    rig.run(&["hold", "--contact", &contact, "--reason", "case 9"]).await.is(0, &["placed hold 1"]);
    rig.run(&["erase", "--yes", "--contact", &contact]).await.is(1, &["hold 1 (case 9)"]);
    assert_eq!(ids(&rig).await.len(), all);
    let holds = rig.json(&["hold", "--list", "--json"]).await;
    assert_eq!((&holds["kind"], &holds["value"]), (&"contact".into(), &contact.as_str().into()));
    rig.run(&["hold", "--release", "1"]).await.is(0, &["released hold 1"]);
    rig.run(&["hold", "--release", "1"]).await.is(1, &["there is no hold 1"]);
    rig.run(&["erase", "--yes", "--contact", &contact]).await.is(0, &["erased for good"]);
    assert!(lines(&rig).await.iter().all(|line| number(line) != contact));
    let journal = rig.output(&["erase", "--journal", "--contact", &contact]).await;
    for what in ["hold", "refused", "release", "erase"] {
        assert!(journal.contains(what), "{journal}");
    }
    assert!(!journal.contains(&contact), "the journal says what was erased");
    rig.audit_passes().await;
    rig.run(&["erase"]).await.is(2, &["nothing is named"]);
    rig.run(&["hold"]).await.is(2, &["nothing is named"]);
}

async fn retention_takes_what_is_past_it_and_nothing_brings_it_back(place: Place) {
    let plan = Plan::history().account("retention", "25s").sim(|sim| sim.traffic.history = 20 * SECOND);
    let mut rig = Rig::started(place, plan).await;
    rig.until("something is there", async || !ids(&rig).await.is_empty()).await;
    let newest = rig.world().iter().filter_map(|entry| entry.end).max().unwrap();
    rig.clock.sleep_until_time(newest + 26 * SECOND).await;
    rig.until("all of it has gone", async || ids(&rig).await.is_empty()).await;
    rig.stop().await;
    rig.start();
    backfilled(&rig).await;
    assert_eq!(ids(&rig).await, Vec::<String>::new());
    rig.audit_passes().await;
    let (audit, _) = rig.audit().await;
    assert!(audit["accounts"][0]["segments"]["expired"].as_u64() > Some(0), "{}", audit["accounts"][0]["segments"]);
    let journal = rig.output(&["erase", "--journal"]).await;
    assert!(journal.contains("retention@e2e"), "{journal}");
}

async fn not_a_word_is_left_in_the_files_beside_a_running_daemon(place: Place) {
    if !place.is_sqlite() {
        // What Postgres does with its files is not ours: docs/keeping.md says so.
        return;
    }
    let mut rig = Rig::new(place, Plan::live(20 * SECOND)).await;
    let end = rig.begin - 5 * SECOND;
    let body = |word: &str| Script::Body(end, Bytes::from(word.to_owned()));
    let id = rig.sim.add_segment(SegmentScript {
        segment_id: Some("zqsegmentqz".into()),
        dialog_id: Some("zqdialogqz".into()),
        transcript: body(r#"{"transcript":[{"message":"zqtranscriptqz"}]}"#),
        agent_summary: body("zqagentqz"),
        auto_summary: body("zqautoqz"),
        ..SegmentScript::new(&rig.main_account(), end)
    });
    rig.start();
    rig.until("it is there", async || {
        let line = lines(&rig).await.into_iter().find(|line| line["segment_id"] == *id);
        line.is_some_and(|line| {
            line["auto_summary"]["outcome"] == "stored" && line["transcript"]["outcome"] == "stored"
        })
    })
    .await;
    let words = ["zqsegmentqz", "zqdialogqz", "zqtranscriptqz", "zqagentqz", "zqautoqz"];
    let before = files(&rig);
    assert!(words.iter().all(|word| before.contains(word)), "nothing was planted");
    rig.run(&["erase", "--yes", "--dialog", "zqdialogqz"]).await.is(0, &["erased for good: 1 segment"]);
    let after = files(&rig);
    for word in words {
        assert!(!after.contains(word), "a word is left: {word}");
    }
    assert!(rig.is_running(), "the daemon ended");
    // The daemon goes on as if nothing had happened: everything else arrives.
    rig.clock.sleep_until_time(rig.begin + 21 * SECOND).await;
    rig.until("all else is there", async || {
        let world = rig.world();
        ids(&rig).await.len() == world.iter().filter(|entry| entry.segment_id != id).count()
    })
    .await;
    rig.audit_passes().await;
}

/// A world of these segments alone, each with a record and a transcript, all of them in the archive.
async fn scripted(place: Place, segments: &[(&str, &str, &str)]) -> Rig {
    let mut rig = Rig::new(place, Plan::history().transcripts_only().sim(|sim| sim.traffic.per_minute = 0.0)).await;
    let end = rig.begin - 5 * SECOND;
    for (id, fields, transcript) in segments {
        let ended = end.rfc3339();
        let raw = format!(
            r#"{{"segmentId":"{id}","dialogId":"d-{id}","segmentEndTimeMs":"{ended}","segmentType":"AGENT","hasTranscript":true{fields}}}"#
        );
        rig.sim.add_segment(SegmentScript {
            segment_id: Some((*id).to_owned()),
            dialog_id: Some(format!("d-{id}")),
            raw_record: Some(raw),
            transcript: Script::Body(end, Bytes::from((*transcript).to_owned())),
            ..SegmentScript::new(&rig.main_account(), end)
        });
    }
    rig.start();
    rig.until("all of it is there", async || {
        let lines = rig.run(&["export"]).await.out;
        lines.matches(r#""outcome":"stored""#).count() == segments.len()
    })
    .await;
    rig
}

async fn a_person_is_found_in_what_really_comes(place: Place) {
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
    let rig = scripted(place, &segments).await;
    let agent = rig.run(&["hold", "--contact", "agent smith"]).await;
    agent.is(
        0,
        &["placed hold 1", "it keeps 0 segments now", "warning: hold 1 keeps nothing yet", "agents are not contacts"],
    );
    rig.run(&["hold", "--segment", "nobody"])
        .await
        .is(0, &["warning: hold 2 keeps nothing yet", "nothing of this segment"]);
    let cut = rig.run(&["hold", "--contact", "tel:030-123456"]).await;
    cut.is(0, &["placed hold 3", "it keeps 1 segment now"]);
    assert!(!cut.text().contains("warning"), "{}", cut.text());
    let listed = rig.output(&["hold", "--list", "--json"]).await;
    let counts: Vec<Value> = listed
        .lines()
        .map(|line| ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segments"].clone())
        .collect();
    assert_eq!(counts, [0, 0, 1]);
    rig.run(&["hold", "--list"]).await.is(0, &["nothing yet", "1 segment", "warning: hold 2"]);
    rig.run(&["erase", "--yes", "--contact", "\u{202a}+49\u{a0}30 123456\u{202c}"]).await.is(1, &["kept by hold 3"]);
    rig.run(&["hold", "--release", "3"]).await.is(0, &["released hold 3"]);
    let nobody = rig.run(&["erase", "--yes", "--contact", "Agent Smith"]).await;
    nobody.is(1, &["holds nothing of this contact", "agents are not contacts"]);
    rig.run(&["erase", "--dry-run", "--contact", "sip:+12013770791@pbx"]).await.is(0, &["to erase: 1 segment", "out"]);
    let alike = rig.run(&["erase", "--yes", "--contact", "+1 (731) 206-6731"]).await;
    alike.is(1, &["possibly meant: 1 segment", "  short of account", "erased for good: 1 segment"]);
    rig.run(&["erase", "--yes", "--contact", "+17312066731"]).await.is(1, &["nothing was erased", "--include-alike"]);
    assert_eq!(ids(&rig).await, ["cut", "short"]);
    rig.run(&["erase", "--yes", "--contact", "+17312066731", "--include-alike"])
        .await
        .is(0, &["erased for good: 1 segment"]);
    // What is damaged beyond reading: named, and left without a word to take it too.
    let db = open(&rig.place).await;
    let damage = sql("update artifact set codec = 0, body = $1");
    db.run(damage.bind(b"oops".to_vec())).await.unwrap();
    db.close().await;
    let damaged = rig.run(&["erase", "--yes", "--contact", "jane roe"]).await;
    damaged.is(1, &["possibly meant: 1 segment", "  cut of account", "cannot be read", "nothing was erased"]);
    rig.run(&["hold", "--contact", "jane roe"])
        .await
        .is(0, &["it keeps 1 segment (1 of them to be safe", "cannot be read", "  cut of account"]);
    rig.run(&["erase", "--yes", "--include-unreadable", "--contact", "joe"])
        .await
        .is(1, &["on hold: 1 piece", "may be of a contact on hold:\n  cut of account"]);
    rig.run(&["hold", "--release", "4"]).await.is(0, &[]);
    rig.run(&["hold", "--release", "1"]).await.is(0, &[]);
    rig.run(&["erase", "--yes", "--include-unreadable", "--contact", "joe"])
        .await
        .is(0, &["erased for good: 1 segment"]);
    assert_eq!(ids(&rig).await, Vec::<String>::new());
}

async fn open(place: &Place) -> Db {
    match place.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), Access::Existing).await.unwrap(),
        None => Db::open_postgres(&place.url.clone().into(), Access::Existing, 2).await.unwrap(),
    }
}

async fn without_a_terminal_nothing_is_erased_but_with_yes(place: Place) {
    let ends = r#","contactEndpointAddress":"+17312066731""#;
    let mut rig = scripted(place, &[("one", ends, "{\"transcript\":[{\"message\":\"hm\"}]}")]).await;
    for answer in ["n", "y", ""] {
        rig.start_by(&["sh", "-c", &format!(r#"echo {answer} | "$0" "$@""#)]);
        for about in [["--contact", "+17312066731"], ["--segment", "one"], ["--segment", "none"]] {
            rig.run(&["erase", about[0], about[1]]).await.is(2, &["nothing was erased", "hint: --dry-run", "--yes"]);
        }
        rig.run(&["erase", "--segment", "one", "--dry-run"]).await.is(0, &["to erase: 1 segment"]);
        assert_eq!(ids(&rig).await, ["one"]);
    }
    rig.start_by(&[]);
    rig.run(&["erase", "--segment", "one", "--yes"]).await.is(0, &["erased for good"]);
    rig.run(&["erase", "--contact", "\u{200e} \u{202c}", "--yes"]).await.is(2, &["--contact is empty"]);
}

/// The database and what lies beside it, as text.
fn files(rig: &Rig) -> String {
    let path = rig.place.url.strip_prefix("sqlite:").unwrap();
    ["", "-wal", "-shm"]
        .iter()
        .filter_map(|end| std::fs::read(format!("{path}{end}")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}
