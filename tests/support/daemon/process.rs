//! The binary as a process: started, signalled, waited for. It gets an empty environment and no input.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringcx_extractor::clock::Clock;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

/// How long a command other than `run` may take.
const COMMAND: Duration = Duration::from_secs(60);

/// What a command came to.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status, or the signal as a negative number.
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    /// Everything that it printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Finds the exit status and each of these in what was printed.
    pub fn is(&self, status: i32, said: &[&str]) {
        let text = self.text();
        assert_eq!(self.status, status, "the exit status; it said: {text}");
        for one in said {
            assert!(text.contains(one), "it does not say {one:?}: {text}");
        }
    }
}

/// A folder with a settings file and a log, and the daemon that may be running there.
pub(super) struct Process {
    folder: PathBuf,
    daemon: Option<Child>,
    commands: AtomicU32,
    /// What the binary is started by, where not by itself: a program and its first arguments.
    pub(super) starter: Vec<String>,
    /// Its environment.
    pub(super) environment: Vec<(String, String)>,
    dumped: bool,
}

impl Process {
    pub(super) fn new(folder: PathBuf) -> Process {
        let (starter, environment) = (Vec::new(), Vec::new());
        Process { folder, daemon: None, commands: AtomicU32::new(0), starter, environment, dumped: false }
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut words = self.starter.iter().map(PathBuf::from).chain([binary()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg("--config").arg(self.config()).args(args);
        command.env_clear().env("RUST_BACKTRACE", "1").envs(self.environment.iter().cloned());
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    pub(super) fn start(&mut self) {
        assert!(self.daemon.is_none(), "the daemon is running already");
        let log = OpenOptions::new().append(true).create(true).open(self.log_path()).expect("a log file");
        let out = log.try_clone().expect("the log file again");
        self.daemon = Some(self.command(&["run"]).stdout(out).stderr(log).spawn().expect("the binary"));
    }

    /// Starts another command and does not wait for it; what it prints goes nowhere.
    pub(super) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let daemon = self.daemon.as_ref().expect("a daemon that runs");
        let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a process id")).expect("a process id");
        kill_process(pid, signal).expect("a process to signal");
    }

    pub(super) fn signal_if_running(&self, signal: Signal) {
        let daemon = self.daemon.as_ref().expect("a daemon that was started");
        let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a process id")).expect("a process id");
        let _ = kill_process(pid, signal);
    }

    pub(super) fn limit_files(&self, most: Option<u64>) {
        let daemon = self.daemon.as_ref().expect("a daemon that runs");
        let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a process id")).expect("a process id");
        let usual = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: most.or(usual.current), maximum: usual.maximum };
        prlimit(Some(pid), Resource::Nofile, limit).expect("the right to limit it");
    }

    pub(super) fn peak_memory(&self) -> u64 {
        let daemon = self.daemon.as_ref().expect("a daemon that runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("its status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok()).expect("its peak")
    }

    /// Whether the daemon's last end left a core file.
    pub(super) fn dumped(&self) -> bool {
        self.dumped
    }

    pub(super) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon that runs").id()
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().expect("its state").is_none())
    }

    /// How it ended by itself, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten())
    }

    pub(super) async fn exit(&mut self, clock: &Clock, within: Duration) -> i32 {
        let mut daemon = self.daemon.take().expect("a daemon that runs");
        match wait(&mut daemon, clock, within).await {
            Some(status) => {
                self.dumped = status.core_dumped();
                code(status)
            }
            None => {
                let _ = daemon.kill();
                let _ = daemon.wait();
                panic!("the daemon did not end within {within:?}");
            }
        }
    }

    pub(super) async fn run(&self, args: &[&str], clock: &Clock) -> Output {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.folder.join(format!("out-{number}")), self.folder.join(format!("err-{number}")));
        let mut command = self.command(args);
        command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        let mut child = command.spawn().expect("the binary");
        let status = wait(&mut child, clock, COMMAND).await;
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let read = |path: &PathBuf| String::from_utf8(std::fs::read(path).expect("a file")).expect("UTF-8");
        let output = Output { status: status.map_or(i32::MIN, code), out: read(&out), err: read(&err) };
        assert!(status.is_some(), "{args:?} did not end within {COMMAND:?}: {}", output.text());
        let _ = (std::fs::remove_file(&out), std::fs::remove_file(&err));
        output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The binary that cargo built for the tests, or the one that `$RINGCX_EXTRACTOR` names: any build can be tried.
fn binary() -> PathBuf {
    std::env::var_os("RINGCX_EXTRACTOR").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringcx-extractor").into()).into()
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())
}

async fn wait(child: &mut Child, clock: &Clock, within: Duration) -> Option<ExitStatus> {
    let end = clock.tick() + within;
    loop {
        if let Some(status) = child.try_wait().expect("its state") {
            return Some(status);
        }
        if clock.tick() >= end {
            return None;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
}
