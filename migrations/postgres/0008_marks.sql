-- The full-text index holds what filters go by beside the words: channel, direction, disposition, the participant's id and the
-- names of those who take part (src/search/marks.rs); and in which stretches of time it was (src/db/search/buckets.rs). It is
-- built anew by the daemon.
truncate search_block;
delete from search_cursor;
delete from search_todo;
delete from meta where key = 'search_version';
