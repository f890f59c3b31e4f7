-- A sketch of which words stand next to one another in a block (src/db/search/sketch.rs): by it a phrase is looked for
-- without reading the long list of words of every block that has them all. Those lists lie outside the table, so that
-- going through it touches few pages; the sketches lie in it.
--
-- The daemon builds the index anew: a search says meanwhile how far it is behind.
truncate search_block;
delete from search_cursor;
delete from meta where key = 'search_version';

alter table search_block add column pairs bytea not null;
alter table search_block alter column pairs set storage main;
alter table search_block alter column words set storage external;
alter table search_block set (toast_tuple_target = 128);

-- Blocks of long documents are few: gone through without going past all the others. The condition is written such that this
-- index is taken only where it is asked for: where words are given, the one that knows words must be.
create index search_block_long on search_block (doc) where many + 0 = 1;
