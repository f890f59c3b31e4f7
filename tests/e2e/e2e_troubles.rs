//! What is refused, missing or broken on RingCX's side, and what a person then sees and does: through the real binary.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::model::{AccountId, Artifact, Endpoint, SummariesFor};
use ringcx_extractor::sim::{
    Credentials, Faults, Forbidden, PLANTED, Rates, RetryAfter, SECRET_MARK, SegmentScript, SimLimits,
};
use serde_json::Value;
use sqlx::Connection;
use support::daemon::plan::{millis, strings};
use support::daemon::{Place, Plan, Rig};

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

fn only(endpoint: Endpoint) -> Forbidden {
    Forbidden { endpoint: Some(endpoint), ..Forbidden::default() }
}

async fn refusals_because_of_another_user_slow_it_down_and_lose_nothing(place: Place) {
    // Every seventh request meets a spent budget, though we keep within ours.
    let plan = Plan::history().sim(|sim| {
        let rates = Rates { too_many: 0.15, ..Rates::default() };
        sim.faults = Faults { metadata: rates, transcript: rates, summary: rates, ..Faults::default() };
    });
    let rig = Rig::started(place, plan).await;
    rig.settled().await;
    let refused = rig.sim.stats().faults.get("too_many").copied().unwrap_or(0);
    assert!(refused > 0, "nobody was refused");
    assert!(rig.log().contains("429"), "the log says nothing of it");
    let tries: Vec<Value> = rig.queue(&["--all"]).await;
    assert_eq!(tries, Vec::<Value>::new(), "all is done");
}

/// Nothing new is announced meanwhile that would wake whoever fetches.
async fn a_login_refused_for_coming_too_often_holds_nothing_up_once_that_is_over(place: Place) {
    let plan = Plan::history().set("limits.requests_per_minute", 300);
    let rig = Rig::started(place, plan).await;
    rig.until("transcripts are asked for", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    let login = Rates { too_many: 1.0, ..Rates::default() };
    rig.sim.set_faults(Faults { login, ..Faults::default() });
    rig.sim.control().revoke_all();
    for artifact in Artifact::ALL {
        rig.says(&format!("endpoint={artifact} until=")).await;
    }
    rig.sim.set_faults(Faults::default());
    rig.settled().await;
}

async fn retry_after_in_seconds_is_honoured(place: Place) {
    retry_after(place, RetryAfter::Seconds).await;
}

async fn retry_after_as_a_date_is_honoured(place: Place) {
    retry_after(place, RetryAfter::HttpDate).await;
}

/// The server allows far less than the settings say: after the first refusals nothing more may come for most of a minute.
async fn retry_after(place: Place, said: RetryAfter) {
    let plan = Plan::history().sim(|sim| {
        sim.limits = SimLimits { requests_per_minute: 20, retry_after: said, ..SimLimits::lifted() };
        sim.keep_arrivals = true;
    });
    let rig = Rig::started(place, plan).await;
    rig.until("a request is refused", async || rig.sim.stats().refused_in_all() > 0).await;
    let account = rig.main_account();
    // What was under way at the first refusal may still arrive.
    rig.clock.sleep(SECOND).await;
    let before = rig.sim.arrivals(&account).len();
    assert!(before <= 20 + 8 + 2, "{before} requests, where 20 are allowed and 8 may be under way");
    rig.clock.sleep(8 * SECOND).await;
    assert_eq!(rig.sim.arrivals(&account).len(), before, "asked again before the time that the server named");
    assert!(rig.log().contains("429"), "the log says nothing of it");
}

async fn one_segment_that_is_forbidden_holds_up_no_other(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    let id = rig.sim.add_segment(SegmentScript::new(&rig.main_account(), rig.begin - 10 * SECOND));
    rig.sim.control().forbid(Forbidden { segment: Some(id.clone()), ..Forbidden::default() });
    let mut rig = rig;
    rig.start();
    rig.says("working").await;
    rig.until("metadata is read", async || rig.sim.ledger().announced_count() > 0).await;
    rig.until("only the forbidden segment is left", async || {
        let items = rig.queue(&["--all"]).await;
        items.len() == 3 && items.iter().all(|item| item["segment_id"] == *id && item["status"] == 403)
    })
    .await;
    let account = rig.account().await;
    assert_eq!(account["paused"], Value::Array(Vec::new()), "one segment is not the account's affair");
    // It is pending, and that is explained; so much of the past as is still to be read is not.
    rig.audit_passes().await;
    rig.sim.set_faults(Faults::default());
    rig.settled().await;
}

async fn a_forbidden_endpoint_is_paused_burns_no_tries_and_recovers(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    rig.sim.control().forbid(only(Endpoint::Transcript));
    let mut rig = rig;
    rig.start();
    let pauses = async || rig.account().await["paused"].as_array().cloned().unwrap_or_default();
    rig.until("the endpoint is paused", async || !pauses().await.is_empty()).await;
    let paused = pauses().await;
    assert_eq!((&paused[0]["endpoint"], &paused[0]["status"]), (&"transcript".into(), &403.into()));
    assert!(rig.log().contains("hint="), "the log does not say what to do: {}", rig.log());
    let open = async || rig.queue(&["--all", "--artifact", "transcript"]).await;
    rig.until("the summaries are done", async || rig.queue(&["--all"]).await.len() == open().await.len()).await;
    rig.clock.sleep(2 * SECOND).await;
    let items = open().await;
    let transcribed = rig.world().iter().filter(|entry| entry.has_transcript).count();
    assert_eq!(items.len(), transcribed, "every transcript still waits");
    let tries: u64 = items.iter().filter_map(|item| item["tries"].as_u64()).sum();
    assert!(tries <= 10, "a pause burns no tries, but {tries} are counted");
    rig.audit_passes().await;
    rig.sim.set_faults(Faults::default());
    rig.settled().await;
    assert_eq!(rig.account().await["paused"], Value::Array(Vec::new()));
}

/// Each asks one by one whether the outage is over, and while it waits for the answer takes no thread from the others.
async fn more_accounts_than_threads_recover_from_one_outage(place: Place) {
    let threads = std::thread::available_parallelism().map_or(4, |threads| u32::try_from(threads.get()).unwrap_or(4));
    let ids: Vec<AccountId> = (0..threads + 2).map(|nth| AccountId::new("980634004", format!("100{nth}"))).collect();
    let listed = ids.iter().map(|id| {
        let fields = [("rc_account_id", &id.rc), ("sub_account_id", &id.sub)];
        toml::Value::Table(fields.map(|(key, value)| (key.to_owned(), value.to_string().into())).into_iter().collect())
    });
    let plan = Plan::history().set("accounts", listed.collect::<Vec<toml::Value>>()).sim(|sim| {
        sim.accounts.clone_from(&ids);
        let rates = Rates { status_503: 1.0, ..Rates::default() };
        sim.faults = Faults { transcript: rates, summary: rates, ..Faults::default() };
    });
    let rig = Rig::started(place, plan).await;
    rig.until("all of them rest", async || rig.log().matches(" paused ").count() >= 3 * ids.len()).await;
    let slow = Rates { slow: 1.0, slow_for: millis(300, 300), ..Rates::default() };
    rig.sim.set_faults(Faults { transcript: slow, summary: slow, ..Faults::default() });
    rig.settled().await;
}

async fn forbidden_metadata_pauses_the_account_and_recovers(place: Place) {
    let rig = Rig::started(place, Plan::live(5 * SECOND)).await;
    rig.until("metadata is read", async || rig.sim.stats().ok(Endpoint::Metadata) > 1).await;
    rig.sim.control().forbid(only(Endpoint::Metadata));
    let pauses = async || rig.account().await["paused"].as_array().cloned().unwrap_or_default();
    rig.until("metadata is paused", async || pauses().await.iter().any(|pause| pause["endpoint"] == "metadata")).await;
    assert!(rig.log().contains("hint="), "the log does not say what to do: {}", rig.log());
    rig.sim.set_faults(Faults::default());
    rig.settled().await;
}

async fn summaries_of_every_agents_segment_are_fetched_where_asked_for(place: Place) {
    let mut plan = Plan::history().account("summaries_for", "agents").sim(|sim| {
        sim.traffic.transcribed = 0.5;
        sim.traffic.empty_summaries = 0.0;
    });
    plan.wants.summaries_for = SummariesFor::Agents;
    let mut rig = Rig::new(place, plan).await;
    let (account, end) = (rig.main_account(), rig.begin - 10 * SECOND);
    let agents = SegmentScript { transcribed: None, ..SegmentScript::new(&account, end) };
    rig.sim.add_segment(SegmentScript { agent: false, ..agents.clone() });
    let id = rig.sim.add_segment(agents);
    rig.start();
    rig.settled().await;
    let shown = rig.json(&["show", "--json", "--", &id]).await;
    assert_eq!(
        (&shown["transcript"]["outcome"], &shown["auto_summary"]["outcome"]),
        (&"not_requested".into(), &"stored".into())
    );
}

async fn accounts_that_appear_are_taken_up_and_one_that_vanishes_is_reported(place: Place) {
    let first = AccountId::new("980634004", "11");
    let (second, third) = (AccountId::new("980634004", "22"), AccountId::new("980634004", "33"));
    let plan = Plan::live(12 * SECOND)
        .unset("accounts")
        .set("discover_accounts.interval", "1s")
        .set("discover_accounts.exclude", strings(&["44"]))
        .sim(|sim| {
            sim.traffic.per_minute = 60.0;
            sim.traffic.per_minute_of = vec![(AccountId::new("980634004", "44"), 0.0)];
            sim.accounts = vec![first.clone(), second.clone(), AccountId::new("980634004", "44")];
        });
    let rig = Rig::started(place, plan).await;
    let accounts = async || rig.json(&["status", "--json"]).await["accounts"].as_array().cloned().unwrap_or_default();
    rig.says("working").await;
    rig.until("two accounts are read", async || {
        let read = accounts().await;
        read.len() == 2 && read.iter().all(|account| account["watermark"].is_string())
    })
    .await;
    rig.sim.control().add_account(&third);
    rig.sim.control().hide_account(&second);
    rig.until("the new one is read", async || {
        accounts().await.iter().any(|one| one["sub_account_id"] == "33" && one["watermark"].is_string())
    })
    .await;
    let missing = async || {
        let all = accounts().await;
        all.iter().any(|one| one["sub_account_id"] == "22" && one["missing_since"].is_string())
    };
    rig.until("the hidden one is reported", missing).await;
    assert!(rig.log().contains("22"), "the log does not name it");
    rig.sim.control().show_account(&second);
    rig.until("it is back", async || !missing().await).await;
    rig.settled().await;
}

async fn a_record_that_nobody_understands_is_kept_aside_and_shown(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    let end = rig.begin - 10 * SECOND;
    let broken = [r#"{"segmentId":{"not":"an id"},"dialogId":"d"}"#, r#"{"dialogId":"no segment id"}"#, "[1,2]"];
    for record in broken {
        rig.sim.add_segment(SegmentScript {
            malformed_record: Some(record.into()),
            ..SegmentScript::new(&rig.main_account(), end)
        });
    }
    let mut rig = rig;
    rig.start();
    rig.complete().await;
    // Of them alone, once nothing of the past is left to be read.
    let problems = async || rig.audit().await.0["problems"].as_array().cloned().unwrap_or_default();
    rig.until("the audit tells of them and of nothing else", async || {
        problems().await.iter().map(|one| &one["kind"]).eq(["set_aside"].iter())
    })
    .await;
    let (audit, status) = rig.audit().await;
    assert_eq!(status, 1);
    let aside = &audit["accounts"][0]["aside"];
    assert_eq!(aside["unresolved"], 3, "{aside}");
    for record in aside["records"].as_array().expect("records") {
        assert!(record["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{record}");
        let (from, to) = (at(&record["window"]["from"]), at(&record["window"]["to"]));
        assert!(from <= end && end < to, "{record}");
    }
    rig.run(&["audit"]).await.is(1, &["set aside", "hint:"]);
    rig.kept_the_contract();
}

fn at(value: &Value) -> Time {
    value.as_str().and_then(Time::parse).unwrap_or_else(|| panic!("no time: {value}"))
}

async fn records_that_heal_are_settled_by_a_later_read(place: Place) {
    let plan = Plan::live(4 * SECOND).sim(|sim| {
        sim.faults = Faults { mangled_records: 1.0, junk_records: 0.5, ..Faults::default() };
    });
    let rig = Rig::started(place, plan).await;
    rig.says("kept aside").await;
    assert_eq!(rig.run(&["audit"]).await.status, 1);
    rig.sim.set_faults(Faults::default());
    rig.settled().await;
    let (audit, _) = rig.audit().await;
    assert!(audit["accounts"][0]["aside"]["resolved"].as_u64() > Some(0), "{}", audit["accounts"][0]["aside"]);
}

async fn a_backfill_reads_the_past_and_fetches_nothing_twice(place: Place) {
    let plan = Plan::live(3 * SECOND).set("discovery.start", "now").sim(|sim| {
        sim.traffic.history = Duration::from_secs(120);
        sim.traffic.per_minute = 60.0;
    });
    let rig = Rig::started(place, plan).await;
    rig.until("metadata is read", async || rig.sim.stats().ok(Endpoint::Metadata) > 0).await;
    rig.clock.sleep_until_time(rig.begin + 2 * SECOND).await;
    assert!(rig.sim.ledger().announced_count() < 30, "the past was not asked for yet");
    let from = (rig.begin - Duration::from_secs(150)).rfc3339();
    rig.run(&["backfill", "--from", &from, "--to", "0s"]).await.is(0, &["queued backfill", "takes about"]);
    rig.settled().await;
    let reads = rig.sim.stats().requests[&Endpoint::Metadata];
    // Again, and waited for: read again, and nothing fetched twice.
    let to = rig.begin.rfc3339();
    rig.run(&["backfill", "--from", &from, "--to", &to, "--wait"]).await.is(0, &[]);
    assert!(rig.sim.stats().requests[&Endpoint::Metadata] >= reads + 5, "the same range again is read again");
    rig.settled().await;
    assert_eq!(rig.sim.ledger().served_again(), Vec::<String>::new());
}

async fn a_retry_by_hand_revives_what_was_given_up(place: Place) {
    let plan = Plan::history().set("fetch.give_up_after", "1s").sim(|sim| {
        sim.faults.transcript.not_found = 1.0;
    });
    let rig = Rig::started(place, plan).await;
    rig.says("working").await;
    let transcribed = rig.world().iter().filter(|entry| entry.has_transcript).count();
    let given_up = async || rig.queue(&["--state", "unavailable"]).await;
    rig.until("every transcript is given up", async || given_up().await.len() == transcribed).await;
    let item = &given_up().await[0];
    assert_eq!((&item["artifact"], &item["status"]), (&Artifact::Transcript.name().into(), &404.into()), "{item}");
    let id = item["segment_id"].as_str().expect("an id");
    assert!(rig.output(&["show", "--", id]).await.contains("404"), "the segment's story does not say why");
    assert_eq!(rig.account().await["work"]["unavailable"], transcribed);
    rig.audit_passes().await;
    rig.sim.set_faults(Faults::default());
    rig.run(&["queue", "retry", "--state", "unavailable"]).await.is(0, &["will be tried again"]);
    rig.settled().await;
    rig.until("nothing is given up", async || given_up().await.is_empty()).await;
}

async fn a_stretch_taken_from_the_coverage_is_named_by_the_audit_and_read_again(place: Place) {
    let mut rig = Rig::started(place, Plan::live(2 * SECOND)).await;
    rig.settled().await;
    rig.stop().await;
    let (from, to) = ((rig.begin - 30 * SECOND).floor_to_second(), (rig.begin - 20 * SECOND).floor_to_second());
    cut(&rig.place, from, to).await;
    let (audit, status) = rig.audit().await;
    assert_eq!(status, 1, "{audit}");
    let gaps = audit["accounts"][0]["gaps"].as_array().expect("gaps");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((at(&gaps[0]["from"]), at(&gaps[0]["to"])), (from, to), "{gaps:?}");
    rig.run(&["audit"]).await.is(1, &[&from.rfc3339_secs(), &to.rfc3339_secs(), "hint:"]);
    rig.start();
    rig.settled().await;
}

/// Takes a stretch out of what was read, as nothing but a hand on the database does.
async fn cut(place: &Place, from: Time, to: Time) {
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
    if let Some(file) = place.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.expect("the database");
        for statement in statements {
            changed.push(
                sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut db).await.expect("a change").rows_affected(),
            );
        }
        db.close().await.expect("the end");
    } else {
        let mut db = sqlx::PgConnection::connect(&place.url).await.expect("the database");
        for statement in statements {
            changed.push(
                sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut db).await.expect("a change").rows_affected(),
            );
        }
        db.close().await.expect("the end");
    }
    assert_eq!(changed, [1, 1], "one stretch is cut in two");
}

async fn nothing_secret_and_nothing_that_was_said_is_printed(place: Place) {
    let held = Credentials::default();
    let noisy = Plan::live(3 * SECOND).set("log.filter", "trace").sim(|sim| {
        sim.traffic.planted = 1.0;
        sim.traffic.per_minute = 60.0;
        sim.tokens.access_life = 2 * SECOND;
        sim.faults = Faults::everywhere(0.04);
        sim.faults.metadata.slow = 0.0;
    });
    let no_login = noisy.clone().unset("auth.client_id").unset("auth.client_secret").unset("auth.jwt");
    let plans = [
        no_login
            .clone()
            .set("auth.username", held.username)
            .set("auth.password", held.password)
            .set("auth.platform_id", held.platform_id),
        no_login.set("auth.api_token", held.api_token),
        noisy.clone().set("auth.jwt", format!("{SECRET_MARK}-wrong")),
        noisy,
    ];
    let on_sqlite = place.is_sqlite();
    let mut own = Some(place);
    let mut rigs = Vec::new();
    for plan in plans {
        let place = match own.take() {
            Some(place) => place,
            None if on_sqlite => Place::sqlite(),
            None => Place::postgres().await,
        };
        rigs.push(Rig::started(place, plan).await);
    }
    for mut rig in rigs {
        if rig.plan.settings.get("auth.jwt").and_then(toml::Value::as_str).is_some_and(|jwt| jwt.contains("wrong")) {
            rig.says("check auth.client_id").await;
        } else {
            rig.settled().await;
        }
        let said = all_that_is_printed(&mut rig).await;
        assert!(said.contains("idle connection"), "the log does not show the least of what it could");
        for planted in [SECRET_MARK, PLANTED] {
            let line = said.lines().find(|line| line.contains(planted));
            assert_eq!(line, None, "{planted:?} is printed");
        }
    }
}

/// What every command prints that is not there to show conversations, and the daemon's log to its end.
async fn all_that_is_printed(rig: &mut Rig) -> String {
    const COMMANDS: [&[&str]; 7] = [
        &["check"],
        &["status"],
        &["status", "--json"],
        &["audit"],
        &["audit", "--json"],
        &["queue", "list", "--all"],
        &["queue", "list", "--all", "--json"],
    ];
    let mut said = String::new();
    for command in COMMANDS {
        said.push_str(&rig.run(command).await.text());
    }
    rig.stop().await;
    said + &rig.log()
}
