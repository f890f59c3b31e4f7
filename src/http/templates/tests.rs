use std::time::Duration;

use super::super::fixtures::{NOW, account, snapshot, view};
use super::*;
use crate::db::{AccountKey, FailureRow};
use crate::health::{AccountStatus, EndpointPause, Finding, FindingCode, Severity};
use crate::model::{Artifact, Endpoint};

/// A finding about an account.
fn finding(code: FindingCode, sentence: &str, account: &str) -> Finding {
    let found = Finding::new(code, Severity::Warning, NOW, sentence, "<i>do</i>");
    found.about_accounts("<u>who</u>".to_owned(), vec![account.to_owned()])
}

fn failure(reason: &str) -> FailureRow {
    FailureRow {
        artifact: Artifact::Transcript,
        reason: Some(reason.to_owned()),
        account: AccountKey(1),
        accounts: 1,
        items: 1,
    }
}

fn render(snapshot: Option<&StatusSnapshot>, findings: Vec<Finding>) -> String {
    render_dashboard(&view(snapshot, findings), 7)
}

const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

#[test]
fn external_text_is_escaped() {
    let paused = EndpointPause {
        endpoint: Endpoint::Transcript,
        since: NOW,
        until: NOW,
        reason: HOSTILE.to_owned(),
        status: Some(403),
        is_login_failure: false,
    };
    let hostile_account = AccountStatus {
        name: Some(HOSTILE.into()),
        sub_account_id: HOSTILE.into(),
        paused: vec![paused],
        ..account("x")
    };
    let mut snapshot = snapshot(vec![hostile_account]);
    snapshot.failures = vec![(HOSTILE.into(), failure(HOSTILE))];
    let page = render(Some(&snapshot), vec![finding(FindingCode::Other(HOSTILE.to_owned()), HOSTILE, HOSTILE)]);
    assert_eq!(page.matches("<script").count(), 1, "only the page's own");
    assert_eq!(page.matches("</script").count(), 1);
    assert!(["<img", "<i>", "<u>", "<b>"].iter().all(|markup| !page.contains(markup)));
    assert!(!page.contains("\" autofocus"));
    assert!(page.contains("&lt;/script&gt;"));
}

#[test]
fn the_policy_allows_only_the_pages_own_style_and_script() {
    let page = render(None, Vec::new());
    let within = |open: &str, close: &str| {
        let from = page.find(open).unwrap() + open.len();
        page[from..from + page[from..].find(close).unwrap()].to_owned()
    };
    for text in [within("<style>", "</style>"), within("<script>", "</script>")] {
        let hash = STANDARD.encode(Sha256::digest(text.as_bytes()));
        assert!(dashboard_policy().contains(&format!("'sha256-{hash}'")));
    }
    assert!(!dashboard_policy().contains("unsafe"));
    assert!(!page.contains(" style=") && !page.contains(" onclick="), "the policy allows neither");
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let page = render(Some(&snapshot(vec![account("one")])), vec![finding(FindingCode::Lagging, "x", "one")]);
    for (at, _) in page.match_indices("http") {
        let rest = &page[at..(at + 30).min(page.len())];
        assert!(rest.starts_with("http-equiv") || rest.starts_with("http://www.w3.org/2000/svg"), "{rest}");
    }
}

#[test]
fn accounts_that_need_attention_come_first_then_those_that_are_behind() {
    let mut late = account("c-late");
    late.watermark = Some(NOW - Duration::from_secs(800));
    let mut failed = account("d-failed");
    failed.work.failed = 1;
    let wrong = vec![finding(FindingCode::ItemsFailed, "x", "d-failed")];
    let page = render(Some(&snapshot(vec![account("a"), account("b"), late, failed])), wrong);
    let at = |sub: &str| page.find(&format!("data-key=\"{sub}\"")).unwrap();
    assert!(at("d-failed") < at("c-late") && at("c-late") < at("a") && at("a") < at("b"));
}

#[test]
fn a_page_without_a_snapshot_says_so() {
    assert!(render(None, Vec::new()).contains("the database has not answered since the daemon started"));
}

#[test]
fn the_accounts_stand_above_failures_and_sinks_and_are_counted_by_level() {
    let mut failed = account("two");
    failed.work.failed = 1;
    let mut snapshot = snapshot(vec![account("one"), failed, account("three")]);
    snapshot.failures = vec![("two".into(), failure("400"))];
    let page = render(Some(&snapshot), vec![finding(FindingCode::ItemsFailed, "x", "two")]);
    let at = |part: &str| page.find(part).unwrap_or_else(|| panic!("no {part}"));
    assert!(at("id=\"health\"") < at("data-key=\"two\"") && at("data-key=\"one\"") < at("id=\"failures\""));
    assert!(page.contains("<small>1 incomplete, 2 healthy</small>"));
    let button =
        |state: &str| page[at(&format!("data-state=\"{state}\""))..].split("</button>").next().unwrap().to_owned();
    assert!(
        button("all").ends_with("All <span class=\"count\">3</span>")
            && button("incomplete").ends_with("Incomplete <span class=\"count\">1</span>")
    );
    assert!(button("trouble").contains(" hidden") && !button("healthy").contains(" hidden"));
}
