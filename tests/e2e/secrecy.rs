//! Nothing secret and nothing that a customer said leaves the program but where it is asked for: everything that a run
//! shows to others is looked through for what was really there, at the log's finest level.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::collections::BTreeSet;
use std::time::Duration;

use ringcx_extractor::sim::{Credentials, Faults, PLANTED, SECRET_MARK};
use serde_json::Value;
use support::daemon::{Place, Plan, Rig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

crate::e2e! {
    nothing_that_others_see_holds_a_secret_or_what_was_said,
    a_secret_that_is_given_as_a_file_stands_nowhere_in_the_process,
    an_error_about_a_secret_does_not_show_it,
}

/// Where metadata names people and their numbers, and where it and transcripts hold what they said.
const SAID: [&str; 9] = [
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

/// Shorter ones could be part of anything, and digits alone that are shorter than the other, of the time that something took.
const SHORTEST: usize = 6;
const SHORTEST_NUMBER: usize = 10;

/// Whether it is found by chance nowhere else.
fn unmistakable(line: &str) -> bool {
    let number = line.bytes().all(|byte| byte.is_ascii_digit());
    line.len() >= if number { SHORTEST_NUMBER } else { SHORTEST }
}

/// What was said and by whom, line by line, out of an export.
fn said(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if SAID.contains(&key.as_str()) => {
                        found.extend(text.lines().filter(|line| unmistakable(line)).map(str::to_owned));
                    }
                    other => said(other, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| said(value, found)),
        _ => {}
    }
}

/// What a GET of the daemon's answers, head and all, for as long as it comes within a second.
async fn got(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The stream of events has no end.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// What signs events, as `whsec_` and as it is.
const SIGNS: &str = "aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==";

/// A webhook and a bucket, with secrets, behind a port where nobody listens.
fn sinks() -> Vec<toml::Value> {
    let table = |fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), toml::Value::from(*value)));
        fields.collect::<toml::Table>()
    };
    let url = format!("http://127.0.0.1:1/{SECRET_MARK}-hook?token={SECRET_MARK}");
    let mut hook = table(&[("name", "hook"), ("type", "webhook"), ("url", &url), ("start", "beginning")]);
    hook.insert("secret".into(), format!("whsec_{SIGNS}").into());
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

/// With secrets wherever one can stand, and faults, which make it speak.
fn noisy() -> Plan {
    Plan::history()
        .set("sinks", sinks())
        .set("log.filter", "trace")
        .set("http.listen", "127.0.0.1:0")
        .set("http.token", format!("{SECRET_MARK}-http-token"))
        .sim(|sim| {
            sim.traffic.planted = 1.0;
            sim.tokens.access_life = Duration::from_secs(2);
            sim.faults = Faults::everywhere(0.04);
            sim.faults.metadata.slow = 0.0;
        })
}

/// The place with a password in its URL, where it can have one; the tests' server asks for none and takes any.
fn with_password(mut place: Place) -> Place {
    place.url = place.url.replace("postgres@localhost", &format!("postgres:{SECRET_MARK}-database@localhost"));
    place
}

fn holds_nothing(what: &str, shown: &str, forbidden: &BTreeSet<String>) {
    for text in forbidden {
        // Also as JSON and HTML would write it.
        let written = [text.clone(), serde_json::to_string(text).unwrap().trim_matches('"').to_owned()];
        for written in written {
            let line = shown.lines().find(|line| line.contains(&written));
            assert_eq!(line, None, "{what} shows {written:?}");
        }
    }
}

async fn nothing_that_others_see_holds_a_secret_or_what_was_said(place: Place) {
    let mut rig = Rig::started(with_password(place), noisy()).await;
    rig.settled().await;
    let mut forbidden: BTreeSet<String> = [SECRET_MARK, PLANTED, SIGNS].map(str::to_owned).into();
    let exported = rig.output(&["export"]).await;
    exported.lines().for_each(|line| said(&ringcx_extractor::lenient_json::from_str(line).unwrap(), &mut forbidden));
    assert!(forbidden.len() > 40 && forbidden.iter().any(|text| text.starts_with("+1650")), "{forbidden:#?}");
    let log = rig.log();
    let address = log.split("the dashboard is at http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let first: Value = ringcx_extractor::lenient_json::from_str(exported.lines().next().unwrap()).unwrap();
    let one = |key: &str| first[key].as_str().unwrap();
    let conversation = format!("/conversation?account={}&segment={}", one("sub_account_id"), one("segment_id"));
    let pages = ["/", "/events", "/metrics", "/readyz", "/healthz", "/api/status", "/nothing"];
    for path in pages.into_iter().chain(["/search?q=parcel", "/login", &conversation]) {
        let answer = got(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
        holds_nothing(path, &answer, &forbidden);
    }
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", rig.pid())).unwrap();
    holds_nothing("the command line", &String::from_utf8_lossy(&cmdline), &forbidden);
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
        holds_nothing(&command.join(" "), &rig.run(command).await.text(), &forbidden);
    }
    rig.stop().await;
    let log = rig.log();
    assert!(log.contains("idle connection"), "the log does not show the least of what it could");
    assert!(log.contains("sink=\"hook\""), "the log says nothing of the sink that is not there");
    holds_nothing("the log", &log, &forbidden);
}

async fn a_secret_that_is_given_as_a_file_stands_nowhere_in_the_process(place: Place) {
    let held = Credentials::default();
    let mut plan = noisy();
    for (key, secret) in [("auth.client_secret", held.client_secret), ("auth.jwt", held.jwt)] {
        let file = place.folder.path().join(key);
        std::fs::write(&file, secret).unwrap();
        plan = plan.unset(key).set(&format!("{key}_file"), file.display().to_string());
    }
    let mut rig = Rig::started(place, plan).await;
    rig.asks().await;
    let forbidden: BTreeSet<String> = [SECRET_MARK, SIGNS].map(str::to_owned).into();
    // Whoever reads `ps e` sees both; with a secret in a variable, the second would have it.
    for shown in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{shown}", rig.pid())).unwrap();
        assert!(!bytes.is_empty());
        holds_nothing(shown, &String::from_utf8_lossy(&bytes), &forbidden);
    }
    rig.stop().await;
    // What settings come to in the end is not part of any help.
    rig.env("RINGCX__AUTH__API_TOKEN", &format!("{SECRET_MARK}-variable"));
    let help = rig.output(&["--help"]).await;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 15 && commands.contains(&"run") && commands.contains(&"help"), "{commands:?}");
    for command in commands {
        let help = rig.output(&["help", command]).await;
        assert!(help.contains("Usage:"), "{help}");
        holds_nothing(&format!("help {command}"), &help, &forbidden);
    }
}

async fn an_error_about_a_secret_does_not_show_it(place: Place) {
    let held = Credentials::default();
    let forbidden: BTreeSet<String> = [SECRET_MARK.to_owned()].into();
    let no_login = noisy().unset("auth.client_id").unset("auth.client_secret").unset("auth.jwt");
    let engage = no_login
        .clone()
        .set("auth.username", held.username)
        .set("auth.password", format!("{SECRET_MARK} wr&ng"))
        .set("auth.platform_id", held.platform_id);
    let plans = [
        noisy().set("auth.client_secret", format!("{SECRET_MARK}-wrong")),
        noisy().set("auth.jwt", format!("{SECRET_MARK}-wrong")),
        engage,
        no_login.set("auth.api_token", format!("{SECRET_MARK}-wrong")),
    ];
    let mut rig = Rig::new(with_password(place), noisy()).await;
    for plan in plans {
        rig.plan.settings.retain(|key, _| !key.starts_with("auth."));
        for (key, value) in plan.settings.into_iter().filter(|(key, _)| key.starts_with("auth.")) {
            rig.set(&key, value);
        }
        for command in ["check", "status", "migrate"] {
            let output = rig.run(&[command]).await;
            assert!(command != "check" || output.status == 1, "{}", output.text());
            holds_nothing(command, &output.text(), &forbidden);
        }
    }
    // Settings that cannot be read quote what they are about, but no secret.
    let text = std::fs::read_to_string(rig.config()).unwrap();
    let broken = [
        format!("{text}\n[http]\ntoken = \"{SECRET_MARK}\"\n"),
        text.replacen("[database]\n", &format!("[database]\nurl = [\"{SECRET_MARK}\"]\n"), 1),
        format!("[auth]\njwt = \"{SECRET_MARK}\njwt_file = 1\n"),
        format!("{text}\n[[sinks]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{SECRET_MARK}://?\"\nsecret = 7\n"),
    ];
    for settings in broken {
        std::fs::write(rig.config(), settings).unwrap();
        let output = rig.run(&["check"]).await;
        output.is(2, &["hint:"]);
        holds_nothing("an error about settings", &output.text(), &forbidden);
    }
}
