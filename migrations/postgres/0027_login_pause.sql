-- Whether an endpoint was paused because no token could be obtained. Until now the wording of the reason said so.
alter table pause add column is_login_failure bigint not null default 0;
update pause set is_login_failure = 1 where reason like 'failed to log in%'
    or reason like 'failed to exchange the RingCentral token%' or reason like 'failed to refresh the RingCX token%';
