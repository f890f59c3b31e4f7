-- Migrations 31 to 33 are not marked, so programs from before them are shut out. A later migration that is marked as one that only
-- adds something must not let them in again: it would name only migration 30 as the one that a program must know.
update meta set value = '34' where key = 'schema.oldest_writer';
update meta set value = '34' where key = 'schema.newest_marked';
