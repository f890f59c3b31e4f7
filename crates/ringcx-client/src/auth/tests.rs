mod other;

use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::time::Duration;

use super::*;
use crate::limits::{MemoryStore, ReserveStore, Sliding};
use crate::testing::{self, Reply, Request, Server, Tally, account, budget, budget_in, ok, pacer, reply, ringcentral};
use crate::{Fetched, transcript};

/// An answer other than the usual one, for some requests.
type Trouble = fn(&Request) -> Option<Reply>;

/// RingCX as far as a login goes: every token works once it was given, until it is revoked.
#[derive(Default)]
struct Fake {
    given: AtomicUsize,
    /// Tokens up to this number are refused.
    revoked: AtomicUsize,
    trouble: Mutex<Option<Trouble>>,
}

impl Fake {
    fn start() -> (Arc<Fake>, Server) {
        let fake = Arc::new(Fake::default());
        let shared = Arc::clone(&fake);
        (fake, Server::start(move |request| shared.answer(request)))
    }

    fn trouble(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = Some(trouble);
    }

    fn well(&self) {
        *self.trouble.lock().unwrap() = None;
    }

    fn revoke(&self) {
        self.revoked.store(self.given.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn give(&self) -> Reply {
        let number = self.given.fetch_add(1, Ordering::SeqCst) + 1;
        ok(format!(r#"{{"accessToken":"cx-{number}","refreshToken":"refresh-{number}","tokenType":"Bearer"}}"#))
    }

    fn answer(&self, request: &Request) -> Reply {
        let trouble = *self.trouble.lock().unwrap();
        if let Some(reply) = trouble.and_then(|trouble| trouble(request)) {
            return reply;
        }
        let latest = self.given.load(Ordering::SeqCst);
        match request.target.as_str() {
            "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":3600,"scope":"ReadAccounts"}"#),
            "/api/auth/login/rc/accesstoken?includeRefresh=true" => {
                assert_eq!(request.body, "rcAccessToken=rc&rcTokenType=Bearer");
                self.give()
            }
            "/api/auth/token/refresh" if request.body == format!("refresh_token=refresh-{latest}") => self.give(),
            "/api/auth/token/refresh" => reply(401, "", "spent"),
            target if target.starts_with("/api/auth/login/admin?") => self.give(),
            _ => {
                let token = request.header("authorization").unwrap_or_default();
                let number: usize = token.trim_start_matches("Bearer cx-").parse().unwrap_or(0);
                match number > self.revoked.load(Ordering::SeqCst) {
                    true => ok(r#"{"transcript":[{"message":"yes"}]}"#),
                    false => reply(401, "content-type: text/plain\r\n", "Jwt is expired"),
                }
            }
        }
    }
}

const START: Time = Time(1_800_000_000_000);

struct Rig {
    fake: Arc<Fake>,
    server: Server,
    clock: Clock,
    login: Login,
}

fn rig() -> Rig {
    rig_of(ringcentral(), None)
}

fn rig_of(credentials: Credentials, reread: Option<Reread>) -> Rig {
    let (fake, server) = Fake::start();
    let clock = Clock::manual(START);
    let api = testing::api(&server, clock.clone());
    let any = || Arc::new(budget(clock.clone()));
    let login = Login::new(api, credentials, reread, any(), any());
    Rig { fake, server, clock, login }
}

impl Rig {
    fn asked(&self) -> [usize; 3] {
        ["/oauth/token", "/accesstoken", "/refresh"].map(|part| self.server.count(part))
    }

    fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    async fn fetch(&self) -> Result<Fetched, ApiError> {
        let pacer = pacer(Clock::system());
        let permit = pacer.enter().await;
        transcript(self.login.api(), &self.login, &pacer, permit, &account(), "d", "s").await
    }
}

#[tokio::test]
async fn fifty_who_ask_at_once_cost_one_login() {
    let rig = rig();
    assert_eq!(rig.login.state(), LoginState::NeverTried);
    let tokens = futures_util::future::join_all((0..50).map(|_| rig.login.token())).await;
    assert!(tokens.iter().all(|token| token.is_ok()));
    assert_eq!(rig.asked(), [1, 1, 0]);
    assert_eq!(rig.login.state(), LoginState::Good { at: START });
    let request = &rig.server.seen()[0];
    assert_eq!(request.header("authorization"), Some("Basic Y2xpZW50OmNsaWVudC1zM2NyZXQ="));
    assert_eq!(request.body, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=jwt-s3cret");
}

#[tokio::test]
async fn refresh_tokens_rotate_and_the_ringcentral_token_is_kept() {
    let rig = rig();
    for _ in 0..5 {
        rig.login.token().await.unwrap();
        rig.pass(250);
    }
    assert_eq!(rig.asked(), [1, 1, 4], "each refresh was with the token that the last one gave");
}

#[tokio::test]
async fn near_the_end_one_renews_and_the_others_go_on() {
    let rig = rig();
    let old = rig.login.token().await.unwrap();
    rig.pass(239);
    assert!(!rig.login.token().await.unwrap().is_newer_than(&old));
    assert_eq!(rig.asked(), [1, 1, 0]);
    rig.pass(1);
    assert!(rig.login.at_hand().is_none(), "someone is to renew it");
    let tokens = futures_util::future::join_all((0..50).map(|_| rig.login.token())).await;
    let newer = tokens.iter().flatten().filter(|token| token.is_newer_than(&old)).count();
    assert_eq!((newer, tokens.len(), rig.asked()), (1, 50, [1, 1, 1]));
}

#[tokio::test]
async fn a_renewal_that_fails_early_leaves_the_old_token_in_use() {
    let rig = rig();
    let old = rig.login.token().await.unwrap();
    rig.pass(240);
    rig.fake.trouble(|_| Some(reply(503, "", "")));
    let token = rig.login.token().await.unwrap();
    assert!(!token.is_newer_than(&old) && rig.login.at_hand().is_some());
    assert!(matches!(rig.login.state(), LoginState::Failing { refused: false, last_ok: Some(START), .. }));
    rig.pass(60);
    assert_eq!(rig.login.token().await.unwrap_err().fault, Fault::Transient, "it is over by now");
}

#[tokio::test]
async fn an_ambiguous_refresh_is_not_repeated_but_exchanged() {
    let rig = rig();
    rig.login.token().await.unwrap();
    rig.fake.trouble(|request| request.target.contains("refresh").then(|| Reply::Cut(Vec::new())));
    rig.pass(301);
    rig.login.token().await.unwrap();
    assert_eq!(rig.asked(), [1, 2, 1]);
    rig.fake.well();
    rig.pass(301);
    rig.login.token().await.unwrap();
    assert_eq!(rig.asked(), [1, 2, 2]);
}

#[tokio::test]
async fn a_dropped_refresh_counts_as_spent() {
    let rig = rig();
    rig.login.token().await.unwrap();
    rig.pass(301);
    let mut renewal = Box::pin(rig.login.token());
    while rig.server.count("/refresh") == 0 {
        let _ = futures_util::poll!(renewal.as_mut());
        tokio::task::yield_now().await;
    }
    drop(renewal);
    rig.login.token().await.unwrap();
    assert_eq!(rig.asked(), [1, 2, 1]);
}

#[tokio::test]
async fn a_ringcentral_token_that_is_over_or_refused_is_replaced() {
    let rig = rig();
    rig.login.token().await.unwrap();
    rig.pass(3600);
    rig.fake.trouble(|request| request.target.contains("refresh").then(|| reply(400, "", "")));
    rig.login.token().await.unwrap();
    assert_eq!(rig.asked(), [2, 2, 1]);
    // Kept, and refused at the exchange: one new one, one more exchange, then it is a failure.
    rig.fake.trouble(|request| (request.target.contains("api/auth")).then(|| reply(401, "", "")));
    rig.pass(301);
    let error = rig.login.token().await.unwrap_err();
    assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Login));
    assert_eq!(rig.asked(), [3, 4, 2]);
}

#[tokio::test]
async fn a_401_costs_one_renewal_for_all_and_each_request_is_repeated_once() {
    let rig = rig();
    rig.fetch().await.unwrap();
    rig.fake.revoke();
    rig.pass(20);
    let fetched = futures_util::future::join_all((0..20).map(|_| rig.fetch())).await;
    assert!(fetched.iter().all(Result::is_ok));
    assert_eq!(rig.asked(), [1, 1, 1]);
    assert!(rig.server.count("/transcripts/") <= 41);
}

#[tokio::test]
async fn a_token_that_ran_out_early_teaches_to_renew_earlier() {
    let rig = rig();
    rig.fetch().await.unwrap();
    rig.pass(10);
    rig.fake.revoke();
    rig.fetch().await.unwrap();
    // 0.9 of ten seconds is assumed now, so the next is renewed before.
    rig.login.renew(&rig.login.token().await.unwrap()).await.unwrap();
    let before = rig.login.token().await.unwrap();
    rig.pass(8);
    assert!(rig.login.token().await.unwrap().is_newer_than(&before));
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_a_fault_and_renewals_get_rarer() {
    let rig = rig();
    rig.fake.trouble(|request| request.target.contains("transcripts").then(|| reply(401, "", "")));
    let error = rig.fetch().await.unwrap_err();
    assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Transcript));
    assert!(error.message.contains("even a fresh token") && error.hint().is_some(), "{error}");
    assert_eq!((rig.server.count("/transcripts/"), rig.asked()), (3, [1, 1, 2]));
    for _ in 0..20 {
        let error = rig.fetch().await.unwrap_err();
        assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Transcript), "not the login's fault");
    }
    assert!(rig.server.count("/refresh") <= 4, "{:?}", rig.asked());
}

#[tokio::test]
async fn a_newer_token_makes_renewing_an_old_one_free() {
    let rig = rig();
    let first = rig.login.token().await.unwrap();
    let second = rig.login.renew(&first).await.unwrap();
    let again = rig.login.renew(&first).await.unwrap();
    assert!(second.is_newer_than(&first) && !again.is_newer_than(&second));
    assert_eq!(rig.asked(), [1, 1, 1]);
}

#[tokio::test]
async fn wrong_credentials_are_told_once_and_asked_again_ever_more_seldom() {
    let rig = rig();
    rig.fake.trouble(|_| {
        Some(reply(
            401,
            "",
            r#"{"error":"invalid_client","error_description":"Wrong secret client-s3cret","errors":[{"errorCode":"OAU-153"}]}"#,
        ))
    });
    let error = rig.login.token().await.unwrap_err();
    assert_eq!(
        error.message,
        "failed to log in to RingCentral: the credentials were refused (401, OAU-153): invalid_client: Wrong secret [removed]"
    );
    assert!(error.hint().unwrap().contains("auth.client_id"));
    for _ in 0..50 {
        assert!(rig.login.token().await.unwrap_err().retry_in.is_some_and(|due| due <= Duration::from_secs(1)));
    }
    assert_eq!(rig.server.seen().len(), 1);
    for _ in 0..600 {
        rig.pass(1);
        let _ = rig.login.token().await;
    }
    assert!((10..=30).contains(&rig.server.seen().len()), "{}", rig.server.seen().len());
    assert!(matches!(rig.login.state(), LoginState::Failing { since: START, refused: true, last_ok: None, .. }));
    rig.fake.well();
    rig.pass(61);
    rig.login.token().await.unwrap();
    assert!(matches!(rig.login.state(), LoginState::Good { .. }));
}

#[tokio::test]
async fn retry_after_is_a_floor() {
    let rig = rig();
    rig.fake.trouble(|_| Some(reply(429, "retry-after: 300\r\n", "")));
    assert_eq!(rig.login.token().await.unwrap_err().retry_in, Some(Duration::from_secs(300)));
    rig.pass(299);
    rig.login.token().await.unwrap_err();
    assert_eq!(rig.server.seen().len(), 1);
}

#[tokio::test]
async fn refused_credentials_are_read_again_and_used_at_once() {
    let reread: Reread = Arc::new(|| {
        Ok(Credentials::RingCentral {
            client_id: "client".to_owned(),
            client_secret: SecretString::from("rotated"),
            jwt: SecretString::from("jwt-s3cret"),
        })
    });
    let rig = rig_of(ringcentral(), Some(reread));
    rig.fake.trouble(|request| {
        let old = request.header("authorization") == Some("Basic Y2xpZW50OmNsaWVudC1zM2NyZXQ=");
        old.then(|| reply(400, "", r#"{"error":"invalid_client"}"#))
    });
    rig.login.token().await.unwrap();
    assert_eq!(rig.asked(), [2, 1, 0]);
}

#[tokio::test]
async fn a_login_without_the_scope_is_refused_with_where_to_add_it() {
    let rig = rig();
    rig.fake.trouble(|request| {
        request.target.contains("oauth").then(|| ok(r#"{"access_token":"rc","scope":"ReadMessages"}"#))
    });
    let error = rig.login.token().await.unwrap_err();
    assert_eq!(error.fault, Fault::Forbidden);
    assert!(error.hint().unwrap().contains("developer portal"));
}

#[tokio::test]
async fn exchanges_are_reserved_and_refreshes_are_not() {
    let (_fake, server) = Fake::start();
    let clock = Clock::manual(START);
    let tally = Arc::new(Tally::default());
    let exchanges = Arc::new(budget_in(Arc::clone(&tally) as Arc<_>, clock.clone()));
    let tokens = Arc::new(budget(clock.clone()));
    let login = Login::new(testing::api(&server, clock.clone()), ringcentral(), None, tokens, exchanges);
    for _ in 0..3 {
        login.token().await.unwrap();
        clock.advance(Duration::from_secs(250));
    }
    let count = |of: &AtomicI64| of.load(Ordering::SeqCst);
    assert_eq!((count(&tally.reserved), count(&tally.counted), server.count("/refresh")), (1, 1, 2));
}

#[tokio::test]
async fn no_exchange_is_sent_that_could_not_be_reserved() {
    let (_fake, server) = Fake::start();
    let clock = Clock::manual(START);
    let away = || Arc::new(budget_in(Arc::new(Tally { away: true, ..Tally::default() }), clock.clone()));
    let there = Arc::new(budget(clock.clone()));
    for (tokens, exchanges) in [(away(), Arc::clone(&there)), (there, away())] {
        let login = Login::new(testing::api(&server, clock.clone()), ringcentral(), None, tokens, exchanges);
        assert_eq!(login.token().await.unwrap_err().cause, Cause::Store);
        assert_eq!(server.count("/accesstoken"), 0);
        assert!(matches!(login.state(), LoginState::Failing { refused: false, .. }));
    }
    assert_eq!(server.count("/oauth/token"), 1, "the one that could be reserved");
}

/// The most requests that any minute holds, from when each came.
fn busiest_minute(times: &[u64]) -> usize {
    times.iter().map(|from| times.iter().filter(|at| (*from..from + 60).contains(*at)).count()).max().unwrap_or(0)
}

/// Nothing but a budget sleeps on the clock: a request that is under way does not.
async fn someone_sleeps(clock: &Clock) {
    while clock.sleepers() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How many RingCentral tokens are asked for, second by second, in twenty minutes in which `trouble` goes on, and in which the
/// process starts anew every `life` seconds.
async fn tokens_asked_for(trouble: Trouble, life: u64) -> Vec<u64> {
    let (fake, server) = Fake::start();
    fake.trouble(trouble);
    let clock = Clock::manual(START);
    let store: Arc<dyn ReserveStore> = Arc::new(MemoryStore::default());
    let five = || {
        let limits = Sliding::new([(5, Duration::from_secs(60))]);
        Arc::new(Budget::new(Arc::clone(&store), "tokens".to_owned(), limits, clock.clone()))
    };
    let api = testing::api(&server, clock.clone());
    let start = || Login::new(api.clone(), ringcentral(), None, five(), Arc::new(budget(clock.clone())));
    let (mut login, mut times, mut seen) = (start(), Vec::new(), 0);
    for second in 0..1200 {
        if second % life == 0 {
            login = start();
        }
        // A request that has to wait for its turn is given up, and asked for again in a second.
        tokio::select! {
            _ = login.token() => {}
            () = someone_sleeps(&clock) => {}
        }
        let asked = server.count("/oauth/token");
        times.extend(std::iter::repeat_n(second, asked - seen));
        seen = asked;
        clock.advance(Duration::from_secs(1));
    }
    times
}

#[tokio::test]
async fn no_failing_login_and_no_crash_loop_asks_for_more_than_five_ringcentral_tokens_a_minute() {
    let wrong: Trouble = |_| Some(reply(401, "", r#"{"error":"invalid_client"}"#));
    let no_access: Trouble = |request| request.target.contains("accesstoken").then(|| reply(403, "", ""));
    for trouble in [wrong, no_access] {
        let looping = tokens_asked_for(trouble, 2).await;
        assert!(busiest_minute(&looping) <= 5 && looping.len() > 20, "{looping:?}");
        let one = tokens_asked_for(trouble, u64::MAX).await;
        assert!(busiest_minute(&one) <= 5 && one.len() <= 35, "{one:?}");
    }
    // Exchanges that fail cost no new token each.
    assert!(busiest_minute(&tokens_asked_for(no_access, u64::MAX).await) <= 2);
}

#[tokio::test]
async fn an_outage_of_those_who_verify_tokens_costs_no_renewal_and_is_not_the_logins() {
    let rig = rig();
    rig.fetch().await.unwrap();
    rig.fake.trouble(|_| Some(reply(401, "content-type: text/plain\r\n", "Jwks remote fetch is failed")));
    for _ in 0..20 {
        let error = rig.fetch().await.unwrap_err();
        assert_eq!((error.fault, error.cause, error.endpoint), (Fault::Transient, Cause::Outage, Endpoint::Transcript));
    }
    assert_eq!((rig.asked(), rig.server.count("/transcripts/")), ([1, 1, 0], 21));
    assert!(matches!(rig.login.state(), LoginState::Good { .. }));
    // It lasts until the token has run out: the refresh token is kept, and nobody is told to look at the credentials.
    rig.pass(301);
    let error = rig.login.token().await.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::Transient, Cause::Outage));
    assert!(matches!(rig.login.state(), LoginState::Failing { refused: false, .. }));
    rig.fake.well();
    rig.pass(61);
    rig.fetch().await.unwrap();
    assert_eq!(rig.asked(), [1, 1, 2]);
}
