//! Tokens and permissions, from a client's view.

use super::*;

impl SimTestEnv {
    async fn refresh(&self, token: &str) -> ClientResponse {
        let request = self.request(Method::POST, "/api/auth/token/refresh").form(&[("refresh_token", token)]);
        self.send(request).await
    }

    async fn list(&self) -> ClientResponse {
        self.send(self.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&self.token)).await
    }
}

#[tokio::test]
async fn a_token_expires_after_five_minutes_and_a_refresh_returns_another() {
    let mut env = SimTestEnv::start(Options::default()).await;
    env.clock.advance(Duration::from_millis(299_999));
    assert_eq!(env.list().await.status, 200);
    env.clock.advance(Duration::from_millis(1));
    let expired = env.list().await;
    assert_eq!((expired.status.as_u16(), &*expired.body), (401, "Jwt is expired"));
    assert_eq!(expired.headers["content-type"], "text/plain");
    let spent = env.refresh.clone();
    let answer = env.refresh(&spent).await.json();
    env.set_tokens(&answer);
    assert_ne!(env.refresh, spent);
    assert_eq!(env.list().await.status, 200);
    env.assert_no_violations();
    assert_eq!(env.refresh(&spent).await.status, 401);
    env.assert_violation("refresh token reused");
}

#[tokio::test]
async fn a_refresh_with_a_lost_answer_spends_the_token_without_a_violation() {
    let env = SimTestEnv::start(Options::default()).await;
    let faults = Faults { login: FaultRates { truncate: 1.0, ..FaultRates::default() }, ..Faults::default() };
    env.sim.set_faults(faults);
    let form = [("refresh_token", &env.refresh)];
    let response = env.request(Method::POST, "/api/auth/token/refresh").form(&form).send().await.unwrap();
    assert!(response.text().await.is_err(), "truncated");
    env.sim.set_faults(Faults::default());
    assert_eq!(env.refresh(&env.refresh).await.status, 401);
    env.assert_no_violations();
}

#[tokio::test]
async fn wrong_credentials_are_refused_as_the_platform_refuses_them() {
    let env = SimTestEnv::start_without_login(Options::default()).await;
    let changed = AcceptedCredentials { jwt: "another".into(), ..AcceptedCredentials::default() };
    env.sim.control().set_credentials(changed);
    let refused = env.rc_token().await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (400, &"invalid_grant".into()));
    let changed = AcceptedCredentials { client_secret: "another".into(), ..AcceptedCredentials::default() };
    env.sim.control().set_credentials(changed);
    let refused = env.rc_token().await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (401, &"invalid_client".into()));
    env.assert_no_violations();
    assert_eq!(env.exchange("made up").await.status, 401);
    env.assert_violation("exchange: a token that was never issued");
}

#[tokio::test]
async fn without_the_scope_no_exchange_succeeds() {
    let tokens = TokenSettings { scope: "ReadCallLog".into(), ..TokenSettings::default() };
    let env = SimTestEnv::start_without_login(Options { tokens, ..Options::default() }).await;
    let rc = env.rc_token().await.json();
    assert_eq!(rc["scope"], "ReadCallLog");
    assert_eq!(env.exchange(rc["access_token"].as_str().unwrap()).await.status, 403);
}

#[tokio::test]
async fn an_exchange_with_the_token_in_the_url_is_a_violation() {
    let env = SimTestEnv::start_without_login(Options::default()).await;
    let rc = env.rc_token().await.json()["access_token"].as_str().unwrap().to_owned();
    let path = format!("/api/auth/login/rc/accesstoken?rcAccessToken={rc}&rcTokenType=Bearer");
    let form: [(&str, &str); 0] = [];
    assert_eq!(env.send(env.request(Method::POST, &path).form(&form)).await.status, 401);
    env.assert_violation("a token in the URL");
    assert!(!env.sim.stats().violations.concat().contains(SECRET_MARK));
}

#[tokio::test]
async fn the_engage_login_and_the_permanent_token_work_as_well() {
    let mut env = SimTestEnv::start_without_login(unlimited_options()).await;
    let accepted = AcceptedCredentials::default();
    let query =
        [("username", &accepted.username), ("password", &accepted.password), ("platformId", &accepted.platform_id)];
    let login = |env: &SimTestEnv| env.request(Method::POST, "/api/auth/login/admin").query(&query);
    let answer = env.send(login(&env)).await.json();
    env.set_tokens(&answer);
    assert_eq!(env.list().await.status, 200);
    let with = |token: &str| env.request(Method::GET, "/voice/api/v1/admin/accounts").header("x-auth-token", token);
    assert_eq!(env.send(with(&accepted.api_token)).await.status, 200);
    assert_eq!(env.send(with("another")).await.status, 401);
    env.sim.control().refuse_tokens(true);
    assert_eq!(env.list().await.status, 401);
    assert_eq!(env.send(with(&accepted.api_token)).await.status, 401);
    env.sim.control().refuse_tokens(false);
    env.sim.control().set_credentials(AcceptedCredentials { password: "other".into(), ..accepted.clone() });
    assert_eq!(env.send(login(&env)).await.status, 401);
    env.token = accepted.api_token.clone();
    let entry = env.last_hour().into_iter().next().unwrap();
    assert_eq!(env.fetch_artifact(&entry, Artifact::AutoSummary).await.status, 200, "in the cookie");
    env.assert_no_violations();
}

#[tokio::test]
async fn revoking_everything_sends_a_client_back_to_the_first_step() {
    let mut env = SimTestEnv::start(Options::default()).await;
    env.sim.control().revoke_all_tokens();
    assert_eq!(env.list().await.status, 401);
    assert_eq!(env.refresh(&env.refresh).await.status, 401);
    env.login().await;
    assert_eq!(env.list().await.status, 200);
    env.assert_no_violations();
}

#[tokio::test]
async fn the_list_reflects_added_and_hidden_accounts() {
    let env = SimTestEnv::start(Options::default()).await;
    let listed = env.list().await.json();
    assert_eq!(listed[0]["accountId"], "99999999");
    assert_eq!(listed[0]["mainAccount"]["rcAccountId"], "980634004");
    let new = AccountId::new("980634004", "5");
    env.sim.control().add_account(&new);
    env.sim.control().hide_account(&env.account);
    let listed = env.list().await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["accountId"]), (1, &"5".into()));
    assert_eq!(env.metadata(START - Duration::from_secs(900), 60).await.status, 403);
    env.sim.control().show_account(&env.account);
    assert_eq!(env.metadata(START - Duration::from_secs(900), 60).await.status, 200);
    let rc = env.rc_token().await.json()["access_token"].as_str().unwrap().to_owned();
    let main = env.send(env.request(Method::GET, "/restapi/v1.0/account/~").bearer_auth(rc)).await.json();
    assert_eq!(main["id"], 980_634_004);
}

#[tokio::test]
async fn only_forbidden_requests_answer_403() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let entries = env.last_hour();
    env.sim
        .control()
        .forbid(ForbiddenRule { segment: Some(entries[0].segment_id.clone()), ..ForbiddenRule::default() });
    env.sim.control().forbid(ForbiddenRule { endpoint: Some(Endpoint::AgentSummary), ..ForbiddenRule::default() });
    let status = async |entry, artifact| env.fetch_artifact(entry, artifact).await.status.as_u16();
    assert_eq!(status(&entries[0], Artifact::AutoSummary).await, 403);
    assert_eq!(status(&entries[1], Artifact::AutoSummary).await, 200);
    assert_eq!(status(&entries[1], Artifact::AgentSummary).await, 403);
    let answer = env.fetch_artifact(&entries[0], Artifact::AutoSummary).await.json();
    assert_eq!(answer["errorCode"], "access.denied.exception");
}

#[tokio::test]
async fn summaries_accept_only_the_cookie() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let entry = &env.last_hour()[0];
    let with_bearer = env.artifact_request(entry, Artifact::AutoSummary).bearer_auth(&env.token);
    assert_eq!(env.send(with_bearer).await.status, 401);
    env.assert_violation("auto_summary: a header authorization");
    let path = format!("/voice/api/v1/summary/accounts/99999999/segments/{}/auto", encode(&entry.segment_id));
    assert_eq!(env.send(env.request(Method::GET, &path)).await.status, 401);
    env.assert_violation("auto_summary: no cookie");
    assert_eq!(env.fetch_artifact(entry, Artifact::AutoSummary).await.status, 200);
}
