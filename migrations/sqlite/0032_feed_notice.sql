-- Feed entries that are no artifact. `kind`: 0 the segment was announced or its metadata changed, 1 erased on request, 2 deleted by
-- retention. `segment`: its key, which outlives the segment. `segment_id`: only of an erased segment, until every sink was told.
create table feed_notice (
    account bigint not null,
    feed bigint not null,
    kind bigint not null check (kind in (0, 1, 2)),
    segment bigint not null,
    segment_id text,
    version bigint not null check (version >= 1),
    at bigint not null,
    primary key (account, feed)
) without rowid;
create index feed_notice_segment on feed_notice (segment);
create index feed_notice_named on feed_notice (account, feed) where segment_id is not null;
