//! No secret and no customer text leaves the program except where it is requested: everything that a run shows to others is
//! searched for the secrets and texts that were really there, at the log's finest level.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::collections::BTreeSet;
use std::time::Duration;

use ringcx_extractor::sim::{AcceptedCredentials, CANARY_TEXT, Faults, SECRET_MARK};
use serde_json::Value;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

crate::e2e! {
    nothing_that_others_see_holds_a_secret_or_what_was_said,
    a_secret_that_is_given_as_a_file_stands_nowhere_in_the_process,
    an_error_about_a_secret_does_not_show_it,
}

/// Fields of metadata and transcripts that hold names, numbers and spoken text.
const PERSONAL_FIELDS: [&str; 9] = [
    "channelId",
    "channelEndpointAddress",
    "contactEndpointAddress",
    "segmentParticipantId",
    "segmentParticipantRcExtensionId",
    "agentNotes",
    "participantName",
    "message",
    "text",
];

/// Shorter texts could occur anywhere by chance, and shorter digit runs could be part of a duration.
const MIN_TEXT_LENGTH: usize = 6;
const MIN_NUMBER_LENGTH: usize = 10;

/// Whether the text cannot occur elsewhere by chance.
fn is_distinctive(line: &str) -> bool {
    let number = line.bytes().all(|byte| byte.is_ascii_digit());
    line.len() >= if number { MIN_NUMBER_LENGTH } else { MIN_TEXT_LENGTH }
}

/// Collects names, numbers and spoken lines from an exported value.
fn collect_personal_text(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if PERSONAL_FIELDS.contains(&key.as_str()) => {
                        found.extend(text.lines().filter(|line| is_distinctive(line)).map(str::to_owned));
                    }
                    other => collect_personal_text(other, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect_personal_text(value, found)),
        _ => {}
    }
}

/// The raw response of a GET request, head included, as far as it arrives within a second.
async fn http_get_raw(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The event stream never ends.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The webhook signing secret, without its prefix `whsec_`.
const SIGNING_SECRET: &str = "aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==";

/// A webhook and a bucket with secrets, on a port where nobody listens.
fn sinks() -> Vec<toml::Value> {
    let table = |fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), toml::Value::from(*value)));
        fields.collect::<toml::Table>()
    };
    let url = format!("http://127.0.0.1:1/{SECRET_MARK}-hook?token={SECRET_MARK}");
    let mut hook = table(&[("name", "hook"), ("type", "webhook"), ("url", &url), ("start", "beginning")]);
    hook.insert("secret".into(), format!("whsec_{SIGNING_SECRET}").into());
    hook.insert("allow_private".into(), true.into());
    let key = format!("{SECRET_MARK}-key");
    let options = table(&[
        ("endpoint", "http://127.0.0.1:1"),
        ("allow_http", "true"),
        ("region", "eu-central-1"),
        ("access_key_id", &key),
        ("secret_access_key", &key),
    ]);
    let mut lake = table(&[("name", "lake"), ("type", "object_store"), ("url", "s3://calls/by-day")]);
    lake.insert("options".into(), options.into());
    vec![hook.into(), lake.into()]
}

/// A scenario with secrets in every setting that can hold one, and faults that make the daemon log.
fn scenario_with_secrets() -> Scenario {
    Scenario::history()
        .set("sinks", sinks())
        .set("log.filter", "trace")
        .set("log.format", "json")
        .set("http.listen", "127.0.0.1:0")
        .set("http.token", format!("{SECRET_MARK}-http-token"))
        .configure_sim(|sim| {
            sim.traffic.canary_texts = 1.0;
            sim.tokens.access_lifetime = Duration::from_secs(2);
            sim.faults = Faults::everywhere(0.04);
            sim.faults.metadata.slow = 0.0;
        })
}

/// Adds a password to a Postgres URL. The test server requires none and accepts any.
fn add_url_password(mut database: TempDatabase) -> TempDatabase {
    database.url = database.url.replace("postgres@localhost", &format!("postgres:{SECRET_MARK}-database@localhost"));
    database
}

fn assert_contains_none(what: &str, shown: &str, forbidden: &BTreeSet<String>) {
    for text in forbidden {
        // Also as it is escaped in JSON.
        let escaped = [text.clone(), serde_json::to_string(text).unwrap().trim_matches('"').to_owned()];
        for escaped in escaped {
            let line = shown.lines().find(|line| line.contains(&escaped));
            assert_eq!(line, None, "{what} shows {escaped:?}");
        }
    }
}

async fn nothing_that_others_see_holds_a_secret_or_what_was_said(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(add_url_password(database), scenario_with_secrets()).await;
    env.expect_complete_archive().await;
    let mut forbidden: BTreeSet<String> = [SECRET_MARK, CANARY_TEXT, SIGNING_SECRET].map(str::to_owned).into();
    let exported = env.run_ok(&["export"]).await;
    exported.lines().for_each(|line| {
        collect_personal_text(&ringcx_extractor::lenient_json::from_str(line).unwrap(), &mut forbidden)
    });
    assert!(forbidden.len() > 40 && forbidden.iter().any(|text| text.starts_with("+1650")), "{forbidden:#?}");
    let log = env.log();
    let address = log.split("the dashboard is at http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let first: Value = ringcx_extractor::lenient_json::from_str(exported.lines().next().unwrap()).unwrap();
    let one = |key: &str| first[key].as_str().unwrap();
    let conversation = format!("/conversation?account={}&segment={}", one("sub_account_id"), one("segment_id"));
    let pages = ["/", "/events", "/metrics", "/readyz", "/healthz", "/api/status", "/nothing"];
    for path in pages.into_iter().chain(["/search?q=parcel", "/login", &conversation]) {
        let answer = http_get_raw(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
        assert_contains_none(path, &answer, &forbidden);
    }
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", env.pid())).unwrap();
    assert_contains_none("the command line", &String::from_utf8_lossy(&cmdline), &forbidden);
    let commands: [&[&str]; 14] = [
        &["check"],
        &["status"],
        &["status", "--json"],
        &["audit"],
        &["audit", "--json"],
        &["queue", "list", "--all"],
        &["queue", "list", "--all", "--json"],
        &["backfill", "--from", "2h", "--to", "1h"],
        &["deliver", "status"],
        &["deliver", "status", "--json"],
        &["deliver", "retry", "--all"],
        &["hold", "list"],
        &["verify"],
        &["migrate"],
    ];
    for command in commands {
        assert_contains_none(&command.join(" "), &env.run(command).await.text(), &forbidden);
    }
    env.stop().await;
    let log = env.log();
    assert!(log.contains("idle connection"), "the log is not at its finest level");
    assert!(log.contains("\"sink\":\"hook\""), "the log does not mention the unreachable sink");
    let spans: BTreeSet<String> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .flat_map(|line| line["spans"].as_array().cloned().unwrap_or_default())
        .map(|span| span.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = ["account name", "duration_ms endpoint method name status", "duration_ms name operation rows"];
    assert!(expected.iter().all(|span| spans.contains(*span)), "{spans:#?}");
    assert_contains_none("the log", &log, &forbidden);
}

async fn a_secret_that_is_given_as_a_file_stands_nowhere_in_the_process(database: TempDatabase) {
    let credentials = AcceptedCredentials::default();
    let mut scenario = scenario_with_secrets();
    for (key, secret) in [("auth.client_secret", credentials.client_secret), ("auth.jwt", credentials.jwt)] {
        let file = database.folder.path().join(key);
        std::fs::write(&file, secret).unwrap();
        scenario = scenario.unset(key).set(&format!("{key}_file"), file.display().to_string());
    }
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_request().await;
    let forbidden: BTreeSet<String> = [SECRET_MARK, SIGNING_SECRET].map(str::to_owned).into();
    // `ps e` shows both. A secret in a variable would appear in the second.
    for shown in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{shown}", env.pid())).unwrap();
        assert!(!bytes.is_empty());
        assert_contains_none(shown, &String::from_utf8_lossy(&bytes), &forbidden);
    }
    env.stop().await;
    // `--help` does not show the values of settings.
    env.set_env_var("RINGCX__AUTH__API_TOKEN", &format!("{SECRET_MARK}-variable"));
    let help = env.run_ok(&["--help"]).await;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 15 && commands.contains(&"run") && commands.contains(&"help"), "{commands:?}");
    for command in commands {
        let help = env.run_ok(&["help", command]).await;
        assert!(help.contains("Usage:"), "{help}");
        assert_contains_none(&format!("help {command}"), &help, &forbidden);
    }
}

async fn an_error_about_a_secret_does_not_show_it(database: TempDatabase) {
    let credentials = AcceptedCredentials::default();
    let forbidden: BTreeSet<String> = [SECRET_MARK.to_owned()].into();
    let no_login = scenario_with_secrets().unset("auth.client_id").unset("auth.client_secret").unset("auth.jwt");
    let engage = no_login
        .clone()
        .set("auth.username", credentials.username)
        .set("auth.password", format!("{SECRET_MARK} wr&ng"))
        .set("auth.platform_id", credentials.platform_id);
    let scenarios = [
        scenario_with_secrets().set("auth.client_secret", format!("{SECRET_MARK}-wrong")),
        scenario_with_secrets().set("auth.jwt", format!("{SECRET_MARK}-wrong")),
        engage,
        no_login.set("auth.api_token", format!("{SECRET_MARK}-wrong")),
    ];
    let mut env = TestEnv::new(add_url_password(database), scenario_with_secrets()).await;
    for scenario in scenarios {
        env.scenario.settings.retain(|key, _| !key.starts_with("auth."));
        for (key, value) in scenario.settings.into_iter().filter(|(key, _)| key.starts_with("auth.")) {
            env.set(&key, value);
        }
        for command in ["check", "status", "migrate"] {
            let output = env.run(&[command]).await;
            assert!(command != "check" || output.status == 1, "{}", output.text());
            assert_contains_none(command, &output.text(), &forbidden);
        }
    }
    // Errors about settings quote the faulty part, but no secret.
    let text = std::fs::read_to_string(env.config()).unwrap();
    let broken = [
        format!("{text}\n[http]\ntoken = \"{SECRET_MARK}\"\n"),
        text.replacen("[database]\n", &format!("[database]\nurl = [\"{SECRET_MARK}\"]\n"), 1),
        format!("[auth]\njwt = \"{SECRET_MARK}\njwt_file = 1\n"),
        format!("{text}\n[[sinks]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{SECRET_MARK}://?\"\nsecret = 7\n"),
    ];
    for settings in broken {
        std::fs::write(env.config(), settings).unwrap();
        let output = env.run(&["check"]).await;
        output.assert_output(2, &["hint:"]);
        assert_contains_none("an error about settings", &output.text(), &forbidden);
    }
}
