//! The state that all connections share: the tenant, the request log, and the settings that a test
//! can change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use axum::http::HeaderValue;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::faults::{Faults, InjectedFault};
use super::options::{AcceptedCredentials, Options, QuotaScope};
use super::rng::Rng;
use super::simulated_tenant::{SegmentPosition, SimulatedAccount, SimulatedTenant};
use super::sliding_window_counter::{LimitGroup, admit};
use super::stats::StatsRecorder;
use super::tenant_segment::{RecordVersion, TenantSegment};
use super::token_store::TokenStore;
use crate::clock::{Clock, Tick, Time};
use crate::model::{Artifact, Endpoint};

/// The state of one simulator.
pub(super) struct SimulatorState {
    pub(super) options: Options,
    pub(super) clock: Clock,
    pub(super) tenant: SimulatedTenant,
    pub(super) tokens: TokenStore,
    pub(super) stats: StatsRecorder,
    pub(super) request_log: Mutex<RequestLog>,
    pub(super) credentials: RwLock<AcceptedCredentials>,
    pub(super) hidden_accounts: RwLock<HashSet<String>>,
    pub(super) refuse_tokens: AtomicBool,
    skew_ms: AtomicI64,
    faults: RwLock<Arc<Faults>>,
    limit_counters: Mutex<LimitCounters>,
    cached_date: Mutex<(i64, HeaderValue)>,
}

/// What was requested and served.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    pub(super) announced: HashMap<SegmentPosition, Announcement>,
    pub(super) artifacts: HashMap<(SegmentPosition, Artifact), ArtifactRequests>,
    attempts: HashMap<(Endpoint, u32), u32>,
}

/// The announcement of a segment by metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announcement {
    pub(super) first_at: Time,
    pub(super) version: RecordVersion,
    pub(super) was_transcribed: bool,
}

/// The requests for one artifact.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ArtifactRequests {
    attempts: u32,
    pub(super) served: u32,
}

struct LimitCounters {
    requests: HashMap<u32, LimitGroup>,
    metadata: HashMap<u32, LimitGroup>,
    exchanges: LimitGroup,
    /// Each with the number of its login.
    arrivals: HashMap<u32, Vec<(Tick, u64)>>,
}

impl SimulatorState {
    pub(super) fn new(options: Options, clock: Clock) -> SimulatorState {
        let begin = options.begin.unwrap_or_else(|| clock.now().plus_millis(options.skew_ms));
        let tenant = SimulatedTenant::new(options.seed, options.traffic.clone(), options.availability.clone(), begin);
        for account in &options.accounts {
            tenant.add_account(account);
        }
        let exchanges = LimitGroup::exchanges(&options.limits);
        SimulatorState {
            tenant,
            tokens: TokenStore::new(options.seed, options.tokens.clone()),
            stats: StatsRecorder::default(),
            request_log: Mutex::default(),
            credentials: RwLock::new(options.credentials.clone()),
            hidden_accounts: RwLock::default(),
            refuse_tokens: AtomicBool::new(false),
            skew_ms: AtomicI64::new(options.skew_ms),
            faults: RwLock::new(Arc::new(options.faults.clone())),
            limit_counters: Mutex::new(LimitCounters {
                requests: HashMap::new(),
                metadata: HashMap::new(),
                exchanges,
                arrivals: HashMap::new(),
            }),
            cached_date: Mutex::new((i64::MIN, HeaderValue::from_static(""))),
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
        Arc::clone(&self.faults.read())
    }

    pub(super) fn update_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.faults.write();
        change(Arc::make_mut(&mut faults));
    }

    pub(super) fn is_hidden(&self, account: &SimulatedAccount) -> bool {
        self.hidden_accounts.read().contains(&*account.id.sub)
    }

    pub(super) fn credentials(&self) -> RwLockReadGuard<'_, AcceptedCredentials> {
        self.credentials.read()
    }

    /// Counts the arrival of a request for an account. `Err` is the time until there is room for
    /// it.
    pub(super) fn admit_to_account(
        &self,
        account: &SimulatedAccount,
        metadata: bool,
        login: u64,
    ) -> Result<(), Duration> {
        let limits = &self.options.limits;
        let mut limit_counters = self.limit_counters.lock();
        // Read under the lock, so that arrivals are in order.
        let now = self.clock.tick();
        let limit_counters = &mut *limit_counters;
        let counted_account = if limits.scope == QuotaScope::Login { 0 } else { account.number };
        let requests =
            limit_counters.requests.entry(counted_account).or_insert_with(|| LimitGroup::requests(limits, now.0));
        let admitted = if metadata {
            let metadata = limit_counters.metadata.entry(account.number);
            admit(&mut [requests, metadata.or_insert_with(|| LimitGroup::metadata(limits, now.0))], now.0)
        } else {
            admit(&mut [requests], now.0)
        };
        if self.options.keep_arrivals {
            limit_counters.arrivals.entry(account.number).or_default().push((now, login));
        }
        admitted
    }

    /// Counts the arrival of an exchange or Engage login.
    pub(super) fn admit_exchange(&self) -> Result<(), Duration> {
        let mut limit_counters = self.limit_counters.lock();
        let now = self.clock.tick();
        admit(&mut [&mut limit_counters.exchanges], now.0)
    }

    pub(super) fn peak_per_minute(&self) -> usize {
        self.limit_counters.lock().requests.values().map(LimitGroup::peak).max().unwrap_or(0)
    }

    pub(super) fn arrivals(&self, account: &SimulatedAccount) -> Vec<(Tick, u64)> {
        self.limit_counters.lock().arrivals.get(&account.number).cloned().unwrap_or_default()
    }

    /// Draws the fault of the next request of this kind.
    pub(super) fn draw_fault(&self, endpoint: Endpoint, account: u32) -> (InjectedFault, Rng) {
        let number = {
            let mut request_log = self.request_log.lock();
            let attempts = request_log.attempts.entry((endpoint, account)).or_insert(0);
            *attempts += 1;
            *attempts
        };
        let rng = Rng::new(self.options.seed, &[30, endpoint as u64, u64::from(account), u64::from(number)]);
        self.draw_from(endpoint, rng)
    }

    /// Draws the fault of the next request for this artifact.
    pub(super) fn draw_artifact_fault(&self, segment: &TenantSegment, artifact: Artifact) -> (InjectedFault, Rng) {
        let number = {
            let mut request_log = self.request_log.lock();
            let requests_of_artifact = request_log.artifacts.entry((segment.position, artifact)).or_default();
            requests_of_artifact.attempts += 1;
            requests_of_artifact.attempts
        };
        let rng = Rng::new(segment.seed, &[31, artifact as u64, u64::from(number)]);
        self.draw_from(Endpoint::from(artifact), rng)
    }

    fn draw_from(&self, endpoint: Endpoint, mut rng: Rng) -> (InjectedFault, Rng) {
        let fault = self.faults().rates(endpoint).draw_fault(rng.clone());
        if fault != InjectedFault::None {
            *self.stats.lock().faults.entry(fault.name()).or_default() += 1;
        }
        rng.next_u64();
        (fault, rng)
    }

    /// The `Date` header: the simulated time, unless a fault changes it.
    pub(super) fn date_header(&self) -> HeaderValue {
        let now = self.faults().date_at(self.now());
        let mut cached = self.cached_date.lock();
        if cached.0 != now.floor_secs() {
            let value = HeaderValue::from_str(&http_date(now)).unwrap_or(HeaderValue::from_static(""));
            *cached = (now.floor_secs(), value);
        }
        cached.1.clone()
    }
}

/// A time in HTTP's format: `Fri, 20 Nov 2026 10:00:00 GMT`.
pub(super) fn http_date(time: Time) -> String {
    time.timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
