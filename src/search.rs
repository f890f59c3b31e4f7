//! Full-text search: what a query means, how text is cut into words, which passage to show.
//!
//! Everything but [`find`] is pure; that one reads `db` and is what the command line, and whoever else lets people look,
//! call. The index (`index`) and the search share the words, so they cannot disagree.

pub mod document;
mod find;
mod head;
pub mod marks;
pub mod query;
pub mod score;
pub mod words;

pub use document::{Document, Source, indexed, spoken};
pub use find::{Filters, Findings, Hit, LOOKED_AT, Order, RANKED, find};
pub use head::head;
pub use marks::Marks;
pub use query::{Query, QueryError, parse};
