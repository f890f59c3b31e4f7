-- Which programs may write to this database, beside one that knows all its migrations. `schema.oldest_writer`: the migration that a
-- program must know. `schema.newest_marked`: the newest migration for which that holds. A later migration that only adds
-- something sets `schema.newest_marked` to its own number; one that takes something away sets both (CONTRIBUTING.md).
insert into meta (key, value) values ('schema.oldest_writer', '30'), ('schema.newest_marked', '30');
