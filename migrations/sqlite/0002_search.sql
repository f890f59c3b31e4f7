-- The full-text index. It holds words and where they stand, no text. A document is one artifact of one segment, or the
-- agent's notes on it; its number puts documents in the order of the segments' end times (src/db/search/doc.rs). What is
-- indexed is this program's own words joined by spaces, so the tokeniser has nothing left to decide. Beginnings of three
-- letters are indexed too: gathering them from all words would take as long as the archive is large.
create virtual table search_text using fts5 (words, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '3');

-- How far into each account's feed the index has got.
create table search_cursor (account bigint primary key, feed bigint not null) without rowid;

-- Segments whose metadata changed what is indexed of them: the agent's notes, or the end time, which was `was` before.
create table search_todo (
    account bigint not null,
    segment bigint not null,
    was bigint not null,
    times bigint not null default 1,
    primary key (account, segment, was)
) without rowid;
