-- The full-text index. It holds words and where they stand, no text. A document is one artifact of one segment, or the
-- agent's notes on it; its number puts documents in the order of the segments' end times (src/db/search/doc.rs). A document
-- longer than one tsvector may be lies in several blocks that overlap; `many` tells those from the others.
create table search_block (
    doc bigint not null,
    block bigint not null,
    many bigint not null check (many in (0, 1)),
    words tsvector not null,
    primary key (doc, block)
);
create index search_block_words on search_block using gin (words) where many = 0;
create index search_block_many on search_block using gin (words) where many = 1;

-- How far into each account's feed the index has got.
create table search_cursor (account bigint primary key, feed bigint not null);

-- Segments whose metadata changed what is indexed of them: the agent's notes, or the end time, which was `was` before.
create table search_todo (
    account bigint not null,
    segment bigint not null,
    was bigint not null,
    times bigint not null default 1,
    primary key (account, segment, was)
);
