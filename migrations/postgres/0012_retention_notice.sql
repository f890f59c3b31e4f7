-- A pass of retention that would take an unusual share of an account is announced and waits a day, or for a person's approval.
-- `waited_ms`: how much time has really passed since, whatever clocks said.
create table retention_notice (
    account bigint primary key,
    retention_ms bigint not null,
    announced bigint not null,
    waited_ms bigint not null,
    segments bigint not null,
    approved bigint not null default 0 check (approved in (0, 1))
);
