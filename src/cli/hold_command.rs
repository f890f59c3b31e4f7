//! `hold`: places, lists and releases legal holds, which protect segments from retention and
//! erasure.

use anyhow::bail;
use serde::Serialize;

use super::erase_command::{SubjectArgs, current_user, list_first_segments, segment_progress_bar};
use super::human_format::{format_amounts, format_count};
use super::{CommandContext, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{AccountRow, Db, ExportRange, Hold, JournalAction, JournalEntry, OpenMode};
use crate::erasure::{self, HoldCount};
use crate::error::UserError;
use crate::render::clean_line;

#[derive(Debug, clap::Args)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    about: SubjectArgs,
    /// Only in this account: sub-account id or name [default: all]
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Reason, for the list of holds and the journal; do not name any person in it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// List the holds
    #[arg(long, conflicts_with_all = ["about", "account", "reason", "release"])]
    list: bool,
    /// Print JSON: with --list one hold per line, else the hold that was placed or released
    #[arg(long)]
    json: bool,
    /// Release the hold with this number
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["about", "account"])]
    release: Option<i64>,
}

/// A hold as JSON.
#[derive(Serialize)]
struct HoldJson<'a> {
    id: i64,
    sub_account_id: Option<&'a str>,
    kind: &'static str,
    value: &'a str,
    placed: String,
    who: &'a str,
    reason: Option<&'a str>,
    segments: u64,
    segments_possible: u64,
    records: u64,
}

/// Places, lists or releases holds.
pub(crate) async fn run(args: HoldArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let subject = args.about.subject()?;
    if subject.is_none() && !args.list && args.release.is_none() {
        let hint = "use --segment, --dialog or --contact to place a hold, --list to list the holds, or --release to release one";
        bail!(UserError::usage("no subject was given").with_hint(hint));
    }
    let db = context.open_database(OpenMode::Existing).await?;
    if args.list {
        list_holds(&db, args.json).await?;
    } else if let Some(id) = args.release {
        let reason = args.reason.clone();
        let what = format!("hold {id}");
        context.record_access(&db, AccessAction::Release, AccessSubject::Other { what: &what, sub: None }).await?;
        let Some(released) = db.release_hold(id, &current_user(), reason, context.clock.now()).await? else {
            let error = UserError::failed(format!("there is no hold {id}"));
            bail!(error.with_hint("`ringcx-extractor hold --list` lists the holds"));
        };
        match args.json {
            true => terminal::print_json(&serde_json::json!({ "released": released.id }))?,
            false => {
                terminal::print_stdout(&format!("released hold {}: retention and erasure apply again\n", released.id))?
            }
        }
    } else {
        let account = context.find_account(&db, args.account.as_deref()).await?;
        if let Some(subject) = &subject {
            let sub = account.as_ref().map(|account| &*account.id.sub);
            context.record_access(&db, AccessAction::Hold, AccessSubject::Subject { subject, sub }).await?;
        }
        let account = account.map(|account| account.key);
        let entry = JournalEntry {
            who: current_user(),
            what: JournalAction::Hold,
            subject,
            hold: None,
            reason: args.reason.clone(),
        };
        let id = db.place_hold(&entry, account, context.clock.now()).await?;
        // Printed before another step can fail, because the hold is active.
        if !args.json {
            terminal::print_stdout(&format!(
                "placed hold {id}: it protects all matching segments, including later ones\n"
            ))?;
        }
        let placed: Vec<Hold> = db.holds(account).await?.into_iter().filter(|hold| hold.id == id).collect();
        for (hold, counted) in placed.iter().zip(count_protected(&db, &placed).await?) {
            match args.json {
                true => print_json_lines(&db, std::slice::from_ref(hold), std::slice::from_ref(&counted)).await?,
                false => terminal::print_stdout(&format!("it protects {} now\n", describe_count(&counted)))?,
            }
            if let Some(warning) = hold_warning(hold, &counted) {
                terminal::print_stderr(&warning);
            }
            list_unreadable(&[counted]);
        }
    }
    db.close().await;
    Ok(0)
}

async fn count_protected(db: &Db, holds: &[Hold]) -> anyhow::Result<Vec<HoldCount>> {
    let total = match holds.iter().any(|hold| hold.subject.is_contact()) {
        true => db.count_segments(ExportRange::default()).await?,
        false => 0,
    };
    let bar = segment_progress_bar(total, "counting");
    let counts = erasure::count_holds(db, holds, &mut |read| bar.inc(read)).await?;
    bar.finish_and_clear();
    Ok(counts)
}

fn describe_count(counted: &HoldCount) -> String {
    let mut text = format_count(counted.segments, "segment");
    if counted.possible > 0 {
        text += &format!(
            " ({} of them as a precaution: a similar number, or a text that cannot be read)",
            counted.possible
        );
    }
    if counted.records > 0 {
        text += &format!(" and {} set aside", format_count(counted.records, "record"));
    }
    text
}

/// A warning about a hold that may not protect what the user expects.
fn hold_warning(hold: &Hold, counted: &HoldCount) -> Option<String> {
    let of_agents = (counted.agent_segments > 0).then(|| {
        let agents = format_count(counted.agent_segments, "segment");
        format!("{agents} with an agent of this name or id are not protected: agents are not contacts\nhint: hold these by --segment or --dialog")
    });
    let kind = hold.subject.kind();
    match (counted.is_empty(), of_agents) {
        (true, None) => Some(format!(
            "warning: hold {} protects nothing yet: the archive contains nothing of this {kind}; it will protect later matches\nhint: {}",
            hold.id,
            match kind {
                "contact" =>
                    "names, addresses and ids must match completely; docs/keeping.md explains how numbers are compared",
                _ => "ids must match exactly",
            }
        )),
        (true, Some(agents)) => Some(format!("warning: hold {} protects nothing yet; {agents}", hold.id)),
        (false, Some(agents)) => Some(format!("note: {agents}")),
        (false, None) => None,
    }
}

/// The sub-account that a hold covers; `None` for all.
fn sub_account_id(accounts: &[AccountRow], hold: &Hold) -> Option<String> {
    let account = accounts.iter().find(|account| Some(account.key) == hold.account);
    account.map(|account| account.id.sub.to_string())
}

async fn print_json_lines(db: &Db, holds: &[Hold], counts: &[HoldCount]) -> anyhow::Result<()> {
    let accounts = db.accounts().await?;
    for (hold, counted) in holds.iter().zip(counts) {
        let sub = sub_account_id(&accounts, hold);
        terminal::print_json(&HoldJson {
            id: hold.id,
            sub_account_id: sub.as_deref(),
            kind: hold.subject.kind(),
            value: hold.subject.value(),
            placed: hold.placed.rfc3339(),
            who: &hold.who,
            reason: hold.reason.as_deref(),
            segments: counted.segments,
            segments_possible: counted.possible,
            records: counted.records,
        })?;
    }
    Ok(())
}

async fn list_holds(db: &Db, json: bool) -> anyhow::Result<()> {
    let holds = db.holds(None).await?;
    let counts = count_protected(db, &holds).await?;
    if json {
        return print_json_lines(db, &holds, &counts).await;
    }
    let accounts = db.accounts().await?;
    let sub = |hold: &Hold| sub_account_id(&accounts, hold);
    if holds.is_empty() {
        terminal::print_stderr("there are no holds");
        return Ok(());
    }
    let header = ["hold", "since", "who", "account", "protects", "amount", "reason"];
    let rows = holds.iter().zip(&counts).map(|(hold, counted)| {
        [
            hold.id.to_string(),
            hold.placed.rfc3339_secs(),
            clean_line(&hold.who),
            clean_line(sub(hold).as_deref().unwrap_or("all")),
            format!("{} {}", hold.subject.kind(), clean_line(hold.subject.value())),
            format_amount(counted),
            clean_line(hold.reason.as_deref().unwrap_or("")),
        ]
    });
    terminal::print_stdout(&terminal::format_table(header, 6, 0..0, terminal::width(), rows))?;
    for (hold, counted) in holds.iter().zip(&counts) {
        if let Some(warning) = hold_warning(hold, counted).filter(|_| counted.is_empty()) {
            terminal::print_stderr(&warning);
        }
    }
    list_unreadable(&counts);
    Ok(())
}

/// Lists the segments that are protected because their contacts are unknown.
fn list_unreadable(counts: &[HoldCount]) {
    let mut segments: Vec<_> = counts.iter().flat_map(|counted| counted.unreadable.iter().cloned()).collect();
    segments.sort_by_key(|segment| segment.key);
    segments.dedup();
    if !segments.is_empty() {
        let names = list_first_segments(&segments);
        let count = format_count(segments.len() as u64, "segment");
        terminal::print_stderr(&format!(
            "warning: {count} cannot be read, so their contacts are unknown; every hold on a contact protects them:\n{}",
            names.trim_end()
        ));
    }
}

/// Formats the counts for the table.
fn format_amount(counted: &HoldCount) -> String {
    let parts = format_amounts(counted.segments, counted.records, "");
    if parts.is_empty() { "nothing yet".to_owned() } else { parts.join(", ") }
}
