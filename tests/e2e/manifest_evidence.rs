//! The evidence for auditors: exports of the manifests, signed by the operator and dated by a time-stamp authority, are checked by
//! the script of docs/proof.md, which needs only Python and OpenSSL. A past that was rewritten by the owner of database and key
//! does not pass.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Db, OpenMode, sql};
use tokio::task::JoinSet;

use crate::support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    the_daemon_exports_signed_and_dated_manifests_and_a_rewritten_past_does_not_pass,
}

const DAY: Duration = Duration::from_secs(86_400);
const PROOF: &str = include_str!("../../docs/proof.md");
const AUTHORITY_SETTINGS: &str = "[tsa]\ndefault_tsa = authority\n[authority]\nserial = serial\nsigner_cert = tsa.pem\n\
    signer_key = tsa.key\nsigner_digest = sha256\ndefault_policy = 1.2.3.4.1\ndigests = sha256\ness_cert_id_alg = sha256\n";

fn run(folder: &Path, words: &[&str]) -> Output {
    Command::new(words[0]).args(&words[1..]).current_dir(folder).output().expect("a program that starts")
}

fn run_ok(folder: &Path, words: &[&str]) {
    let output = run(folder, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Answers as a time-stamp authority does, with OpenSSL.
async fn time_stamp(State(folder): State<PathBuf>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    // Like an authority that cannot be reached at first.
    if !folder.join("is-open").exists() {
        return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
    }
    assert_eq!(headers["content-type"], "application/timestamp-query");
    std::fs::write(folder.join("query"), &body).unwrap();
    run_ok(&folder, &["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply"]);
    (StatusCode::OK, std::fs::read(folder.join("reply")).unwrap())
}

/// Creates keys and certificates in the folder, and starts the authority. Returns its URL.
async fn start_authority(folder: &Path, tasks: &mut JoinSet<()>) -> String {
    let certificate = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=authority -days 2 \
        -addext extendedKeyUsage=critical,timeStamping -keyout tsa.key -out tsa.pem";
    let key = "openssl genpkey -algorithm ed25519 -out manifest-key.pem";
    let public_key = "openssl pkey -in manifest-key.pem -pubout -out manifest-key.pub";
    for command in [certificate, key, public_key] {
        run_ok(folder, &command.split_whitespace().collect::<Vec<_>>());
    }
    std::fs::write(folder.join("tsa.cnf"), AUTHORITY_SETTINGS).unwrap();
    std::fs::write(folder.join("serial"), "01\n").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/tsr", listener.local_addr().unwrap());
    let router = Router::new().fallback(time_stamp).with_state(folder.to_owned());
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// Runs the script for auditors on these files of the folder; returns whether they pass, and its output.
fn check(folder: &Path, files: &[&str]) -> (bool, String) {
    let script = PROOF.split_once("```python\n").unwrap().1.split_once("```\n").unwrap().0;
    assert!(script.lines().count() <= 50, "an auditor can read fifty lines");
    let options = ["python3", "-c", script, "--key", "manifest-key.pub", "--tsa", "tsa.pem"];
    let output = run(folder, &[&options, files].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

async fn open(database: &TempDatabase) -> Db {
    match database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await.unwrap(),
        None => Db::open_postgres(&database.url.clone().into(), OpenMode::Existing, 2).await.unwrap(),
    }
}

/// Writes the manifest of the day before `now`, as the daemon does after midnight.
async fn write_manifest(env: &TestEnv, now: Time) {
    let db = open(&env.database).await;
    let account = db.accounts().await.unwrap().remove(0).key;
    let lease = db.acquire_leases(&[account], "e2e", Duration::from_secs(10), now).await.unwrap().remove(0);
    assert!(db.write_daily_manifest(lease, now).await.unwrap().is_some());
    db.close().await;
}

async fn the_daemon_exports_signed_and_dated_manifests_and_a_rewritten_past_does_not_pass(database: TempDatabase) {
    let mut tasks = JoinSet::new();
    let folder = database.folder.path().to_owned();
    let authority = start_authority(&folder, &mut tasks).await;
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.expect_complete_archive().await;
    env.stop().await;
    write_manifest(&env, env.clock.now() + DAY).await;

    // The daily export. The authority is away at first.
    let yesterday = (env.clock.now() - DAY).timestamp().strftime("%Y-%m-%d").to_string();
    let file = format!("manifests-{yesterday}.jsonl");
    env.set("manifests.daily_at", "00:00");
    env.set("manifests.path", ".");
    env.set("manifests.signing_key_file", "manifest-key.pem");
    env.set("manifests.timestamp_url", authority.as_str());
    env.start();
    env.wait_for_log("failed to get a time stamp from 127.0.0.1: it answered with status 503").await;
    env.wait_until("a finding reports it", async || {
        env.run_ok(&["status", "--json"]).await.contains("manifests_not_exported")
    })
    .await;
    env.stop().await;
    let (passes, text) = check(&folder, &[&file]);
    assert!(!passes && text.contains(".tsr"), "without a time stamp it passes: {text}");
    std::fs::write(folder.join("is-open"), "").unwrap();
    let export = std::fs::read(folder.join(&file)).unwrap();
    env.start();
    env.wait_until("the export is dated", async || folder.join(format!("{file}.tsr")).exists()).await;
    env.stop().await;
    assert_eq!(std::fs::read(folder.join(&file)).unwrap(), export, "it was written again");
    let (passes, text) = check(&folder, &[&file]);
    assert!(passes && text.contains("with 1 manifests"), "{text}");

    // A later file continues it.
    let export_again = async |env: &TestEnv, name: &str| {
        let words = ["verify", "--manifests", name, "--manifests-only", "--sign", "manifest-key.pem", "--timestamp"];
        env.run_ok(&[&words[..], &[&authority]].concat()).await;
    };
    export_again(&env, "later.jsonl").await;
    let (passes, text) = check(&folder, &[&file, "later.jsonl"]);
    assert!(passes && text.ends_with("the manifests are consistent\n"), "{text}");

    // The owner of database and key rewrites the past, with all hashes and signatures.
    let db = open(&env.database).await;
    db.run(sql("delete from manifest")).await.unwrap();
    db.run(sql("update account set chain_from = feed, chain = null, manifest = null")).await.unwrap();
    db.close().await;
    write_manifest(&env, env.clock.now() + DAY).await;
    export_again(&env, "rewritten.jsonl").await;
    let (passes, text) = check(&folder, &["rewritten.jsonl"]);
    assert!(passes, "by itself it is consistent: {text}");
    let (passes, text) = check(&folder, &[&file, "rewritten.jsonl"]);
    assert!(!passes && text.contains("are not those of the file before it"), "{text}");

    // And replaces the earlier file, too. Only the date of its time stamp shows it.
    let rewritten = std::fs::read_to_string(folder.join("rewritten.jsonl")).unwrap();
    let today = env.clock.now().timestamp().strftime("\"at\":\"%Y-%m-%dT").to_string();
    let earlier = (env.clock.now() - 3 * DAY).timestamp().strftime("\"at\":\"%Y-%m-%dT").to_string();
    assert!(rewritten.contains(&today), "{rewritten}");
    std::fs::write(folder.join("backdated.jsonl"), rewritten.replace(&today, &earlier)).unwrap();
    let sign = "openssl pkeyutl -sign -inkey manifest-key.pem -rawin -in backdated.jsonl -out backdated.jsonl.sig";
    let query = "openssl ts -query -data backdated.jsonl -sha256 -cert -no_nonce -out query";
    let reply = "openssl ts -reply -config tsa.cnf -queryfile query -out backdated.jsonl.tsr";
    for command in [sign, query, reply] {
        run_ok(&folder, &command.split_whitespace().collect::<Vec<_>>());
    }
    let (passes, text) = check(&folder, &["backdated.jsonl", "rewritten.jsonl"]);
    assert!(!passes && text.contains("but the authority dated it"), "{text}");

    // The time stamp of the genuine file does not fit.
    std::fs::copy(folder.join(format!("{file}.tsr")), folder.join("backdated.jsonl.tsr")).unwrap();
    let (passes, text) = check(&folder, &["backdated.jsonl"]);
    assert!(!passes && text.contains("openssl ts -verify"), "{text}");
}
