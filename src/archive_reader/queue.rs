//! The unfinished items of the visible accounts, for those who read or operate them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ArchiveReader, PageRequest, ReadError, ReadFault, forbidden};
use crate::access::{Caller, Permission};
use crate::clock::Time;
use crate::db::{AccountKey, AccountRow, Item, QueueFilter, QueueGroup, QueuePosition, QueueRow};
use crate::model::{Artifact, ItemState, Lane};

/// Items that one page examines where a role shows only some channels.
const MAX_EXAMINED: usize = 5_000;
/// Reasons that are listed.
const MAX_REASONS: usize = 30;

/// The states of items, with their names in parameters.
pub(crate) const ITEM_STATES: [(&str, ItemState); 4] = [
    ("failed", ItemState::Failed),
    ("unavailable", ItemState::Unavailable),
    ("waiting", ItemState::Open),
    ("discarded", ItemState::Discarded),
];

/// Which items to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueQuestion {
    /// By id or name; empty for all.
    pub(crate) accounts: Vec<String>,
    /// All if empty.
    pub(crate) states: Vec<ItemState>,
    pub(crate) artifact: Option<Artifact>,
    /// The last error, as a whole.
    pub(crate) reason: Option<String>,
    pub(crate) segment: Option<String>,
}

/// An unfinished item.
#[derive(Debug, Serialize)]
pub(crate) struct QueueItemView {
    pub(crate) sub_account_id: String,
    pub(crate) account_name: Option<String>,
    pub(crate) segment_id: String,
    pub(crate) segment_end: Option<String>,
    pub(crate) artifact: &'static str,
    /// `ready`, `waiting`, `unavailable`, `failed` or `discarded`.
    pub(crate) state: &'static str,
    pub(crate) lane: Lane,
    /// When it is tried next.
    pub(crate) due: Option<String>,
    pub(crate) tries: u32,
    pub(crate) first_try: Option<String>,
    /// The HTTP status of the last answer.
    pub(crate) status: Option<i64>,
    /// Why the last attempt failed.
    pub(crate) reason: Option<String>,
    /// Whether the caller may read its segment.
    pub(crate) may_read: bool,
    /// Whether the caller may retry and discard it.
    pub(crate) may_operate: bool,
}

/// How many items of an account are in a state.
#[derive(Debug, Serialize)]
pub(crate) struct QueueCountView {
    pub(crate) sub_account_id: String,
    pub(crate) account_name: Option<String>,
    pub(crate) artifact: &'static str,
    /// `waiting`, `unavailable`, `failed` or `discarded`.
    pub(crate) state: &'static str,
    pub(crate) items: u64,
}

/// Items with the same artifact, state and reason.
#[derive(Debug, Serialize)]
pub(crate) struct QueueReasonView {
    pub(crate) artifact: &'static str,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
    pub(crate) items: u64,
    pub(crate) sub_account_ids: Vec<String>,
}

/// A page of items.
#[derive(Debug, Serialize)]
pub(crate) struct QueueView {
    pub(crate) items: Vec<QueueItemView>,
    /// The cursor of the next page; null after the last one.
    pub(crate) next: Option<String>,
    /// By account, artifact and state, without regard to the filters.
    pub(crate) counts: Vec<QueueCountView>,
    /// The most frequent reasons, without regard to the filters.
    pub(crate) reasons: Vec<QueueReasonView>,
    /// Whether items of channels that the role does not show are missing from counts and reasons of
    /// whole accounts, which are left out then.
    pub(crate) counts_are_partial: bool,
}

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct StoredQueuePosition(i64, i64, i64);

/// The name of a state in parameters.
fn state_name(state: ItemState) -> &'static str {
    ITEM_STATES.into_iter().find(|(_, known)| *known == state).map_or("", |(name, _)| name)
}

/// Whether the caller may know about every item of an account: it operates the account, or reads all its
/// channels.
fn sees_all_items(caller: &Caller, sub: &str) -> bool {
    caller.may_in_account(Permission::Operate, sub) || caller.sees_all_channels(sub)
}

impl ArchiveReader {
    /// A page of unfinished items: those that need a person first, then by due time.
    pub(crate) async fn queue(
        &self,
        caller: &Caller,
        question: &QueueQuestion,
        page: &PageRequest,
    ) -> Result<QueueView, ReadError> {
        let accounts = self.queue_accounts(caller, &question.accounts).await?;
        let binding = format!("queue {}", page.question);
        let stored: Option<StoredQueuePosition> = self.open_cursor(&binding, page.cursor.as_deref()).await?;
        let start = stored.map(|StoredQueuePosition(state, due, item)| QueuePosition {
            state,
            due: Time(due),
            item: Item(item),
        });
        let (rows, end) = self.visible_items(caller, &accounts, question, start, page.limit).await?;
        let now = self.clock.now();
        let account_of: BTreeMap<&str, &AccountRow> =
            accounts.iter().map(|account| (&*account.id.sub, account)).collect();
        let items = rows.into_iter().map(|row| item_view(caller, account_of.get(row.sub.as_str()).copied(), row, now));
        let items = items.collect();
        let groups = self.run_heavy(async { Ok(self.db.queue_groups().await?) }).await?;
        let counted: BTreeMap<AccountKey, &AccountRow> = accounts
            .iter()
            .filter(|account| sees_all_items(caller, &account.id.sub))
            .map(|account| (account.key, account))
            .collect();
        let next = match end {
            Some(QueuePosition { state, due, item }) => {
                Some(self.seal_cursor(&binding, &StoredQueuePosition(state, due.0, item.0)).await?)
            }
            None => None,
        };
        Ok(QueueView {
            items,
            next,
            counts: count_groups(&groups, &counted),
            reasons: list_reasons(&groups, &counted),
            counts_are_partial: counted.len() < accounts.len(),
        })
    }

    /// The accounts that the caller reads or operates, among those asked for.
    pub(crate) async fn queue_accounts(
        &self,
        caller: &Caller,
        wanted: &[String],
    ) -> Result<Vec<AccountRow>, ReadError> {
        if !caller.may(Permission::Read) && !caller.may(Permission::Operate) {
            return Err(forbidden(Permission::Read));
        }
        let mut accounts = self.db.accounts().await?;
        accounts.retain(|account| {
            caller.sees_account(&account.id.sub) || caller.may_in_account(Permission::Operate, &account.id.sub)
        });
        if wanted.is_empty() {
            return Ok(accounts);
        }
        let is_wanted = |account: &AccountRow| {
            let name = account.name.as_deref().unwrap_or_default();
            wanted.iter().any(|wanted| *account.id.sub == **wanted || name.eq_ignore_ascii_case(wanted.trim()))
        };
        accounts.retain(is_wanted);
        if accounts.is_empty() {
            return Err(ReadError::new(ReadFault::NotFound, "no account has that id or name")
                .with_hint("the list of accounts shows those that you may see"));
        }
        Ok(accounts)
    }

    async fn visible_items(
        &self,
        caller: &Caller,
        accounts: &[AccountRow],
        question: &QueueQuestion,
        start: Option<QueuePosition>,
        limit: usize,
    ) -> Result<(Vec<QueueRow>, Option<QueuePosition>), ReadError> {
        // One more than the limit shows whether there are more.
        let per_read = limit.saturating_add(1);
        let filter = QueueFilter {
            accounts: Some(accounts.iter().map(|account| account.key).collect()),
            states: question.states.clone(),
            segment_id: question.segment.clone(),
            artifact: question.artifact,
            reason: question.reason.clone(),
            limit: u32::try_from(per_read).unwrap_or(u32::MAX),
        };
        let (mut found, mut position, mut examined): (Vec<QueueRow>, _, _) = (Vec::new(), start, 0);
        loop {
            let rows = self.db.queue_page(&filter, position).await?;
            let is_last = rows.len() < per_read;
            examined += rows.len();
            for row in self.shown_items(caller, &rows).await? {
                if found.len() == limit {
                    let end = found.last().map(QueuePosition::from);
                    return Ok((found, end));
                }
                found.push(row);
            }
            position = rows.last().map(QueuePosition::from).or(position);
            if is_last {
                return Ok((found, None));
            }
            if examined >= MAX_EXAMINED {
                return Ok((found, position));
            }
        }
    }

    /// Those of the items that the caller may know about.
    async fn shown_items(&self, caller: &Caller, rows: &[QueueRow]) -> Result<Vec<QueueRow>, ReadError> {
        let checked: Vec<i64> =
            rows.iter().filter(|row| !sees_all_items(caller, &row.sub)).map(|row| row.item.segment()).collect();
        let segments = if checked.is_empty() { BTreeMap::new() } else { self.db.segments_by_key(&checked).await? };
        let is_shown = |row: &&QueueRow| {
            let segment = segments.get(&row.item.segment());
            sees_all_items(caller, &row.sub) || segment.is_some_and(|segment| caller.sees_segment(segment))
        };
        Ok(rows.iter().filter(is_shown).cloned().collect())
    }
}

fn item_view(caller: &Caller, account: Option<&AccountRow>, row: QueueRow, now: Time) -> QueueItemView {
    QueueItemView {
        account_name: account.and_then(|account| account.name.clone()),
        segment_end: row.ended.known().map(Time::rfc3339),
        artifact: row.artifact.name(),
        state: row.state_name(now),
        lane: row.lane,
        due: (row.state == ItemState::Open).then(|| row.due.rfc3339()),
        tries: row.tries,
        first_try: row.first_try.map(Time::rfc3339),
        status: row.status,
        may_read: caller.sees_account(&row.sub),
        may_operate: caller.may_in_account(Permission::Operate, &row.sub),
        reason: row.reason,
        segment_id: row.segment_id,
        sub_account_id: row.sub,
    }
}

fn count_groups(groups: &[QueueGroup], accounts: &BTreeMap<AccountKey, &AccountRow>) -> Vec<QueueCountView> {
    let mut counts: BTreeMap<(&str, &'static str, &'static str), (Option<&str>, u64)> = BTreeMap::new();
    for group in groups {
        let Some(account) = accounts.get(&group.account) else { continue };
        let key = (&*account.id.sub, group.artifact.name(), state_name(group.state));
        counts.entry(key).or_insert((account.name.as_deref(), 0)).1 += group.items;
    }
    let view = |((sub, artifact, state), (name, items)): ((&str, _, _), (Option<&str>, _))| QueueCountView {
        sub_account_id: sub.to_owned(),
        account_name: name.map(str::to_owned),
        artifact,
        state,
        items,
    };
    counts.into_iter().map(view).collect()
}

fn list_reasons(groups: &[QueueGroup], accounts: &BTreeMap<AccountKey, &AccountRow>) -> Vec<QueueReasonView> {
    let mut reasons: BTreeMap<(&'static str, &'static str, &str), (u64, Vec<String>)> = BTreeMap::new();
    for group in groups {
        let (Some(account), Some(reason)) = (accounts.get(&group.account), &group.reason) else { continue };
        let key = (group.artifact.name(), state_name(group.state), reason.as_str());
        let entry = reasons.entry(key).or_default();
        entry.0 += group.items;
        entry.1.push(account.id.sub.to_string());
    }
    let mut reasons: Vec<QueueReasonView> = reasons
        .into_iter()
        .map(|((artifact, state, reason), (items, sub_account_ids))| QueueReasonView {
            artifact,
            state,
            reason: reason.to_owned(),
            items,
            sub_account_ids,
        })
        .collect();
    // What needs a person first.
    let rank = |state: &str| ITEM_STATES.iter().position(|(name, _)| *name == state);
    reasons.sort_by(|a, b| rank(a.state).cmp(&rank(b.state)).then(b.items.cmp(&a.items)));
    reasons.truncate(MAX_REASONS);
    reasons
}
