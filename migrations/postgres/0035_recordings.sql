-- Recordings. Their bytes are in the recording store, under the name `object`. The version's row in `artifact` has no body.
create table recording (
    item bigint not null,
    version bigint not null check (version >= 1),
    account bigint not null,
    object text not null,
    sha256 bytea not null,
    size bigint not null check (size >= 0),
    media_type text not null,
    -- Null where the header does not tell.
    duration_ms bigint,
    channels bigint,
    stored bigint not null,
    primary key (item, version)
);
create index recording_object on recording (object);

-- Objects that no recording names any more, until they are deleted from the store.
create table recording_deletion (object text primary key);

-- Uploads in parts to a bucket that have not ended. What a dead process left is discarded.
create table recording_upload (
    object text primary key,
    upload_id text not null,
    owner text not null,
    started bigint not null
);

-- `hasRecording` of the newest metadata. Segments from before this column have 0 until their metadata is read again.
alter table segment add column has_recording bigint not null default 0 check (has_recording in (0, 1));

-- A notice has an item of its own, below zero: the fourth of a segment is its recording.
update sink_event set item = 2 - item where item > 0 and item % 4 = 3;

-- A recording is the fourth artifact of a segment. Every row meets the wider constraint, so none is checked.
alter table segment drop constraint segment_asked_check;
alter table segment add constraint segment_asked_check check (asked between 0 and 15) not valid;
alter table work drop constraint work_artifact_check;
alter table work add constraint work_artifact_check check (artifact between 0 and 3) not valid;
alter table erased add column recordings bigint not null default 0;

-- The daemon sets schema.oldest_writer to 35 when it first archives recordings: earlier programs cannot read them.
update meta set value = '35' where key = 'schema.newest_marked';
