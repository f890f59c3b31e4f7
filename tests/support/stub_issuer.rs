//! An OpenID Connect provider on loopback that signs ID tokens as a test asks for: right ones, forged ones, old ones.
//!
//! It checks what a client must send: the redirect URI, the client's secret, each code once, and the PKCE verifier.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use ringcx_extractor::clock::{Clock, Time};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

pub const CLIENT_ID: &str = "archive";
pub const CLIENT_SECRET: &str = "a-client-secret-that-nobody-guesses";

/// How an ID token differs from a right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    /// Signed with a key that is not published, under the id of one that is.
    ForeignKey,
    /// Signed with a key that is published nowhere.
    UnknownKey,
    /// A claim was changed after the signature.
    ChangedClaim,
    /// `alg` is `none`, without a signature.
    Unsigned,
    /// Signed with the client secret.
    SharedSecret,
    OtherIssuer,
    OtherAudience,
    Expired,
    /// The token of the login before.
    Replayed,
    OtherNonce,
    WithoutNonce,
    Missing,
}

impl Forgery {
    pub const ALL: [Forgery; 12] = [
        Forgery::ForeignKey,
        Forgery::UnknownKey,
        Forgery::ChangedClaim,
        Forgery::Unsigned,
        Forgery::SharedSecret,
        Forgery::OtherIssuer,
        Forgery::OtherAudience,
        Forgery::Expired,
        Forgery::Replayed,
        Forgery::OtherNonce,
        Forgery::WithoutNonce,
        Forgery::Missing,
    ];
}

/// An authorization request whose code was not used yet.
#[derive(Debug, Clone)]
struct Grant {
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

struct IssuerState {
    url: String,
    clock: Clock,
    key: EcdsaKeyPair,
    kid: u32,
    /// Claims about the person who logs in.
    person: Value,
    /// Claims that only the user-info endpoint tells.
    user_info: Value,
    grants: BTreeMap<String, Grant>,
    codes: u32,
    forgery: Option<Forgery>,
    last_token: Option<String>,
    is_down: bool,
    discoveries: u32,
    /// What the last authorization request asked for.
    scope: String,
}

/// The running provider. It stops when it is dropped.
pub struct StubIssuer {
    pub url: String,
    state: Arc<Mutex<IssuerState>>,
    _server: JoinSet<()>,
}

fn new_key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("the key")
}

impl StubIssuer {
    pub async fn start() -> StubIssuer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Arc::new(Mutex::new(IssuerState {
            url: url.clone(),
            clock: Clock::system(),
            key: new_key(),
            kid: 1,
            person: json!({}),
            user_info: json!({}),
            grants: BTreeMap::new(),
            codes: 0,
            forgery: None,
            last_token: None,
            is_down: false,
            discoveries: 0,
            scope: String::new(),
        }));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(keys))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/userinfo", get(user_info))
            .with_state(state.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        StubIssuer { url, state, _server: server }
    }

    fn state(&self) -> MutexGuard<'_, IssuerState> {
        lock(&self.state)
    }

    /// Who logs in from now on.
    pub fn set_person(&self, claims: Value) {
        self.state().person = claims;
    }

    /// What the user-info endpoint adds.
    pub fn set_user_info(&self, claims: Value) {
        self.state().user_info = claims;
    }

    pub fn forge(&self, forgery: Option<Forgery>) {
        self.state().forgery = forgery;
    }

    /// Signs with a new key, and publishes only that.
    pub fn rotate_key(&self) {
        let mut state = self.state();
        state.key = new_key();
        state.kid += 1;
    }

    /// Answers everything with 503.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    pub fn discoveries(&self) -> u32 {
        self.state().discoveries
    }

    pub fn requested_scope(&self) -> String {
        self.state().scope.clone()
    }
}

fn lock(state: &Mutex<IssuerState>) -> MutexGuard<'_, IssuerState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Shared = State<Arc<Mutex<IssuerState>>>;

fn down() -> Response {
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

async fn discovery(State(state): Shared) -> Response {
    let mut state = lock(&state);
    if state.is_down {
        return down();
    }
    state.discoveries += 1;
    let url = &state.url;
    Json(json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "userinfo_endpoint": format!("{url}/userinfo"),
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        // As some providers do, it offers the client secret as a key, too.
        "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
    }))
    .into_response()
}

async fn keys(State(state): Shared) -> Response {
    let state = lock(&state);
    if state.is_down {
        return down();
    }
    let point = state.key.public_key().as_ref();
    let coordinate = |range: std::ops::Range<usize>| BASE64_URL_SAFE_NO_PAD.encode(&point[range]);
    Json(json!({"keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": state.kid.to_string(),
        "x": coordinate(1..33), "y": coordinate(33..65),
    }]}))
    .into_response()
}

/// Logs the person in without a question, and sends the browser back.
async fn authorize(State(state): Shared, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let mut state = lock(&state);
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let asks_for_code = get("response_type") == "code" && get("client_id") == CLIENT_ID;
    if !asks_for_code || get("code_challenge_method") != "S256" {
        return (StatusCode::BAD_REQUEST, "not a request of the authorisation code with PKCE").into_response();
    }
    state.scope = get("scope");
    state.codes += 1;
    let code = format!("code-{}", state.codes);
    let (nonce, challenge, redirect_uri) = (get("nonce"), get("code_challenge"), get("redirect_uri"));
    state.grants.insert(code.clone(), Grant { nonce, challenge, redirect_uri: redirect_uri.clone() });
    Redirect::to(&format!("{redirect_uri}?code={code}&state={}", get("state"))).into_response()
}

async fn token(State(state): Shared, headers: HeaderMap, Form(form): Form<BTreeMap<String, String>>) -> Response {
    let mut state = lock(&state);
    if state.is_down {
        return down();
    }
    let refuse = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}")));
    if headers.get("authorization").is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
        return refuse("invalid_client");
    }
    let get = |name: &str| form.get(name).cloned().unwrap_or_default();
    // Each code works once.
    let Some(grant) = state.grants.remove(&get("code")) else { return refuse("invalid_grant") };
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(get("code_verifier")));
    if grant.challenge != challenge || grant.redirect_uri != get("redirect_uri") {
        return refuse("invalid_grant");
    }
    let mut answer = json!({"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 300});
    if state.forgery != Some(Forgery::Missing) {
        answer["id_token"] = id_token(&mut state, &grant.nonce).into();
    }
    Json(answer).into_response()
}

async fn user_info(State(state): Shared) -> Response {
    let state = lock(&state);
    let mut claims = state.user_info.clone();
    if claims["sub"].is_null() {
        claims["sub"] = state.person["sub"].clone();
    }
    Json(claims).into_response()
}

fn encode(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

fn id_token(state: &mut IssuerState, nonce: &str) -> String {
    let now = state.clock.now();
    let secs = |time: Time| time.0.div_euclid(1000);
    let forgery = state.forgery;
    let is = |kind: Forgery| forgery == Some(kind);
    let mut claims = state.person.clone();
    claims["iss"] =
        if is(Forgery::OtherIssuer) { "https://login.evil.example".into() } else { state.url.clone().into() };
    claims["aud"] = if is(Forgery::OtherAudience) { "another-application".into() } else { CLIENT_ID.into() };
    claims["iat"] = secs(now).into();
    claims["exp"] = (secs(now) + if is(Forgery::Expired) { -3600 } else { 300 }).into();
    claims["nonce"] = if is(Forgery::OtherNonce) { "another".into() } else { nonce.into() };
    if is(Forgery::WithoutNonce) {
        claims.as_object_mut().expect("claims").remove("nonce");
    }
    let kid = if is(Forgery::UnknownKey) { "unknown".to_owned() } else { state.kid.to_string() };
    let algorithm = match forgery {
        Some(Forgery::Unsigned) => "none",
        Some(Forgery::SharedSecret) => "HS256",
        _ => "ES256",
    };
    let signed = format!("{}.{}", encode(&json!({"alg": algorithm, "typ": "JWT", "kid": kid})), encode(&claims));
    let signature = match forgery {
        Some(Forgery::Unsigned) => Vec::new(),
        Some(Forgery::SharedSecret) => {
            let mut mac = Hmac::<Sha256>::new_from_slice(CLIENT_SECRET.as_bytes()).expect("a key");
            mac.update(signed.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }
        Some(Forgery::ForeignKey | Forgery::UnknownKey) => sign(&new_key(), &signed),
        _ => sign(&state.key, &signed),
    };
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
    let mut token = format!("{signed}.{signature}");
    if is(Forgery::ChangedClaim) {
        claims["groups"] = json!(["cx-everything"]);
        let header = token.split('.').next().unwrap_or_default().to_owned();
        token = format!("{header}.{}.{signature}", encode(&claims));
    }
    match (&state.last_token, is(Forgery::Replayed)) {
        (Some(last), true) => last.clone(),
        _ => {
            if forgery.is_none() {
                state.last_token = Some(token.clone());
            }
            token
        }
    }
}

fn sign(key: &EcdsaKeyPair, text: &str) -> Vec<u8> {
    key.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature").as_ref().to_vec()
}
