//! Records a delivery round of a sink in one transaction: cursors, failed deliveries, object
//! batches and replay progress.
//!
//! A cursor or a replay advances only under the account's current lease.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::{AccountKey, Arg, Db, DbError, Item, Lease, SinkKey, Stmt, Tx, sql};
use super::{FailedDelivery, LakeChange};
use crate::clock::{Time, millis};
use crate::transaction_span::TransactionSpan;

/// How far a round advances the cursor in one account.
#[derive(Debug, Clone)]
pub struct CursorAdvance {
    /// The lease under which it was delivered.
    pub lease: Lease,
    /// Everything up to this sequence number was delivered, failed or filtered out.
    pub upto: i64,
    /// Number of delivered events.
    pub delivered: u64,
}

/// How far a replay has advanced.
#[derive(Debug, Clone, Copy)]
pub struct ReplayProgress {
    /// The lease under which it was sent.
    pub lease: Lease,
    /// Key of the replay.
    pub id: i64,
    /// Everything up to this sequence number was processed.
    pub upto: i64,
    /// Number of sent events.
    pub sent: u64,
    /// Whether it is finished.
    pub is_finished: bool,
}

/// The results of a delivery round.
#[derive(Debug, Clone, Default)]
pub struct DeliveryRound {
    /// Key of the sink.
    pub sink: SinkKey,
    /// When the round was made.
    pub at: Time,
    /// Cursor advances. Results of accounts that are not listed here, or have another owner now,
    /// are ignored.
    pub advances: Vec<CursorAdvance>,
    /// Events that were not delivered.
    pub failed_deliveries: Vec<FailedDelivery>,
    /// Failed deliveries to delete, by account and sequence number: they were delivered, or their
    /// artifact was deleted.
    pub cleared: Vec<(AccountKey, i64)>,
    /// Delivered versions that replace earlier ones, by artifact and sequence number: failed
    /// deliveries of the earlier ones are deleted, so that none follows the newer one.
    pub superseding: Vec<(Item, i64)>,
    /// Whether the accounts' object batches were written.
    pub object_batches_written: bool,
    /// The replay that advanced. It is ignored if the account has another owner now.
    pub replay_progress: Option<ReplayProgress>,
    /// What changed in the sink's tables. It is ignored if the account has another owner now.
    pub lake_change: Option<LakeChange>,
    /// Why the sink refuses further events, if it does.
    pub stopped: Option<String>,
}

impl Db {
    /// Records the results of a round. Returns the accounts whose lease was still held.
    ///
    /// # Errors
    /// Nothing was committed; or, if the connection broke during the commit, everything may have
    /// been. Delivery is at least once, so the round may be repeated.
    pub async fn record_delivery_round(&self, round: &DeliveryRound) -> Result<HashSet<AccountKey>, DbError> {
        let _span = TransactionSpan::start("record_delivery_round", round.advances.len());
        let mut tx = self.begin().await?;
        let replay_lease = round.replay_progress.map(|progress| progress.lease);
        let lake_lease = round.lake_change.as_ref().map(|change| change.lease);
        let leases = round.advances.iter().map(|advance| advance.lease).chain(replay_lease).chain(lake_lease);
        let held = tx.held_leases(leases).await?;
        tx.advance_cursors(round, &held).await?;
        tx.delete_cleared(round, &held).await?;
        tx.save_failed_deliveries(round, &held).await?;
        // A notice of a program from before recordings may have the item of a recording: it stays.
        let superseding = round.superseding.iter();
        let superseding = superseding.map(|(item, feed)| vec![round.sink.into(), (*item).into(), (*feed).into()]);
        let stmt = Stmt::rows(
            "with v (sink, item, feed) as (values ",
            superseding.collect(),
            ") delete from sink_event where (sink, account, feed) in (select e.sink, e.account, e.feed
             from v cross join sink_event e where e.sink = v.sink and e.item = v.item and e.feed < v.feed
             and (v.item < 0 or not exists
               (select 1 from feed_notice n where n.account = e.account and n.feed = e.feed)))",
        );
        tx.run(stmt).await?;
        if let Some(progress) = round.replay_progress.filter(|progress| held.contains(&progress.lease.account)) {
            tx.advance_replay(progress, round.at).await?;
        }
        if let Some(change) = round.lake_change.as_ref().filter(|change| held.contains(&change.lease.account)) {
            tx.record_lake_change(round, change).await?;
        }
        if let Some(why) = &round.stopped {
            let stmt = sql("update sink set stopped = $2, reason = $3 where id = $1 and stopped is null");
            tx.run(stmt.bind(round.sink).bind(round.at).bind(why)).await?;
        }
        tx.commit().await?;
        Ok(held)
    }
}

impl Tx {
    /// The accounts of those leases that still hold. They hold until the transaction ends.
    async fn held_leases(&mut self, leases: impl Iterator<Item = Lease>) -> Result<HashSet<AccountKey>, DbError> {
        let leases: HashSet<(AccountKey, i64)> = leases.map(|lease| (lease.account, lease.epoch)).collect();
        let accounts: BTreeSet<AccountKey> = leases.iter().map(|(account, _)| *account).collect();
        let head = "select id, epoch from account where id in ";
        let current: Vec<(AccountKey, i64)> =
            self.all(Stmt::list(head, Vec::new(), accounts, self.for_share_clause())).await?;
        Ok(current.into_iter().filter(|lease| leases.contains(lease)).map(|(account, _)| account).collect())
    }

    async fn advance_cursors(&mut self, round: &DeliveryRound, held: &HashSet<AccountKey>) -> Result<(), DbError> {
        // One row per account: an upsert may touch a row only once.
        let mut advances: BTreeMap<AccountKey, CursorAdvance> = BTreeMap::new();
        for advance in round.advances.iter().filter(|advance| held.contains(&advance.lease.account)) {
            let sum = advances.entry(advance.lease.account).or_insert(CursorAdvance {
                upto: 0,
                delivered: 0,
                ..advance.clone()
            });
            sum.upto = sum.upto.max(advance.upto);
            sum.delivered += advance.delivered;
        }
        let rows = advances.values().map(|advance| {
            vec![
                Arg::from(round.sink),
                advance.lease.account.into(),
                advance.upto.into(),
                advance.delivered.into(),
                (advance.delivered > 0).then_some(round.at).into(),
            ]
        });
        self.run(Stmt::rows(
            "insert into sink_cursor (sink, account, feed, delivered, last_delivered) values ",
            rows.collect(),
            " on conflict (sink, account) do update set delivered = sink_cursor.delivered + excluded.delivered,
             feed = case when excluded.feed > sink_cursor.feed then excluded.feed else sink_cursor.feed end,
             last_delivered = coalesce(excluded.last_delivered, sink_cursor.last_delivered)",
        ))
        .await?;
        if round.object_batches_written {
            let row =
                |advance: &CursorAdvance| vec![round.sink.into(), advance.lease.account.into(), advance.upto.into()];
            let head = "delete from sink_batch where (sink, account, last) in (values ";
            self.run(Stmt::rows(head, advances.values().map(row).collect(), ")")).await?;
        }
        Ok(())
    }

    async fn delete_cleared(&mut self, round: &DeliveryRound, held: &HashSet<AccountKey>) -> Result<(), DbError> {
        let cleared = round.cleared.iter().filter(|(account, _)| held.contains(account));
        let rows = cleared.map(|(account, feed)| vec![round.sink.into(), (*account).into(), (*feed).into()]);
        let head = "delete from sink_event where (sink, account, feed) in (values ";
        self.run(Stmt::rows(head, rows.collect(), ")")).await.map(drop)
    }

    /// Failed deliveries of entries that were erased after the attempt are not saved: the erasure
    /// could not delete them, because they did not exist yet.
    async fn save_failed_deliveries(
        &mut self,
        round: &DeliveryRound,
        held: &HashSet<AccountKey>,
    ) -> Result<(), DbError> {
        let items = round.failed_deliveries.iter().map(|delivery| delivery.item);
        let head = "select item from artifact where item in ";
        let existing: Vec<Item> = self.values(Stmt::list(head, Vec::new(), items, "")).await?;
        let mut existing: HashSet<Item> = existing.into_iter().collect();
        let keys = round.failed_deliveries.iter().map(|delivery| vec![delivery.account.into(), delivery.feed.into()]);
        let head = "select segment * -4 - 1 from feed_notice where (account, feed) in (values ";
        existing.extend(self.values::<Item>(Stmt::rows(head, keys.collect(), ")")).await?);
        let failed_deliveries = round
            .failed_deliveries
            .iter()
            .filter(|delivery| held.contains(&delivery.account) && existing.contains(&delivery.item));
        let failed_deliveries: BTreeMap<(AccountKey, i64), &FailedDelivery> =
            failed_deliveries.map(|delivery| ((delivery.account, delivery.feed), delivery)).collect();
        let rows = failed_deliveries.into_values().map(|delivery| {
            vec![
                Arg::from(round.sink),
                delivery.account.into(),
                delivery.feed.into(),
                delivery.item.into(),
                delivery.failed.into(),
                delivery.tries.into(),
                millis(delivery.waited).into(),
                delivery.first_try.into(),
                delivery.last_try.into(),
                delivery.due.into(),
                delivery.status.into(),
                Arg::from(&delivery.reason),
            ]
        });
        self.run(Stmt::rows(
            "insert into sink_event (sink, account, feed, item, state, tries, waited, first_try, last_try, due, status, reason) values ",
            rows.collect(),
            " on conflict (sink, account, feed) do update set state = excluded.state, tries = excluded.tries,
             waited = excluded.waited, last_try = excluded.last_try, due = excluded.due, status = excluded.status,
             reason = excluded.reason",
        ))
        .await
        .map(drop)
    }
}
