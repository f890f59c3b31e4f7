//! The arguments of the tools, and what they mean to the reader.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::archive_reader::{
    AuditQuestion, Dimension, PageRequest, ReadError, ReadFault, SearchQuestion, SegmentFilter,
};
use crate::clock::Time;
use crate::config;
use crate::model::ArtifactSet;
use crate::search::SortOrder;

/// The budget of an answer, if none is asked for.
const DEFAULT_TOKENS: usize = 6_000;
const MIN_TOKENS: usize = 500;
const MAX_TOKENS: usize = 50_000;
/// What a token is taken for. English text has about four.
const BYTES_PER_TOKEN: usize = 3;
/// Tokens of one hit with its passage.
const TOKENS_PER_HIT: usize = 220;
const DEFAULT_HITS: usize = 10;
const MAX_HITS: usize = 100;

/// The bytes that an answer may have.
fn byte_budget(max_tokens: Option<usize>) -> usize {
    max_tokens.unwrap_or(DEFAULT_TOKENS).clamp(MIN_TOKENS, MAX_TOKENS) * BYTES_PER_TOKEN
}

/// Arguments with the filters of conversations, and those of one tool.
macro_rules! filter_arguments {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$field_doc])* pub(super) $field: $type,)*
            /// Conversations that ended at or after this time: RFC 3339, a date, or a span back from now such as "7d".
            #[serde(default)]
            from: Option<String>,
            /// Conversations that ended before this time.
            #[serde(default)]
            to: Option<String>,
            /// Only this account: id or name.
            #[serde(default)]
            account: Option<String>,
            /// Only with this agent: id, or a part of the name.
            #[serde(default)]
            agent: Option<String>,
            /// Only with this contact: a complete number, address, id or name.
            #[serde(default)]
            contact: Option<String>,
            /// Only this channel, such as VOICE or EMAIL.
            #[serde(default)]
            channel: Option<String>,
            /// Only this direction: INBOUND or OUTBOUND.
            #[serde(default)]
            direction: Option<String>,
            /// Only this disposition.
            #[serde(default)]
            disposition: Option<String>,
        }

        impl $name {
            pub(super) fn filter(&self, now: Time) -> Result<SegmentFilter, ReadError> {
                let (from, to) = parse_range(&self.from, &self.to, now)?;
                Ok(SegmentFilter {
                    from,
                    to,
                    accounts: given(&self.account).into_iter().collect(),
                    agent: given(&self.agent),
                    contact: given(&self.contact),
                    channel: given(&self.channel),
                    direction: given(&self.direction),
                    disposition: given(&self.disposition),
                    dialog: None,
                    has: ArtifactSet::NONE,
                    changed_since: None,
                })
            }
        }
    };
}

filter_arguments! {
    /// The arguments of `search_conversations`.
    SearchArguments {
        /// What to search for.
        query: String,
        /// "best" (the default) or "newest".
        #[serde(default)]
        sort: Option<String>,
        /// The most hits, 10 by default.
        #[serde(default)]
        limit: Option<usize>,
        /// `next` of the last answer, for more hits of the same search.
        #[serde(default)]
        cursor: Option<String>,
        /// The budget of the answer in tokens, 6000 by default.
        #[serde(default)]
        max_tokens: Option<usize>,
    }
}

filter_arguments! {
    /// The arguments of `count_conversations`.
    CountArguments {
        /// What to count by: "day", "account", "agent", "channel", "direction" or "disposition".
        by: String,
        /// The budget of the answer in tokens, 6000 by default.
        #[serde(default)]
        max_tokens: Option<usize>,
    }
}

impl SearchArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
    }

    pub(super) fn question(&self, now: Time) -> Result<(SearchQuestion, PageRequest), ReadError> {
        let order = match given(&self.sort).as_deref() {
            None | Some("best") => SortOrder::Best,
            Some("newest") => SortOrder::Newest,
            Some(_) => return Err(invalid("sort must be \"best\" or \"newest\"")),
        };
        let question = SearchQuestion {
            text: self.query.clone(),
            filter: self.filter(now)?,
            sources: Vec::new(),
            order,
            facets: Vec::new(),
        };
        // As many hits as the budget has room for, so that `next` leaves out none.
        let fitting = self.byte_budget() / BYTES_PER_TOKEN / TOKENS_PER_HIT;
        let limit = self.limit.unwrap_or(DEFAULT_HITS).clamp(1, MAX_HITS).min(fitting.max(1));
        let asked = SearchArguments { limit: None, cursor: None, max_tokens: None, ..self.clone() };
        let asked = serde_json::to_string(&asked).unwrap_or_default();
        Ok((question, PageRequest { limit, cursor: given(&self.cursor), question: format!("tool {asked}") }))
    }
}

impl CountArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
    }

    pub(super) fn dimension(&self) -> Result<Dimension, ReadError> {
        Dimension::parse(&self.by).ok_or_else(|| {
            let known = Dimension::ALL.map(|(name, _)| name).join(", ");
            invalid(format!("by must be one of {known}"))
        })
    }
}

/// The arguments of `list_accounts`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAccountsArguments {
    /// The budget of the answer in tokens, 6000 by default.
    #[serde(default)]
    max_tokens: Option<usize>,
}

impl ListAccountsArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
    }
}

/// The arguments of `get_conversation`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConversationArguments {
    /// The segment to read. Give this or dialog_id.
    #[serde(default)]
    segment_id: Option<String>,
    /// The dialog to read, over all its segments.
    #[serde(default)]
    dialog_id: Option<String>,
    /// The account, where several have a segment with this id. Not with dialog_id.
    #[serde(default)]
    account: Option<String>,
    /// The phrase to begin with, from 0: `next_phrase` of the last answer.
    #[serde(default)]
    pub(super) first_phrase: Option<usize>,
    /// The budget of the answer in tokens, 6000 by default.
    #[serde(default)]
    max_tokens: Option<usize>,
}

/// What `get_conversation` reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConversationId {
    Segment { id: String, account: Option<String> },
    Dialog { id: String },
}

impl ConversationArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
    }

    pub(super) fn conversation(&self) -> Result<ConversationId, ReadError> {
        match (given(&self.segment_id), given(&self.dialog_id), given(&self.account)) {
            (Some(id), None, account) => Ok(ConversationId::Segment { id, account }),
            (None, Some(id), None) => Ok(ConversationId::Dialog { id }),
            (None, Some(_), Some(_)) => {
                Err(invalid("a dialog is read over all accounts: leave out account, or give segment_id"))
            }
            _ => Err(invalid("give either segment_id or dialog_id")),
        }
    }
}

/// The arguments of `completeness`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CompletenessArguments {
    /// Conversations that ended at or after this time; by default from the first read.
    #[serde(default)]
    from: Option<String>,
    /// Conversations that ended before this time; by default to the newest read.
    #[serde(default)]
    to: Option<String>,
    /// Only this account: id or name.
    #[serde(default)]
    account: Option<String>,
    /// The budget of the answer in tokens, 6000 by default.
    #[serde(default)]
    max_tokens: Option<usize>,
}

impl CompletenessArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
    }

    pub(super) fn question(&self, now: Time) -> Result<AuditQuestion, ReadError> {
        let (from, to) = parse_range(&self.from, &self.to, now)?;
        Ok(AuditQuestion { from, to, accounts: given(&self.account).into_iter().collect(), ..AuditQuestion::default() })
    }
}

fn invalid(message: impl Into<Cow<'static, str>>) -> ReadError {
    ReadError::new(ReadFault::Invalid, message)
}

/// An argument, unless it is blank: assistants send an empty text for one that they do not use.
fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.trim().is_empty())
}

fn parse_range(
    from: &Option<String>,
    to: &Option<String>,
    now: Time,
) -> Result<(Option<Time>, Option<Time>), ReadError> {
    match (parse_time("from", from, now)?, parse_time("to", to, now)?) {
        (Some(from), Some(to)) if from >= to => {
            Err(invalid("the range of from and to is empty").with_hint("from is inclusive, to is exclusive"))
        }
        range => Ok(range),
    }
}

fn parse_time(name: &str, text: &Option<String>, now: Time) -> Result<Option<Time>, ReadError> {
    let parse =
        |text: String| config::parse_time(&text, now).map_err(|why| invalid(format!("{name} is not valid: {why}")));
    given(text).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Time = Time::from_secs(1_790_000_000);

    fn search(arguments: Value) -> Result<SegmentFilter, String> {
        let arguments: SearchArguments = serde_json::from_value(arguments).unwrap();
        arguments.question(NOW).map(|(question, _)| question.filter).map_err(|error| error.to_string())
    }

    fn completeness(arguments: Value) -> Result<AuditQuestion, String> {
        serde_json::from_value::<CompletenessArguments>(arguments)
            .unwrap()
            .question(NOW)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_blank_argument_is_not_given() {
        let blank = json!({
            "query": "x", "sort": "", "cursor": " ", "from": "", "to": " ", "account": "", "agent": " ", "contact": "",
            "channel": "", "direction": "", "disposition": "",
        });
        assert_eq!(format!("{:?}", search(blank)), format!("{:?}", Ok::<_, String>(SegmentFilter::default())));
        let audit = completeness(json!({ "from": "", "to": "", "account": " " })).unwrap();
        assert!(audit.from.is_none() && audit.to.is_none() && audit.accounts.is_empty());
    }

    #[test]
    fn an_empty_range_is_refused() {
        for (from, to, is_valid) in
            [("2d", "1d", true), ("1d", "2d", false), ("2026-01-01", "2026-01-01", false), ("1d", "", true)]
        {
            assert_eq!(search(json!({ "query": "x", "from": from, "to": to })).is_ok(), is_valid, "{from} {to}");
            assert_eq!(completeness(json!({ "from": from, "to": to })).is_ok(), is_valid, "{from} {to}");
        }
        assert!(search(json!({ "query": "x", "from": "soon" })).unwrap_err().contains("from is not valid"));
    }

    #[test]
    fn a_conversation_is_a_segment_or_a_dialog() {
        let conversation = |arguments: Value| {
            let arguments: ConversationArguments = serde_json::from_value(arguments).unwrap();
            arguments.conversation().map_err(|error| error.fault())
        };
        let segment =
            |account: Option<&str>| ConversationId::Segment { id: "s".to_owned(), account: account.map(str::to_owned) };
        for (arguments, expected) in [
            (json!({ "segment_id": "s", "dialog_id": "", "account": "" }), Ok(segment(None))),
            (json!({ "segment_id": "s", "account": "a" }), Ok(segment(Some("a")))),
            (json!({ "dialog_id": "d", "segment_id": " " }), Ok(ConversationId::Dialog { id: "d".to_owned() })),
            (json!({ "dialog_id": "d", "account": "a" }), Err(ReadFault::Invalid)),
            (json!({ "dialog_id": "d", "segment_id": "s" }), Err(ReadFault::Invalid)),
            (json!({}), Err(ReadFault::Invalid)),
        ] {
            assert_eq!(conversation(arguments.clone()), expected, "{arguments}");
        }
    }
}
