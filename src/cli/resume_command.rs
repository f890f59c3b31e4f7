//! `resume`: ends the waits after a 429 and the pauses after failures, so that requests are retried
//! now.
//!
//! The request limits still apply. A running daemon notices at once, and one that starts later
//! finds no wait.

use super::{CommandContext, human_format, is_daemon_alive, terminal};
use crate::db::OpenMode;
use crate::operator_actions;

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Only this account: sub-account id or name [default: all]
    #[arg(long, value_name = "SUB|NAME")]
    account: Option<String>,
}

pub(crate) async fn run(args: ResumeArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let db = context.open_database(OpenMode::Existing).await?;
    let now = context.clock.now();
    let accounts = context.find_accounts(&db, args.account.as_deref()).await?;
    operator_actions::resume_accounts(&db, &accounts, settings, now).await?;
    let is_running = is_daemon_alive(&db, now).await?;
    db.close().await;
    let count = human_format::format_count(accounts.len() as u64, "account");
    let next = match is_running {
        true => "the daemon retries now, within the limits",
        false => "no daemon is running, and the next one starts without them",
    };
    terminal::print_stdout(&format!("ended the waits and pauses of {count}; {next}\n"))?;
    Ok(0)
}
