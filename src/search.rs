//! Full-text search: the query syntax, the tokenizer, and the scoring of documents.
//!
//! Everything except [`find`] is pure. [`find`] reads `db`; the command line and the dashboard call
//! it. The indexer (`search_indexer`) and the search use the same tokenizer.

mod conversation_list;
pub(crate) mod document;
pub(crate) mod facets;
pub mod query;
mod ranked_search;
pub mod score;
pub(crate) mod segment_fields;
pub mod tokenizer;
mod truncate_body;

pub(crate) use conversation_list::{ConversationHit, ConversationKey, count_conversations, group_by_conversation};
pub use document::{Document, DocumentSource, for_each_conversation_word, for_each_text_word};
pub use facets::Facets;
pub(crate) use facets::source_facet;
pub use query::{Query, QueryError, parse};
pub(crate) use ranked_search::sort_hits;
pub use ranked_search::{Filters, MAX_RANKED_MATCHES, MAX_SCANNED_MATCHES, SearchHit, SearchResults, SortOrder, find};
pub use truncate_body::truncate_body;
