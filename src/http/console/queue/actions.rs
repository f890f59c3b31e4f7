//! Retries and discards items: the chosen ones, or all that match a filter.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::QueueParameters;
use crate::access::{AccessAction, AccessSubject, Caller, Permission};
use crate::db::QueueFilter;
use crate::health::humanize::format_count;
use crate::http::api::actions::{
    ChangedItems, DiscardParameters, ItemParameters, carry_out_discard, carry_out_retry, permitted_accounts,
};
use crate::http::api::idempotency::unavailable;
use crate::http::api::problem::Problem;
use crate::http::console::action::ConsoleAction;
use crate::http::state::HttpState;
use crate::operator_actions;

/// The beginning of the names of the fields that choose an item.
pub(super) const PICK_PREFIX: &str = "pick.";
/// The field of a button that chooses one item, whatever else is chosen.
pub(super) const ONLY_FIELD: &str = "only";
/// The field of a button that chooses all items that match the filter.
pub(super) const ALL_FIELD: &str = "all";

/// The items of a form.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Selection {
    only: String,
    all: String,
    account: String,
    artifact: String,
    state: String,
    reason: String,
    #[serde(flatten)]
    picked: BTreeMap<String, String>,
}

/// The value of the field that chooses an item.
pub(super) fn item_value(artifact: &str, sub: &str, segment_id: &str) -> String {
    format!("{artifact}|{sub}|{segment_id}")
}

/// One chosen item.
struct PickedItem<'a> {
    artifact: &'a str,
    sub: &'a str,
    segment_id: &'a str,
}

impl<'a> PickedItem<'a> {
    fn parse(value: &'a str) -> Result<PickedItem<'a>, Problem> {
        let mut parts = value.splitn(3, '|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(artifact), Some(sub), Some(segment_id)) => Ok(PickedItem { artifact, sub, segment_id }),
            _ => Err(Problem::bad_request("the form names no item")),
        }
    }
}

impl Selection {
    fn is_all(&self) -> bool {
        !self.all.is_empty() && self.only.is_empty()
    }

    fn picked(&self) -> Result<Vec<PickedItem<'_>>, Problem> {
        if !self.only.is_empty() {
            return Ok(vec![PickedItem::parse(&self.only)?]);
        }
        let picked = self.picked.iter().filter(|(name, _)| name.starts_with(PICK_PREFIX));
        let picked: Vec<PickedItem<'_>> =
            picked.map(|(_, value)| PickedItem::parse(value)).collect::<Result<_, _>>()?;
        if picked.is_empty() {
            return Err(Problem::bad_request("no item is chosen").with_hint("go back and mark the items"));
        }
        Ok(picked)
    }

    /// The filter in words, for the question and the access log.
    fn describe(&self) -> String {
        let state = if self.state.is_empty() { "failed,unavailable" } else { self.state.as_str() };
        let filters = [("state", state), ("artifact", &self.artifact), ("account", &self.account)];
        let given = filters.into_iter().filter(|(_, value)| !value.is_empty());
        let mut text = given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        if !self.reason.is_empty() {
            text.push_str(" with one reason");
        }
        text
    }

    /// The items that match, in each account that the caller operates.
    async fn filters(
        &self,
        state: &HttpState,
        caller: &Caller,
        action: AccessAction,
    ) -> Result<Vec<QueueFilter>, Problem> {
        let (question, _) = QueueParameters {
            artifact: self.artifact.clone(),
            state: self.state.clone(),
            reason: self.reason.clone(),
            ..QueueParameters::default()
        }
        .question()?;
        let account = Some(self.account.as_str()).filter(|account| !account.is_empty());
        let accounts = permitted_accounts(state, caller, Permission::Operate, account).await?;
        let what = format!("items {}", self.describe());
        let mut filters = Vec::with_capacity(accounts.len());
        for account in accounts {
            let subject = AccessSubject::Other { what: &what, sub: Some(&account.id.sub) };
            state.access_log.record(caller, action, subject).await.map_err(unavailable)?;
            filters.push(QueueFilter {
                accounts: Some(vec![account.key]),
                states: question.states.clone(),
                artifact: question.artifact,
                reason: question.reason.clone(),
                ..QueueFilter::default()
            });
        }
        Ok(filters)
    }
}

/// The answers for several items. One that is gone, because it was fetched or erased since the page was
/// made, does not keep the others from being changed.
#[derive(Default)]
struct ItemAnswers {
    changed: u64,
    missing: Option<Problem>,
}

impl ItemAnswers {
    fn add(&mut self, answer: Result<(StatusCode, ChangedItems), Problem>) -> Result<(), Problem> {
        match answer {
            Ok((_, done)) => self.changed += done.items,
            Err(problem) if problem.status() == StatusCode::NOT_FOUND.as_u16() => self.missing = Some(problem),
            Err(problem) => return Err(problem),
        }
        Ok(())
    }

    /// The number of changed items.
    ///
    /// # Errors
    /// If none was changed, and one was gone.
    fn changed(self) -> Result<u64, Problem> {
        match self.missing {
            Some(problem) if self.changed == 0 => Err(problem),
            _ => Ok(self.changed),
        }
    }
}

/// Retries items now, and resets their retry limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RetryItems(Selection);

impl ConsoleAction for RetryItems {
    const NAME: &'static str = "retry-items";

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, _: bool) -> Result<String, Problem> {
        let RetryItems(selection) = self;
        let mut items = 0;
        if selection.is_all() {
            for filter in selection.filters(&state, &caller, AccessAction::Retry).await? {
                let changed = operator_actions::retry_items(&state.app.db, &filter, state.reader.now()).await;
                items += changed.map_err(unavailable)?;
            }
        } else {
            let mut answers = ItemAnswers::default();
            for item in selection.picked()? {
                let parameters =
                    ItemParameters { artifact: Some(item.artifact.to_owned()), account: Some(item.sub.to_owned()) };
                answers.add(carry_out_retry(&state, &caller, item.segment_id, &parameters).await)?;
            }
            items = answers.changed()?;
        }
        Ok(format!("{} will be fetched again now.", format_count(items, "item", "items")))
    }
}

/// Discards items, so that they are not fetched any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct DiscardItems(Selection);

impl ConsoleAction for DiscardItems {
    const NAME: &'static str = "discard-items";

    fn confirmation(&self) -> Option<String> {
        let DiscardItems(selection) = self;
        let what = if selection.is_all() {
            format!("all items ({})", selection.describe())
        } else {
            let number = selection.picked().map_or(0, |picked| picked.len());
            format_count(number as u64, "item", "items")
        };
        Some(format!(
            "Discard {what}? They are not fetched any more, and RingCX may delete them, so that the archive never gets these \
             texts. A retry undoes this while RingCX still has them."
        ))
    }

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, _: bool) -> Result<String, Problem> {
        let DiscardItems(selection) = self;
        let mut items = 0;
        if selection.is_all() {
            let reason = format!("discarded by {} (console)", caller.reader.name());
            for filter in selection.filters(&state, &caller, AccessAction::Discard).await? {
                let now = state.reader.now();
                let changed = operator_actions::discard_items(&state.app.db, &filter, &reason, now).await;
                items += changed.map_err(unavailable)?;
            }
        } else {
            let mut answers = ItemAnswers::default();
            for item in selection.picked()? {
                let parameters = DiscardParameters {
                    artifact: Some(item.artifact.to_owned()),
                    account: Some(item.sub.to_owned()),
                    reason: None,
                };
                answers.add(carry_out_discard(&state, &caller, item.segment_id, &parameters).await)?;
            }
            items = answers.changed()?;
        }
        Ok(format!("{} discarded.", format_count(items, "item was", "items were")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_button_of_one_item_counts_before_marks_and_before_all() {
        let selection: Selection = serde_json::from_value(serde_json::json!({
            "only": "transcript|1|a|b", "all": "yes", "pick.0": "auto_summary|2|c", "state": "failed"
        }))
        .unwrap();
        let picked = selection.picked().unwrap();
        assert_eq!(
            (picked.len(), picked[0].artifact, picked[0].sub, picked[0].segment_id),
            (1, "transcript", "1", "a|b")
        );
        assert!(!selection.is_all());
        let marked = Selection { only: String::new(), all: String::new(), ..selection.clone() };
        assert_eq!(marked.picked().unwrap()[0].segment_id, "c");
        assert!(
            DiscardItems(Selection { only: String::new(), ..selection })
                .confirmation()
                .unwrap()
                .contains("state=failed")
        );
        assert!(Selection::default().picked().is_err());
    }

    #[test]
    fn an_item_that_is_gone_does_not_keep_the_others_from_being_changed() {
        let gone = || Err(Problem::new(StatusCode::NOT_FOUND, "the segment has no such unfinished item"));
        let mut answers = ItemAnswers::default();
        answers.add(gone()).unwrap();
        answers.add(Ok((StatusCode::OK, ChangedItems { items: 1 }))).unwrap();
        answers.add(gone()).unwrap();
        assert_eq!(answers.changed().unwrap(), 1);
        let mut none = ItemAnswers::default();
        none.add(gone()).unwrap();
        assert_eq!(none.changed().unwrap_err().status(), 404);
        assert!(ItemAnswers::default().add(Err(Problem::bad_request("x"))).is_err());
    }
}
