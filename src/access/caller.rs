//! A caller: a reader, where it is, and its roles. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::role::Role;
use crate::config::{Permission, RedactionRule};
use crate::db::{ReaderKind, SegmentRow};
use crate::redact::Redactor;
use crate::render::Metadata;

/// Who reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A person who logged in: the e-mail address if the provider has verified it, or else `sub`.
    Person { subject: String },
    /// A program, by the name of its key.
    Key { name: String },
    /// Someone with `http.token`.
    SharedToken,
    /// A user of this machine who runs a command.
    SystemUser { name: String },
}

impl Reader {
    /// The kind, for the access log.
    pub(crate) fn kind(&self) -> ReaderKind {
        match self {
            Reader::Person { .. } => ReaderKind::Person,
            Reader::Key { .. } => ReaderKind::Key,
            Reader::SharedToken => ReaderKind::SharedToken,
            Reader::SystemUser { .. } => ReaderKind::SystemUser,
        }
    }

    /// The name, for the access log.
    pub(crate) fn name(&self) -> &str {
        match self {
            Reader::Person { subject } => subject,
            Reader::Key { name } | Reader::SystemUser { name } => name,
            Reader::SharedToken => "http.token",
        }
    }
}

/// A reader with its roles.
///
/// Each question is asked of each role by itself: what one role permits in its accounts, another
/// does not permit in others. So several roles of one person never give more than their union.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) reader: Reader,
    /// Where the reader is: an address, or this host.
    pub(crate) origin: String,
    roles: Arc<[Arc<Role>]>,
}

impl Caller {
    pub(crate) fn new(reader: Reader, origin: String, roles: impl Into<Arc<[Arc<Role>]>>) -> Caller {
        Caller { reader, origin, roles: roles.into() }
    }

    /// The user of the machine who runs a command: may do everything.
    pub(crate) fn system_user(name: String, host: String) -> Caller {
        use Permission::{Erase, Listen, Log, Operate, Read};
        let role = Role::unlimited("system", [Read, Listen, Operate, Erase, Log]);
        Caller::new(Reader::SystemUser { name }, host, [Arc::new(role)])
    }

    /// Someone with `http.token`: may read everything.
    pub(crate) fn shared_token(origin: String) -> Caller {
        let role = Role::unlimited("http.token", [Permission::Read, Permission::Listen]);
        Caller::new(Reader::SharedToken, origin, [Arc::new(role)])
    }

    /// The names of its roles.
    pub(crate) fn role_names(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(|role| role.name.as_str())
    }

    /// Whether it may do this in some account.
    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.roles.iter().any(|role| role.may(permission))
    }

    /// Whether it may do this in all accounts and channels, such as operate a sink.
    pub(crate) fn may_everywhere(&self, permission: Permission) -> bool {
        let is_unlimited = |role: &Role| role.accounts.is_none() && role.channels.is_none();
        self.roles.iter().any(|role| role.may(permission) && is_unlimited(role))
    }

    /// Whether it may do this in an account, given by its sub-account id. A role that is limited to
    /// some channels counts only for reading and listening: no other operation knows channels.
    pub(crate) fn may_in_account(&self, permission: Permission, sub: &str) -> bool {
        let knows_channels = matches!(permission, Permission::Read | Permission::Listen);
        self.roles
            .iter()
            .any(|role| role.may(permission) && role.covers_account(sub) && (knows_channels || role.channels.is_none()))
    }

    /// Whether it may read something of an account.
    pub(crate) fn sees_account(&self, sub: &str) -> bool {
        self.may_in_account(Permission::Read, sub)
    }

    /// Whether it may read a segment of this account, whose metadata names these channels.
    pub(crate) fn sees(&self, sub: &str, channels: &[&str]) -> bool {
        self.covers(Permission::Read, sub, channels)
    }

    /// Whether it may do this with a segment of this account, whose metadata names these channels.
    pub(crate) fn covers(&self, permission: Permission, sub: &str, channels: &[&str]) -> bool {
        self.roles.iter().any(|role| role.may(permission) && role.covers(sub, channels))
    }

    /// Whether it sees every channel of an account: a count of its segments then needs no look at
    /// their metadata.
    pub(crate) fn sees_all_channels(&self, sub: &str) -> bool {
        self.roles.iter().any(|role| role.may(Permission::Read) && role.covers_account(sub) && role.channels.is_none())
    }

    /// Whether it reads everything as it is: no account, channel or text is hidden from it.
    pub(crate) fn is_unlimited_reader(&self) -> bool {
        self.may_everywhere(Permission::Read) && !self.has_redaction()
    }

    /// Whether some text may be redacted for it.
    pub(crate) fn has_redaction(&self) -> bool {
        let is_plain_reader = |role: &Role| role.may(Permission::Read) && role.redaction.is_empty();
        let is_unlimited = |role: &Role| role.accounts.is_none() && role.channels.is_none();
        // A role without redaction that covers everything leaves nothing to redact.
        !self.roles.iter().any(|role| is_plain_reader(role) && is_unlimited(role))
            && self.roles.iter().any(|role| role.may(Permission::Read) && !role.redaction.is_empty())
    }

    /// Whether it may read a segment.
    pub(crate) fn sees_segment(&self, segment: &SegmentRow) -> bool {
        let channels = Metadata::parse(&segment.metadata).channels();
        self.sees(&segment.account.sub, &channels.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Whether it may listen to the recording of a segment.
    pub(crate) fn may_listen(&self, segment: &SegmentRow) -> bool {
        let channels = Metadata::parse(&segment.metadata).channels();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        self.covers(Permission::Listen, &segment.account.sub, &channels)
    }

    /// What is redacted of a segment for it.
    pub(crate) fn segment_redactor(&self, segment: &SegmentRow) -> Arc<Redactor> {
        let channels = Metadata::parse(&segment.metadata).channels();
        self.redactor(&segment.account.sub, &channels.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The sub-account ids that it may read something of, as a filter for a query; `None` means all.
    pub(crate) fn readable_accounts(&self) -> Option<BTreeSet<&str>> {
        let mut all = BTreeSet::new();
        for role in self.roles.iter().filter(|role| role.may(Permission::Read)) {
            all.extend(role.accounts.as_ref()?.iter().map(String::as_str));
        }
        Some(all)
    }

    /// What is redacted of a segment: what each role redacts that permits reading it.
    pub(crate) fn redactor(&self, sub: &str, channels: &[&str]) -> Arc<Redactor> {
        let mut roles = self.roles.iter().filter(|role| role.may(Permission::Read) && role.covers(sub, channels));
        let Some(first) = roles.next() else { return Arc::default() };
        let others: Vec<&Arc<Role>> = roles.collect();
        if others.is_empty() {
            return first.redactor.clone();
        }
        let is_common = |rule: &&RedactionRule| others.iter().all(|role| role.redaction.contains(rule));
        let common: Vec<RedactionRule> = first.redaction.iter().filter(is_common).cloned().collect();
        Arc::new(Redactor::new(&common))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::RoleSettings;

    const ACCOUNTS: [&str; 3] = ["A", "B", "C"];
    const CHANNELS: [&str; 3] = ["VOICE", "CHAT", "EMAIL"];
    const PERMISSIONS: [Permission; 5] =
        [Permission::Read, Permission::Listen, Permission::Operate, Permission::Erase, Permission::Log];

    fn names(all: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
        prop::sample::subsequence(all, 0..=all.len()).prop_map(|names| names.into_iter().map(str::to_owned).collect())
    }

    prop_compose! {
        fn role()(
            accounts in names(&ACCOUNTS),
            channels in names(&CHANNELS),
            may in prop::sample::subsequence(&PERMISSIONS, 1..=5),
            redact in prop::sample::subsequence(vec![RedactionRule::Card, RedactionRule::Email, RedactionRule::Phone], 0..=3),
        ) -> RoleSettings {
            let (groups, subjects) = (BTreeSet::new(), BTreeSet::new());
            RoleSettings { name: "role".to_owned(), groups, subjects, accounts, channels, may: may.into_iter().collect(), redact }
        }
    }

    fn caller(roles: &[RoleSettings]) -> Caller {
        let roles: Vec<Arc<Role>> = roles.iter().map(|role| Arc::new(Role::of(role))).collect();
        Caller::new(Reader::Key { name: "test".to_owned() }, "here".to_owned(), roles)
    }

    proptest! {
        #![proptest_config(ProptestConfig { timeout: Duration::from_secs(10).as_millis() as u32, ..ProptestConfig::default() })]

        /// Several roles give what some single role gives, never a product of two; and what is redacted
        /// is what every role redacts that shows the segment.
        #[test]
        fn several_roles_give_no_more_than_each_of_them(roles in prop::collection::vec(role(), 0..4)) {
            let all = caller(&roles);
            let alone: Vec<Caller> = roles.iter().map(|role| caller(std::slice::from_ref(role))).collect();
            for sub in ACCOUNTS {
                for permission in PERMISSIONS {
                    let some = |one: &Caller| one.may_in_account(permission, sub);
                    prop_assert_eq!(all.may_in_account(permission, sub), alone.iter().any(some));
                }
                prop_assert_eq!(all.sees_account(sub), CHANNELS.iter().any(|channel| all.sees(sub, &[channel])));
                let is_readable = all.readable_accounts().is_none_or(|accounts| accounts.contains(sub));
                prop_assert_eq!(all.sees_account(sub), is_readable);
                for channel in CHANNELS {
                    let readers: Vec<&RoleSettings> =
                        roles.iter().zip(&alone).filter(|(_, one)| one.sees(sub, &[channel])).map(|(role, _)| role).collect();
                    prop_assert_eq!(all.sees(sub, &[channel]), !readers.is_empty());
                    prop_assert!(!all.sees_all_channels(sub) || all.sees(sub, &[channel]));
                    prop_assert!(!all.is_unlimited_reader() || all.redactor(sub, &[channel]).is_noop());
                    let sample = "4111 1111 1111 1111, ann@example.com, +49 30 901820";
                    let shown = all.redactor(sub, &[channel]).text(sample).into_owned();
                    for (rule, label) in [(RedactionRule::Card, "[card]"), (RedactionRule::Email, "[email]"), (RedactionRule::Phone, "[phone]")] {
                        let expected = !readers.is_empty() && readers.iter().all(|role| role.redact.contains(&rule));
                        prop_assert_eq!(shown.contains(label), expected, "{}: {}", label, shown);
                    }
                }
            }
        }
    }

    #[test]
    fn channels_are_compared_without_case_and_either_field_suffices() {
        let role = RoleSettings {
            name: "voice".to_owned(),
            groups: BTreeSet::new(),
            subjects: BTreeSet::new(),
            accounts: BTreeSet::new(),
            channels: ["voice".to_owned()].into(),
            may: [Permission::Read].into(),
            redact: Vec::new(),
        };
        let caller = caller(&[role]);
        assert!(caller.sees("A", &["VOICE"]) && caller.sees("A", &["DIGITAL", "Voice"]));
        assert!(!caller.sees("A", &["DIGITAL"]) && !caller.sees("A", &[]), "without a channel there is no match");
        assert!(!caller.may_everywhere(Permission::Read) && !caller.is_unlimited_reader());
    }
}
