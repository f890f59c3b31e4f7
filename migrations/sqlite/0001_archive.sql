-- The archive, the work that is left and the record of what was read. Moments are UTC milliseconds since 1970; ids of the
-- API are opaque texts. An item is one artifact of one segment: item = segment * 4 + artifact.

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
    done bigint not null default 0
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

-- One row: how often people changed something that a running daemon should notice.
create table bell (id bigint primary key, rings bigint not null);
insert into bell (id, rings) values (1, 0);

-- Single requests that a command asks a running daemon to leave room for.
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
