//! Metadata windows: their edges, and what is refused.

use super::*;

#[tokio::test]
async fn the_edges_of_a_window_are_read_as_the_options_say() {
    let cases = [
        (Edges::Exclusive, vec!["in"]),
        (Edges::Inclusive, vec!["at end", "at start", "in"]),
        (Edges::StartOnly, vec!["at start", "in"]),
        (Edges::EndOnly, vec!["at end", "in"]),
    ];
    for (edges, expected) in cases {
        let mut options = easy();
        options.traffic.per_minute = 0.0;
        options.windows.edges = edges;
        let rig = Rig::start(options).await;
        let start = TEN - Duration::from_secs(1000);
        let places = [("before", -1), ("at start", 0), ("in", 1), ("at end", 60_000), ("after", 60_001)];
        for (name, millis) in places {
            rig.sim.add_segment(SegmentScript {
                segment_id: Some(name.into()),
                ..SegmentScript::new(&rig.account, start.plus_millis(millis))
            });
        }
        let records = rig.metadata(start, 60).await.records();
        let mut found: Vec<&str> = records.iter().map(|record| record["segmentId"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{edges:?}");
    }
}

#[tokio::test]
async fn a_window_may_end_five_minutes_ago_and_not_a_second_later() {
    let rig = Rig::start(easy()).await;
    assert_eq!(rig.metadata(TEN - Duration::from_secs(360), 60).await.status, 200);
    rig.assert_no_violations();
    assert_eq!(rig.metadata(TEN - Duration::from_secs(360), 61).await.status, 400);
    rig.assert_violation("the window ends 1s later than 300s before now");
    rig.sim.control().set_skew(1000);
    assert_eq!(rig.metadata(TEN - Duration::from_secs(360), 61).await.status, 200, "by the server's clock");
}

#[tokio::test]
async fn whatever_is_asked_in_another_form_is_refused() {
    let rig = Rig::start(easy()).await;
    let good = serde_json::json!({
        "segmentEndTime": "2026-11-20 09:00:00", "timeInterval": 3600, "timeZone": "UTC",
    });
    let cases = [
        ("timeInterval", Value::from(0), "timeInterval 0"),
        ("timeInterval", Value::from(3601), "timeInterval 3601"),
        ("timeInterval", Value::from("60"), "expected i64"),
        ("segmentEndTime", Value::from("2026-11-20T09:00:00Z"), "segmentEndTime"),
        ("segmentEndTime", Value::from("2026-11-20 09:00:00.5"), "segmentEndTime"),
        ("timeZone", Value::from("Europe/Berlin"), "timeZone \"Europe/Berlin\""),
        ("page", Value::from(1), "unknown field"),
    ];
    for (field, value, why) in cases {
        let mut ask = good.clone();
        ask["timeInterval"] = 60.into();
        ask[field] = value;
        assert_eq!(rig.send(rig.metadata_request(&ask)).await.status, 400, "{ask}");
        rig.assert_violation(why);
    }
    assert_eq!(rig.sim.stats().violation_count, 7);
}

#[tokio::test]
async fn what_nobody_can_know_of_is_not_found_and_a_breach() {
    let rig = Rig::start(easy()).await;
    let real = rig.hour().into_iter().find(|entry| entry.has_transcript).unwrap();
    let unknown = LedgerEntry { segment_id: "p-v-0-1795168000000-0".into(), ..real.clone() };
    assert_eq!(rig.item(&unknown, Artifact::Transcript).await.status, 404);
    rig.assert_violation("no such segment");
    let soon = SegmentScript { appears: TEN + Duration::from_secs(1), ..SegmentScript::new(&rig.account, TEN) };
    let unheard = LedgerEntry { segment_id: rig.sim.add_segment(soon), ..real.clone() };
    assert_eq!(rig.item(&unheard, Artifact::AutoSummary).await.status, 404);
    rig.assert_violation("auto_summary: no such segment");
    let elsewhere = LedgerEntry { dialog_id: Some("another".into()), ..real.clone() };
    assert_eq!(rig.item(&elsewhere, Artifact::Transcript).await.status, 404);
    rig.assert_violation("is not of dialog another");
    let path = "/voice/api/v1/summary/accounts/404/segments/x/agent";
    assert_eq!(rig.send(rig.request(Method::GET, path)).await.status, 404);
    rig.assert_violation("no such account");
    assert_eq!(rig.send(rig.request(Method::DELETE, path)).await.status, 404);
    rig.assert_violation("no such endpoint: DELETE");
}
