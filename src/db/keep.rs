//! Keeping and erasing: holds, tombstones, retention, and the journal of all of it.
