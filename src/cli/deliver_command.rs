//! `deliver`: shows pending and failed events of each sink, resends events, and tries a sink.
//!
//! Except for a test event, the command only reads and queues. A daemon on the same database sends
//! the events.

mod sink_table;
mod sink_test;

use anyhow::bail;
use base64::Engine;
use clap::Subcommand;
use rand::Rng;

use super::human_format::format_count;
use super::{CommandContext, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::config::SinkKind;
use crate::db::{Db, OpenMode, ReplayRequest};
use crate::error::UserError;
use crate::model::TimeRange;
use crate::operator_actions::{self, require_sink};

#[derive(Debug, clap::Args)]
pub(crate) struct DeliverArgs {
    #[command(subcommand)]
    pub(crate) command: DeliverCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeliverCommand {
    /// Show each sink with its pending, failed and delivered events
    Status(DeliverStatusArgs),
    /// Resend failed events and restart stopped sinks
    Retry(DeliverRetryArgs),
    /// Resend the events of a past time range, in addition to new events
    Replay(DeliverReplayArgs),
    /// Send a test event to a sink and print the answer
    Test(DeliverTestArgs),
    /// Print a new signing secret for a webhook
    NewSecret,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeliverStatusArgs {
    /// Only this sink
    #[arg(long, value_name = "NAME")]
    pub(crate) sink: Option<String>,
    /// Print JSON, with the numbers of each account
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeliverRetryArgs {
    /// Only this sink [default: all sinks of the settings]
    #[arg(long, value_name = "NAME")]
    pub(crate) sink: Option<String>,
    /// Also resend now the events that wait for an automatic retry
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeliverTestArgs {
    /// The sink of the settings
    #[arg(value_name = "SINK")]
    pub(crate) sink: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeliverReplayArgs {
    /// The sink that receives the events
    #[arg(long, value_name = "NAME")]
    pub(crate) sink: String,
    /// Events of artifacts that were stored at or after this time
    #[arg(long, value_name = "T")]
    pub(crate) from: String,
    /// Events of artifacts that were stored before this time
    #[arg(long, value_name = "T")]
    pub(crate) to: String,
    /// Only this account: sub-account id or name [default: all]
    #[arg(long, value_name = "SUB|NAME")]
    pub(crate) account: Option<String>,
    /// Maximum number of events per second
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
}

pub(crate) async fn run(args: DeliverArgs, context: &CommandContext) -> anyhow::Result<u8> {
    if let DeliverCommand::NewSecret = args.command {
        terminal::print_stdout(&format!("{}\n", generate_secret()))?;
        return Ok(0);
    }
    let settings = context.settings()?;
    if let DeliverCommand::Test(args) = &args.command {
        require_sink(settings, &args.sink)?;
        return sink_test::send_test_event(&args.sink, settings, &context.clock).await;
    }
    let db = context.open_database(OpenMode::Existing).await?;
    match args.command {
        DeliverCommand::Status(args) => sink_table::show_sinks(&args, &db, settings, context.clock.now()).await?,
        DeliverCommand::Retry(args) => retry_failed(&args, &db, context).await?,
        DeliverCommand::Replay(args) => request_replay(&args, &db, context).await?,
        DeliverCommand::Test(_) | DeliverCommand::NewSecret => {}
    }
    db.close().await;
    Ok(0)
}

/// Generates a secret in the format of Standard Webhooks: 32 random bytes of the operating system.
fn generate_secret() -> String {
    let key: [u8; 32] = rand::rng().random();
    format!("whsec_{}", base64::prelude::BASE64_STANDARD.encode(key))
}

async fn retry_failed(args: &DeliverRetryArgs, db: &Db, context: &CommandContext) -> anyhow::Result<()> {
    let settings = context.settings()?;
    if args.sink.is_none() && settings.sinks.is_empty() {
        terminal::print_stdout(
            "no sinks, so there is nothing to resend\nhint: [[sinks]] in the settings define the systems that receive events\n",
        )?;
        return Ok(());
    }
    let what = format!("failed events of {}", args.sink.as_deref().unwrap_or("all sinks"));
    context.record_access(db, AccessAction::Redeliver, AccessSubject::Other { what: &what, sub: None }).await?;
    let sink = args.sink.as_deref();
    let done = operator_actions::retry_deliveries(db, settings, sink, args.all, context.clock.now()).await?;
    for name in done.restarted {
        terminal::print_stdout(&format!("restarted sink {name}\n"))?;
    }
    terminal::print_stdout(&describe_retry(done.events, args.all))?;
    Ok(())
}

fn describe_retry(events: u64, all: bool) -> String {
    match events {
        0 => format!(
            "no {} events; a running daemon retries paused sinks at once\n",
            if all { "failed or waiting" } else { "failed" }
        ),
        _ => format!("{} will be resent by the running daemon or the next one\n", format_count(events, "event")),
    }
}

async fn request_replay(args: &DeliverReplayArgs, db: &Db, context: &CommandContext) -> anyhow::Result<()> {
    let settings = context.settings()?;
    require_sink(settings, &args.sink)?;
    if settings.sinks.iter().any(|sink| sink.name == args.sink && matches!(sink.kind, SinkKind::Lake(_))) {
        let error =
            UserError::usage(format!("the sink {:?} has tables: they always hold what the archive holds", args.sink));
        bail!(
            error
                .with_hint("there is nothing to send again; a file that is missing is written again at the next start")
        );
    }
    let row = db.sinks().await?.into_iter().find(|row| row.name == args.sink);
    let row = row.ok_or_else(|| {
        UserError::usage(format!("no daemon has started the sink {:?} yet", args.sink))
            .with_hint("`ringcx-extractor run` registers it; with start = \"beginning\" it receives everything")
    })?;
    let (from, to) = context.parse_range(Some(&args.from), Some(&args.to))?;
    let empty = || UserError::usage("the range of --from and --to is empty");
    let stored = from.zip(to).and_then(|(from, to)| TimeRange::new(from, to)).ok_or_else(empty)?;
    let account = context.find_account(db, args.account.as_deref()).await?;
    let what = format!("replay to {} from {} to {}", args.sink, args.from, args.to);
    let sub = account.as_ref().map(|account| &*account.id.sub);
    context.record_access(db, AccessAction::Redeliver, AccessSubject::Other { what: &what, sub }).await?;
    let account = account.map(|account| account.key);
    let request = ReplayRequest { sink: row.key, account, stored, rate: args.rate };
    let accounts = db.request_replay(&request, context.clock.now()).await?;
    db.bump_change_version().await?;
    terminal::print_stdout(&format!(
        "queued a replay of the artifacts stored from {} to {} for sink {}: {}, at most {} per second\n`ringcx-extractor deliver status` shows the progress\n",
        stored.from.rfc3339_secs(),
        stored.to.rfc3339_secs(),
        args.sink,
        format_count(accounts, "account"),
        format_count(u64::from(args.rate), "event"),
    ))?;
    Ok(())
}
