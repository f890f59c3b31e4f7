-- Documents of the full-text index get small numbers, close to one another (src/db/search/number.rs): the index takes a third less.
-- It is built anew by the daemon.
drop table search_text;
create virtual table search_text using fts5 (words, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '3');

create table search_doc (item integer primary key, number bigint not null unique);

delete from meta where key = 'search_version';
