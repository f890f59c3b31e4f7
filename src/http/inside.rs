//! What is shown to those alone who know `http.token`: the search, and conversations. Reads only.
//!
//! There is none of it, and no page that tells of it, where no token is set. Nothing that was asked for here goes into the
//! log. Pages have no script at all.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, http::HeaderValue};
use serde::Deserialize;

use crate::clock::Time;
use crate::db::{AccountRow, Db, DbError, Gone};
use crate::search::{self, Filters, Findings, Order, QueryError};

use super::door::{Answer, Door};
use super::page::{self, Asked, Reading, Refusal, Result as Found};
use super::site::Site;

/// Hits on a page.
const HITS: usize = 50;
/// How long a search may take.
const LONGEST: Duration = Duration::from_secs(30);

/// The paths; empty without a token.
pub(super) fn routes(site: &Arc<Site>) -> Router<Arc<Site>> {
    let Some(door) = site.door.clone() else { return Router::new() };
    let of_door = Router::new()
        .route("/login", get(form).post(enter))
        .route("/logout", post(leave))
        .with_state::<Arc<Site>>(door.clone());
    Router::new()
        .route("/search", get(looked_for))
        .route("/conversation", get(conversation))
        .layer(middleware::from_fn_with_state(door, admitted))
        .merge(of_door)
        .layer(middleware::map_response(marked))
}

/// These pages' own policy; a form's own site is told where it was sent from, so that it can tell others' forms.
async fn marked(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(page::inside_policy()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Lets those who know the token see what they ask for, and shows the others the door.
async fn admitted(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    match door.admits(request.headers()).await {
        Err(error) => unavailable(error),
        Ok(Answer::Right) => next.run(request).await,
        Ok(answer) => {
            let wanted = request.uri().path_and_query().map(ToString::to_string);
            refused(answer, wanted.as_deref().unwrap_or_default(), false)
        }
    }
}

/// The form; `tried` where a token was given in it.
fn refused(answer: Answer, wanted: &str, tried: bool) -> Response {
    let (status, refusal) = match answer {
        Answer::Wait(wait) => (StatusCode::TOO_MANY_REQUESTS, Refusal::Wait(wait)),
        _ if tried => (StatusCode::UNAUTHORIZED, Refusal::Wrong),
        _ => (StatusCode::UNAUTHORIZED, Refusal::None),
    };
    let mut response = (status, Html(page::login(wanted, refusal))).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if let Answer::Wait(wait) = answer {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

async fn form(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    match door.admits(&headers).await {
        Ok(Answer::Right) => to("/search"),
        _ => Html(page::login("", Refusal::None)).into_response(),
    }
}

/// What the form sends.
#[derive(Deserialize)]
struct Key {
    token: String,
    #[serde(default)]
    next: String,
}

async fn enter(State(door): State<Arc<Door>>, headers: HeaderMap, key: Result<Form<Key>, FormRejection>) -> Response {
    let Form(key) = match key {
        Ok(key) => key,
        Err(rejection) => return (rejection.status(), "this takes a form with `token`\n").into_response(),
    };
    let answer = door.hear(key.token.trim());
    if answer != Answer::Right {
        if let Some(unlogged) = door.log.admit() {
            tracing::warn!(unlogged, "a wrong http.token was given for the conversations, or too many were before");
        }
        return refused(answer, &key.next, true);
    }
    tracing::info!("someone who knows http.token may now read conversations, for 12 hours");
    with_cookie(to(&key.next), &door.open(&headers))
}

async fn leave(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    match door.close(&headers).await {
        Ok(forget) => with_cookie(to("/"), &forget),
        Err(error) => unavailable(error),
    }
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// On to one of this server's own pages, and to no other.
fn to(wanted: &str) -> Response {
    let own =
        ["/search", "/conversation"].iter().any(|path| wanted == *path || wanted.starts_with(&format!("{path}?")));
    let wanted = if own || wanted == "/" { wanted } else { "/search" };
    let place = HeaderValue::from_str(wanted).unwrap_or(HeaderValue::from_static("/search"));
    (StatusCode::SEE_OTHER, [(LOCATION, place)]).into_response()
}

/// Where the database cannot tell whether a session was ended, or be told.
fn unavailable(error: DbError) -> Response {
    let trouble = Trouble::Db(error);
    (trouble.status(), trouble.words()).into_response()
}

/// Why there is no answer.
enum Trouble {
    Db(DbError),
    Query(QueryError),
    Asked(String),
    Slow,
}

impl From<DbError> for Trouble {
    fn from(error: DbError) -> Trouble {
        Trouble::Db(error)
    }
}

impl Trouble {
    fn status(&self) -> StatusCode {
        match self {
            Trouble::Query(_) | Trouble::Asked(_) => StatusCode::BAD_REQUEST,
            Trouble::Db(_) | Trouble::Slow => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn words(&self) -> String {
        match self {
            Trouble::Db(error) => {
                tracing::warn!(%error, "failed to read for a page");
                "failed to read the archive: the database did not answer\nhint: see /readyz for what to do".to_owned()
            }
            Trouble::Query(error) => error.to_string(),
            Trouble::Asked(why) => why.clone(),
            Trouble::Slow => {
                "failed to search: it takes too long, or too many search at once\nhint: give a time or an \
                              account, or try again in a moment"
                    .to_owned()
            }
        }
    }
}

async fn looked_for(State(site): State<Arc<Site>>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    // What cannot be read as a query string asks for nothing.
    let asked = asked.map_or_else(|_| Asked::default(), |Query(asked)| asked);
    if asked.q.trim().is_empty() {
        return Html(page::found(&asked, &Found::Nothing)).into_response();
    }
    let Some(door) = site.door.as_ref() else { return StatusCode::NOT_FOUND.into_response() };
    let search = async {
        let _place = door.searches.acquire().await.map_err(|_| Trouble::Slow)?;
        look(&site.shared.db, &asked).await
    };
    let found = tokio::time::timeout(LONGEST, search).await.unwrap_or(Err(Trouble::Slow));
    match found {
        Ok((findings, accounts, standing)) => {
            let found =
                Found::Found { findings: &findings, accounts: &accounts, standing: standing.as_deref(), limit: HITS };
            Html(page::found(&asked, &found)).into_response()
        }
        Err(trouble) => {
            (trouble.status(), Html(page::found(&asked, &Found::Trouble(&trouble.words())))).into_response()
        }
    }
}

async fn look(db: &Db, asked: &Asked) -> Result<(Findings, Vec<AccountRow>, Option<String>), Trouble> {
    let query = search::parse(&asked.q).map_err(Trouble::Query)?;
    let accounts = db.accounts().await?;
    let account = match asked.account.trim() {
        "" => None,
        wanted => Some(account(&accounts, wanted)?),
    };
    let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filters = Filters {
        from: day(&asked.from)?,
        to: day(&asked.to)?.map(|day| day + Duration::from_secs(86_400)),
        account,
        agent: text(&asked.agent),
        channel: text(&asked.channel),
        ..Filters::default()
    };
    let standing = standing(db).await?;
    let order = if asked.newest.is_empty() { Order::Best } else { Order::Newest };
    Ok((search::find(db, &query, &filters, order, HITS).await?, accounts, standing))
}

/// By id, or by a name that only one has.
fn account(accounts: &[AccountRow], wanted: &str) -> Result<i64, Trouble> {
    if let Some(account) = accounts.iter().find(|account| &*account.id.sub == wanted) {
        return Ok(account.key);
    }
    let mut named = accounts.iter().filter(|account| account.name.as_deref() == Some(wanted));
    match (named.next(), named.next()) {
        (Some(account), None) => Ok(account.key),
        (Some(_), Some(_)) => Err(Trouble::Asked("several accounts have that name\nhint: give the id".to_owned())),
        (None, _) => {
            Err(Trouble::Asked("no account has that id or name\nhint: the dashboard lists them all".to_owned()))
        }
    }
}

/// The beginning of a day in UTC, as browsers send it.
fn day(text: &str) -> Result<Option<Time>, Trouble> {
    match text.trim() {
        "" => Ok(None),
        text => Time::parse(&format!("{text}T00:00:00Z"))
            .map(Some)
            .ok_or_else(|| Trouble::Asked("a day must look like 2026-11-20".to_owned())),
    }
}

/// What the index lacks; asked before the search, as what is indexed meanwhile may be missing from what was found.
async fn standing(db: &Db) -> Result<Option<String>, DbError> {
    if db.index_version().await? != Some(search::words::VERSION) {
        return Ok(Some("The archive is not indexed yet; the daemon is at it.".to_owned()));
    }
    let behind = db.index_behind().await?;
    Ok((behind > 0)
        .then(|| format!("The index is {} changes behind the archive.", crate::status::words::number(behind))))
}

/// Which segment.
#[derive(Deserialize)]
struct Which {
    account: String,
    segment: String,
}

async fn conversation(State(site): State<Arc<Site>>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let Ok(Query(which)) = which else {
        return (StatusCode::BAD_REQUEST, Html(page::no_conversation("this takes `account` and `segment`")))
            .into_response();
    };
    let read = tokio::time::timeout(LONGEST, read(&site.shared.db, &which, site.shared.clock.now()));
    match read.await.unwrap_or(Err(Trouble::Slow)) {
        Ok(Ok(page)) => Html(page).into_response(),
        Ok(Err(why)) => (StatusCode::NOT_FOUND, Html(page::no_conversation(&why))).into_response(),
        Err(trouble) => (trouble.status(), Html(page::no_conversation(&trouble.words()))).into_response(),
    }
}

/// The page, or why there is none.
async fn read(db: &Db, which: &Which, now: Time) -> Result<Result<String, String>, Trouble> {
    let of_account = |segment: &crate::db::SegmentRow| *segment.account.sub == *which.account;
    let Some(segment) = db.segments_named(&which.segment).await?.into_iter().find(of_account) else {
        return Ok(Err(match db.tombstone(&which.segment, None).await? {
            Some(stone) => {
                let why = match stone.gone {
                    Gone::Erased => "was erased on request",
                    Gone::Expired => "went because it was past retention",
                };
                format!("this conversation {why}, at {}", stone.at.rfc3339_secs())
            }
            None => "there is no such conversation in the archive".to_owned(),
        }));
    };
    let dialog = match &segment.dialog_id {
        Some(dialog) => db.segments_of_dialog(dialog).await?,
        None => Vec::new(),
    };
    let accounts = db.accounts().await?;
    let name =
        accounts.iter().find(|account| account.key == segment.account_key).and_then(|account| account.name.as_deref());
    let slots = db.slots(std::slice::from_ref(&segment)).await?;
    let Some(slots) = slots.first() else { return Ok(Err("there is no such conversation in the archive".to_owned())) };
    Ok(Ok(page::conversation(&Reading { segment: &segment, slots, dialog: &dialog, account: name, now })))
}
