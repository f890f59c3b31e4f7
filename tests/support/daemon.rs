//! A daemon as people run it, against a simulated RingCX: the real binary, a settings file, a database of its own.
//!
//! The simulator lives in the test's process and keeps real time, scaled down: windows of seconds where the vendor has
//! minutes. Whatever is waited for is looked at again and again until a deadline. A test that fails prints the end of
//! the daemon's log and what the simulator saw.

pub mod plan;
pub mod process;

use std::path::PathBuf;
use std::time::Duration;

use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::model::{AccountId, Stretch};
use ringcx_extractor::sim::{LedgerEntry, Sim, compare};
use secrecy::ExposeSecret;
use serde_json::Value;
use tempfile::TempDir;

use super::postgres;
pub use plan::Plan;
use process::{Output, Process};

/// How long anything may take that is not meant to take long, on a machine that does much else besides.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How much of the log is shown when a test fails.
const TAIL: usize = 60;

/// Where a daemon keeps its archive: empty, and gone with the test.
pub struct Place {
    pub url: String,
    pub folder: TempDir,
}

impl Place {
    pub fn sqlite() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Place { url: format!("sqlite:{}", folder.path().join("archive.db").display()), folder }
    }

    pub async fn postgres() -> Place {
        let url = tokio::task::spawn_blocking(postgres::database).await.expect("a database");
        let folder = tempfile::tempdir().expect("a temporary folder");
        Place { url: url.expose_secret().to_owned(), folder }
    }

    pub fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }
}

/// Runs each test body on both databases, as two tests; attributes such as `#[ignore]` go to both.
#[macro_export]
macro_rules! e2e {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                $(#[$attribute])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::support::daemon::Place::sqlite()).await;
                }
            )+
        }
        mod on_postgres {
            $(
                $(#[$attribute])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::support::daemon::Place::postgres().await).await;
                }
            )+
        }
    };
}

/// One simulator, one settings file, one daemon that runs or does not.
pub struct Rig {
    pub sim: Sim,
    pub place: Place,
    pub plan: Plan,
    pub clock: Clock,
    /// When the simulated world began.
    pub begin: Time,
    process: Process,
}

impl Rig {
    /// Starts the simulator and writes the settings; the daemon is yet to be started.
    pub async fn new(place: Place, mut plan: Plan) -> Rig {
        let clock = Clock::system();
        let begin = clock.now();
        plan.sim.begin = Some(begin.plus_millis(plan.sim.skew_ms));
        let sim = Sim::start(plan.sim.clone(), clock.clone()).await.expect("a simulator");
        for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
            plan.settings.entry(host.to_owned()).or_insert_with(|| sim.base_url().into());
        }
        plan.settings.entry("database.url".to_owned()).or_insert_with(|| place.url.clone().into());
        let process = Process::new(place.folder.path().to_owned());
        let rig = Rig { sim, place, plan, clock, begin, process };
        rig.write_settings();
        rig
    }

    /// The same, with the daemon started.
    pub async fn started(place: Place, plan: Plan) -> Rig {
        let mut rig = Rig::new(place, plan).await;
        rig.start();
        rig
    }

    /// Changes a setting; counts from the next start on.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.plan.settings.insert(key.to_owned(), value.into());
        self.write_settings();
    }

    pub fn config(&self) -> PathBuf {
        self.process.config()
    }

    fn write_settings(&self) {
        std::fs::write(self.config(), self.plan.toml()).expect("a settings file");
    }

    /// Has the binary started by this program, given as its first arguments; counts from the next start on.
    pub fn start_by(&mut self, starter: &[&str]) {
        self.process.starter = starter.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Puts this into the binary's environment, which is empty otherwise; counts from the next start on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.process.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Whether the daemon's last end left a core file.
    pub fn dumped_core(&self) -> bool {
        self.process.dumped()
    }

    /// Starts the daemon.
    pub fn start(&mut self) {
        self.process.start();
    }

    /// Kills the daemon as a crash would.
    pub async fn kill(&mut self) {
        self.process.signal(rustix::process::Signal::KILL);
        assert_eq!(self.process.exit(&self.clock, PATIENCE).await, -9, "how the daemon ended");
    }

    /// Ends the daemon in good order, and finds that it did.
    pub async fn stop(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        let status = self.process.exit(&self.clock, Duration::from_secs(12)).await;
        assert_eq!(status, 0, "the exit status after SIGTERM");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    /// The same, where it may have ended by itself.
    pub fn signal_if_running(&self, signal: rustix::process::Signal) {
        self.process.signal_if_running(signal);
    }

    /// The exit status of a daemon that is about to end; negative is the signal that ended it.
    pub async fn exit(&mut self, within: Duration) -> i32 {
        self.process.exit(&self.clock, within).await
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Lets the daemon open so many files and no more; `None` for as many as usual.
    pub fn limit_files(&self, most: Option<u64>) {
        self.process.limit_files(most);
    }

    /// The most memory that the daemon has held, in kilobytes.
    pub fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    /// Everything that the daemon has printed, over all its runs.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs another command with the same settings.
    pub async fn run(&self, args: &[&str]) -> Output {
        self.process.run(args, &self.clock).await
    }

    /// Starts another command with the same settings, and does not wait for it.
    pub fn spawn(&self, args: &[&str]) -> std::process::Child {
        self.process.spawn(args)
    }

    /// Runs a command that is to succeed; what it printed.
    pub async fn output(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status, 0, "{args:?} failed: {}{}", output.out, output.err);
        output.out
    }

    /// Runs a command that is to succeed and print JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let text = self.output(args).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?} printed no JSON: {error}: {text}"))
    }

    /// `status --json` of the first account; null where there is none yet.
    pub async fn account(&self) -> Value {
        let output = self.run(&["status", "--json"]).await;
        let status: Value = serde_json::from_str(&output.out).unwrap_or(Value::Null);
        status["accounts"][0].clone()
    }

    /// The items that `queue list` shows with these options.
    pub async fn queue(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = ["queue", "list", "--json", "--limit", "0"].iter().chain(args).copied().collect();
        let text = self.output(&args).await;
        text.lines().map(|line| serde_json::from_str(line).expect("an item a line")).collect()
    }

    /// `audit --json`, and its exit status.
    pub async fn audit(&self) -> (Value, i32) {
        let output = self.run(&["audit", "--json"]).await;
        let audit = serde_json::from_str(&output.out);
        (audit.unwrap_or_else(|error| panic!("audit: {error}: {}{}", output.out, output.err)), output.status)
    }

    /// Looks until `done`, for at most [`PATIENCE`].
    pub async fn until(&self, what: &str, done: impl AsyncFnMut() -> bool) {
        self.until_within(PATIENCE, what, done).await;
    }

    /// Looks until `done`, for at most so long.
    pub async fn until_within(&self, within: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let end = self.clock.tick() + within;
        loop {
            let begun = self.clock.tick();
            if done().await {
                return;
            }
            let now = self.clock.tick();
            assert!(now < end, "after {within:?} still not: {what}");
            // A look that starts a process takes its time of a processor that the daemon needs.
            self.clock.sleep(LOOK.max(now.since(begun) * 2)).await;
        }
    }

    /// Waits until the daemon says this.
    pub async fn says(&self, what: &str) {
        self.until(&format!("the daemon says {what:?}"), async || self.log().contains(what)).await;
    }

    /// Waits until the daemon has asked the simulator for something.
    pub async fn asks(&self) {
        let before = self.sim.stats().requests_in_all();
        self.until("the daemon asks for something", async || self.sim.stats().requests_in_all() > before).await;
    }

    /// Where the dashboard is, with a slash at the end; waits until the daemon says so.
    pub async fn dashboard(&self) -> String {
        const SAID: &str = "the dashboard is at ";
        self.says(SAID).await;
        let log = self.log();
        let rest = log.rsplit(SAID).next().unwrap_or_default();
        rest.split_whitespace().next().unwrap_or_default().to_owned()
    }

    pub fn main_account(&self) -> AccountId {
        self.plan.sim.accounts[0].clone()
    }

    /// All that there is in the simulated world.
    pub fn world(&self) -> Vec<LedgerEntry> {
        let begin = self.begin.plus_millis(self.plan.sim.skew_ms);
        let days = Duration::from_secs(4 * 86_400);
        let all = Stretch { from: begin - days, to: begin + days };
        self.sim.ledger().ledger_for(all, self.sim.now())
    }

    /// In what the archive differs from the world. An archive that the daemon has not made yet, or is bringing up to
    /// date, differs in that it cannot be read.
    pub async fn differences(&self, world: &[LedgerEntry]) -> Vec<String> {
        let export = self.run(&["export"]).await;
        match export.status {
            0 => compare(&export.out, world, self.plan.wants),
            status => vec![format!("export ended with {status}: {}", export.err)],
        }
    }

    /// Waits until the world has come to rest and the archive holds all of it, to the letter.
    pub async fn complete(&self) {
        self.clock.sleep_until_time(self.begin + self.plan.at_rest_after()).await;
        let end = self.clock.tick() + PATIENCE;
        loop {
            let world = self.world();
            let differences = self.differences(&world).await;
            if differences.is_empty() && world.iter().all(Plan::is_there) {
                assert!(!world.is_empty(), "an empty world shows nothing");
                return;
            }
            assert!(self.clock.tick() < end, "the archive is not complete: {differences:#?}");
            self.clock.sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until the archive is complete, and the audit says so as well; finds the contract kept and no limit met.
    pub async fn settled(&self) {
        self.complete().await;
        self.audit_passes().await;
        self.kept_the_contract();
        assert_eq!(self.sim.stats().refused_in_all(), 0, "requests beyond a limit");
    }

    /// Waits until the audit finds nothing missing and nothing unexplained.
    pub async fn audit_passes(&self) {
        let end = self.clock.tick() + PATIENCE;
        loop {
            let audit = self.run(&["audit"]).await;
            if audit.status == 0 {
                return;
            }
            assert!(self.clock.tick() < end, "the audit does not pass: {}", audit.text());
            self.clock.sleep(Duration::from_millis(250)).await;
        }
    }

    pub fn kept_the_contract(&self) {
        assert_eq!(self.sim.stats().violations, Vec::<String>::new(), "breaches of the contract");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            eprintln!("the end of the daemon's log:\n{tail}\nthe simulator saw: {:#?}", self.sim.stats());
            if let Some(status) = self.process.ended() {
                eprintln!("the daemon has ended: {status}");
            }
        }
    }
}
