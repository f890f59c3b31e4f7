//! File descriptors: the limit is raised as far as the system allows, and what is left of it is shared out.
//!
//! Requests to the API must not use up what the listener and the database need: with few descriptors it is slow, not deaf.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the database, the log, the runtime and the sinks need at the most.
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

/// Shares `limit` out: a quarter each for the server, for requests and for connections that are kept open; a quarter is left.
fn share_out(limit: u64) -> SocketShares {
    const MOST_CONNECTIONS: usize = 256;
    // As many as fit into any memory.
    const MOST_REQUESTS: usize = 1 << 16;
    const MOST_IDLE: usize = 4096;
    let quarter = usize::try_from(limit.saturating_sub(RESERVED) / 4).unwrap_or(usize::MAX);
    SocketShares {
        connections: quarter.clamp(4, MOST_CONNECTIONS),
        requests: quarter.clamp(2, MOST_REQUESTS),
        // Three hosts, and two clients.
        idle_per_host: (quarter / 6).min(MOST_IDLE),
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
    }

    proptest! {
        #[test]
        fn what_is_shared_out_leaves_the_rest_of_the_program_its_own(limit in 60u64..1_000_000) {
            let SocketShares { connections, requests, idle_per_host } = share_out(limit);
            let sockets = (connections + requests + 6 * idle_per_host) as u64;
            prop_assert!(sockets + RESERVED <= limit, "{sockets} of {limit}");
            prop_assert!(connections >= 4 && requests >= 2);
        }
    }
}
