//! Proof: the hash chain over each account's feed and its daily manifests.
