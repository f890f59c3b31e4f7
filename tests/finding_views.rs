//! `/readyz`, the dashboard, `status`, the metrics and `audit` show the same findings: through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use ringcx_extractor::account::metadata_budget_name;
use ringcx_extractor::clock::Clock;
use ringcx_extractor::db::{Db, OpenMode, SavedThrottle, sql};
use ringcx_extractor::health::{FindingCode, Severity};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::sim::{FaultRates, Faults, Options, SegmentScript, Sim, SimLimits, WrongDate};
use ringcx_extractor::{config, daemon, status};
use serde_json::Value;
use support::test_env::scenario::strings;
use support::test_env::{Scenario, TempDatabase, TestEnv};
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

/// A live scenario with the HTTP server.
fn scenario() -> Scenario {
    Scenario::live(60 * SECOND).set("http.listen", "127.0.0.1:0")
}

fn finding_codes(findings: &Value) -> BTreeSet<String> {
    let findings = findings.as_array().cloned().unwrap_or_default();
    findings.iter().map(|finding| finding["code"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn get_readyz(url: &str) -> (u16, Value) {
    let (status, body) = support::http_get(&format!("{url}readyz")).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn open_database(database: &TempDatabase) -> Db {
    match database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(std::path::Path::new(path), OpenMode::CreateOrMigrate).await.unwrap(),
        None => Db::open_postgres(&database.url.clone().into(), OpenMode::CreateOrMigrate, 2).await.unwrap(),
    }
}

async fn an_api_that_fails_is_trouble_and_unready_in_every_view_and_over_when_it_answers_again(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, scenario()).await;
    let url = env.dashboard_url().await;
    env.wait_until("it is read", async || env.sim.stats().ok_count(Endpoint::Metadata) > 1).await;
    env.wait_until("it is ready", async || get_readyz(&url).await.0 == 200).await;
    let down = FaultRates { status_500: 1.0, ..FaultRates::default() };
    env.sim.set_faults(Faults { metadata: down, transcript: down, summary: down, ..Faults::default() });
    const CODE: &str = "no_metadata_read";
    env.wait_until("it is unready with the reason", async || {
        let (status, body) = get_readyz(&url).await;
        let reasons = body["reasons"].as_array().unwrap();
        status == 503 && reasons.iter().any(|one| one["code"] == CODE && one["severity"] == "trouble")
    })
    .await;
    env.wait_until("status shows the finding", async || {
        let status = env.run_json(&["status", "--json"]).await;
        finding_codes(&status["findings"]).contains(CODE) && status["findings"][0]["severity"] == "trouble"
    })
    .await;
    assert!(env.run_ok(&["status"]).await.contains("trouble: no metadata of 1 account was read for "));
    assert!(finding_codes(&env.audit_json().await.0["findings"]).contains(CODE));
    let (page, metrics) = (support::http_get(&url).await.1, support::http_get(&format!("{url}metrics")).await.1);
    assert!(page.contains("In trouble") && page.contains("no metadata of 1 account was read for "), "{page}");
    assert!(metrics.contains(&format!("\nringcx_finding{{code=\"{CODE}\"}} 1")), "{metrics}");
    env.sim.set_faults(Faults::default());
    env.wait_until("it is ready again", async || get_readyz(&url).await.0 == 200).await;
}

async fn a_record_set_aside_is_on_the_dashboard_and_in_status_as_it_is_in_the_audit(database: TempDatabase) {
    let mut env = TestEnv::new(database, scenario()).await;
    let end = env.begin - 10 * SECOND;
    let broken = SegmentScript::new(&env.main_account(), end);
    env.sim.add_segment(SegmentScript { malformed_record: Some("[1,2]".into()), ..broken });
    env.start();
    let url = env.dashboard_url().await;
    env.wait_until("the audit shows it", async || {
        let (audit, status) = env.audit_json().await;
        status == 1 && audit["problems"].as_array().unwrap().iter().any(|problem| problem["kind"] == "set_aside")
    })
    .await;
    env.wait_until("so does status", async || {
        finding_codes(&env.run_json(&["status", "--json"]).await["findings"]).contains("records_set_aside")
    })
    .await;
    assert_eq!(env.account_status().await["set_aside"], 1);
    env.wait_until("so does the dashboard", async || {
        let page = support::http_get(&url).await.1;
        page.contains("metadata record was set aside") && !page.contains("<strong>Healthy</strong>")
    })
    .await;
    let (status, body) = get_readyz(&url).await;
    assert!(status == 200 && finding_codes(&body["reasons"]).contains("records_set_aside"), "{body}");
}

/// Runs a daemon in this process with a fast clock, because ten minutes have to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transcripts_that_all_break_off_are_trouble_and_over_when_one_can_be_used() {
    let clock = Clock::accelerated(60.0, Clock::system().now());
    let scenario =
        Scenario::history().transcripts_only().set("fetch.retry_initial", "20s").set("fetch.retry_max", "1m");
    let scenario = scenario.set("discovery.interval", "1m").set("discovery.rechecks", strings(&[]));
    // Only the settings of this environment are used.
    let env = TestEnv::new(TempDatabase::sqlite(), scenario).await;
    let options = Options { begin: Some(clock.now()), ..env.scenario.sim.clone() };
    let sim = Sim::start(options, clock.clone()).await.unwrap();
    let broken = FaultRates { truncate: 1.0, ..FaultRates::default() };
    sim.set_faults(Faults { transcript: broken, ..Faults::default() });
    let host = |host| (format!("RINGCX__API__{host}_URL"), sim.base_url());
    let settings = config::load(Some(&env.config()), ["PLATFORM", "RINGCX", "SUMMARY"].map(host)).unwrap().settings;
    let (stop, db) = (CancellationToken::new(), open_database(&env.database).await);
    let wait_for_finding = async {
        let deadline = clock.tick() + 3600 * SECOND;
        let mut seen = false;
        loop {
            let status = status::gather(&db, &settings, "e2e", None, clock.now()).await.unwrap();
            let found = status.findings.iter().find(|finding| finding.code == FindingCode::AnswersBroken);
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
    let (result, ()) = tokio::join!(daemon::run(settings.clone(), clock.clone(), stop.clone()), wait_for_finding);
    result.unwrap();
    db.close().await;
    sim.stop().await;
}

async fn an_account_that_is_missing_is_missed_no_more_once_it_is_excluded(database: TempDatabase) {
    let (first, second) = (AccountId::new("980634004", "11"), AccountId::new("980634004", "22"));
    let scenario = scenario().unset("accounts").set("discover_accounts.interval", "1s").configure_sim(|sim| {
        sim.accounts = vec![first, second.clone()];
    });
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_log("working").await;
    let status = async || env.run_json(&["status", "--json"]).await;
    env.wait_until("both are known", async || status().await["accounts"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    env.sim.control().hide_account(&second);
    env.wait_until("it is missing", async || finding_codes(&status().await["findings"]).contains("account_missing"))
        .await;
    env.stop().await;
    env.set("discover_accounts.exclude", strings(&["22"]));
    env.start();
    let found = async || env.run_json(&["status", "--json"]).await;
    env.wait_until("it is not missed any more", async || {
        let status = found().await;
        let excluded = status["accounts"].as_array().unwrap().iter().find(|one| one["sub_account_id"] == "22").unwrap();
        excluded["missing_since"].is_null() && finding_codes(&status["findings"]).contains("account_left_out")
    })
    .await;
    assert!(!finding_codes(&found().await["findings"]).contains("account_missing"));
}

/// The API's `Date` is behind, so that no window is past: the daemon reads one window per interval to learn the time.
async fn probes_that_find_nothing_new_are_no_progress(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, scenario().set("discovery.rechecks", strings(&[]))).await;
    let url = env.dashboard_url().await;
    env.wait_until("it is ready", async || {
        get_readyz(&url).await.0 == 200 && env.account_status().await["watermark"].is_string()
    })
    .await;
    let now = env.clock.now();
    env.sim.control().add_wrong_date(now, now + 120 * SECOND, WrongDate::OffsetMs(-600_000));
    env.wait_until("it is unready with the reason", async || {
        let (status, body) = get_readyz(&url).await;
        status == 503 && finding_codes(&body["reasons"]).contains("no_metadata_read")
    })
    .await;
    let read = env.sim.stats().ok_count(Endpoint::Metadata);
    env.wait_until("it continues to read", async || env.sim.stats().ok_count(Endpoint::Metadata) > read).await;
}

async fn what_was_taken_out_of_the_database_is_trouble_as_it_is_in_the_audit(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.wait_until_complete().await;
    env.stop().await;
    env.set("http.listen", "127.0.0.1:0");
    let db = open_database(&env.database).await;
    db.run(sql("delete from artifact where item = (select min(item) from artifact)")).await.unwrap();
    db.close().await;
    env.start();
    let url = env.dashboard_url().await;
    const CODE: &str = "ledger_differs";
    env.wait_until("readyz shows it", async || finding_codes(&get_readyz(&url).await.1["reasons"]).contains(CODE))
        .await;
    assert_eq!(env.audit_json().await.1, 1);
    env.wait_until("so does status", async || {
        finding_codes(&env.run_json(&["status", "--json"]).await["findings"]).contains(CODE)
    })
    .await;
    let page = support::http_get(&url).await.1;
    assert!(page.contains("1 artifact unexplained") && !page.contains("<strong>Healthy</strong>"), "{page}");
}

async fn one_wrong_secret_is_one_finding(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, scenario().set("auth.client_secret", "wrong")).await;
    let url = env.dashboard_url().await;
    env.wait_until("the login is refused", async || {
        let (status, body) = get_readyz(&url).await;
        status == 503 && finding_codes(&body["reasons"]).contains("login_refused")
    })
    .await;
    // Also after three intervals without a read.
    env.clock.sleep(9 * SECOND).await;
    let (status, body) = get_readyz(&url).await;
    assert_eq!((status, body["reasons"].as_array().unwrap().len()), (503, 1), "{body}");
    let status = env.run_json(&["status", "--json"]).await;
    assert_eq!(status["findings"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["findings"][0]["hint"], body["reasons"][0]["hint"]);
}

async fn a_backfill_that_is_not_read_is_known_to_all_and_can_be_cancelled(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.expect_complete_archive().await;
    env.stop().await;
    env.run_ok(&["backfill", "--from", "3d", "--to", "1d"]).await;
    let audit = env.run(&["audit"]).await;
    assert_eq!(audit.status, 1, "{}", audit.text());
    assert!(audit.out.starts_with("NOT complete: 1 unfinished backfill\n"), "{}", audit.out);
    let status = env.run_json(&["status", "--json"]).await;
    let backfill = &status["backfills"][0];
    assert!(backfill["seconds"].as_u64() >= Some(172_800) && backfill["read_seconds"] == 0, "{status}");
    assert!(
        finding_codes(&status["findings"]).contains("backfill_unfinished") && backfill["left_seconds"].is_u64(),
        "{status}"
    );
    let listed = env.run_json(&["backfill", "list", "--json"]).await;
    assert_eq!(listed, *backfill);
    let id = backfill["id"].to_string();
    env.run_ok(&["backfill", "cancel", &id]).await;
    assert_eq!(env.run(&["backfill", "cancel", &id]).await.status, 1, "it is cancelled already");
    assert_eq!(env.run_ok(&["backfill", "list"]).await, "no open backfills\n");
    env.run_ok(&["audit"]).await;
}

/// As an earlier version left it, which accepted a `Retry-After` of 16 hours.
async fn a_wait_of_hours_is_shown_capped_and_lifted_by_a_command(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, scenario()).await;
    env.wait_until("it is read", async || env.account_status().await["watermark"].is_string()).await;
    env.stop().await;
    let (account, now) = (env.main_account(), env.clock.now());
    let db = open_database(&env.database).await;
    let refusal = SavedThrottle { at: now, until: now + 60_000 * SECOND, times: 1, rate_share_ppm: 1_000_000 };
    db.save_throttle(&metadata_budget_name(&account.sub), &refusal, now).await.unwrap();
    db.close().await;
    env.start();
    env.wait_until("it works", async || env.account_status().await["owner"].is_string()).await;
    let read = env.sim.stats().ok_count(Endpoint::Metadata);
    let status = env.run_json(&["status", "--json"]).await;
    let waits = status["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "rate_limited");
    let sentence = waits.unwrap_or_else(|| panic!("{status}"))["sentence"].as_str().unwrap();
    let until = ringcx_extractor::clock::Time::parse(sentence.rsplit(' ').next().unwrap()).unwrap();
    assert!(until <= env.clock.now() + 3601 * SECOND, "an hour at the most: {sentence}");
    env.clock.sleep(2 * SECOND).await;
    assert_eq!(env.sim.stats().ok_count(Endpoint::Metadata), read, "it waits");
    env.run_ok(&["resume"]).await;
    env.wait_until("it reads again", async || env.sim.stats().ok_count(Endpoint::Metadata) > read).await;
    let findings = env.run_json(&["status", "--json"]).await["findings"].clone();
    assert!(!finding_codes(&findings).contains("rate_limited"), "{findings}");
}

async fn metadata_that_is_refused_with_429_is_counted_and_shown(database: TempDatabase) {
    let limits = SimLimits { metadata_per_minute: 3, ..SimLimits::unlimited() };
    let env = TestEnv::with_daemon(database, scenario().configure_sim(|sim| sim.limits = limits)).await;
    let url = env.dashboard_url().await;
    env.wait_until("it is shown", async || {
        let status = env.run_json(&["status", "--json"]).await;
        finding_codes(&status["findings"]).contains("rate_limited") && status["accounts"][0]["refused"] == 1
    })
    .await;
    let counted = format!("\nringcx_refused_total{{sub_account=\"{}\"}} 1\n", env.main_account().sub);
    // The figures of the metrics may be some seconds old.
    env.wait_until("it is counted", async || support::http_get(&format!("{url}metrics")).await.1.contains(&counted))
        .await;
}
