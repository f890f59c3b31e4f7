//! `queue`: lists work items, and retries or discards those that failed.

mod item_list;

use anyhow::bail;
use clap::Subcommand;
use clap::builder::TypedValueParser;

use super::human_format::format_count;
use super::{CommandContext, named_values, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{Db, OpenMode, QueueFilter};
use crate::error::UserError;
use crate::model::{Artifact, ItemState};
use crate::operator_actions;

#[derive(Debug, clap::Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    pub(crate) command: QueueCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List items, by default those that are unavailable, failed or discarded
    List(QueueListArgs),
    /// Show the items of one segment, with the error of each attempt
    Show(QueueShowArgs),
    /// Retry items now and reset their retry limits
    Retry(ItemSelection),
    /// Discard items, so that they are not retried; `retry` undoes this
    Discard(QueueDiscardArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct QueueListArgs {
    /// Only items in this state
    #[arg(long, value_parser = states())]
    pub(crate) state: Vec<ItemState>,
    /// Items in any state
    #[arg(long, conflicts_with = "state")]
    pub(crate) all: bool,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// Only this artifact
    #[arg(long, value_parser = artifacts())]
    pub(crate) artifact: Option<Artifact>,
    /// Maximum number of items, 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) limit: u32,
    /// Print JSON, one item per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct QueueShowArgs {
    /// Id of the segment
    #[arg(value_name = "SEGMENT_ID")]
    pub(crate) segment: String,
    /// Print JSON, one item per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The items to retry or discard.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct ItemSelection {
    /// The items of this segment
    #[arg(value_name = "SEGMENT_ID", group = "which")]
    pub(crate) segment: Option<String>,
    /// All items in this state
    #[arg(long, value_parser = closed_states(), group = "which")]
    pub(crate) state: Option<ItemState>,
    /// All items that are unavailable or failed
    #[arg(long, group = "which")]
    pub(crate) all: bool,
    /// Only this artifact
    #[arg(long, value_parser = artifacts())]
    pub(crate) artifact: Option<Artifact>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct QueueDiscardArgs {
    #[command(flatten)]
    pub(crate) selection: ItemSelection,
    /// Reason, which is stored with the items
    #[arg(long, value_name = "TEXT", default_value = "discarded by a person")]
    pub(crate) reason: String,
}

const UNAVAILABLE: (&str, &str, ItemState) =
    ("unavailable", "Still 404 after fetch.give_up_after", ItemState::Unavailable);
const FAILED: (&str, &str, ItemState) = ("failed", "Needs manual action", ItemState::Failed);
const DISCARDED: (&str, &str, ItemState) = ("discarded", "Discarded by a person", ItemState::Discarded);

fn states() -> impl TypedValueParser<Value = ItemState> {
    named_values([("open", "To be fetched, now or later", ItemState::Open), UNAVAILABLE, FAILED, DISCARDED])
}

/// The states that an item does not leave automatically.
fn closed_states() -> impl TypedValueParser<Value = ItemState> {
    named_values([UNAVAILABLE, FAILED, DISCARDED])
}

/// The artifacts, named as in the settings.
fn artifacts() -> impl TypedValueParser<Value = Artifact> {
    named_values([
        ("transcript", "The transcript", Artifact::Transcript),
        ("agent_summary", "The summary that the agent kept or edited", Artifact::AgentSummary),
        ("auto_summary", "The summary that RingCX wrote", Artifact::AutoSummary),
        ("recording", "The recording", Artifact::Recording),
    ])
}

pub(crate) async fn run(args: QueueArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let db = context.open_database(OpenMode::Existing).await?;
    match args.command {
        QueueCommand::List(args) => item_list::list_items(&args, &db, context).await?,
        QueueCommand::Show(args) => item_list::show_items(&args, &db, context).await?,
        QueueCommand::Retry(selection) => {
            let filter = build_filter(&selection, &db, context).await?;
            record_operation(&selection, &db, AccessAction::Retry, context).await?;
            let items = operator_actions::retry_items(&db, &filter, context.clock.now()).await?;
            terminal::print_stdout(&format!(
                "{} will be retried by the running daemon or the next one\n",
                format_count(items, "item")
            ))?;
        }
        QueueCommand::Discard(args) => {
            if args.reason.trim().is_empty() {
                let error = UserError::usage("--reason is empty");
                bail!(error.with_hint("give the reason, which is stored with the items"));
            }
            let filter = build_filter(&args.selection, &db, context).await?;
            record_operation(&args.selection, &db, AccessAction::Discard, context).await?;
            let items = operator_actions::discard_items(&db, &filter, &args.reason, context.clock.now()).await?;
            terminal::print_stdout(&format!("discarded {}\n", format_count(items, "item")))?;
        }
    }
    db.close().await;
    Ok(0)
}

/// Records which items are changed.
async fn record_operation(
    selection: &ItemSelection,
    db: &Db,
    action: AccessAction,
    context: &CommandContext,
) -> anyhow::Result<()> {
    let mut what = match (&selection.segment, selection.state) {
        (Some(segment), _) => format!("items of segment {segment}"),
        (None, Some(state)) => format!("items in state {state:?}"),
        (None, None) => "unavailable and failed items".to_owned(),
    };
    for (name, value) in
        [("artifact", selection.artifact.map(|artifact| artifact.to_string())), ("account", selection.account.clone())]
    {
        if let Some(value) = value {
            what.push_str(&format!(" {name}={value}"));
        }
    }
    context.record_access(db, action, AccessSubject::Other { what: &what, sub: None }).await
}

/// Builds the filter of the selected items. A segment without such items is an error, because its
/// id is probably mistyped; an empty state is not.
async fn build_filter(selection: &ItemSelection, db: &Db, context: &CommandContext) -> anyhow::Result<QueueFilter> {
    let account = context.find_account(db, selection.account.as_deref()).await?.map(|account| account.key);
    let states = match (&selection.segment, selection.state) {
        (Some(_), _) => Vec::new(),
        (None, Some(state)) => vec![state],
        (None, None) => vec![ItemState::Unavailable, ItemState::Failed],
    };
    let (segment_id, artifact) = (selection.segment.clone(), selection.artifact);
    let filter = QueueFilter { account, states, segment_id, artifact, limit: 0 };
    if let Some(segment) = &selection.segment {
        require_items(db, &filter, segment).await?;
    }
    Ok(filter)
}

async fn require_items(db: &Db, filter: &QueueFilter, segment: &str) -> anyhow::Result<()> {
    if !db.queue_rows(&QueueFilter { limit: 1, ..filter.clone() }).await?.is_empty() {
        return Ok(());
    }
    if db.segments_by_id(segment).await?.is_empty() {
        let error = UserError::failed(format!("the archive has no segment {segment:?}"));
        bail!(error.with_hint("ids must match exactly"));
    }
    let error = UserError::failed(format!("the segment {segment:?} has no such unfinished item"));
    bail!(error.with_hint("`ringcx-extractor show` with its id shows what is stored"));
}
