//! File descriptors: the limit is raised as far as the system allows, and what is left of it is shared out.
//!
//! Requests to the API must not use up what the listener and the database need: with few descriptors it is slow, not deaf.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What the database, the log, the runtime and the sinks' files need at the most.
const RESERVED: u64 = 40;

/// How many sockets each part of the program may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketShares {
    /// Connections to the HTTP server.
    pub connections: usize,
    /// Requests to the API under way at once.
    pub requests: usize,
    /// Connections to one host of the API that are kept open for the next request.
    pub idle_per_host: usize,
    /// Deliveries of all sinks under way at once.
    pub deliveries: usize,
    /// Deliveries of one sink under way at once: one that does not answer must leave places to the others.
    pub deliveries_per_sink: usize,
    /// Connections of one sink that are kept open for the next delivery.
    pub idle_per_sink: usize,
}

/// Raises the soft limit to the hard one.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where that is not permitted, less is shared out.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// The shares under the limit that the process had when it was first asked for.
pub fn shares() -> SocketShares {
    static SHARES: OnceLock<SocketShares> = OnceLock::new();
    *SHARES.get_or_init(|| share_out(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)))
}

/// Waits for a place among the deliveries of all sinks; it is free again when the permit is dropped.
pub async fn delivery_place() -> Option<SemaphorePermit<'static>> {
    static PLACES: OnceLock<Semaphore> = OnceLock::new();
    // It is never closed.
    PLACES.get_or_init(|| Semaphore::new(shares().deliveries)).acquire().await.ok()
}

/// Shares `limit` out: a quarter each for the server, for requests, for connections to the API that are kept open, and for the
/// sinks.
fn share_out(limit: u64) -> SocketShares {
    const MOST_CONNECTIONS: usize = 256;
    const MOST_DELIVERIES: usize = 1024;
    // As many as a sink has requests under way.
    const MOST_IDLE_PER_SINK: usize = 8;
    // As many as fit into any memory.
    const MOST_REQUESTS: usize = 1 << 16;
    const MOST_IDLE: usize = 4096;
    let quarter = usize::try_from(limit.saturating_sub(RESERVED) / 4).unwrap_or(usize::MAX);
    // Half of theirs; what is kept open is the other half, of as many as sixteen sinks.
    let deliveries = (quarter / 2).clamp(2, MOST_DELIVERIES);
    SocketShares {
        connections: quarter.clamp(4, MOST_CONNECTIONS),
        requests: quarter.clamp(2, MOST_REQUESTS),
        // Three hosts, and two clients.
        idle_per_host: (quarter / 6).min(MOST_IDLE),
        deliveries,
        deliveries_per_sink: deliveries / 2,
        idle_per_sink: (quarter / 32).min(MOST_IDLE_PER_SINK),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn with_many_descriptors_nothing_is_held_back() {
        let shares = share_out(u64::MAX);
        assert_eq!((shares.connections, shares.requests, shares.idle_per_host), (256, 65_536, 4096));
        assert_eq!((shares.deliveries, shares.deliveries_per_sink, shares.idle_per_sink), (1024, 512, 8));
    }

    proptest! {
        #[test]
        fn what_is_shared_out_leaves_the_rest_of_the_program_its_own(limit in 60u64..1_000_000) {
            let SocketShares { connections, requests, idle_per_host, deliveries, deliveries_per_sink, idle_per_sink } = share_out(limit);
            let sockets = (connections + requests + 6 * idle_per_host + deliveries + 16 * idle_per_sink) as u64;
            prop_assert!(sockets + RESERVED <= limit, "{sockets} of {limit}");
            prop_assert!(connections >= 4 && requests >= 2 && deliveries_per_sink >= 1);
        }
    }
}
