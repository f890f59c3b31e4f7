//! `search`: full text over transcripts, summaries and agents' notes.

mod print;

use clap::ValueEnum;

use super::words::count;
use super::{Context, UsageError, terminal};
use crate::db::{Access, Db};
use crate::model::Artifact;
use crate::search::{self, Filters, Findings, Order, Source, words};

/// Hits that are shown at the most: they are held in memory.
const MOST: usize = 10_000;

const QUERY_HELP: &str = "\
Query:
  refund late           both words, in any order
  '\"charged twice\"'     the phrase
  'refun*'              words that begin so
  'refund -late'        without that word, phrase or beginning
  'refund OR money'     either of them
  '(refund OR money) late'   parentheses group; AND and NOT are understood too
  Accents, capital letters and punctuation do not count. What begins with a hyphen goes after `--`.";

/// Options of `search`.
#[derive(Debug, clap::Args)]
#[command(after_help = QUERY_HELP)]
pub struct Args {
    /// What to look for: words, "phrases", beginnings*, -exclusions, OR, parentheses
    #[arg(required = true, value_name = "QUERY")]
    pub query: Vec<String>,
    /// Segments that ended at or after this time
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Segments that ended before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only this channel: VOICE, DIGITAL, EMAIL …
    #[arg(long)]
    pub channel: Option<String>,
    /// Only this direction: INBOUND or OUTBOUND
    #[arg(long)]
    pub direction: Option<String>,
    /// Only with this agent: the participant's id in RingCX, or a name in the transcript
    #[arg(long)]
    pub agent: Option<String>,
    /// Only what ended so, as the agent or the system says
    #[arg(long)]
    pub disposition: Option<String>,
    /// Only in these
    #[arg(long, value_enum)]
    pub artifact: Vec<Kind>,
    /// Newest first, instead of best first
    #[arg(long)]
    pub newest: bool,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,
    /// Print JSON, a hit a line
    #[arg(long)]
    pub json: bool,
}

/// What can be looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// What was said
    Transcript,
    /// What the agent wrote
    AgentSummary,
    /// What was written automatically
    AutoSummary,
    /// What the agent noted
    AgentNotes,
}

impl From<Kind> for Source {
    fn from(kind: Kind) -> Source {
        match kind {
            Kind::Transcript => Source::Artifact(Artifact::Transcript),
            Kind::AgentSummary => Source::Artifact(Artifact::AgentSummary),
            Kind::AutoSummary => Source::Artifact(Artifact::AutoSummary),
            Kind::AgentNotes => Source::Notes,
        }
    }
}

/// Prints what was found.
///
/// # Errors
/// Where the query cannot be meant or the database not be read.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let query = search::parse(&args.query.join(" ")).map_err(|error| UsageError(error.to_string()))?;
    let (from, to) = context.range(args.from.as_deref(), args.to.as_deref())?;
    if args.limit == 0 || args.limit > MOST {
        return Err(UsageError(format!(
            "failed to read --limit: it must be between 1 and {MOST}\nhint: `export` writes out everything"
        ))
        .into());
    }
    let db = context.open(Access::Existing).await?;
    let account = match &args.account {
        Some(account) => Some(context.account(&db, account).await?.key),
        None => None,
    };
    let filters = Filters {
        from,
        to,
        account,
        channel: args.channel,
        direction: args.direction,
        agent: args.agent,
        disposition: args.disposition,
        sources: args.artifact.into_iter().map(Source::from).collect(),
    };
    let order = if args.newest { Order::Newest } else { Order::Best };
    let standing = standing(&db).await?;
    let findings = search::find(&db, &query, &filters, order, args.limit).await?;
    if args.json {
        let lines: Result<Vec<String>, _> = findings.hits.iter().map(print::json).collect();
        terminal::print(&lines?.concat())?;
    } else if !findings.hits.is_empty() {
        terminal::print(&print::table(&findings.hits, terminal::width()))?;
    }
    remark(&findings, args.limit, order, filters.by_metadata());
    if let Some(standing) = standing {
        terminal::remark(&standing);
    }
    db.close().await;
    Ok(0)
}

/// What people should know of the result, on standard error.
fn remark(findings: &Findings, limit: usize, order: Order, narrowed: bool) {
    if findings.hits.is_empty() {
        terminal::remark("nothing was found");
        if narrowed {
            terminal::remark(
                "hint: filters are compared with the metadata, whole values; `show SEGMENT_ID` shows what a segment has",
            );
        }
    }
    if findings.more {
        terminal::remark(&more(limit, findings.only_newest, order));
    }
    if findings.gave_up {
        terminal::remark(&format!(
            "only the newest {} matches were compared with the filters; --from and --to choose others",
            search::LOOKED_AT
        ));
    }
}

fn more(limit: usize, only_newest: bool, order: Order) -> String {
    let shown = count(limit as u64, "hit");
    let of = if only_newest { ", the best of the newest matches" } else { "" };
    let newest = if order == Order::Newest { "" } else { ", --newest the newest first" };
    let are = if limit == 1 { "is" } else { "are" };
    format!("there {are} more than {shown}{of}: --limit shows more{newest}")
}

/// What the index lacks, where it lacks anything. To be asked before the search: what is indexed meanwhile may be missing
/// from what was found.
async fn standing(db: &Db) -> anyhow::Result<Option<String>> {
    if db.index_version().await? != Some(words::VERSION) {
        return Ok(Some("the archive is not indexed yet; `ringcx-extractor run` does it while it runs".to_owned()));
    }
    let behind = db.index_behind().await?;
    Ok((behind > 0).then(|| format!("the index is {} behind the archive", count(behind, "change"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_more_is_said_with_what_shows_it() {
        assert_eq!(
            more(1, false, Order::Best),
            "there is more than 1 hit: --limit shows more, --newest the newest first"
        );
        assert_eq!(more(20, false, Order::Newest), "there are more than 20 hits: --limit shows more");
    }
}
