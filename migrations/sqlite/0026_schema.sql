-- The schema of the archive (docs/DATA_MODEL.md). Times are UTC milliseconds since 1970. Ids of the API are opaque texts. An
-- item is one artifact of one segment: item = segment * 4 + artifact.

create table meta (key text primary key, value text not null) without rowid;

create table account (
    id integer primary key,
    rc text not null,
    sub text not null unique,
    name text,
    created bigint not null,
    live_start bigint,
    retention_days bigint,
    missing_since bigint,
    owner text,
    epoch bigint not null default 0,
    let_go bigint,
    feed bigint not null default 0,
    done bigint not null default 0,
    -- The head of the feed's hash chain (null before its first entry), the number after which the chain begins, and the hash
    -- of the newest manifest.
    chain blob,
    chain_from bigint not null default 0,
    manifest blob,
    -- Times up to this one come from a clock that was ahead: a person confirmed that by approving a retention pass.
    written_ahead bigint
);

create table segment (
    id integer primary key,
    account bigint not null references account (id),
    segment_id text not null,
    dialog_id text,
    ended bigint not null,
    has_transcript bigint not null check (has_transcript in (0, 1)),
    is_agent bigint not null check (is_agent in (0, 1)),
    asked bigint not null check (asked between 0 and 7),
    first_seen bigint not null,
    changed bigint not null,
    digest blob not null,
    codec bigint not null check (codec in (0, 1)),
    metadata blob not null,
    -- The record chain. `since`: when this version of the metadata was first seen; null if an upgrade chained it.
    record bigint,
    since bigint,
    salt blob,
    leaf blob,
    unique (account, segment_id)
);
create index segment_ended on segment (ended);
create index segment_dialog on segment (dialog_id) where dialog_id is not null;

create table segment_version (
    segment bigint not null,
    seen bigint not null,
    what text not null,
    codec bigint not null,
    metadata blob not null,
    -- A replaced version keeps what it was chained with.
    account bigint,
    record bigint,
    since bigint,
    salt blob,
    leaf blob,
    dialog_id text,
    ended bigint,
    has_transcript bigint,
    is_agent bigint,
    primary key (segment, seen)
);

create table work (
    item integer primary key,
    segment bigint not null,
    artifact bigint not null check (artifact between 0 and 2),
    account bigint not null,
    lane bigint not null check (lane between 0 and 3),
    state bigint not null check (state between 0 and 3),
    due bigint not null,
    created bigint not null,
    tries bigint not null default 0,
    again bigint not null default 0 check (again in (0, 1)),
    misses bigint not null default 0,
    refusals bigint not null default 0,
    first_try bigint,
    last_try bigint,
    paused bigint not null default 0,
    status bigint,
    reason text,
    visit bigint not null default 0,
    -- `broken`: the kind of defect of the last answer, 0 for none. `alike`: how many consecutive answers had it. `last_body`:
    -- the beginning of that answer, at most 2 KB, not packed.
    broken bigint not null default 0,
    alike bigint not null default 0,
    last_body blob,
    check (item = segment * 4 + artifact)
);
create index work_due on work (account, artifact, lane, again, due) where state = 0;
create index work_settled on work (account, state) where state <> 0;

create table artifact (
    item bigint not null,
    version bigint not null check (version >= 1),
    account bigint not null,
    feed bigint not null,
    outcome bigint not null check (outcome in (0, 1)),
    fetched bigint not null,
    size bigint not null,
    sha256 blob not null,
    codec bigint not null check (codec in (0, 1)),
    body blob not null,
    -- Random, so that the leaf of an erased entry reveals nothing about it. Null for entries from before the feed's chain.
    salt blob,
    unique (item, version)
);
create unique index artifact_feed on artifact (account, feed);

create table attempt (
    item bigint not null,
    slot bigint not null,
    nth bigint not null,
    at bigint not null,
    status bigint,
    reason text not null,
    primary key (item, slot)
) without rowid;

create table coverage (
    account bigint not null,
    pass text not null,
    from_ms bigint not null,
    to_ms bigint not null,
    reads bigint not null,
    first_read bigint not null,
    last_read bigint not null,
    check (from_ms < to_ms),
    primary key (account, pass, from_ms)
) without rowid;

create table coverage_level (
    account bigint not null,
    pass text not null,
    base bigint not null,
    primary key (account, pass)
) without rowid;

create table backfill (
    id integer primary key,
    account bigint not null,
    from_ms bigint not null,
    to_ms bigint not null,
    newest_first bigint not null,
    created bigint not null,
    finished bigint,
    -- When it was cancelled; `finished` holds the same time then.
    cancelled bigint,
    check (from_ms < to_ms)
);
create index backfill_open on backfill (account) where finished is null;

create table reading (
    account bigint not null,
    nth bigint not null,
    at bigint not null,
    took bigint not null,
    lane text not null,
    from_ms bigint not null,
    to_ms bigint not null,
    announced bigint not null,
    added bigint not null,
    changed bigint not null,
    flipped bigint not null,
    aside bigint not null,
    digest_high bigint not null,
    digest_low bigint not null,
    -- The read log's head before this read, and digests of the account's coverage before and after it.
    previous blob,
    coverage_before blob,
    coverage blob,
    primary key (account, nth)
) without rowid;

create table announced (
    account bigint not null,
    day bigint not null,
    segments bigint not null,
    digest_high bigint not null,
    digest_low bigint not null,
    primary key (account, day)
) without rowid;

create table aside (
    account bigint not null,
    digest blob not null,
    segment_id text,
    reason text not null,
    raw blob not null,
    first_seen bigint not null,
    last_seen bigint not null,
    times bigint not null,
    from_ms bigint not null,
    to_ms bigint not null,
    due bigint not null,
    resolved bigint,
    primary key (account, digest)
);
create index aside_open on aside (account) where resolved is null;

create table lateness (
    account bigint not null,
    kind text not null,
    bucket bigint not null,
    count bigint not null,
    primary key (account, kind, bucket)
) without rowid;

create table reservation (
    id integer primary key,
    key text not null,
    reserved bigint not null,
    counted bigint
);
create index reservation_key on reservation (key, reserved);

-- One row: the change version, by which a command tells a running daemon that it changed something.
create table bell (id bigint primary key, rings bigint not null);
insert into bell (id, rings) values (1, 0);

-- Permit requests of commands for single API requests.
create table guest (
    id integer primary key,
    account bigint not null,
    asked bigint not null,
    granted bigint
);

create table pause (
    account bigint not null,
    endpoint text not null,
    since bigint not null,
    until bigint not null,
    times bigint not null,
    status bigint,
    reason text not null,
    primary key (account, endpoint)
) without rowid;

create table replica (
    name text primary key,
    version text not null,
    started bigint not null,
    heartbeat bigint not null,
    released bigint,
    stats text not null
) without rowid;

-- Position of the full-text index in each account's feed.
create table search_cursor (account bigint primary key, feed bigint not null) without rowid;

-- Reindex backlog: segments whose notes or end time changed. `was`: the end time in the index.
create table search_todo (
    account bigint not null,
    segment bigint not null,
    was bigint not null,
    times bigint not null default 1,
    primary key (account, segment, was)
) without rowid;

-- Delivery. A sink is a cursor per account in the account's feed, and the failed deliveries. An account without a cursor is at
-- 0. Sinks that are no longer in the settings keep their rows.
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

-- `state`: 0 waits for a retry, 1 given up. `waited`: time spent on retries, without the time in which the sink was paused.
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

-- The bounds of an object before it is written, so that a retry writes the same object.
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

-- Replays: cursors that end.
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

-- Keyed hashes of deleted segments. `kind`: 0 erased on request, 1 deleted by retention. `counted`: whether `erased` counts it;
-- a segment that was erased before its announcement is counted then. `day`: the UTC day on which it ended, -1 if unknown.
create table tombstone (
    account bigint not null,
    hash blob not null,
    at bigint not null,
    kind bigint not null check (kind in (0, 1)),
    day bigint not null,
    counted bigint not null check (counted in (0, 1)),
    record bigint,
    leaf blob,
    primary key (account, hash)
) without rowid;

-- Number of deleted segments per day, and of how many of them each artifact had been requested.
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

-- Legal holds. `account` is null if it covers all accounts.
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
    reason text,
    -- Keyed hash of a hold's value as typed.
    value_hash blob
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

-- Leaves of erased feed entries; null for entries from before the chain.
create table erased_leaf (
    account bigint not null,
    feed bigint not null,
    leaf blob,
    primary key (account, feed)
) without rowid;

-- Daily manifests: an account's heads at the end of a UTC day.
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
    -- Null in manifests from before the record chain.
    records bigint,
    record_head blob,
    journal bigint,
    journal_head blob,
    primary key (account, day)
) without rowid;

-- The full-text index. It holds words and their positions, no text. A document is one artifact of one segment, or the agent's
-- notes on it.
create virtual table search_text using fts5 (words, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '3');

-- Row ids of documents in `search_text`.
create table search_doc (item integer primary key, number bigint not null unique);
-- With 8 instead of 4, indexing takes a sixth less time, and searches no longer.
insert into search_text (search_text, rank) values ('automerge', 8);

-- Retention passes that would delete an unusual share of an account. They wait a day, or for a person's approval. `waited_ms`:
-- elapsed time, whatever clocks showed.
create table retention_notice (
    account integer primary key,
    retention_ms bigint not null,
    announced bigint not null,
    waited_ms bigint not null,
    segments bigint not null,
    approved bigint not null default 0 check (approved in (0, 1))
);

-- Documents that could not be indexed, until a newer version is.
create table search_skipped (
    item integer primary key,
    account integer not null,
    reason text not null
) strict;

-- The record chain (docs/proof.md): the newest number and the head after it. Up to `taken_over`, an upgrade chained the rows.
-- Account 0 is the archive's own: its records are the entries of the journal. `reads`: the newest chained window read.
create table record_chain (
    account bigint primary key,
    newest bigint not null,
    head blob not null,
    taken_over bigint not null,
    reads bigint not null,
    reads_head blob not null
) without rowid;
create unique index segment_record on segment (account, record);
create unique index segment_version_record on segment_version (account, record);
create unique index tombstone_record on tombstone (account, record);

-- Leaves of erased metadata versions.
create table erased_record (
    account bigint not null,
    record bigint not null,
    leaf blob not null,
    primary key (account, record)
) without rowid;
