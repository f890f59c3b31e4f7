//! The view of delivery: each sink with its rate, what waits, what was refused and why, and the actions
//! that send events again.

mod actions;
mod page;
pub(in crate::http) mod rates;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Router, middleware};
use serde::Serialize;

use super::action;
use super::frame::View;
use super::view::{Format, respond};
use super::viewer::{self, Viewer};
use crate::access::Caller;
use crate::config::SinkKind;
use crate::http::state::HttpState;
use crate::status::SinkDetails;

/// The routes of the view and of its actions.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    if state.authenticator.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/delivery", get(show))
        .route("/delivery.json", get(show))
        .layer(middleware::from_fn_with_state(state.clone(), viewer::require_caller))
        .merge(action::route::<actions::RetryDeliveries>(state))
        .merge(action::route::<actions::ReplayDeliveries>(state))
}

/// The sinks as the page shows them.
#[derive(Debug, Serialize)]
pub(super) struct DeliveryPage {
    /// Null for a role that shows only some accounts or channels.
    sinks: Option<Vec<SinkLine>>,
    may_operate: bool,
}

/// A sink with what only this process knows.
#[derive(Debug, Serialize)]
struct SinkLine {
    #[serde(flatten)]
    details: SinkDetails,
    /// `closed` while events are sent, `open` while the sink rests, `stopped` until a person acts.
    circuit: &'static str,
    /// Events delivered in a minute, over the last minutes; null while it is not known.
    rate_per_minute: Option<f64>,
    /// Whether a past range can be sent again: tables always hold what the archive holds.
    can_replay: bool,
}

async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Extension(caller): Extension<Caller>,
    format: Format,
) -> Response {
    let found = async {
        let delivery = state.reader.delivery(&caller).await?;
        let sinks = &state.app.settings.sinks;
        let has_tables =
            |name: &str| sinks.iter().any(|sink| sink.name == name && matches!(sink.kind, SinkKind::Lake(_)));
        let line = |details: SinkDetails| SinkLine {
            circuit: page::circuit(details.status.state),
            rate_per_minute: state.delivery_rates.rate_per_minute(&details.status.name),
            can_replay: !has_tables(&details.status.name),
            details,
        };
        let sinks = delivery.sinks.map(|sinks| sinks.into_iter().map(line).collect());
        Ok(DeliveryPage { sinks, may_operate: delivery.may_operate })
    };
    respond(&state, &viewer, (View::Delivery, format), found.await, |delivery| {
        ("Delivery".to_owned(), page::render(delivery, &viewer))
    })
    .await
}
