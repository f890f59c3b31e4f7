-- Postgres has something to change here; SQLite's own index knows where words stand next to one another.
select 1;
