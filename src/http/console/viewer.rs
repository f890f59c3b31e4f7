//! Who looks at the console, and what they see and may do there.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::view::Format;
use crate::access::{AuthRefusal, Authenticator, Caller, Permission, SessionId};
use crate::db::DbError;
use crate::http::api::problem::Problem;
use crate::http::login::{self, peer_of};
use crate::http::state::HttpState;

/// The parameters of a page's address that carry the notice of a completed action.
pub(in crate::http) const NOTICE_PARAMETERS: [&str; 2] = ["notice", "seal"];

/// Who looks at a page.
#[derive(Debug, Clone)]
pub(in crate::http) struct Viewer {
    /// Nobody known, where the figures are open to all.
    caller: Option<Caller>,
    session: Option<SessionId>,
    /// Whether the settings let people log in.
    can_log_in: bool,
    /// The token for the forms of this page; `None` without a session.
    form_token: Option<String>,
    /// What an action that led here has done.
    notice: Option<String>,
    /// The address of the page, without a notice.
    path: String,
}

impl Viewer {
    /// Someone unknown, where the figures are open to all.
    pub(in crate::http) fn unknown(can_log_in: bool, path: String) -> Viewer {
        Viewer { caller: None, session: None, can_log_in, form_token: None, notice: None, path }
    }

    /// A known caller, without a session.
    pub(in crate::http) fn known(caller: Caller, path: String) -> Viewer {
        Viewer { caller: Some(caller), ..Viewer::unknown(true, path) }
    }

    pub(in crate::http) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    pub(in crate::http) fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    pub(in crate::http) fn can_log_in(&self) -> bool {
        self.can_log_in
    }

    pub(in crate::http) fn form_token(&self) -> Option<&str> {
        self.form_token.as_deref()
    }

    pub(in crate::http) fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// The address of the page, for the way back to it.
    pub(in crate::http) fn path(&self) -> &str {
        &self.path
    }

    /// Whether all accounts and channels are visible, now and later.
    pub(in crate::http) fn sees_everything(&self) -> bool {
        self.caller
            .as_ref()
            .is_none_or(|caller| caller.may_everywhere(Permission::Read) || caller.may_everywhere(Permission::Operate))
    }

    /// Whether the state of an account is visible.
    pub(in crate::http) fn sees_account(&self, sub: &str) -> bool {
        self.caller.as_ref().is_none_or(|caller| caller.sees_account(sub) || self.may_operate(sub))
    }

    /// Whether sums over all channels of an account are visible.
    pub(in crate::http) fn sees_all_channels(&self, sub: &str) -> bool {
        self.caller.as_ref().is_none_or(|caller| caller.sees_all_channels(sub) || self.may_operate(sub))
    }

    /// Whether the role permits this in some account.
    pub(in crate::http) fn may(&self, permission: Permission) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.may(permission))
    }

    /// Whether the role permits this in all accounts and channels.
    pub(in crate::http) fn may_everywhere(&self, permission: Permission) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.may_everywhere(permission))
    }

    /// Whether the role permits operating an account.
    pub(in crate::http) fn may_operate(&self, sub: &str) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.may_in_account(Permission::Operate, sub))
    }
}

/// Passes on requests of those who may see the console, with their [`Viewer`]; answers others with
/// the login page.
pub(in crate::http) async fn require_viewer(
    State(state): State<Arc<HttpState>>,
    mut request: Request,
    next: Next,
) -> Response {
    match identify(&state, request.headers(), request.uri(), peer_of(&request)).await {
        Ok(viewer) => {
            request.extensions_mut().insert(viewer);
            next.run(request).await
        }
        Err(refusal) => refuse(&state, &request, refusal),
    }
}

/// Passes on requests of readers, with their [`Viewer`] and [`Caller`]; answers others with the
/// login page.
pub(in crate::http) async fn require_reader(
    State(state): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> Response {
    require_permission(&state, request, next, &[Permission::Read]).await
}

/// The same for those who read or operate.
pub(in crate::http) async fn require_caller(
    State(state): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> Response {
    require_permission(&state, request, next, &[Permission::Read, Permission::Operate]).await
}

async fn require_permission(state: &HttpState, mut request: Request, next: Next, any: &[Permission]) -> Response {
    let viewer = match identify(state, request.headers(), request.uri(), peer_of(&request)).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refuse(state, &request, refusal),
    };
    match viewer.caller.clone() {
        Some(caller) if any.iter().any(|permission| caller.may(*permission)) => {
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(viewer);
            next.run(request).await
        }
        Some(_) => {
            let problem = Problem::new(StatusCode::FORBIDDEN, "your role does not permit reading conversations");
            problem.with_hint("ask for a role with may = [\"read\"]").into_response()
        }
        None => refuse(state, &request, AuthRefusal::Missing),
    }
}

async fn identify(
    state: &HttpState,
    headers: &HeaderMap,
    uri: &Uri,
    peer: Option<IpAddr>,
) -> Result<Viewer, AuthRefusal> {
    let (path, notice) = split_notice(uri);
    let Some(authenticator) = &state.authenticator else { return Ok(Viewer::unknown(false, path)) };
    let is_open = !authenticator.has_limited_roles();
    let (caller, session) = match authenticator.identify(headers, peer).await {
        Ok(identity) => identity,
        // The open figures are shown most of all while the database is away.
        Err(AuthRefusal::Missing | AuthRefusal::Unavailable(_)) if is_open => {
            return Ok(Viewer::unknown(true, path));
        }
        Err(refusal) => return Err(refusal),
    };
    let mut viewer = Viewer::known(caller, path);
    if let Some(session) = session {
        viewer.form_token = Some(authenticator.form_token(&session).await?);
        viewer.notice = genuine_notice(authenticator, &session, notice).await?;
        viewer.session = Some(session);
    }
    Ok(viewer)
}

/// The answer to a request that has no viewer.
fn refuse(state: &HttpState, request: &Request, refusal: AuthRefusal) -> Response {
    if Format::of_path(request.uri().path()) == Format::Json {
        state.app.metrics.count_refused_access(refusal.name());
        return Problem::from(&refusal).into_response();
    }
    login::ask_to_log_in(state, request, refusal)
}

/// The address of the page without the notice, and the notice with its seal.
fn split_notice(uri: &Uri) -> (String, [Option<String>; 2]) {
    let mut notice = [None, None];
    let Some(query) = uri.query() else { return (uri.path().to_owned(), notice) };
    if !query.contains("seal=") {
        return (uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(), notice);
    }
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match NOTICE_PARAMETERS.iter().position(|known| *known == name) {
            Some(position) => notice[position] = Some(value.into_owned()),
            None => drop(rest.append_pair(&name, &value)),
        }
    }
    let rest = rest.finish();
    let path = uri.path();
    (if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") }, notice)
}

async fn genuine_notice(
    authenticator: &Authenticator,
    session: &SessionId,
    notice: [Option<String>; 2],
) -> Result<Option<String>, DbError> {
    let [Some(text), Some(seal)] = notice else { return Ok(None) };
    Ok(authenticator.is_notice(session, &text, &seal).await?.then_some(text))
}
