//! Metadata windows: edges and refusals.

use super::*;

#[tokio::test]
async fn the_edges_of_a_window_follow_the_options() {
    let cases = [
        (WindowEdges::Exclusive, vec!["in"]),
        (WindowEdges::Inclusive, vec!["at end", "at start", "in"]),
        (WindowEdges::StartOnly, vec!["at start", "in"]),
        (WindowEdges::EndOnly, vec!["at end", "in"]),
    ];
    for (edges, expected) in cases {
        let mut options = unlimited_options();
        options.traffic.per_minute = 0.0;
        options.windows.edges = edges;
        let env = SimTestEnv::start(options).await;
        let start = START - Duration::from_secs(1000);
        let places = [("before", -1), ("at start", 0), ("in", 1), ("at end", 60_000), ("after", 60_001)];
        for (name, millis) in places {
            env.sim.add_segment(SegmentScript {
                segment_id: Some(name.into()),
                ..SegmentScript::new(&env.account, start.plus_millis(millis))
            });
        }
        let records = env.metadata(start, 60).await.records();
        let mut found: Vec<&str> = records.iter().map(|record| record["segmentId"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{edges:?}");
    }
}

#[tokio::test]
async fn a_window_may_end_five_minutes_ago_and_not_a_second_later() {
    let env = SimTestEnv::start(unlimited_options()).await;
    assert_eq!(env.metadata(START - Duration::from_secs(360), 60).await.status, 200);
    env.assert_no_violations();
    assert_eq!(env.metadata(START - Duration::from_secs(360), 61).await.status, 400);
    env.assert_violation("the window ends 1s later than 300s before now");
    env.sim.control().set_skew(1000);
    assert_eq!(env.metadata(START - Duration::from_secs(360), 61).await.status, 200, "by the server's clock");
}

#[tokio::test]
async fn requests_in_another_form_are_refused() {
    let env = SimTestEnv::start(unlimited_options()).await;
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
        let mut query = good.clone();
        query["timeInterval"] = 60.into();
        query[field] = value;
        assert_eq!(env.send(env.metadata_request(&query)).await.status, 400, "{query}");
        env.assert_violation(why);
    }
    assert_eq!(env.sim.stats().violation_count, 7);
}

#[tokio::test]
async fn requests_for_unknown_resources_are_404_and_violations() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let real = env.last_hour().into_iter().find(|entry| entry.has_transcript).unwrap();
    let unknown = ExpectedSegment { segment_id: "p-v-0-1795168000000-0".into(), ..real.clone() };
    assert_eq!(env.fetch_artifact(&unknown, Artifact::Transcript).await.status, 404);
    env.assert_violation("no such segment");
    let future_segment =
        SegmentScript { appears: START + Duration::from_secs(1), ..SegmentScript::new(&env.account, START) };
    let unannounced = ExpectedSegment { segment_id: env.sim.add_segment(future_segment), ..real.clone() };
    assert_eq!(env.fetch_artifact(&unannounced, Artifact::AutoSummary).await.status, 404);
    env.assert_violation("auto_summary: no such segment");
    let elsewhere = ExpectedSegment { dialog_id: Some("another".into()), ..real.clone() };
    assert_eq!(env.fetch_artifact(&elsewhere, Artifact::Transcript).await.status, 404);
    env.assert_violation("is not of dialog another");
    let path = "/voice/api/v1/summary/accounts/404/segments/x/agent";
    assert_eq!(env.send(env.request(Method::GET, path)).await.status, 404);
    env.assert_violation("no such account");
    assert_eq!(env.send(env.request(Method::DELETE, path)).await.status, 404);
    env.assert_violation("no such endpoint: DELETE");
}
