//! `man-pages`: writes the man pages of all commands, for packages.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory;

use super::{Cli, CommandContext};

#[derive(Debug, clap::Args)]
pub(crate) struct ManPagesArgs {
    /// The folder to write to; it must exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(crate) async fn run(args: ManPagesArgs, _context: &CommandContext) -> anyhow::Result<u8> {
    // A page is the same for every commit of a version.
    let command = Cli::command().long_version(env!("CARGO_PKG_VERSION"));
    clap_mangen::generate_to(command, &args.folder)
        .with_context(|| format!("failed to write man pages to {}", args.folder.display()))?;
    Ok(0)
}
