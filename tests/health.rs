//! What is wrong is told alike by `/readyz`, the dashboard, `status`, the metrics and `audit`: through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use ringcx_extractor::account::metadata_budget_name;
use ringcx_extractor::clock::Clock;
use ringcx_extractor::db::{Access, Db, Refusal, sql};
use ringcx_extractor::health::Severity;
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::sim::{Faults, Options, Rates, SegmentScript, Sim, SimLimits, WrongDate};
use ringcx_extractor::{config, daemon, status};
use serde_json::Value;
use support::daemon::plan::strings;
use support::daemon::{Place, Plan, Rig};
use tokio_util::sync::CancellationToken;

e2e! {
    an_api_that_fails_is_trouble_and_unready_in_every_view_and_over_when_it_answers_again,
    a_record_set_aside_is_on_the_dashboard_and_in_status_as_it_is_in_the_audit,
    probes_that_find_nothing_new_are_no_progress,
    an_account_that_is_missing_is_missed_no_more_once_it_is_excluded,
    what_was_taken_out_of_the_database_is_trouble_as_it_is_in_the_audit,
    one_wrong_secret_is_one_finding,
    a_backfill_that_is_not_read_is_known_to_all_and_can_be_cancelled,
    a_wait_of_hours_is_shown_capped_and_lifted_by_a_command,
    metadata_that_is_refused_with_429_is_counted_and_shown,
}

const SECOND: Duration = Duration::from_secs(1);

/// A live world with the pages on.
fn plan() -> Plan {
    Plan::live(60 * SECOND).set("http.listen", "127.0.0.1:0")
}

fn codes(findings: &Value) -> BTreeSet<String> {
    let findings = findings.as_array().cloned().unwrap_or_default();
    findings.iter().map(|finding| finding["code"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn readyz(url: &str) -> (u16, Value) {
    let (status, body) = support::fetched(&format!("{url}readyz")).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn open(place: &Place) -> Db {
    match place.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(std::path::Path::new(path), Access::Own).await.unwrap(),
        None => Db::open_postgres(&place.url.clone().into(), Access::Own, 2).await.unwrap(),
    }
}

async fn an_api_that_fails_is_trouble_and_unready_in_every_view_and_over_when_it_answers_again(place: Place) {
    let rig = Rig::started(place, plan()).await;
    let url = rig.dashboard().await;
    rig.until("it is read", async || rig.sim.stats().ok(Endpoint::Metadata) > 1).await;
    rig.until("it is ready", async || readyz(&url).await.0 == 200).await;
    let down = Rates { status_500: 1.0, ..Rates::default() };
    rig.sim.set_faults(Faults { metadata: down, transcript: down, summary: down, ..Faults::default() });
    const CODE: &str = "no_metadata_read";
    rig.until("it is unready and says why", async || {
        let (status, body) = readyz(&url).await;
        let reasons = body["reasons"].as_array().unwrap();
        status == 503 && reasons.iter().any(|one| one["code"] == CODE && one["severity"] == "trouble")
    })
    .await;
    rig.until("status says so", async || {
        let status = rig.json(&["status", "--json"]).await;
        codes(&status["findings"]).contains(CODE) && status["findings"][0]["severity"] == "trouble"
    })
    .await;
    assert!(rig.output(&["status"]).await.contains("trouble: no metadata of 1 account was read for "));
    assert!(codes(&rig.audit().await.0["findings"]).contains(CODE));
    let (page, metrics) = (support::fetched(&url).await.1, support::fetched(&format!("{url}metrics")).await.1);
    assert!(page.contains("In trouble") && page.contains("no metadata of 1 account was read for "), "{page}");
    assert!(metrics.contains(&format!("\nringcx_finding{{code=\"{CODE}\"}} 1")), "{metrics}");
    rig.sim.set_faults(Faults::default());
    rig.until("it is ready again", async || readyz(&url).await.0 == 200).await;
}

async fn a_record_set_aside_is_on_the_dashboard_and_in_status_as_it_is_in_the_audit(place: Place) {
    let mut rig = Rig::new(place, plan()).await;
    let end = rig.begin - 10 * SECOND;
    let broken = SegmentScript::new(&rig.main_account(), end);
    rig.sim.add_segment(SegmentScript { malformed_record: Some("[1,2]".into()), ..broken });
    rig.start();
    let url = rig.dashboard().await;
    rig.until("the audit tells of it", async || {
        let (audit, status) = rig.audit().await;
        status == 1 && audit["problems"].as_array().unwrap().iter().any(|problem| problem["kind"] == "set_aside")
    })
    .await;
    rig.until("so does status", async || {
        codes(&rig.json(&["status", "--json"]).await["findings"]).contains("records_set_aside")
    })
    .await;
    assert_eq!(rig.account().await["set_aside"], 1);
    rig.until("so does the dashboard", async || {
        let page = support::fetched(&url).await.1;
        page.contains("metadata record was set aside") && !page.contains("<strong>Healthy</strong>")
    })
    .await;
    let (status, body) = readyz(&url).await;
    assert!(status == 200 && codes(&body["reasons"]).contains("records_set_aside"), "{body}");
}

/// A daemon in this process, whose clock runs fast: ten minutes have to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transcripts_that_all_break_off_are_trouble_and_over_when_one_can_be_used() {
    let clock = Clock::accelerated(60.0, Clock::system().now());
    let plan = Plan::history().transcripts_only().set("fetch.retry_initial", "20s").set("fetch.retry_max", "1m");
    let plan = plan.set("discovery.interval", "1m").set("discovery.rechecks", strings(&[]));
    // Of this one only its settings are used.
    let rig = Rig::new(Place::sqlite(), plan).await;
    let world = Options { begin: Some(clock.now()), ..rig.plan.sim.clone() };
    let sim = Sim::start(world, clock.clone()).await.unwrap();
    let broken = Rates { truncate: 1.0, ..Rates::default() };
    sim.set_faults(Faults { transcript: broken, ..Faults::default() });
    let host = |host| (format!("RINGCX__API__{host}_URL"), sim.base_url());
    let settings = config::load(Some(&rig.config()), ["PLATFORM", "RINGCX", "SUMMARY"].map(host)).unwrap().settings;
    let (stop, db) = (CancellationToken::new(), open(&rig.place).await);
    let watched = async {
        let deadline = clock.tick() + 3600 * SECOND;
        let mut seen = false;
        loop {
            let status = status::gather(&db, &settings, "e2e", None, clock.now()).await.unwrap();
            let found = status.findings.iter().find(|finding| finding.code == "answers_broken");
            match found {
                Some(found) if !seen => {
                    assert!(found.blocks_progress && found.severity == Severity::Trouble, "{found:?}");
                    assert!(found.sentence.ends_with("they break off"), "{found:?}");
                    sim.set_faults(Faults::default());
                    seen = true;
                }
                None if seen => return stop.cancel(),
                _ => assert!(clock.tick() < deadline, "{status:?}"),
            }
            clock.sleep(5 * SECOND).await;
        }
    };
    let (ended, ()) = tokio::join!(daemon::run(settings.clone(), clock.clone(), stop.clone()), watched);
    ended.unwrap();
    db.close().await;
    sim.stop().await;
}

async fn an_account_that_is_missing_is_missed_no_more_once_it_is_excluded(place: Place) {
    let (first, second) = (AccountId::new("980634004", "11"), AccountId::new("980634004", "22"));
    let plan = plan().unset("accounts").set("discover_accounts.interval", "1s").sim(|sim| {
        sim.accounts = vec![first, second.clone()];
    });
    let mut rig = Rig::started(place, plan).await;
    rig.says("working").await;
    let status = async || rig.json(&["status", "--json"]).await;
    rig.until("both are known", async || status().await["accounts"].as_array().is_some_and(|all| all.len() == 2)).await;
    rig.sim.control().hide_account(&second);
    rig.until("it is missing", async || codes(&status().await["findings"]).contains("account_missing")).await;
    rig.stop().await;
    rig.set("discover_accounts.exclude", strings(&["22"]));
    rig.start();
    let found = async || rig.json(&["status", "--json"]).await;
    rig.until("it is not missed any more", async || {
        let status = found().await;
        let excluded = status["accounts"].as_array().unwrap().iter().find(|one| one["sub_account_id"] == "22").unwrap();
        excluded["missing_since"].is_null() && codes(&status["findings"]).contains("account_left_out")
    })
    .await;
    assert!(!codes(&found().await["findings"]).contains("account_missing"));
}

/// Its `Date` is behind, so that no window is past: one is read an interval, to learn what time it is.
async fn probes_that_find_nothing_new_are_no_progress(place: Place) {
    let rig = Rig::started(place, plan().set("discovery.rechecks", strings(&[]))).await;
    let url = rig.dashboard().await;
    rig.until("it is ready", async || readyz(&url).await.0 == 200 && rig.account().await["watermark"].is_string())
        .await;
    let now = rig.clock.now();
    rig.sim.control().wrong_date(now, now + 120 * SECOND, WrongDate::Off(-600_000));
    rig.until("it is unready and says why", async || {
        let (status, body) = readyz(&url).await;
        status == 503 && codes(&body["reasons"]).contains("no_metadata_read")
    })
    .await;
    let read = rig.sim.stats().ok(Endpoint::Metadata);
    rig.until("it goes on asking", async || rig.sim.stats().ok(Endpoint::Metadata) > read).await;
}

async fn what_was_taken_out_of_the_database_is_trouble_as_it_is_in_the_audit(place: Place) {
    let mut rig = Rig::started(place, Plan::history()).await;
    rig.complete().await;
    rig.stop().await;
    rig.set("http.listen", "127.0.0.1:0");
    let db = open(&rig.place).await;
    db.run(sql("delete from artifact where item = (select min(item) from artifact)")).await.unwrap();
    db.close().await;
    rig.start();
    let url = rig.dashboard().await;
    const CODE: &str = "ledger_differs";
    rig.until("readiness tells of it", async || codes(&readyz(&url).await.1["reasons"]).contains(CODE)).await;
    assert_eq!(rig.audit().await.1, 1);
    rig.until("so does status", async || codes(&rig.json(&["status", "--json"]).await["findings"]).contains(CODE))
        .await;
    let page = support::fetched(&url).await.1;
    assert!(page.contains("1 artifact unexplained") && !page.contains("<strong>Healthy</strong>"), "{page}");
}

async fn one_wrong_secret_is_one_finding(place: Place) {
    let rig = Rig::started(place, plan().set("auth.client_secret", "wrong")).await;
    let url = rig.dashboard().await;
    rig.until("the login is refused", async || {
        let (status, body) = readyz(&url).await;
        status == 503 && codes(&body["reasons"]).contains("login_refused")
    })
    .await;
    // Also when reads should have been made three times over.
    rig.clock.sleep(9 * SECOND).await;
    let (status, body) = readyz(&url).await;
    assert_eq!((status, body["reasons"].as_array().unwrap().len()), (503, 1), "{body}");
    let status = rig.json(&["status", "--json"]).await;
    assert_eq!(status["findings"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["findings"][0]["hint"], body["reasons"][0]["hint"]);
}

async fn a_backfill_that_is_not_read_is_known_to_all_and_can_be_cancelled(place: Place) {
    let mut rig = Rig::started(place, Plan::history()).await;
    rig.settled().await;
    rig.stop().await;
    rig.output(&["backfill", "--from", "3d", "--to", "1d"]).await;
    let audit = rig.run(&["audit"]).await;
    assert_eq!(audit.status, 1, "{}", audit.text());
    assert!(audit.out.starts_with("NOT complete: 1 unfinished backfill\n"), "{}", audit.out);
    let status = rig.json(&["status", "--json"]).await;
    let backfill = &status["backfills"][0];
    assert!(backfill["seconds"].as_u64() >= Some(172_800) && backfill["read_seconds"] == 0, "{status}");
    assert!(
        codes(&status["findings"]).contains("backfill_unfinished") && backfill["left_seconds"].is_u64(),
        "{status}"
    );
    let listed = rig.json(&["backfill", "list", "--json"]).await;
    assert_eq!(listed, *backfill);
    let id = backfill["id"].to_string();
    rig.output(&["backfill", "cancel", &id]).await;
    assert_eq!(rig.run(&["backfill", "cancel", &id]).await.status, 1, "there is none any more");
    assert_eq!(rig.output(&["backfill", "list"]).await, "no backfill is open\n");
    rig.output(&["audit"]).await;
}

/// As an earlier version left it that believed a server which asked for 16 hours.
async fn a_wait_of_hours_is_shown_capped_and_lifted_by_a_command(place: Place) {
    let mut rig = Rig::started(place, plan()).await;
    rig.until("it is read", async || rig.account().await["watermark"].is_string()).await;
    rig.stop().await;
    let (account, now) = (rig.main_account(), rig.clock.now());
    let db = open(&rig.place).await;
    let refusal = Refusal { at: now, until: now + 60_000 * SECOND, times: 1, share: 1_000_000 };
    db.keep_refusal(&metadata_budget_name(&account.sub), &refusal, now).await.unwrap();
    db.close().await;
    rig.start();
    rig.until("it works", async || rig.account().await["owner"].is_string()).await;
    let read = rig.sim.stats().ok(Endpoint::Metadata);
    let status = rig.json(&["status", "--json"]).await;
    let waits = status["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "rate_limited");
    let sentence = waits.unwrap_or_else(|| panic!("{status}"))["sentence"].as_str().unwrap();
    let until = ringcx_extractor::clock::Time::parse(sentence.rsplit(' ').next().unwrap()).unwrap();
    assert!(until <= rig.clock.now() + 3601 * SECOND, "an hour at the most: {sentence}");
    rig.clock.sleep(2 * SECOND).await;
    assert_eq!(rig.sim.stats().ok(Endpoint::Metadata), read, "it waits");
    rig.output(&["resume"]).await;
    rig.until("it reads again", async || rig.sim.stats().ok(Endpoint::Metadata) > read).await;
    let findings = rig.json(&["status", "--json"]).await["findings"].clone();
    assert!(!codes(&findings).contains("rate_limited"), "{findings}");
}

async fn metadata_that_is_refused_with_429_is_counted_and_shown(place: Place) {
    let limits = SimLimits { metadata_per_minute: 3, ..SimLimits::lifted() };
    let rig = Rig::started(place, plan().sim(|sim| sim.limits = limits)).await;
    let url = rig.dashboard().await;
    rig.until("it is shown", async || {
        let status = rig.json(&["status", "--json"]).await;
        codes(&status["findings"]).contains("rate_limited") && status["accounts"][0]["refused"] == 1
    })
    .await;
    let metrics = support::fetched(&format!("{url}metrics")).await.1;
    let counted = format!("\nringcx_refused_total{{sub_account=\"{}\"}} 1\n", rig.main_account().sub);
    assert!(metrics.contains(&counted), "{metrics}");
}
