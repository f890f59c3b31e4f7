//! What all connections share: the world, the books kept of it, and the switches a test turns.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use axum::http::HeaderValue;

use super::chance::Dice;
use super::faults::{Fate, Faults};
use super::limits::{Metadata, Requests, Window, admit};
use super::options::{Credentials, Options, Scope};
use super::segment::{Segment, Version};
use super::stats::Recorder;
use super::tokens::TokenStore;
use super::world::{Account, Key, World};
use crate::clock::{Clock, Tick, Time};
use crate::model::{Artifact, Endpoint};

/// One simulator's state.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) clock: Clock,
    pub(super) world: World,
    pub(super) tokens: TokenStore,
    pub(super) stats: Recorder,
    pub(super) book: Mutex<Book>,
    pub(super) credentials: RwLock<Credentials>,
    pub(super) hidden: RwLock<HashSet<String>>,
    pub(super) refuse_tokens: AtomicBool,
    skew_ms: AtomicI64,
    faults: RwLock<Arc<Faults>>,
    budgets: Mutex<Budgets>,
    date: Mutex<(i64, HeaderValue)>,
}

/// What was served.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) announced: HashMap<Key, Announced>,
    pub(super) items: HashMap<(Key, Artifact), Item>,
    tries: HashMap<(Endpoint, u32), u32>,
}

/// A segment that metadata has told of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced {
    pub(super) first: Time,
    pub(super) version: Version,
    pub(super) ever_transcribed: bool,
}

/// An artifact that was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Item {
    tries: u32,
    pub(super) served: u32,
}

struct Budgets {
    requests: HashMap<u32, Requests>,
    metadata: HashMap<u32, Metadata>,
    exchanges: Window,
    /// With the login that each goes back to.
    arrivals: HashMap<u32, Vec<(Tick, u64)>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(options: Options, clock: Clock) -> Shared {
        let begin = options.begin.unwrap_or_else(|| clock.now().plus_millis(options.skew_ms));
        let world = World::new(options.seed, options.traffic.clone(), options.availability.clone(), begin);
        for account in &options.accounts {
            world.add_account(account);
        }
        let exchanges = Window::new(options.limits.exchanges_per_minute, Duration::from_secs(60));
        Shared {
            world,
            tokens: TokenStore::new(options.seed, options.tokens.clone()),
            stats: Recorder::default(),
            book: Mutex::default(),
            credentials: RwLock::new(options.credentials.clone()),
            hidden: RwLock::default(),
            refuse_tokens: AtomicBool::new(false),
            skew_ms: AtomicI64::new(options.skew_ms),
            faults: RwLock::new(Arc::new(options.faults.clone())),
            budgets: Mutex::new(Budgets {
                requests: HashMap::new(),
                metadata: HashMap::new(),
                exchanges,
                arrivals: HashMap::new(),
            }),
            date: Mutex::new((i64::MIN, HeaderValue::from_static(""))),
            options,
            clock,
        }
    }

    /// The server's wall clock.
    pub(super) fn now(&self) -> Time {
        self.clock.now().plus_millis(self.skew_ms.load(Ordering::Relaxed))
    }

    pub(super) fn set_skew(&self, millis: i64) {
        self.skew_ms.store(millis, Ordering::Relaxed);
    }

    pub(super) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.faults.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut faults));
    }

    pub(super) fn is_hidden(&self, account: &Account) -> bool {
        self.hidden.read().unwrap_or_else(PoisonError::into_inner).contains(&*account.id.sub)
    }

    pub(super) fn credentials(&self) -> RwLockReadGuard<'_, Credentials> {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the arrival of a request for an account; `Err` says how long there will be no room for it.
    pub(super) fn admit(&self, account: &Account, metadata: bool, login: u64) -> Result<(), Duration> {
        let limits = &self.options.limits;
        let mut budgets = lock(&self.budgets);
        // Within the lock, so that arrivals are in order.
        let now = self.clock.tick();
        let budgets = &mut *budgets;
        let owner = if limits.scope == Scope::Login { 0 } else { account.number };
        let requests = budgets.requests.entry(owner).or_insert_with(|| Requests::new(limits, now.0));
        let metadata =
            metadata.then(|| budgets.metadata.entry(account.number).or_insert_with(|| Metadata::new(limits, now.0)));
        let admitted = admit(requests, metadata, now.0);
        if self.options.keep_arrivals {
            budgets.arrivals.entry(account.number).or_default().push((now, login));
        }
        admitted
    }

    /// Counts the arrival of an exchange or Engage login.
    pub(super) fn admit_exchange(&self) -> Result<(), Duration> {
        let mut budgets = lock(&self.budgets);
        let now = self.clock.tick();
        budgets.exchanges.admit(now.0, self.options.limits.count_refused)
    }

    pub(super) fn peak(&self) -> usize {
        lock(&self.budgets).requests.values().map(Requests::peak).max().unwrap_or(0)
    }

    pub(super) fn arrivals(&self, account: &Account) -> Vec<(Tick, u64)> {
        lock(&self.budgets).arrivals.get(&account.number).cloned().unwrap_or_default()
    }

    /// Draws what befalls the next request of this kind.
    pub(super) fn fate(&self, endpoint: Endpoint, account: u32) -> (Fate, Dice) {
        let number = {
            let mut book = lock(&self.book);
            let tries = book.tries.entry((endpoint, account)).or_insert(0);
            *tries += 1;
            *tries
        };
        let dice = Dice::new(self.options.seed, &[30, endpoint as u64, u64::from(account), u64::from(number)]);
        self.draw(endpoint, dice)
    }

    /// Draws what befalls the next request for this artifact.
    pub(super) fn item_fate(&self, segment: &Segment, artifact: Artifact) -> (Fate, Dice) {
        let number = {
            let mut book = lock(&self.book);
            let item = book.items.entry((segment.key, artifact)).or_default();
            item.tries += 1;
            item.tries
        };
        let dice = Dice::new(segment.seed, &[31, artifact as u64, u64::from(number)]);
        self.draw(Endpoint::from(artifact), dice)
    }

    fn draw(&self, endpoint: Endpoint, mut dice: Dice) -> (Fate, Dice) {
        let fate = self.faults().rates(endpoint).draw(dice.clone());
        if fate != Fate::None {
            *self.stats.lock().faults.entry(fate.name()).or_default() += 1;
        }
        dice.next();
        (fate, dice)
    }

    /// The `Date` header, which must tell the simulated time, unless a fault makes it tell another.
    pub(super) fn date(&self) -> HeaderValue {
        let now = self.faults().date(self.now());
        let mut cached = lock(&self.date);
        if cached.0 != now.floor_secs() {
            let value = HeaderValue::from_str(&http_date(now)).unwrap_or(HeaderValue::from_static(""));
            *cached = (now.floor_secs(), value);
        }
        cached.1.clone()
    }
}

/// A moment as HTTP writes it: `Fri, 20 Nov 2026 10:00:00 GMT`.
pub(super) fn http_date(time: Time) -> String {
    time.timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
