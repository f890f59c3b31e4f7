//! The limits as a client meets them.

use super::*;

fn two_accounts(limits: SimLimits) -> Options {
    let accounts = vec![AccountId::new("1", "11"), AccountId::new("1", "12")];
    Options { accounts, limits, ..Options::default() }
}

impl Rig {
    async fn summary_of_nothing(&self, sub: &str) -> Answer {
        let path = format!("/voice/api/v1/summary/accounts/{sub}/segments/none/auto");
        let cookie = format!("access_token={}", self.token);
        self.send(self.request(Method::GET, &path).header("cookie", cookie)).await
    }
}

#[tokio::test]
async fn the_hundred_and_twenty_first_request_of_an_account_is_refused_and_no_other_accounts() {
    let rig = Rig::start(two_accounts(SimLimits::default())).await;
    for _ in 0..120 {
        assert_eq!(rig.summary_of_nothing("11").await.status, 404);
        rig.clock.advance(Duration::from_millis(100));
    }
    let refused = rig.summary_of_nothing("11").await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (429, &"48".parse().unwrap()));
    assert_eq!(rig.metadata(TEN - Duration::from_secs(900), 60).await.status, 429, "metadata counts as well");
    assert_eq!(rig.summary_of_nothing("12").await.status, 404);
    rig.clock.advance(Duration::from_secs(48));
    assert_eq!(rig.summary_of_nothing("11").await.status, 404);
    assert_eq!(rig.summary_of_nothing("11").await.status, 429);
    let stats = rig.sim.stats();
    assert_eq!((stats.refused_in_all(), stats.peak_per_minute), (3, 120));
}

#[tokio::test]
async fn with_one_budget_for_the_login_accounts_share_it() {
    let limits = SimLimits { requests_per_minute: 2, scope: Scope::Login, ..SimLimits::default() };
    let rig = Rig::start(two_accounts(limits)).await;
    assert_eq!(rig.summary_of_nothing("11").await.status, 404);
    assert_eq!(rig.summary_of_nothing("12").await.status, 404);
    assert_eq!(rig.summary_of_nothing("11").await.status, 429);
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back_in_each_way_that_it_may() {
    for retry_after in [RetryAfter::HttpDate, RetryAfter::Absent] {
        let limits = SimLimits { requests_per_minute: 1, retry_after, ..SimLimits::default() };
        let rig = Rig::start(two_accounts(limits)).await;
        rig.summary_of_nothing("11").await;
        let refused = rig.summary_of_nothing("11").await;
        let said = refused.headers.get("retry-after").map(|value| value.to_str().unwrap());
        let expected = (retry_after == RetryAfter::HttpDate).then_some("Fri, 20 Nov 2026 10:01:01 GMT");
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn the_fourth_metadata_request_in_a_minute_and_the_tenth_in_a_quarter_of_an_hour_are_refused() {
    let mut rig = Rig::start(Options::default()).await;
    let from = TEN - Duration::from_secs(900);
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(rig.metadata(from, 60).await.status, 200);
        }
        assert_eq!(rig.metadata(from, 60).await.status, 429);
        rig.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(rig.metadata(from, 60).await.status, 429);
    rig.clock.advance(Duration::from_secs(720));
    rig.login().await;
    assert_eq!(rig.metadata(from, 60).await.status, 200);
}

#[tokio::test]
async fn the_sixth_exchange_in_a_minute_is_refused() {
    let rig = Rig::stranger(Options::default()).await;
    let rc = rig.rc_token().await.json()["access_token"].as_str().unwrap().to_owned();
    for _ in 0..5 {
        assert_eq!(rig.exchange(&rc).await.status, 200);
    }
    assert_eq!(rig.exchange(&rc).await.status, 429);
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(rig.exchange(&rc).await.status, 200);
    assert_eq!(rig.sim.stats().refused_in_all(), 1);
}

#[tokio::test]
async fn arrivals_are_remembered_where_that_is_asked_for() {
    let rig = Rig::start(Options { keep_arrivals: true, ..two_accounts(SimLimits::default()) }).await;
    rig.summary_of_nothing("11").await;
    rig.clock.advance(Duration::from_secs(7));
    rig.summary_of_nothing("11").await;
    let arrivals = rig.sim.arrivals(&rig.account);
    assert_eq!(arrivals[1].since(arrivals[0]), Duration::from_secs(7));
    assert_eq!(arrivals.len(), 2);
}
