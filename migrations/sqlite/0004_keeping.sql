-- Keeping and erasing. What was erased is known by a keyed hash alone; what was done about it stands in a journal that only
-- grows.

-- `kind`: 0 erased on request, 1 gone by retention. `counted`: whether it is in `erased`; one left for a segment that had not
-- been announced yet is not, until it is. `day`: the UTC day on which the segment ended, -1 where that is not known.
create table tombstone (
    account bigint not null,
    hash blob not null,
    at bigint not null,
    kind bigint not null check (kind in (0, 1)),
    day bigint not null,
    counted bigint not null check (counted in (0, 1)),
    primary key (account, hash)
) without rowid;

-- How many segments of a day are gone, and of how many of them each artifact had been asked for.
create table erased (
    account bigint not null,
    day bigint not null,
    kind bigint not null check (kind in (0, 1)),
    segments bigint not null,
    transcripts bigint not null,
    agent_summaries bigint not null,
    auto_summaries bigint not null,
    primary key (account, day, kind)
) without rowid;

-- What is to be kept, whatever retention or erasure say. `account` is null where it holds in all of them.
create table hold (
    id integer primary key autoincrement,
    account bigint,
    kind text not null check (kind in ('segment', 'dialog', 'contact')),
    value text not null,
    reason text,
    placed bigint not null,
    who text not null
);

create table journal (
    id integer primary key autoincrement,
    at bigint not null,
    who text not null,
    what text not null check (what in ('erase', 'refused', 'retention', 'hold', 'release')),
    account bigint,
    kind text,
    subject blob,
    segments bigint not null,
    records bigint not null,
    hold bigint,
    reason text
);

create trigger journal_is_not_changed before update on journal
begin
    select raise(abort, 'the journal only grows');
end;

create trigger journal_is_not_cut before delete on journal
begin
    select raise(abort, 'the journal only grows');
end;

create index segment_account_ended on segment (account, ended);
