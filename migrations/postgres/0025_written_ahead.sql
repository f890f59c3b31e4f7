-- What of an account is dated up to this time, and later than it is, comes from a clock that was ahead: a person has said so when
-- approving a pass of retention. Null: nobody has.
alter table account add column written_ahead bigint;
