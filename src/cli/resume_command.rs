//! `resume`: ends the waits after a 429 and the pauses after failures, so that requests are retried
//! now.
//!
//! The request limits still apply. A running daemon notices at once, and one that starts later
//! finds no wait.

use super::{CommandContext, human_format, terminal};
use crate::account::{budget_name, metadata_budget_name};
use crate::db::OpenMode;
use crate::status;

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
    let accounts = match &args.account {
        Some(wanted) => vec![context.find_account(&db, wanted).await?],
        None => db.accounts().await?,
    };
    for account in &accounts {
        let sub = &account.id.sub;
        let budgets = [metadata_budget_name(sub), budget_name(&settings.limits, sub)];
        db.request_resume(account.key, &budgets, now).await?;
    }
    db.bump_change_version().await?;
    let here = db.database_now(now).await?;
    let is_running = db.replicas().await?.iter().any(|replica| status::is_alive(replica, here));
    db.close().await;
    let count = human_format::format_count(accounts.len() as u64, "account");
    terminal::print_stdout(&match is_running {
        true => format!("ended the waits and pauses of {count}; the daemon retries now, within the limits\n"),
        false => {
            format!(
                "ended the waits and pauses of {count}; no daemon is running, and the next one starts without them\n"
            )
        }
    })?;
    Ok(0)
}
