-- Documents that could not be worked on when the full-text index was written (src/db/search/skipped.rs), and why. A row goes when
-- a newer version of the document is in the index, with the document, and when the index is built anew.
create table search_skipped (
    item integer primary key,
    account integer not null,
    reason text not null
) strict;
