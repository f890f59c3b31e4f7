//! Issues, expires, rotates and revokes tokens. Pure except for its lock: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;

use super::options::{SECRET_MARK, TokenSettings};
use super::rng::Rng;
use crate::clock::{Tick, Time};

/// The validity of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenValidity {
    Valid,
    Expired,
    Revoked,
    /// Never issued.
    Unknown,
}

/// Why a refresh was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefreshError {
    /// Never issued.
    Unknown,
    /// Expired or revoked.
    Expired,
    /// Spent before. `answered`: the answer was delivered, so the client knows.
    Spent { answered: bool },
}

#[derive(Debug)]
struct RefreshToken {
    expires: Tick,
    /// If spent, whether the answer was delivered.
    spent: Option<bool>,
    login: u64,
}

/// All tokens that were ever issued.
#[derive(Debug)]
pub(super) struct TokenStore {
    seed: u64,
    settings: TokenSettings,
    issued: Mutex<IssuedTokens>,
}

#[derive(Debug, Default)]
struct IssuedTokens {
    issued_count: u64,
    rc: HashMap<String, Tick>,
    rc_refresh: HashMap<String, Tick>,
    access: HashMap<String, Tick>,
    refresh: HashMap<String, RefreshToken>,
    logins: u64,
    /// The number of the login of each access token.
    login_of: HashMap<String, u64>,
}

impl TokenStore {
    pub(super) fn new(seed: u64, settings: TokenSettings) -> TokenStore {
        TokenStore { seed, settings, issued: Mutex::default() }
    }

    fn generate(&self, issued: &mut IssuedTokens, kind: &str) -> String {
        issued.issued_count += 1;
        let random = Rng::new(self.seed, &[20, issued.issued_count]).next_u64();
        format!("{kind}-{SECRET_MARK}-{}-{random:016x}", issued.issued_count)
    }

    fn generate_access_token(&self, issued: &mut IssuedTokens, wall: Time) -> String {
        let opaque = self.generate(issued, "rcx");
        if !self.settings.jwt_shaped {
            return opaque;
        }
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let expires = (wall + self.settings.access_lifetime).floor_secs();
        let payload = format!("{{\"sub\":\"sim\",\"iat\":{},\"exp\":{expires}}}", wall.floor_secs());
        format!("{}.{}.{opaque}", encode("{\"alg\":\"RS256\"}"), encode(&payload))
    }

    /// Issues a RingCentral token and its refresh token.
    pub(super) fn issue_rc(&self, now: Tick) -> (String, String) {
        let mut issued = self.issued.lock();
        let (token, refresh) = (self.generate(&mut issued, "rc"), self.generate(&mut issued, "rcr"));
        issued.rc.insert(token.clone(), now + self.settings.rc_lifetime);
        issued.rc_refresh.insert(refresh.clone(), now + self.settings.rc_lifetime * 24);
        (token, refresh)
    }

    /// Spends a RingCentral refresh token.
    pub(super) fn rotate_rc(&self, refresh: &str, now: Tick) -> Option<(String, String)> {
        let live = self.issued.lock().rc_refresh.remove(refresh).is_some_and(|expires| now < expires);
        live.then(|| self.issue_rc(now))
    }

    /// Issues a RingCX access token, and a refresh token if requested.
    pub(super) fn issue(&self, now: Tick, wall: Time, with_refresh: bool) -> (String, Option<String>) {
        let issued = &mut self.issued.lock();
        issued.logins += 1;
        let login = issued.logins;
        self.issue_for_login(issued, now, wall, with_refresh, login)
    }

    /// The number of the login that a token belongs to, over all renewals; 0 for an unknown token.
    pub(super) fn login_number(&self, token: &str) -> u64 {
        self.issued.lock().login_of.get(token).copied().unwrap_or(0)
    }

    fn issue_for_login(
        &self,
        issued: &mut IssuedTokens,
        now: Tick,
        wall: Time,
        refresh: bool,
        login: u64,
    ) -> (String, Option<String>) {
        let access = self.generate_access_token(issued, wall);
        issued.access.insert(access.clone(), now + self.settings.access_lifetime);
        issued.login_of.insert(access.clone(), login);
        let refresh = refresh.then(|| {
            let token = self.generate(issued, "rcxr");
            issued.refresh.insert(
                token.clone(),
                RefreshToken { expires: now + self.settings.refresh_lifetime, spent: None, login },
            );
            token
        });
        (access, refresh)
    }

    /// Spends a refresh token for new tokens. `answered` is false if a fault will suppress the
    /// answer. A client may then try again without a violation, and is refused.
    pub(super) fn rotate(
        &self,
        refresh: &str,
        now: Tick,
        wall: Time,
        answered: bool,
    ) -> Result<(String, Option<String>), RefreshError> {
        let mut issued = self.issued.lock();
        let known = issued.refresh.get_mut(refresh).ok_or(RefreshError::Unknown)?;
        if let Some(answered) = known.spent {
            return Err(RefreshError::Spent { answered });
        }
        if known.expires <= now {
            return Err(RefreshError::Expired);
        }
        known.spent = Some(answered);
        let login = known.login;
        Ok(self.issue_for_login(&mut issued, now, wall, true, login))
    }

    pub(super) fn validity(&self, token: &str, now: Tick) -> TokenValidity {
        validity_of(self.issued.lock().access.get(token), now)
    }

    pub(super) fn rc_validity(&self, token: &str, now: Tick) -> TokenValidity {
        validity_of(self.issued.lock().rc.get(token), now)
    }

    /// Revokes all tokens of all kinds.
    pub(super) fn revoke_all(&self) {
        let mut issued = self.issued.lock();
        let issued = &mut *issued;
        let expiries = issued.rc.values_mut().chain(issued.rc_refresh.values_mut()).chain(issued.access.values_mut());
        expiries.chain(issued.refresh.values_mut().map(|refresh| &mut refresh.expires)).for_each(|end| *end = REVOKED);
    }
}

/// The expiry of a revoked token.
const REVOKED: Tick = Tick(Duration::ZERO);

fn validity_of(expires: Option<&Tick>, now: Tick) -> TokenValidity {
    match expires {
        Some(expires) if now < *expires => TokenValidity::Valid,
        Some(&REVOKED) => TokenValidity::Revoked,
        Some(_) => TokenValidity::Expired,
        None => TokenValidity::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(Duration::from_secs(100));
    const WALL: Time = Time::from_secs(1_700_000_000);

    #[test]
    fn a_refresh_token_works_once_and_the_new_one_after_it() {
        let store = TokenStore::new(1, TokenSettings::default());
        let (first, refresh) = store.issue(NOW, WALL, true);
        let refresh = refresh.unwrap();
        let (second, next) = store.rotate(&refresh, NOW, WALL, true).unwrap();
        assert_ne!(first, second);
        assert_eq!(store.rotate(&refresh, NOW, WALL, true), Err(RefreshError::Spent { answered: true }));
        let (_, last) = store.rotate(&next.unwrap(), NOW, WALL, false).unwrap();
        assert!(last.is_some());
        store.revoke_all();
        assert_eq!(store.validity(&second, NOW), TokenValidity::Revoked);
        assert_eq!(store.rotate(&last.unwrap(), NOW, WALL, true), Err(RefreshError::Expired));
        assert_eq!(store.validity("made up", NOW), TokenValidity::Unknown);
        let (other, _) = store.issue(NOW, WALL, true);
        assert_eq!([&first, &second, &other].map(|token| store.login_number(token)), [1, 1, 2]);
    }

    #[test]
    fn an_access_token_expires_to_the_nanosecond() {
        let store = TokenStore::new(1, TokenSettings { jwt_shaped: true, ..TokenSettings::default() });
        let (token, none) = store.issue(NOW, WALL, false);
        assert_eq!((none, token.split('.').count()), (None, 3));
        let end = NOW + Duration::from_secs(300);
        assert_eq!(store.validity(&token, Tick(end.0 - Duration::from_nanos(1))), TokenValidity::Valid);
        assert_eq!(store.validity(&token, end), TokenValidity::Expired);
    }
}
