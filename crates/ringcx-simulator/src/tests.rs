//! Tests of the simulator from a client's view: over HTTP, on a manual clock.

mod authentication;
mod connection_faults;
mod enforced_limits;
mod metadata_windows;
mod recordings;
mod served_data;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::*;
use crate::model::{Artifact, Endpoint, TimeRange};

/// 2026-11-20, 10:00:00 UTC.
const START: Time = Time::from_secs(1_795_168_800);

/// A simulator, its clock, and a client with tokens.
struct SimTestEnv {
    sim: Sim,
    clock: Clock,
    http: reqwest::Client,
    account: AccountId,
    token: String,
    refresh: String,
}

struct ClientResponse {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl ClientResponse {
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

/// Everything is available immediately and no limit applies: for tests of other behaviour.
fn unlimited_options() -> Options {
    Options {
        limits: SimLimits::unlimited(),
        traffic: Traffic { odd_bodies: 0.0, odd_ends: 0.0, ..Traffic::default() },
        availability: Availability {
            appear_after: Duration::ZERO,
            transcript_after: DelayRange::default(),
            summary_after: DelayRange::default(),
            ..Availability::default()
        },
        ..Options::default()
    }
}

impl SimTestEnv {
    /// A simulator and a logged-in client.
    async fn start(options: Options) -> SimTestEnv {
        let mut env = SimTestEnv::start_without_login(options).await;
        env.login().await;
        env
    }

    /// A simulator and a client without tokens.
    async fn start_without_login(options: Options) -> SimTestEnv {
        // Another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = Clock::manual(START);
        let account = options.accounts[0].clone();
        let sim = Sim::start(options, clock.clone()).await.unwrap();
        let http = reqwest::Client::builder()
            .user_agent("sim-tests/1.0")
            .retry(reqwest::retry::never())
            .no_proxy()
            .build()
            .unwrap();
        SimTestEnv { sim, clock, http, account, token: String::new(), refresh: String::new() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.sim.base_url()))
    }

    async fn send(&self, request: RequestBuilder) -> ClientResponse {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        ClientResponse { status, headers, body: response.text().await.unwrap() }
    }

    async fn rc_token(&self) -> ClientResponse {
        let accepted = AcceptedCredentials::default();
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &accepted.jwt)];
        let request = self.request(Method::POST, "/restapi/oauth/token").form(&form);
        self.send(request.basic_auth(&accepted.client_id, Some(&accepted.client_secret))).await
    }

    async fn exchange(&self, rc: &str) -> ClientResponse {
        let path = "/api/auth/login/rc/accesstoken?includeRefresh=true";
        let form = [("rcAccessToken", rc), ("rcTokenType", "Bearer")];
        self.send(self.request(Method::POST, path).form(&form)).await
    }

    async fn login(&mut self) {
        let rc = self.rc_token().await.json();
        let answer = self.exchange(rc["access_token"].as_str().unwrap()).await.json();
        self.set_tokens(&answer);
    }

    fn set_tokens(&mut self, answer: &Value) {
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

    fn metadata_request(&self, query: &Value) -> RequestBuilder {
        let path = format!("{}/interaction-metadata", self.account_path());
        self.request(Method::POST, &path).bearer_auth(&self.token).json(query)
    }

    async fn metadata(&self, from: Time, seconds: u32) -> ClientResponse {
        let query = serde_json::json!({
            "segmentEndTime": from.rfc3339_secs().replace('T', " ").replace('Z', ""),
            "timeInterval": seconds,
            "timeZone": "UTC",
        });
        self.send(self.metadata_request(&query)).await
    }

    fn artifact_request(&self, entry: &ExpectedSegment, artifact: Artifact) -> RequestBuilder {
        let id = encode(&entry.segment_id);
        if matches!(artifact, Artifact::Transcript | Artifact::Recording) {
            let dialog = encode(entry.dialog_id.as_deref().unwrap());
            let kind = if artifact == Artifact::Transcript { "transcripts" } else { "recordings" };
            let path = format!("{}/{kind}/dialogs/{dialog}/segments/{id}", self.account_path());
            return self.request(Method::GET, &path).bearer_auth(&self.token);
        }
        let which = if artifact == Artifact::AgentSummary { "agent" } else { "auto" };
        let path = format!("/voice/api/v1/summary/accounts/{}/segments/{id}/{which}", self.account.sub);
        self.request(Method::GET, &path).header("cookie", format!("access_token={}", self.token))
    }

    async fn fetch_artifact(&self, entry: &ExpectedSegment, artifact: Artifact) -> ClientResponse {
        self.send(self.artifact_request(entry, artifact)).await
    }

    /// The segments that ended in the last hour.
    fn last_hour(&self) -> Vec<ExpectedSegment> {
        let hour = TimeRange { from: START - Duration::from_secs(3600), to: START };
        self.sim.expected_archive().segments_in(hour, self.sim.now())
    }

    fn assert_no_violations(&self) {
        assert_eq!(self.sim.stats().violations, Vec::<String>::new());
    }

    /// Asserts that a violation contains `what`.
    fn assert_violation(&self, what: &str) {
        let found = self.sim.stats().violations;
        assert!(found.iter().any(|one| one.contains(what)), "{found:?} does not contain \"{what}\"");
    }
}
