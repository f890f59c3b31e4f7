-- The record chain: what is stored beside the texts is numbered and chained too. See docs/proof.md.

-- Of each account: the newest number, the head after it, and up to which number rows were sealed at an upgrade. Account 0 is
-- the archive's own: its records are the entries of the journal. `reads`: the newest read of metadata that is chained, and
-- the head after it.
create table record_chain (
    account bigint primary key,
    newest bigint not null,
    head blob not null,
    taken_over bigint not null,
    reads bigint not null,
    reads_head blob not null
) without rowid;

-- `since`: when this version of the metadata was seen first; null for one that was sealed at an upgrade.
alter table segment add column record bigint;
alter table segment add column since bigint;
alter table segment add column salt blob;
alter table segment add column leaf blob;
create unique index segment_record on segment (account, record);

-- A version that was replaced keeps what it was sealed with.
alter table segment_version add column account bigint;
alter table segment_version add column record bigint;
alter table segment_version add column since bigint;
alter table segment_version add column salt blob;
alter table segment_version add column leaf blob;
alter table segment_version add column dialog_id text;
alter table segment_version add column ended bigint;
alter table segment_version add column has_transcript bigint;
alter table segment_version add column is_agent bigint;
create unique index segment_version_record on segment_version (account, record);

alter table tombstone add column record bigint;
alter table tombstone add column leaf blob;
create unique index tombstone_record on tombstone (account, record);

-- What is left of a version of metadata that was erased.
create table erased_record (
    account bigint not null,
    record bigint not null,
    leaf blob not null,
    primary key (account, record)
) without rowid;

-- Keyed hash of a hold's value exactly as it was typed.
alter table journal add column value_hash blob;

-- The head before a read, and digests of the account's coverage before and after it.
alter table reading add column previous blob;
alter table reading add column coverage_before blob;
alter table reading add column coverage blob;

-- Where the record chain and the journal stood; null in manifests of before.
alter table manifest add column records bigint;
alter table manifest add column record_head blob;
alter table manifest add column journal bigint;
alter table manifest add column journal_head blob;
