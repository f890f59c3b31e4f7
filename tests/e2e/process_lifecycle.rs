//! Signals, exit statuses and error messages of the real binary.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{AcceptedCredentials, SECRET_MARK, SegmentScript};
use rustix::process::Signal;
use sqlx::Connection;
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    sigterm_ends_it_in_good_order_even_while_answers_are_slow,
    sigint_ends_it_as_well,
    a_second_signal_ends_it_at_once,
    sighup_reads_the_log_filter_again_and_ends_nothing,
    stopped_and_continued_it_goes_on,
    a_second_daemon_on_the_same_archive_is_refused,
    a_database_from_a_newer_version_is_refused,
    a_database_that_cannot_be_used_is_named_with_what_to_do,
    a_database_server_that_is_away_is_waited_for,
    a_wrong_secret_is_named_with_what_to_do_and_never_printed,
    a_secret_that_is_corrected_in_its_file_is_taken_up,
    hosts_that_cannot_be_reached_are_named_with_what_to_do,
    settings_that_cannot_be_meant_exit_with_2,
    a_missing_permission_is_named_by_check,
    check_finds_everything_in_place,
    commands_on_an_archive_that_is_not_there_say_so,
}

const SECOND: Duration = Duration::from_secs(1);

/// A scenario in which every transcript takes longer than the shutdown.
fn scenario_with_slow_transcripts() -> Scenario {
    Scenario::history().set("api.request_timeout", "60s").configure_sim(|sim| {
        sim.faults.transcript.slow = 1.0;
        sim.faults.transcript.slow_for = support::test_env::scenario::millis(30_000, 30_000);
    })
}

async fn wait_for_transcript_request(env: &TestEnv) {
    let asked = async || env.sim.stats().requests.get(&Endpoint::Transcript).copied().unwrap_or(0) > 0;
    env.wait_until("a transcript is asked for", asked).await;
}

async fn sigterm_ends_it_in_good_order_even_while_answers_are_slow(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, scenario_with_slow_transcripts()).await;
    wait_for_transcript_request(&env).await;
    env.signal(Signal::TERM);
    assert_eq!(env.wait_for_exit(10 * SECOND).await, 0);
    env.wait_for_log("stopped").await;
    // The next daemon completes the interrupted work.
    env.sim.set_faults(Default::default());
    env.start();
    env.expect_complete_archive().await;
}

async fn sigint_ends_it_as_well(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::live(2 * SECOND)).await;
    env.wait_for_log("working").await;
    env.signal(Signal::INT);
    assert_eq!(env.wait_for_exit(10 * SECOND).await, 0);
}

async fn a_second_signal_ends_it_at_once(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, scenario_with_slow_transcripts()).await;
    wait_for_transcript_request(&env).await;
    env.signal(Signal::TERM);
    env.wait_for_log("a second signal exits at once").await;
    env.signal(Signal::TERM);
    assert_eq!(env.wait_for_exit(2 * SECOND).await, 130);
    env.sim.set_faults(Default::default());
    env.start();
    env.expect_complete_archive().await;
}

async fn sighup_reads_the_log_filter_again_and_ends_nothing(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::live(3 * SECOND).set("log.filter", "info")).await;
    env.wait_for_log("working").await;
    assert!(!env.log().contains("DEBUG"));
    env.set("log.filter", "info,ringcx_extractor=debug");
    env.signal(Signal::HUP);
    env.wait_for_log("log filter and login reloaded").await;
    env.wait_for_log("DEBUG").await;
    // An invalid filter changes nothing.
    env.set("log.filter", "info,,=nonsense=");
    env.signal(Signal::HUP);
    env.wait_for_log("the current ones stay active").await;
    env.set("log.filter", "info");
    assert!(env.is_running());
    env.expect_complete_archive().await;
}

async fn stopped_and_continued_it_goes_on(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, Scenario::live(6 * SECOND)).await;
    env.wait_for_request().await;
    env.signal(Signal::STOP);
    env.clock.sleep(3 * SECOND).await;
    env.signal(Signal::CONT);
    env.expect_complete_archive().await;
}

async fn a_second_daemon_on_the_same_archive_is_refused(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::live(2 * SECOND)).await;
    env.wait_for_log("working").await;
    let second = env.run(&["run"]).await;
    second.assert_output(1, &["another", "hint:"]);
    assert!(env.is_running(), "the first goes on");
    env.expect_complete_archive().await;
}

async fn a_database_from_a_newer_version_is_refused(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    env.run_ok(&["migrate"]).await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9999, 'from the future', true, 'x', 0)";
    if let Some(file) = env.database.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.expect("the database");
        sqlx::query(newer).execute(&mut db).await.expect("a migration");
        db.close().await.expect("the end");
    } else {
        let mut db = sqlx::PgConnection::connect(&env.database.url).await.expect("the database");
        sqlx::query(newer).execute(&mut db).await.expect("a migration");
        db.close().await.expect("the end");
    }
    for command in [&["run"][..], &["migrate"], &["status"], &["export"]] {
        env.run(command).await.assert_output(1, &["newer version", "hint:"]);
    }
    env.run(&["check"]).await.assert_output(1, &["newer version", "hint:"]);
    assert_eq!(env.sim.stats().total_requests(), 0, "no request whose answer could not be stored");
}

async fn a_database_that_cannot_be_used_is_named_with_what_to_do(database: TempDatabase) {
    let mut env = TestEnv::new(database, Scenario::history()).await;
    let folder = env.database.folder.path().to_owned();
    let mut urls = Vec::new();
    if env.database.is_sqlite() {
        std::fs::write(folder.join("file"), "in the way").expect("a file");
        std::fs::write(folder.join("letter.txt"), "Dear database, ".repeat(1_000)).expect("a file");
        urls.push(format!("sqlite:{}", folder.join("file/archive.db").display()));
        urls.push(format!("sqlite:{}", folder.join("letter.txt").display()));
        urls.push(format!("sqlite:{}", folder.display()));
    } else {
        urls.push(env.database.url.replace("@localhost/t", "@localhost/nowhere"));
        urls.push(env.database.url.replace("postgres@localhost", &format!("nobody:{SECRET_MARK}@localhost")));
    }
    for url in urls {
        env.set("database.url", url);
        for command in ["run", "migrate", "check"] {
            let output = env.run(&[command]).await;
            output.assert_output(1, &["hint:", "failed to"]);
            assert!(!output.text().contains(SECRET_MARK), "the password is printed: {}", output.text());
        }
    }
    assert_eq!(env.sim.stats().total_requests(), 0, "no request whose answer could not be stored");
}

async fn a_database_server_that_is_away_is_waited_for(database: TempDatabase) {
    // A Postgres URL with a socket on which nobody listens, also in the SQLite run.
    let mut env = TestEnv::new(database, Scenario::live(2 * SECOND)).await;
    let (url, folder) = (env.database.url.clone(), env.database.folder.path().display().to_string());
    env.set("database.url", format!("postgres://user:{SECRET_MARK}@localhost/archive?host={folder}"));
    for command in ["migrate", "check", "status"] {
        let phrases = ["failed to reach the Postgres database", "No such file or directory", "hint: is the server up"];
        env.run(&[command]).await.assert_output(1, &phrases);
    }
    env.start();
    env.wait_for_log("failed to reach the Postgres database").await;
    env.wait_for_log("is the server up").await;
    env.stop().await;
    assert!(!env.log().contains(SECRET_MARK), "the password is printed: {}", env.log());
    assert_eq!(env.sim.stats().total_requests(), 0, "no request whose answer could not be stored");
    env.set("database.url", url);
    env.start();
    env.expect_complete_archive().await;
}

async fn a_wrong_secret_is_named_with_what_to_do_and_never_printed(database: TempDatabase) {
    let wrong = format!("{SECRET_MARK}-that-is-wrong");
    let mut env = TestEnv::new(database, Scenario::history().set("auth.client_secret", wrong)).await;
    let check = env.run(&["check"]).await;
    check.assert_output(1, &["FAILED", "login", "hint: check auth.client_id, auth.client_secret"]);
    env.start();
    env.wait_for_log("check auth.client_id, auth.client_secret and auth.jwt").await;
    env.clock.sleep(2 * SECOND).await;
    assert!(env.is_running(), "a person may still correct it");
    env.stop().await;
    for text in [check.text(), env.log()] {
        assert!(!text.contains(SECRET_MARK), "the secret is printed: {text}");
    }
    let logins = env.sim.stats().requests[&Endpoint::Login];
    assert!(logins <= 12, "{logins} logins with a secret that is wrong");
}

async fn a_secret_that_is_corrected_in_its_file_is_taken_up(database: TempDatabase) {
    let scenario = Scenario::history().unset("auth.client_secret").set("auth.client_secret_file", "secret.txt");
    let mut env = TestEnv::new(database, scenario).await;
    let file = env.database.folder.path().join("secret.txt");
    env.set("auth.client_secret_file", file.display().to_string());
    std::fs::write(&file, "not this one\n").expect("a file");
    env.start();
    env.wait_for_log("check auth.client_id, auth.client_secret and auth.jwt").await;
    std::fs::write(&file, format!("{}\n", AcceptedCredentials::default().client_secret)).expect("a file");
    env.expect_complete_archive().await;
}

async fn hosts_that_cannot_be_reached_are_named_with_what_to_do(database: TempDatabase) {
    // Nobody listens on the port of a closed listener.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port");
    let base = format!("http://{gone}");
    let mut scenario = Scenario::history();
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        scenario = scenario.set(host, base.clone());
    }
    let mut env = TestEnv::new(database, scenario).await;
    env.run(&["check"]).await.assert_output(1, &["127.0.0.1", "hint: check the URLs in [api]"]);
    env.start();
    env.wait_for_log("no connection to 127.0.0.1").await;
    env.wait_for_log("check the URLs in [api]").await;
    assert!(env.is_running(), "the host may come back");
    env.stop().await;
}

async fn settings_that_cannot_be_meant_exit_with_2(database: TempDatabase) {
    let cases: [(&str, toml::Value, &[&str]); 4] = [
        ("discovery.window", "4 fortnights".into(), &["discovery.window", "config.toml", "hint:"]),
        ("discovery.windw", "4s".into(), &["discovery.windw", "discovery.window", "hint:"]),
        ("limits.requests_per_minute", "many".into(), &["limits.requests_per_minute", "hint:"]),
        ("auth.api_token", SECRET_MARK.into(), &["auth", "hint:"]),
    ];
    let mut env = TestEnv::new(database, Scenario::history()).await;
    for (key, value, phrases) in cases {
        env.set(key, value);
        // Commands that only read need no login.
        let commands = if key.starts_with("auth.") { &["run", "check"][..] } else { &["run", "check", "status"] };
        for command in commands {
            let output = env.run(&[command]).await;
            output.assert_output(2, phrases);
            assert!(!output.text().contains(SECRET_MARK), "a secret is printed: {}", output.text());
        }
        env.scenario.settings.remove(key);
        env.set("discovery.window", "4s");
        env.set("limits.requests_per_minute", 100_000);
    }
    std::fs::write(env.config(), "[discovery\nwindow = 3").expect("a file");
    env.run(&["run"]).await.assert_output(2, &["config.toml", "hint:"]);
    std::fs::remove_file(env.config()).expect("no file");
    env.run(&["run"]).await.assert_output(2, &["config.toml", "hint:"]);
    env.run(&["dance"]).await.assert_output(2, &["dance"]);
    assert_eq!(env.sim.stats().total_requests(), 0);
}

async fn a_missing_permission_is_named_by_check(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    let forbidden = ringcx_extractor::sim::ForbiddenRule { endpoint: Some(Endpoint::Metadata), ..Default::default() };
    env.sim.control().forbid(forbidden);
    env.run(&["check"]).await.assert_output(1, &["403", "role", "hint:"]);
    // A scope that was not granted.
    let own = if env.database.is_sqlite() { TempDatabase::sqlite() } else { TempDatabase::postgres().await };
    let env = TestEnv::new(own, Scenario::history().configure_sim(|sim| sim.tokens.scope = "ReadCallLog".into())).await;
    env.run(&["check"]).await.assert_output(1, &["ReadAccounts", "hint:"]);
    env.assert_contract_kept();
}

async fn check_finds_everything_in_place(database: TempDatabase) {
    let mut env = TestEnv::new(database, Scenario::live(3 * SECOND)).await;
    let account = env.main_account();
    env.sim.add_segment(SegmentScript::new(&account, env.begin - 10 * SECOND));
    env.run(&["check"]).await.assert_output(0, &["ok", "settings", "database", "login", &account.sub]);
    // `check` also passes while a daemon runs.
    env.start();
    env.wait_for_log("working").await;
    env.run(&["check"]).await.assert_output(0, &["ok"]);
    env.expect_complete_archive().await;
}

async fn commands_on_an_archive_that_is_not_there_say_so(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    for command in [&["status"][..], &["export"], &["audit"], &["show", "nothing"], &["queue", "list"]] {
        env.run(command).await.assert_output(1, &["hint:"]);
    }
    env.run_ok(&["migrate"]).await;
    env.run(&["show", "nothing"]).await.assert_output(1, &["nothing", "hint:"]);
    assert_eq!(env.run_ok(&["export"]).await, "");
}
