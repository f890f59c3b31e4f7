//! Actions of the console: a form with a token, a confirmation where something is lost, the code of
//! the API, and a redirect to the page with a notice of what was done. It needs no script.
//!
//! An action runs once for each form that was shown, however often it is sent: the token is the key
//! under which its answer is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Extension, RawForm, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::post;
use axum::{Router, middleware};
use maud::{Markup, html};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::frame::View;
use super::view::problem_page;
use super::viewer::{self, NOTICE_PARAMETERS, Viewer};
use crate::access::{AuthRefusal, Caller};
use crate::http::api::idempotency::{once, unavailable};
use crate::http::api::problem::Problem;
use crate::http::login;
use crate::http::state::HttpState;

/// The paths of actions begin so.
pub(in crate::http) const PATH_PREFIX: &str = "/actions/";
/// Fields of each form, beside those of the action.
const TOKEN_FIELD: &str = "token";
const BACK_FIELD: &str = "back";
const CONFIRMED_FIELD: &str = "confirmed";

/// Something that a person can have done. Its fields are texts: they come from a form, where an empty
/// field counts as absent.
pub(in crate::http) trait ConsoleAction: Serialize + DeserializeOwned + Send + 'static {
    /// The last part of its path, in words with hyphens.
    const NAME: &'static str;

    /// What is lost, as a question with yes or no; `None` if nothing is.
    fn confirmation(&self) -> Option<String> {
        None
    }

    /// Does it, if the caller may, with an entry in the access log; returns what was done, in a
    /// sentence without names and texts of conversations. A problem that is `unconfirmed` asks for a
    /// confirmation.
    fn carry_out(
        self,
        state: Arc<HttpState>,
        caller: Caller,
        is_confirmed: bool,
    ) -> impl Future<Output = Result<String, Problem>> + Send;
}

/// The route of an action. A console module adds it to its routes, outside of those of its views.
pub(in crate::http) fn route<A: ConsoleAction>(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    Router::new()
        .route(&path::<A>(), post(submit::<A>))
        .layer(middleware::from_fn_with_state(state.clone(), viewer::require_viewer))
}

fn path<A: ConsoleAction>() -> String {
    format!("{PATH_PREFIX}{}", A::NAME)
}

/// A button that carries out an action with these fields. Renders nothing for a viewer without a
/// session; whether the role permits the action is for the caller of this function to ask.
pub(in crate::http) fn button<A: ConsoleAction>(viewer: &Viewer, fields: &[(&str, &str)], label: &str) -> Markup {
    form::<A>(viewer, fields, &html! {}, label)
}

/// The same with visible fields of the action: `inputs` holds them, each with its label.
pub(in crate::http) fn form<A: ConsoleAction>(
    viewer: &Viewer,
    fields: &[(&str, &str)],
    inputs: &Markup,
    label: &str,
) -> Markup {
    let Some(token) = viewer.form_token() else { return html! {} };
    html! {
        form.action method="post" action=(path::<A>()) {
            (hidden_field(TOKEN_FIELD, token))
            (hidden_field(BACK_FIELD, viewer.path()))
            @for (name, value) in fields { (hidden_field(name, value)) }
            (inputs)
            button type="submit" { (label) }
        }
    }
}

fn hidden_field(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// The fields of a submitted form.
struct SubmittedForm {
    token: String,
    back: String,
    is_confirmed: bool,
    /// The fields of the action.
    fields: BTreeMap<String, String>,
}

impl SubmittedForm {
    fn parse(body: &[u8]) -> SubmittedForm {
        let given = form_urlencoded::parse(body).filter(|(_, value)| !value.trim().is_empty());
        let mut fields: BTreeMap<String, String> =
            given.map(|(name, value)| (name.into_owned(), value.trim().to_owned())).collect();
        let mut take = |name: &str| fields.remove(name).unwrap_or_default();
        let (token, back, confirmed) = (take(TOKEN_FIELD), take(BACK_FIELD), take(CONFIRMED_FIELD));
        SubmittedForm { token, back, is_confirmed: confirmed == "yes", fields }
    }

    fn action<A: ConsoleAction>(&self) -> Result<A, Problem> {
        let fields = self.fields.iter().map(|(name, value)| (name.clone(), Value::String(value.clone())));
        let refused = |error: serde_json::Error| Problem::bad_request(format!("the form is not complete: {error}"));
        serde_json::from_value(Value::Object(fields.collect())).map_err(refused)
    }
}

async fn submit<A: ConsoleAction>(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    RawForm(body): RawForm,
) -> Response {
    let form = SubmittedForm::parse(&body);
    match try_submit::<A>(&state, &viewer, &form).await {
        Ok(response) => response,
        Err(problem) if problem.is_unconfirmed() && !form.is_confirmed => {
            confirmation_page::<A>(&state, &viewer, &form, problem.detail()).await
        }
        Err(problem) => problem_page(&state, &viewer, View::Overview, &problem).await,
    }
}

async fn try_submit<A: ConsoleAction>(
    state: &Arc<HttpState>,
    viewer: &Viewer,
    form: &SubmittedForm,
) -> Result<Response, Problem> {
    let (Some(authenticator), Some(caller), Some(session)) = (&state.authenticator, viewer.caller(), viewer.session())
    else {
        return Err(Problem::from(&AuthRefusal::Missing).with_hint("log in first; programs use /api/v1"));
    };
    if !authenticator.is_form_token(session, &form.token).await.map_err(unavailable)? {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this form is not from a page of your session")
            .with_hint("go back, reload the page, and try again"));
    }
    let action: A = form.action()?;
    if let (Some(question), false) = (action.confirmation(), form.is_confirmed) {
        return Ok(confirmation_page::<A>(state, viewer, form, &question).await);
    }
    let is_confirmed = form.is_confirmed;
    let request = (A::NAME, form.fields.clone(), is_confirmed);
    // A page holds several forms with one token: each may be sent once.
    let content = serde_json::to_vec(&request).unwrap_or_default();
    let key = format!("{} {:x}", form.token, Sha256::digest(&content));
    let answer = once(state.clone(), caller.clone(), key.as_str(), request, |state, caller, _| async move {
        Ok((StatusCode::OK, action.carry_out(state, caller, is_confirmed).await?))
    });
    let notice: String = serde_json::from_str(&answer.await?.body).unwrap_or_default();
    let seal = authenticator.seal_notice(session, &notice).await.map_err(unavailable)?;
    Ok(Redirect::to(&with_notice(login::own_page(&form.back), &notice, &seal)).into_response())
}

/// The address of a page with a notice.
fn with_notice(page: &str, notice: &str, seal: &str) -> String {
    let [notice_name, seal_name] = NOTICE_PARAMETERS;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair(notice_name, notice).append_pair(seal_name, seal);
    format!("{page}{}{}", if page.contains('?') { '&' } else { '?' }, query.finish())
}

/// Asks whether it shall be done.
async fn confirmation_page<A: ConsoleAction>(
    state: &Arc<HttpState>,
    viewer: &Viewer,
    form: &SubmittedForm,
    question: &str,
) -> Response {
    let back = login::own_page(&form.back);
    let content = html! {
        section.problem {
            h2 { "Are you sure?" }
            p { (question) }
            form.action method="post" action=(path::<A>()) {
                (hidden_field(TOKEN_FIELD, viewer.form_token().unwrap_or_default()))
                (hidden_field(BACK_FIELD, back))
                (hidden_field(CONFIRMED_FIELD, "yes"))
                @for (name, value) in &form.fields { (hidden_field(name, value)) }
                button type="submit" { "Yes, do it" }
                a href=(back) { "No, go back" }
            }
        }
    };
    let frame = state.frame(viewer, View::Overview).await.without_updates();
    Html(frame.render("Are you sure?", &content)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_split_into_its_own_fields_and_those_of_the_action() {
        let form = SubmittedForm::parse(b"token=t.s&back=%2F%3Fa%3D1&account=one&from=&confirmed=yes&reason=+x+");
        assert_eq!((form.token.as_str(), form.back.as_str(), form.is_confirmed), ("t.s", "/?a=1", true));
        assert_eq!(
            form.fields,
            BTreeMap::from([("account".to_owned(), "one".to_owned()), ("reason".to_owned(), "x".to_owned())])
        );
    }

    #[test]
    fn a_notice_is_added_to_any_page() {
        assert_eq!(with_notice("/", "2 items", "s"), "/?notice=2+items&seal=s");
        assert_eq!(with_notice("/accounts/1?range=7d", "a&b", "s"), "/accounts/1?range=7d&notice=a%26b&seal=s");
    }
}
