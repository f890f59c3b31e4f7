//! `hold`: legal holds, which keep what retention or erasure would take.

use anyhow::bail;
use serde::Serialize;

use super::erase::{About, who};
use super::{Context, UsageError, terminal};
use crate::db::{Access, Db, Done, Entry, Hold};
use crate::reading::one_line;

/// Options of `hold`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    about: About,
    /// Only in this account: sub-account id or name [default: in all]
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Why, for the list of holds and the journal; do not name anyone in it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// List the holds
    #[arg(long, conflicts_with_all = ["about", "account", "reason", "release"])]
    list: bool,
    /// With --list, print JSON, a line a hold
    #[arg(long, requires = "list")]
    json: bool,
    /// End the hold with this number
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["about", "account"])]
    release: Option<i64>,
}

/// A hold as `--list --json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    id: i64,
    sub_account_id: Option<&'a str>,
    kind: &'static str,
    value: &'a str,
    placed: String,
    who: &'a str,
    reason: Option<&'a str>,
}

/// Places, lists or releases.
///
/// # Errors
/// Where nothing is asked for, there is no such hold, or the database fails.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let subject = args.about.subject()?;
    if subject.is_none() && !args.list && args.release.is_none() {
        let what = "nothing is named\nhint: --segment, --dialog or --contact says what to keep; --list shows the holds, --release ends one";
        return Err(UsageError(what.to_owned()).into());
    }
    let db = context.open(Access::Existing).await?;
    if args.list {
        list(&db, args.json).await?;
    } else if let Some(id) = args.release {
        let reason = args.reason.clone();
        let Some(released) = db.release_hold(id, &who(), reason, context.clock.now()).await? else {
            bail!("there is no hold {id}\nhint: `ringcx-extractor hold --list` shows them");
        };
        terminal::print(&format!("released hold {}: retention and erasure may take it again\n", released.id))?;
    } else {
        let account = match &args.account {
            Some(account) => Some(context.account(&db, account).await?.key),
            None => None,
        };
        let entry = Entry { who: who(), what: Done::Hold, subject, hold: None, reason: args.reason.clone() };
        let id = db.place_hold(&entry, account, context.clock.now()).await?;
        terminal::print(&format!(
            "placed hold {id}: what it names is kept, and whatever of it is found from now on\n"
        ))?;
    }
    db.close().await;
    Ok(0)
}

async fn list(db: &Db, json: bool) -> anyhow::Result<()> {
    let holds = db.holds(None).await?;
    let accounts = db.accounts().await?;
    let sub = |hold: &Hold| {
        let account = accounts.iter().find(|account| Some(account.key) == hold.account);
        account.map(|account| account.id.sub.to_string())
    };
    if json {
        for hold in &holds {
            let sub = sub(hold);
            let line = Line {
                id: hold.id,
                sub_account_id: sub.as_deref(),
                kind: hold.subject.kind(),
                value: hold.subject.value(),
                placed: hold.placed.rfc3339(),
                who: &hold.who,
                reason: hold.reason.as_deref(),
            };
            terminal::print(&format!("{}\n", serde_json::to_string(&line)?))?;
        }
        return Ok(());
    }
    if holds.is_empty() {
        terminal::remark("there are no holds");
        return Ok(());
    }
    let header = ["hold", "since", "who", "account", "keeps", "reason"];
    let mut table = terminal::table(header, 5, terminal::width());
    for hold in &holds {
        table.add_row([
            hold.id.to_string(),
            hold.placed.rfc3339_secs(),
            one_line(&hold.who),
            one_line(sub(hold).as_deref().unwrap_or("all")),
            format!("{} {}", hold.subject.kind(), one_line(hold.subject.value())),
            one_line(hold.reason.as_deref().unwrap_or("")),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    terminal::print(&(lines.join("\n") + "\n"))?;
    Ok(())
}
