-- Only Postgres has keys beside its words.
select 1;
