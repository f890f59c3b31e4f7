-- Only SQLite's index is told how to merge.
select 1;
