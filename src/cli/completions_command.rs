//! `completions`: prints the completion script of a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CommandContext, terminal};

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

pub(crate) async fn run(args: CompletionsArgs, _context: &CommandContext) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ringcx-extractor", &mut script);
    terminal::print_stdout(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
