//! A daemon's accounts: taking them, working on them, letting them go.
//!
//! One loop, driven by the heartbeat (`heartbeat.rs`): look at the picture that it brought, take and let go what the sharing
//! says, start and end the accounts' tasks accordingly. On SQLite there is nobody to share with and the first turn takes
//! everything. Which accounts are wanted is the registry's to say (`roster.rs`), at its own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::drain::Drain;
use super::heartbeat::{Beat, HEARTBEAT_INTERVAL, Heartbeat, Leases, SENDS_FOR, lease_end};
use super::roster::{Registered, Wanted};
use super::shared::{self, Shared};
use super::sharing::{Share, share};
use super::{beat, discovery};
use crate::account::{Account, Live, PauseLog};
use crate::backoff::Backoff;
use crate::clock::{Tick, Time};
use crate::config::LimitScope;
use crate::coverage::Rules;
use crate::db::{Assignment, DbError, DbFault, LongestWaits, NameLock, Owned, Picture};
use crate::discover::{Discoverer, Policy};
use crate::fetch::Patience;
use crate::fetch::committer::{Committer, Storage};
use crate::model::Endpoint;
use crate::ringcx::limits::{LATEST_ARRIVAL, LONGEST_WAIT, Lapse, Pacer};

/// How many accounts are taken with one sign of life: loading more could take so long that the next comes too late.
const TAKES: usize = 50;
/// A replica without a sign of life for so long, by the database's clock, is taken for dead.
const LAPSE: Duration = Duration::from_secs(10);
/// What happened longer ago than this matters to no limit of a minute.
const FORGOTTEN: Duration = Duration::from_secs(75);
/// A replica that has been silent for so long is forgotten.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long results may wait for a database that is away once everything else has ended.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// Works until `stop`.
///
/// # Errors
/// Where a part of it ended of itself, or waiting will not help.
pub async fn run(shared: Arc<Shared>, name: NameLock, stop: CancellationToken) -> anyhow::Result<()> {
    let gave_up = CancellationToken::new();
    let (committer, writer) = Committer::new(shared.db.clone(), shared.stored_sender(), gave_up.clone());
    let mut writers: JoinSet<()> = JoinSet::new();
    writers.spawn(writer.run());
    let started = shared.clock.now();
    let (leases, (beats, seen)) = (Arc::new(Leases::default()), watch::channel(None));
    let heart_stop = CancellationToken::new();
    let mut heart = JoinSet::new();
    let heartbeat = Heartbeat {
        shared: shared.clone(),
        db: shared.db.for_heartbeat(),
        name,
        started,
        stamped: shared.clock.tick(),
        leases: leases.clone(),
        beats,
    };
    heart.spawn(heartbeat.run(heart_stop.clone()));
    let mut session = Session {
        committer,
        held: BTreeMap::new(),
        tasks: JoinSet::new(),
        pacer: None,
        heart,
        heart_stop,
        leases,
        beats: seen,
        wanted: shared.registered(),
        started,
        rings: None,
        resumes: BTreeMap::new(),
        ready: false,
        more: false,
        stop: stop.clone(),
        shared: shared.clone(),
    };
    let outcome = session.work().await;
    session.end(writers, gave_up).await;
    outcome
}

/// An account that is worked on, or about to be let go.
struct Held {
    account: Arc<Account>,
    /// When it had been taken.
    taken: Tick,
    stop: CancellationToken,
    /// Tasks that have not ended.
    running: u8,
    /// Whether it is to be let go once they have.
    leaving: bool,
    /// Whether another replica owns it now: nothing of it may leave from here any more.
    lost: bool,
}

struct Session {
    shared: Arc<Shared>,
    committer: Committer,
    held: BTreeMap<i64, Held>,
    /// Each names the account that it works for.
    tasks: JoinSet<(i64, anyhow::Result<()>)>,
    /// The login's pacer, where all accounts share one.
    pacer: Option<Pacer>,
    /// The heartbeat's task, and what ends it.
    heart: JoinSet<anyhow::Result<NameLock>>,
    heart_stop: CancellationToken,
    leases: Arc<Leases>,
    beats: watch::Receiver<Option<Beat>>,
    /// The accounts to be worked on; `None` until that is known.
    wanted: watch::Receiver<Option<Registered>>,
    started: Time,
    rings: Option<i64>,
    /// How often a person has asked for each account to be tried again at once.
    resumes: BTreeMap<i64, i64>,
    ready: bool,
    /// Whether there are accounts left to take at once.
    more: bool,
    stop: CancellationToken,
}

impl Session {
    async fn work(&mut self) -> anyhow::Result<()> {
        let mut storage = self.committer.storage();
        // Said once, not every two seconds for as long as it lasts.
        let (mut away, mut started) = (false, false);
        while let Some(beat) = self.next_beat(&mut storage).await? {
            let stop = self.stop.clone();
            let done = match &beat.outcome {
                Ok(picture) => tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    done = self.turn(picture, &beat) => done,
                },
                Err(away) => Err(DbError::new(DbFault::Away, away.clone()).into()),
            };
            let mut refused = None;
            match done {
                Ok(()) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the database is back");
                    }
                    if !std::mem::replace(&mut started, true) {
                        super::signals::ready();
                        self.forget_replicas().await;
                    }
                }
                Err(error) if error.downcast_ref().is_some_and(|error| self.shared.db.recovers_from(error)) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(%error, "the database is away; what needs it waits");
                    }
                    refused = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
            // One that can be read may refuse to be written to: with no result at hand, nobody else would notice.
            let results = storage.borrow_and_update().clone();
            self.shared.set_storage(refused.map_or(results, Storage::Away));
            if std::mem::take(&mut self.more) {
                self.leases.hurry();
            }
        }
        Ok(())
    }

    /// Waits for a heartbeat, and sees to what ends meanwhile; `None` at the stop.
    async fn next_beat(&mut self, storage: &mut watch::Receiver<Storage>) -> anyhow::Result<Option<Beat>> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
                Some(ended) = self.heart.join_next() => {
                    ended.context("the heartbeat ended abnormally")??;
                    anyhow::bail!("background task `heartbeat` exited unexpectedly");
                }
                Ok(()) = storage.changed() => self.shared.set_storage(storage.borrow_and_update().clone()),
                Ok(()) = self.wanted.changed() => self.leases.hurry(),
                Ok(()) = self.beats.changed() => {
                    if let Some(beat) = self.beats.borrow_and_update().clone() {
                        return Ok(Some(beat));
                    }
                }
            }
        }
    }

    /// What follows from the picture that a heartbeat brought.
    async fn turn(&mut self, picture: &Picture, beat: &Beat) -> anyhow::Result<()> {
        self.drop_lost(picture, beat.tick);
        self.write_pauses().await;
        self.answer_bell().await?;
        self.leave_room().await?;
        let together = self.shared.settings.limits.scope == LimitScope::Login;
        let wanted = match beat.outdated {
            true => Some(Registered::default()),
            false => self.wanted.borrow().clone(),
        };
        // What cannot be known takes no account away.
        let Some(wanted) = wanted else { return Ok(()) };
        let keys: BTreeSet<i64> = wanted.keys().copied().collect();
        let share = share(picture, &keys, &self.shared.settings.database.instance, LAPSE, together);
        self.let_go(&share.let_go, picture).await?;
        self.take(&share, &wanted, picture, beat.tick).await?;
        self.leases.set_drained(beat.outdated && self.held.is_empty());
        if !self.ready && !self.more && !beat.outdated {
            self.ready = true;
            self.shared.set_session(true);
            tracing::info!(
                accounts = self.held.len(),
                of = keys.len(),
                instance = self.shared.settings.database.instance,
                "working"
            );
        }
        Ok(())
    }

    /// Writes what of pauses and their ends could not be written before.
    async fn write_pauses(&self) {
        for held in self.held.values().filter(|held| !held.lost) {
            held.account.pauses.write(&held.account).await;
        }
    }

    /// A row too many harms nobody: where it fails, the next start does it.
    async fn forget_replicas(&self) {
        if let Err(error) = self.shared.db.forget_replicas(REMEMBERED, self.shared.clock.now()).await {
            tracing::debug!(%error, "failed to forget replicas that are long gone");
        }
    }

    /// Ends work on accounts that have another owner now, or of which the database knows an earlier one, because it was put
    /// back to an earlier state: what is under way for them will not count.
    fn drop_lost(&mut self, picture: &Picture, began: Tick) {
        let me = &self.shared.settings.database.instance;
        let rows: BTreeMap<i64, &Assignment> = picture.accounts.iter().map(|row| (row.account, row)).collect();
        for (key, held) in self.held.iter_mut().filter(|(_, held)| !held.lost) {
            let row = rows.get(key);
            let epoch = held.account.owned.epoch;
            // A heartbeat that began before the account was taken may bring a picture from before.
            if row.is_some_and(|row| row.epoch == epoch || (row.epoch < epoch && began <= held.taken)) {
                continue;
            }
            held.account.pacer.deadline(Some(Tick::default()));
            held.lost = true;
            held.stop.cancel();
            if row.and_then(|row| row.owner.as_ref()).is_none_or(|owner| owner == me) {
                // A command found nobody at work here and made a request of its own.
                tracing::warn!(account = %held.account.id, "the lease on this account was ended meanwhile; it is taken again");
                held.account.pacer.note_foreign_use();
            } else {
                tracing::warn!(account = %held.account.id, "another replica has taken this account over");
            }
        }
        self.publish();
    }

    async fn answer_bell(&mut self) -> Result<(), DbError> {
        let rings = self.shared.db.rings().await?;
        self.shared.set_rings(rings);
        if self.rings == Some(rings) {
            return Ok(());
        }
        let resumes = std::mem::replace(&mut self.resumes, self.shared.db.resumes().await?);
        if self.rings.replace(rings).is_some() {
            for (key, held) in &self.held {
                if self.resumes.get(key) != resumes.get(key) {
                    tracing::info!(account = %held.account.id, "asked to try again at once");
                    held.account.resume();
                }
                held.account.work.notify_one();
                held.account.discover.notify_one();
            }
        }
        Ok(())
    }

    /// Gives requests of commands such as `check` their place in the budgets.
    async fn leave_room(&self) -> Result<(), DbError> {
        for (nth, (id, account)) in self.shared.db.guests().await?.into_iter().enumerate() {
            let Some(held) = self.held.get(&account) else { continue };
            // The first waits for its turn: where the budget is used up, there is never one without waiting.
            let wait = if nth == 0 { self.shared.clock.real(HEARTBEAT_INTERVAL) } else { Duration::ZERO };
            if let Ok(mut permit) = tokio::time::timeout(wait, held.account.pacer.enter()).await {
                // It goes from another process: as far as anyone here can know, it may arrive for as long as any.
                permit.sent();
                drop(permit);
                let now = self.shared.clock.now();
                self.shared.db.leave_room(id, now, now - FORGOTTEN).await?;
            }
        }
        Ok(())
    }

    async fn let_go(&mut self, accounts: &[i64], picture: &Picture) -> Result<(), DbError> {
        for key in accounts {
            match self.held.get_mut(key) {
                Some(held) if !held.leaving => {
                    held.leaving = true;
                    held.stop.cancel();
                }
                _ => {}
            }
        }
        // What an earlier process of this name owned, and nobody works on.
        let left = picture.accounts.iter().filter(|row| accounts.contains(&row.account));
        let left = left.filter(|row| !self.held.contains_key(&row.account));
        let left = left.map(|row| Owned { account: row.account, epoch: row.epoch });
        let ended = self.held.values().filter(|held| held.leaving && held.running == 0);
        let over: Vec<Owned> = ended.map(|held| held.account.owned).chain(left).collect();
        if !over.is_empty() {
            self.shared.db.let_go(&over, self.shared.clock.now()).await?;
        }
        // Those that were lost, or have just been let go, are nobody's of ours any more.
        self.held.retain(|_, held| held.running > 0 || !held.stop.is_cancelled());
        self.publish();
        Ok(())
    }

    async fn take(
        &mut self,
        share: &Share,
        registered: &Registered,
        picture: &Picture,
        tick: Tick,
    ) -> anyhow::Result<()> {
        let free: Vec<i64> = share.take.iter().copied().filter(|key| !self.held.contains_key(key)).collect();
        // What is ours by name and not worked on was an earlier process's of the same name.
        let me = &self.shared.settings.database.instance.clone();
        let own = picture.accounts.iter().filter(|row| {
            share.resume
                && row.owner.as_ref() == Some(me)
                && !self.held.contains_key(&row.account)
                && !share.let_go.contains(&row.account)
                && registered.contains_key(&row.account)
        });
        let mut take: Vec<i64> = free.into_iter().chain(own.map(|row| row.account)).collect();
        self.more = take.len() > TAKES;
        take.truncate(TAKES);
        if take.is_empty() {
            return Ok(());
        }
        if self.held.values().all(|held| held.lost) {
            // A login's budget that was another's meanwhile: what this pacer remembers is not the whole truth any more.
            self.pacer = None;
        }
        let together = self.shared.settings.limits.scope == LimitScope::Login;
        let (db, now) = (&self.shared.db, self.shared.clock.now());
        let taken = match together {
            true => db.take_together(&take, me, LAPSE, now).await?,
            false => db.take(&take, me, LAPSE, now).await?,
        };
        let taken_at = self.shared.clock.tick();
        // Only now is nothing added to them by whoever had the accounts before.
        let pauses = db.pauses().await?;
        let refusals = db.refusals(self.shared.clock.now()).await?;
        for owned in taken {
            let Some(wanted) = registered.get(&owned.account).cloned() else { continue };
            let before = picture.accounts.iter().filter(|row| together || row.account == owned.account);
            let lapse = before.map(|row| lapse(picture, row, me)).min_by_key(|lapse| lapse.quiet_for());
            let account = Arc::new(self.account(wanted, owned, lapse.unwrap_or(Lapse::Fresh), tick));
            account.take_up(&refusals);
            let mut discoverer = Discoverer::load(account.clone(), self.policy(&account)?).await?;
            discoverer.take_up_refusal(&refusals);
            let mut drain = Drain::new(
                account.clone(),
                Patience { backoff: self.backoff()?, revisit: self.shared.settings.fetch.revisit.clone() },
                self.shared.settings.fetch.concurrency,
                self.committer.clone(),
            );
            for pause in pauses.iter().filter(|pause| pause.account == owned.account) {
                match pause.endpoint {
                    Endpoint::Metadata => discoverer.take_up(pause),
                    _ => drain.take_up(pause),
                }
            }
            let stop = self.stop.child_token();
            let (key, ends) = (owned.account, stop.clone());
            let (followed, until) = (account.clone(), stop.clone());
            let longest = self.longest_waits();
            self.tasks.spawn(async move { (key, discovery::run(followed, discoverer, longest, until).await) });
            self.tasks.spawn(async move {
                drain.run(ends).await;
                (key, Ok(()))
            });
            self.leases.add(account.clone());
            self.held.insert(key, Held { account, taken: taken_at, stop, running: 2, leaving: false, lost: false });
        }
        self.publish();
        Ok(())
    }

    fn account(&mut self, wanted: Wanted, owned: Owned, lapse: Lapse, tick: Tick) -> Account {
        let Shared { db, clock, api, login, settings, .. } = &*self.shared;
        let pacer = match (settings.limits.scope, &self.pacer) {
            (LimitScope::Login, Some(pacer)) => pacer.leased(),
            _ => {
                let pacer = Pacer::new(settings.limits.requests_per_minute, clock.clone());
                pacer.start_after_lapse(lapse);
                pacer
            }
        };
        self.pacer = Some(pacer.clone());
        pacer.deadline(lease_end(&self.shared, tick));
        Account {
            budget: shared::budget_name(&settings.limits, &wanted.id.sub),
            metadata: shared::metadata_budget(&settings.limits, &wanted.id.sub, db, clock),
            id: wanted.id,
            name: wanted.name,
            policy: wanted.policy,
            retention_days: wanted.retention_days,
            owned,
            db: db.clone(),
            api: api.clone(),
            login: login.clone(),
            pacer,
            clock: clock.clone(),
            work: Notify::new(),
            discover: Notify::new(),
            findings: self.shared.findings.clone(),
            live: Live::default(),
            pauses: PauseLog::default(),
        }
    }

    /// A task ended: as told, or of itself, which ends everything.
    fn ended(&mut self, ended: Result<(i64, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Result<()> {
        let (key, result) = ended.context("a task ended abnormally")?;
        let Some(held) = self.held.get_mut(&key) else { return result };
        held.running = held.running.saturating_sub(1);
        if held.stop.is_cancelled() {
            return Ok(());
        }
        result.with_context(|| format!("work on account {} ended", held.account.id))?;
        Err(anyhow::anyhow!("work on account {} ended of itself", held.account.id))
    }

    /// Ends all work in good order and lets everything go.
    async fn end(mut self, mut writers: JoinSet<()>, gave_up: CancellationToken) {
        for held in self.held.values() {
            held.stop.cancel();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let in_order = tokio::time::timeout(super::LAST_ORDERS, all).await.is_ok();
        if !in_order {
            tracing::warn!("some tasks did not end in time; what they had under way is left to the next start");
            self.tasks.abort_all();
        }
        let owned: Vec<Owned> = self.held.values().map(|held| held.account.owned).collect();
        self.held.clear();
        self.publish();
        let Session { shared, committer, started, mut heart, heart_stop, .. } = self;
        // All who had results have handed them over; the writer ends when they are written. Only then may the accounts go:
        // what is written under an epoch that is over does not count.
        drop(committer);
        let written = async { while writers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WRITES, written).await.is_err() {
            tracing::warn!("the database did not take the last results; they will be fetched again");
            gave_up.cancel();
        }
        shared.set_session(false);
        // The last heartbeat is the goodbye. The name stays ours until it is said.
        heart_stop.cancel();
        let _name = heart.join_next().await;
        let now = shared.clock.now();
        let goodbye = async {
            shared.db.let_go(&owned, now).await?;
            shared.db.beat(&beat::row(&shared, started, Some(now)), now).await
        };
        match tokio::time::timeout(Duration::from_secs(1), goodbye).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to say goodbye"),
            Err(_) => tracing::debug!("failed to say goodbye in time"),
        }
    }

    fn publish(&self) {
        let working = self.held.values().filter(|held| !held.stop.is_cancelled());
        self.shared.set_accounts(working.map(|held| held.account.clone()).collect());
        self.leases.set(self.held.values().filter(|held| !held.lost).map(|held| held.account.clone()).collect());
    }

    fn longest_waits(&self) -> LongestWaits {
        let fetch = &self.shared.settings.fetch;
        let retry = fetch.retry_max.max(fetch.retry_initial).max(LONGEST_WAIT);
        LongestWaits { retry, revisit: fetch.revisit.iter().copied().fold(retry, Duration::max) }
    }

    fn backoff(&self) -> anyhow::Result<Backoff> {
        let fetch = &self.shared.settings.fetch;
        Ok(Backoff::new(fetch.retry_initial, fetch.retry_max, fetch.give_up_after)?)
    }

    fn policy(&self, account: &Account) -> anyhow::Result<Policy> {
        let discovery = &self.shared.settings.discovery;
        let days = account.retention_days.and_then(|days| u64::try_from(days).ok()).filter(|days| *days > 0);
        let rules = Rules {
            window: discovery.window,
            offset: discovery.offset,
            interval: discovery.interval,
            max_window: discovery.max_window,
            sliding: shared::metadata_limits(&self.shared.settings.limits),
            retention: days.map(|days| Duration::from_secs(days * 86_400)),
        };
        Ok(Policy { rules, rechecks: discovery.rechecks.clone(), start: discovery.start, backoff: self.backoff()? })
    }
}

/// What is known of whoever used an account's budget before `me`.
fn lapse(picture: &Picture, before: &Assignment, me: &str) -> Lapse {
    let Some(owner) = &before.owner else {
        let Some(let_go) = before.let_go else { return Lapse::Fresh };
        let ago = picture.now.since(let_go);
        return if ago > FORGOTTEN { Lapse::Fresh } else { Lapse::Released { ago } };
    };
    // By now our own sign of life stands in our row: an earlier process of our name may have sent until just now.
    let seen = picture.replicas.iter().find(|replica| replica.name == *owner && owner != me);
    let ago = seen.map_or(Duration::ZERO, |replica| picture.now.since(replica.heartbeat));
    match ago {
        ago if ago > FORGOTTEN => Lapse::Fresh,
        last_seen_ago if owner == me => Lapse::Died { last_seen_ago, sends_for: Duration::ZERO, in_flight: 0 },
        last_seen_ago => Lapse::Died { last_seen_ago, sends_for: SENDS_FOR + LATEST_ARRIVAL, in_flight: 8 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccountPolicy;
    use crate::db::{Access, Db};
    use crate::model::{AccountId, ArtifactSet, SummariesFor, Wants};

    const SETTINGS: &str = r#"
[auth]
api_token = "planted-secret"
[[accounts]]
rc_account_id = "1"
sub_account_id = "1"
[limits]
scope = "login"
[database]
instance = "me"
"#;

    async fn session(folder: &std::path::Path) -> Session {
        let file = folder.join("local.toml");
        std::fs::write(&file, SETTINGS).unwrap();
        let settings = crate::config::load(Some(&file), []).unwrap().settings;
        let db = Db::open_sqlite(&folder.join("test.db"), Access::Own).await.unwrap();
        let clock = crate::clock::Clock::manual(Time(1_800_000_000_000));
        let shared = Shared::new(settings, db, clock.clone()).unwrap();
        let (committer, _writer) = Committer::new(shared.db.clone(), shared.stored_sender(), CancellationToken::new());
        Session {
            committer,
            held: BTreeMap::new(),
            tasks: JoinSet::new(),
            pacer: None,
            heart: JoinSet::new(),
            heart_stop: CancellationToken::new(),
            leases: Arc::default(),
            beats: watch::channel(None).1,
            wanted: shared.registered(),
            started: clock.now(),
            rings: None,
            resumes: BTreeMap::new(),
            ready: false,
            more: false,
            stop: CancellationToken::new(),
            shared,
        }
    }

    fn id(number: i64) -> AccountId {
        AccountId::new("1", number.to_string())
    }

    impl Session {
        fn hold_account(&mut self, account: i64) -> Arc<Account> {
            let wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };
            let policy = AccountPolicy { wants, retention: None };
            let wanted = Wanted { id: id(account), name: None, policy, retention_days: None };
            let taken = self.shared.clock.tick();
            let account = Arc::new(self.account(wanted, Owned { account, epoch: 1 }, Lapse::Fresh, taken));
            let held = Held {
                account: account.clone(),
                taken,
                stop: CancellationToken::new(),
                running: 2,
                leaving: false,
                lost: false,
            };
            self.held.insert(account.owned.account, held);
            account
        }
    }

    fn row(account: i64, owner: &str, epoch: i64) -> Assignment {
        Assignment { account, id: id(account), owner: Some(owner.to_owned()), epoch, let_go: None }
    }

    #[tokio::test]
    async fn one_account_that_another_replica_has_taken_leaves_the_others_of_its_login_one_budget() {
        let folder = tempfile::tempdir().unwrap();
        let mut session = session(folder.path()).await;
        let (lost, kept) = (session.hold_account(1), session.hold_account(2));
        let accounts = vec![row(1, "other", 2), row(2, "me", 1)];
        let picture = Picture { now: session.shared.clock.now(), replicas: Vec::new(), accounts };
        session.drop_lost(&picture, session.shared.clock.tick());
        assert!(session.held[&1].lost && !session.held[&2].lost);
        let mut permit = kept.pacer.try_enter().unwrap();
        assert!(permit.sent(), "it may send");
        assert!(lost.pacer.try_enter().is_err());
        permit.counted();
        assert_eq!(session.hold_account(3).pacer.usage().sent_last_minute, 1, "a budget of its own");
    }
}
