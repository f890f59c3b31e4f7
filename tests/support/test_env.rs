//! The end-to-end test environment: the real binary with its own settings file and database, against a simulated RingCX.
//!
//! The simulator runs in the test's process and in real time, with windows of seconds where the vendor has minutes. Waits
//! poll a condition until a deadline. A failing test prints the end of the daemon's log and the simulator's statistics.

pub mod daemon_process;
pub mod scenario;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::model::{AccountId, TimeRange};
use ringcx_extractor::sim::{ExpectedSegment, Sim, compare_export};
use secrecy::ExposeSecret;
use serde_json::Value;
use tempfile::TempDir;

use super::postgres_cluster;
use daemon_process::{CommandOutput, DaemonProcess};
pub use scenario::Scenario;

/// Default deadline of a wait, long enough for a busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Shortest time between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Lines of the daemon's log that a failing test prints.
const LOG_TAIL_LINES: usize = 60;

/// An empty database for a daemon's archive, removed with the test.
pub struct TempDatabase {
    pub url: String,
    pub folder: TempDir,
}

impl TempDatabase {
    pub fn sqlite() -> TempDatabase {
        let folder = tempfile::tempdir().expect("a temporary folder");
        TempDatabase { url: format!("sqlite:{}", folder.path().join("archive.db").display()), folder }
    }

    pub async fn postgres() -> TempDatabase {
        let url = tokio::task::spawn_blocking(postgres_cluster::create_database).await.expect("a database");
        let folder = tempfile::tempdir().expect("a temporary folder");
        TempDatabase { url: url.expose_secret().to_owned(), folder }
    }

    pub fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }
}

/// Runs each test body on SQLite and on Postgres, as two tests. Attributes such as `#[ignore]` apply to both.
#[macro_export]
macro_rules! e2e {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                $(#[$attribute])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::support::test_env::TempDatabase::sqlite()).await;
                }
            )+
        }
        mod on_postgres {
            $(
                $(#[$attribute])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::support::test_env::TempDatabase::postgres().await).await;
                }
            )+
        }
    };
}

/// One simulator, one settings file, and one daemon, running or not.
pub struct TestEnv {
    pub sim: Sim,
    pub database: TempDatabase,
    pub scenario: Scenario,
    pub clock: Clock,
    /// When the simulated traffic began.
    pub begin: Time,
    daemon: DaemonProcess,
}

impl TestEnv {
    /// Starts the simulator and writes the settings, without starting the daemon.
    pub async fn new(database: TempDatabase, mut scenario: Scenario) -> TestEnv {
        let clock = Clock::system();
        let begin = clock.now();
        scenario.sim.begin = Some(begin.plus_millis(scenario.sim.skew_ms));
        let sim = Sim::start(scenario.sim.clone(), clock.clone()).await.expect("a simulator");
        for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
            scenario.settings.entry(host.to_owned()).or_insert_with(|| sim.base_url().into());
        }
        scenario.settings.entry("database.url".to_owned()).or_insert_with(|| database.url.clone().into());
        let daemon = DaemonProcess::new(database.folder.path().to_owned());
        let env = TestEnv { sim, database, scenario, clock, begin, daemon };
        env.write_settings();
        env
    }

    /// The same, with the daemon started.
    pub async fn with_daemon(database: TempDatabase, scenario: Scenario) -> TestEnv {
        let mut env = TestEnv::new(database, scenario).await;
        env.start();
        env
    }

    /// Changes a setting, from the next start on.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.scenario.settings.insert(key.to_owned(), value.into());
        self.write_settings();
    }

    pub fn config(&self) -> PathBuf {
        self.daemon.config()
    }

    fn write_settings(&self) {
        std::fs::write(self.config(), self.scenario.toml()).expect("a settings file");
    }

    /// Runs another build of the program from now on.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.daemon.program);
    }

    /// Starts the binary through another program (its path and first arguments), from the next start on.
    pub fn set_launcher(&mut self, launcher: &[&str]) {
        self.daemon.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Sets a variable of the binary's environment, which is otherwise empty, from the next start on.
    pub fn set_env_var(&mut self, name: &str, value: &str) {
        self.daemon.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Whether the daemon left a core file when it last ended.
    pub fn left_core_file(&self) -> bool {
        self.daemon.has_dumped_core()
    }

    pub fn start(&mut self) {
        self.daemon.start();
    }

    /// Kills the daemon as a crash would.
    pub async fn kill(&mut self) {
        self.daemon.signal(rustix::process::Signal::KILL);
        assert_eq!(self.daemon.wait_for_exit(&self.clock, WAIT_TIMEOUT).await, -9, "the exit status after SIGKILL");
    }

    /// Stops the daemon with SIGTERM and asserts that it exits with status 0.
    pub async fn stop(&mut self) {
        self.daemon.signal(rustix::process::Signal::TERM);
        let status = self.daemon.wait_for_exit(&self.clock, Duration::from_secs(12)).await;
        assert_eq!(status, 0, "the exit status after SIGTERM");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        self.daemon.signal(signal);
    }

    /// The same, for a daemon that may have ended already.
    pub fn signal_if_running(&self, signal: rustix::process::Signal) {
        self.daemon.signal_if_running(signal);
    }

    /// Waits for the daemon to end; returns its exit status, or the signal as a negative number.
    pub async fn wait_for_exit(&mut self, timeout: Duration) -> i32 {
        self.daemon.wait_for_exit(&self.clock, timeout).await
    }

    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    pub fn is_running(&mut self) -> bool {
        self.daemon.is_running()
    }

    /// Limits the daemon's open files; `None` restores the usual limit.
    pub fn limit_open_files(&self, max: Option<u64>) {
        self.daemon.limit_open_files(max);
    }

    /// The daemon's peak memory in kilobytes.
    pub fn peak_memory_kb(&self) -> u64 {
        self.daemon.peak_memory_kb()
    }

    /// Everything that the daemon printed, over all its runs.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Runs another command with the same settings.
    pub async fn run(&self, args: &[&str]) -> CommandOutput {
        self.daemon.run(args, &self.clock).await
    }

    /// Starts another command with the same settings without waiting for it.
    pub fn spawn(&self, args: &[&str]) -> std::process::Child {
        self.daemon.spawn(args)
    }

    /// Runs a command that must succeed; returns its standard output.
    pub async fn run_ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status, 0, "{args:?} failed: {}{}", output.out, output.err);
        output.out
    }

    /// Runs a command that must succeed and print JSON.
    pub async fn run_json(&self, args: &[&str]) -> Value {
        let text = self.run_ok(args).await;
        // The simulator's metadata may hold numbers that are out of range, and these are printed as received.
        ringcx_extractor::lenient_json::parse_value(&text).unwrap_or_else(|| panic!("{args:?} printed no JSON: {text}"))
    }

    /// The first account in `status --json`, or null.
    pub async fn account_status(&self) -> Value {
        let output = self.run(&["status", "--json"]).await;
        let status: Value = serde_json::from_str(&output.out).unwrap_or(Value::Null);
        status["accounts"][0].clone()
    }

    /// The items that `queue list` prints with these options.
    pub async fn queue_items(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = ["queue", "list", "--json", "--limit", "0"].iter().chain(args).copied().collect();
        let text = self.run_ok(&args).await;
        text.lines().map(|line| serde_json::from_str(line).expect("an item a line")).collect()
    }

    /// `audit --json`, and its exit status.
    pub async fn audit_json(&self) -> (Value, i32) {
        let output = self.run(&["audit", "--json"]).await;
        let audit = serde_json::from_str(&output.out);
        (audit.unwrap_or_else(|error| panic!("audit: {error}: {}{}", output.out, output.err)), output.status)
    }

    /// Polls `done` until it is true, for at most [`WAIT_TIMEOUT`].
    pub async fn wait_until(&self, what: &str, done: impl AsyncFnMut() -> bool) {
        self.wait_until_within(WAIT_TIMEOUT, what, done).await;
    }

    /// Polls `done` until it is true, for at most `timeout`.
    pub async fn wait_until_within(&self, timeout: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let deadline = self.clock.tick() + timeout;
        loop {
            let started = self.clock.tick();
            if done().await {
                return;
            }
            let now = self.clock.tick();
            assert!(now < deadline, "after {timeout:?} still not: {what}");
            // A poll may start a process, and must leave the processor to the daemon.
            self.clock.sleep(POLL_INTERVAL.max(now.since(started) * 2)).await;
        }
    }

    /// Waits until the daemon's log contains this text.
    pub async fn wait_for_log(&self, text: &str) {
        self.wait_until(&format!("the log contains {text:?}"), async || self.log().contains(text)).await;
    }

    /// Waits until the daemon has sent a request to the simulator.
    pub async fn wait_for_request(&self) {
        let before = self.sim.stats().total_requests();
        self.wait_until("the daemon sends a request", async || self.sim.stats().total_requests() > before).await;
    }

    /// The dashboard's URL with a slash at the end. Waits until the daemon has logged it.
    pub async fn dashboard_url(&self) -> String {
        const LOGGED_BEFORE_URL: &str = "the dashboard is at ";
        self.wait_for_log(LOGGED_BEFORE_URL).await;
        let log = self.log();
        let rest = log.rsplit(LOGGED_BEFORE_URL).next().unwrap_or_default();
        rest.split_whitespace().next().unwrap_or_default().to_owned()
    }

    pub fn main_account(&self) -> AccountId {
        self.scenario.sim.accounts[0].clone()
    }

    /// Every segment of the simulator, past and future.
    pub fn expected_segments(&self) -> Vec<ExpectedSegment> {
        let begin = self.begin.plus_millis(self.scenario.sim.skew_ms);
        let days = Duration::from_secs(4 * 86_400);
        let all = TimeRange { from: begin - days, to: begin + days };
        self.sim.expected_archive().segments_in(all, self.sim.now())
    }

    /// How the archive differs from the simulator's ledger. An archive that the daemon has not created or migrated yet
    /// differs because it cannot be exported.
    pub async fn archive_differences(&self, expected: &[ExpectedSegment]) -> Vec<String> {
        let export = self.run(&["export"]).await;
        match export.status {
            0 => compare_export(&export.out, expected, self.scenario.wants),
            status => vec![format!("export ended with {status}: {}", export.err)],
        }
    }

    /// Waits until the simulated data changes no more and the archive holds exactly that.
    pub async fn wait_until_complete(&self) {
        self.clock.sleep_until_time(self.begin + self.scenario.settle_duration()).await;
        let deadline = self.clock.tick() + WAIT_TIMEOUT;
        loop {
            let expected = self.expected_segments();
            let differences = self.archive_differences(&expected).await;
            if differences.is_empty() && expected.iter().all(Scenario::is_available) {
                assert!(!expected.is_empty(), "without segments the comparison shows nothing");
                return;
            }
            assert!(self.clock.tick() < deadline, "the archive is not complete: {differences:#?}");
            self.clock.sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until the archive is complete and `audit` passes. Asserts that the API contract was kept and no limit exceeded.
    pub async fn expect_complete_archive(&self) {
        self.wait_until_complete().await;
        self.wait_for_audit().await;
        self.assert_contract_kept();
        assert_eq!(self.sim.stats().total_refused(), 0, "requests beyond a limit");
    }

    /// Waits until `audit` exits with status 0.
    pub async fn wait_for_audit(&self) {
        let deadline = self.clock.tick() + WAIT_TIMEOUT;
        loop {
            let audit = self.run(&["audit"]).await;
            if audit.status == 0 {
                return;
            }
            assert!(self.clock.tick() < deadline, "the audit does not pass: {}", audit.text());
            self.clock.sleep(Duration::from_millis(250)).await;
        }
    }

    pub fn assert_contract_kept(&self) {
        assert_eq!(self.sim.stats().violations, Vec::<String>::new(), "violations of the API contract");
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
            eprintln!("the end of the daemon's log:\n{tail}\nthe simulator's statistics: {:#?}", self.sim.stats());
            if let Some(status) = self.daemon.exit_status() {
                eprintln!("the daemon has ended: {status}");
            }
        }
    }
}
