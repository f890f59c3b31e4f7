//! What the dashboard shows at present, and what changes about it, for all viewers together.
//!
//! One producer compares each state with the one before and tells all viewers the difference: rows that look different,
//! and what is above and below them. A viewer that comes in between, or cannot keep up, is sent the whole state instead. States are
//! numbered, beginning anywhere, so that a page from before a restart is not mistaken for one of this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{Notify, broadcast};

use crate::clock::{Clock, Time};

use super::page::{self, Drawn, View};
use super::picture::Picture;
use super::verdict::Level;

/// So many differences may wait for a slow viewer.
const BEHIND: usize = 4;

/// The state that viewers have, and where to tell them of the next.
pub(super) struct Board {
    state: Mutex<State>,
    changes: broadcast::Sender<Arc<str>>,
    came: Notify,
}

struct State {
    seq: u64,
    shown: Option<Shown>,
}

#[derive(Clone)]
struct Shown {
    picture: Option<Arc<Picture>>,
    levels: Vec<Level>,
    head: String,
    rest: String,
    frame: Option<String>,
    now: Time,
}

/// A difference, or a whole state, as the page's script takes it.
#[derive(Serialize)]
struct Change<'a> {
    seq: u64,
    now: i64,
    /// Whether `rows` are all there are.
    full: bool,
    /// What is above the accounts, where it has changed.
    head: Option<&'a str>,
    /// What is below them, where it has changed.
    rest: Option<&'a str>,
    /// What the strips show, where it has changed.
    frame: Option<&'a str>,
    rows: BTreeMap<&'a str, String>,
    gone: Vec<&'a str>,
}

impl Board {
    pub(super) fn new() -> Board {
        let seq = u64::try_from(Clock::system().now().0).unwrap_or(0);
        let state = Mutex::new(State { seq, shown: None });
        Board { state, changes: broadcast::Sender::new(BEHIND), came: Notify::new() }
    }

    /// The number of the state that a page drawn from now on is at least as new as.
    pub(super) fn seq(&self) -> u64 {
        self.state().seq
    }

    /// Waits until there is a viewer.
    pub(super) async fn watched(&self) {
        while self.changes.receiver_count() == 0 {
            self.came.notified().await;
        }
    }

    /// Takes in how things stand now, and tells all viewers what is different.
    pub(super) fn show(&self, view: &View<'_>, picture: Option<Arc<Picture>>) {
        let rows = picture.as_ref().map(|picture| picture.rows.as_slice()).unwrap_or_default();
        let now = Shown {
            levels: rows.iter().map(|row| view.verdict.of_account(&row.sub)).collect(),
            head: page::head(view),
            rest: page::rest(view),
            frame: picture.as_ref().map(|picture| page::frame(picture.frame)),
            now: view.now,
            picture,
        };
        let mut state = self.state();
        state.seq += 1;
        let change = match &state.shown {
            None => now.whole(state.seq),
            Some(before) => now.difference(before, state.seq),
        };
        state.shown = Some(now);
        // Sent before the lock is given up: whoever subscribes under it misses nothing and hears nothing twice.
        let _ = self.changes.send(change);
    }

    /// The differences from now on, and the whole state first, unless the viewer has it already.
    pub(super) fn subscribe(&self, has: Option<u64>) -> (Option<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let (changes, seq, shown) = {
            let state = self.state();
            let changes = self.changes.subscribe();
            (changes, state.seq, if has == Some(state.seq) { None } else { state.shown.clone() })
        };
        self.came.notify_one();
        (shown.map(|shown| shown.whole(seq)), changes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn drawn(&self) -> impl Iterator<Item = Drawn<'_>> {
        let rows = self.picture.as_ref().map(|picture| picture.rows.as_slice()).unwrap_or_default();
        rows.iter().zip(&self.levels).map(|(row, level)| Drawn { row, level: *level })
    }

    fn whole(&self, seq: u64) -> Arc<str> {
        let rows = self.drawn().map(|drawn| (drawn.row.sub.as_str(), drawn.markup(self.now).into_string())).collect();
        let (head, rest, frame) = (Some(self.head.as_str()), Some(self.rest.as_str()), self.frame.as_deref());
        Change { seq, now: self.now.0, full: true, head, rest, frame, rows, gone: Vec::new() }.json()
    }

    fn difference(&self, before: &Shown, seq: u64) -> Arc<str> {
        let mut old: HashMap<&str, Drawn<'_>> = before.drawn().map(|drawn| (drawn.row.sub.as_str(), drawn)).collect();
        let mut rows = BTreeMap::new();
        for drawn in self.drawn() {
            if old.remove(drawn.row.sub.as_str()).as_ref() != Some(&drawn) {
                rows.insert(drawn.row.sub.as_str(), drawn.markup(self.now).into_string());
            }
        }
        let change = Change {
            seq,
            now: self.now.0,
            full: false,
            head: Some(self.head.as_str()).filter(|head| *head != before.head),
            rest: Some(self.rest.as_str()).filter(|rest| *rest != before.rest),
            frame: self.frame.as_deref().filter(|frame| Some(*frame) != before.frame.as_deref()),
            rows,
            gone: old.into_keys().collect(),
        };
        change.json()
    }
}

impl Change<'_> {
    fn json(&self) -> Arc<str> {
        // Texts and numbers always become JSON.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::picture::Row;
    use super::super::testing::{NOW, picture, row};
    use super::super::verdict::Verdict;
    use super::*;
    use crate::health::Severity;
    use crate::status::FindingStatus;

    fn show(board: &Board, rows: Vec<Row>, findings: Vec<FindingStatus>) {
        let picture = Arc::new(picture(rows));
        let verdict = Verdict::new(findings, Some(&picture), NOW);
        let view = View {
            verdict: &verdict,
            picture: Some(&picture),
            samples: &[],
            now: NOW,
            instance: "host-1",
            search: false,
        };
        board.show(&view, Some(picture.clone()));
    }

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_viewer_is_told_only_what_is_different() {
        let board = Board::new();
        show(&board, vec![row("one"), row("two"), row("three")], Vec::new());
        let (first, mut changes) = board.subscribe(Some(board.seq()));
        assert_eq!(first, None);
        let mut busy = row("two");
        busy.work.ready = 5;
        show(&board, vec![row("one"), busy], Vec::new());
        let change = parsed(&changes.try_recv().unwrap());
        assert_eq!(change["rows"].as_object().unwrap().keys().collect::<Vec<_>>(), ["two"]);
        assert_eq!((&change["gone"][0], &change["full"]), (&Value::from("three"), &Value::from(false)));
        assert!(change["head"].is_string(), "the totals have changed: {change}");
        assert!(change["frame"].is_null());
    }

    #[test]
    fn a_viewer_with_another_state_is_sent_the_whole_of_this_one() {
        let board = Board::new();
        show(&board, vec![row("one"), row("two")], Vec::new());
        for has in [None, Some(board.seq() - 1), Some(7)] {
            let (first, _) = board.subscribe(has);
            let state = parsed(&first.unwrap());
            assert_eq!((state["rows"].as_object().unwrap().len(), &state["full"]), (2, &Value::from(true)));
        }
    }

    #[test]
    fn an_account_that_is_late_by_now_is_drawn_again_although_nothing_of_it_has_changed() {
        let board = Board::new();
        show(&board, vec![row("one")], Vec::new());
        let (_, mut changes) = board.subscribe(Some(board.seq()));
        let late = FindingStatus::new("lagging", Severity::Warning, NOW, "one is late".to_owned(), "wait");
        show(&board, vec![row("one")], vec![FindingStatus { accounts: vec!["one".to_owned()], ..late }]);
        let change = parsed(&changes.try_recv().unwrap());
        assert!(change["rows"]["one"].as_str().unwrap().contains("data-level=\"behind\""));
    }
}
