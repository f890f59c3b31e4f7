-- Delivery to other systems. A sink is a cursor per account in the account's feed, plus the few events that did not go through;
-- an account without a cursor stands at 0. Sinks that are no longer in the settings keep their rows.

create table sink (
    id integer primary key,
    name text not null unique,
    created bigint not null,
    place text not null,
    stopped bigint,
    reason text
);

create table sink_cursor (
    sink bigint not null,
    account bigint not null,
    feed bigint not null,
    delivered bigint not null,
    last_delivered bigint,
    primary key (sink, account)
) without rowid;

-- state: 0 waits for another try, 1 given up. waited: for how long it has been tried, without the time in which the sink
-- as a whole was away.
create table sink_event (
    sink bigint not null,
    account bigint not null,
    feed bigint not null,
    item bigint not null,
    state bigint not null check (state in (0, 1)),
    tries bigint not null,
    waited bigint not null,
    first_try bigint not null,
    last_try bigint not null,
    due bigint not null,
    status bigint,
    reason text not null,
    primary key (sink, account, feed)
) without rowid;
create index sink_event_due on sink_event (sink, due) where state = 0;
create index sink_event_item on sink_event (item);

-- The bounds of an object that is being written: kept before it is, so that a second try writes the same object.
create table sink_batch (
    sink bigint not null,
    account bigint not null,
    first bigint not null,
    last bigint not null,
    name text not null,
    decided bigint not null,
    check (first <= last),
    primary key (sink, account)
) without rowid;

-- What is sent once more: a cursor too, that ends.
create table sink_replay (
    id integer primary key,
    sink bigint not null,
    account bigint not null,
    from_ms bigint not null,
    to_ms bigint not null,
    rate bigint not null check (rate >= 1),
    feed bigint not null,
    until bigint not null,
    sent bigint not null default 0,
    created bigint not null,
    finished bigint,
    check (from_ms < to_ms)
);
create index sink_replay_open on sink_replay (sink) where finished is null;
