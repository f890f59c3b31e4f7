//! The arguments of the tools, and what they mean to the reader.

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
                Ok(SegmentFilter {
                    from: parse_time("from", &self.from, now)?,
                    to: parse_time("to", &self.to, now)?,
                    accounts: self.account.clone().into_iter().collect(),
                    agent: self.agent.clone(),
                    contact: self.contact.clone(),
                    channel: self.channel.clone(),
                    direction: self.direction.clone(),
                    disposition: self.disposition.clone(),
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
        let order = match self.sort.as_deref() {
            None | Some("best") => SortOrder::Best,
            Some("newest") => SortOrder::Newest,
            Some(_) => return Err(ReadError::new(ReadFault::Invalid, "sort must be \"best\" or \"newest\"")),
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
        Ok((question, PageRequest { limit, cursor: self.cursor.clone(), question: format!("tool {asked}") }))
    }
}

impl CountArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
    }

    pub(super) fn dimension(&self) -> Result<Dimension, ReadError> {
        Dimension::parse(&self.by).ok_or_else(|| {
            let known = Dimension::ALL.map(|(name, _)| name).join(", ");
            ReadError::new(ReadFault::Invalid, format!("by must be one of {known}"))
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
    pub(super) segment_id: Option<String>,
    /// The dialog to read, over all its segments.
    #[serde(default)]
    pub(super) dialog_id: Option<String>,
    /// The account, where several have a segment with this id.
    #[serde(default)]
    pub(super) account: Option<String>,
    /// The phrase to begin with, from 0: `next_phrase` of the last answer.
    #[serde(default)]
    pub(super) first_phrase: Option<usize>,
    /// The budget of the answer in tokens, 6000 by default.
    #[serde(default)]
    max_tokens: Option<usize>,
}

impl ConversationArguments {
    pub(super) fn byte_budget(&self) -> usize {
        byte_budget(self.max_tokens)
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
        Ok(AuditQuestion {
            from: parse_time("from", &self.from, now)?,
            to: parse_time("to", &self.to, now)?,
            accounts: self.account.clone().into_iter().collect(),
        })
    }
}

fn parse_time(name: &str, text: &Option<String>, now: Time) -> Result<Option<Time>, ReadError> {
    let parse = |text: &String| {
        config::parse_time(text, now)
            .map_err(|why| ReadError::new(ReadFault::Invalid, format!("{name} is not valid: {why}")))
    };
    text.as_ref().map(parse).transpose()
}
