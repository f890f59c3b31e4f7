//! Objects in a bucket or a folder, by account and hour of storing.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::SinkError;
use crate::clock::Time;
use crate::config::ObjectFormat;
use crate::event::Event;

/// The name of an object with events of this sub-account, the first and last by their numbers in its feed: below the day
/// and hour at which the first was stored.
pub fn object_name(sub: &str, stored: Time, first: i64, last: i64) -> String {
    let hour = stored.timestamp().strftime("%Y/%m/%d/%H");
    format!("{}/{hour}/{first:020}-{last:020}", crate::event::segment(sub))
}

/// A bucket or folder that objects are put into.
pub struct ObjectStoreSink {}

impl ObjectStoreSink {
    /// From the settings.
    ///
    /// # Errors
    /// Where there can be no such store, said for people.
    pub fn new(
        _url: &str,
        _format: ObjectFormat,
        _options: &BTreeMap<String, SecretString>,
    ) -> Result<ObjectStoreSink, SinkError> {
        Ok(ObjectStoreSink {})
    }

    /// Writes the batch as one object under `name` (a path below the prefix, without extension), overwriting.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn put(&self, _name: &str, _events: &[Event]) -> Result<(), SinkError> {
        Err(SinkError::away("objects are not written yet"))
    }
}
