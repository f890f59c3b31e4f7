-- Proof that nothing was altered: a hash chain over each account's feed, and where it stood at the end of each day.

-- Random, so that the leaf of an entry that was erased says nothing about it. Null for entries from before this migration.
alter table artifact add column salt bytea;

-- The head of the chain after the newest feed number (null: as at its beginning), the number after which it begins, and
-- the hash of the newest manifest.
alter table account add column chain bytea;
alter table account add column chain_from bigint not null default 0;
alter table account add column manifest bytea;
update account set chain_from = feed;

-- What is left of an erased entry; no leaf for one from before the chain.
create table erased_leaf (
    account bigint not null,
    feed bigint not null,
    leaf bytea,
    primary key (account, feed)
);

-- Where an account stood when a UTC day was over.
create table manifest (
    account bigint not null,
    day bigint not null,
    chain_from bigint not null,
    feed bigint not null,
    head bytea not null,
    segments bigint not null,
    ledger bytea not null,
    sealed bigint not null,
    previous bytea not null,
    hash bytea not null,
    primary key (account, day)
);
