//! The full-text index: what is indexed, how far, and what matches.
