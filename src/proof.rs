//! Shows that nothing was altered: leaves, chains, manifests. Pure; `db` keeps them.
