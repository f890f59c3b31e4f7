-- An item whose answers are broken alike again and again fails at its horizon, with the beginning of the last one kept for a
-- person to see. `broken`: how, 0 for not at all. `alike`: how many in a row. `last_body`: at most 2 KB, not packed.
alter table work add column broken bigint not null default 0;
alter table work add column alike bigint not null default 0;
alter table work add column last_body blob;
