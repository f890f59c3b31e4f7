//! What sinks have received of the segments that are to be erased, and what will be done there.

use crate::cli::human_format::format_count;
use crate::config::Settings;
use crate::db::{Db, DbError, DeliveredCopies, SegmentRef};
use crate::render::clean_line;
use crate::sink::{ErasureCapability, erasure_capability};

/// Describes the copies, one line a sink.
pub(super) async fn describe_copies(db: &Db, settings: &Settings, segments: &[SegmentRef]) -> Result<String, DbError> {
    let keys: Vec<i64> = segments.iter().map(|segment| segment.key).collect();
    let copies = db.delivered_copies(&keys).await?;
    Ok(copies.iter().map(|copies| describe_sink(settings, copies)).collect())
}

fn describe_sink(settings: &Settings, copies: &DeliveredCopies) -> String {
    let sink = settings.sinks.iter().find(|sink| sink.name == copies.sink);
    let action = match sink.map(|sink| erasure_capability(&sink.kind)) {
        Some(ErasureCapability::Rewrite) => {
            "the daemon removes them from the files that it wrote in its folder; files of another replica or of an earlier \
             instance name, and files that were moved elsewhere, must be erased by hand"
        }
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
