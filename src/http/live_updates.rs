//! The state that the dashboard shows, and its updates, for all viewers together.
//!
//! One producer compares each state with the previous one and sends all viewers the difference: the
//! rows that look different, and the sections above and below them. A viewer that joins later, or
//! cannot keep up, gets the whole state instead. States are numbered from an arbitrary start, so
//! that a page from before a restart is not mistaken for one of this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{Notify, broadcast};

use crate::clock::{Clock, Time};

use super::health_summary::HealthLevel;
use super::status_snapshot::StatusSnapshot;
use super::templates::{self, AccountRowView, DashboardView};

/// The most updates queued for a slow viewer.
const MAX_QUEUED_UPDATES: usize = 4;

/// The published state, and the channel for its updates.
pub(super) struct LiveUpdates {
    state: Mutex<PublishedState>,
    updates: broadcast::Sender<Arc<str>>,
    viewer_joined: Notify,
}

struct PublishedState {
    seq: u64,
    rendered: Option<RenderedState>,
}

#[derive(Clone)]
struct RenderedState {
    snapshot: Option<Arc<StatusSnapshot>>,
    levels: Vec<HealthLevel>,
    head: String,
    rest: String,
    frame: Option<String>,
    now: Time,
}

/// A difference, or a whole state, in the form that the page's script expects.
#[derive(Serialize)]
struct StateUpdate<'a> {
    seq: u64,
    now: i64,
    /// Whether `rows` holds all accounts.
    full: bool,
    /// The section above the accounts, if it changed.
    head: Option<&'a str>,
    /// The section below the accounts, if it changed.
    rest: Option<&'a str>,
    /// The label of the visible range, if it changed.
    frame: Option<&'a str>,
    rows: BTreeMap<&'a str, String>,
    gone: Vec<&'a str>,
}

impl LiveUpdates {
    pub(super) fn new() -> LiveUpdates {
        let seq = u64::try_from(Clock::system().now().0).unwrap_or(0);
        let state = Mutex::new(PublishedState { seq, rendered: None });
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
    pub(super) fn publish(&self, view: &DashboardView<'_>, snapshot: Option<Arc<StatusSnapshot>>) {
        let rows = snapshot.as_ref().map(|snapshot| snapshot.rows.as_slice()).unwrap_or_default();
        let rendered = RenderedState {
            levels: rows.iter().map(|row| view.summary.account_level(&row.sub)).collect(),
            head: templates::render_head(view),
            rest: templates::render_rest(view),
            frame: snapshot.as_ref().map(|snapshot| templates::visible_range_label(snapshot.visible_range)),
            now: view.now,
            snapshot,
        };
        let mut state = self.state();
        state.seq += 1;
        let update = match &state.rendered {
            None => rendered.full_update(state.seq),
            Some(before) => rendered.diff_update(before, state.seq),
        };
        state.rendered = Some(rendered);
        // Sent under the lock: a viewer that subscribes under it neither misses nor repeats an
        // update.
        let _ = self.updates.send(update);
    }

    /// Subscribes to the updates. Also returns the whole state, unless the viewer has it already.
    pub(super) fn subscribe(&self, viewer_seq: Option<u64>) -> (Option<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let (updates, seq, rendered) = {
            let state = self.state();
            let updates = self.updates.subscribe();
            (updates, state.seq, if viewer_seq == Some(state.seq) { None } else { state.rendered.clone() })
        };
        self.viewer_joined.notify_one();
        (rendered.map(|rendered| rendered.full_update(seq)), updates)
    }

    fn state(&self) -> MutexGuard<'_, PublishedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RenderedState {
    fn row_views(&self) -> impl Iterator<Item = AccountRowView<'_>> {
        let rows = self.snapshot.as_ref().map(|snapshot| snapshot.rows.as_slice()).unwrap_or_default();
        rows.iter().zip(&self.levels).map(|(row, level)| AccountRowView { row, level: *level })
    }

    fn full_update(&self, seq: u64) -> Arc<str> {
        let rows = self.row_views().map(|view| (view.row.sub.as_str(), view.markup(self.now).into_string())).collect();
        let (head, rest, frame) = (Some(self.head.as_str()), Some(self.rest.as_str()), self.frame.as_deref());
        StateUpdate { seq, now: self.now.0, full: true, head, rest, frame, rows, gone: Vec::new() }.to_json()
    }

    fn diff_update(&self, before: &RenderedState, seq: u64) -> Arc<str> {
        let mut old: HashMap<&str, AccountRowView<'_>> =
            before.row_views().map(|view| (view.row.sub.as_str(), view)).collect();
        let mut rows = BTreeMap::new();
        for view in self.row_views() {
            if old.remove(view.row.sub.as_str()).as_ref() != Some(&view) {
                rows.insert(view.row.sub.as_str(), view.markup(self.now).into_string());
            }
        }
        let update = StateUpdate {
            seq,
            now: self.now.0,
            full: false,
            head: Some(self.head.as_str()).filter(|head| *head != before.head),
            rest: Some(self.rest.as_str()).filter(|rest| *rest != before.rest),
            frame: self.frame.as_deref().filter(|frame| Some(*frame) != before.frame.as_deref()),
            rows,
            gone: old.into_keys().collect(),
        };
        update.to_json()
    }
}

impl StateUpdate<'_> {
    fn to_json(&self) -> Arc<str> {
        // Strings and numbers can always be serialised.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixtures::{NOW, row, snapshot};
    use super::super::health_summary::HealthSummary;
    use super::super::status_snapshot::DashboardRow;
    use super::*;
    use crate::health::{Finding, FindingCode, Severity};

    fn publish(live_updates: &LiveUpdates, rows: Vec<DashboardRow>, findings: Vec<Finding>) {
        let snapshot = Arc::new(snapshot(rows));
        let summary = HealthSummary::new(findings, Some(&snapshot), NOW);
        let view = DashboardView {
            summary: &summary,
            snapshot: Some(&snapshot),
            samples: &[],
            now: NOW,
            instance: "host-1",
            has_search: false,
        };
        live_updates.publish(&view, Some(snapshot.clone()));
    }

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_viewer_is_sent_only_the_differences() {
        let live_updates = LiveUpdates::new();
        publish(&live_updates, vec![row("one"), row("two"), row("three")], Vec::new());
        let (first, mut updates) = live_updates.subscribe(Some(live_updates.seq()));
        assert_eq!(first, None);
        let mut busy = row("two");
        busy.work.ready = 5;
        publish(&live_updates, vec![row("one"), busy], Vec::new());
        let update = parsed(&updates.try_recv().unwrap());
        assert_eq!(update["rows"].as_object().unwrap().keys().collect::<Vec<_>>(), ["two"]);
        assert_eq!((&update["gone"][0], &update["full"]), (&Value::from("three"), &Value::from(false)));
        assert!(update["head"].is_string(), "the totals have changed: {update}");
        assert!(update["frame"].is_null());
    }

    #[test]
    fn a_viewer_with_another_state_is_sent_the_whole_state() {
        let live_updates = LiveUpdates::new();
        publish(&live_updates, vec![row("one"), row("two")], Vec::new());
        for viewer_seq in [None, Some(live_updates.seq() - 1), Some(7)] {
            let (first, _) = live_updates.subscribe(viewer_seq);
            let state = parsed(&first.unwrap());
            assert_eq!((state["rows"].as_object().unwrap().len(), &state["full"]), (2, &Value::from(true)));
        }
    }

    #[test]
    fn an_account_with_a_new_level_is_rendered_again_without_other_changes() {
        let live_updates = LiveUpdates::new();
        publish(&live_updates, vec![row("one")], Vec::new());
        let (_, mut updates) = live_updates.subscribe(Some(live_updates.seq()));
        let late = Finding::new(FindingCode::Lagging, Severity::Warning, NOW, "one is late", "wait");
        let late = late.about_accounts("One".to_owned(), vec!["one".to_owned()]);
        publish(&live_updates, vec![row("one")], vec![late]);
        let update = parsed(&updates.try_recv().unwrap());
        assert!(update["rows"]["one"].as_str().unwrap().contains("data-level=\"behind\""));
    }
}
