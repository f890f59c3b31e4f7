-- The full-text index holds what filters go by beside the words: channel, direction, disposition, the participant's id and the
-- names of those who take part (src/search/marks.rs). It is built anew by the daemon.
insert into search_text (search_text) values ('delete-all');
delete from search_doc;
delete from search_cursor;
delete from search_todo;
delete from meta where key in ('search_version', 'search_spread');
