//! Says to open pages that something has changed, for all viewers together. Each page then asks for
//! itself again, so that it never holds more than its viewer may see.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Notify, watch};

use crate::clock::Time;
use crate::health::{Finding, Snapshot};
use crate::http::state::HttpState;

/// Ages and times on a page move on, even if nothing else does.
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// The number of the current state, and who waits for the next.
pub(in crate::http) struct LiveUpdates {
    state: watch::Sender<u64>,
    viewer_joined: Notify,
}

/// What is compared to find out whether something has changed: everything but the passing of time.
#[derive(PartialEq)]
pub(in crate::http) struct Fingerprint {
    status: Option<Snapshot>,
    findings: Vec<Finding>,
}

impl Fingerprint {
    pub(in crate::http) fn new(status: Option<&Snapshot>, findings: &[Finding]) -> Fingerprint {
        let mut status = status.cloned();
        if let Some(status) = &mut status {
            status.now = Time(0);
            status.findings.clear();
            status.accounts.iter_mut().for_each(|account| account.lag_seconds = None);
            status.replicas.iter_mut().for_each(|replica| replica.heartbeat = Time(0));
        }
        Fingerprint { status, findings: findings.to_vec() }
    }
}

impl LiveUpdates {
    pub(in crate::http) fn new() -> LiveUpdates {
        LiveUpdates { state: watch::Sender::new(0), viewer_joined: Notify::new() }
    }

    /// Waits until there is a viewer.
    pub(in crate::http) async fn wait_for_viewer(&self) {
        while self.state.receiver_count() == 0 {
            self.viewer_joined.notified().await;
        }
    }

    /// Tells all viewers that the state has changed.
    pub(in crate::http) fn publish(&self) {
        self.state.send_modify(|number| *number += 1);
    }

    /// The current number first: the page may have missed a change.
    fn subscribe(&self) -> watch::Receiver<u64> {
        let mut state = self.state.subscribe();
        state.mark_changed();
        self.viewer_joined.notify_one();
        state
    }

    /// Whether a state differs from the one that was published last, at `published`.
    pub(in crate::http) fn is_due(before: Option<&(Fingerprint, Time)>, now: &Fingerprint, at: Time) -> bool {
        before.is_none_or(|(before, published)| before != now || at.since(*published) >= MAX_SILENCE)
    }
}

/// The stream of changes: numbers without any content.
pub(in crate::http) async fn events(State(state): State<Arc<HttpState>>) -> Response {
    let Ok(permit) = state.viewer_permits.clone().try_acquire_owned() else {
        let why = "too many viewers; close another page of the console, or reload this one later\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], why).into_response();
    };
    let stop = state.stop.clone();
    let numbers = state.live_updates.subscribe();
    // The permit is released when the stream is dropped.
    let changes = stream::unfold((numbers, permit), |(mut numbers, permit)| async move {
        numbers.changed().await.ok()?;
        let number = *numbers.borrow_and_update();
        Some((number, (numbers, permit)))
    });
    let events = changes.map(|number| Ok::<_, Infallible>(Event::default().data(number.to_string())));
    Sse::new(events.take_until(stop.cancelled_owned())).keep_alive(KeepAlive::default()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixtures::{NOW, account, snapshot};

    #[test]
    fn time_alone_is_no_change_and_still_shown_now_and_then() {
        let state = |sub: &str, lag: u64| {
            let mut account = account(sub);
            account.lag_seconds = Some(lag);
            let mut status = snapshot(vec![account]).status;
            status.now = NOW + Duration::from_secs(lag);
            Fingerprint::new(Some(&status), &[])
        };
        let published = (state("one", 300), NOW);
        let soon = NOW + Duration::from_secs(2);
        assert!(LiveUpdates::is_due(None, &published.0, NOW));
        assert!(!LiveUpdates::is_due(Some(&published), &state("one", 302), soon));
        assert!(LiveUpdates::is_due(Some(&published), &state("two", 302), soon));
        assert!(LiveUpdates::is_due(Some(&published), &state("one", 330), NOW + MAX_SILENCE));
    }
}
