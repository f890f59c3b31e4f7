//! `hold`: legal holds, which keep what retention or erasure would take.

use anyhow::bail;
use serde::Serialize;

use super::erase::{About, bar, first_named, who};
use super::words::count;
use super::{Context, UsageError, terminal};
use crate::db::{Access, Db, Done, Entry, ExportRange, Hold};
use crate::keeping::{self, HoldCount};
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
    segments: u64,
    segments_possible: u64,
    records: u64,
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
        // Said before anything else can fail: it is placed.
        terminal::print(&format!("placed hold {id}: it keeps what it names, also what is found later\n"))?;
        let placed: Vec<Hold> = db.holds(account).await?.into_iter().filter(|hold| hold.id == id).collect();
        for (hold, counted) in placed.iter().zip(count_kept(&db, &placed).await?) {
            terminal::print(&format!("it keeps {} now\n", kept(&counted)))?;
            if let Some(warning) = warning(hold, &counted) {
                terminal::remark(&warning);
            }
            name_unreadable(&[counted]);
        }
    }
    db.close().await;
    Ok(0)
}

async fn count_kept(db: &Db, holds: &[Hold]) -> anyhow::Result<Vec<HoldCount>> {
    let total = match holds.iter().any(|hold| hold.subject.is_contact()) {
        true => db.count_segments(ExportRange::default()).await?,
        false => 0,
    };
    let bar = bar(total, "counting");
    let counts = keeping::count_holds(db, holds, &mut |read| bar.inc(read)).await?;
    bar.finish_and_clear();
    Ok(counts)
}

fn kept(counted: &HoldCount) -> String {
    let mut text = count(counted.segments, "segment");
    if counted.possible > 0 {
        text += &format!(" ({} of them to be safe: a number alike, or a text that cannot be read)", counted.possible);
    }
    if counted.records > 0 {
        text += &format!(" and {} set aside", count(counted.records, "record"));
    }
    text
}

/// What to say of a hold that does not keep what one may expect.
fn warning(hold: &Hold, counted: &HoldCount) -> Option<String> {
    let of_agents = (counted.agents > 0).then(|| {
        let agents = count(counted.agents, "segment");
        format!("{agents} with an agent of this name or id are not kept: agents are not contacts\nhint: hold these by --segment or --dialog")
    });
    let kind = hold.subject.kind();
    match (counted.is_nothing(), of_agents) {
        (true, None) => Some(format!(
            "warning: hold {} keeps nothing yet: the archive has nothing of this {kind}; it will keep what comes\nhint: {}",
            hold.id,
            match kind {
                "contact" => "names, addresses and ids count whole; docs/keeping.md says how numbers are compared",
                _ => "ids are opaque, each letter counts",
            }
        )),
        (true, Some(agents)) => Some(format!("warning: hold {} keeps nothing yet; {agents}", hold.id)),
        (false, Some(agents)) => Some(format!("note: {agents}")),
        (false, None) => None,
    }
}

async fn list(db: &Db, json: bool) -> anyhow::Result<()> {
    let holds = db.holds(None).await?;
    let counts = count_kept(db, &holds).await?;
    let accounts = db.accounts().await?;
    let sub = |hold: &Hold| {
        let account = accounts.iter().find(|account| Some(account.key) == hold.account);
        account.map(|account| account.id.sub.to_string())
    };
    if json {
        for (hold, counted) in holds.iter().zip(&counts) {
            let sub = sub(hold);
            let line = Line {
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
            };
            terminal::print(&format!("{}\n", serde_json::to_string(&line)?))?;
        }
        return Ok(());
    }
    if holds.is_empty() {
        terminal::remark("there are no holds");
        return Ok(());
    }
    let header = ["hold", "since", "who", "account", "keeps", "how much", "reason"];
    let mut table = terminal::table(header, 6, terminal::width());
    for (hold, counted) in holds.iter().zip(&counts) {
        table.add_row([
            hold.id.to_string(),
            hold.placed.rfc3339_secs(),
            one_line(&hold.who),
            one_line(sub(hold).as_deref().unwrap_or("all")),
            format!("{} {}", hold.subject.kind(), one_line(hold.subject.value())),
            how_much(counted),
            one_line(hold.reason.as_deref().unwrap_or("")),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    terminal::print(&(lines.join("\n") + "\n"))?;
    for (hold, counted) in holds.iter().zip(&counts) {
        if let Some(warning) = warning(hold, counted).filter(|_| counted.is_nothing()) {
            terminal::remark(&warning);
        }
    }
    name_unreadable(&counts);
    Ok(())
}

/// Names the segments that are kept because nobody can tell whose they are.
fn name_unreadable(counts: &[HoldCount]) {
    let mut segments: Vec<_> = counts.iter().flat_map(|counted| counted.unreadable.iter().cloned()).collect();
    segments.sort_by_key(|segment| segment.key);
    segments.dedup();
    if !segments.is_empty() {
        let names = first_named(&segments);
        let count = count(segments.len() as u64, "segment");
        terminal::remark(&format!(
            "warning: {count} cannot be read, so that nobody can tell whose they are; a hold on a contact keeps them:\n{}",
            names.trim_end()
        ));
    }
}

/// For the table.
fn how_much(counted: &HoldCount) -> String {
    let mut parts = Vec::new();
    if counted.segments > 0 {
        parts.push(count(counted.segments, "segment"));
    }
    if counted.records > 0 {
        parts.push(count(counted.records, "record"));
    }
    if parts.is_empty() { "nothing yet".to_owned() } else { parts.join(", ") }
}
