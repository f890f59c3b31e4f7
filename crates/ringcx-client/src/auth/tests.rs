mod other_logins;

use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::time::Duration;

use super::*;
use crate::rate_limit::{MemoryStore, ReservationStore, SlidingWindowLimiter};
use crate::test_server::{
    self, CountingStore, LoopbackServer, RawRequest, ScriptedReply, account, ok, pacer, quota, quota_in, reply,
    ringcentral_credentials,
};
use crate::{FetchedArtifact, fetch_transcript};

/// Replaces the usual reply to some requests.
type ReplyOverride = fn(&RawRequest) -> Option<ScriptedReply>;

/// The login endpoints of RingCX: every issued token is valid until it is revoked.
#[derive(Default)]
struct FakeLoginServer {
    issued: AtomicUsize,
    /// Tokens up to this number are refused.
    revoked: AtomicUsize,
    override_reply: Mutex<Option<ReplyOverride>>,
}

impl FakeLoginServer {
    fn start() -> (Arc<FakeLoginServer>, LoopbackServer) {
        let login_server = Arc::new(FakeLoginServer::default());
        let shared = Arc::clone(&login_server);
        (login_server, LoopbackServer::start(move |request| shared.reply_to(request)))
    }

    fn override_reply(&self, override_reply: ReplyOverride) {
        *self.override_reply.lock() = Some(override_reply);
    }

    fn clear_override(&self) {
        *self.override_reply.lock() = None;
    }

    fn revoke(&self) {
        self.revoked.store(self.issued.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn issue_token(&self) -> ScriptedReply {
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        ok(format!(r#"{{"accessToken":"cx-{number}","refreshToken":"refresh-{number}","tokenType":"Bearer"}}"#))
    }

    fn reply_to(&self, request: &RawRequest) -> ScriptedReply {
        let override_reply = *self.override_reply.lock();
        if let Some(reply) = override_reply.and_then(|override_reply| override_reply(request)) {
            return reply;
        }
        let latest = self.issued.load(Ordering::SeqCst);
        match request.target.as_str() {
            "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":3600,"scope":"ReadAccounts"}"#),
            "/api/auth/login/rc/accesstoken?includeRefresh=true" => {
                assert_eq!(request.body, "rcAccessToken=rc&rcTokenType=Bearer");
                self.issue_token()
            }
            "/api/auth/token/refresh" if request.body == format!("refresh_token=refresh-{latest}") => {
                self.issue_token()
            }
            "/api/auth/token/refresh" => reply(401, "", "spent"),
            target if target.starts_with("/api/auth/login/admin?") => self.issue_token(),
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

struct LoginTestEnv {
    login_server: Arc<FakeLoginServer>,
    server: LoopbackServer,
    clock: Clock,
    login: Login,
}

fn env() -> LoginTestEnv {
    env_with(ringcentral_credentials(), None)
}

fn env_with(credentials: Credentials, load_credentials: Option<CredentialsLoader>) -> LoginTestEnv {
    let (login_server, server) = FakeLoginServer::start();
    let clock = Clock::manual(START);
    let api = test_server::api(&server, clock.clone());
    let any = || Arc::new(quota(clock.clone()));
    let login = Login::new(api, credentials, load_credentials, any(), any());
    LoginTestEnv { login_server, server, clock, login }
}

impl LoginTestEnv {
    fn request_counts(&self) -> [usize; 3] {
        ["/oauth/token", "/accesstoken", "/refresh"].map(|part| self.server.count(part))
    }

    fn advance_secs(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    async fn fetch(&self) -> Result<FetchedArtifact, ApiError> {
        let pacer = pacer(Clock::system());
        let permit = pacer.acquire().await;
        fetch_transcript(self.login.api(), &self.login, &pacer, permit, &account(), "d", "s").await
    }
}

#[tokio::test]
async fn fifty_concurrent_callers_cause_one_login() {
    let env = env();
    assert_eq!(env.login.state(), LoginState::NeverTried);
    let tokens = futures_util::future::join_all((0..50).map(|_| env.login.token())).await;
    assert!(tokens.iter().all(|token| token.is_ok()));
    assert_eq!(env.request_counts(), [1, 1, 0]);
    assert_eq!(env.login.state(), LoginState::Good { at: START });
    let request = &env.server.requests()[0];
    assert_eq!(request.header("authorization"), Some("Basic Y2xpZW50OmNsaWVudC1zM2NyZXQ="));
    assert_eq!(request.body, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=jwt-s3cret");
}

#[tokio::test]
async fn refresh_tokens_rotate_and_the_ringcentral_token_is_kept() {
    let env = env();
    for _ in 0..5 {
        env.login.token().await.unwrap();
        env.advance_secs(250);
    }
    assert_eq!(env.request_counts(), [1, 1, 4], "each refresh used the token of the last one");
}

#[tokio::test]
async fn near_the_end_one_caller_renews_and_the_others_use_the_old_token() {
    let env = env();
    let old = env.login.token().await.unwrap();
    env.advance_secs(239);
    assert!(!env.login.token().await.unwrap().is_newer_than(&old));
    assert_eq!(env.request_counts(), [1, 1, 0]);
    env.advance_secs(1);
    assert!(env.login.valid_token().is_none(), "this caller must renew it");
    let tokens = futures_util::future::join_all((0..50).map(|_| env.login.token())).await;
    let newer = tokens.iter().flatten().filter(|token| token.is_newer_than(&old)).count();
    assert_eq!((newer, tokens.len(), env.request_counts()), (1, 50, [1, 1, 1]));
}

#[tokio::test]
async fn a_renewal_that_fails_early_leaves_the_old_token_in_use() {
    let env = env();
    let old = env.login.token().await.unwrap();
    env.advance_secs(240);
    env.login_server.override_reply(|_| Some(reply(503, "", "")));
    let token = env.login.token().await.unwrap();
    assert!(!token.is_newer_than(&old) && env.login.valid_token().is_some());
    assert!(matches!(env.login.state(), LoginState::Failing { refused: false, last_ok: Some(START), .. }));
    env.advance_secs(60);
    assert_eq!(env.login.token().await.unwrap_err().fault, Fault::Transient, "it has expired by now");
}

#[tokio::test]
async fn after_an_ambiguous_refresh_the_login_exchanges() {
    let env = env();
    env.login.token().await.unwrap();
    env.login_server
        .override_reply(|request| request.target.contains("refresh").then(|| ScriptedReply::Cut(Vec::new())));
    env.advance_secs(301);
    env.login.token().await.unwrap();
    assert_eq!(env.request_counts(), [1, 2, 1]);
    env.login_server.clear_override();
    env.advance_secs(301);
    env.login.token().await.unwrap();
    assert_eq!(env.request_counts(), [1, 2, 2]);
}

#[tokio::test]
async fn a_cancelled_refresh_counts_as_spent() {
    let env = env();
    env.login.token().await.unwrap();
    env.advance_secs(301);
    let mut renewal = Box::pin(env.login.token());
    while env.server.count("/refresh") == 0 {
        let _ = futures_util::poll!(renewal.as_mut());
        tokio::task::yield_now().await;
    }
    drop(renewal);
    env.login.token().await.unwrap();
    assert_eq!(env.request_counts(), [1, 2, 1]);
}

#[tokio::test]
async fn an_expired_or_refused_ringcentral_token_is_replaced() {
    let env = env();
    env.login.token().await.unwrap();
    env.advance_secs(3600);
    env.login_server.override_reply(|request| request.target.contains("refresh").then(|| reply(400, "", "")));
    env.login.token().await.unwrap();
    assert_eq!(env.request_counts(), [2, 2, 1]);
    // The kept token is refused at the exchange: a new token, one more exchange, then a failure.
    env.login_server.override_reply(|request| (request.target.contains("api/auth")).then(|| reply(401, "", "")));
    env.advance_secs(301);
    let error = env.login.token().await.unwrap_err();
    assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Login));
    assert_eq!(env.request_counts(), [3, 4, 2]);
}

#[tokio::test]
async fn a_401_causes_one_renewal_for_all_and_each_request_is_repeated_once() {
    let env = env();
    env.fetch().await.unwrap();
    env.login_server.revoke();
    env.advance_secs(20);
    let fetched = futures_util::future::join_all((0..20).map(|_| env.fetch())).await;
    assert!(fetched.iter().all(Result::is_ok));
    assert_eq!(env.request_counts(), [1, 1, 1]);
    assert!(env.server.count("/transcripts/") <= 41);
}

#[tokio::test]
async fn after_an_early_expiry_tokens_are_renewed_earlier() {
    let env = env();
    env.fetch().await.unwrap();
    env.advance_secs(10);
    env.login_server.revoke();
    env.fetch().await.unwrap();
    // The assumed lifetime is now 0.9 of ten seconds, so the next token is renewed earlier.
    env.login.renew_token(&env.login.token().await.unwrap()).await.unwrap();
    let before = env.login.token().await.unwrap();
    env.advance_secs(8);
    assert!(env.login.token().await.unwrap().is_newer_than(&before));
}

#[tokio::test]
async fn refused_fresh_tokens_are_an_error_and_renewals_become_rarer() {
    let env = env();
    env.login_server.override_reply(|request| request.target.contains("transcripts").then(|| reply(401, "", "")));
    let error = env.fetch().await.unwrap_err();
    assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Transcript));
    assert!(error.message.contains("even a fresh token") && error.hint().is_some(), "{error}");
    assert_eq!((env.server.count("/transcripts/"), env.request_counts()), (3, [1, 1, 2]));
    for _ in 0..20 {
        let error = env.fetch().await.unwrap_err();
        assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Transcript), "not the login's fault");
    }
    assert!(env.server.count("/refresh") <= 4, "{:?}", env.request_counts());
}

#[tokio::test]
async fn renewing_an_old_token_returns_the_newer_one() {
    let env = env();
    let first = env.login.token().await.unwrap();
    let second = env.login.renew_token(&first).await.unwrap();
    let again = env.login.renew_token(&first).await.unwrap();
    assert!(second.is_newer_than(&first) && !again.is_newer_than(&second));
    assert_eq!(env.request_counts(), [1, 1, 1]);
}

#[tokio::test]
async fn wrong_credentials_are_retried_with_growing_delays() {
    let env = env();
    env.login_server.override_reply(|_| {
        Some(reply(
            401,
            "",
            r#"{"error":"invalid_client","error_description":"Wrong secret client-s3cret","errors":[{"errorCode":"OAU-153"}]}"#,
        ))
    });
    let error = env.login.token().await.unwrap_err();
    assert_eq!(
        error.message,
        "failed to log in to RingCentral: the credentials were refused (401, OAU-153): invalid_client: Wrong secret [removed]"
    );
    assert!(error.hint().unwrap().contains("auth.client_id"));
    for _ in 0..50 {
        assert!(env.login.token().await.unwrap_err().retry_in.is_some_and(|due| due <= Duration::from_secs(1)));
    }
    assert_eq!(env.server.requests().len(), 1);
    for _ in 0..600 {
        env.advance_secs(1);
        let _ = env.login.token().await;
    }
    assert!((10..=30).contains(&env.server.requests().len()), "{}", env.server.requests().len());
    assert!(matches!(env.login.state(), LoginState::Failing { since: START, refused: true, last_ok: None, .. }));
    env.login_server.clear_override();
    env.advance_secs(61);
    env.login.token().await.unwrap();
    assert!(matches!(env.login.state(), LoginState::Good { .. }));
}

#[tokio::test]
async fn retry_after_is_a_lower_bound() {
    let env = env();
    env.login_server.override_reply(|_| Some(reply(429, "retry-after: 300\r\n", "")));
    assert_eq!(env.login.token().await.unwrap_err().retry_in, Some(Duration::from_secs(300)));
    env.advance_secs(299);
    env.login.token().await.unwrap_err();
    assert_eq!(env.server.requests().len(), 1);
}

#[tokio::test]
async fn refused_credentials_are_reloaded_and_used_immediately() {
    let load_credentials: CredentialsLoader = Arc::new(|| {
        Ok(Credentials::RingCentral {
            client_id: "client".to_owned(),
            client_secret: SecretString::from("rotated"),
            jwt: SecretString::from("jwt-s3cret"),
        })
    });
    let env = env_with(ringcentral_credentials(), Some(load_credentials));
    env.login_server.override_reply(|request| {
        let old = request.header("authorization") == Some("Basic Y2xpZW50OmNsaWVudC1zM2NyZXQ=");
        old.then(|| reply(400, "", r#"{"error":"invalid_client"}"#))
    });
    env.login.token().await.unwrap();
    assert_eq!(env.request_counts(), [2, 1, 0]);
}

#[tokio::test]
async fn a_login_without_the_scope_fails_with_a_hint() {
    let env = env();
    env.login_server.override_reply(|request| {
        request.target.contains("oauth").then(|| ok(r#"{"access_token":"rc","scope":"ReadMessages"}"#))
    });
    let error = env.login.token().await.unwrap_err();
    assert_eq!(error.fault, Fault::Forbidden);
    assert!(error.hint().unwrap().contains("developer portal"));
}

#[tokio::test]
async fn exchanges_are_reserved_and_refreshes_are_not() {
    let (_login_server, server) = FakeLoginServer::start();
    let clock = Clock::manual(START);
    let tally = Arc::new(CountingStore::default());
    let exchanges = Arc::new(quota_in(Arc::clone(&tally) as Arc<_>, clock.clone()));
    let tokens = Arc::new(quota(clock.clone()));
    let login =
        Login::new(test_server::api(&server, clock.clone()), ringcentral_credentials(), None, tokens, exchanges);
    for _ in 0..3 {
        login.token().await.unwrap();
        clock.advance(Duration::from_secs(250));
    }
    let count = |of: &AtomicI64| of.load(Ordering::SeqCst);
    assert_eq!((count(&tally.reserved), count(&tally.counted), server.count("/refresh")), (1, 1, 2));
}

#[tokio::test]
async fn no_exchange_is_sent_without_a_reservation() {
    let (_login_server, server) = FakeLoginServer::start();
    let clock = Clock::manual(START);
    let unavailable = || {
        Arc::new(quota_in(Arc::new(CountingStore { is_unavailable: true, ..CountingStore::default() }), clock.clone()))
    };
    let available = Arc::new(quota(clock.clone()));
    for (tokens, exchanges) in [(unavailable(), Arc::clone(&available)), (available, unavailable())] {
        let login =
            Login::new(test_server::api(&server, clock.clone()), ringcentral_credentials(), None, tokens, exchanges);
        assert_eq!(login.token().await.unwrap_err().cause, ErrorCause::ReservationFailed);
        assert_eq!(server.count("/accesstoken"), 0);
        assert!(matches!(login.state(), LoginState::Failing { refused: false, .. }));
    }
    assert_eq!(server.count("/oauth/token"), 1, "the one with a reservation");
}

/// The highest number of requests in any minute.
fn max_in_any_minute(times: &[u64]) -> usize {
    times.iter().map(|from| times.iter().filter(|at| (*from..from + 60).contains(*at)).count()).max().unwrap_or(0)
}

/// Waits until a quota sleeps on the clock. Requests in flight do not.
async fn a_quota_sleeps(clock: &Clock) {
    while clock.sleepers() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The times, in seconds, of the requests for RingCentral tokens in twenty minutes with
/// `override_reply`, in which the process restarts every `life` seconds.
async fn ringcentral_token_requests(override_reply: ReplyOverride, life: u64) -> Vec<u64> {
    let (login_server, server) = FakeLoginServer::start();
    login_server.override_reply(override_reply);
    let clock = Clock::manual(START);
    let store: Arc<dyn ReservationStore> = Arc::new(MemoryStore::default());
    let five = || {
        let limits = SlidingWindowLimiter::new([(5, Duration::from_secs(60))]);
        Arc::new(ReservedQuota::new(Arc::clone(&store), "tokens".to_owned(), limits, clock.clone()))
    };
    let api = test_server::api(&server, clock.clone());
    let start = || Login::new(api.clone(), ringcentral_credentials(), None, five(), Arc::new(quota(clock.clone())));
    let (mut login, mut times, mut seen) = (start(), Vec::new(), 0);
    for second in 0..1200 {
        if second % life == 0 {
            login = start();
        }
        // A request that must wait is cancelled, and tried again in a second.
        tokio::select! {
            _ = login.token() => {}
            () = a_quota_sleeps(&clock) => {}
        }
        let requested = server.count("/oauth/token");
        times.extend(std::iter::repeat_n(second, requested - seen));
        seen = requested;
        clock.advance(Duration::from_secs(1));
    }
    times
}

#[tokio::test]
async fn failing_logins_and_crash_loops_request_at_most_five_ringcentral_tokens_a_minute() {
    let wrong: ReplyOverride = |_| Some(reply(401, "", r#"{"error":"invalid_client"}"#));
    let no_access: ReplyOverride = |request| request.target.contains("accesstoken").then(|| reply(403, "", ""));
    for override_reply in [wrong, no_access] {
        let looping = ringcentral_token_requests(override_reply, 2).await;
        assert!(max_in_any_minute(&looping) <= 5 && looping.len() > 20, "{looping:?}");
        let one = ringcentral_token_requests(override_reply, u64::MAX).await;
        assert!(max_in_any_minute(&one) <= 5 && one.len() <= 35, "{one:?}");
    }
    // A failed exchange does not need a new token.
    assert!(max_in_any_minute(&ringcentral_token_requests(no_access, u64::MAX).await) <= 2);
}

#[tokio::test]
async fn an_outage_of_token_verification_causes_no_renewal_and_is_not_the_logins_fault() {
    let env = env();
    env.fetch().await.unwrap();
    env.login_server
        .override_reply(|_| Some(reply(401, "content-type: text/plain\r\n", "Jwks remote fetch is failed")));
    for _ in 0..20 {
        let error = env.fetch().await.unwrap_err();
        assert_eq!(
            (error.fault, error.cause, error.endpoint),
            (Fault::Transient, ErrorCause::Outage, Endpoint::Transcript)
        );
    }
    assert_eq!((env.request_counts(), env.server.count("/transcripts/")), ([1, 1, 0], 21));
    assert!(matches!(env.login.state(), LoginState::Good { .. }));
    // It lasts until the token has expired: the refresh token is kept, and the login does not count
    // as refused.
    env.advance_secs(301);
    let error = env.login.token().await.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::Transient, ErrorCause::Outage));
    assert!(matches!(env.login.state(), LoginState::Failing { refused: false, .. }));
    env.login_server.clear_override();
    env.advance_secs(61);
    env.fetch().await.unwrap();
    assert_eq!(env.request_counts(), [1, 1, 2]);
}
