use axum::http::HeaderValue;
use axum::http::header::SET_COOKIE;
use axum::response::IntoResponse;
use tempfile::TempDir;

use super::super::attempt_limiter::{ATTEMPT_REFILL_INTERVAL, MAX_WRONG_ATTEMPTS};
use super::super::session::SESSION_LIFETIME;
use super::*;
use crate::config::Permission;
use crate::db::OpenMode;

const COOKIE: &str = "ringcx_session";

struct Site {
    clock: Clock,
    db: Db,
    _folder: TempDir,
}

impl Site {
    async fn open() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
        Site { clock: Clock::manual(Time(1_800_000_000_000)), db, _folder: folder }
    }

    fn authenticator(&self, token: &str) -> Authenticator {
        self.with_access(Some(token), &access(Vec::new(), Vec::new())).unwrap()
    }

    fn with_access(&self, token: Option<&str>, access: &Access) -> Option<Authenticator> {
        let token = token.map(SecretString::from);
        Authenticator::new(token.as_ref(), access, self.clock.clone(), self.db.clone()).unwrap()
    }
}

fn access(roles: Vec<RoleSettings>, keys: Vec<KeySettings>) -> Access {
    Access { oidc: None, roles, keys, log_retention: Duration::from_secs(1) }
}

fn role(name: &str) -> RoleSettings {
    RoleSettings {
        name: name.to_owned(),
        groups: Default::default(),
        subjects: Default::default(),
        accounts: Default::default(),
        channels: Default::default(),
        may: [Permission::Read].into(),
        redact: Vec::new(),
    }
}

fn with(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
}

/// The `Set-Cookie` of a response.
fn set_cookie(cookies: PrivateCookieJar) -> String {
    cookies.into_response().headers()[SET_COOKIE].to_str().unwrap().to_owned()
}

/// What a browser sends that holds this cookie.
fn session(cookie: &str) -> HeaderMap {
    with("cookie", &format!("other=1; {}", cookie.split(';').next().unwrap()))
}

/// Who it is, or why not.
async fn check(authenticator: &Authenticator, headers: &HeaderMap) -> String {
    match authenticator.authenticate(headers, Some([127, 0, 0, 1].into())).await {
        Ok(caller) => caller.reader.name().to_owned(),
        Err(refusal) => refusal.name().to_owned(),
    }
}

#[tokio::test]
async fn a_session_is_valid_on_every_replica_until_it_expires_and_does_not_contain_the_token() {
    let site = Site::open().await;
    let one = site.authenticator("sesame");
    let cookie = set_cookie(one.create_token_session(&HeaderMap::new()).await.unwrap());
    assert!(!cookie.contains("sesame") && !cookie.contains("1800043200000"), "{cookie}");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"), "{cookie}");
    let headers = session(&cookie);
    assert_eq!(check(&one, &headers).await, "http.token");
    assert_eq!(check(&site.authenticator("sesame"), &headers).await, "http.token");
    assert_eq!(check(&site.authenticator("sesame2"), &headers).await, "missing", "another token ends it");
    assert_eq!(check(&Site::open().await.authenticator("sesame"), &headers).await, "missing", "another archive");
    site.clock.advance(SESSION_LIFETIME);
    assert_eq!(check(&one, &headers).await, "missing", "it has expired");
}

#[tokio::test]
async fn a_session_that_was_tampered_with_or_ended_is_invalid() {
    let site = Site::open().await;
    let authenticator = site.authenticator("sesame");
    let cookie = set_cookie(authenticator.create_token_session(&HeaderMap::new()).await.unwrap());
    let altered = cookie.replacen("ringcx_session=", "ringcx_session=A", 1);
    let nothing = ["", "x", "..", "99999999999999.a.", "99999999999999"];
    let invalid = nothing.map(|nothing| format!("{COOKIE}={nothing}"));
    for cookie in invalid.iter().chain([&altered]) {
        assert_eq!(check(&authenticator, &session(cookie)).await, "missing", "{cookie}");
    }
    let forget = set_cookie(authenticator.end_session(&session(&cookie)).await.unwrap());
    assert!(forget.starts_with("ringcx_session=; Path=/; Max-Age=0"), "{forget}");
    assert_eq!(check(&authenticator, &session(&cookie)).await, "missing");
    assert_eq!(check(&site.authenticator("sesame"), &session(&cookie)).await, "missing", "after a restart");
}

#[tokio::test]
async fn wrong_tokens_are_rate_limited_and_sessions_and_generated_keys_are_not() {
    let site = Site::open().await;
    let generated = generate_key();
    let hash = Sha256::digest(generated.expose_secret()).into();
    let key = KeySettings { name: "qa".to_owned(), hash, role: "readers".to_owned(), expires: None };
    let authenticator = site.with_access(Some("sesame"), &access(vec![role("readers")], vec![key])).unwrap();
    let cookie = session(&set_cookie(authenticator.create_token_session(&HeaderMap::new()).await.unwrap()));
    let form = |token: &str| authenticator.check_token(token).map_err(|refusal| refusal.name());
    for _ in 0..MAX_WRONG_ATTEMPTS {
        assert_eq!(form("sesame"), Ok(()));
        assert_eq!(form("sesamE"), Err("wrong"));
    }
    assert_eq!(form("sesame"), Err("rate_limited"), "the right one could be a guess as well");
    assert_eq!(check(&authenticator, &with("authorization", "Bearer sesame")).await, "rate_limited");
    assert_eq!(check(&authenticator, &cookie).await, "http.token");
    let bearer = format!("Bearer {}", generated.expose_secret());
    assert_eq!(check(&authenticator, &with("authorization", &bearer)).await, "qa", "nobody can guess it");
    let guess = format!("Bearer {}", generate_key().expose_secret());
    assert_eq!(check(&authenticator, &with("authorization", &guess)).await, "rate_limited");
    site.clock.advance(ATTEMPT_REFILL_INTERVAL);
    assert_eq!((form("x"), form("sesame")), (Err("wrong"), Err("rate_limited")));
    site.clock.advance(ATTEMPT_REFILL_INTERVAL);
    assert_eq!((form("sesame"), form("sesame")), (Ok(()), Ok(())));
}

#[tokio::test]
async fn the_cookie_is_secure_if_the_browser_uses_tls() {
    let authenticator = Site::open().await.authenticator("sesame");
    let is_secure = async |name, value| {
        let cookies = authenticator.create_token_session(&with(name, value)).await.unwrap();
        set_cookie(cookies).split("; ").any(|part| part == "Secure")
    };
    assert!(is_secure("x-forwarded-proto", "https").await && is_secure("origin", "https://archive.example").await);
    assert!(!is_secure("origin", "http://archive.example").await);
}

#[tokio::test]
async fn a_bearer_token_is_the_token_itself_or_a_key_until_it_expires() {
    let site = Site::open().await;
    let now = site.clock.now();
    let key = |name: &str, secret: &str, expires| KeySettings {
        name: name.to_owned(),
        hash: Sha256::digest(secret).into(),
        role: "readers".to_owned(),
        expires,
    };
    let keys = vec![key("old", "old-key", Some(now)), key("new", "new-key", Some(now + Duration::from_secs(1)))];
    let authenticator = site.with_access(Some("sesame"), &access(vec![role("readers")], keys)).unwrap();
    let bearer = async |header: &str| check(&authenticator, &with("authorization", header)).await;
    assert_eq!(bearer("bearer sesame").await, "http.token");
    assert_eq!((bearer("Bearer new-key").await.as_str(), bearer("Bearer old-key").await.as_str()), ("new", "expired"));
    for wrong in ["Bearer ", "Bearer sesam", "Bearer sesame x"] {
        assert_eq!(bearer(wrong).await, "wrong", "{wrong}");
    }
    for none in ["Bearer", "Basic sesame", "sesame"] {
        assert_eq!(bearer(none).await, "missing", "{none}");
    }
    site.clock.advance(Duration::from_secs(1));
    assert_eq!(bearer("Bearer new-key").await, "expired");
    assert!(authenticator.check_token("new-key").is_err(), "a key is not for a browser");
    assert!(site.with_access(None, &access(vec![role("readers")], Vec::new())).is_none(), "nobody is let in");
}

#[test]
fn the_origin_is_the_connection_and_what_a_proxy_reports_never_stands_alone() {
    let origin = |value: &str| origin_of(&with("x-forwarded-for", value), Some([10, 0, 0, 1].into()));
    assert_eq!(origin(""), "10.0.0.1");
    assert_eq!(origin("203.0.113.5"), "10.0.0.1, forwarded for 203.0.113.5");
    assert!(origin(&"1".repeat(5_000)).len() < 250);
}

#[test]
fn a_key_has_the_hash_that_the_settings_compare() {
    let key = generate_key();
    assert!(is_generated_key(key.expose_secret()) && !is_generated_key("rcx_short"));
    assert_ne!(key.expose_secret(), generate_key().expose_secret());
    assert_eq!(
        hash_key(&SecretString::from("abc")),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
