//! The state that the dashboard shows, and its updates, for all viewers together.
//!
//! One producer compares each state with the previous one and sends all viewers the difference: the
//! rows that look different, and the sections above and below them. A viewer that joins later, or
//! cannot keep up, gets the whole state instead. States are numbered from an arbitrary start, so
//! that a page from before a restart is not mistaken for one of this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{Notify, broadcast};

use crate::clock::Clock;

use super::templates::{self, DashboardView};

/// The most updates queued for a slow viewer.
const MAX_QUEUED_UPDATES: usize = 4;

/// The published state, and the channel for its updates.
pub(super) struct LiveUpdates {
    state: Mutex<Arc<RenderedState>>,
    updates: broadcast::Sender<Arc<str>>,
    viewer_joined: Notify,
}

/// A state, or what has changed since another one, in the form that the page's script expects.
/// Empty until a state is published.
#[derive(Default, Serialize)]
struct RenderedState {
    seq: u64,
    now: i64,
    /// Whether `rows` holds all accounts.
    full: bool,
    /// The section above the accounts.
    head: Option<String>,
    /// The section below the accounts.
    rest: Option<String>,
    /// The label of the visible range.
    frame: Option<String>,
    rows: BTreeMap<String, String>,
    gone: Vec<String>,
}

impl LiveUpdates {
    pub(super) fn new() -> LiveUpdates {
        let seq = u64::try_from(Clock::system().now().0).unwrap_or(0);
        let state = Mutex::new(Arc::new(RenderedState { seq, ..RenderedState::default() }));
        LiveUpdates { state, updates: broadcast::Sender::new(MAX_QUEUED_UPDATES), viewer_joined: Notify::new() }
    }

    /// The number of the current state; a page rendered from now on is at least as new.
    pub(super) fn seq(&self) -> u64 {
        self.state().seq
    }

    /// Waits until there is a viewer.
    pub(super) async fn wait_for_viewer(&self) {
        while self.updates.receiver_count() == 0 {
            self.viewer_joined.notified().await;
        }
    }

    /// Publishes a new state, and sends all viewers the difference.
    pub(super) fn publish(&self, view: &DashboardView<'_>) {
        let mut rendered = RenderedState {
            now: view.now.0,
            full: true,
            head: Some(templates::head(view).into_string()),
            rest: Some(templates::rest(view).into_string()),
            frame: view.snapshot.map(|snapshot| templates::visible_range_label(snapshot.visible_range)),
            rows: templates::account_rows(view)
                .map(|row| (row.account.sub_account_id.clone(), row.markup(None).into_string()))
                .collect(),
            ..RenderedState::default()
        };
        let mut state = self.state();
        rendered.seq = state.seq + 1;
        let update = rendered.since(&state).to_json();
        *state = Arc::new(rendered);
        // Sent under the lock: a viewer that subscribes under it neither misses nor repeats an
        // update.
        let _ = self.updates.send(update);
    }

    /// Subscribes to the updates. Also returns the whole state, unless the viewer has it already.
    pub(super) fn subscribe(&self, viewer_seq: Option<u64>) -> (Option<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let (updates, state) = {
            let state = self.state();
            (self.updates.subscribe(), state.clone())
        };
        self.viewer_joined.notify_one();
        let is_new = state.full && viewer_seq != Some(state.seq);
        (is_new.then(|| state.to_json()), updates)
    }

    fn state(&self) -> MutexGuard<'_, Arc<RenderedState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RenderedState {
    /// What has changed since `before`: all of it since the empty state.
    fn since(&self, before: &RenderedState) -> RenderedState {
        let changed = |new: &Option<String>, old: &Option<String>| new.clone().filter(|_| new != old);
        let rows = self.rows.iter().filter(|(sub, row)| before.rows.get(*sub) != Some(*row));
        RenderedState {
            seq: self.seq,
            now: self.now,
            full: !before.full,
            head: changed(&self.head, &before.head),
            rest: changed(&self.rest, &before.rest),
            frame: changed(&self.frame, &before.frame),
            rows: rows.map(|(sub, row)| (sub.clone(), row.clone())).collect(),
            gone: before.rows.keys().filter(|sub| !self.rows.contains_key(*sub)).cloned().collect(),
        }
    }

    fn to_json(&self) -> Arc<str> {
        // Strings and numbers can always be serialised.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixtures::{NOW, account, snapshot, view};
    use super::*;
    use crate::health::{AccountStatus, Finding, FindingCode, Severity};

    fn publish(live_updates: &LiveUpdates, accounts: Vec<AccountStatus>, findings: Vec<Finding>) {
        live_updates.publish(&view(Some(&snapshot(accounts)), findings));
    }

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_viewer_is_sent_only_the_differences() {
        let live_updates = LiveUpdates::new();
        publish(&live_updates, vec![account("one"), account("two"), account("three")], Vec::new());
        let (first, mut updates) = live_updates.subscribe(Some(live_updates.seq()));
        assert_eq!(first, None);
        let mut busy = account("two");
        busy.work.ready = 5;
        publish(&live_updates, vec![account("one"), busy], Vec::new());
        let update = parsed(&updates.try_recv().unwrap());
        assert_eq!(update["rows"].as_object().unwrap().keys().collect::<Vec<_>>(), ["two"]);
        assert_eq!((&update["gone"][0], &update["full"]), (&Value::from("three"), &Value::from(false)));
        assert!(update["head"].is_string(), "the totals have changed: {update}");
        assert!(update["frame"].is_null());
    }

    #[test]
    fn a_viewer_with_another_state_is_sent_the_whole_state() {
        let live_updates = LiveUpdates::new();
        publish(&live_updates, vec![account("one"), account("two")], Vec::new());
        for viewer_seq in [None, Some(live_updates.seq() - 1), Some(7)] {
            let (first, _) = live_updates.subscribe(viewer_seq);
            let state = parsed(&first.unwrap());
            assert_eq!((state["rows"].as_object().unwrap().len(), &state["full"]), (2, &Value::from(true)));
        }
    }

    #[test]
    fn an_account_with_a_new_level_is_rendered_again_without_other_changes() {
        let live_updates = LiveUpdates::new();
        publish(&live_updates, vec![account("one")], Vec::new());
        let (_, mut updates) = live_updates.subscribe(Some(live_updates.seq()));
        let late = Finding::new(FindingCode::Lagging, Severity::Warning, NOW, "one is late", "wait");
        let late = late.about_accounts("One".to_owned(), vec!["one".to_owned()]);
        publish(&live_updates, vec![account("one")], vec![late]);
        let update = parsed(&updates.try_recv().unwrap());
        assert!(update["rows"]["one"].as_str().unwrap().contains("data-level=\"behind\""));
    }
}
