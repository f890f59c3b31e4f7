use std::collections::BTreeSet;

use super::*;
use crate::clock::Time;
use crate::health::WorkCounts;

fn snapshot() -> MetricsSnapshot {
    let account = AccountMetrics {
        sub: "9\"9\n\\{}".to_owned(),
        watermark: Some(Time(1_800_000_000_000)),
        work: WorkCounts { ready: 1, waiting: 2, running: 3, done: 4, unavailable: 5, failed: 6, discarded: 7 },
        requests_last_minute: 118,
        request_limit: 120,
        refused: 7,
        paused: vec![Endpoint::Metadata],
        oldest_unfinished_seconds: 41,
        gaps_seconds: 600,
        drain_seconds: 3,
        set_aside: 8,
        missing: true,
        backfills: 1,
        backfill_unread_seconds: 3600,
    };
    MetricsSnapshot {
        now: Time(1_800_000_300_000),
        database_up: true,
        index_lag: Some((12, 90)),
        wal_bytes: Some(4096),
        accounts: vec![account],
        sinks: vec![SinkMetrics { name: "lake".to_owned(), pending: 3, failed: 1, ..SinkMetrics::default() }],
        lateness: vec![
            ("appear".to_owned(), 9, 4),
            ("appear".to_owned(), 40, 1),
            ("flip".to_owned(), 0, 2),
            ("fresh_transcript".to_owned(), 3, 9),
        ],
        findings: ["lagging", "sink_resting", "sink_resting"].map(str::to_owned).to_vec(),
        ..MetricsSnapshot::default()
    }
}

fn page(format: MetricsFormat) -> String {
    let metrics = Metrics::new();
    metrics.on_request(Endpoint::Transcript, Ok(200), Duration::from_millis(120));
    metrics.on_request(Endpoint::Transcript, Ok(404), Duration::from_millis(80));
    metrics.on_request(Endpoint::Login, Err(ErrorCause::TimedOut), Duration::from_secs(30));
    metrics.on_request(Endpoint::Login, Err(ErrorCause::UntrustedCertificate), Duration::from_millis(3));
    metrics.render(&snapshot(), format).unwrap()
}

/// The names of the metric families, from their samples.
fn sample_names(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    names
        .map(|name| ["_bucket", "_sum", "_count"].iter().fold(name, |name, end| name.trim_end_matches(end)).to_owned())
        .collect()
}

#[test]
fn every_metric_has_help_a_type_and_our_prefix() {
    for format in [MetricsFormat::OpenMetrics, MetricsFormat::Text] {
        let page = page(format);
        for name in sample_names(&page) {
            let family = if format == MetricsFormat::Text { name.as_str() } else { name.trim_end_matches("_total") };
            assert!(name.starts_with("ringcx_"), "{name}");
            assert!(page.contains(&format!("# HELP {family} ")), "{name} has no help:\n{page}");
            assert!(page.contains(&format!("# TYPE {family} ")), "{name} has no type:\n{page}");
        }
        assert!(sample_names(&page).len() > 20, "{page}");
    }
}

#[test]
fn metrics_with_a_unit_have_its_suffix() {
    let page = page(MetricsFormat::OpenMetrics);
    for line in page.lines().filter_map(|line| line.strip_prefix("# UNIT ")) {
        let (name, unit) = line.split_once(' ').unwrap();
        assert!(["seconds", "bytes"].contains(&unit) && name.ends_with(&format!("_{unit}")), "{line}");
    }
    for name in sample_names(&page).iter().filter(|name| name.ends_with("_seconds")) {
        assert!(page.contains(&format!("# UNIT {name} seconds")), "{name}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn the_text_format_names_counters_with_total_and_has_no_units() {
    let page = page(MetricsFormat::Text);
    assert!(page.contains("# TYPE ringcx_requests_total counter\n"), "{page}");
    assert!(page.contains("# HELP ringcx_refused_total "));
    assert!(!page.contains("# UNIT") && !page.contains("# EOF"));
}

#[test]
fn requests_are_counted_by_endpoint_and_outcome() {
    let page = page(MetricsFormat::Text);
    assert!(page.contains("ringcx_requests_total{endpoint=\"transcript\",outcome=\"ok\"} 1\n"), "{page}");
    assert!(page.contains("ringcx_requests_total{endpoint=\"transcript\",outcome=\"not_found\"} 1\n"));
    assert!(page.contains("ringcx_requests_total{endpoint=\"login\",outcome=\"no_answer\"} 1\n"));
    assert!(page.contains("ringcx_requests_total{endpoint=\"login\",outcome=\"certificate\"} 1\n"));
    assert!(page.contains("ringcx_request_duration_seconds_count{endpoint=\"transcript\"} 2\n"));
}

#[test]
fn a_hostile_account_id_is_escaped_in_its_label() {
    let page = page(MetricsFormat::Text);
    let line = page.lines().find(|line| line.starts_with("ringcx_lag_seconds{")).unwrap();
    assert_eq!(line, r#"ringcx_lag_seconds{sub_account="9\"9\n\\{}"} 300.0"#);
}

#[test]
fn lateness_is_a_histogram_by_kind_and_counts_delays_beyond_the_last_bound() {
    let page = page(MetricsFormat::Text);
    let of = |rest: &str| {
        let line = page.lines().find(|line| line.starts_with(rest)).unwrap_or_else(|| panic!("no {rest}:\n{page}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(of("ringcx_lateness_seconds_bucket{le=\"512.0\",kind=\"appear\"}"), "0");
    assert_eq!(of("ringcx_lateness_seconds_bucket{le=\"1024.0\",kind=\"appear\"}"), "4");
    assert_eq!(of("ringcx_lateness_seconds_bucket{le=\"+Inf\",kind=\"appear\"}"), "5");
    assert_eq!(of("ringcx_lateness_seconds_count{kind=\"appear\"}"), "5");
    assert_eq!(of("ringcx_lateness_seconds_bucket{le=\"2.0\",kind=\"flip\"}"), "2");
}

#[test]
fn scrapers_that_ask_for_openmetrics_get_it() {
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1";
    assert_eq!(MetricsFormat::negotiate(Some(accept)), MetricsFormat::OpenMetrics);
    assert_eq!(MetricsFormat::negotiate(Some("*/*")), MetricsFormat::Text);
    assert_eq!(MetricsFormat::negotiate(None), MetricsFormat::Text);
}

#[test]
fn freshness_is_a_histogram_of_its_own_by_artifact() {
    let page = page(MetricsFormat::Text);
    assert!(page.contains("ringcx_freshness_seconds_bucket{le=\"8.0\",artifact=\"transcript\"} 0\n"), "{page}");
    assert!(page.contains("ringcx_freshness_seconds_bucket{le=\"16.0\",artifact=\"transcript\"} 9\n"));
    assert!(!page.contains("fresh_"));
}

#[test]
fn open_findings_are_counted_by_code_and_backfills_by_account() {
    let page = page(MetricsFormat::Text);
    assert!(page.contains("\nringcx_finding{code=\"lagging\"} 1.0\n"), "{page}");
    assert!(page.contains("\nringcx_finding{code=\"sink_resting\"} 2.0\n"), "{page}");
    for (name, value) in [("ringcx_backfills{", " 1.0"), ("ringcx_backfill_unread_seconds{", " 3600.0")] {
        assert!(page.lines().any(|line| line.starts_with(name) && line.ends_with(value)), "no {name}:\n{page}");
    }
}

#[test]
fn the_disk_the_records_set_aside_and_a_missing_account_have_gauges() {
    let page = page(MetricsFormat::Text);
    assert!(page.contains("\nringcx_disk_up 0.0\n"), "{page}");
    for name in ["ringcx_records_set_aside{", "ringcx_account_missing{"] {
        assert!(page.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0.0")), "no {name}:\n{page}");
    }
}
