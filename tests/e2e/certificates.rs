//! Untrusted certificates of the API, a webhook receiver and Postgres: nothing is sent, the error names the fault and a hint, and
//! the daemon recovers by itself with a valid certificate. `SSL_CERT_FILE` adds a certificate authority for all three.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::model::Endpoint;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use support::tls_proxy::{TestCa, TlsMode, TlsProxy, Upstream};
use support::webhook_receiver::{WebhookReceiver, WebhookReply};

crate::e2e! {
    an_api_whose_certificate_is_wrong_is_told_nothing_and_waited_for,
    a_receiver_whose_certificate_is_wrong_is_sent_nothing_and_waited_for,
}

const SECOND: Duration = Duration::from_secs(1);

fn tcp_upstream(base_url: &str) -> Upstream {
    Upstream::Tcp(base_url.trim_start_matches("http://").split('/').next().unwrap().to_owned())
}

async fn an_api_whose_certificate_is_wrong_is_told_nothing_and_waited_for(database: TempDatabase) {
    let (our_ca, other_ca) = (TestCa::new(), TestCa::new());
    let mut env = TestEnv::new(database, Scenario::live(2 * SECOND)).await;
    let proxy =
        TlsProxy::start(tcp_upstream(&env.sim.base_url()), TlsMode::Tls, Some(other_ca.valid_certificate())).await;
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        env.set(host, format!("https://localhost:{}", proxy.address.port()));
    }
    // Without any certificate authority the program fails at once.
    env.set_env_var("SSL_CERT_FILE", "/nowhere.pem");
    env.set_env_var("SSL_CERT_DIR", "/nowhere");
    env.run(&["check"]).await.assert_output(1, &["hint: install the package ca-certificates, or point SSL_CERT_FILE"]);
    env.set_env_var("SSL_CERT_FILE", &our_ca.ca_file());
    env.start();
    let wrong = [
        (other_ca.valid_certificate(), "UnknownIssuer"),
        (our_ca.expired_certificate(), "certificate expired"),
        (our_ca.other_host_certificate(), "certificate not valid for name \"localhost\""),
    ];
    for (certificate, what) in wrong {
        proxy.set_certificate(certificate);
        let phrases = ["the certificate of localhost is not trusted", what, "hint: ", "set the clock", "SSL_CERT_FILE"];
        env.run(&["check"]).await.assert_output(1, &phrases);
        env.wait_for_log(what).await;
    }
    assert!(env.is_running());
    assert_eq!(env.sim.stats().total_requests(), 0, "requests to an untrusted host");
    proxy.set_certificate(our_ca.valid_certificate());
    env.run(&["check"]).await.assert_output(0, &[]);
    env.expect_complete_archive().await;
    env.stop().await;
}

async fn a_receiver_whose_certificate_is_wrong_is_sent_nothing_and_waited_for(database: TempDatabase) {
    let (our_ca, other_ca) = (TestCa::new(), TestCa::new());
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(204)).await;
    let proxy = TlsProxy::start(tcp_upstream(&receiver.url), TlsMode::Tls, Some(other_ca.valid_certificate())).await;
    let mut hook = toml::Table::new();
    hook.insert("name".into(), "hook".into());
    hook.insert("type".into(), "webhook".into());
    hook.insert("url".into(), format!("https://localhost:{}/hook-secret-path", proxy.address.port()).into());
    hook.insert("secret".into(), "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==".into());
    hook.insert("allow_private".into(), true.into());
    hook.insert("start".into(), "beginning".into());
    let mut env = TestEnv::new(database, Scenario::history().set("sinks", vec![toml::Value::Table(hook)])).await;
    env.set_env_var("SSL_CERT_FILE", &our_ca.ca_file());
    env.start();
    env.expect_complete_archive().await;
    let wrong = [
        (other_ca.valid_certificate(), "UnknownIssuer"),
        (our_ca.expired_certificate(), "certificate expired"),
        (our_ca.other_host_certificate(), "certificate not valid for name \"localhost\""),
    ];
    for (certificate, what) in wrong {
        proxy.set_certificate(certificate);
        env.wait_until(what, async || {
            let text = env.run(&["deliver", "status"]).await.text();
            text.contains(what) && text.contains("SSL_CERT_FILE") && !text.contains("hook-secret-path")
        })
        .await;
    }
    assert_eq!(receiver.request_count(), 0, "events to an untrusted host");
    proxy.set_certificate(our_ca.valid_certificate());
    env.wait_until("everything is delivered", async || {
        let status = env.run_json(&["status", "--json"]).await;
        status["sinks"][0]["pending"] == 0 && !status["sinks"][0]["last_delivered"].is_null()
    })
    .await;
    assert!(!receiver.accepted().is_empty());
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_whose_certificate_is_wrong_is_told_nothing_and_waited_for() {
    let (our_ca, other_ca) = (TestCa::new(), TestCa::new());
    let mut database = TempDatabase::postgres().await;
    let (rest, folder) = database.url.split_once("?host=").unwrap();
    let (socket, name) = (format!("{folder}/.s.PGSQL.5432"), rest.rsplit('/').next().unwrap());
    let proxy =
        TlsProxy::start(Upstream::Unix(socket.into()), TlsMode::PostgresStartTls, Some(other_ca.valid_certificate()))
            .await;
    database.url = format!("postgres://postgres@localhost:{}/{name}?sslmode=verify-full", proxy.address.port());
    let mut env = TestEnv::new(database, Scenario::live(2 * SECOND)).await;
    env.set_env_var("SSL_CERT_FILE", &our_ca.ca_file());
    env.start();
    let wrong = [
        (other_ca.valid_certificate(), "UnknownIssuer"),
        (our_ca.expired_certificate(), "certificate expired"),
        (our_ca.other_host_certificate(), "certificate not valid for name \"localhost\""),
    ];
    for (certificate, what) in wrong {
        proxy.set_certificate(certificate);
        env.run(&["check"]).await.assert_output(1, &[what, "hint: ", "certificate", "SSL_CERT_FILE"]);
        env.wait_for_log(what).await;
    }
    assert!(env.is_running());
    assert_eq!(env.sim.stats().ok_count(Endpoint::Transcript), 0, "requests whose answers could not be stored");
    proxy.set_certificate(our_ca.valid_certificate());
    env.expect_complete_archive().await;
    env.stop().await;
}
