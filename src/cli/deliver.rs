//! `deliver`: what waits for each sink, what failed, and sending again.
//!
//! Only looks and asks: whichever daemon works on the database does the sending.

mod view;

use base64::Engine;
use clap::Subcommand;
use rand::Rng;

use super::words::count;
use super::{Context, UsageError, terminal};
use crate::config::Settings;
use crate::db::{Access, Db, ReplayRequest, SinkRow};
use crate::model::Stretch;

/// Options of `deliver`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What there is to do about delivery.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show each sink: what waits, what failed and why, what was delivered
    Status(StatusArgs),
    /// Send what failed again, and start sinks that are stopped
    Retry(RetryArgs),
    /// Send once more what was stored in a range of time, beside what is new
    Replay(ReplayArgs),
    /// Print a new secret for a webhook to sign with
    NewSecret,
}

/// Options of `deliver status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Only this sink
    #[arg(long, value_name = "NAME")]
    pub sink: Option<String>,
    /// Print JSON, with each account
    #[arg(long)]
    pub json: bool,
}

/// Options of `deliver retry`.
#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// Only this sink [default: every sink of the settings]
    #[arg(long, value_name = "NAME")]
    pub sink: Option<String>,
    /// Also send at once what waits for another try by itself
    #[arg(long)]
    pub all: bool,
}

/// Options of `deliver replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// To this sink
    #[arg(long, value_name = "NAME")]
    pub sink: String,
    /// What was stored at or after: a time, a date, or a span back from now
    #[arg(long, value_name = "T")]
    pub from: String,
    /// What was stored before
    #[arg(long, value_name = "T")]
    pub to: String,
    /// Only this account: sub-account id or name [default: all]
    #[arg(long, value_name = "SUB|NAME")]
    pub account: Option<String>,
    /// At most so many events a second
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
}

/// Does what was asked.
///
/// # Errors
/// Where there is no such sink or account, nothing lies in the range, or the database fails.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    if let Command::NewSecret = args.command {
        terminal::print(&format!("{}\n", new_secret()))?;
        return Ok(0);
    }
    let settings = context.settings()?;
    let db = context.open(Access::Existing).await?;
    match args.command {
        Command::Status(args) => view::show(&args, &db, settings, context.clock.now()).await?,
        Command::Retry(args) => retry(&args, &db, context).await?,
        Command::Replay(args) => replay(&args, &db, context).await?,
        Command::NewSecret => {}
    }
    db.close().await;
    Ok(0)
}

/// 32 bytes from the operating system's generator, as Standard Webhooks writes them.
fn new_secret() -> String {
    let key: [u8; 32] = rand::rng().random();
    format!("whsec_{}", base64::prelude::BASE64_STANDARD.encode(key))
}

async fn retry(args: &RetryArgs, db: &Db, context: &Context) -> anyhow::Result<()> {
    let settings = context.settings()?;
    match &args.sink {
        Some(name) => named(settings, name)?,
        None if settings.sinks.is_empty() => {
            terminal::print(
                "no sinks, so nothing to send again\nhint: [[sinks]] in the settings tell other systems of what is stored\n",
            )?;
            return Ok(());
        }
        None => {}
    }
    let meant = |row: &SinkRow| match &args.sink {
        Some(name) => row.name == *name,
        None => settings.sinks.iter().any(|sink| sink.name == row.name),
    };
    let (mut events, mut started) = (0, Vec::new());
    for row in db.sinks().await?.into_iter().filter(meant) {
        events += db.retry_missed(row.key, args.all, context.clock.now()).await?;
        if row.stopped.is_some() {
            started.push(row.name);
        }
    }
    db.ring().await?;
    for name in started {
        terminal::print(&format!("sink {name} is started again\n"))?;
    }
    terminal::print(&retried(events, args.all))?;
    Ok(())
}

fn retried(events: u64, all: bool) -> String {
    match events {
        0 => format!(
            "nothing {}; a daemon that runs tries sinks that rest at once\n",
            if all { "had failed or was set aside" } else { "had failed" }
        ),
        _ => format!("{} will be sent again, by the daemon that runs or the next one\n", count(events, "event")),
    }
}

async fn replay(args: &ReplayArgs, db: &Db, context: &Context) -> anyhow::Result<()> {
    named(context.settings()?, &args.sink)?;
    let row = db.sinks().await?.into_iter().find(|row| row.name == args.sink);
    let row = row.ok_or_else(|| {
        UsageError(format!(
            "no daemon has seen the sink {:?} yet\nhint: `ringcx-extractor run` enters it; with start = \"beginning\" it is sent everything",
            args.sink
        ))
    })?;
    let (from, to) = context.range(Some(&args.from), Some(&args.to))?;
    let nothing = || UsageError("there is nothing between --from and --to".to_owned());
    let stored = from.zip(to).and_then(|(from, to)| Stretch::new(from, to)).ok_or_else(nothing)?;
    let account = match &args.account {
        Some(wanted) => Some(context.account(db, wanted).await?.key),
        None => None,
    };
    let request = ReplayRequest { sink: row.key, account, stored, rate: args.rate };
    let accounts = db.request_replay(&request, context.clock.now()).await?;
    db.ring().await?;
    terminal::print(&format!(
        "what was stored from {} to {} is sent to {} once more, of {}, at most {} a second\n`ringcx-extractor deliver status` shows how far it is\n",
        stored.from.rfc3339_secs(),
        stored.to.rfc3339_secs(),
        args.sink,
        count(accounts, "account"),
        count(u64::from(args.rate), "event"),
    ))?;
    Ok(())
}

/// Makes sure that the settings name this sink.
fn named(settings: &Settings, name: &str) -> Result<(), UsageError> {
    if settings.sinks.iter().any(|sink| sink.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = settings.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let hint = match known.as_slice() {
        [] => "the settings have no [[sinks]]".to_owned(),
        known => format!("the settings have {}", known.join(", ")),
    };
    Err(UsageError(format!("there is no sink named {name:?}\nhint: {hint}")))
}
