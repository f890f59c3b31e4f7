//! The scripts and styles of the console. Each has an address that names its content, so that
//! browsers keep it.
//!
//! Two are other people's, unchanged as the npm registry has them, with their licences beside them:
//! idiomorph 0.8.0 (0BSD) and uPlot 1.6.32 (MIT).

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const SCRIPT_TYPE: &str = "text/javascript; charset=utf-8";
const STYLE_TYPE: &str = "text/css; charset=utf-8";
/// A year: another content has another address.
const KEPT: &str = "public, max-age=31536000, immutable";

/// A file that browsers load.
pub(in crate::http) struct Asset {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
    version: LazyLock<String>,
}

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        Asset {
            name: $name,
            content_type: $kind,
            text: include_str!(concat!("assets/", $name)),
            version: LazyLock::new(|| version_of(include_str!(concat!("assets/", $name)))),
        }
    };
}

pub(in crate::http) static CONSOLE_STYLE: Asset = asset!("console.css", STYLE_TYPE);
pub(in crate::http) static CONSOLE_SCRIPT: Asset = asset!("console.js", SCRIPT_TYPE);
pub(in crate::http) static VIEWS_STYLE: Asset = asset!("views.css", STYLE_TYPE);
pub(in crate::http) static CONVERSATION_SCRIPT: Asset = asset!("conversation.js", SCRIPT_TYPE);
pub(in crate::http) static PLAYER_SCRIPT: Asset = asset!("player.js", SCRIPT_TYPE);
pub(in crate::http) static IDIOMORPH: Asset = asset!("idiomorph-0.8.0.min.js", SCRIPT_TYPE);
pub(in crate::http) static UPLOT: Asset = asset!("uplot-1.6.32.min.js", SCRIPT_TYPE);
pub(in crate::http) static UPLOT_STYLE: Asset = asset!("uplot-1.6.32.min.css", STYLE_TYPE);

static ASSETS: [&Asset; 8] = [
    &CONSOLE_STYLE,
    &CONSOLE_SCRIPT,
    &VIEWS_STYLE,
    &CONVERSATION_SCRIPT,
    &PLAYER_SCRIPT,
    &IDIOMORPH,
    &UPLOT,
    &UPLOT_STYLE,
];

impl Asset {
    pub(in crate::http) fn url(&self) -> String {
        format!("/assets/{}/{}", *self.version, self.name)
    }
}

fn version_of(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..9])
}

/// The route of the assets: open to all, for they are the same for all.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{version}/{name}", get(serve))
}

async fn serve(Path((version, name)): Path<(String, String)>) -> Response {
    let Some(asset) = ASSETS.into_iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // A page of another version of the program gets this one, for once.
    let kept = (*asset.version == version).then_some([(CACHE_CONTROL, KEPT)]);
    (kept, [(CONTENT_TYPE, asset.content_type)], asset.text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An update must change the version in the name, the licence file, and this list.
    #[test]
    fn other_peoples_files_are_as_the_registry_has_them() {
        let digest = |asset: &Asset| format!("{:x}", Sha256::digest(asset.text));
        assert_eq!(digest(&IDIOMORPH), "4cbd535caf7663a51eda9bce6595371c384fc430d54b8d414e29a61167f19f96");
        assert_eq!(digest(&UPLOT), "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f");
        assert_eq!(digest(&UPLOT_STYLE), "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04");
    }

    #[test]
    fn the_addresses_of_assets_name_their_content() {
        assert!(CONSOLE_STYLE.url().starts_with("/assets/") && CONSOLE_STYLE.url().ends_with("/console.css"));
        assert_ne!(version_of("a"), version_of("b"));
    }
}
