//! A simulated RingCX on loopback, for `demo` and for the tests.
//!
//! It plays all three hosts at once and reads the contract strictly: limits are counted exactly, tokens expire and
//! rotate, windows are refused that end too late. Whatever breaks the contract is answered as the vendor would answer
//! it and noted in [`Stats::violations`]. All time is a [`Clock`]'s, all chance follows from a seed, and the [`Ledger`]
//! says what a client must end up with. It knows nothing of the rest of the program.

use ringcx_model::{self as model, clock, lenient_json};

mod chance;
mod compare;
mod content;
mod faults;
mod ledger;
mod limits;
mod options;
mod script;
mod segment;
mod serve;
mod shared;
mod stats;
mod tokens;
mod wire;
mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::compare::{compare, without_depths};
pub use self::content::PLANTED;
pub use self::faults::{DateFault, Faults, Forbidden, Outage, OutageKind, Rates, WrongDate};
pub use self::ledger::{Expect, Ledger, LedgerEntry};
pub use self::options::{
    Availability, Credentials, Delayed, Edges, Options, RetryAfter, SECRET_MARK, Scope, SimLimits, Spread, Tokens,
    Traffic, Windows,
};
pub use self::script::{Burst, Script, SegmentScript};
use self::shared::Shared;
pub use self::stats::Stats;
use self::wire::Gate;
use crate::clock::{Clock, Tick, Time};
use crate::model::AccountId;

/// A running simulator. Ends when stopped or dropped, and every connection with it.
pub struct Sim {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    server: JoinSet<()>,
}

impl Sim {
    /// Starts to listen. Fails where the address cannot be had.
    pub async fn start(options: Options, clock: Clock) -> io::Result<Sim> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(options, clock));
        let stop = CancellationToken::new();
        let door = Arc::clone(&shared);
        let gate = Gate::new(listener, stop.clone(), move || {
            door.stats.lock().connections += 1;
            door.faults().outage(door.now()) != Some(OutageKind::Closed)
        });
        let mut server = JoinSet::new();
        server.spawn(gate.serve(serve::router(Arc::clone(&shared))));
        Ok(Sim { address, shared, stop, server })
    }

    /// The base URL of all three hosts, without a slash at its end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client must end up with, and what it was served.
    pub fn ledger(&self) -> Ledger {
        Ledger(Arc::clone(&self.shared))
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.stats.lock().clone();
        stats.peak_per_minute = self.shared.peak();
        stats
    }

    /// When requests of an account arrived, refused ones too; empty unless [`Options::keep_arrivals`].
    pub fn arrivals(&self, account: &AccountId) -> Vec<Tick> {
        self.arrivals_by_login(account).into_iter().map(|(at, _)| at).collect()
    }

    /// The same, each with the number of the login that its token goes back to: each process that asks has one of its own.
    pub fn arrivals_by_login(&self, account: &AccountId) -> Vec<(Tick, u64)> {
        let account = self.shared.world.account(&account.sub);
        account.map_or_else(Vec::new, |account| self.shared.arrivals(&account))
    }

    /// The server's wall clock.
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// The switches, to be turned from anywhere.
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.shared))
    }

    /// From now on, this goes wrong and nothing else.
    pub fn set_faults(&self, faults: Faults) {
        self.control().set_faults(faults);
    }

    /// Adds a segment as written, and says under which id.
    pub fn add_segment(&self, script: SegmentScript) -> String {
        self.shared.world.add_script(script)
    }

    /// Adds many segments in a short time.
    pub fn add_burst(&self, account: &AccountId, burst: Burst) {
        self.shared.world.add_burst(account, burst);
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

/// Turns the simulator's switches while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    /// From now on, this goes wrong and nothing else.
    pub fn set_faults(&self, faults: Faults) {
        self.0.set_faults(|all| *all = faults);
    }

    /// Nothing answers from `from` to `to`, on the server's clock.
    pub fn outage(&self, from: Time, to: Time, kind: OutageKind) {
        self.0.set_faults(|all| all.outages.push(Outage { from, to, kind }));
    }

    /// `Date` is wrong from `from` to `to`, on the server's clock; everything else goes by the right time.
    pub fn wrong_date(&self, from: Time, to: Time, date: WrongDate) {
        self.0.set_faults(|all| all.dates.push(DateFault { from, to, date }));
    }

    /// Refuses something with 403 from now on.
    pub fn forbid(&self, what: Forbidden) {
        self.0.set_faults(|all| all.forbidden.push(what));
    }

    /// Makes every token that was ever issued worthless.
    pub fn revoke_all(&self) {
        self.0.tokens.revoke_all();
    }

    /// Refuses every token with 401, fresh ones too, or stops doing so. Logins go on succeeding.
    pub fn refuse_tokens(&self, refuse: bool) {
        self.0.refuse_tokens.store(refuse, Ordering::Relaxed);
    }

    /// Accepts only these credentials from now on; tokens stay good.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.0.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// The login no longer sees this account: it is not listed, and answers 403.
    pub fn hide_account(&self, account: &AccountId) {
        self.0.hidden.write().unwrap_or_else(PoisonError::into_inner).insert(account.sub.to_string());
    }

    /// The login sees it again.
    pub fn show_account(&self, account: &AccountId) {
        self.0.hidden.write().unwrap_or_else(PoisonError::into_inner).remove(&*account.sub);
    }

    /// A new sub-account.
    pub fn add_account(&self, account: &AccountId) {
        self.0.world.add_account(account);
    }

    /// Adds a segment as written, and says under which id.
    pub fn add_segment(&self, script: SegmentScript) -> String {
        self.0.world.add_script(script)
    }

    /// Sets the server's wall clock ahead of the simulator's by so many milliseconds.
    pub fn set_skew(&self, millis: i64) {
        self.0.set_skew(millis);
    }
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
