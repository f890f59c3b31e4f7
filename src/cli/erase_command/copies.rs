//! What sinks have received of the segments that are to be erased, and what will be done there.

use crate::cli::human_format::format_count;
use crate::config::Settings;
use crate::db::{Db, DbError, DeliveredCopies, LakeCopies, SegmentRef};
use crate::render::clean_line;
use crate::sink::{ErasureCapability, erasure_capability};

const REWRITES_OBJECTS: &str = "the daemon writes the objects that hold them again without them, and deletes the earlier ones, \
     with a catalog once their snapshots have expired; versions that the bucket keeps, and copies that others made, must be erased by hand";

/// Describes the copies, one line a sink.
pub(super) async fn describe_copies(db: &Db, settings: &Settings, segments: &[SegmentRef]) -> Result<String, DbError> {
    let keys: Vec<i64> = segments.iter().map(|segment| segment.key).collect();
    let (copies, tables) = (db.delivered_copies(&keys).await?, db.lake_copies(&keys).await?);
    let has_tables = |name: &str| tables.iter().any(|held| held.sink == name);
    let events = copies.iter().filter(|copies| !has_tables(&copies.sink));
    Ok(events
        .map(|copies| describe_sink(settings, copies))
        .chain(tables.iter().map(|held| describe_tables(settings, held)))
        .collect())
}

fn describe_tables(settings: &Settings, held: &LakeCopies) -> String {
    let sink = settings.sinks.iter().find(|sink| sink.name == held.sink);
    let action = match sink.map(|sink| erasure_capability(&sink.kind)) {
        Some(ErasureCapability::RewriteObjects) => REWRITES_OBJECTS,
        _ => "the sink has no tables in the settings any more; its objects must be deleted by hand",
    };
    let (name, segments) = (clean_line(&held.sink), format_count(held.segments, "segment"));
    format!("copies: the tables of sink {name} hold {segments}: {action}\n")
}

fn describe_sink(settings: &Settings, copies: &DeliveredCopies) -> String {
    let sink = settings.sinks.iter().find(|sink| sink.name == copies.sink);
    let action = match sink.map(|sink| erasure_capability(&sink.kind)) {
        Some(ErasureCapability::Rewrite) => {
            "the daemon removes them from the files that it wrote in its folder; files of another replica or of an earlier \
             instance name, and files that were moved elsewhere, must be erased by hand"
        }
        Some(ErasureCapability::RewriteObjects) => REWRITES_OBJECTS,
        Some(ErasureCapability::Tombstone) => {
            "the daemon sends it com.ringcx.segment.erased; the receiver must erase its copies"
        }
        Some(ErasureCapability::None) => {
            "the daemon adds com.ringcx.segment.erased; the copies in earlier objects must be erased by hand"
        }
        None => "the sink is no longer in the settings; its copies must be erased by hand",
    };
    format!(
        "copies: sink {} received up to {} of {}: {action}\n",
        clean_line(&copies.sink),
        format_count(copies.events, "event"),
        format_count(copies.segments, "segment"),
    )
}
