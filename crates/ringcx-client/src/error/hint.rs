//! What an operator can do about a failed call: the missing permission, scope or setting, and where
//! it is set. Pure.

use crate::backoff::Fault;
use crate::model::Endpoint;

use super::ErrorCause;

/// The hint for an error, if there is one.
pub(super) fn hint(fault: Fault, endpoint: Endpoint, cause: ErrorCause) -> Option<&'static str> {
    match cause {
        ErrorCause::UntrustedCertificate => Some(
            "the server, or a proxy in between, shows a certificate that is expired or not trusted: set the clock, install or \
             update ca-certificates, or add the proxy's certificate authority (SSL_CERT_FILE)",
        ),
        ErrorCause::Unreachable => Some("check the URLs in [api], and DNS, proxy and firewall"),
        ErrorCause::ReservationFailed => Some("check the database"),
        ErrorCause::StoreFailed => {
            Some("check recordings.store; recordings are requested again once it can be written to")
        }
        ErrorCause::Outage => Some(
            "nothing to do: the vendor has an outage, and the login itself is valid. It is retried automatically. If it lasts, \
             see RingCentral's status page or ask its support",
        ),
        ErrorCause::RenewalSuspended => Some(
            "check that api.ringcx_url and api.summary_url belong to the account's region, and that the user is active in \
             RingCX",
        ),
        _ => hint_for_fault(fault, endpoint),
    }
}

fn hint_for_fault(fault: Fault, endpoint: Endpoint) -> Option<&'static str> {
    match fault {
        Fault::Unauthorised => Some(hint_for_unauthorised(endpoint)),
        Fault::Forbidden => Some(hint_for_forbidden(endpoint)),
        Fault::RateLimited => Some("another client may use the same account: lower [limits] to leave requests for it"),
        Fault::NotYet if endpoint == Endpoint::Metadata => {
            Some("check rc_account_id and sub_account_id in [[accounts]]")
        }
        Fault::NotYet if endpoint == Endpoint::Accounts => Some("check api.ringcx_url"),
        Fault::Permanent if endpoint == Endpoint::Metadata => Some(
            "check rc_account_id and sub_account_id in [[accounts]], and that the API accepts discovery.max_window",
        ),
        _ => None,
    }
}

/// The setting that names the host that has moved.
pub(super) const fn redirect_hint(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::AgentSummary | Endpoint::AutoSummary => {
            "if that host is RingCentral's, set api.summary_url to it (https:// and the host) and restart"
        }
        Endpoint::Metadata | Endpoint::Transcript | Endpoint::Recording | Endpoint::Accounts => {
            "if that host is RingCentral's, set api.ringcx_url to it (https:// and the host) and restart"
        }
        Endpoint::Login => {
            "if that host is RingCentral's, set api.platform_url or api.ringcx_url to it (https:// and the host) and restart"
        }
    }
}

const fn hint_for_unauthorised(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Login => "check the credentials in [auth]",
        Endpoint::AgentSummary | Endpoint::AutoSummary => {
            "check that api.summary_url belongs to the same region as api.ringcx_url, and that the user may see summaries"
        }
        Endpoint::Metadata | Endpoint::Transcript | Endpoint::Recording | Endpoint::Accounts => {
            "check that api.ringcx_url belongs to the account's region, and that the login's user is active in the RingCX \
             admin portal, under Users"
        }
    }
}

/// A 403: the login is valid, and the user lacks a permission, which depends on the endpoint.
const fn hint_for_forbidden(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Login => {
            "give the login's user access to RingCX: in the RingCentral admin portal under Users, its licences and roles; then \
             in the RingCX admin portal under Users"
        }
        Endpoint::Accounts => {
            "give the login's user a RingCX admin role, in the RingCX admin portal under Users; or list the sub-accounts in \
             [[accounts]] in place of [discover_accounts]"
        }
        Endpoint::Metadata => {
            "give the login's user a RingCX role that may read interaction metadata of this sub-account: in the RingCX admin \
             portal under Users, the user's role and its list of sub-accounts; the account also needs the entitlement \"WEM \
             Access\", which RingCentral's customer success manager switches on; and check rc_account_id and sub_account_id"
        }
        Endpoint::Transcript => {
            "give the login's user a RingCX role that may read transcripts of this sub-account: in the RingCX admin portal under \
             Users, the user's role; and tick \"Enable AI Summaries\" in the queue's AI Tools; or take \"transcript\" out of \
             artifacts"
        }
        Endpoint::AgentSummary => {
            "have agent summaries enabled: in the RingCX admin portal tick \"Enable AI Summaries\" in the queue's AI Tools, and \
             give the login's user a role that may read summaries; or take \"agent_summary\" out of artifacts"
        }
        Endpoint::AutoSummary => {
            "have automatic summaries enabled: in the RingCX admin portal tick \"Enable AI Summaries\" in the queue's AI Tools, \
             and give the login's user a role that may read summaries; or take \"auto_summary\" out of artifacts"
        }
        Endpoint::Recording => {
            "give the login's user the permission READ on Account: in the RingCX admin portal under Users, the user's role; have \
             RingCentral's customer success manager switch on recordings; or take \"recording\" out of artifacts"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Endpoint; 7] = Endpoint::ALL;

    #[test]
    fn each_refusal_hints_at_what_to_do_and_where() {
        for endpoint in ALL {
            let forbidden = hint(Fault::Forbidden, endpoint, ErrorCause::Answered).unwrap();
            assert!(forbidden.contains("RingCX admin portal"), "{endpoint:?}: {forbidden}");
            assert!(
                hint(Fault::Unauthorised, endpoint, ErrorCause::Answered).is_some_and(|hint| hint.starts_with("check"))
            );
        }
        let hints: std::collections::BTreeSet<_> =
            ALL.map(|endpoint| hint(Fault::Forbidden, endpoint, ErrorCause::Answered)).into();
        assert_eq!(hints.len(), ALL.len(), "each permission has its own hint");
    }

    #[test]
    fn vendor_settings_are_named_exactly() {
        let hint = |endpoint| hint(Fault::Forbidden, endpoint, ErrorCause::Answered).unwrap();
        assert!(hint(Endpoint::Metadata).contains("\"WEM Access\", which RingCentral's customer success manager"));
        for endpoint in [Endpoint::Transcript, Endpoint::AgentSummary, Endpoint::AutoSummary] {
            assert!(hint(endpoint).contains("\"Enable AI Summaries\" in the queue's AI Tools"), "{endpoint:?}");
        }
    }

    #[test]
    fn connection_errors_have_their_own_hints() {
        let hint = |cause| hint(Fault::Transient, Endpoint::Login, cause).unwrap();
        assert!(hint(ErrorCause::UntrustedCertificate).contains("certificate"));
        assert!(hint(ErrorCause::Unreachable).contains("[api]"));
    }
}
