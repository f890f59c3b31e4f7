//! The simulator seen from a client, over real HTTP, on a clock that the tests move.

mod books;
mod limits;
mod login;
mod windows;
mod wire;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::*;
use crate::model::{Artifact, Endpoint, Stretch};

/// Ten o'clock.
const TEN: Time = Time::from_secs(1_795_168_800);

/// A simulator, its clock, and a client with a token.
struct Rig {
    sim: Sim,
    clock: Clock,
    http: reqwest::Client,
    account: AccountId,
    token: String,
    refresh: String,
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn records(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

fn encode(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Everything there at once, nothing refused: for tests about something else.
fn easy() -> Options {
    Options {
        limits: SimLimits::lifted(),
        traffic: Traffic { odd_bodies: 0.0, odd_ends: 0.0, ..Traffic::default() },
        availability: Availability {
            appear_after: Duration::ZERO,
            transcript_after: Spread::default(),
            summary_after: Spread::default(),
            ..Availability::default()
        },
        ..Options::default()
    }
}

impl Rig {
    /// A simulator with a client that has logged in.
    async fn start(options: Options) -> Rig {
        let mut rig = Rig::stranger(options).await;
        rig.login().await;
        rig
    }

    /// A simulator with a client that has not.
    async fn stranger(options: Options) -> Rig {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = Clock::manual(TEN);
        let account = options.accounts[0].clone();
        let sim = Sim::start(options, clock.clone()).await.unwrap();
        let http = reqwest::Client::builder()
            .user_agent("sim-tests/1.0")
            .retry(reqwest::retry::never())
            .no_proxy()
            .build()
            .unwrap();
        Rig { sim, clock, http, account, token: String::new(), refresh: String::new() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.sim.base_url()))
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.text().await.unwrap() }
    }

    async fn rc_token(&self) -> Answer {
        let held = Credentials::default();
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &held.jwt)];
        let request = self.request(Method::POST, "/restapi/oauth/token").form(&form);
        self.send(request.basic_auth(&held.client_id, Some(&held.client_secret))).await
    }

    async fn exchange(&self, rc: &str) -> Answer {
        let path = "/api/auth/login/rc/accesstoken?includeRefresh=true";
        let form = [("rcAccessToken", rc), ("rcTokenType", "Bearer")];
        self.send(self.request(Method::POST, path).form(&form)).await
    }

    async fn login(&mut self) {
        let rc = self.rc_token().await.json();
        let answer = self.exchange(rc["access_token"].as_str().unwrap()).await.json();
        self.take_tokens(&answer);
    }

    fn take_tokens(&mut self, answer: &Value) {
        self.token = answer["accessToken"].as_str().unwrap().into();
        self.refresh = answer["refreshToken"].as_str().unwrap().into();
    }

    fn account_path(&self) -> String {
        format!(
            "/voice/api/cx/integration/v1/accounts/{}/sub-accounts/{}",
            encode(&self.account.rc),
            encode(&self.account.sub)
        )
    }

    fn metadata_request(&self, ask: &Value) -> RequestBuilder {
        let path = format!("{}/interaction-metadata", self.account_path());
        self.request(Method::POST, &path).bearer_auth(&self.token).json(ask)
    }

    async fn metadata(&self, from: Time, seconds: u32) -> Answer {
        let ask = serde_json::json!({
            "segmentEndTime": from.rfc3339_secs().replace('T', " ").replace('Z', ""),
            "timeInterval": seconds,
            "timeZone": "UTC",
        });
        self.send(self.metadata_request(&ask)).await
    }

    fn item_request(&self, entry: &LedgerEntry, artifact: Artifact) -> RequestBuilder {
        let id = encode(&entry.segment_id);
        if artifact == Artifact::Transcript {
            let dialog = encode(entry.dialog_id.as_deref().unwrap());
            let path = format!("{}/transcripts/dialogs/{dialog}/segments/{id}", self.account_path());
            return self.request(Method::GET, &path).bearer_auth(&self.token);
        }
        let which = if artifact == Artifact::AgentSummary { "agent" } else { "auto" };
        let path = format!("/voice/api/v1/summary/accounts/{}/segments/{id}/{which}", self.account.sub);
        self.request(Method::GET, &path).header("cookie", format!("access_token={}", self.token))
    }

    async fn item(&self, entry: &LedgerEntry, artifact: Artifact) -> Answer {
        self.send(self.item_request(entry, artifact)).await
    }

    /// Everything that ended in the last hour.
    fn hour(&self) -> Vec<LedgerEntry> {
        let hour = Stretch { from: TEN - Duration::from_secs(3600), to: TEN };
        self.sim.ledger().ledger_for(hour, self.sim.now())
    }

    fn assert_no_violations(&self) {
        assert_eq!(self.sim.stats().violations, Vec::<String>::new());
    }

    /// That the contract was broken just so.
    fn assert_violation(&self, what: &str) {
        let found = self.sim.stats().violations;
        assert!(found.iter().any(|one| one.contains(what)), "{found:?} does not say \"{what}\"");
    }
}
