//! Tokens and permissions as a client meets them.

use super::*;

impl Rig {
    async fn refresh(&self, token: &str) -> Answer {
        let request = self.request(Method::POST, "/api/auth/token/refresh").form(&[("refresh_token", token)]);
        self.send(request).await
    }

    async fn list(&self) -> Answer {
        self.send(self.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&self.token)).await
    }
}

#[tokio::test]
async fn a_token_ends_after_five_minutes_and_a_refresh_brings_another() {
    let mut rig = Rig::start(Options::default()).await;
    rig.clock.advance(Duration::from_millis(299_999));
    assert_eq!(rig.list().await.status, 200);
    rig.clock.advance(Duration::from_millis(1));
    let expired = rig.list().await;
    assert_eq!((expired.status.as_u16(), &*expired.body), (401, "Jwt is expired"));
    assert_eq!(expired.headers["content-type"], "text/plain");
    let spent = rig.refresh.clone();
    let answer = rig.refresh(&spent).await.json();
    rig.take_tokens(&answer);
    assert_ne!(rig.refresh, spent);
    assert_eq!(rig.list().await.status, 200);
    rig.assert_no_violations();
    assert_eq!(rig.refresh(&spent).await.status, 401);
    rig.assert_violation("refresh token reused");
}

#[tokio::test]
async fn a_refresh_whose_answer_was_lost_has_spent_the_token_and_is_nobodys_fault() {
    let rig = Rig::start(Options::default()).await;
    let faults = Faults { login: Rates { truncate: 1.0, ..Rates::default() }, ..Faults::default() };
    rig.sim.set_faults(faults);
    let form = [("refresh_token", &rig.refresh)];
    let response = rig.request(Method::POST, "/api/auth/token/refresh").form(&form).send().await.unwrap();
    assert!(response.text().await.is_err(), "broken off");
    rig.sim.set_faults(Faults::default());
    assert_eq!(rig.refresh(&rig.refresh).await.status, 401);
    rig.assert_no_violations();
}

#[tokio::test]
async fn wrong_credentials_are_refused_as_the_platform_refuses_them() {
    let rig = Rig::stranger(Options::default()).await;
    let changed = Credentials { jwt: "another".into(), ..Credentials::default() };
    rig.sim.control().set_credentials(changed);
    let refused = rig.rc_token().await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (400, &"invalid_grant".into()));
    let changed = Credentials { client_secret: "another".into(), ..Credentials::default() };
    rig.sim.control().set_credentials(changed);
    let refused = rig.rc_token().await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (401, &"invalid_client".into()));
    rig.assert_no_violations();
    assert_eq!(rig.exchange("made up").await.status, 401);
    rig.assert_violation("exchange: a token that was never issued");
}

#[tokio::test]
async fn without_the_scope_no_exchange_succeeds() {
    let tokens = Tokens { scope: "ReadCallLog".into(), ..Tokens::default() };
    let rig = Rig::stranger(Options { tokens, ..Options::default() }).await;
    let rc = rig.rc_token().await.json();
    assert_eq!(rc["scope"], "ReadCallLog");
    assert_eq!(rig.exchange(rc["access_token"].as_str().unwrap()).await.status, 403);
}

#[tokio::test]
async fn an_exchange_with_the_token_in_the_url_is_a_breach() {
    let rig = Rig::stranger(Options::default()).await;
    let rc = rig.rc_token().await.json()["access_token"].as_str().unwrap().to_owned();
    let path = format!("/api/auth/login/rc/accesstoken?rcAccessToken={rc}&rcTokenType=Bearer");
    let form: [(&str, &str); 0] = [];
    assert_eq!(rig.send(rig.request(Method::POST, &path).form(&form)).await.status, 401);
    rig.assert_violation("a token in the URL");
    assert!(!rig.sim.stats().violations.concat().contains(SECRET_MARK));
}

#[tokio::test]
async fn the_engage_login_and_the_permanent_token_work_as_well() {
    let mut rig = Rig::stranger(easy()).await;
    let held = Credentials::default();
    let query = [("username", &held.username), ("password", &held.password), ("platformId", &held.platform_id)];
    let login = |rig: &Rig| rig.request(Method::POST, "/api/auth/login/admin").query(&query);
    let answer = rig.send(login(&rig)).await.json();
    rig.take_tokens(&answer);
    assert_eq!(rig.list().await.status, 200);
    let with = |token: &str| rig.request(Method::GET, "/voice/api/v1/admin/accounts").header("x-auth-token", token);
    assert_eq!(rig.send(with(&held.api_token)).await.status, 200);
    assert_eq!(rig.send(with("another")).await.status, 401);
    rig.sim.control().refuse_tokens(true);
    assert_eq!(rig.list().await.status, 401);
    assert_eq!(rig.send(with(&held.api_token)).await.status, 401);
    rig.sim.control().refuse_tokens(false);
    rig.sim.control().set_credentials(Credentials { password: "other".into(), ..held.clone() });
    assert_eq!(rig.send(login(&rig)).await.status, 401);
    rig.token = held.api_token.clone();
    let entry = rig.hour().into_iter().next().unwrap();
    assert_eq!(rig.item(&entry, Artifact::AutoSummary).await.status, 200, "in the cookie");
    rig.assert_no_violations();
}

#[tokio::test]
async fn revoking_everything_sends_a_client_back_to_the_first_step() {
    let mut rig = Rig::start(Options::default()).await;
    rig.sim.control().revoke_all();
    assert_eq!(rig.list().await.status, 401);
    assert_eq!(rig.refresh(&rig.refresh).await.status, 401);
    rig.login().await;
    assert_eq!(rig.list().await.status, 200);
    rig.assert_no_violations();
}

#[tokio::test]
async fn the_list_shows_accounts_that_come_and_go() {
    let rig = Rig::start(Options::default()).await;
    let listed = rig.list().await.json();
    assert_eq!(listed[0]["accountId"], "99999999");
    assert_eq!(listed[0]["mainAccount"]["rcAccountId"], "980634004");
    let new = AccountId::new("980634004", "5");
    rig.sim.control().add_account(&new);
    rig.sim.control().hide_account(&rig.account);
    let listed = rig.list().await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["accountId"]), (1, &"5".into()));
    assert_eq!(rig.metadata(TEN - Duration::from_secs(900), 60).await.status, 403);
    rig.sim.control().show_account(&rig.account);
    assert_eq!(rig.metadata(TEN - Duration::from_secs(900), 60).await.status, 200);
    let rc = rig.rc_token().await.json()["access_token"].as_str().unwrap().to_owned();
    let main = rig.send(rig.request(Method::GET, "/restapi/v1.0/account/~").bearer_auth(rc)).await.json();
    assert_eq!(main["id"], 980_634_004);
}

#[tokio::test]
async fn what_is_forbidden_answers_403_and_nothing_else_does() {
    let rig = Rig::start(easy()).await;
    let entries = rig.hour();
    rig.sim.control().forbid(Forbidden { segment: Some(entries[0].segment_id.clone()), ..Forbidden::default() });
    rig.sim.control().forbid(Forbidden { endpoint: Some(Endpoint::AgentSummary), ..Forbidden::default() });
    let status = async |entry, artifact| rig.item(entry, artifact).await.status.as_u16();
    assert_eq!(status(&entries[0], Artifact::AutoSummary).await, 403);
    assert_eq!(status(&entries[1], Artifact::AutoSummary).await, 200);
    assert_eq!(status(&entries[1], Artifact::AgentSummary).await, 403);
    let answer = rig.item(&entries[0], Artifact::AutoSummary).await.json();
    assert_eq!(answer["errorCode"], "access.denied.exception");
}

#[tokio::test]
async fn summaries_want_the_cookie_alone() {
    let rig = Rig::start(easy()).await;
    let entry = &rig.hour()[0];
    let with_bearer = rig.item_request(entry, Artifact::AutoSummary).bearer_auth(&rig.token);
    assert_eq!(rig.send(with_bearer).await.status, 401);
    rig.assert_violation("auto_summary: a header authorization");
    let path = format!("/voice/api/v1/summary/accounts/99999999/segments/{}/auto", encode(&entry.segment_id));
    assert_eq!(rig.send(rig.request(Method::GET, &path)).await.status, 401);
    rig.assert_violation("auto_summary: no cookie");
    assert_eq!(rig.item(entry, Artifact::AutoSummary).await.status, 200);
}
