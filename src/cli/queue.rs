//! `queue`: work items, above all those that gave up, and what a person decides about them.

mod list;

use anyhow::bail;
use clap::{Subcommand, ValueEnum};

use super::words::count;
use super::{Context, UsageError, terminal};
use crate::db::{Access, Db, QueueFilter};
use crate::model::{Artifact, State};

/// Options of `queue`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do with them.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done with work items.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List items; without options those that gave up: unavailable, failed or discarded
    List(ListArgs),
    /// Show the items of one segment, with what went wrong at each try
    Show(ShowArgs),
    /// Try items again at once, with their patience counted afresh
    Retry(Choice),
    /// Give items up for good; `retry` takes it back
    Discard(DiscardArgs),
}

/// Options of `queue list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Items in this state
    #[arg(long, value_enum)]
    pub state: Vec<Which>,
    /// Items in any state
    #[arg(long, conflicts_with = "state")]
    pub all: bool,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only this artifact
    #[arg(long, value_enum)]
    pub artifact: Option<Kind>,
    /// At most so many, 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: u32,
    /// Print JSON, an item a line
    #[arg(long)]
    pub json: bool,
}

/// Options of `queue show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The segment's id
    #[arg(value_name = "SEGMENT_ID")]
    pub segment: String,
    /// Print JSON, an item a line
    #[arg(long)]
    pub json: bool,
}

/// Which items to settle.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct Choice {
    /// The items of this segment
    #[arg(value_name = "SEGMENT_ID", group = "which")]
    pub segment: Option<String>,
    /// All items in this state
    #[arg(long, value_enum, group = "which")]
    pub state: Option<Settled>,
    /// All items that are unavailable or failed
    #[arg(long, group = "which")]
    pub all: bool,
    /// Among them, only this artifact
    #[arg(long, value_enum)]
    pub artifact: Option<Kind>,
    /// Among them, only this account's: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
}

/// Options of `queue discard`.
#[derive(Debug, clap::Args)]
pub struct DiscardArgs {
    /// Which.
    #[command(flatten)]
    pub choice: Choice,
    /// Why, for those who look later
    #[arg(long, value_name = "TEXT", default_value = "discarded by a person")]
    pub reason: String,
}

/// A state as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// To be fetched, now or later
    Open,
    /// Still 404 when patience ended
    Unavailable,
    /// Will not work without a person
    Failed,
    /// A person gave it up
    Discarded,
}

/// A state that an item does not leave by itself, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Settled {
    /// Still 404 when patience ended
    Unavailable,
    /// Will not work without a person
    Failed,
    /// A person gave it up
    Discarded,
}

/// An artifact as it is typed: as in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// Who said what and when
    Transcript,
    /// The summary that the agent kept or edited
    AgentSummary,
    /// The summary that RingCX wrote
    AutoSummary,
}

impl From<Which> for State {
    fn from(which: Which) -> State {
        match which {
            Which::Open => State::Open,
            Which::Unavailable => State::Unavailable,
            Which::Failed => State::Failed,
            Which::Discarded => State::Discarded,
        }
    }
}

impl From<Settled> for State {
    fn from(settled: Settled) -> State {
        match settled {
            Settled::Unavailable => State::Unavailable,
            Settled::Failed => State::Failed,
            Settled::Discarded => State::Discarded,
        }
    }
}

impl From<Kind> for Artifact {
    fn from(kind: Kind) -> Artifact {
        match kind {
            Kind::Transcript => Artifact::Transcript,
            Kind::AgentSummary => Artifact::AgentSummary,
            Kind::AutoSummary => Artifact::AutoSummary,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// Where there is no such segment or account, or the database fails.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let db = context.open(Access::Existing).await?;
    match args.command {
        Command::List(args) => list::list(&args, &db, context).await?,
        Command::Show(args) => list::show(&args, &db, context).await?,
        Command::Retry(choice) => {
            let filter = filter(&choice, &db, context).await?;
            let items = db.retry_items(&filter, context.clock.now()).await?;
            db.ring().await?;
            terminal::print(&format!(
                "{} will be tried again, by the daemon that runs or the next one\n",
                count(items, "item")
            ))?;
        }
        Command::Discard(args) => {
            if args.reason.trim().is_empty() {
                return Err(UsageError("--reason is empty\nhint: say why, for those who look later".to_owned()).into());
            }
            let filter = filter(&args.choice, &db, context).await?;
            let items = db.discard_items(&filter, args.reason.trim()).await?;
            db.ring().await?;
            terminal::print(&format!("{} discarded\n", count(items, "item")))?;
        }
    }
    db.close().await;
    Ok(0)
}

/// A segment without such items is most likely mistyped; that a whole state is empty is good news.
async fn filter(choice: &Choice, db: &Db, context: &Context) -> anyhow::Result<QueueFilter> {
    let account = match &choice.account {
        Some(account) => Some(context.account(db, account).await?.key),
        None => None,
    };
    let states = match (&choice.segment, choice.state) {
        (Some(_), _) => Vec::new(),
        (None, Some(state)) => vec![state.into()],
        (None, None) => vec![State::Unavailable, State::Failed],
    };
    let artifact = choice.artifact.map(Artifact::from);
    let filter = QueueFilter { account, states, segment_id: choice.segment.clone(), artifact, limit: 0 };
    if let Some(segment) = &choice.segment {
        must_have_items(db, &filter, segment).await?;
    }
    Ok(filter)
}

async fn must_have_items(db: &Db, filter: &QueueFilter, segment: &str) -> anyhow::Result<()> {
    if !db.queue(&QueueFilter { limit: 1, ..filter.clone() }).await?.is_empty() {
        return Ok(());
    }
    if db.segments_named(segment).await?.is_empty() {
        bail!("failed to find the segment {segment:?} in the archive\nhint: ids are opaque, each letter counts");
    }
    bail!(
        "the segment {segment:?} has no such unfinished item\nhint: `ringcx-extractor show` with its id says what is held of it"
    );
}
