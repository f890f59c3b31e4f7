//! `completions`: prints what a shell needs to complete this program's commands.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context, terminal};

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    pub shell: Shell,
}

/// Prints them.
///
/// # Errors
/// Where standard output cannot be written.
pub async fn run(args: Args, _context: &Context) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ringcx-extractor", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
