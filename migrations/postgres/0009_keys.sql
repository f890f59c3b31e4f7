-- Beside its words each block has keys: which words stand next to one another, how they begin, and when it was
-- (src/db/search/keys.rs and buckets.rs). They take the place of the sketches and of the words that stood for two others or for
-- a stretch of time. The index on both answers what is asked of both at once.
--
-- Words and keys lie outside the table, so that finding the newest of many matches touches few pages. The daemon builds the
-- index anew: a search says meanwhile how far it is behind.
drop table search_block;
create table search_block (
    doc bigint not null,
    block bigint not null,
    many bigint not null check (many in (0, 1)),
    words tsvector not null,
    keys integer[] not null,
    primary key (doc, block)
);
alter table search_block alter column words set storage external;
alter table search_block alter column keys set storage external;
-- A vacuum that takes its time keeps those who write from tidying the index, and each search goes through what they put off.
alter table search_block set (toast_tuple_target = 128, autovacuum_vacuum_cost_delay = 0);
create index search_block_words on search_block using gin (words, keys) where many = 0;
create index search_block_parts on search_block using gin (words, keys) where many = 1;
delete from search_cursor;
delete from search_todo;
delete from meta where key = 'search_version';
