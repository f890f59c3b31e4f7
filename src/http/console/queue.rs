//! The view of the queue: what gave up, failed or waits, with the reasons, and what a person can have
//! done about it.

mod actions;
mod page;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::Uri;
use axum::response::Response;
use axum::routing::get;
use axum::{Router, middleware};
use serde::Deserialize;

use super::action;
use super::frame::View;
use super::view::{self, Format, respond};
use super::viewer::{self, Viewer};
use crate::access::Caller;
use crate::archive_reader::{ITEM_STATES, PageRequest, QueueQuestion};
use crate::http::api::problem::Problem;
use crate::http::state::HttpState;
use crate::model::Artifact;

/// Items on a page.
const PAGE_SIZE: usize = 50;

/// The routes of the view and of its actions.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    if state.authenticator.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/queue", get(show))
        .route("/queue.json", get(show))
        .layer(middleware::from_fn_with_state(state.clone(), viewer::require_caller))
        .merge(action::route::<actions::RetryItems>(state))
        .merge(action::route::<actions::DiscardItems>(state))
}

/// The filters of the list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct QueueParameters {
    pub(super) account: String,
    pub(super) artifact: String,
    /// `failed`, `unavailable`, `waiting` or `discarded`; those that gave up if empty.
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) segment: String,
    pub(super) cursor: String,
}

impl QueueParameters {
    /// The filters with their names.
    pub(super) fn pairs(&self) -> [(&'static str, &str); 5] {
        [
            ("account", &self.account),
            ("artifact", &self.artifact),
            ("state", &self.state),
            ("reason", &self.reason),
            ("segment", &self.segment),
        ]
    }

    fn question(&self) -> Result<(QueueQuestion, PageRequest), Problem> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let states =
            match self.state.as_str() {
                "" if self.segment.is_empty() => {
                    ITEM_STATES.iter().filter(|(name, _)| ["failed", "unavailable"].contains(name)).collect()
                }
                "" | "all" => Vec::new(),
                wanted => {
                    let known = ITEM_STATES.iter().find(|(name, _)| *name == wanted);
                    vec![known.ok_or_else(|| {
                        Problem::bad_request("state must be failed, unavailable, waiting or discarded")
                    })?]
                }
            };
        let question = QueueQuestion {
            accounts: text(&self.account).into_iter().collect(),
            states: states.into_iter().map(|(_, state)| *state).collect(),
            artifact: parse_artifact(&self.artifact)?,
            reason: text(&self.reason),
            segment: text(&self.segment),
        };
        let asked = serde_json::to_string(&self.pairs()).unwrap_or_default();
        let page = PageRequest { limit: PAGE_SIZE, cursor: text(&self.cursor), question: asked };
        Ok((question, page))
    }
}

fn parse_artifact(name: &str) -> Result<Option<Artifact>, Problem> {
    if name.is_empty() {
        return Ok(None);
    }
    let known = Artifact::ALL.into_iter().find(|artifact| artifact.name() == name);
    known.map(Some).ok_or_else(|| Problem::bad_request("there is no such artifact"))
}

async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Extension(caller): Extension<Caller>,
    format: Format,
    uri: Uri,
) -> Response {
    let (parameters, valid): (QueueParameters, _) = view::parameters(&uri);
    let found = async {
        valid?;
        let (question, page) = parameters.question()?;
        Ok(state.reader.queue(&caller, &question, &page).await?)
    };
    respond(&state, &viewer, (View::Queue, format), found.await, |queue| {
        ("Queue".to_owned(), page::render(queue, &parameters, &viewer))
    })
    .await
}
