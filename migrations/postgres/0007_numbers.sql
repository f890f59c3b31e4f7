-- Only SQLite numbers its documents otherwise.
select 1;
