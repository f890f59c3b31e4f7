//! Starts, signals and waits for the binary. It gets an empty environment and no input.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringcx_extractor::clock::Clock;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

/// Time limit of a command other than `run`.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of a command.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// The exit status, or the signal as a negative number.
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// Standard output followed by standard error.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Asserts the exit status, and that the output contains each phrase.
    pub fn assert_output(&self, status: i32, phrases: &[&str]) {
        let text = self.text();
        assert_eq!(self.status, status, "the exit status; it printed: {text}");
        for phrase in phrases {
            assert!(text.contains(phrase), "it does not print {phrase:?}: {text}");
        }
    }
}

/// A folder with a settings file and a log, and the daemon that may run there.
pub(super) struct DaemonProcess {
    folder: PathBuf,
    pub(super) program: PathBuf,
    daemon: Option<Child>,
    /// Numbers the output files of commands.
    commands: AtomicU32,
    /// The program and first arguments through which the binary is started, if any.
    pub(super) launcher: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    dumped_core: bool,
}

impl DaemonProcess {
    pub(super) fn new(folder: PathBuf) -> DaemonProcess {
        DaemonProcess {
            folder,
            program: current_program(),
            daemon: None,
            commands: AtomicU32::new(0),
            launcher: Vec::new(),
            environment: Vec::new(),
            dumped_core: false,
        }
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut words = self.launcher.iter().map(PathBuf::from).chain([self.program.clone()]);
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

    /// Starts another command without waiting for it, and discards its output.
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

    pub(super) fn limit_open_files(&self, max: Option<u64>) {
        let daemon = self.daemon.as_ref().expect("a daemon that runs");
        let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a process id")).expect("a process id");
        let usual = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: max.or(usual.current), maximum: usual.maximum };
        prlimit(Some(pid), Resource::Nofile, limit).expect("the right to limit it");
    }

    pub(super) fn peak_memory_kb(&self) -> u64 {
        let daemon = self.daemon.as_ref().expect("a daemon that runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("its status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok()).expect("its peak")
    }

    pub(super) fn has_dumped_core(&self) -> bool {
        self.dumped_core
    }

    pub(super) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon that runs").id()
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().expect("its state").is_none())
    }

    /// The exit status of a daemon that ended by itself.
    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten())
    }

    pub(super) async fn wait_for_exit(&mut self, clock: &Clock, timeout: Duration) -> i32 {
        let mut daemon = self.daemon.take().expect("a daemon that runs");
        match wait_for_child(&mut daemon, clock, timeout).await {
            Some(status) => {
                self.dumped_core = status.core_dumped();
                status_code(status)
            }
            None => {
                let _ = daemon.kill();
                let _ = daemon.wait();
                panic!("the daemon did not end within {timeout:?}");
            }
        }
    }

    pub(super) async fn run(&self, args: &[&str], clock: &Clock) -> CommandOutput {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.folder.join(format!("out-{number}")), self.folder.join(format!("err-{number}")));
        let mut command = self.command(args);
        command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        let mut child = command.spawn().expect("the binary");
        let status = wait_for_child(&mut child, clock, COMMAND_TIMEOUT).await;
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let read = |path: &PathBuf| String::from_utf8(std::fs::read(path).expect("a file")).expect("UTF-8");
        let output = CommandOutput { status: status.map_or(i32::MIN, status_code), out: read(&out), err: read(&err) };
        assert!(status.is_some(), "{args:?} did not end within {COMMAND_TIMEOUT:?}: {}", output.text());
        let _ = (std::fs::remove_file(&out), std::fs::remove_file(&err));
        output
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The binary that cargo built for the tests, or the one that `$RINGCX_EXTRACTOR` names.
pub fn current_program() -> PathBuf {
    std::env::var_os("RINGCX_EXTRACTOR").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringcx-extractor").into()).into()
}

fn status_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())
}

async fn wait_for_child(child: &mut Child, clock: &Clock, timeout: Duration) -> Option<ExitStatus> {
    let deadline = clock.tick() + timeout;
    loop {
        if let Some(status) = child.try_wait().expect("its state") {
            return Some(status);
        }
        if clock.tick() >= deadline {
            return None;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
}
