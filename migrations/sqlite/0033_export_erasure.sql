-- Segments that were erased after an export had printed a number: `export --changed-since` tells their erasure.
-- Their ids are encrypted with the archive's key. Rows are deleted after 90 days.
create table export_erasure (
    id integer primary key autoincrement,
    account bigint not null,
    sealed_ids blob not null,
    at bigint not null,
    kind bigint not null check (kind in (0, 1))
);
create index export_erasure_at on export_erasure (at);
