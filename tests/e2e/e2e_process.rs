//! The binary as an operator meets it: signals, exit statuses, and what it says when something is wrong.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{Credentials, SECRET_MARK, SegmentScript};
use rustix::process::Signal;
use sqlx::Connection;
use support::daemon::{Place, Plan, Rig};

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

/// A plan in which every transcript takes far longer than anyone waits.
fn slow() -> Plan {
    Plan::history().set("api.request_timeout", "60s").sim(|sim| {
        sim.faults.transcript.slow = 1.0;
        sim.faults.transcript.slow_for = support::daemon::plan::millis(30_000, 30_000);
    })
}

async fn asks_for_transcripts(rig: &Rig) {
    let asked = async || rig.sim.stats().requests.get(&Endpoint::Transcript).copied().unwrap_or(0) > 0;
    rig.until("a transcript is asked for", asked).await;
}

async fn sigterm_ends_it_in_good_order_even_while_answers_are_slow(place: Place) {
    let mut rig = Rig::started(place, slow()).await;
    asks_for_transcripts(&rig).await;
    rig.signal(Signal::TERM);
    assert_eq!(rig.exit(10 * SECOND).await, 0);
    rig.says("stopped").await;
    // What was under way is done by the next one.
    rig.sim.set_faults(Default::default());
    rig.start();
    rig.settled().await;
}

async fn sigint_ends_it_as_well(place: Place) {
    let mut rig = Rig::started(place, Plan::live(2 * SECOND)).await;
    rig.says("working").await;
    rig.signal(Signal::INT);
    assert_eq!(rig.exit(10 * SECOND).await, 0);
}

async fn a_second_signal_ends_it_at_once(place: Place) {
    let mut rig = Rig::started(place, slow()).await;
    asks_for_transcripts(&rig).await;
    rig.signal(Signal::TERM);
    rig.says("a second signal leaves at once").await;
    rig.signal(Signal::TERM);
    assert_eq!(rig.exit(2 * SECOND).await, 130);
    rig.sim.set_faults(Default::default());
    rig.start();
    rig.settled().await;
}

async fn sighup_reads_the_log_filter_again_and_ends_nothing(place: Place) {
    let mut rig = Rig::started(place, Plan::live(3 * SECOND).set("log.filter", "info")).await;
    rig.says("working").await;
    assert!(!rig.log().contains("DEBUG"));
    rig.set("log.filter", "info,ringcx_extractor=debug");
    rig.signal(Signal::HUP);
    rig.says("the log filter was read again").await;
    rig.says("DEBUG").await;
    // One that cannot be read leaves the daemon as it is.
    rig.set("log.filter", "info,,=nonsense=");
    rig.signal(Signal::HUP);
    rig.says("the old one stays").await;
    rig.set("log.filter", "info");
    assert!(rig.is_running());
    rig.settled().await;
}

async fn stopped_and_continued_it_goes_on(place: Place) {
    let rig = Rig::started(place, Plan::live(6 * SECOND)).await;
    rig.asks().await;
    rig.signal(Signal::STOP);
    rig.clock.sleep(3 * SECOND).await;
    rig.signal(Signal::CONT);
    rig.settled().await;
}

async fn a_second_daemon_on_the_same_archive_is_refused(place: Place) {
    let mut rig = Rig::started(place, Plan::live(2 * SECOND)).await;
    rig.says("working").await;
    let second = rig.run(&["run"]).await;
    second.is(1, &["another", "hint:"]);
    assert!(rig.is_running(), "the first goes on");
    rig.settled().await;
}

async fn a_database_from_a_newer_version_is_refused(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    rig.output(&["migrate"]).await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9999, 'from the future', true, 'x', 0)";
    if let Some(file) = rig.place.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.expect("the database");
        sqlx::query(newer).execute(&mut db).await.expect("a migration");
        db.close().await.expect("the end");
    } else {
        let mut db = sqlx::PgConnection::connect(&rig.place.url).await.expect("the database");
        sqlx::query(newer).execute(&mut db).await.expect("a migration");
        db.close().await.expect("the end");
    }
    for command in [&["run"][..], &["migrate"], &["status"], &["export"]] {
        rig.run(command).await.is(1, &["newer version", "hint:"]);
    }
    rig.run(&["check"]).await.is(1, &["newer version", "hint:"]);
    assert_eq!(rig.sim.stats().requests_in_all(), 0, "nothing was asked for that could not be stored");
}

async fn a_database_that_cannot_be_used_is_named_with_what_to_do(place: Place) {
    let mut rig = Rig::new(place, Plan::history()).await;
    let folder = rig.place.folder.path().to_owned();
    let mut urls = Vec::new();
    if rig.place.is_sqlite() {
        std::fs::write(folder.join("file"), "in the way").expect("a file");
        std::fs::write(folder.join("letter.txt"), "Dear database, ".repeat(1_000)).expect("a file");
        urls.push(format!("sqlite:{}", folder.join("file/archive.db").display()));
        urls.push(format!("sqlite:{}", folder.join("letter.txt").display()));
        urls.push(format!("sqlite:{}", folder.display()));
    } else {
        urls.push(rig.place.url.replace("@localhost/t", "@localhost/nowhere"));
        urls.push(rig.place.url.replace("postgres@localhost", &format!("nobody:{SECRET_MARK}@localhost")));
    }
    for url in urls {
        rig.set("database.url", url);
        for command in ["run", "migrate", "check"] {
            let output = rig.run(&[command]).await;
            output.is(1, &["hint:", "failed to"]);
            assert!(!output.text().contains(SECRET_MARK), "the password is printed: {}", output.text());
        }
    }
    assert_eq!(rig.sim.stats().requests_in_all(), 0, "nothing was asked for that could not be stored");
}

async fn a_database_server_that_is_away_is_waited_for(place: Place) {
    // On SQLite there is no server: a socket in the test's folder stands in for one, where nobody listens.
    let mut rig = Rig::new(place, Plan::live(2 * SECOND)).await;
    let (url, folder) = (rig.place.url.clone(), rig.place.folder.path().display().to_string());
    rig.set("database.url", format!("postgres://user:{SECRET_MARK}@localhost/archive?host={folder}"));
    for command in ["migrate", "check", "status"] {
        let said = ["failed to reach the Postgres database", "No such file or directory", "hint: is the server up"];
        rig.run(&[command]).await.is(1, &said);
    }
    rig.start();
    rig.says("failed to reach the Postgres database").await;
    rig.says("is the server up").await;
    rig.stop().await;
    assert!(!rig.log().contains(SECRET_MARK), "the password is printed: {}", rig.log());
    assert_eq!(rig.sim.stats().requests_in_all(), 0, "nothing was asked for that could not be stored");
    rig.set("database.url", url);
    rig.start();
    rig.settled().await;
}

async fn a_wrong_secret_is_named_with_what_to_do_and_never_printed(place: Place) {
    let wrong = format!("{SECRET_MARK}-that-is-wrong");
    let mut rig = Rig::new(place, Plan::history().set("auth.client_secret", wrong)).await;
    let check = rig.run(&["check"]).await;
    check.is(1, &["FAILED", "login", "hint: check auth.client_id, auth.client_secret"]);
    rig.start();
    rig.says("check auth.client_id, auth.client_secret and auth.jwt").await;
    rig.clock.sleep(2 * SECOND).await;
    assert!(rig.is_running(), "a person may still correct it");
    rig.stop().await;
    for text in [check.text(), rig.log()] {
        assert!(!text.contains(SECRET_MARK), "the secret is printed: {text}");
    }
    let logins = rig.sim.stats().requests[&Endpoint::Login];
    assert!(logins <= 12, "{logins} logins with a secret that is wrong");
}

async fn a_secret_that_is_corrected_in_its_file_is_taken_up(place: Place) {
    let plan = Plan::history().unset("auth.client_secret").set("auth.client_secret_file", "secret.txt");
    let mut rig = Rig::new(place, plan).await;
    let file = rig.place.folder.path().join("secret.txt");
    rig.set("auth.client_secret_file", file.display().to_string());
    std::fs::write(&file, "not this one\n").expect("a file");
    rig.start();
    rig.says("check auth.client_id, auth.client_secret and auth.jwt").await;
    std::fs::write(&file, format!("{}\n", Credentials::default().client_secret)).expect("a file");
    rig.settled().await;
}

async fn hosts_that_cannot_be_reached_are_named_with_what_to_do(place: Place) {
    // Nobody listens on the port of a listener that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port");
    let base = format!("http://{gone}");
    let mut plan = Plan::history();
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        plan = plan.set(host, base.clone());
    }
    let mut rig = Rig::new(place, plan).await;
    rig.run(&["check"]).await.is(1, &["127.0.0.1", "hint: check the URLs in [api]"]);
    rig.start();
    rig.says("no connection to 127.0.0.1").await;
    rig.says("check the URLs in [api]").await;
    assert!(rig.is_running(), "the host may come back");
    rig.stop().await;
}

async fn settings_that_cannot_be_meant_exit_with_2(place: Place) {
    let cases: [(&str, toml::Value, &[&str]); 4] = [
        ("discovery.window", "4 fortnights".into(), &["discovery.window", "config.toml", "hint:"]),
        ("discovery.windw", "4s".into(), &["discovery.windw", "discovery.window", "hint:"]),
        ("limits.requests_per_minute", "many".into(), &["limits.requests_per_minute", "hint:"]),
        ("auth.api_token", SECRET_MARK.into(), &["auth", "hint:"]),
    ];
    let mut rig = Rig::new(place, Plan::history()).await;
    for (key, value, said) in cases {
        rig.set(key, value);
        for command in ["run", "check", "status"] {
            let output = rig.run(&[command]).await;
            output.is(2, said);
            assert!(!output.text().contains(SECRET_MARK), "a secret is printed: {}", output.text());
        }
        rig.plan.settings.remove(key);
        rig.set("discovery.window", "4s");
        rig.set("limits.requests_per_minute", 100_000);
    }
    std::fs::write(rig.config(), "[discovery\nwindow = 3").expect("a file");
    rig.run(&["run"]).await.is(2, &["config.toml", "hint:"]);
    std::fs::remove_file(rig.config()).expect("no file");
    rig.run(&["run"]).await.is(2, &["config.toml", "hint:"]);
    rig.run(&["dance"]).await.is(2, &["dance"]);
    assert_eq!(rig.sim.stats().requests_in_all(), 0);
}

async fn a_missing_permission_is_named_by_check(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    let forbidden = ringcx_extractor::sim::Forbidden { endpoint: Some(Endpoint::Metadata), ..Default::default() };
    rig.sim.control().forbid(forbidden);
    rig.run(&["check"]).await.is(1, &["403", "role", "hint:"]);
    // A scope that is not granted.
    let own = if rig.place.is_sqlite() { Place::sqlite() } else { Place::postgres().await };
    let rig = Rig::new(own, Plan::history().sim(|sim| sim.tokens.scope = "ReadCallLog".into())).await;
    rig.run(&["check"]).await.is(1, &["ReadAccounts", "hint:"]);
    rig.kept_the_contract();
}

async fn check_finds_everything_in_place(place: Place) {
    let mut rig = Rig::new(place, Plan::live(3 * SECOND)).await;
    let account = rig.main_account();
    rig.sim.add_segment(SegmentScript::new(&account, rig.begin - 10 * SECOND));
    rig.run(&["check"]).await.is(0, &["ok", "settings", "database", "login", &account.sub]);
    // Beside a daemon it is no trouble either.
    rig.start();
    rig.says("working").await;
    rig.run(&["check"]).await.is(0, &["ok"]);
    rig.settled().await;
}

async fn commands_on_an_archive_that_is_not_there_say_so(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    for command in [&["status"][..], &["export"], &["audit"], &["show", "nothing"], &["queue", "list"]] {
        rig.run(command).await.is(1, &["hint:"]);
    }
    rig.output(&["migrate"]).await;
    rig.run(&["show", "nothing"]).await.is(1, &["nothing", "hint:"]);
    assert_eq!(rig.output(&["export"]).await, "");
}
