//! Moves what is stored on to other systems: from each account's feed, past each sink's cursor, to the sink.
