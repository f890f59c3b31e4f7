-- Who read, searched, exported or erased what. `docs/access.md` describes it.
--
-- `subject` is a segment's or dialog's id, or a query with its filters. It is null where only its keyed hash may be stored, or
-- where an erasure blanked it: `erased_by` is then the number of the entry of that erasure.
create table access_log (
    id bigint not null primary key,
    at bigint not null,
    reader_kind text not null,
    reader text not null,
    origin text not null,
    action text not null,
    sub text,
    subject_kind text not null,
    subject text,
    subject_hash blob not null,
    hits bigint,
    erased_by bigint check (erased_by is null or subject is null)
);

create index access_log_at on access_log (at);
create index access_log_subject on access_log (subject_hash);

-- The head of its hash chain, and the head after the entries that retention removed.
create table access_chain (
    id bigint not null primary key check (id = 1),
    newest bigint not null,
    head blob not null,
    removed bigint not null,
    removed_head blob not null,
    check (removed <= newest)
);

create trigger access_log_is_not_changed before update on access_log
when new.subject is not null or old.subject is null or new.erased_by is null
    or new.id is not old.id or new.at is not old.at or new.reader_kind is not old.reader_kind or new.reader is not old.reader
    or new.origin is not old.origin or new.action is not old.action or new.sub is not old.sub
    or new.subject_kind is not old.subject_kind or new.subject_hash is not old.subject_hash or new.hits is not old.hits
begin
    select raise(abort, 'the access log only grows');
end;

-- Retention first moves `removed`, then deletes up to it.
create trigger access_log_is_not_cut before delete on access_log
when old.id > coalesce((select removed from access_chain), 0)
begin
    select raise(abort, 'the access log only grows');
end;

create trigger access_chain_only_advances before update on access_chain
when new.newest < old.newest or new.removed < old.removed
begin
    select raise(abort, 'the access log only grows');
end;

create trigger access_chain_stays before delete on access_chain
begin
    select raise(abort, 'the access log only grows');
end;
