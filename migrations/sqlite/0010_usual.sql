-- Bodies are packed with a dictionary from here on (src/db/item/usual.txt). Nothing of what is held changes; this is here so that
-- a version that cannot read them refuses the database rather than calling them damaged.
select 1;
