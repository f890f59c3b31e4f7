//! Restores a copy of an archive: what the copy must be, what it takes over from the archive that it
//! replaces, and how it gets the archive's name.

mod access_entries;
mod apply_state;
mod carried_state;
mod replace_file;
mod restore_mark;
mod restore_summary;

pub use carried_state::CarriedState;
pub use replace_file::RestoredCopy;
pub use restore_summary::{RestoreOutcome, RestoreSummary};
