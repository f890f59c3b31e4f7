//! What a person can do about a call that failed: the permission, scope or setting that is missing, by name, and where it
//! is set. Pure.

use crate::backoff::Fault;
use crate::model::Endpoint;

use super::Cause;

/// What to do, if there is anything to do.
pub(super) fn hint(fault: Fault, endpoint: Endpoint, cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Untrusted => Some(
            "the server, or a proxy between, shows a certificate that this machine does not trust or that has run out: set \
             the clock, install or update ca-certificates, or add the proxy's authority (SSL_CERT_FILE)",
        ),
        Cause::Unreachable => Some("check the URLs in [api], and DNS, proxy and firewall"),
        Cause::Store => Some("check the database"),
        Cause::Outage => Some(
            "nothing to do: this is an outage of the vendor's, the login is well; it is tried again by itself. Should it last, \
             see RingCentral's status page or ask its support",
        ),
        Cause::Futile => Some(
            "check that api.ringcx_url and api.summary_url are of the account's region, and that the user is active in \
             RingCX",
        ),
        _ => answered(fault, endpoint),
    }
}

fn answered(fault: Fault, endpoint: Endpoint) -> Option<&'static str> {
    match fault {
        Fault::Unauthorised => Some(unauthorised(endpoint)),
        Fault::Forbidden => Some(forbidden(endpoint)),
        Fault::RateLimited => Some("something else may use the same account: lower [limits] to leave it its share"),
        Fault::NotYet if endpoint == Endpoint::Metadata => {
            Some("check rc_account_id and sub_account_id in [[accounts]]")
        }
        Fault::NotYet if endpoint == Endpoint::Accounts => Some("check api.ringcx_url"),
        Fault::Permanent if endpoint == Endpoint::Metadata => Some(
            "check rc_account_id and sub_account_id in [[accounts]], and that discovery.max_window is one that the API takes",
        ),
        _ => None,
    }
}

/// A redirect: which setting names the host that has moved.
pub(super) const fn moved(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::AgentSummary | Endpoint::AutoSummary => {
            "if that host is RingCentral's, set api.summary_url to it (https:// and the host) and restart"
        }
        Endpoint::Metadata | Endpoint::Transcript | Endpoint::Accounts => {
            "if that host is RingCentral's, set api.ringcx_url to it (https:// and the host) and restart"
        }
        Endpoint::Login => {
            "if that host is RingCentral's, set api.platform_url or api.ringcx_url to it (https:// and the host) and restart"
        }
    }
}

const fn unauthorised(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Login => "check the credentials in [auth]",
        Endpoint::AgentSummary | Endpoint::AutoSummary => {
            "check that api.summary_url is of the same region as api.ringcx_url, and that the user may see summaries"
        }
        Endpoint::Metadata | Endpoint::Transcript | Endpoint::Accounts => {
            "check that api.ringcx_url is of the account's region, and that the login's user is active in the RingCX admin \
             portal, under Users"
        }
    }
}

/// A 403: the login is good, the user lacks a permission. Which one, by what was asked for.
const fn forbidden(endpoint: Endpoint) -> &'static str {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Endpoint; 6] = [
        Endpoint::Login,
        Endpoint::Accounts,
        Endpoint::Metadata,
        Endpoint::Transcript,
        Endpoint::AgentSummary,
        Endpoint::AutoSummary,
    ];

    #[test]
    fn whatever_a_person_has_to_act_on_says_what_and_where() {
        for endpoint in ALL {
            let forbidden = hint(Fault::Forbidden, endpoint, Cause::Answered).unwrap();
            assert!(forbidden.contains("RingCX admin portal"), "{endpoint:?}: {forbidden}");
            assert!(hint(Fault::Unauthorised, endpoint, Cause::Answered).is_some_and(|hint| hint.starts_with("check")));
        }
        let hints: std::collections::BTreeSet<_> =
            ALL.map(|endpoint| hint(Fault::Forbidden, endpoint, Cause::Answered)).into();
        assert_eq!(hints.len(), ALL.len(), "each permission is named apart");
    }

    #[test]
    fn what_the_vendor_has_to_switch_on_is_called_by_its_name() {
        let hint = |endpoint| hint(Fault::Forbidden, endpoint, Cause::Answered).unwrap();
        assert!(hint(Endpoint::Metadata).contains("\"WEM Access\", which RingCentral's customer success manager"));
        for endpoint in [Endpoint::Transcript, Endpoint::AgentSummary, Endpoint::AutoSummary] {
            assert!(hint(endpoint).contains("\"Enable AI Summaries\" in the queue's AI Tools"), "{endpoint:?}");
        }
    }

    #[test]
    fn what_stood_in_the_way_before_an_answer_counts_first() {
        let hint = |cause| hint(Fault::Transient, Endpoint::Login, cause).unwrap();
        assert!(hint(Cause::Untrusted).contains("certificate"));
        assert!(hint(Cause::Unreachable).contains("[api]"));
    }
}
