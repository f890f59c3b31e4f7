-- The full-text index: sorted runs of postings, the same on both databases. Its earlier tables stay, for a return to an earlier
-- version of the program, but empty: an erasure must find every word.
create table search_run (
    id integer primary key autoincrement,
    -- Documents, and those of them that were not removed.
    size bigint not null,
    live bigint not null,
    first_ended bigint not null,
    last_ended bigint not null,
    first_segment bigint not null,
    last_segment bigint not null,
    -- The end time and the item of each document.
    documents blob not null
);
create index search_run_ended on search_run (last_ended, id);
create index search_run_live on search_run (live);

-- Postings in order, in chunks of two a page. `rest`: the differences after `first`.
create table search_posting (
    run bigint not null,
    first bigint not null,
    rest blob not null,
    primary key (run, first)
);

insert into search_text (search_text) values ('delete-all');
delete from search_doc;
delete from search_cursor;
delete from search_todo;
delete from meta where key in ('search_version', 'search_spread');
