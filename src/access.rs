//! Who may read, and who did: callers with their roles, keys and sessions, and the access log.
//!
//! Every way in (pages, API, MCP, commands) makes a [`Caller`] first, asks it before it answers, and
//! records an entry before the answer leaves. Reads settings and the archive; knows neither HTTP
//! routes nor commands.

mod access_log;
mod attempt_limiter;
mod authenticator;
mod caller;
mod form_seal;
mod oidc;
mod role;
mod session;

pub(crate) use access_log::{AccessEntry, AccessLog, AccessSubject, dialog_of};
pub(crate) use authenticator::{AuthRefusal, Authenticator, generate_key, hash_key};
pub(crate) use caller::Caller;
pub(crate) use oidc::{Callback, LoginError, LoginFault, check_provider};
pub(crate) use session::SessionId;

pub(crate) use crate::config::Permission;
pub(crate) use crate::db::AccessAction;
