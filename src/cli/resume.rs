//! `resume`: lifts the waits that a 429 or a failure asked for, so that everything is tried again now.
//!
//! The limits hold as before. A running daemon notices at once; one that starts later finds no wait to keep.

use super::{Context, terminal, words};
use crate::account::{budget_name, metadata_budget_name};
use crate::db::Access;
use crate::status;

/// Options of `resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this account: sub-account id or name [default: all]
    #[arg(long, value_name = "SUB|NAME")]
    account: Option<String>,
}

/// Lifts them.
///
/// # Errors
/// Where there is no such account, or the database cannot be written.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let db = context.open(Access::Existing).await?;
    let now = context.clock.now();
    let accounts = match &args.account {
        Some(wanted) => vec![context.account(&db, wanted).await?],
        None => db.accounts().await?,
    };
    for account in &accounts {
        let sub = &account.id.sub;
        let budgets = [metadata_budget_name(sub), budget_name(&settings.limits, sub)];
        db.resume_account(account.key, &budgets, now).await?;
    }
    db.ring().await?;
    let here = db.here(now).await?;
    let is_running = db.replicas().await?.iter().any(|replica| status::is_alive(replica, here));
    db.close().await;
    let count = words::count(accounts.len() as u64, "account");
    terminal::print(&match is_running {
        true => format!("waits and pauses of {count} are lifted; the daemon tries again now, within the limits\n"),
        false => {
            format!("waits and pauses of {count} are lifted; no daemon is running: the next one begins without them\n")
        }
    })?;
    Ok(0)
}
