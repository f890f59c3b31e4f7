//! Keeps the full-text index up with the archive, from its own cursor in each account's feed.
