//! File descriptors: raises the limit as far as the system allows, and divides it among the parts
//! of the program.
//!
//! Requests to the API must not use up the descriptors of the listener and the database. With few
//! descriptors the program is slow, but it still answers.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most that the database, the log, the runtime and the sinks' files need.
const RESERVED_DESCRIPTORS: u64 = 40;

/// How many sockets each part of the program may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketLimits {
    /// Connections to the HTTP server.
    pub connections: usize,
    /// Concurrent requests to the API.
    pub requests: usize,
    /// Connections to one host of the API that are kept open for the next request.
    pub idle_per_host: usize,
    /// Concurrent deliveries of all sinks.
    pub deliveries: usize,
    /// Concurrent deliveries of one sink: one that does not answer must leave sockets to the
    /// others.
    pub deliveries_per_sink: usize,
    /// Connections of one sink that are kept open for the next delivery.
    pub idle_per_sink: usize,
}

/// Raises the soft limit to the hard one.
pub fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where that is not permitted, the parts get fewer sockets.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// The socket limits, computed at the first call from the process's descriptor limit.
pub fn socket_limits() -> SocketLimits {
    static LIMITS: OnceLock<SocketLimits> = OnceLock::new();
    *LIMITS.get_or_init(|| divide_descriptors(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)))
}

/// Waits until one more delivery may run; dropping the permit frees its slot.
pub async fn acquire_delivery_slot() -> Option<SemaphorePermit<'static>> {
    static SLOTS: OnceLock<Semaphore> = OnceLock::new();
    // The semaphore is never closed.
    SLOTS.get_or_init(|| Semaphore::new(socket_limits().deliveries)).acquire().await.ok()
}

/// Divides `limit`: a quarter each for the server, for requests, for idle connections to the API,
/// and for the sinks.
fn divide_descriptors(limit: u64) -> SocketLimits {
    const MAX_CONNECTIONS: usize = 256;
    const MAX_DELIVERIES: usize = 1024;
    // As many as a sink has concurrent requests.
    const MAX_IDLE_PER_SINK: usize = 64;
    // As many as fit into any memory.
    const MAX_REQUESTS: usize = 1 << 16;
    const MAX_IDLE_PER_HOST: usize = 4096;
    let quarter = usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS) / 4).unwrap_or(usize::MAX);
    // Half of the sinks' quarter. The other half is for idle connections of up to sixteen sinks.
    let deliveries = (quarter / 2).clamp(2, MAX_DELIVERIES);
    SocketLimits {
        connections: quarter.clamp(4, MAX_CONNECTIONS),
        requests: quarter.clamp(2, MAX_REQUESTS),
        // Three hosts, and two clients.
        idle_per_host: (quarter / 6).min(MAX_IDLE_PER_HOST),
        deliveries,
        deliveries_per_sink: deliveries / 2,
        idle_per_sink: (quarter / 32).min(MAX_IDLE_PER_SINK),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn with_many_descriptors_every_limit_is_at_its_maximum() {
        let socket_limits = divide_descriptors(u64::MAX);
        assert_eq!(
            (socket_limits.connections, socket_limits.requests, socket_limits.idle_per_host),
            (256, 65_536, 4096)
        );
        assert_eq!(
            (socket_limits.deliveries, socket_limits.deliveries_per_sink, socket_limits.idle_per_sink),
            (1024, 512, 64)
        );
    }

    proptest! {
        #[test]
        fn the_limits_leave_the_reserved_descriptors_free(limit in 60u64..1_000_000) {
            let SocketLimits { connections, requests, idle_per_host, deliveries, deliveries_per_sink, idle_per_sink } = divide_descriptors(limit);
            let sockets = (connections + requests + 6 * idle_per_host + deliveries + 16 * idle_per_sink) as u64;
            prop_assert!(sockets + RESERVED_DESCRIPTORS <= limit, "{sockets} of {limit}");
            prop_assert!(connections >= 4 && requests >= 2 && deliveries_per_sink >= 1);
        }
    }
}
