//! Sends events again: those that a sink refused, or all of a past time range.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::Caller;
use crate::health::humanize::format_count;
use crate::http::api::actions::{DeliveryParameters, carry_out_redelivery};
use crate::http::api::delivery_actions::{ReplayBody, carry_out_replay};
use crate::http::api::problem::Problem;
use crate::http::console::action::ConsoleAction;
use crate::http::state::HttpState;

/// Sends the failed events of a sink again, and starts it if it has stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RetryDeliveries {
    sink: String,
    /// Also those that wait for an automatic retry.
    #[serde(default)]
    waiting: String,
}

impl ConsoleAction for RetryDeliveries {
    const NAME: &'static str = "retry-deliveries";

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, _: bool) -> Result<String, Problem> {
        let parameters = DeliveryParameters { waiting: !self.waiting.is_empty() };
        let (_, done) = carry_out_redelivery(&state, &caller, &self.sink, &parameters).await?;
        let restarted = if done.restarted.is_empty() { "" } else { " The sink starts again." };
        Ok(format!("{} sent again.{restarted}", format_count(done.events, "event is", "events are")))
    }
}

/// Sends the events of a past time range again, in addition to new ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReplayDeliveries {
    sink: String,
    from: String,
    to: String,
    #[serde(default)]
    account: String,
}

impl ConsoleAction for ReplayDeliveries {
    const NAME: &'static str = "replay-deliveries";

    fn confirmation(&self) -> Option<String> {
        let (sink, from, to) = (&self.sink, &self.from, &self.to);
        Some(format!(
            "Send {sink} all events of artifacts again that were stored from {from} to {to}? It gets each of them once more; \
             receivers that do not know events by their ids have them twice."
        ))
    }

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, _: bool) -> Result<String, Problem> {
        let account = Some(self.account).filter(|account| !account.is_empty());
        let body = ReplayBody { from: self.from, to: self.to, account, rate: None };
        let (_, done) = carry_out_replay(&state, &caller, &self.sink, &body).await?;
        Ok(format!("The replay is queued: {}.", format_count(done.accounts, "account", "accounts")))
    }
}
