//! `search`: finds conversations by their words, or lists the newest ones, with filters and pages.
//!
//! A hit is a conversation: a dialog, or a segment without one. Without a query, and within a
//! contact, a dialog or a hold, the archive is read directly; else the index finds the candidates.

mod candidate_search;
mod hit_list;
mod overview_list;

use clap::builder::TypedValueParser;

use super::filter_args::{FilterArgs, SelectedSegments};
use super::human_format::format_count;
use super::{CommandContext, named_values, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{Db, OpenMode};
use crate::error::UserError;
use crate::model::Artifact;
use crate::search::{
    self, ConversationHit, DocumentSource, Filters, Query, SearchHit, SortOrder, group_by_conversation, tokenizer,
};

/// The most conversations up to the end of a page; all hits are held in memory.
const MAX_CONVERSATIONS: usize = 10_000;
/// The most documents that are searched for them.
const MAX_DOCUMENTS: usize = 40_000;

const QUERY_HELP: &str = "\
Query:
  refund late           both words, in any order
  '\"charged twice\"'     the phrase
  'refun*'              words that start with refun
  'refund -late'        without that word, phrase or prefix
  'refund OR money'     either word
  '(refund OR money) late'   parentheses group; AND and NOT work too
  without a query        the newest conversations
  Accents, case and punctuation are ignored. Write `--` before a query that starts with a hyphen.";

#[derive(Debug, clap::Args)]
#[command(after_help = QUERY_HELP)]
pub(crate) struct SearchArgs {
    /// Words, "phrases", prefixes*, -exclusions, OR, parentheses; without them, the newest
    /// conversations
    #[arg(value_name = "QUERY")]
    pub(crate) query: Vec<String>,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// Search only these texts
    #[arg(long, value_parser = sources())]
    pub(crate) artifact: Vec<DocumentSource>,
    /// Show the newest hits first instead of the best
    #[arg(long)]
    pub(crate) newest: bool,
    /// Number of conversations on a page
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub(crate) limit: usize,
    /// Which page, from 1
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) page: usize,
    /// Print JSON, one match per line; those of a conversation follow one another
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
    let text = args.query.join(" ");
    let query = match args.query.is_empty() {
        true => None,
        false => {
            Some(search::parse(&text).map_err(|error| UserError::usage(error.to_string()).with_hint(error.hint()))?)
        }
    };
    let page = Page::new(&args)?;
    args.filters.time_range(context)?;
    if query.is_none() && !args.artifact.is_empty() {
        let error = UserError::usage("--artifact has no meaning without a query");
        return Err(error.with_hint("give words to search for, or remove --artifact").into());
    }
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let has_more = match &query {
        Some(query) => search_words(&args, query, page, &db, context).await?,
        None => {
            let selected = args.filters.resolve(&db, context).await?;
            let (shown, has_more) = overview_list::read_newest(&db, &selected, page).await?;
            record_search(&args, &selected, shown.len(), &db, context).await?;
            if args.json {
                shown.iter().try_for_each(|overview| terminal::print_json(&overview.to_json()))?;
            } else if !shown.is_empty() {
                terminal::print_stdout(&overview_list::format_table(&shown, terminal::width()))?;
            }
            print_if_empty(shown.is_empty(), page, true);
            has_more
        }
    };
    if has_more && page.number < MAX_CONVERSATIONS / page.size {
        let command = next_page_command(std::env::args().skip(1), page.number + 1);
        terminal::print_stderr(&format!("more: ringcx-extractor {command}"));
    } else if has_more {
        terminal::print_stderr("more: --from and --to divide the search");
    }
    db.close().await;
    Ok(0)
}

/// Adds an entry to the access log, before anything is shown.
async fn record_search(
    args: &SearchArgs,
    selected: &SelectedSegments,
    hits: usize,
    db: &Db,
    context: &CommandContext,
) -> anyhow::Result<()> {
    let text = format!("{}{}", args.query.join(" "), args.filters.describe());
    let subject = AccessSubject::Query { text: &text, sub: selected.sub.as_deref(), hits: hits as u64 };
    context.record_access(db, AccessAction::Search, subject).await
}

/// Which conversations are shown.
#[derive(Debug, Clone, Copy)]
struct Page {
    number: usize,
    size: usize,
}

impl Page {
    fn new(args: &SearchArgs) -> Result<Page, UserError> {
        if args.limit == 0 || args.limit > MAX_CONVERSATIONS {
            let error = UserError::usage(format!("invalid --limit: it must be between 1 and {MAX_CONVERSATIONS}"));
            return Err(error.with_hint("--from and --to divide a search"));
        }
        let last = MAX_CONVERSATIONS / args.limit;
        if args.page == 0 || args.page > last {
            let error = UserError::usage(format!("invalid --page: with this --limit it must be between 1 and {last}"));
            return Err(error.with_hint("--from and --to divide a search"));
        }
        Ok(Page { number: args.page, size: args.limit })
    }

    /// The number of conversations before the page.
    fn skipped(self) -> usize {
        (self.number - 1) * self.size
    }

    /// The number of conversations up to its end, and one more, which shows whether there are more.
    fn wanted(self) -> usize {
        self.number * self.size + 1
    }

    /// The conversations of the page, and whether there are more.
    fn select<T>(self, mut all: Vec<T>) -> (Vec<T>, bool) {
        let has_more = all.len() >= self.wanted();
        all.truncate(self.wanted() - 1);
        (all.split_off(self.skipped().min(all.len())), has_more)
    }
}

/// Searches for words, and prints the page. Returns whether there are more conversations.
async fn search_words(
    args: &SearchArgs,
    query: &Query,
    page: Page,
    db: &Db,
    context: &CommandContext,
) -> anyhow::Result<bool> {
    let selected = args.filters.resolve(db, context).await?;
    let order = if args.newest { SortOrder::Newest } else { SortOrder::Best };
    let mut notes = Vec::new();
    let (hits, has_more_documents) = match &selected.subject {
        Some(segments) => (candidate_search::find(db, query, segments, &selected, &args.artifact, order).await?, false),
        None => {
            notes.extend(describe_index_lag(db).await?);
            let filters = Filters {
                from: selected.range.from,
                to: selected.range.to,
                account: selected.range.account,
                channel: args.filters.channel.clone(),
                direction: args.filters.direction.clone(),
                agent: args.filters.agent.clone(),
                disposition: args.filters.disposition.clone(),
                sources: args.artifact.clone(),
            };
            search_index(db, query, &filters, order, page, &mut notes).await?
        }
    };
    let (shown, has_more) = page.select(group_by_conversation(hits));
    record_search(args, &selected, shown.len(), db, context).await?;
    if args.json {
        for (conversation, number) in shown.iter().zip(page.skipped() + 1..) {
            hit_list::to_json(conversation, number).try_for_each(|line| terminal::print_json(&line))?;
        }
    } else if !shown.is_empty() {
        terminal::print_stdout(&hit_list::format_table(&shown, terminal::width()))?;
    }
    print_if_empty(shown.is_empty(), page, !selected.filter.is_empty());
    notes.iter().for_each(|note| terminal::print_stderr(note));
    Ok(has_more || (has_more_documents && page.wanted() < MAX_CONVERSATIONS && !shown.is_empty()))
}

/// Finds enough documents for the page. A conversation may have many, so the search is repeated for
/// more until there are enough. Returns also whether there are more documents.
async fn search_index(
    db: &Db,
    query: &Query,
    filters: &Filters,
    order: SortOrder,
    page: Page,
    notes: &mut Vec<String>,
) -> anyhow::Result<(Vec<SearchHit>, bool)> {
    let mut limit = (page.wanted() * 2).min(MAX_DOCUMENTS);
    loop {
        let found = search::find(db, query, filters, order, limit).await?;
        let conversations = search::count_conversations(&found.hits);
        if conversations < page.wanted() && found.has_more && limit < MAX_DOCUMENTS {
            limit = (limit * 2).min(MAX_DOCUMENTS);
            continue;
        }
        if found.scan_limit_reached {
            notes.push(format!(
                "the filters were applied only to the newest {} matches; --from and --to select others",
                search::MAX_SCANNED_MATCHES
            ));
        }
        if found.ranking_truncated && found.has_more {
            notes.push("these are the best of the newest matches; --newest shows the newest first".to_owned());
        }
        return Ok((found.hits, found.has_more));
    }
}

fn print_if_empty(is_empty: bool, page: Page, has_metadata_filters: bool) {
    if !is_empty {
        return;
    }
    terminal::print_stderr(if page.number > 1 { "no further hits" } else { "no hits" });
    if has_metadata_filters && page.number == 1 {
        terminal::print_stderr(
            "hint: filters must match whole values of the metadata; `show SEGMENT_ID` shows the values of a segment",
        );
    }
}

/// The arguments of this command, for another page, as a shell takes them.
fn next_page_command(arguments: impl Iterator<Item = String>, page: usize) -> String {
    let (mut kept, mut rest): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--" => {
                rest = std::iter::once(argument).chain(arguments.by_ref()).collect();
            }
            "--page" => drop(arguments.next()),
            _ if argument.starts_with("--page=") => {}
            _ => kept.push(argument),
        }
    }
    kept.extend(["--page".to_owned(), page.to_string()]);
    kept.iter().chain(&rest).map(|argument| quote_for_shell(argument)).collect::<Vec<_>>().join(" ")
}

fn quote_for_shell(argument: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=+,@".contains(letter);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
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
    fn the_next_page_has_the_same_arguments() {
        let next = |line: &[&str]| next_page_command(line.iter().map(|word| (*word).to_owned()), 3);
        assert_eq!(next(&["search", "refund"]), "search refund --page 3");
        assert_eq!(next(&["search", "--page", "2", "it's", "--limit", "5"]), "search 'it'\\''s' --limit 5 --page 3");
        assert_eq!(next(&["search", "--page=2", "--", "\"a b\"", "-x"]), "search --page 3 -- '\"a b\"' -x");
    }

    #[test]
    fn a_page_is_a_part_of_all() {
        let page = Page { number: 2, size: 3 };
        assert_eq!(page.select((0..7).collect()), (vec![3, 4, 5], true));
        assert_eq!(page.select((0..6).collect()), (vec![3, 4, 5], false));
        assert_eq!(page.select((0..4).collect()), (vec![3], false));
        assert_eq!(page.select(vec![0]), (Vec::new(), false));
    }
}
