//! What the pages have in common: the database's pulse, the picture of how things stand, and the dashboard's viewers.
//!
//! Reads only. Pulse and picture are made on demand, once for all who ask (see `fresh`), and kept for a second or two,
//! so that neither probes nor viewers, however many, cost the daemon more than one look now and then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::{Time, millis};
use crate::daemon::shared::Shared;
use crate::metrics::{AccountFigures, Figures, SinkFigures, WorkFigures};
use crate::model::Endpoint;
use crate::ringcx::LoginState;
use crate::status::{AccountStatus, BackfillStatus, FindingStatus, Pause, SinkState};

use super::board::Board;
use super::door::Door;
use super::fresh::Fresh;
use super::history::{self, History, Sample};
use super::page::View;
use super::picture::{self, Picture, Row};
use super::ready::{self, PATIENCE, Readiness, Trouble};
use super::verdict::Verdict;

/// How old the database's pulse may be.
const PULSE: Duration = Duration::from_secs(1);
/// How old the picture may be, and how often viewers are told what has changed.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// How old a picture may be for programs, which may look for what they have just done.
pub(super) const RECENT: Duration = Duration::from_millis(250);
/// How many may watch at once.
pub(super) const VIEWERS: usize = 64;

/// What the pages have in common.
pub(super) struct Site {
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
    pub(super) board: Board,
    /// Lets people see conversations; `None` where nobody may.
    pub(super) door: Option<Arc<Door>>,
    /// Places for viewers.
    pub(super) seats: Arc<Semaphore>,
    pulse: Fresh<Result<(), Trouble>>,
    pictures: Fresh<Result<Arc<Picture>, Trouble>>,
    /// The last picture that could be made.
    last: Mutex<Option<Arc<Picture>>>,
    pub(super) history: History,
}

/// How things stand, as far as can be said.
pub(super) struct Look {
    /// What is wrong with the database.
    pub(super) database: Result<(), Trouble>,
    /// The worst first.
    pub(super) findings: Vec<FindingStatus>,
    pub(super) readiness: Readiness,
    pub(super) picture: Option<Arc<Picture>>,
    pub(super) now: Time,
}

impl Site {
    pub(super) fn new(shared: Arc<Shared>, stop: CancellationToken) -> Site {
        let door = shared
            .settings
            .http
            .token
            .clone()
            .map(|token| Arc::new(Door::new(token, shared.clock.clone()).with_db(shared.db.clone())));
        Site {
            shared,
            door,
            stop,
            board: Board::new(),
            seats: Arc::new(Semaphore::new(VIEWERS)),
            pulse: Fresh::new(),
            pictures: Fresh::new(),
            last: Mutex::new(None),
            history: History::default(),
        }
    }

    /// Makes whatever is asked for, tells viewers, and keeps the history; until the stop.
    pub(super) async fn run(&self) {
        tokio::join!(
            self.pulse.keep(|| self.feel(), &self.stop),
            self.pictures.keep(|| self.take(), &self.stop),
            self.until_stop(self.produce()),
            self.until_stop(self.remember()),
        );
    }

    async fn until_stop(&self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn feel(&self) -> Result<(), Trouble> {
        self.shared.db.ping().await.map_err(|error| Trouble::from(&error))
    }

    async fn take(&self) -> Result<Arc<Picture>, Trouble> {
        let picture = picture::gather(&self.shared).await.map_err(|error| Trouble::from(&error))?;
        let picture = Arc::new(picture);
        let worst = picture.rows.iter().filter_map(|row| row.lag(picture.at)).max();
        let backlog = picture.rows.iter().map(|row| row.work.unfinished()).sum();
        self.history.note(Sample { at: picture.at, lag: worst.unwrap_or_default(), backlog });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(picture.clone());
        Ok(picture)
    }

    async fn produce(&self) {
        loop {
            self.board.watched().await;
            let look = self.look(BEAT).await;
            let verdict = self.verdict(&look);
            self.board.show(&self.view(&look, &verdict, &self.history.samples()), look.picture.clone());
            tokio::time::sleep(BEAT).await;
        }
    }

    async fn remember(&self) {
        loop {
            let _ = self.pictures.get(BEAT, PATIENCE).await;
            self.shared.clock.sleep(history::STEP).await;
        }
    }

    /// A picture made within `age`, or why there is none.
    pub(super) async fn picture(&self, age: Duration) -> Result<Arc<Picture>, Trouble> {
        let made = self.pictures.get(age, PATIENCE).await;
        made.map_or_else(|| Err(Trouble::silent()), |made| (*made).clone())
    }

    /// How things stand, with a picture from within `age` if one can be had, and the last one if not.
    pub(super) async fn look(&self, age: Duration) -> Look {
        let (pulse, picture) = tokio::join!(self.pulse.get(PULSE, PATIENCE), self.picture(age));
        let pulse = pulse.map_or_else(|| Err(Trouble::silent()), |pulse| (*pulse).clone());
        // A database that answers one and not the other is not well.
        let database = pulse.and(picture.as_ref().map(|_| ()).map_err(Trouble::clone));
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let picture = picture.ok().or_else(last);
        let database = ready::database(&self.shared, database);
        let status = picture.as_deref().map(|picture| &picture.status);
        let known = status.map(|status| status.findings.as_slice()).unwrap_or_default();
        let findings = ready::findings(known, &self.shared, database.is_ok());
        let own = self.shared.accounts();
        let own = |account: &&AccountStatus| own.iter().any(|own| *own.id.sub == *account.sub_account_id);
        let accounts = status.into_iter().flat_map(|status| status.accounts.iter().filter(own));
        let readiness = Readiness::of(&findings, accounts);
        Look { database, findings, readiness, picture, now: self.shared.clock.now() }
    }

    pub(super) fn verdict(&self, look: &Look) -> Verdict {
        Verdict::new(look.findings.clone(), look.picture.as_deref(), look.now)
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.history.samples()
    }

    pub(super) fn view<'a>(&'a self, look: &'a Look, verdict: &'a Verdict, samples: &'a [Sample]) -> View<'a> {
        View {
            verdict,
            picture: look.picture.as_deref(),
            samples,
            now: look.now,
            instance: &self.shared.settings.database.instance,
            search: self.door.is_some(),
        }
    }

    /// For the metrics. Where the database is away, accounts are as they were last seen; their lag goes on.
    pub(super) fn figures(&self, look: &Look) -> Figures {
        let picture = look.picture.as_deref();
        let backfills = picture.map(|picture| picture.status.backfills.as_slice()).unwrap_or_default();
        let account = |(row, status): (&Row, &AccountStatus)| account_figures(row, status, backfills);
        let accounts = picture.map(|picture| picture.rows.iter().zip(&picture.status.accounts).map(account).collect());
        let sinks = picture.map(|picture| picture.status.sinks.as_slice()).unwrap_or_default();
        Figures {
            now: look.now,
            database_up: look.database.is_ok(),
            disk_up: !matches!(&look.database, Err(trouble) if trouble.disk),
            login_up: !matches!(self.shared.login.state(), LoginState::Failing { .. }),
            ready: look.readiness.ready,
            working: self.shared.in_session(),
            credential_expires: self.shared.credential_expires(),
            clock_skew_seconds: self.shared.api.offset_ms() as f64 / 1000.0,
            index_lag: picture
                .map(|picture| picture.status.search_index)
                .map(|index| (index.lag_changes, index.lag_seconds)),
            accounts: accounts.unwrap_or_default(),
            sinks: sinks
                .iter()
                .map(|sink| SinkFigures {
                    name: sink.name.clone(),
                    pending: sink.pending,
                    failed: sink.failed,
                    last_delivered: sink.last_delivered.as_deref().and_then(Time::parse),
                    resting: sink.state == SinkState::Resting,
                    stopped: sink.state == SinkState::Stopped,
                })
                .collect(),
            lateness: picture.map(|picture| picture.lateness.clone()).unwrap_or_default(),
            findings: look.findings.iter().map(|finding| finding.code.clone()).collect(),
        }
    }
}

fn account_figures(row: &Row, status: &AccountStatus, backfills: &[BackfillStatus]) -> AccountFigures {
    let own = backfills.iter().filter(|backfill| backfill.sub_account_id == row.sub);
    let unread = own.clone().map(|backfill| backfill.seconds.saturating_sub(backfill.read_seconds));
    let paused = |pause: &Pause| ENDPOINTS.into_iter().find(|endpoint| endpoint.name() == pause.endpoint);
    AccountFigures {
        sub: row.sub.clone(),
        watermark: row.watermark,
        work: WorkFigures {
            ready: row.work.ready,
            waiting: row.work.waiting,
            running: row.work.running,
            done: row.work.done,
            unavailable: row.work.unavailable,
            failed: row.work.failed,
        },
        requests_last_minute: row.used,
        request_limit: row.limit,
        refused: status.refused,
        paused: row.paused.iter().filter_map(paused).collect(),
        oldest_unfinished_seconds: status.oldest_unfinished_seconds.unwrap_or(0),
        gaps_seconds: u64::try_from(millis(row.gaps) / 1000).unwrap_or(0),
        drain_seconds: row.drain.as_secs(),
        set_aside: row.aside,
        missing: row.missing,
        backfills: own.count() as u64,
        backfill_unread_seconds: unread.sum(),
    }
}

const ENDPOINTS: [Endpoint; 4] =
    [Endpoint::Metadata, Endpoint::Transcript, Endpoint::AgentSummary, Endpoint::AutoSummary];
