//! Parses the command line, runs the command, maps its error to an exit status.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use ringcx_extractor::cli::{self, Cli, failure};
use ringcx_extractor::ringcx;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// How long a thread that is still at work when the command is done may hold up the end.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    keep_memory_private();
    ringcx_extractor::descriptors::raise_limit();
    ringcx::install_tls();
    match run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            failure::print(&error);
            ExitCode::from(failure::status(&error))
        }
    }
}

/// Secrets and what customers said are in memory: it is left in no core file, and nobody but root can look into it or
/// into the environment. A kernel that does not know how is no reason not to go on.
fn keep_memory_private() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the threads that this program runs on")?;
    let outcome = runtime.block_on(cli::execute(cli));
    runtime.shutdown_timeout(LINGER);
    outcome
}
