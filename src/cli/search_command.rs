//! `search`: full-text search in transcripts, summaries and agent notes.

mod hit_list;

use clap::builder::TypedValueParser;

use super::human_format::format_count;
use super::{CommandContext, named_values, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{Db, OpenMode};
use crate::error::UserError;
use crate::model::Artifact;
use crate::search::{self, DocumentSource, Filters, SearchResults, SortOrder, tokenizer};

/// The maximum of `--limit`; all hits are held in memory.
const MAX_LIMIT: usize = 10_000;

const QUERY_HELP: &str = "\
Query:
  refund late           both tokenizer, in any order
  '\"charged twice\"'     the phrase
  'refun*'              words that start with refun
  'refund -late'        without that word, phrase or prefix
  'refund OR money'     either word
  '(refund OR money) late'   parentheses group; AND and NOT work too
  Accents, case and punctuation are ignored. Write `--` before a query that starts with a hyphen.";

#[derive(Debug, clap::Args)]
#[command(after_help = QUERY_HELP)]
pub(crate) struct SearchArgs {
    /// Words, "phrases", prefixes*, -exclusions, OR, parentheses
    #[arg(required = true, value_name = "QUERY")]
    pub(crate) query: Vec<String>,
    /// Segments that ended at or after this time
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Segments that ended before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// Only this channel: VOICE, DIGITAL, EMAIL …
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// Only this direction: INBOUND or OUTBOUND
    #[arg(long)]
    pub(crate) direction: Option<String>,
    /// Only with this agent: the participant id in RingCX, or a name in the transcript
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Only with this disposition of the agent or the system
    #[arg(long)]
    pub(crate) disposition: Option<String>,
    /// Search only these texts
    #[arg(long, value_parser = sources())]
    pub(crate) artifact: Vec<DocumentSource>,
    /// Show the newest hits first instead of the best
    #[arg(long)]
    pub(crate) newest: bool,
    /// Maximum number of hits
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub(crate) limit: usize,
    /// Print JSON, one hit per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The texts that can be searched.
fn sources() -> impl TypedValueParser<Value = DocumentSource> {
    named_values([
        ("transcript", "The transcript", DocumentSource::Artifact(Artifact::Transcript)),
        ("agent_summary", "The summary of the agent", DocumentSource::Artifact(Artifact::AgentSummary)),
        ("auto_summary", "The automatic summary", DocumentSource::Artifact(Artifact::AutoSummary)),
        ("agent_notes", "The notes of the agent", DocumentSource::Notes),
    ])
}

pub(crate) async fn run(args: SearchArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let query = search::parse(&args.query.join(" "))
        .map_err(|error| UserError::usage(error.to_string()).with_hint(error.hint()))?;
    let (from, to) = context.parse_range(args.from.as_deref(), args.to.as_deref())?;
    if args.limit == 0 || args.limit > MAX_LIMIT {
        let error = UserError::usage(format!("invalid --limit: it must be between 1 and {MAX_LIMIT}"));
        return Err(error.with_hint("use `export` to get everything").into());
    }
    let description = describe_search(&args);
    let db = context.open_database(OpenMode::Existing).await?;
    let account = context.find_account(&db, args.account.as_deref()).await?;
    let sub = account.as_ref().map(|account| account.id.sub.to_string());
    let account = account.map(|account| account.key);
    let filters = Filters {
        from,
        to,
        account,
        channel: args.channel,
        direction: args.direction,
        agent: args.agent,
        disposition: args.disposition,
        sources: args.artifact,
    };
    let order = if args.newest { SortOrder::Newest } else { SortOrder::Best };
    let index_note = describe_index_lag(&db).await?;
    let findings = search::find(&db, &query, &filters, order, args.limit).await?;
    let hits = findings.hits.len() as u64;
    let subject = AccessSubject::Query { text: &description, sub: sub.as_deref(), hits };
    context.record_access(&db, AccessAction::Search, subject).await?;
    if args.json {
        let lines: Result<Vec<String>, _> = findings.hits.iter().map(hit_list::format_json).collect();
        terminal::print_stdout(&lines?.concat())?;
    } else if !findings.hits.is_empty() {
        terminal::print_stdout(&hit_list::format_table(&findings.hits, terminal::width()))?;
    }
    print_notes(&findings, args.limit, order, filters.needs_metadata());
    if let Some(note) = index_note {
        terminal::print_stderr(&note);
    }
    db.close().await;
    Ok(0)
}

/// The query and the filters, for the access log.
fn describe_search(args: &SearchArgs) -> String {
    let filters = [
        ("from", &args.from),
        ("to", &args.to),
        ("channel", &args.channel),
        ("direction", &args.direction),
        ("agent", &args.agent),
        ("disposition", &args.disposition),
    ];
    let mut text = args.query.join(" ");
    for (name, value) in filters.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        text.push_str(&format!(" {name}={value}"));
    }
    text
}

/// Prints notes about the result to standard error.
fn print_notes(findings: &SearchResults, limit: usize, order: SortOrder, has_metadata_filters: bool) {
    if findings.hits.is_empty() {
        terminal::print_stderr("no hits");
        if has_metadata_filters {
            terminal::print_stderr(
                "hint: filters must match whole values of the metadata; `show SEGMENT_ID` shows the values of a segment",
            );
        }
    }
    if findings.has_more {
        terminal::print_stderr(&describe_more(limit, findings.ranking_truncated, order));
    }
    if findings.scan_limit_reached {
        terminal::print_stderr(&format!(
            "the filters were applied only to the newest {} matches; --from and --to select others",
            search::MAX_SCANNED_MATCHES
        ));
    }
}

fn describe_more(limit: usize, only_newest: bool, order: SortOrder) -> String {
    let shown = format_count(limit as u64, "hit");
    let of = if only_newest { ", the best of the newest matches" } else { "" };
    let newest = if order == SortOrder::Newest { "" } else { " and --newest shows the newest first" };
    let are = if limit == 1 { "is" } else { "are" };
    format!("there {are} more than {shown}{of}: --limit shows more{newest}")
}

/// Describes how far the index is behind the archive, if it is. Called before the search, because
/// changes that are indexed during the search may be missing from its result.
async fn describe_index_lag(db: &Db) -> anyhow::Result<Option<String>> {
    if db.index_version().await? != Some(tokenizer::TOKENIZER_VERSION) {
        return Ok(Some("the archive is not indexed yet; `ringcx-extractor run` indexes it".to_owned()));
    }
    let behind = db.unindexed_changes().await?;
    Ok((behind > 0).then(|| format!("the index is {} behind the archive", format_count(behind, "change"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_more_is_said_with_what_shows_it() {
        assert_eq!(
            describe_more(1, false, SortOrder::Best),
            "there is more than 1 hit: --limit shows more and --newest shows the newest first"
        );
        assert_eq!(describe_more(20, false, SortOrder::Newest), "there are more than 20 hits: --limit shows more");
    }
}
