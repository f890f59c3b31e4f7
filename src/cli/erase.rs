//! `erase`: lawful erasure, by segment, dialog or contact; and the journal of it and of holds.
//!
//! Looks first and says what it found, then asks once; without a terminal it wants `--yes`. What a hold keeps stays and is
//! named, and so is what may be meant, but may be another's.

mod journal;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Context, UsageError, terminal, words};
use crate::db::{Access, AsideText, Db, Erased, ExportRange, Scrubbed, SegmentRef};
use crate::keeping::{self, Found, Request};
use crate::model::Subject;
use crate::reading::one_line;

/// How many segments a look shows one by one.
const SHOWN: usize = 20;

/// What an erasure or a hold is about: exactly one of these.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct About {
    /// This segment
    #[arg(long, value_name = "ID", group = "about")]
    pub segment: Option<String>,
    /// All segments of this dialog
    #[arg(long, value_name = "ID", group = "about")]
    pub dialog: Option<String>,
    /// All segments with this contact: a telephone number, an address, an id or a name, whole
    #[arg(long, value_name = "VALUE", group = "about")]
    pub contact: Option<String>,
}

impl About {
    /// What was named, if anything was.
    ///
    /// # Errors
    /// Where it is empty.
    pub fn subject(&self) -> Result<Option<Subject>, UsageError> {
        let named = |value: &Option<String>, of: fn(String) -> Subject| value.clone().map(of);
        let subject = named(&self.segment, Subject::Segment)
            .or(named(&self.dialog, Subject::Dialog))
            .or(named(&self.contact, Subject::Contact));
        match subject {
            Some(subject) if subject.normal().trim().is_empty() => {
                Err(UsageError(format!("--{} is empty\nhint: give it whole", subject.kind())))
            }
            subject => Ok(subject),
        }
    }
}

/// Options of `erase`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    about: About,
    /// Only in this account: sub-account id or name. With --segment, an id that is not in the archive is kept out of it for good
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Why, for the journal; do not name anyone in it, it is never erased
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be erased, and erase nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; without a terminal nothing is erased unless this is given
    #[arg(long, short)]
    yes: bool,
    /// With --contact, also erase what may be the contact's: a number that is alike, a speaker who may be the agent
    #[arg(long, requires = "contact")]
    include_alike: bool,
    /// With --contact, also erase what cannot be read, whoever's it is
    #[arg(long, requires = "contact")]
    include_unreadable: bool,
    /// On SQLite, leave the file as it is, so that unused parts of it may hold traces until --rewrite is run
    #[arg(long, conflicts_with = "rewrite")]
    quick: bool,
    /// On SQLite, write the whole file anew, so that no trace of anything erased is left in it; erases nothing itself
    #[arg(long, conflicts_with_all = ["about", "dry_run", "journal"])]
    rewrite: bool,
    /// Let retention erase what it has announced and waits for, without waiting for the day to pass
    #[arg(long, conflicts_with_all = ["about", "dry_run", "rewrite", "quick", "reason", "journal"])]
    retention_now: bool,
    /// Show who had what erased or kept, and when
    #[arg(long, conflicts_with_all = ["dry_run", "yes", "quick", "reason", "account", "include_alike", "include_unreadable"])]
    journal: bool,
    /// With --journal, print JSON, a line an entry
    #[arg(long, requires = "journal")]
    json: bool,
}

/// Does it; exit status 1 where nothing was found, or something stays that is meant or may be.
///
/// # Errors
/// Where nothing is named, or the database fails.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let subject = args.about.subject()?;
    if subject.is_none() && !args.journal && !args.rewrite && !args.retention_now {
        let what =
            "nothing is named\nhint: --segment, --dialog or --contact says what to erase; --journal shows what was";
        return Err(UsageError(what.to_owned()).into());
    }
    if subject.is_some() && !args.journal && !args.dry_run && !args.yes && !can_ask() {
        let what = "nothing was erased: there is no terminal to ask for confirmation\nhint: --dry-run shows what would be erased; --yes erases it";
        return Err(UsageError(what.to_owned()).into());
    }
    let db = context.open(Access::Existing).await?;
    let status = match subject {
        subject if args.journal => journal::show(&db, subject.as_ref(), args.json).await?,
        None if args.retention_now => approve_retention(&args, &db, context).await?,
        None => {
            forget(&db).await?;
            if scrub(&db, true, context).await? {
                terminal::print("the database file was written anew: no trace of what was erased is left in it\n")?;
            }
            0
        }
        Some(subject) => erase(&args, subject, &db, context).await?,
    };
    db.close().await;
    Ok(status)
}

/// Approves the passes of retention that wait, in one account or in all; 1 where none waits.
async fn approve_retention(args: &Args, db: &Db, context: &Context) -> anyhow::Result<u8> {
    let accounts = match &args.account {
        Some(account) => vec![context.account(db, account).await?],
        None => db.accounts().await?,
    };
    let mut waiting = Vec::new();
    for account in &accounts {
        if let Some(notice) = keeping::notice(db, account.key).await?.filter(|notice| !notice.approved) {
            let count = words::count(notice.segments, "segment");
            terminal::print(&format!("to erase by retention: {count} of account {}\n", one_line(&account.id.sub)))?;
            waiting.push(account.key);
        }
    }
    if waiting.is_empty() {
        terminal::print("no pass of retention waits for approval\n")?;
        return Ok(1);
    }
    if !args.yes && !can_ask() {
        let what = "nothing was approved: there is no terminal to ask for confirmation\nhint: --yes approves it";
        return Err(UsageError(what.to_owned()).into());
    }
    if !args.yes && !agreed()? {
        bail!("nothing was approved\nhint: answer yes, or give --yes");
    }
    for key in waiting {
        db.approve_retention(key, context.clock.now()).await?;
    }
    db.ring().await?;
    terminal::print("approved: the daemon erases them as soon as all clocks agree\n")?;
    Ok(0)
}

async fn erase(args: &Args, subject: Subject, db: &Db, context: &Context) -> anyhow::Result<u8> {
    let account = match &args.account {
        Some(account) => Some(context.account(db, account).await?.key),
        None => None,
    };
    let request = Request {
        subject,
        account,
        who: who(),
        reason: args.reason.clone(),
        include_alike: args.include_alike,
        include_unreadable: args.include_unreadable,
    };
    let found = look(db, &request).await?;
    terminal::print(&sighted(&found, args.dry_run))?;
    if found.is_nothing() {
        bail!("{}", nothing(&request, found.agents));
    }
    if args.dry_run {
        return Ok(u8::from(found.is_incomplete()));
    }
    if !found.is_to_go() && !found.is_held() {
        bail!(
            "nothing was erased: all that was found may be another's\nhint: look at each with `ringcx-extractor show`, then erase it by id, or all of them with --include-alike or --include-unreadable"
        );
    }
    if found.is_to_go() && !args.yes && !agreed()? {
        bail!("nothing was erased\nhint: answer yes, or give --yes");
    }
    let bar = bar(found.segments.len() as u64, "erasing");
    let (erased, found) = keeping::erase(db, &request, found, context.clock.now(), &mut |count| bar.inc(count)).await?;
    bar.finish_and_clear();
    if erased != Erased::default() {
        db.ring().await?;
        // Said before anything else can fail: it is done, and cannot be undone.
        terminal::print(&told(&erased))?;
        forget(db).await?;
        scrub(db, !args.quick, context).await?;
    }
    Ok(u8::from(found.is_incomplete()))
}

async fn look(db: &Db, request: &Request) -> anyhow::Result<Found> {
    let bar = match request.subject {
        Subject::Contact(_) => {
            let range = ExportRange { account: request.account, ..ExportRange::default() };
            bar(db.count_segments(range).await?, "looking")
        }
        _ => ProgressBar::hidden(),
    };
    let found = keeping::look(db, request, &mut |count| bar.inc(count)).await?;
    bar.finish_and_clear();
    Ok(found)
}

/// What was found, for people.
fn sighted(found: &Found, only_to_say: bool) -> String {
    let mut text = String::new();
    let mut accounts: BTreeMap<&str, u64> = BTreeMap::new();
    for segment in &found.segments {
        *accounts.entry(&segment.sub).or_default() += 1;
    }
    for (sub, count) in accounts {
        text += &format!("to erase: {} of account {}\n", words::count(count, "segment"), one_line(sub));
    }
    if only_to_say {
        text += &first_named(&found.segments);
    }
    if !found.asides.is_empty() {
        text += &format!("to erase: {} that had been set aside\n", words::count(found.asides.len() as u64, "record"));
    }
    // Whoever confirms must see which: by name, all of them.
    if !found.national.is_empty() {
        let count = words::count(found.national.len() as u64, "segment");
        text += &format!("note: {count} of them by the number with or without its country's code:\n");
        text += &named(&found.national);
    }
    if !found.alike.is_empty() {
        let count = words::count(found.alike.len() as u64, "segment");
        text += &format!(
            "possibly meant: {count} with a number that is alike, or a speaker who may be the agent; kept without --include-alike:\n"
        );
        text += &named(&found.alike);
    }
    if !found.alike_asides.is_empty() {
        let count = words::count(found.alike_asides.len() as u64, "record");
        text +=
            &format!("possibly meant: {count} set aside, with a number that is alike; kept without --include-alike:\n");
        text += &named_asides(&found.alike_asides);
    }
    if !found.unreadable.is_empty() {
        let count = words::count(found.unreadable.len() as u64, "segment");
        text += &format!(
            "possibly meant: {count} whose metadata or transcript cannot be read; kept without --include-unreadable:\n"
        );
        text += &named(&found.unreadable);
    }
    if !found.unreadable_asides.is_empty() {
        let count = words::count(found.unreadable_asides.len() as u64, "record");
        text += &format!("possibly meant: {count} set aside that cannot be read; kept without --include-unreadable:\n");
        text += &named_asides(&found.unreadable_asides);
    }
    if found.unknown.is_some() {
        text += "the segment is not in the archive: it will not be taken in, should it be announced\n";
    }
    for (hold, count) in found.holds() {
        let why = hold.reason.as_deref().map(|reason| format!(" ({})", one_line(reason))).unwrap_or_default();
        text += &format!("on hold: {}, kept by hold {}{why}\n", words::count(count, "piece"), hold.id);
    }
    if !found.held_unreadable.is_empty() {
        let count = words::count(found.held_unreadable.len() as u64, "segment");
        text += &format!("{count} of these cannot be read, so that they may be of a contact on hold:\n");
        text += &named(&found.held_unreadable);
    }
    if found.is_held() {
        text += "hint: `ringcx-extractor hold --release NUMBER` ends a hold\n";
    }
    text
}

/// A line for each of these segments.
fn named<'a>(segments: impl IntoIterator<Item = &'a SegmentRef>) -> String {
    let line = |segment: &SegmentRef| {
        let ended = segment.ended.known().map_or_else(|| "end unknown".to_owned(), |end| end.rfc3339_secs());
        format!("  {} of account {}, {ended}\n", one_line(&segment.segment_id), one_line(&segment.sub))
    };
    segments.into_iter().map(line).collect()
}

/// A line for each of these records.
fn named_asides(asides: &[AsideText]) -> String {
    let id = |aside: &AsideText| aside.segment_id.as_deref().map_or("without a segment id".to_owned(), one_line);
    asides.iter().map(|aside| format!("  {}\n", id(aside))).collect()
}

/// The first of these segments, and how many more there are.
pub(super) fn first_named(segments: &[SegmentRef]) -> String {
    let more = segments.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    named(segments.iter().take(SHOWN)) + &rest
}

fn nothing(request: &Request, agents: u64) -> String {
    let kind = request.subject.kind();
    let hint = match &request.subject {
        Subject::Segment(_) if request.account.is_none() => {
            "ids are opaque, each letter counts; with --account, an id that is not held yet is kept out of the archive for good"
        }
        Subject::Contact(_) if agents > 0 => {
            "an agent has this name or id, and agents are not contacts: erase the segments by id"
        }
        Subject::Contact(_) => "names, addresses and ids count whole; docs/keeping.md says how numbers are compared",
        _ => "ids are opaque, each letter counts",
    };
    format!("the archive holds nothing of this {kind}; nothing was erased\nhint: {hint}")
}

fn told(erased: &Erased) -> String {
    let mut parts = Vec::new();
    if erased.segments > 0 {
        parts.push(words::count(erased.segments, "segment"));
    }
    if erased.records > 0 {
        parts.push(format!("{} set aside", words::count(erased.records, "record")));
    }
    if parts.is_empty() {
        return "noted: it will not be taken in\n".to_owned();
    }
    format!("erased for good: {}\n", parts.join(" and "))
}

/// Whether there is someone to answer.
fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks once.
fn agreed() -> anyhow::Result<bool> {
    let mut out = anstream::stderr().lock();
    write!(out, "Erase for good? This cannot be undone. [y/N] ").and_then(|()| out.flush()).context("failed to ask")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("failed to read the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Has the index forget what was erased. What its log holds of that goes with [`scrub`].
async fn forget(db: &Db) -> anyhow::Result<()> {
    db.purge_words().await.context(
        "failed to have the search index forget for good: it is erased from the archive, but words of it may still be read in the database's files\nhint: once the database takes writes again, run `ringcx-extractor erase --rewrite`",
    )
}

/// Cleans SQLite's files, and says plainly where that did not work; whether they are as clean as can be.
async fn scrub(db: &Db, rewrite: bool, context: &Context) -> anyhow::Result<bool> {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    spinner.set_message("writing the database file anew, so that no trace is left in it");
    spinner.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    spinner.enable_steady_tick(Duration::from_millis(200));
    let scrubbed = db.scrub(rewrite, &context.clock).await;
    spinner.finish_and_clear();
    match scrubbed {
        Ok(Scrubbed::Clean) => return Ok(true),
        Ok(Scrubbed::NotOurs) => terminal::remark(
            "note: Postgres keeps deleted rows in its pages until they are vacuumed, and in its write-ahead log and backups: see docs/keeping.md",
        ),
        Ok(Scrubbed::NotRewritten) => terminal::remark(
            "note: unused parts of the database file may hold traces until `ringcx-extractor erase --rewrite` has been run",
        ),
        Ok(Scrubbed::LogInUse) => terminal::remark(
            "warning: traces may still be read in the database's -wal file: someone reads the archive at present and keeps it from being emptied\nhint: run `ringcx-extractor erase --rewrite` later, or restart the daemon",
        ),
        Err(error) => {
            return Err(anyhow::Error::from(error).context(
                "failed to write the database file anew: it is erased from the archive, but traces may still be read in the file\nhint: see that there is as much room as the file takes, then run `ringcx-extractor erase --rewrite`",
            ));
        }
    }
    Ok(false)
}

/// Who is at work: the user as the system knows them, and the host.
pub(super) fn who() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|user| !user.trim().is_empty());
    let user = named("SUDO_USER").or_else(|| named("USER"));
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = hostname::get().map_or_else(|_| "unknown".to_owned(), |host| host.to_string_lossy().into_owned());
    one_line(&format!("{user}@{host}"))
}

/// On standard error, and only where that is a terminal.
pub(super) fn bar(total: u64, what: &str) -> ProgressBar {
    let template = format!("{{spinner}} {what} {{wide_bar}} {{human_pos}}/{{human_len}} segments, {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style)
}
