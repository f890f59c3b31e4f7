//! The context of a history: the simulated API, the clock, the database, and the reference model.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use ringcx_extractor::backoff::{Backoff, Fault};
use ringcx_extractor::clock::{Clock, Tick, Time};
use ringcx_extractor::coverage::PlanningRules;
use ringcx_extractor::db::{AccountKey, Db, DbError, DbFault, Lease, OpenMode, ReplicaRow, Stmt, sql};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::ringcx::rate_limit::{Pacer, Permit, ReservationStore, SlidingWindowLimiter, StoreError};
use ringcx_extractor::ringcx::{ApiClient, ApiError, ApiHosts, ErrorCause};
use secrecy::{ExposeSecret as _, SecretString};

use super::reference_model::{InvariantViolation, ReferenceModel};
use super::simulated_api::{START, SimulatedApi};

pub const REQUESTS_PER_MINUTE: u32 = 30;
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_PERMIT_WAIT: Duration = Duration::from_secs(5);
pub const RECHECK_DELAY: Duration = Duration::from_secs(1800);

/// A fault injected into the driver, to test whether the reference model notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverFault {
    /// One result of a batch counts as committed, but was not.
    LostCommit,
    /// An item in flight is dispatched again.
    DoubledClaim,
    /// A window is recorded as read, but nothing of it was stored.
    SkippedWindow,
    /// A truncated answer counts as complete.
    HalfAnswer,
    /// A previous owner's late results are written under the new owner's epoch.
    ForgedEpoch,
    /// A fault of the account counts as a failed attempt of the item.
    AccountFaultChargedToItem,
    /// Metadata is requested without a reservation.
    NoReservation,
    /// A committed result is stored again with another text.
    DoubledResult,
}

/// Why an operation ended early.
#[derive(Debug)]
pub enum Interruption {
    Violation(InvariantViolation),
    /// The process died, as the operation demands.
    ProcessDied,
    /// The account has another owner.
    LeaseLost,
    DatabaseAway,
}

impl From<InvariantViolation> for Interruption {
    fn from(violation: InvariantViolation) -> Interruption {
        Interruption::Violation(violation)
    }
}

impl From<DbError> for Interruption {
    fn from(error: DbError) -> Interruption {
        match error.fault() {
            DbFault::LeaseLost => Interruption::LeaseLost,
            _ if error.is_transient() => Interruption::DatabaseAway,
            _ => Interruption::Violation(error.into()),
        }
    }
}

/// How often each kind of event happened.
#[derive(Debug, Default, Clone)]
pub struct EventCounts(pub BTreeMap<&'static str, u64>);

impl EventCounts {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn merge(&mut self, other: &EventCounts) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }
}

#[derive(Clone)]
enum DatabaseLocation {
    File(PathBuf),
    Server(SecretString),
}

impl DatabaseLocation {
    async fn open(&self, access: OpenMode) -> Result<Db, DbError> {
        match self {
            DatabaseLocation::File(path) => Db::open_sqlite(path, access).await,
            DatabaseLocation::Server(url) => Db::open_postgres(url, access, 2).await,
        }
    }
}

/// The database, open or unavailable. A process keeps its memory while the database is opened again.
#[derive(Clone)]
pub struct SharedDatabase {
    location: DatabaseLocation,
    db: Arc<Mutex<Db>>,
    /// The clock and start of the current history: a server's clock shows its true time.
    time: Arc<Mutex<Option<(Clock, Tick)>>>,
}

/// Replaces a server's clock by one that shows the time in a table.
const TOLD_CLOCK_SQL: [&str; 3] = [
    "create table told_time (at bigint not null)",
    "insert into told_time (at) values (0)",
    "create function public.clock_timestamp() returns timestamptz language sql volatile as
     $$ select pg_catalog.to_timestamp(at / 1000.0) from public.told_time $$",
];

impl SharedDatabase {
    pub async fn open_file(path: PathBuf) -> Result<SharedDatabase, DbError> {
        SharedDatabase::open(DatabaseLocation::File(path)).await
    }

    pub async fn open_server(url: SecretString) -> Result<SharedDatabase, DbError> {
        let name = url.expose_secret().split('?').next().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        let path = format!("alter database {name} set search_path = public, pg_catalog");
        let database = SharedDatabase::open(DatabaseLocation::Server(url)).await?;
        for text in TOLD_CLOCK_SQL {
            database.db().run(sql(text)).await?;
        }
        database.db().run(Stmt::built(path)).await?;
        database.reopen().await?;
        Ok(database)
    }

    async fn open(location: DatabaseLocation) -> Result<SharedDatabase, DbError> {
        let db = location.open(OpenMode::CreateOrMigrate).await?;
        Ok(SharedDatabase { location, db: Arc::new(Mutex::new(db)), time: Arc::default() })
    }

    pub fn db(&self) -> Db {
        self.db.lock().unwrap().clone()
    }

    /// Makes the database unavailable.
    pub async fn close(&self) {
        self.db().close().await;
    }

    pub async fn reopen(&self) -> Result<(), DbError> {
        self.close().await;
        let db = self.location.open(OpenMode::Existing).await?;
        *self.db.lock().unwrap() = db;
        Ok(())
    }

    /// Makes a server's clock show this history's true time from now on.
    fn use_clock_of(&self, clock: &Clock, began: Tick) {
        *self.time.lock().unwrap() = Some((clock.clone(), began));
    }

    /// Sets a server's clock and returns the database, for calls that use the database's clock.
    pub async fn db_with_clock(&self) -> Result<Db, DbError> {
        let db = self.db();
        let time = self.time.lock().unwrap().clone();
        if let (DatabaseLocation::Server(_), Some((clock, began))) = (&self.location, time) {
            let true_time = START + clock.tick().since(began);
            db.run(sql("update told_time set at = $1").bind(true_time)).await?;
        }
        Ok(db)
    }
}

impl ReservationStore for SharedDatabase {
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a SlidingWindowLimiter,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        Box::pin(
            async move { self.db_with_clock().await.map_err(StoreError::from)?.try_reserve(key, limits, now).await },
        )
    }

    fn mark_counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.db_with_clock().await.map_err(StoreError::from)?.mark_counted(id, at).await })
    }

    fn effective_times<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        let db = self.db();
        Box::pin(async move { db.effective_times(key, since).await })
    }
}

pub struct RunContext {
    pub api: SimulatedApi,
    pub clock: Clock,
    began: Tick,
    pub database: SharedDatabase,
    pub model: ReferenceModel,
    pub events: EventCounts,
    pub rng: StdRng,
    pub fault: Option<DriverFault>,
    pub account: AccountKey,
    pub sub: String,
    pub rules: PlanningRules,
    pub backoff: Backoff,
    /// The error of the API's `Date` in milliseconds.
    pub date_error_ms: i64,
    /// When the wall clock was last set.
    pub clock_set_at: Option<Tick>,
    /// An error to copy, because `ApiError` has no public constructor.
    error_template: ApiError,
    /// The replica that acquired the account in the middle of an operation.
    pub successor: Option<(String, Lease)>,
    name_count: u32,
}

impl RunContext {
    pub async fn new(
        database: SharedDatabase,
        sub: String,
        api: SimulatedApi,
        rng: StdRng,
        fault: Option<DriverFault>,
    ) -> Result<RunContext, InvariantViolation> {
        let clock = Clock::manual(START);
        let account = database.db().register_account(&AccountId::new("1", sub.as_str()), None, START).await?.key;
        let sliding = vec![(3, Duration::from_secs(60)), (9, Duration::from_secs(900))];
        let rules = PlanningRules {
            window: Duration::from_secs(900),
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(900),
            max_window: Duration::from_secs(3600),
            limits: SlidingWindowLimiter::new(sliding.clone()),
            retention: None,
        };
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let backoff = Backoff::new(Duration::from_secs(15), minutes(20), minutes(70));
        let hosts = ApiHosts { platform: String::new(), ringcx: String::new(), summary: String::new() };
        let Err(error_template) = ApiClient::new(hosts, minutes(1), clock.clone()) else {
            return Err(InvariantViolation("an API without hosts".to_owned()));
        };
        Ok(RunContext {
            api,
            began: clock.tick(),
            clock,
            model: ReferenceModel::new(account, &sub, REQUESTS_PER_MINUTE as usize, sliding),
            database,
            events: EventCounts::default(),
            rng,
            fault,
            account,
            sub,
            rules,
            backoff: backoff.map_err(|error| InvariantViolation(error.to_string()))?,
            date_error_ms: 0,
            clock_set_at: None,
            error_template,
            successor: None,
            name_count: 0,
        })
    }

    pub fn db(&self) -> Db {
        self.database.db()
    }

    /// The database, for calls that use its clock.
    pub async fn db_with_clock(&self) -> Result<Db, DbError> {
        self.database.db_with_clock().await
    }

    /// Makes the database's clock, if it has one, show this history's true time from now on.
    pub fn use_own_clock(&self) {
        self.database.use_clock_of(&self.clock, self.began);
    }

    /// The true time, whatever the wall clock shows.
    pub fn true_time(&self) -> Time {
        START + self.clock.tick().since(self.began)
    }

    /// The time that the API shows in its answers.
    pub fn api_time(&self) -> Time {
        self.true_time().plus_millis(self.date_error_ms)
    }

    pub fn has_fault(&self, fault: DriverFault) -> bool {
        self.fault == Some(fault)
    }

    /// The wall clock's error in milliseconds.
    pub fn clock_error_ms(&self) -> i64 {
        self.clock.now().0 - self.true_time().0
    }

    /// Sets the wall clock.
    pub fn set_clock_error(&mut self, error_ms: i64) {
        if error_ms != self.clock_error_ms() {
            self.clock.step(error_ms - self.clock_error_ms());
            self.clock_set_at = Some(self.clock.tick());
        }
    }

    /// Waits for a permit, unless that takes longer than `MAX_PERMIT_WAIT`.
    pub fn wait_for_permit(&self, pacer: &Pacer) -> Option<Permit> {
        let due = match pacer.try_acquire() {
            Ok(permit) => return Some(permit),
            Err(due) => due.since(self.clock.tick()),
        };
        if due > MAX_PERMIT_WAIT {
            return None;
        }
        self.clock.advance(due);
        pacer.try_acquire().ok()
    }

    /// A replica name that was not used before.
    pub fn new_replica_name(&mut self) -> String {
        self.name_count += 1;
        format!("{}-{}", self.sub, self.name_count)
    }

    pub async fn write_heartbeat(&self, name: &str, released: bool) -> Result<(), DbError> {
        let now = self.clock.now();
        let row = ReplicaRow {
            name: name.to_owned(),
            version: String::new(),
            started: now,
            heartbeat: now,
            released: released.then_some(now),
            stats: String::new(),
        };
        self.db_with_clock().await?.record_heartbeat(&row, now).await.map(drop)
    }

    pub async fn acquire_lease(&self, name: &str) -> Result<Option<Lease>, DbError> {
        let now = self.clock.now();
        Ok(self.db_with_clock().await?.acquire_leases(&[self.account], name, LEASE_TIMEOUT, now).await?.pop())
    }

    /// Lets the owner's lease expire, and has another replica acquire the account.
    pub async fn take_over(&mut self) -> Result<(), Interruption> {
        self.clock.advance(LEASE_TIMEOUT + Duration::from_secs(1));
        let name = self.new_replica_name();
        self.write_heartbeat(&name, false).await?;
        let owned = self.acquire_lease(&name).await?;
        // After the clock was set back, the owner seems alive for longer, and nobody takes over yet.
        if let Some(owned) = owned {
            self.events.count("take-overs after a lease expired");
            self.successor = Some((name, owned));
        }
        Ok(())
    }

    /// The error that the API client returns for a failure.
    pub fn api_error(&self, fault: Fault, endpoint: Endpoint, cause: ErrorCause, status: Option<u16>) -> ApiError {
        let mut error = self.error_template.clone();
        (error.fault, error.endpoint, error.cause, error.status) = (fault, endpoint, cause, status);
        error.message = format!("failed at {endpoint}: {fault:?}, {cause:?}");
        error
    }

    /// The error that the API client returns for a status.
    pub fn status_error(&self, endpoint: Endpoint, status: u16) -> ApiError {
        let fault = match status {
            401 => Fault::Unauthorised,
            403 => Fault::Forbidden,
            404 => Fault::NotYet,
            429 => Fault::RateLimited,
            500.. => Fault::Transient,
            _ => Fault::Permanent,
        };
        self.api_error(fault, endpoint, ErrorCause::Answered, Some(status))
    }
}
