-- Tables in object stores (docs/delivery.md). A slice: the segments of one account and day that share one Parquet file in each
-- table. `state`: 0 planned, its objects may exist; 1 current; 2 replaced, its objects are to be deleted. `day`: the UTC day on
-- which the segments ended, -1 if unknown. `size`: the bytes of its largest file.
-- `first_end`, `last_end`: when the first and the last of its segments ended.
create table lake_slice (
    id integer primary key autoincrement,
    sink bigint not null,
    account bigint not null,
    day bigint not null,
    state bigint not null check (state in (0, 1, 2)),
    at bigint not null,
    size bigint not null default 0,
    first_end bigint,
    last_end bigint
);
create index lake_slice_account on lake_slice (sink, account, state);

-- The objects of a slice. `content`: the table.
create table lake_file (
    slice bigint not null,
    content text not null,
    name text not null,
    row_count bigint not null,
    size bigint not null,
    footer_size bigint not null,
    sha256 blob not null,
    primary key (slice, content)
) without rowid;

-- Which slice holds a segment.
create table lake_segment (
    sink bigint not null,
    segment bigint not null,
    slice bigint not null,
    primary key (sink, segment)
) without rowid;
create index lake_segment_slice on lake_segment (slice);

-- `scanned`: the key up to which the archive's segments were taken over, null once all were. `scan_began`: when that began.
-- `outcomes`: the time up to which given-up artifacts were looked at.
create table lake_account (
    sink bigint not null,
    account bigint not null,
    scanned bigint,
    scan_began bigint not null,
    outcomes bigint not null,
    primary key (sink, account)
) without rowid;
update meta set value = '37' where key = 'schema.newest_marked';
