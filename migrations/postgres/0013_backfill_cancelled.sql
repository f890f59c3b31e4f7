-- When a person ended a backfill before it was complete; `finished` holds the same moment then.
alter table backfill add column cancelled bigint;
