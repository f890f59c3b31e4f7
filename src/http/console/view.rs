//! A view: a page and its JSON, made from the same data.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::View;
use super::viewer::Viewer;
use crate::http::api::problem::Problem;
use crate::http::state::HttpState;

/// What a request for a view asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Format {
    Page,
    /// The path ends with `.json`.
    Json,
}

impl Format {
    pub(in crate::http) fn of_path(path: &str) -> Format {
        if path.ends_with(".json") { Format::Json } else { Format::Page }
    }

    /// The last part of a path, such as an account's id, without the format.
    pub(in crate::http) fn strip(self, part: &str) -> &str {
        match self {
            Format::Page => part,
            Format::Json => part.strip_suffix(".json").unwrap_or(part),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Format {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Format, Self::Rejection> {
        Ok(Format::of_path(parts.uri.path()))
    }
}

/// The parameters of a view's address; the default ones, and the problem, if they cannot be read. A filter
/// that is given twice must not count as none.
pub(in crate::http) fn parameters<T: Default + DeserializeOwned>(uri: &Uri) -> (T, Result<(), Problem>) {
    match Query::try_from_uri(uri) {
        Ok(Query(given)) => (given, Ok(())),
        Err(_) => (T::default(), Err(Problem::bad_request("a parameter is not valid, or is given twice"))),
    }
}

/// Answers with a view: its data as JSON, or the page that `render` makes of them. `render` returns
/// the title and the content of `main`. A problem becomes a page, or stays one.
pub(in crate::http) async fn respond<T: Serialize>(
    state: &Arc<HttpState>,
    viewer: &Viewer,
    (view, format): (View, Format),
    data: Result<T, Problem>,
    render: impl FnOnce(&T) -> (String, Markup),
) -> Response {
    match (data, format) {
        (Ok(data), Format::Json) => Json(data).into_response(),
        (Err(problem), Format::Json) => problem.into_response(),
        (Ok(data), Format::Page) => {
            let (title, content) = render(&data);
            Html(state.frame(viewer, view).await.render(&title, &content)).into_response()
        }
        (Err(problem), Format::Page) => problem_page(state, viewer, view, &problem).await,
    }
}

/// A page that says what is wrong and what to do.
pub(in crate::http) async fn problem_page(
    state: &Arc<HttpState>,
    viewer: &Viewer,
    view: View,
    problem: &Problem,
) -> Response {
    let content = html! {
        section.problem role="alert" {
            h2 { (problem.title()) }
            p { (problem.detail()) }
            @if let Some(hint) = problem.hint() { p.todo { (hint) } }
        }
    };
    let frame = state.frame(viewer, view).await.without_updates();
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Html(frame.render(problem.title(), &content))).into_response()
}
