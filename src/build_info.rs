//! The version of the program, and the commit that it was built from. `build.rs` determines them.

use crate::clock::Time;

/// The commit, or an empty text if the source did not tell.
const COMMIT: &str = env!("RINGCX_BUILD_COMMIT");
/// The time of the commit in seconds, or an empty text.
const EPOCH: &str = env!("RINGCX_BUILD_EPOCH");

/// The commit as shown to people.
pub(crate) fn commit() -> &'static str {
    if COMMIT.is_empty() { "unknown" } else { COMMIT }
}

/// The text of `--version`: the version, then a line each for the commit and the build date.
pub(crate) fn long_version() -> String {
    let built = EPOCH.parse().map_or_else(|_| "unknown".to_owned(), |seconds| Time::from_secs(seconds).rfc3339_secs());
    // See `build.rs`: only a release is built again for each commit.
    let kind = if cfg!(debug_assertions) { " or later (debug build)" } else { "" };
    format!("{}\ncommit: {}{kind}\nbuilt: {built}", env!("CARGO_PKG_VERSION"), commit())
}
