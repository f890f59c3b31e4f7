//! A simulated RingCX on loopback, for `demo` and for tests.
//!
//! It serves all three hosts at once and follows the contract strictly: limits are counted exactly,
//! tokens expire and rotate, and windows that end too late are refused. A request that violates the
//! contract is answered as the vendor would answer it, and recorded in [`Stats::violations`]. All
//! time comes from a [`Clock`], all randomness from a seed. The [`ExpectedArchive`] tells what a
//! client must hold in the end. The simulator does not depend on the rest of the program.

use ringcx_model::{self as model, clock, lenient_json};

mod content;
mod expected_archive;
mod export_comparison;
mod faults;
mod faulty_connection;
mod options;
mod recording_audio;
mod request_handler;
mod rng;
mod script;
mod simulated_tenant;
mod simulator_state;
mod sliding_window_counter;
mod stats;
mod tenant_segment;
mod token_store;
pub mod workload;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::content::CANARY_TEXT;
pub use self::expected_archive::{ExpectedArchive, ExpectedArtifact, ExpectedSegment};
pub use self::export_comparison::{compare_export, truncate_depth};
pub use self::faults::{DateFault, FaultRates, Faults, ForbiddenRule, Outage, OutageKind, WrongDate};
use self::faulty_connection::ConnectionListener;
pub use self::options::{
    AcceptedCredentials, Availability, DelayRange, Options, PartialDelay, QuotaScope, RetryAfterFormat, SECRET_MARK,
    SimLimits, TokenSettings, Traffic, WindowEdges, WindowRules,
};
pub use self::script::{ArtifactScript, Burst, SegmentScript};
use self::simulator_state::SimulatorState;
pub use self::stats::Stats;
use crate::clock::{Clock, Tick, Time};
use crate::model::AccountId;

/// A running simulator. Stopping or dropping it ends all connections.
pub struct Sim {
    address: SocketAddr,
    state: Arc<SimulatorState>,
    stop: CancellationToken,
    server: JoinSet<()>,
}

impl Sim {
    /// Starts to listen. Fails if the address is not available.
    pub async fn start(options: Options, clock: Clock) -> io::Result<Sim> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(SimulatorState::new(options, clock));
        let stop = CancellationToken::new();
        let accepting = Arc::clone(&state);
        let connections = ConnectionListener::new(listener, stop.clone(), move || {
            accepting.stats.lock().connections += 1;
            accepting.faults().outage_at(accepting.now()) != Some(OutageKind::Closed)
        });
        let mut server = JoinSet::new();
        server.spawn(connections.serve(request_handler::router(Arc::clone(&state))));
        Ok(Sim { address, state, stop, server })
    }

    /// The base URL of all three hosts, without a slash at its end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client must hold in the end, and what was served to it.
    pub fn expected_archive(&self) -> ExpectedArchive {
        ExpectedArchive(Arc::clone(&self.state))
    }

    /// The counts so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.state.stats.lock().clone();
        stats.peak_per_minute = self.state.peak_per_minute();
        stats
    }

    /// When the requests of an account arrived, including refused ones; empty unless
    /// [`Options::keep_arrivals`].
    pub fn arrivals(&self, account: &AccountId) -> Vec<Tick> {
        self.arrivals_by_login(account).into_iter().map(|(at, _)| at).collect()
    }

    /// The same, each with the number of its token's login. Each client process has its own login.
    pub fn arrivals_by_login(&self, account: &AccountId) -> Vec<(Tick, u64)> {
        let account = self.state.tenant.account(&account.sub);
        account.map_or_else(Vec::new, |account| self.state.arrivals(&account))
    }

    /// The server's wall clock.
    pub fn now(&self) -> Time {
        self.state.now()
    }

    /// A handle to change settings while the simulator runs.
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.state))
    }

    /// Replaces the injected faults.
    pub fn set_faults(&self, faults: Faults) {
        self.control().set_faults(faults);
    }

    /// Adds a scripted segment, and returns its id.
    pub fn add_segment(&self, script: SegmentScript) -> String {
        self.state.tenant.add_script(script)
    }

    /// Adds many segments in a short time.
    pub fn add_burst(&self, account: &AccountId, burst: Burst) {
        self.state.tenant.add_burst(account, burst);
    }

    /// Stops listening and ends every connection.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.server.shutdown().await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Changes settings while the simulator runs. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<SimulatorState>);

impl Control {
    /// Replaces the injected faults.
    pub fn set_faults(&self, faults: Faults) {
        self.0.update_faults(|all| *all = faults);
    }

    /// Adds an outage from `from` to `to`, on the server's clock.
    pub fn add_outage(&self, from: Time, to: Time, kind: OutageKind) {
        self.0.update_faults(|all| all.outages.push(Outage { from, to, kind }));
    }

    /// Makes `Date` wrong from `from` to `to`, on the server's clock; everything else uses the
    /// right time.
    pub fn add_wrong_date(&self, from: Time, to: Time, date: WrongDate) {
        self.0.update_faults(|all| all.dates.push(DateFault { from, to, date }));
    }

    /// Refuses the matching requests with 403 from now on.
    pub fn forbid(&self, rule: ForbiddenRule) {
        self.0.update_faults(|all| all.forbidden.push(rule));
    }

    /// Revokes all issued tokens.
    pub fn revoke_all_tokens(&self) {
        self.0.tokens.revoke_all();
    }

    /// Refuses every token with 401, including fresh ones, or stops doing so. Logins still succeed.
    pub fn refuse_tokens(&self, refuse: bool) {
        self.0.refuse_tokens.store(refuse, Ordering::Relaxed);
    }

    /// Accepts only these credentials from now on. Issued tokens stay valid.
    pub fn set_credentials(&self, credentials: AcceptedCredentials) {
        *self.0.credentials.write() = credentials;
    }

    /// Hides an account from the login: it is not listed, and answers 403.
    pub fn hide_account(&self, account: &AccountId) {
        self.0.hidden_accounts.write().insert(account.sub.to_string());
    }

    /// Shows a hidden account again.
    pub fn show_account(&self, account: &AccountId) {
        self.0.hidden_accounts.write().remove(&*account.sub);
    }

    /// Adds a sub-account.
    pub fn add_account(&self, account: &AccountId) {
        self.0.tenant.add_account(account);
    }

    /// Adds a scripted segment, and returns its id.
    pub fn add_segment(&self, script: SegmentScript) -> String {
        self.0.tenant.add_script(script)
    }

    /// Sets how far the server's wall clock is ahead of the simulator's, in milliseconds.
    pub fn set_skew(&self, millis: i64) {
        self.0.set_skew(millis);
    }
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
