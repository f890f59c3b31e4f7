//! What a history plays in: the world, the time, the database's file, and the model that watches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use ringcx_extractor::backoff::{Backoff, Fault};
use ringcx_extractor::clock::{Clock, Tick, Time};
use ringcx_extractor::coverage::Rules;
use ringcx_extractor::db::{Access, Db, DbError, DbFault, Owned, ReplicaRow, Stmt, sql};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::ringcx::limits::{Pacer, Permit, ReserveStore, Sliding, StoreError};
use ringcx_extractor::ringcx::{Api, ApiError, Cause, Hosts};
use secrecy::{ExposeSecret as _, SecretString};

use super::model::{Broken, Model};
use super::world::{START, World};

/// Requests a minute.
pub const PER_MINUTE: u32 = 30;
/// How long a replica may be silent before it counts as gone.
pub const LAPSE: Duration = Duration::from_secs(10);
/// How long a step waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// After how long a stretch is read again.
pub const RECHECK: Duration = Duration::from_secs(1800);

/// A fault put into the driver on purpose, to see whether the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// One result in so many is taken for committed and never was.
    LostCommit,
    /// What is under way is handed out again.
    DoubledClaim,
    /// A window is recorded as read, and nothing of it was stored.
    SkippedWindow,
    /// An answer that broke off counts as whole.
    HalfAnswer,
    /// An earlier owner's late results are written in the new owner's name.
    ForgedEpoch,
    /// A fault of the account's is settled as if it were the item's.
    BurntTries,
    /// Metadata is asked for without a reservation.
    NoReservation,
    /// A counted result is stored again with another text.
    DoubledResult,
}

/// Why an operation ended early.
#[derive(Debug)]
pub enum Stop {
    Broken(Broken),
    /// The process died, as its luck would have it.
    Died,
    /// The account has another owner.
    Lost,
    /// The database is away.
    Away,
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        Stop::Broken(broken)
    }
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Stop {
        match error.fault() {
            DbFault::Lost => Stop::Lost,
            _ if error.is_passing() => Stop::Away,
            _ => Stop::Broken(error.into()),
        }
    }
}

/// How often what happened.
#[derive(Debug, Default, Clone)]
pub struct Seen(pub BTreeMap<&'static str, u64>);

impl Seen {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn merge(&mut self, other: &Seen) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }
}

/// Where a database is.
#[derive(Clone)]
enum Place {
    File(PathBuf),
    Server(SecretString),
}

impl Place {
    async fn open(&self, access: Access) -> Result<Db, DbError> {
        match self {
            Place::File(path) => Db::open_sqlite(path, access).await,
            Place::Server(url) => Db::open_postgres(url, access, 2).await,
        }
    }
}

/// The database, open or away. A process keeps its memory while it is opened anew.
#[derive(Clone)]
pub struct Shelf {
    place: Place,
    db: Arc<Mutex<Db>>,
    /// Whose time a server's clock shows: the true one of the history that plays.
    time: Arc<Mutex<Option<(Clock, Tick)>>>,
}

/// A server's clock that shows what it is told, in the way of the one that it has.
const CLOCK: [&str; 3] = [
    "create table told_time (at bigint not null)",
    "insert into told_time (at) values (0)",
    "create function public.clock_timestamp() returns timestamptz language sql volatile as
     $$ select pg_catalog.to_timestamp(at / 1000.0) from public.told_time $$",
];

impl Shelf {
    pub async fn file(path: PathBuf) -> Result<Shelf, DbError> {
        Shelf::open(Place::File(path)).await
    }

    pub async fn server(url: SecretString) -> Result<Shelf, DbError> {
        let name = url.expose_secret().rsplit('/').next().and_then(|end| end.split('?').next()).unwrap_or_default();
        let path = format!("alter database {name} set search_path = public, pg_catalog");
        let shelf = Shelf::open(Place::Server(url)).await?;
        for text in CLOCK {
            shelf.db().run(sql(text)).await?;
        }
        shelf.db().run(Stmt::built(path)).await?;
        shelf.reopen().await?;
        Ok(shelf)
    }

    async fn open(place: Place) -> Result<Shelf, DbError> {
        let db = place.open(Access::Own).await?;
        Ok(Shelf { place, db: Arc::new(Mutex::new(db)), time: Arc::default() })
    }

    pub fn db(&self) -> Db {
        self.db.lock().unwrap().clone()
    }

    /// Takes the database away.
    pub async fn close(&self) {
        self.db().close().await;
    }

    pub async fn reopen(&self) -> Result<(), DbError> {
        self.close().await;
        let db = self.place.open(Access::Existing).await?;
        *self.db.lock().unwrap() = db;
        Ok(())
    }

    /// Whose time it is from now on.
    fn show(&self, clock: &Clock, began: Tick) {
        *self.time.lock().unwrap() = Some((clock.clone(), began));
    }

    /// The same database, for whatever goes by its clock, which is set before.
    pub async fn timed(&self) -> Result<Db, DbError> {
        let db = self.db();
        let time = self.time.lock().unwrap().clone();
        if let (Place::Server(_), Some((clock, began))) = (&self.place, time) {
            let truth = START + clock.tick().since(began);
            db.run(sql("update told_time set at = $1").bind(truth)).await?;
        }
        Ok(db)
    }
}

impl ReserveStore for Shelf {
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a Sliding,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        Box::pin(async move { self.timed().await.map_err(StoreError::from)?.try_reserve(key, limits, now).await })
    }

    fn counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.timed().await.map_err(StoreError::from)?.counted(id, at).await })
    }

    fn log<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        let db = self.db();
        Box::pin(async move { db.log(key, since).await })
    }
}

pub struct Scene {
    pub world: World,
    pub clock: Clock,
    began: Tick,
    pub shelf: Shelf,
    pub model: Model,
    pub seen: Seen,
    pub chance: StdRng,
    pub plant: Option<Plant>,
    pub account: i64,
    pub sub: String,
    pub rules: Rules,
    pub backoff: Backoff,
    /// When the wall clock was last set.
    pub stepped: Option<Tick>,
    error: ApiError,
    /// Who took the account over in the middle of an operation.
    pub successor: Option<(String, Owned)>,
    names: u32,
}

impl Scene {
    pub async fn new(
        shelf: Shelf,
        sub: String,
        world: World,
        chance: StdRng,
        plant: Option<Plant>,
    ) -> Result<Scene, Broken> {
        let clock = Clock::manual(START);
        let account = shelf.db().enrol(&AccountId::new("1", sub.as_str()), None, START).await?.key;
        let sliding = vec![(3, Duration::from_secs(60)), (9, Duration::from_secs(900))];
        let rules = Rules {
            window: Duration::from_secs(900),
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(900),
            max_window: Duration::from_secs(3600),
            sliding: Sliding::new(sliding.clone()),
            retention: None,
        };
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let backoff = Backoff::new(Duration::from_secs(15), minutes(20), minutes(70));
        let hosts = Hosts { platform: String::new(), ringcx: String::new(), summary: String::new() };
        let Err(error) = Api::new(hosts, minutes(1), clock.clone()) else {
            return Err(Broken("an API without hosts".to_owned()));
        };
        Ok(Scene {
            world,
            began: clock.tick(),
            clock,
            model: Model::new(account, &sub, PER_MINUTE as usize, sliding),
            shelf,
            seen: Seen::default(),
            chance,
            plant,
            account,
            sub,
            rules,
            backoff: backoff.map_err(|error| Broken(error.to_string()))?,
            stepped: None,
            error,
            successor: None,
            names: 0,
        })
    }

    pub fn db(&self) -> Db {
        self.shelf.db()
    }

    /// The database for what goes by its clock.
    pub async fn timed(&self) -> Result<Db, DbError> {
        self.shelf.timed().await
    }

    /// From now on the database's clock, where it has one, shows this history's true time.
    pub fn show_time(&self) {
        self.shelf.show(&self.clock, self.began);
    }

    /// What time it really is, whatever the wall clock shows.
    pub fn truth(&self) -> Time {
        START + self.clock.tick().since(self.began)
    }

    pub fn planted(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// How wrong the wall clock is, in milliseconds.
    pub fn error_of_clock(&self) -> i64 {
        self.clock.now().0 - self.truth().0
    }

    /// Waits for its turn, unless that takes long.
    pub fn permit(&self, pacer: &Pacer) -> Option<Permit> {
        let due = match pacer.try_enter() {
            Ok(permit) => return Some(permit),
            Err(due) => due.since(self.clock.tick()),
        };
        if due > PATIENCE {
            return None;
        }
        self.clock.advance(due);
        pacer.try_enter().ok()
    }

    /// A name that no process had.
    pub fn new_name(&mut self) -> String {
        self.names += 1;
        format!("{}-{}", self.sub, self.names)
    }

    pub async fn beat(&self, name: &str, released: bool) -> Result<(), DbError> {
        let now = self.clock.now();
        let row = ReplicaRow {
            name: name.to_owned(),
            version: String::new(),
            started: now,
            heartbeat: now,
            released: released.then_some(now),
            stats: String::new(),
        };
        self.timed().await?.beat(&row, now).await.map(drop)
    }

    pub async fn take(&self, name: &str) -> Result<Option<Owned>, DbError> {
        let now = self.clock.now();
        Ok(self.timed().await?.take(&[self.account], name, LAPSE, now).await?.pop())
    }

    /// The owner has fallen silent, and another replica takes the account.
    pub async fn take_over(&mut self) -> Result<(), Stop> {
        self.clock.advance(LAPSE + Duration::from_secs(1));
        let name = self.new_name();
        self.beat(&name, false).await?;
        let owned = self.take(&name).await?;
        // A clock that was set back makes the silent one seem alive for longer: then nobody takes over yet.
        if let Some(owned) = owned {
            self.seen.count("takeovers of a silent owner's account");
            self.successor = Some((name, owned));
        }
        Ok(())
    }

    /// What the API's client makes of a failure.
    pub fn error(&self, fault: Fault, endpoint: Endpoint, cause: Cause, status: Option<u16>) -> ApiError {
        let mut error = self.error.clone();
        (error.fault, error.endpoint, error.cause, error.status) = (fault, endpoint, cause, status);
        error.message = format!("failed at {endpoint}: {fault:?}, {cause:?}");
        error
    }

    /// What the API's client makes of a status.
    pub fn status(&self, endpoint: Endpoint, status: u16) -> ApiError {
        let fault = match status {
            401 => Fault::Unauthorised,
            403 => Fault::Forbidden,
            404 => Fault::NotYet,
            429 => Fault::RateLimited,
            500.. => Fault::Transient,
            _ => Fault::Permanent,
        };
        self.error(fault, endpoint, Cause::Answered, Some(status))
    }
}
