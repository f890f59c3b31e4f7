//! The sinks with their failures and replays, for callers that see everything: a sink has the events of
//! all accounts and channels.

use serde::Serialize;

use super::{ArchiveReader, ReadError, forbidden};
use crate::access::{Caller, Permission};
use crate::status::{SinkDetails, gather_sink_details};

/// The sinks as the caller sees them.
#[derive(Debug, Serialize)]
pub(crate) struct DeliveryView {
    /// Null for a role that shows only some accounts or channels.
    pub(crate) sinks: Option<Vec<SinkDetails>>,
    /// Whether the caller may send events again.
    pub(crate) may_operate: bool,
}

impl ArchiveReader {
    /// The sinks of the settings, then those that are no longer in them.
    pub(crate) async fn delivery(&self, caller: &Caller) -> Result<DeliveryView, ReadError> {
        if !caller.may(Permission::Read) && !caller.may(Permission::Operate) {
            return Err(forbidden(Permission::Read));
        }
        let may_operate = caller.may_everywhere(Permission::Operate);
        if !may_operate && !caller.may_everywhere(Permission::Read) {
            return Ok(DeliveryView { sinks: None, may_operate });
        }
        let sinks = gather_sink_details(&self.db, &self.settings, self.clock.now()).await?;
        Ok(DeliveryView { sinks: Some(sinks), may_operate })
    }
}
