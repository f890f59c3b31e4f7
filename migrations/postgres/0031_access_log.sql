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
    subject_hash bytea not null,
    hits bigint,
    erased_by bigint check (erased_by is null or subject is null)
);

create index access_log_at on access_log (at);
create index access_log_subject on access_log (subject_hash);

-- The head of its hash chain, and the head after the entries that retention removed.
create table access_chain (
    id bigint not null primary key check (id = 1),
    newest bigint not null,
    head bytea not null,
    removed bigint not null,
    removed_head bytea not null,
    check (removed <= newest)
);

create function access_log_only_grows() returns trigger language plpgsql as $$
begin
    raise exception 'the access log only grows';
end
$$;

create trigger access_log_is_not_changed before update on access_log for each row
when (new.subject is not null or old.subject is null or new.erased_by is null
    or row(new.id, new.at, new.reader_kind, new.reader, new.origin, new.action, new.sub, new.subject_kind, new.subject_hash, new.hits)
    is distinct from
    row(old.id, old.at, old.reader_kind, old.reader, old.origin, old.action, old.sub, old.subject_kind, old.subject_hash, old.hits))
execute function access_log_only_grows();

-- Retention first moves `removed`, then deletes up to it.
create function access_log_is_cut() returns trigger language plpgsql as $$
begin
    if old.id > coalesce((select removed from access_chain), 0) then
        raise exception 'the access log only grows';
    end if;
    return old;
end
$$;

create trigger access_log_is_not_cut before delete on access_log for each row execute function access_log_is_cut();
create trigger access_log_is_not_truncated before truncate on access_log
for each statement execute function access_log_only_grows();

create trigger access_chain_only_advances before update on access_chain for each row
when (new.newest < old.newest or new.removed < old.removed) execute function access_log_only_grows();
create trigger access_chain_stays before delete on access_chain for each row execute function access_log_only_grows();
create trigger access_chain_is_not_truncated before truncate on access_chain
for each statement execute function access_log_only_grows();
