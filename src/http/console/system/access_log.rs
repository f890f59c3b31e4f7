//! The access log. It is read through the archive reader: each look at it is an entry, too, so the
//! page does not update by itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use crate::access::{AccessEntry, Caller, Permission};
use crate::archive_reader::{AccessLogQuestion, Page, PageRequest, forbidden};
use crate::clock::Time;
use crate::http::api::parameters::parse_time;
use crate::http::api::problem::Problem;
use crate::http::console::frame::View;
use crate::http::console::view::{Format, respond};
use crate::http::console::viewer::Viewer;
use crate::http::state::HttpState;

const ENTRIES: usize = 200;
/// What is shown if no start is given.
const DEFAULT_RANGE: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::http::console) struct LogQuery {
    from: String,
    to: String,
    who: String,
    segment: String,
    cursor: String,
}

pub(in crate::http::console) async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    format: Format,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Response {
    let Query(query) = query.unwrap_or_default();
    let page = match viewer.caller() {
        Some(caller) => read(&state, caller, &query).await,
        None => Err(forbidden(Permission::Log).into()),
    };
    respond(&state, &viewer, (View::AccessLog, format), page, |page| ("Access log".to_owned(), render(page, &query)))
        .await
}

async fn read(state: &HttpState, caller: &Caller, query: &LogQuery) -> Result<Page<AccessEntry>, Problem> {
    let now = state.reader.now();
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let question = AccessLogQuestion {
        from: parse_time("from", &given(&query.from), now)?.or(Some(now - DEFAULT_RANGE)),
        to: parse_time("to", &given(&query.to), now)?,
        who: given(&query.who),
        segment: given(&query.segment),
    };
    let binding = [&query.from, &query.to, &query.who, &query.segment].map(|text| text.trim()).join("\n");
    let page = PageRequest { limit: ENTRIES, cursor: given(&query.cursor), question: binding };
    Ok(state.reader.access_log(caller, &question, &page).await?)
}

fn render(page: &Page<AccessEntry>, query: &LogQuery) -> Markup {
    let field = |name: &str, label: &str, value: &str, placeholder: &str| {
        html! { label { (label) input type="text" name=(name) value=(value) placeholder=(placeholder); } }
    };
    html! {
        section {
            h1 { "Access log" }
            p.dim { "The oldest entries first. This look at it is an entry, too." }
            form.action method="get" action="/system/access-log" {
                (field("from", "From", &query.from, "24h"))
                (field("to", "To", &query.to, "now"))
                (field("who", "Who", &query.who, ""))
                (field("segment", "Segment", &query.segment, ""))
                button type="submit" { "Show" }
            }
            @if page.items.is_empty() { p { "No entry in this range." } }
            @else {
                table.stack {
                    thead { tr { th scope="col" { "Time" } th scope="col" { "Who" } th scope="col" { "From where" } th scope="col" { "Action" } th scope="col" { "What" } } }
                    tbody { @for entry in &page.items { (entry_row(entry)) } }
                }
            }
            @if let Some(next) = &page.next { p { a.more href=(next_path(query, next)) { "Later entries" } } }
        }
    }
}

fn entry_row(entry: &AccessEntry) -> Markup {
    let at = Time::parse(entry.at()).map_or_else(|| entry.at().to_owned(), crate::http::templates::readable_time);
    html! {
        tr {
            td data-label="Time" { (at) }
            td data-label="Who" { (entry.reader()) }
            td data-label="From where" { (entry.origin()) }
            td data-label="Action" { (entry.action().replace('_', " ")) }
            td.wide data-label="What" { (entry.what()) }
        }
    }
}

fn next_path(query: &LogQuery, cursor: &str) -> String {
    let mut parameters =
        vec![("from", &*query.from), ("to", &*query.to), ("who", &*query.who), ("segment", &*query.segment)];
    parameters.retain(|(_, value)| !value.is_empty());
    parameters.push(("cursor", cursor));
    format!("/system/access-log?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish())
}
