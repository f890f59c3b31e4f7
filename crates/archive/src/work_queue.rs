//! The work queue: due items, next due times, and the queue commands of operators.

use std::time::Duration;

use super::{Arg, Db, DbError, Item, Lease, Row, Stmt, sql};
use crate::clock::{Time, millis};
use crate::model::{Artifact, ArtifactSet, ItemState, Lane};

/// How far the clocks of replicas may differ without being treated as wrong.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The right to attempt one item under a lease. Creating a claim writes nothing: the lease holder
/// works the account's items, and a result is accepted only under the current epoch. Completion
/// consumes it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The work item.
    pub item: Item,
    /// The lease under which it is worked.
    pub lease: Lease,
    /// The artifact to fetch.
    pub artifact: Artifact,
    /// The urgency.
    pub lane: Lane,
    /// The segment's id in RingCX.
    pub segment_id: String,
    /// The dialog's id in RingCX.
    pub dialog_id: Option<String>,
    /// When the segment ended.
    pub ended: Time,
    /// The due time.
    pub due: Time,
    /// Attempts so far.
    pub tries: u32,
    /// Among them, 404 responses and the like.
    pub misses: u32,
    /// Among them, responses that a retry will hardly change.
    pub refusals: u32,
    /// The kind of defect of the last response; 0 if it had none.
    pub broken_kind: u32,
    /// How many consecutive responses had that defect.
    pub consecutive_broken: u32,
    /// When it was first attempted.
    pub first_try: Option<Time>,
    /// For how long it has been paused since.
    pub paused: Duration,
    /// 0 for the first fetch; then the number of the refresh.
    pub visit: u32,
}

/// A class of work items. Within a class, items are fetched in order of due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueClass {
    /// The artifact to fetch.
    pub artifact: Artifact,
    /// The urgency.
    pub lane: Lane,
    /// Whether the item was attempted before.
    pub is_retry: bool,
}

/// All classes of these artifacts. Each is one range of the index on due items.
pub fn queue_classes(artifacts: ArtifactSet) -> impl Iterator<Item = QueueClass> {
    artifacts.iter().flat_map(|artifact| {
        Lane::ALL
            .into_iter()
            .flat_map(move |lane| [false, true].map(|is_retry| QueueClass { artifact, lane, is_retry }))
    })
}

fn class_condition(class: QueueClass) -> String {
    let (artifact, lane, again) = (class.artifact.code(), class.lane.code(), i32::from(class.is_retry));
    format!("w.artifact = {artifact} and w.lane = {lane} and w.again = {again}")
}

const CLAIM_COLUMNS: &str = "w.item, w.lane, s.segment_id, s.dialog_id, s.ended, w.due, w.tries, w.misses, w.refusals, w.first_try, w.paused, w.visit, w.broken, w.alike";

fn claim_from_row(lease: Lease, row: &Row) -> Result<Claim, DbError> {
    let item = Item(row.int(0)?);
    let small = |index: usize| -> Result<u32, DbError> { Ok(u32::try_from(row.int(index)?).unwrap_or(u32::MAX)) };
    Ok(Claim {
        item,
        lease,
        artifact: item.require_artifact("work.item")?,
        lane: row.code(1, ("work.lane", item.0), Lane::from_code)?,
        segment_id: row.text(2)?,
        dialog_id: row.maybe_text(3)?,
        ended: row.time(4)?,
        due: row.time(5)?,
        tries: small(6)?,
        misses: small(7)?,
        refusals: small(8)?,
        first_try: row.maybe_time(9)?,
        paused: Duration::from_millis(row.count(10)?),
        visit: small(11)?,
        broken_kind: small(12)?,
        consecutive_broken: small(13)?,
    })
}

/// The longest delays that a correct clock can have set.
#[derive(Debug, Clone, Copy)]
pub struct MaxDelays {
    /// For items that were not answered yet.
    pub retry: Duration,
    /// For refreshes of answered items.
    pub refresh: Duration,
}

/// Selects items for the queue commands.
#[derive(Debug, Clone, Default)]
pub struct QueueFilter {
    /// Only items of this account.
    pub account: Option<i64>,
    /// Only items in these states; all if empty.
    pub states: Vec<ItemState>,
    /// Only items of this segment.
    pub segment_id: Option<String>,
    /// Only this artifact.
    pub artifact: Option<Artifact>,
    /// Maximum number of items; 0 for all.
    pub limit: u32,
}

/// An unfinished item, for display.
#[derive(Debug, Clone)]
pub struct QueueRow {
    /// The work item.
    pub item: Item,
    /// The sub-account's id.
    pub sub: String,
    /// The segment's id in RingCX.
    pub segment_id: String,
    /// When the segment ended.
    pub ended: Time,
    /// The artifact to fetch.
    pub artifact: Artifact,
    /// The urgency.
    pub lane: Lane,
    /// The state.
    pub state: ItemState,
    /// The due time.
    pub due: Time,
    /// Attempts so far.
    pub tries: u32,
    /// When it was first attempted.
    pub first_try: Option<Time>,
    /// The HTTP status of the last response.
    pub status: Option<i64>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
}

impl Db {
    /// Due items of these artifacts: up to `limit` of each queue class, in order of due time.
    pub async fn due_items(
        &self,
        lease: Lease,
        artifacts: ArtifactSet,
        now: Time,
        limit: usize,
    ) -> Result<Vec<Claim>, DbError> {
        self.due_items_by_class(lease, artifacts, now, |_| limit).await
    }

    /// As [`Db::due_items`], with a limit for each class. A limit of 0 costs nothing.
    pub async fn due_items_by_class(
        &self,
        lease: Lease,
        artifacts: ArtifactSet,
        now: Time,
        limit: impl Fn(QueueClass) -> usize,
    ) -> Result<Vec<Claim>, DbError> {
        let limits: Vec<usize> = queue_classes(artifacts).map(limit).collect();
        if limits.iter().all(|limit| *limit == 0) {
            return Ok(Vec::new());
        }
        // One text for all limits: a changed limit must not prepare another statement. SQLite replans
        // a statement when its limit is a parameter with a new value, but not when it is a sum. This
        // statement runs many times a second.
        let parts: Vec<String> = queue_classes(artifacts)
            .zip(3..)
            .map(|(class, placeholder)| {
                let class = class_condition(class);
                format!(
                    "select {CLAIM_COLUMNS} from (select * from work w where w.account = $1 and {class} and w.state = 0 and w.due <= $2
                     order by w.due limit ${placeholder} + 0) w join segment s on s.id = w.segment"
                )
            })
            .collect();
        let mut stmt = Stmt::built(parts.join(" union all ")).bind(lease.account).bind(now);
        for limit in limits {
            stmt = stmt.bind(limit);
        }
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| claim_from_row(lease, row)).collect()
    }

    /// The earliest due time after `now` among items of these artifacts.
    pub async fn next_due(&self, account: i64, artifacts: ArtifactSet, now: Time) -> Result<Option<Time>, DbError> {
        if artifacts.is_empty() {
            return Ok(None);
        }
        let parts: Vec<String> = queue_classes(artifacts)
            .map(|class| {
                let class = class_condition(class);
                format!("select (select min(w.due) from work w where w.account = $1 and {class} and w.state = 0 and w.due > $2) as due")
            })
            .collect();
        let text = format!("select min(due) from ({}) earliest", parts.join(" union all "));
        let row = self.first(Stmt::built(text).bind(account).bind(now)).await?;
        Ok(row.map(|row| row.maybe_time(0)).transpose()?.flatten())
    }

    /// Undoes the deferral of an artifact's open items. Items without an attempt become due now;
    /// the others when their backoff, which starts with `initial`, would have made them due.
    /// Returns their number.
    pub async fn undo_deferrals(
        &self,
        account: i64,
        artifact: Artifact,
        now: Time,
        initial: Duration,
    ) -> Result<u64, DbError> {
        // Beyond 20 attempts the backoff exceeds any deferral.
        const DUE: &str = "case when tries = 0 or last_try is null then $3
             else last_try + $4 * (1 << cast(case when tries between 1 and 20 then tries - 1 else 20 end as integer)) end";
        let stmt = Stmt::built(format!(
            "update work set due = case when {DUE} > $3 then {DUE} else $3 end
             where account = $1 and artifact = $2 and state = 0 and due > $3 and due > {DUE} and visit = 0"
        ));
        self.run(stmt.bind(account).bind(artifact.code()).bind(now).bind(millis(initial))).await
    }

    /// Reschedules work that a clock ahead of the true time put off. Its rows were written, or are
    /// due, later than possible: `latest` is the latest time by any clock. Their remaining delay
    /// counts from `now`. Also corrects quarantined records and failed deliveries. Returns the
    /// number of rows.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn repair_future_dated_work(
        &self,
        lease: Lease,
        now: Time,
        latest: Time,
        max_delays: MaxDelays,
    ) -> Result<u64, DbError> {
        const WRITTEN: &str = "coalesce(last_try, created)";
        const LONGEST: &str = "case when visit = 0 then $4 else $5 end";
        let work = format!(
            "update work set
             due = case when {WRITTEN} > $3 and due > {WRITTEN} and due - {WRITTEN} <= {LONGEST} then $2 + due - {WRITTEN} else $2 end,
             created = case when created > $2 then $2 else created end,
             first_try = case when first_try > $2 then $2 else first_try end,
             last_try = case when last_try > $2 then $2 else last_try end
             where account = $1 and state = 0 and due > $3 and ({WRITTEN} > $3 or due > $3 + {LONGEST})"
        );
        let mut tx = self.begin().await?;
        tx.hold_lease(lease).await?;
        let stmt = Stmt::built(work).bind(lease.account).bind(now).bind(latest + CLOCK_TOLERANCE);
        let mut released = tx.run(stmt.bind(millis(max_delays.retry)).bind(millis(max_delays.refresh))).await?;
        for stmt in [
            // A later read resolves only records that were last seen before it.
            "update aside set last_seen = $2, due = $2 where account = $1 and resolved is null and last_seen > $3",
            "update sink_event set first_try = case when first_try > $2 then $2 else first_try end, last_try = $2, due = $2
             where account = $1 and state = 0 and last_try > $3",
        ] {
            let stmt = sql(stmt).bind(lease.account).bind(now).bind(latest + CLOCK_TOLERANCE);
            released += tx.run(stmt).await?;
        }
        tx.commit().await?;
        Ok(released)
    }

    /// Unfinished items for display: given-up ones first, then by due time.
    pub async fn queue_rows(&self, filter: &QueueFilter) -> Result<Vec<QueueRow>, DbError> {
        let (clause, args) = filter.clause();
        let limit = if filter.limit == 0 { i64::from(u32::MAX) } else { i64::from(filter.limit) };
        let mut stmt = Stmt::built(format!(
            "select w.item, a.sub, s.segment_id, s.ended, w.lane, w.state, w.due, w.tries, w.first_try, w.status, w.reason
             from work w join segment s on s.id = w.segment join account a on a.id = w.account
             where {clause} order by w.state desc, w.due, w.item limit {limit}"
        ));
        for arg in args {
            stmt = stmt.bind(arg);
        }
        let mut items = Vec::new();
        for row in self.all(stmt).await? {
            let item = Item(row.int(0)?);
            items.push(QueueRow {
                item,
                sub: row.text(1)?,
                segment_id: row.text(2)?,
                ended: row.time(3)?,
                artifact: item.require_artifact("work.item")?,
                lane: row.code(4, ("work.lane", item.0), Lane::from_code)?,
                state: row.code(5, ("work.state", item.0), ItemState::from_code)?,
                due: row.time(6)?,
                tries: u32::try_from(row.int(7)?).unwrap_or(u32::MAX),
                first_try: row.maybe_time(8)?,
                status: row.maybe_int(9)?,
                reason: row.maybe_text(10)?,
            });
        }
        Ok(items)
    }

    /// The first bytes of the last response to an item, if it was unusable.
    pub async fn last_body(&self, item: Item) -> Result<Option<Vec<u8>>, DbError> {
        let row = self.first(sql("select last_body from work where item = $1").bind(item.0)).await?;
        row.map_or(Ok(None), |row| row.maybe_bytes(0))
    }

    /// Makes items due now and resets their retry limits. Discarded items are reopened, and their
    /// reason is cleared. Returns the number of items.
    pub async fn retry_items(&self, filter: &QueueFilter, now: Time) -> Result<u64, DbError> {
        let (clause, args) = filter.clause();
        let number = args.len() + 1;
        let mut stmt = Stmt::built(format!(
            "update work set state = 0, due = ${number}, tries = 0, again = 0, misses = 0, refusals = 0, broken = 0, alike = 0, first_try = null,
             paused = 0, reason = case when state = 3 then null else reason end, status = case when state = 3 then null else status end
             where item in (select w.item from work w join segment s on s.id = w.segment where {clause})"
        ));
        for arg in args {
            stmt = stmt.bind(arg);
        }
        self.run(stmt.bind(now)).await
    }

    /// Discards items for good. Returns their number.
    pub async fn discard_items(&self, filter: &QueueFilter, why: &str) -> Result<u64, DbError> {
        let (clause, args) = filter.clause();
        let number = args.len() + 1;
        let mut stmt = Stmt::built(format!(
            "update work set state = 3, reason = ${number} where item in
             (select w.item from work w join segment s on s.id = w.segment where {clause} and w.state <> 3)"
        ));
        for arg in args {
            stmt = stmt.bind(arg);
        }
        self.run(stmt.bind(why)).await
    }
}

impl QueueFilter {
    fn clause(&self) -> (String, Vec<Arg>) {
        let mut args = Vec::new();
        let mut parts = vec!["w.visit = 0".to_owned()];
        if let Some(account) = self.account {
            args.push(account.into());
            parts.push(format!("w.account = ${}", args.len()));
        }
        if let Some(segment) = &self.segment_id {
            args.push(segment.into());
            parts.push(format!("s.segment_id = ${}", args.len()));
        }
        if let Some(artifact) = self.artifact {
            args.push(artifact.code().into());
            parts.push(format!("w.artifact = ${}", args.len()));
        }
        if !self.states.is_empty() {
            let codes: Vec<String> = self.states.iter().map(|state| state.code().to_string()).collect();
            parts.push(format!("w.state in ({})", codes.join(",")));
        }
        (parts.join(" and "), args)
    }
}
