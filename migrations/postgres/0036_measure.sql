-- The course of each account, for the charts of the console: the worst or the sum of a period. Periods of 10 minutes, 1 hour and
-- 6 hours are kept for about a day, a week and 90 days, so the number of rows of an account is bounded.
create table measure (
    width_ms bigint not null,
    at_ms bigint not null,
    account bigint not null,
    samples bigint not null,
    level bigint not null,
    lag_ms bigint,
    unfinished bigint not null,
    done bigint not null,
    requests bigint not null,
    primary key (width_ms, at_ms, account)
);
update meta set value = '36' where key = 'schema.newest_marked';
