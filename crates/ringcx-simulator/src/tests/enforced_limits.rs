//! The limits, from a client's view.

use super::*;

fn two_accounts(limits: SimLimits) -> Options {
    let accounts = vec![AccountId::new("1", "11"), AccountId::new("1", "12")];
    Options { accounts, limits, ..Options::default() }
}

impl SimTestEnv {
    async fn fetch_unknown_summary(&self, sub: &str) -> ClientResponse {
        let path = format!("/voice/api/v1/summary/accounts/{sub}/segments/none/auto");
        let cookie = format!("access_token={}", self.token);
        self.send(self.request(Method::GET, &path).header("cookie", cookie)).await
    }
}

#[tokio::test]
async fn the_hundred_and_twenty_first_request_of_an_account_is_refused_and_no_other_accounts() {
    let env = SimTestEnv::start(two_accounts(SimLimits::default())).await;
    for _ in 0..120 {
        assert_eq!(env.fetch_unknown_summary("11").await.status, 404);
        env.clock.advance(Duration::from_millis(100));
    }
    let refused = env.fetch_unknown_summary("11").await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (429, &"48".parse().unwrap()));
    assert_eq!(env.metadata(START - Duration::from_secs(900), 60).await.status, 429, "metadata counts as well");
    assert_eq!(env.fetch_unknown_summary("12").await.status, 404);
    env.clock.advance(Duration::from_secs(48));
    assert_eq!(env.fetch_unknown_summary("11").await.status, 404);
    assert_eq!(env.fetch_unknown_summary("11").await.status, 429);
    let stats = env.sim.stats();
    assert_eq!((stats.total_refused(), stats.peak_per_minute), (3, 120));
}

#[tokio::test]
async fn with_one_quota_for_the_login_accounts_share_it() {
    let limits = SimLimits { requests_per_minute: 2, scope: QuotaScope::Login, ..SimLimits::default() };
    let env = SimTestEnv::start(two_accounts(limits)).await;
    assert_eq!(env.fetch_unknown_summary("11").await.status, 404);
    assert_eq!(env.fetch_unknown_summary("12").await.status, 404);
    assert_eq!(env.fetch_unknown_summary("11").await.status, 429);
}

#[tokio::test]
async fn a_refusal_has_each_form_of_retry_after() {
    for retry_after in [RetryAfterFormat::HttpDate, RetryAfterFormat::Absent] {
        let limits = SimLimits { requests_per_minute: 1, retry_after, ..SimLimits::default() };
        let env = SimTestEnv::start(two_accounts(limits)).await;
        env.fetch_unknown_summary("11").await;
        let refused = env.fetch_unknown_summary("11").await;
        let header = refused.headers.get("retry-after").map(|value| value.to_str().unwrap());
        let expected = (retry_after == RetryAfterFormat::HttpDate).then_some("Fri, 20 Nov 2026 10:01:01 GMT");
        assert_eq!(header, expected);
    }
}

#[tokio::test]
async fn the_fourth_metadata_request_in_a_minute_and_the_tenth_in_a_quarter_of_an_hour_are_refused() {
    let mut env = SimTestEnv::start(Options::default()).await;
    let from = START - Duration::from_secs(900);
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(env.metadata(from, 60).await.status, 200);
        }
        assert_eq!(env.metadata(from, 60).await.status, 429);
        env.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(env.metadata(from, 60).await.status, 429);
    env.clock.advance(Duration::from_secs(720));
    env.login().await;
    assert_eq!(env.metadata(from, 60).await.status, 200);
}

#[tokio::test]
async fn the_sixth_exchange_in_a_minute_is_refused() {
    let env = SimTestEnv::start_without_login(Options::default()).await;
    let rc = env.rc_token().await.json()["access_token"].as_str().unwrap().to_owned();
    for _ in 0..5 {
        assert_eq!(env.exchange(&rc).await.status, 200);
    }
    assert_eq!(env.exchange(&rc).await.status, 429);
    env.clock.advance(Duration::from_secs(60));
    assert_eq!(env.exchange(&rc).await.status, 200);
    assert_eq!(env.sim.stats().total_refused(), 1);
}

#[tokio::test]
async fn arrivals_are_kept_if_requested() {
    let env = SimTestEnv::start(Options { keep_arrivals: true, ..two_accounts(SimLimits::default()) }).await;
    env.fetch_unknown_summary("11").await;
    env.clock.advance(Duration::from_secs(7));
    env.fetch_unknown_summary("11").await;
    let arrivals = env.sim.arrivals(&env.account);
    assert_eq!(arrivals[1].since(arrivals[0]), Duration::from_secs(7));
    assert_eq!(arrivals.len(), 2);
}
