//! Refusals, missing permissions and broken answers of RingCX, and what an operator sees and does: through the real binary.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::model::{AccountId, Artifact, Endpoint, SummariesFor};
use ringcx_extractor::sim::{
    AcceptedCredentials, CANARY_TEXT, FaultRates, Faults, ForbiddenRule, RetryAfterFormat, SECRET_MARK, SegmentScript,
    SimLimits,
};
use serde_json::Value;
use sqlx::Connection;
use support::test_env::scenario::{millis, strings};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    refusals_because_of_another_user_slow_it_down_and_lose_nothing,
    a_login_refused_for_coming_too_often_holds_nothing_up_once_that_is_over,
    retry_after_in_seconds_is_honoured,
    retry_after_as_a_date_is_honoured,
    one_segment_that_is_forbidden_holds_up_no_other,
    a_forbidden_endpoint_is_paused_burns_no_tries_and_recovers,
    forbidden_metadata_pauses_the_account_and_recovers,
    more_accounts_than_threads_recover_from_one_outage,
    summaries_of_every_agents_segment_are_fetched_where_asked_for,
    accounts_that_appear_are_taken_up_and_one_that_vanishes_is_reported,
    a_record_that_nobody_understands_is_kept_aside_and_shown,
    records_that_heal_are_settled_by_a_later_read,
    a_backfill_reads_the_past_and_fetches_nothing_twice,
    a_retry_by_hand_revives_what_was_given_up,
    a_stretch_taken_from_the_coverage_is_named_by_the_audit_and_read_again,
    nothing_secret_and_nothing_that_was_said_is_printed,
}

const SECOND: Duration = Duration::from_secs(1);

fn forbidden_endpoint(endpoint: Endpoint) -> ForbiddenRule {
    ForbiddenRule { endpoint: Some(endpoint), ..ForbiddenRule::default() }
}

async fn refusals_because_of_another_user_slow_it_down_and_lose_nothing(database: TempDatabase) {
    // Every seventh request gets a 429, although the daemon stays within its limits.
    let scenario = Scenario::history().configure_sim(|sim| {
        let rates = FaultRates { too_many: 0.15, ..FaultRates::default() };
        sim.faults = Faults { metadata: rates, transcript: rates, summary: rates, ..Faults::default() };
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    let refused = env.sim.stats().faults.get("too_many").copied().unwrap_or(0);
    assert!(refused > 0, "nobody was refused");
    assert!(env.log().contains("429"), "the log says nothing of it");
    let tries: Vec<Value> = env.queue_items(&["--all"]).await;
    assert_eq!(tries, Vec::<Value>::new(), "all is done");
}

/// Nothing new is announced meanwhile that would wake the fetch loop.
async fn a_login_refused_for_coming_too_often_holds_nothing_up_once_that_is_over(database: TempDatabase) {
    let scenario = Scenario::history().set("limits.requests_per_minute", 300);
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("transcripts are asked for", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    let login = FaultRates { too_many: 1.0, ..FaultRates::default() };
    env.sim.set_faults(Faults { login, ..Faults::default() });
    env.sim.control().revoke_all_tokens();
    for artifact in Artifact::TEXTS {
        env.wait_for_log(&format!("endpoint={artifact} until=")).await;
    }
    env.sim.set_faults(Faults::default());
    env.expect_complete_archive().await;
}

async fn retry_after_in_seconds_is_honoured(database: TempDatabase) {
    assert_retry_after_honoured(database, RetryAfterFormat::Seconds).await;
}

async fn retry_after_as_a_date_is_honoured(database: TempDatabase) {
    assert_retry_after_honoured(database, RetryAfterFormat::HttpDate).await;
}

/// The server allows far less than the settings say: after the first refusals no request may arrive for most of a minute.
async fn assert_retry_after_honoured(database: TempDatabase, retry_after: RetryAfterFormat) {
    let scenario = Scenario::history().configure_sim(|sim| {
        sim.limits = SimLimits { requests_per_minute: 20, retry_after, ..SimLimits::unlimited() };
        sim.keep_arrivals = true;
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("a request is refused", async || env.sim.stats().total_refused() > 0).await;
    let account = env.main_account();
    // Requests in flight at the first refusal may still arrive.
    env.clock.sleep(SECOND).await;
    let before = env.sim.arrivals(&account).len();
    assert!(before <= 20 + 8 + 2, "{before} requests, where 20 are allowed and 8 may be under way");
    env.clock.sleep(8 * SECOND).await;
    assert_eq!(env.sim.arrivals(&account).len(), before, "a request was sent before the time that the server named");
    assert!(env.log().contains("429"), "the log says nothing of it");
}

async fn one_segment_that_is_forbidden_holds_up_no_other(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    let id = env.sim.add_segment(SegmentScript::new(&env.main_account(), env.begin - 10 * SECOND));
    env.sim.control().forbid(ForbiddenRule { segment: Some(id.clone()), ..ForbiddenRule::default() });
    let mut env = env;
    env.start();
    env.wait_for_log("working").await;
    env.wait_until("metadata is read", async || env.sim.expected_archive().announced_count() > 0).await;
    env.wait_until("only the forbidden segment is left", async || {
        let items = env.queue_items(&["--all"]).await;
        items.len() == 3 && items.iter().all(|item| item["segment_id"] == *id && item["status"] == 403)
    })
    .await;
    let account = env.account_status().await;
    assert_eq!(account["paused"], Value::Array(Vec::new()), "one segment is not the account's affair");
    // The pending item is explained; an unread part of the past would not be.
    env.wait_for_audit().await;
    env.sim.set_faults(Faults::default());
    env.expect_complete_archive().await;
}

async fn a_forbidden_endpoint_is_paused_burns_no_tries_and_recovers(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    env.sim.control().forbid(forbidden_endpoint(Endpoint::Transcript));
    let mut env = env;
    env.start();
    let pauses = async || env.account_status().await["paused"].as_array().cloned().unwrap_or_default();
    env.wait_until("the endpoint is paused", async || !pauses().await.is_empty()).await;
    let paused = pauses().await;
    assert_eq!((&paused[0]["endpoint"], &paused[0]["status"]), (&"transcript".into(), &403.into()));
    assert!(env.log().contains("hint="), "the log does not say what to do: {}", env.log());
    let open = async || env.queue_items(&["--all", "--artifact", "transcript"]).await;
    env.wait_until("the summaries are done", async || env.queue_items(&["--all"]).await.len() == open().await.len())
        .await;
    env.clock.sleep(2 * SECOND).await;
    let items = open().await;
    let transcribed = env.expected_segments().iter().filter(|entry| entry.has_transcript).count();
    assert_eq!(items.len(), transcribed, "every transcript still waits");
    let tries: u64 = items.iter().filter_map(|item| item["tries"].as_u64()).sum();
    assert!(tries <= 10, "a pause burns no tries, but {tries} are counted");
    env.wait_for_audit().await;
    env.sim.set_faults(Faults::default());
    env.expect_complete_archive().await;
    assert_eq!(env.account_status().await["paused"], Value::Array(Vec::new()));
}

/// Each account probes one request at a time, and blocks no thread while it waits for the answer.
async fn more_accounts_than_threads_recover_from_one_outage(database: TempDatabase) {
    let threads = std::thread::available_parallelism().map_or(4, |threads| u32::try_from(threads.get()).unwrap_or(4));
    let ids: Vec<AccountId> = (0..threads + 2).map(|nth| AccountId::new("980634004", format!("100{nth}"))).collect();
    let listed = ids.iter().map(|id| {
        let fields = [("rc_account_id", &id.rc), ("sub_account_id", &id.sub)];
        toml::Value::Table(fields.map(|(key, value)| (key.to_owned(), value.to_string().into())).into_iter().collect())
    });
    let scenario = Scenario::history().set("accounts", listed.collect::<Vec<toml::Value>>()).configure_sim(|sim| {
        sim.accounts.clone_from(&ids);
        let rates = FaultRates { status_503: 1.0, ..FaultRates::default() };
        sim.faults = Faults { transcript: rates, summary: rates, ..Faults::default() };
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("every endpoint is paused", async || env.log().matches(" paused ").count() >= 3 * ids.len()).await;
    let slow = FaultRates { slow: 1.0, slow_for: millis(300, 300), ..FaultRates::default() };
    env.sim.set_faults(Faults { transcript: slow, summary: slow, ..Faults::default() });
    env.expect_complete_archive().await;
}

async fn forbidden_metadata_pauses_the_account_and_recovers(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, Scenario::live(5 * SECOND)).await;
    env.wait_until("metadata is read", async || env.sim.stats().ok_count(Endpoint::Metadata) > 1).await;
    env.sim.control().forbid(forbidden_endpoint(Endpoint::Metadata));
    let pauses = async || env.account_status().await["paused"].as_array().cloned().unwrap_or_default();
    env.wait_until("metadata is paused", async || pauses().await.iter().any(|pause| pause["endpoint"] == "metadata"))
        .await;
    assert!(env.log().contains("hint="), "the log does not say what to do: {}", env.log());
    env.sim.set_faults(Faults::default());
    env.expect_complete_archive().await;
}

async fn summaries_of_every_agents_segment_are_fetched_where_asked_for(database: TempDatabase) {
    let mut scenario = Scenario::history().account_setting("summaries_for", "agents").configure_sim(|sim| {
        sim.traffic.transcribed = 0.5;
        sim.traffic.empty_summaries = 0.0;
    });
    scenario.wants.summaries_for = SummariesFor::Agents;
    let mut env = TestEnv::new(database, scenario).await;
    let (account, end) = (env.main_account(), env.begin - 10 * SECOND);
    let agents = SegmentScript { transcribed: None, ..SegmentScript::new(&account, end) };
    env.sim.add_segment(SegmentScript { agent: false, ..agents.clone() });
    let id = env.sim.add_segment(agents);
    env.start();
    env.expect_complete_archive().await;
    let shown = env.run_json(&["show", "--json", "--", &id]).await;
    assert_eq!(
        (&shown["transcript"]["outcome"], &shown["auto_summary"]["outcome"]),
        (&"not_requested".into(), &"stored".into())
    );
}

async fn accounts_that_appear_are_taken_up_and_one_that_vanishes_is_reported(database: TempDatabase) {
    let first = AccountId::new("980634004", "11");
    let (second, third) = (AccountId::new("980634004", "22"), AccountId::new("980634004", "33"));
    let scenario = Scenario::live(12 * SECOND)
        .unset("accounts")
        .set("discover_accounts.interval", "1s")
        .set("discover_accounts.exclude", strings(&["44"]))
        .configure_sim(|sim| {
            sim.traffic.per_minute = 60.0;
            sim.traffic.per_minute_of = vec![(AccountId::new("980634004", "44"), 0.0)];
            sim.accounts = vec![first.clone(), second.clone(), AccountId::new("980634004", "44")];
        });
    let env = TestEnv::with_daemon(database, scenario).await;
    let accounts =
        async || env.run_json(&["status", "--json"]).await["accounts"].as_array().cloned().unwrap_or_default();
    env.wait_for_log("working").await;
    env.wait_until("two accounts are read", async || {
        let read = accounts().await;
        read.len() == 2 && read.iter().all(|account| account["watermark"].is_string())
    })
    .await;
    env.sim.control().add_account(&third);
    env.sim.control().hide_account(&second);
    env.wait_until("the new one is read", async || {
        accounts().await.iter().any(|one| one["sub_account_id"] == "33" && one["watermark"].is_string())
    })
    .await;
    let missing = async || {
        let all = accounts().await;
        all.iter().any(|one| one["sub_account_id"] == "22" && one["missing_since"].is_string())
    };
    env.wait_until("the hidden one is reported", missing).await;
    assert!(env.log().contains("22"), "the log does not name it");
    env.sim.control().show_account(&second);
    env.wait_until("it is back", async || !missing().await).await;
    env.expect_complete_archive().await;
}

async fn a_record_that_nobody_understands_is_kept_aside_and_shown(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    let end = env.begin - 10 * SECOND;
    let broken = [r#"{"segmentId":{"not":"an id"},"dialogId":"d"}"#, r#"{"dialogId":"no segment id"}"#, "[1,2]"];
    for record in broken {
        env.sim.add_segment(SegmentScript {
            malformed_record: Some(record.into()),
            ..SegmentScript::new(&env.main_account(), end)
        });
    }
    let mut env = env;
    env.start();
    env.wait_until_complete().await;
    // These are the only problems, once nothing of the past is left to be read.
    let problems = async || env.audit_json().await.0["problems"].as_array().cloned().unwrap_or_default();
    env.wait_until("the audit tells of them and of nothing else", async || {
        problems().await.iter().map(|one| &one["kind"]).eq(["set_aside"].iter())
    })
    .await;
    let (audit, status) = env.audit_json().await;
    assert_eq!(status, 1);
    let aside = &audit["accounts"][0]["aside"];
    assert_eq!(aside["unresolved"], 3, "{aside}");
    for record in aside["records"].as_array().expect("records") {
        assert!(record["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{record}");
        let (from, to) = (parse_time(&record["window"]["from"]), parse_time(&record["window"]["to"]));
        assert!(from <= end && end < to, "{record}");
    }
    env.run(&["audit"]).await.assert_output(1, &["set aside", "hint:"]);
    env.assert_contract_kept();
}

fn parse_time(value: &Value) -> Time {
    value.as_str().and_then(Time::parse).unwrap_or_else(|| panic!("no time: {value}"))
}

async fn records_that_heal_are_settled_by_a_later_read(database: TempDatabase) {
    let scenario = Scenario::live(4 * SECOND).configure_sim(|sim| {
        sim.faults = Faults { mangled_records: 1.0, junk_records: 0.5, ..Faults::default() };
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_log("set aside").await;
    assert_eq!(env.run(&["audit"]).await.status, 1);
    env.sim.set_faults(Faults::default());
    env.expect_complete_archive().await;
    let (audit, _) = env.audit_json().await;
    assert!(audit["accounts"][0]["aside"]["resolved"].as_u64() > Some(0), "{}", audit["accounts"][0]["aside"]);
}

async fn a_backfill_reads_the_past_and_fetches_nothing_twice(database: TempDatabase) {
    let scenario = Scenario::live(3 * SECOND).set("discovery.start", "now").configure_sim(|sim| {
        sim.traffic.history = Duration::from_secs(120);
        sim.traffic.per_minute = 60.0;
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("metadata is read", async || env.sim.stats().ok_count(Endpoint::Metadata) > 0).await;
    env.clock.sleep_until_time(env.begin + 2 * SECOND).await;
    assert!(env.sim.expected_archive().announced_count() < 30, "the past was not asked for yet");
    let from = (env.begin - Duration::from_secs(150)).rfc3339();
    env.run(&["backfill", "--from", &from, "--to", "0s"]).await.assert_output(0, &["queued backfill", "takes about"]);
    env.expect_complete_archive().await;
    let reads = env.sim.stats().requests[&Endpoint::Metadata];
    // The same range again: its windows are read again, and nothing is fetched twice.
    let to = env.begin.rfc3339();
    env.run(&["backfill", "--from", &from, "--to", &to, "--wait"]).await.assert_output(0, &[]);
    assert!(env.sim.stats().requests[&Endpoint::Metadata] >= reads + 5, "the same range again is read again");
    env.expect_complete_archive().await;
    assert_eq!(env.sim.expected_archive().repeated_serves(), Vec::<String>::new());
}

async fn a_retry_by_hand_revives_what_was_given_up(database: TempDatabase) {
    let scenario = Scenario::history().set("fetch.give_up_after", "1s").configure_sim(|sim| {
        sim.faults.transcript.not_found = 1.0;
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_log("working").await;
    let transcribed = env.expected_segments().iter().filter(|entry| entry.has_transcript).count();
    let given_up = async || env.queue_items(&["--state", "unavailable"]).await;
    env.wait_until("every transcript is given up", async || given_up().await.len() == transcribed).await;
    let item = &given_up().await[0];
    assert_eq!((&item["artifact"], &item["status"]), (&Artifact::Transcript.name().into(), &404.into()), "{item}");
    let id = item["segment_id"].as_str().expect("an id");
    assert!(env.run_ok(&["show", "--", id]).await.contains("404"), "the segment's history does not name the reason");
    assert_eq!(env.account_status().await["work"]["unavailable"], transcribed);
    env.wait_for_audit().await;
    env.sim.set_faults(Faults::default());
    env.run(&["queue", "retry", "--state", "unavailable"]).await.assert_output(0, &["will be retried"]);
    env.expect_complete_archive().await;
    env.wait_until("nothing is given up", async || given_up().await.is_empty()).await;
}

async fn a_stretch_taken_from_the_coverage_is_named_by_the_audit_and_read_again(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::live(2 * SECOND)).await;
    env.expect_complete_archive().await;
    env.stop().await;
    let (from, to) = ((env.begin - 30 * SECOND).floor_to_second(), (env.begin - 20 * SECOND).floor_to_second());
    cut_coverage(&env.database, from, to).await;
    let (audit, status) = env.audit_json().await;
    assert_eq!(status, 1, "{audit}");
    let gaps = audit["accounts"][0]["gaps"].as_array().expect("gaps");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((parse_time(&gaps[0]["from"]), parse_time(&gaps[0]["to"])), (from, to), "{gaps:?}");
    env.run(&["audit"]).await.assert_output(1, &[&from.rfc3339_secs(), &to.rfc3339_secs(), "hint:"]);
    env.start();
    env.expect_complete_archive().await;
}

/// Removes a range from the coverage directly in the database.
async fn cut_coverage(database: &TempDatabase, from: Time, to: Time) {
    let statements = [
        format!(
            "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) \
             select account, pass, {}, to_ms, reads, first_read, last_read from coverage \
             where pass = 'live' and from_ms < {} and to_ms > {}",
            to.0, from.0, to.0
        ),
        format!(
            "update coverage set to_ms = {} where pass = 'live' and from_ms < {} and to_ms > {}",
            from.0, from.0, to.0
        ),
    ];
    let mut changed = Vec::new();
    if let Some(file) = database.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.expect("the database");
        for statement in statements {
            changed.push(
                sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut db).await.expect("a change").rows_affected(),
            );
        }
        db.close().await.expect("the end");
    } else {
        let mut db = sqlx::PgConnection::connect(&database.url).await.expect("the database");
        for statement in statements {
            changed.push(
                sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut db).await.expect("a change").rows_affected(),
            );
        }
        db.close().await.expect("the end");
    }
    assert_eq!(changed, [1, 1], "one stretch is cut in two");
}

async fn nothing_secret_and_nothing_that_was_said_is_printed(database: TempDatabase) {
    let credentials = AcceptedCredentials::default();
    let noisy = Scenario::live(3 * SECOND).set("log.filter", "trace").configure_sim(|sim| {
        sim.traffic.canary_texts = 1.0;
        sim.traffic.per_minute = 60.0;
        sim.tokens.access_lifetime = 2 * SECOND;
        sim.faults = Faults::everywhere(0.04);
        sim.faults.metadata.slow = 0.0;
    });
    let no_login = noisy.clone().unset("auth.client_id").unset("auth.client_secret").unset("auth.jwt");
    let scenarios = [
        no_login
            .clone()
            .set("auth.username", credentials.username)
            .set("auth.password", credentials.password)
            .set("auth.platform_id", credentials.platform_id),
        no_login.set("auth.api_token", credentials.api_token),
        noisy.clone().set("auth.jwt", format!("{SECRET_MARK}-wrong")),
        noisy,
    ];
    let on_sqlite = database.is_sqlite();
    let mut own = Some(database);
    let mut envs = Vec::new();
    for scenario in scenarios {
        let database = match own.take() {
            Some(database) => database,
            None if on_sqlite => TempDatabase::sqlite(),
            None => TempDatabase::postgres().await,
        };
        envs.push(TestEnv::with_daemon(database, scenario).await);
    }
    for mut env in envs {
        if env.scenario.settings.get("auth.jwt").and_then(toml::Value::as_str).is_some_and(|jwt| jwt.contains("wrong"))
        {
            env.wait_for_log("check auth.client_id").await;
        } else {
            env.expect_complete_archive().await;
        }
        let text = all_printed_text(&mut env).await;
        assert!(text.contains("idle connection"), "the log is not at its finest level");
        for planted in [SECRET_MARK, CANARY_TEXT] {
            let line = text.lines().find(|line| line.contains(planted));
            assert_eq!(line, None, "{planted:?} is printed");
        }
    }
}

/// The output of every command that is not meant to show conversations, and the daemon's complete log.
async fn all_printed_text(env: &mut TestEnv) -> String {
    const COMMANDS: [&[&str]; 7] = [
        &["check"],
        &["status"],
        &["status", "--json"],
        &["audit"],
        &["audit", "--json"],
        &["queue", "list", "--all"],
        &["queue", "list", "--all", "--json"],
    ];
    let mut text = String::new();
    for command in COMMANDS {
        text.push_str(&env.run(command).await.text());
    }
    env.stop().await;
    text + &env.log()
}
