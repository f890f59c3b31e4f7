//! Parses the command line, runs the command, and maps an error to an exit status.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use ringcx_extractor::cli::{self, Cli, error_report};
use ringcx_extractor::ringcx;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// How long blocking threads may delay the exit after the command is done.
const RUNTIME_SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    protect_memory();
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();
    ringcx_extractor::file_descriptors::raise_descriptor_limit();
    ringcx::install_tls();
    match run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            error_report::print(&error);
            ExitCode::from(error_report::exit_status(&error))
        }
    }
}

/// Keeps secrets and customer data in memory private: disables core dumps, and lets only root read
/// the process's memory and environment. Errors are ignored, since some kernels do not support
/// this.
fn protect_memory() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let outcome = runtime.block_on(cli::execute(cli));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_GRACE);
    outcome
}
