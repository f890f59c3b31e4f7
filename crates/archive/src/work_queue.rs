//! The work queue: due items, next due times, and the queue commands of operators.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use super::sql::{CodedItem, LaneCode, Millis, StateCode};
use super::{AccountKey, Arg, Db, DbError, Item, Lease, Stmt, sql};
use crate::clock::{Time, millis};
use crate::model::{Artifact, ArtifactSet, ItemState, Lane};

/// How far the clocks of replicas may differ without being treated as wrong.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The right to attempt one item under a lease. Creating a claim writes nothing: the lease holder
/// works the account's items, and a result is accepted only under the current epoch. Completion
/// consumes it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Claim {
    /// The work item.
    pub item: Item,
    /// The lease under which it is worked.
    #[sqlx(flatten)]
    pub lease: Lease,
    /// The artifact to fetch.
    #[sqlx(rename = "item", try_from = "CodedItem")]
    pub artifact: Artifact,
    /// The urgency.
    #[sqlx(try_from = "LaneCode")]
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
    #[sqlx(try_from = "i64")]
    pub tries: u32,
    /// Among them, 404 responses and the like.
    #[sqlx(try_from = "i64")]
    pub misses: u32,
    /// Among them, responses that a retry will hardly change.
    #[sqlx(try_from = "i64")]
    pub refusals: u32,
    /// The kind of defect of the last response; 0 if it had none.
    #[sqlx(rename = "broken", try_from = "i64")]
    pub broken_kind: u32,
    /// How many consecutive responses had that defect.
    #[sqlx(rename = "alike", try_from = "i64")]
    pub consecutive_broken: u32,
    /// When it was first attempted.
    pub first_try: Option<Time>,
    /// For how long it has been paused since.
    #[sqlx(try_from = "Millis")]
    pub paused: Duration,
    /// 0 for the first fetch; then the number of the refresh.
    #[sqlx(try_from = "i64")]
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

/// The condition on the items of a class. Its codes are bound as [`bind_codes`] binds them.
fn class_condition(class: QueueClass) -> String {
    let codes = [class.artifact.code(), class.lane.code(), i16::from(class.is_retry)];
    let [artifact, lane, is_retry] = codes.map(|code| code + FIRST_CODE);
    format!("w.artifact = ${artifact} and w.lane = ${lane} and w.again = ${is_retry}")
}

/// The placeholder of code 0; those of the codes 1, 2 and 3 follow.
const FIRST_CODE: i16 = 3;

fn bind_codes(stmt: Stmt) -> Stmt {
    (0_i64..4).fold(stmt, Stmt::bind)
}

/// Due items of all classes. One text for all limits: a changed limit must not prepare another
/// statement. SQLite replans a statement when its limit is a parameter with a new value, but not
/// when it is a sum. This statement runs many times a second.
static SELECT_DUE_ITEMS: LazyLock<String> = LazyLock::new(|| {
    let part = |(class, placeholder): (QueueClass, usize)| {
        let class = class_condition(class);
        format!(
            "select w.item, w.account, cast($7 as bigint) as epoch, w.lane, s.segment_id, s.dialog_id, s.ended, w.due, w.tries, w.misses,
             w.refusals, w.first_try, w.paused, w.visit, w.broken, w.alike
             from (select * from work w where w.account = $1 and {class} and w.state = 0 and w.due <= $2
             order by w.due limit ${placeholder} + 0) w join segment s on s.id = w.segment"
        )
    };
    queue_classes(ArtifactSet::ALL).zip(8..).map(part).collect::<Vec<String>>().join(" union all ")
});

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
    /// Only items of these accounts; `None` for all.
    pub accounts: Option<Vec<AccountKey>>,
    /// Only items in these states; all if empty.
    pub states: Vec<ItemState>,
    /// Only items of this segment.
    pub segment_id: Option<String>,
    /// Only this artifact.
    pub artifact: Option<Artifact>,
    /// Only items whose last attempt failed for this reason.
    pub reason: Option<String>,
    /// Maximum number of items; 0 for all.
    pub limit: u32,
}

impl QueueRow {
    /// The name of the state, as in `status`.
    pub fn state_name(&self, now: Time) -> &'static str {
        match self.state {
            ItemState::Open if self.due <= now => "ready",
            ItemState::Open => "waiting",
            ItemState::Unavailable => "unavailable",
            ItemState::Failed => "failed",
            ItemState::Discarded => "discarded",
        }
    }
}

/// A place in the order of the list: the state, the due time and the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// The state's code.
    pub state: i64,
    /// The due time.
    pub due: Time,
    /// The work item.
    pub item: Item,
}

impl From<&QueueRow> for QueuePosition {
    fn from(row: &QueueRow) -> QueuePosition {
        QueuePosition { state: i64::from(row.state.code()), due: row.due, item: row.item }
    }
}

/// An unfinished item, for display.
#[derive(Debug, Clone, sqlx::FromRow)]
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
    #[sqlx(rename = "item", try_from = "CodedItem")]
    pub artifact: Artifact,
    /// The urgency.
    #[sqlx(try_from = "LaneCode")]
    pub lane: Lane,
    /// The state.
    #[sqlx(try_from = "StateCode")]
    pub state: ItemState,
    /// The due time.
    pub due: Time,
    /// Attempts so far.
    #[sqlx(try_from = "i64")]
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
        let wanted = |class: QueueClass| if artifacts.contains(class.artifact) { limit(class) } else { 0 };
        let limits: Vec<usize> = queue_classes(ArtifactSet::ALL).map(wanted).collect();
        if limits.iter().all(|limit| *limit == 0) {
            return Ok(Vec::new());
        }
        let stmt = bind_codes(sql(&SELECT_DUE_ITEMS).bind(lease.account).bind(now)).bind(lease.epoch);
        self.all(limits.into_iter().fold(stmt, Stmt::bind)).await
    }

    /// The earliest due time after `now` among items of these artifacts.
    pub async fn next_due(
        &self,
        account: AccountKey,
        artifacts: ArtifactSet,
        now: Time,
    ) -> Result<Option<Time>, DbError> {
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
        let stmt = bind_codes(Stmt::built(text).bind(account).bind(now));
        Ok(self.value(stmt).await?.flatten())
    }

    /// Undoes the deferral of an artifact's open items. Items without an attempt become due now;
    /// the others when their backoff, which starts with `initial`, would have made them due.
    /// Returns their number.
    pub async fn undo_deferrals(
        &self,
        account: AccountKey,
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
        self.queue_page(filter, None).await
    }

    /// The same after a place in their order.
    pub async fn queue_page(
        &self,
        filter: &QueueFilter,
        after: Option<QueuePosition>,
    ) -> Result<Vec<QueueRow>, DbError> {
        let (mut clause, mut args) = filter.clause();
        if let Some(after) = after {
            let [state, due, item] = [1, 2, 3].map(|nth| args.len() + nth);
            let _ = write!(
                clause,
                " and (w.state < ${state} or (w.state = ${state} and (w.due > ${due} or (w.due = ${due} and w.item > ${item}))))"
            );
            args.extend([Arg::from(after.state), Arg::from(after.due), Arg::from(after.item)]);
        }
        let number = args.len() + 1;
        let limit = if filter.limit == 0 { u32::MAX } else { filter.limit };
        let stmt = Stmt::built(format!(
            "select w.item, a.sub, s.segment_id, s.ended, w.lane, w.state, w.due, w.tries, w.first_try, w.status, w.reason
             from work w join segment s on s.id = w.segment join account a on a.id = w.account
             where {clause} order by w.state desc, w.due, w.item limit ${number}"
        ));
        self.all(args.into_iter().fold(stmt, Stmt::bind).bind(limit)).await
    }

    /// The first bytes of the last response to an item, if it was unusable.
    pub async fn last_body(&self, item: Item) -> Result<Option<Vec<u8>>, DbError> {
        Ok(self.value(sql("select last_body from work where item = $1").bind(item)).await?.flatten())
    }

    /// Makes items due now and resets their retry limits. Discarded items are reopened, and their
    /// reason is cleared. Returns the number of items.
    pub async fn retry_items(&self, filter: &QueueFilter, now: Time) -> Result<u64, DbError> {
        let (clause, args) = filter.clause();
        let number = args.len() + 1;
        let stmt = Stmt::built(format!(
            "update work set state = 0, due = ${number}, tries = 0, again = 0, misses = 0, refusals = 0, broken = 0, alike = 0, first_try = null,
             paused = 0, reason = case when state = 3 then null else reason end, status = case when state = 3 then null else status end
             where item in (select w.item from work w join segment s on s.id = w.segment where {clause})"
        ));
        self.run(args.into_iter().fold(stmt, Stmt::bind).bind(now)).await
    }

    /// Discards items for good. Returns their number. The time tells exports of changes.
    pub async fn discard_items(&self, filter: &QueueFilter, why: &str, now: Time) -> Result<u64, DbError> {
        let (clause, args) = filter.clause();
        let (number, after) = (args.len() + 1, args.len() + 2);
        let stmt = Stmt::built(format!(
            "update work set state = 3, reason = ${number}, last_try = ${after} where item in
             (select w.item from work w join segment s on s.id = w.segment where {clause} and w.state <> 3)"
        ));
        self.run(args.into_iter().fold(stmt, Stmt::bind).bind(why).bind(now)).await
    }
}

impl QueueFilter {
    fn clause(&self) -> (String, Vec<Arg>) {
        let (mut args, mut clause) = (Vec::new(), "w.visit = 0".to_owned());
        let mut add = |condition: &str, values: Vec<Arg>| {
            let names: Vec<String> = (args.len() + 1..).zip(&values).map(|(number, _)| format!("${number}")).collect();
            let _ = write!(clause, " and {condition} in ({})", names.join(","));
            args.extend(values);
        };
        match self.accounts.as_deref() {
            None => {}
            // No account has this key.
            Some([]) => add("w.account", vec![AccountKey::ALL.into()]),
            Some(accounts) => add("w.account", accounts.iter().map(|account| (*account).into()).collect()),
        }
        if let Some(segment) = &self.segment_id {
            add("s.segment_id", vec![segment.into()]);
        }
        if let Some(artifact) = self.artifact {
            add("w.artifact", vec![artifact.code().into()]);
        }
        if let Some(reason) = &self.reason {
            add("w.reason", vec![reason.into()]);
        }
        if !self.states.is_empty() {
            add("w.state", self.states.iter().map(|state| state.code().into()).collect());
        }
        (clause, args)
    }
}
