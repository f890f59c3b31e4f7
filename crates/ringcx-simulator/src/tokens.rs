//! Tokens: issued, expired, rotated, revoked. Pure but for its lock; time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::chance::Dice;
use super::options::{SECRET_MARK, Tokens};
use crate::clock::{Tick, Time};

/// What a token is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    Good,
    Expired,
    Revoked,
    /// Never issued.
    Unknown,
}

/// Why a refresh was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefreshRefused {
    /// Never issued.
    Unknown,
    /// Or revoked.
    Expired,
    /// Spent before. `answered`: its holder has had the answer, and so must know.
    Spent { answered: bool },
}

#[derive(Debug)]
struct Refresh {
    expires: Tick,
    /// Whether the answer to the rotation went out, where there was one.
    spent: Option<bool>,
    login: u64,
}

/// All tokens that were ever issued.
#[derive(Debug)]
pub(super) struct TokenStore {
    seed: u64,
    settings: Tokens,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    issued: u64,
    rc: HashMap<String, Tick>,
    rc_refresh: HashMap<String, Tick>,
    access: HashMap<String, Tick>,
    refresh: HashMap<String, Refresh>,
    logins: u64,
    /// Which login an access token goes back to.
    login_of: HashMap<String, u64>,
}

impl TokenStore {
    pub(super) fn new(seed: u64, settings: Tokens) -> TokenStore {
        TokenStore { seed, settings, held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, held: &mut Held, kind: &str) -> String {
        held.issued += 1;
        let chance = Dice::new(self.seed, &[20, held.issued]).next();
        format!("{kind}-{SECRET_MARK}-{}-{chance:016x}", held.issued)
    }

    fn make_access(&self, held: &mut Held, wall: Time) -> String {
        let plain = self.make(held, "rcx");
        if !self.settings.jwt_shaped {
            return plain;
        }
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let expires = (wall + self.settings.access_life).floor_secs();
        let payload = format!("{{\"sub\":\"sim\",\"iat\":{},\"exp\":{expires}}}", wall.floor_secs());
        format!("{}.{}.{plain}", encode("{\"alg\":\"RS256\"}"), encode(&payload))
    }

    /// A RingCentral token and its refresh token.
    pub(super) fn issue_rc(&self, now: Tick) -> (String, String) {
        let mut held = self.lock();
        let (token, refresh) = (self.make(&mut held, "rc"), self.make(&mut held, "rcr"));
        held.rc.insert(token.clone(), now + self.settings.rc_life);
        held.rc_refresh.insert(refresh.clone(), now + self.settings.rc_life * 24);
        (token, refresh)
    }

    /// Spends a RingCentral refresh token.
    pub(super) fn rotate_rc(&self, refresh: &str, now: Tick) -> Option<(String, String)> {
        let live = self.lock().rc_refresh.remove(refresh).is_some_and(|expires| now < expires);
        live.then(|| self.issue_rc(now))
    }

    /// A RingCX access token, and a refresh token where one is asked for.
    pub(super) fn issue(&self, now: Tick, wall: Time, with_refresh: bool) -> (String, Option<String>) {
        let held = &mut self.lock();
        held.logins += 1;
        let login = held.logins;
        self.issue_held(held, now, wall, with_refresh, login)
    }

    /// The login that a token goes back to, over all its renewals; 0 for one that never was issued.
    pub(super) fn login(&self, token: &str) -> u64 {
        self.lock().login_of.get(token).copied().unwrap_or(0)
    }

    fn issue_held(
        &self,
        held: &mut Held,
        now: Tick,
        wall: Time,
        refresh: bool,
        login: u64,
    ) -> (String, Option<String>) {
        let access = self.make_access(held, wall);
        held.access.insert(access.clone(), now + self.settings.access_life);
        held.login_of.insert(access.clone(), login);
        let refresh = refresh.then(|| {
            let token = self.make(held, "rcxr");
            held.refresh
                .insert(token.clone(), Refresh { expires: now + self.settings.refresh_life, spent: None, login });
            token
        });
        (access, refresh)
    }

    /// Spends a refresh token for new ones. `answered` is false where a fault will swallow the answer, so that its
    /// holder may try again in good faith (and is refused all the same).
    pub(super) fn rotate(
        &self,
        refresh: &str,
        now: Tick,
        wall: Time,
        answered: bool,
    ) -> Result<(String, Option<String>), RefreshRefused> {
        let mut held = self.lock();
        let known = held.refresh.get_mut(refresh).ok_or(RefreshRefused::Unknown)?;
        if let Some(answered) = known.spent {
            return Err(RefreshRefused::Spent { answered });
        }
        if known.expires <= now {
            return Err(RefreshRefused::Expired);
        }
        known.spent = Some(answered);
        let login = known.login;
        Ok(self.issue_held(&mut held, now, wall, true, login))
    }

    pub(super) fn worth(&self, token: &str, now: Tick) -> Worth {
        worth(self.lock().access.get(token), now)
    }

    pub(super) fn rc_worth(&self, token: &str, now: Tick) -> Worth {
        worth(self.lock().rc.get(token), now)
    }

    /// Makes every token worthless, of all kinds.
    pub(super) fn revoke_all(&self) {
        let mut held = self.lock();
        let held = &mut *held;
        let plain = held.rc.values_mut().chain(held.rc_refresh.values_mut()).chain(held.access.values_mut());
        plain.chain(held.refresh.values_mut().map(|refresh| &mut refresh.expires)).for_each(|end| *end = REVOKED);
    }
}

/// Stands for the end of a token's life where that was cut short.
const REVOKED: Tick = Tick(Duration::ZERO);

fn worth(expires: Option<&Tick>, now: Tick) -> Worth {
    match expires {
        Some(expires) if now < *expires => Worth::Good,
        Some(&REVOKED) => Worth::Revoked,
        Some(_) => Worth::Expired,
        None => Worth::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(Duration::from_secs(100));
    const WALL: Time = Time::from_secs(1_700_000_000);

    #[test]
    fn a_refresh_token_works_once_and_the_new_one_after_it() {
        let store = TokenStore::new(1, Tokens::default());
        let (first, refresh) = store.issue(NOW, WALL, true);
        let refresh = refresh.unwrap();
        let (second, next) = store.rotate(&refresh, NOW, WALL, true).unwrap();
        assert_ne!(first, second);
        assert_eq!(store.rotate(&refresh, NOW, WALL, true), Err(RefreshRefused::Spent { answered: true }));
        let (_, last) = store.rotate(&next.unwrap(), NOW, WALL, false).unwrap();
        assert!(last.is_some());
        store.revoke_all();
        assert_eq!(store.worth(&second, NOW), Worth::Revoked);
        assert_eq!(store.rotate(&last.unwrap(), NOW, WALL, true), Err(RefreshRefused::Expired));
        assert_eq!(store.worth("made up", NOW), Worth::Unknown);
        let (other, _) = store.issue(NOW, WALL, true);
        assert_eq!([&first, &second, &other].map(|token| store.login(token)), [1, 1, 2]);
    }

    #[test]
    fn an_access_token_ends_with_its_life_to_the_nanosecond() {
        let store = TokenStore::new(1, Tokens { jwt_shaped: true, ..Tokens::default() });
        let (token, none) = store.issue(NOW, WALL, false);
        assert_eq!((none, token.split('.').count()), (None, 3));
        let end = NOW + Duration::from_secs(300);
        assert_eq!(store.worth(&token, Tick(end.0 - Duration::from_nanos(1))), Worth::Good);
        assert_eq!(store.worth(&token, end), Worth::Expired);
    }
}
