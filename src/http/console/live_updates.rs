//! Says to open pages that something has changed which their viewer sees. Each page then asks for
//! itself again, so that it never holds more than that.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::viewer::Viewer;
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
            status.search_index.lag_seconds = 0;
            for account in &mut status.accounts {
                (account.lag_seconds, account.oldest_unfinished_seconds) = (None, None);
            }
            status.replicas.iter_mut().for_each(|replica| replica.heartbeat = Time(0));
        }
        let mut findings = findings.to_vec();
        // Some began now, in each snapshot again.
        findings.iter_mut().for_each(|finding| finding.since = Time(0));
        Fingerprint { status, findings }
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

/// The changes of what one viewer sees.
struct ViewerChanges {
    state: Arc<HttpState>,
    viewer: Viewer,
    changes: watch::Receiver<u64>,
    /// What this viewer was told of last.
    published: Option<(Fingerprint, Time)>,
    number: u64,
    /// Released when the stream is dropped.
    _permit: OwnedSemaphorePermit,
}

impl ViewerChanges {
    /// Waits for the next change. A change of something else tells nothing, not even that it happened.
    async fn next(mut self) -> Option<(u64, ViewerChanges)> {
        loop {
            self.changes.changed().await.ok()?;
            if !self.viewer.sees_everything() {
                let report = self.state.viewer_report(&self.viewer).await;
                let current = Fingerprint::new(report.status.as_ref(), &report.findings);
                if !LiveUpdates::is_due(self.published.as_ref(), &current, report.now) {
                    continue;
                }
                self.published = Some((current, report.now));
            }
            self.number += 1;
            return Some((self.number, self));
        }
    }
}

/// The stream of changes: numbers without any content.
pub(in crate::http) async fn events(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
) -> Response {
    let Ok(permit) = state.viewer_permits.clone().try_acquire_owned() else {
        let why = "too many viewers; close another page of the console, or reload this one later\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], why).into_response();
    };
    let stop = state.stop.clone();
    let changes = state.live_updates.subscribe();
    let changes = ViewerChanges { state, viewer, changes, published: None, number: 0, _permit: permit };
    let events = stream::unfold(changes, ViewerChanges::next)
        .map(|number| Ok::<_, Infallible>(Event::default().data(number.to_string())));
    Sse::new(events.take_until(stop.cancelled_owned())).keep_alive(KeepAlive::default()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{FindingCode, Severity};
    use crate::http::fixtures::{NOW, account, snapshot};

    #[test]
    fn time_alone_is_no_change_and_still_shown_now_and_then() {
        let state = |sub: &str, lag: u64| {
            let mut account = account(sub);
            account.lag_seconds = Some(lag);
            account.oldest_unfinished_seconds = Some(lag);
            let mut status = snapshot(vec![account]).status;
            status.now = NOW + Duration::from_secs(lag);
            status.search_index.lag_seconds = lag;
            let unread = Finding::new(FindingCode::AccountUnread, Severity::Warning, status.now, "unread", "wait");
            Fingerprint::new(Some(&status), &[unread])
        };
        let published = (state("one", 300), NOW);
        let soon = NOW + Duration::from_secs(2);
        assert!(LiveUpdates::is_due(None, &published.0, NOW));
        assert!(!LiveUpdates::is_due(Some(&published), &state("one", 302), soon));
        assert!(LiveUpdates::is_due(Some(&published), &state("two", 302), soon));
        assert!(LiveUpdates::is_due(Some(&published), &state("one", 330), NOW + MAX_SILENCE));
    }
}
