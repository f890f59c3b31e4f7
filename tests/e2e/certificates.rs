//! Certificates that are not to be trusted, shown by the API, by a receiver of webhooks and by Postgres: nothing is sent, what
//! is wrong is said, and what to do; with a good one it goes on by itself. An authority of one's own is trusted by
//! `SSL_CERT_FILE`, everywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::model::Endpoint;
use support::daemon::{Place, Plan, Rig};
use support::front::{Authority, Behind, Front, Way};
use support::receiver::{Receiver, Reply};

crate::e2e! {
    an_api_whose_certificate_is_wrong_is_told_nothing_and_waited_for,
    a_receiver_whose_certificate_is_wrong_is_sent_nothing_and_waited_for,
}

const SECOND: Duration = Duration::from_secs(1);

fn behind(base_url: &str) -> Behind {
    Behind::Tcp(base_url.trim_start_matches("http://").split('/').next().unwrap().to_owned())
}

async fn an_api_whose_certificate_is_wrong_is_told_nothing_and_waited_for(place: Place) {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut rig = Rig::new(place, Plan::live(2 * SECOND)).await;
    let front = Front::before(behind(&rig.sim.base_url()), Way::Tls, Some(theirs.good())).await;
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        rig.set(host, format!("https://localhost:{}", front.address.port()));
    }
    // Without authorities there is nobody to trust: that is said at once.
    rig.env("SSL_CERT_FILE", "/nowhere.pem");
    rig.env("SSL_CERT_DIR", "/nowhere");
    rig.run(&["check"]).await.is(1, &["hint: install the package ca-certificates, or point SSL_CERT_FILE"]);
    rig.env("SSL_CERT_FILE", &ours.file());
    rig.start();
    let wrong = [
        (theirs.good(), "UnknownIssuer"),
        (ours.expired(), "certificate expired"),
        (ours.of_another(), "certificate not valid for name \"localhost\""),
    ];
    for (certificate, what) in wrong {
        front.shows(certificate);
        let said = ["the certificate of localhost is not trusted", what, "hint: ", "set the clock", "SSL_CERT_FILE"];
        rig.run(&["check"]).await.is(1, &said);
        rig.says(what).await;
    }
    assert!(rig.is_running());
    assert_eq!(rig.sim.stats().requests_in_all(), 0, "requests to who knows whom");
    front.shows(ours.good());
    rig.run(&["check"]).await.is(0, &[]);
    rig.settled().await;
    rig.stop().await;
}

async fn a_receiver_whose_certificate_is_wrong_is_sent_nothing_and_waited_for(place: Place) {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let receiver = Receiver::start(|_| Reply::Status(204)).await;
    let front = Front::before(behind(&receiver.url), Way::Tls, Some(theirs.good())).await;
    let mut hook = toml::Table::new();
    hook.insert("name".into(), "hook".into());
    hook.insert("type".into(), "webhook".into());
    hook.insert("url".into(), format!("https://localhost:{}/hook-secret-path", front.address.port()).into());
    hook.insert("secret".into(), "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==".into());
    hook.insert("allow_private".into(), true.into());
    hook.insert("start".into(), "beginning".into());
    let mut rig = Rig::new(place, Plan::history().set("sinks", vec![toml::Value::Table(hook)])).await;
    rig.env("SSL_CERT_FILE", &ours.file());
    rig.start();
    rig.settled().await;
    let wrong = [
        (theirs.good(), "UnknownIssuer"),
        (ours.expired(), "certificate expired"),
        (ours.of_another(), "certificate not valid for name \"localhost\""),
    ];
    for (certificate, what) in wrong {
        front.shows(certificate);
        rig.until(what, async || {
            let said = rig.run(&["deliver", "status"]).await.text();
            said.contains(what) && said.contains("SSL_CERT_FILE") && !said.contains("hook-secret-path")
        })
        .await;
    }
    assert_eq!(receiver.requests(), 0, "events to who knows whom");
    front.shows(ours.good());
    rig.until("everything is delivered", async || {
        let status = rig.json(&["status", "--json"]).await;
        status["sinks"][0]["pending"] == 0 && !status["sinks"][0]["last_delivered"].is_null()
    })
    .await;
    assert!(!receiver.taken().is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_whose_certificate_is_wrong_is_told_nothing_and_waited_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut place = Place::postgres().await;
    let (rest, folder) = place.url.split_once("?host=").unwrap();
    let (socket, name) = (format!("{folder}/.s.PGSQL.5432"), rest.rsplit('/').next().unwrap());
    let front = Front::before(Behind::Unix(socket.into()), Way::PostgresTls, Some(theirs.good())).await;
    place.url = format!("postgres://postgres@localhost:{}/{name}?sslmode=verify-full", front.address.port());
    let mut rig = Rig::new(place, Plan::live(2 * SECOND)).await;
    rig.env("SSL_CERT_FILE", &ours.file());
    rig.start();
    let wrong = [
        (theirs.good(), "UnknownIssuer"),
        (ours.expired(), "certificate expired"),
        (ours.of_another(), "certificate not valid for name \"localhost\""),
    ];
    for (certificate, what) in wrong {
        front.shows(certificate);
        rig.run(&["check"]).await.is(1, &[what, "hint: ", "certificate", "SSL_CERT_FILE"]);
        rig.says(what).await;
    }
    assert!(rig.is_running());
    assert_eq!(rig.sim.stats().ok(Endpoint::Transcript), 0, "what could not be stored was asked for");
    front.shows(ours.good());
    rig.settled().await;
    rig.stop().await;
}
