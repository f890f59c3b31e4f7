//! The work table: what is due, when something next will be, and what people do with items by hand.

use std::time::Duration;

use super::{Arg, Db, DbError, Item, Owned, Row, Stmt, sql};
use crate::clock::{Time, millis};
use crate::model::{Artifact, ArtifactSet, Lane, State};

/// Clocks of replicas may differ by so much without any of them being wrong.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The right to try one item, in the name of an ownership. Nothing is written when it is taken: who owns the account
/// works its items, and a result is accepted only from the epoch that still holds. Settling consumes it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Which item.
    pub item: Item,
    /// In whose name.
    pub owned: Owned,
    /// Which artifact.
    pub artifact: Artifact,
    /// How urgent.
    pub lane: Lane,
    /// The segment's id in RingCX.
    pub segment_id: String,
    /// The dialog's id in RingCX.
    pub dialog_id: Option<String>,
    /// When the segment ended.
    pub ended: Time,
    /// When it is, or was, due.
    pub due: Time,
    /// Tries so far.
    pub tries: u32,
    /// Among them, answers of 404 or like it.
    pub misses: u32,
    /// Among them, answers that asking again will hardly change.
    pub refusals: u32,
    /// How the last answer was broken; 0 where it was not.
    pub broken: u32,
    /// How many in a row were broken like it.
    pub alike: u32,
    /// When it was first tried.
    pub first_try: Option<Time>,
    /// How long it was paused since.
    pub paused: Duration,
    /// 0 until it has been answered; then which visit this is.
    pub visit: u32,
}

/// A kind of item, handed out in order of due time: artifact, lane, and whether it was tried before.
pub type Class = (Artifact, Lane, bool);

/// All classes of some artifacts: the parts of the index on what is due.
pub fn classes(artifacts: ArtifactSet) -> impl Iterator<Item = Class> {
    artifacts.iter().flat_map(|artifact| {
        Lane::ALL.into_iter().flat_map(move |lane| [false, true].map(|again| (artifact, lane, again)))
    })
}

fn of_class((artifact, lane, again): Class) -> String {
    format!("w.artifact = {} and w.lane = {} and w.again = {}", artifact.code(), lane.code(), i32::from(again))
}

const CLAIM: &str = "w.item, w.lane, s.segment_id, s.dialog_id, s.ended, w.due, w.tries, w.misses, w.refusals, w.first_try, w.paused, w.visit, w.broken, w.alike";

fn claim(owned: Owned, row: &Row) -> Result<Claim, DbError> {
    let item = Item(row.int(0)?);
    let small = |index: usize| -> Result<u32, DbError> { Ok(u32::try_from(row.int(index)?).unwrap_or(u32::MAX)) };
    Ok(Claim {
        item,
        owned,
        artifact: item.known_artifact("work.item")?,
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
        broken: small(12)?,
        alike: small(13)?,
    })
}

/// How long anything waits at the most that was put off by a clock that was right.
#[derive(Debug, Clone, Copy)]
pub struct LongestWaits {
    /// What is still to be answered.
    pub retry: Duration,
    /// What has been answered, and is asked for once more.
    pub revisit: Duration,
}

/// Which items a person asks about.
#[derive(Debug, Clone, Default)]
pub struct QueueFilter {
    /// Only of this account.
    pub account: Option<i64>,
    /// Only in these states; all if empty.
    pub states: Vec<State>,
    /// Only of this segment.
    pub segment_id: Option<String>,
    /// Only this artifact.
    pub artifact: Option<Artifact>,
    /// At most so many; 0 for all.
    pub limit: u32,
}

/// An unfinished item, for people.
#[derive(Debug, Clone)]
pub struct QueueRow {
    /// Which item.
    pub item: Item,
    /// The sub-account.
    pub sub: String,
    /// The segment's id in RingCX.
    pub segment_id: String,
    /// When the segment ended.
    pub ended: Time,
    /// Which artifact.
    pub artifact: Artifact,
    /// How urgent.
    pub lane: Lane,
    /// Where it stands.
    pub state: State,
    /// When it is due.
    pub due: Time,
    /// Tries so far.
    pub tries: u32,
    /// When it was first tried.
    pub first_try: Option<Time>,
    /// The last answer's status.
    pub status: Option<i64>,
    /// Why the last try failed.
    pub reason: Option<String>,
}

impl Db {
    /// Up to `most` items of each lane, first tries and retries apart, that are due, the earliest first; only of
    /// `artifacts`.
    pub async fn due(
        &self,
        owned: Owned,
        artifacts: ArtifactSet,
        now: Time,
        most: usize,
    ) -> Result<Vec<Claim>, DbError> {
        self.due_of_each(owned, artifacts, now, |_| most).await
    }

    /// As [`Db::due`], with what is wanted of each class at the most; one of which nothing is wanted costs nothing.
    pub async fn due_of_each(
        &self,
        owned: Owned,
        artifacts: ArtifactSet,
        now: Time,
        most: impl Fn(Class) -> usize,
    ) -> Result<Vec<Claim>, DbError> {
        let most: Vec<usize> = classes(artifacts).map(most).collect();
        if most.iter().all(|most| *most == 0) {
            return Ok(Vec::new());
        }
        // One text whatever is wanted: a limit that changes is no new statement. SQLite plans a statement anew
        // when a bare bound limit changes, and this one runs many times a second; a sum is not looked at.
        let parts: Vec<String> = classes(artifacts)
            .zip(3..)
            .map(|(class, limit)| {
                let class = of_class(class);
                format!(
                    "select {CLAIM} from (select * from work w where w.account = $1 and {class} and w.state = 0 and w.due <= $2
                     order by w.due limit ${limit} + 0) w join segment s on s.id = w.segment"
                )
            })
            .collect();
        let mut stmt = Stmt::built(parts.join(" union all ")).bind(owned.account).bind(now);
        for most in most {
            stmt = stmt.bind(most);
        }
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| claim(owned, row)).collect()
    }

    /// When the next item of `artifacts` that is not due yet will be.
    pub async fn next_due(&self, account: i64, artifacts: ArtifactSet, now: Time) -> Result<Option<Time>, DbError> {
        if artifacts.is_empty() {
            return Ok(None);
        }
        let parts: Vec<String> = classes(artifacts)
            .map(|class| {
                let class = of_class(class);
                format!("select (select min(w.due) from work w where w.account = $1 and {class} and w.state = 0 and w.due > $2) as due")
            })
            .collect();
        let text = format!("select min(due) from ({}) earliest", parts.join(" union all "));
        let row = self.first(Stmt::built(text).bind(account).bind(now)).await?;
        Ok(row.map(|row| row.maybe_time(0)).transpose()?.flatten())
    }

    /// Takes back that open items of one artifact were put off untried: those never tried are due, the others when their
    /// backoff, which begins with `initial`, would have had them tried; returns how many.
    pub async fn undefer(
        &self,
        account: i64,
        artifact: Artifact,
        now: Time,
        initial: Duration,
    ) -> Result<u64, DbError> {
        // Beyond 20 tries the backoff has long reached what an item is put off for.
        const DUE: &str = "case when tries = 0 or last_try is null then $3
             else last_try + $4 * (1 << cast(case when tries between 1 and 20 then tries - 1 else 20 end as integer)) end";
        let stmt = Stmt::built(format!(
            "update work set due = case when {DUE} > $3 then {DUE} else $3 end
             where account = $1 and artifact = $2 and state = 0 and due > $3 and due > {DUE} and visit = 0"
        ));
        self.run(stmt.bind(account).bind(artifact.code()).bind(now).bind(millis(initial))).await
    }

    /// Takes back that work was put off by a clock that was ahead, as whose rows are known that were written, or are due, later
    /// than can be: by no clock is it later than `latest`. They wait on as if it had been `now` when they were written. So too
    /// for records set aside, and for events that did not go through. Returns how many rows that were.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now.
    pub async fn release_parked(
        &self,
        owned: Owned,
        now: Time,
        latest: Time,
        longest: LongestWaits,
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
        tx.hold(owned).await?;
        let stmt = Stmt::built(work).bind(owned.account).bind(now).bind(latest + CLOCK_TOLERANCE);
        let mut released = tx.run(stmt.bind(millis(longest.retry)).bind(millis(longest.revisit))).await?;
        for stmt in [
            // A later read settles only what was last seen before it.
            "update aside set last_seen = $2, due = $2 where account = $1 and resolved is null and last_seen > $3",
            "update sink_event set first_try = case when first_try > $2 then $2 else first_try end, last_try = $2, due = $2
             where account = $1 and state = 0 and last_try > $3",
        ] {
            let stmt = sql(stmt).bind(owned.account).bind(now).bind(latest + CLOCK_TOLERANCE);
            released += tx.run(stmt).await?;
        }
        tx.commit().await?;
        Ok(released)
    }

    /// Items that are not finished, for people: what gave up first, then by due time.
    pub async fn queue(&self, filter: &QueueFilter) -> Result<Vec<QueueRow>, DbError> {
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
                artifact: item.known_artifact("work.item")?,
                lane: row.code(4, ("work.lane", item.0), Lane::from_code)?,
                state: row.code(5, ("work.state", item.0), State::from_code)?,
                due: row.time(6)?,
                tries: u32::try_from(row.int(7)?).unwrap_or(u32::MAX),
                first_try: row.maybe_time(8)?,
                status: row.maybe_int(9)?,
                reason: row.maybe_text(10)?,
            });
        }
        Ok(items)
    }

    /// How the last answer to an item began, where it could not be used.
    pub async fn last_body(&self, item: Item) -> Result<Option<Vec<u8>>, DbError> {
        let row = self.first(sql("select last_body from work where item = $1").bind(item.0)).await?;
        row.map_or(Ok(None), |row| row.maybe_bytes(0))
    }

    /// Makes items due at once, with their horizon counted afresh; returns how many. Discarded ones are revived too, and why they
    /// were discarded is no longer what is said of them.
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

    /// Gives items up for good; returns how many.
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

    /// Whether an account has anything that is due; cheap, for waking up after a person changed the queue.
    pub async fn has_due(&self, account: i64, now: Time) -> Result<bool, DbError> {
        let stmt = sql("select 1 from work where account = $1 and state = 0 and due <= $2 limit 1");
        Ok(self.first(stmt.bind(account).bind(now)).await?.is_some())
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
