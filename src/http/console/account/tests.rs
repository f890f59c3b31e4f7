use super::*;
use crate::health::CoverageGap;
use crate::http::fixtures::{NOW, account};

fn gap(hours_ago: u64, hours: u64) -> CoverageGap {
    let from = NOW - Duration::from_secs(hours_ago * 3600);
    let seconds = hours * 3600;
    CoverageGap { from, to: from + Duration::from_secs(seconds), seconds }
}

#[test]
fn gaps_are_read_newest_first_and_wait_for_the_newer_ones() {
    let mut status = account("one");
    status.gaps = vec![gap(50, 2), gap(10, 1)];
    let shown = gaps(&status, None, |ranges| Duration::from_secs(60 * ranges.len() as u64));
    let etas: Vec<_> = shown.iter().map(|gap| (gap.seconds, gap.eta_seconds)).collect();
    assert_eq!(etas, [(3600, Some(60)), (7200, Some(120))]);
    status.gaps = vec![gap(10, 1); MAX_LISTED_GAPS + 9];
    assert_eq!(gaps(&status, None, |_| Duration::ZERO).len(), MAX_LISTED_GAPS);
}

#[test]
fn a_gap_names_the_pause_or_the_missing_daemon_and_then_has_no_end() {
    let mut status = account("one");
    status.gaps = vec![gap(10, 1)];
    status.paused = vec![EndpointPause {
        endpoint: Endpoint::Metadata,
        since: NOW - Duration::from_secs(12 * 3600),
        until: NOW,
        reason: "403 access.denied".to_owned(),
        status: Some(403),
        is_login_failure: false,
    }];
    let shown = gaps(&status, None, |_| Duration::ZERO);
    assert_eq!((shown[0].reason.as_str(), shown[0].eta_seconds), ("metadata is paused: 403 access.denied", None));
    status.paused.clear();
    status.owner = None;
    let shown = gaps(&status, None, |_| Duration::ZERO);
    assert_eq!((shown[0].reason.as_str(), shown[0].eta_seconds), ("no daemon works on this account", None));
}

#[test]
fn lateness_is_shown_as_two_quantiles_of_each_kind() {
    let row = |kind: &str, bucket, count| (kind.to_owned(), bucket, count);
    let lines = lateness_lines(&[row("appear", 0, 60), row("appear", 5, 30), row("appear", 9, 10), row("other", 1, 1)]);
    let expected =
        LatenessLine { kind: "appear".to_owned(), segments: 100, half_within_seconds: 2, most_within_seconds: 1024 };
    assert_eq!(lines, [expected]);
}
