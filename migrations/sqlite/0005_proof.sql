-- Proof that nothing was altered: a hash chain over each account's feed, and where it stood at the end of each day.

-- Random, so that the leaf of an entry that was erased says nothing about it. Null for entries from before this migration.
alter table artifact add column salt blob;

-- The head of the chain after the newest feed number (null: as at its beginning), the number after which it begins, and
-- the hash of the newest manifest.
alter table account add column chain blob;
alter table account add column chain_from bigint not null default 0;
alter table account add column manifest blob;
update account set chain_from = feed;

-- What is left of an erased entry; no leaf for one from before the chain.
create table erased_leaf (
    account bigint not null,
    feed bigint not null,
    leaf blob,
    primary key (account, feed)
) without rowid;

-- Where an account stood when a UTC day was over.
create table manifest (
    account bigint not null,
    day bigint not null,
    chain_from bigint not null,
    feed bigint not null,
    head blob not null,
    segments bigint not null,
    ledger blob not null,
    sealed bigint not null,
    previous blob not null,
    hash blob not null,
    primary key (account, day)
) without rowid;
