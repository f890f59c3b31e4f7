//! Delivers stored artifacts to other systems: from each account's feed, past each sink's cursor,
//! to the sink.
//!
//! Reads and writes `db`, sends through `sink`, and knows nothing of the stages before it. A sink's
//! state is a cursor per account and the few events that failed. An event is recorded after it was
//! sent, so a crash repeats deliveries under the same ids, and loses none. While a sink is
//! unavailable, delivery to it is paused and its cursors stay where they are: its backlog is the
//! feed itself. Each sink has its own [`Deliverer`], so that no sink waits for another.

mod batch_delivery;
mod delivery_records;
mod event_builder;
mod fair_share;
mod lake_catalog;
mod lake_delivery;
mod lake_writer;
mod object_delivery;
mod replay_delivery;
mod sink_client;
mod sink_pauses;
mod unit_builder;
mod webhook_delivery;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick, Time};
use crate::config::{RedactionRule, Sink, SinkKind, SinkStart};
use crate::db::{AccountKey, Db, DbError, DeliveryRound, LaggingFeed, Lease, SinkKey};
use crate::health::STOPPED_SINK_HINT;
use crate::model::Artifact;
use crate::pipeline::delivery::pause_delay;
use crate::recordings::RecordingStore;
use crate::sink::SinkError;

use event_builder::EventFilter;
use sink_client::{BatchClient, SinkClient};
pub use sink_pauses::{SinkPause, SinkPauses};

/// How often an idle sink checks for work.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How often a pause may be logged: a sink that accepts some events and refuses others pauses every
/// few seconds.
const PAUSE_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Identifies an event: account key and number in the account's feed.
type EventKey = (AccountKey, i64);

/// The result of one delivery step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryProgress {
    /// Work was done, and more may be left.
    Worked,
    /// Nothing to do until this time, unless an artifact is stored or a person intervenes.
    Idle(Tick),
}

/// What a deliverer needs from the daemon.
#[derive(Clone)]
pub struct DeliveryContext {
    /// The database with the feeds and the cursors.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// The name of this replica. Only accounts that it owns are delivered.
    pub owner: String,
    /// Returns the leases that this replica holds now.
    pub leases: Arc<dyn Fn() -> Vec<Lease> + Send + Sync>,
    /// Where recordings are stored, for links to them.
    pub recordings: RecordingStore,
    /// The names of accounts in the settings, by sub-account id.
    pub account_names: Arc<BTreeMap<String, String>>,
    /// Where pauses are published.
    pub sink_pauses: Arc<SinkPauses>,
    /// Cancelled at shutdown: requests in flight finish, and no new ones are sent.
    pub stop: CancellationToken,
}

/// Delivers the feeds to one sink.
pub struct Deliverer {
    context: DeliveryContext,
    settings: Sink,
    filter: Arc<EventFilter>,
    client: Option<SinkClient>,
    /// The sink's key in the database; `None` until it was looked up.
    sink_key: Option<SinkKey>,
    stopped: bool,
    /// When the sink's row is read again.
    next_row_refresh: Tick,
    pause: Option<PauseState>,
    /// No pause is logged as a warning before this time.
    next_pause_warning: Tick,
    /// Which account comes first in the next round, so that all take turns.
    rotation: usize,
    /// Whether a replay may be open, and when its next step is due.
    may_replay: bool,
    replay_after: Tick,
    /// When the next object of an account is due, by account key.
    next_object_at: BTreeMap<AccountKey, Tick>,
    /// A round that was sent but not recorded yet. It is recorded before anything else is sent.
    unrecorded_round: Option<DeliveryRound>,
}

/// The current pause of a sink.
#[derive(Debug, Clone)]
struct PauseState {
    until: Tick,
    consecutive: u32,
    since: Time,
    /// Whether it was logged as a warning.
    logged: bool,
}

impl Deliverer {
    /// Creates a deliverer for the sink. Does no I/O.
    pub fn new(settings: Sink, context: DeliveryContext) -> Deliverer {
        Deliverer {
            filter: Arc::new(EventFilter::new(&settings, &context.recordings)),
            settings,
            context,
            client: None,
            sink_key: None,
            stopped: false,
            next_row_refresh: Tick::default(),
            pause: None,
            next_pause_warning: Tick::default(),
            rotation: 0,
            may_replay: true,
            replay_after: Tick::default(),
            next_object_at: BTreeMap::new(),
            unrecorded_round: None,
        }
    }

    /// The sink's name.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Delivers one bounded batch, and tells whether there was work.
    ///
    /// # Errors
    /// If the database fails. A round that was sent but not recorded is recorded first by the next
    /// call.
    pub async fn step(&mut self) -> Result<DeliveryProgress, DbError> {
        if let Some(round) = &self.unrecorded_round {
            self.context.db.record_delivery_round(round).await?;
            self.unrecorded_round = None;
            // The round may have stopped the sink.
            self.next_row_refresh = Tick::default();
        }
        let now = self.context.clock.tick();
        let sink = self.refresh_row(now).await?;
        if self.stopped {
            return Ok(DeliveryProgress::Idle(now + IDLE_POLL_INTERVAL));
        }
        if let Some(until) = self.paused_until(now).filter(|_| self.client.is_none()) {
            return Ok(DeliveryProgress::Idle(until));
        }
        if let Err(error) = self.ensure_client().await {
            return Ok(DeliveryProgress::Idle(self.pause_delivery(&error, false)));
        }
        let Some(mut client) = self.client.take() else { return Ok(DeliveryProgress::Worked) };
        let progress = match &mut client {
            SinkClient::Batch(client) => self.step_batch(client, sink, now).await,
            SinkClient::Webhook(delivery) => self.step_webhook(delivery, sink).await,
            SinkClient::Lake(delivery) => self.step_lake(delivery, sink).await,
        };
        // A stopped sink starts anew: requests that are in flight must not stop it again.
        self.client = (!self.stopped).then_some(client);
        progress
    }

    async fn step_batch(
        &mut self,
        client: &BatchClient,
        sink: SinkKey,
        now: Tick,
    ) -> Result<DeliveryProgress, DbError> {
        if let Some(until) = self.paused_until(now) {
            return Ok(DeliveryProgress::Idle(until));
        }
        let progress = match client {
            BatchClient::ObjectStore(store) => self.step_objects(client, &store.clone(), sink).await?,
            BatchClient::Jsonl(_) => self.step_lines(client, sink).await?,
        };
        if self.paused_until(self.context.clock.tick()).is_some() {
            return Ok(progress);
        }
        Ok(match (progress, self.step_replay(client, sink).await?) {
            (DeliveryProgress::Idle(one), DeliveryProgress::Idle(other)) => {
                self.clear_expired_pause();
                DeliveryProgress::Idle(one.min(other))
            }
            _ => DeliveryProgress::Worked,
        })
    }

    /// Removes a pause that is over when no event is left to probe the sink with. Whether the sink
    /// is available stays unknown: the next event is a probe.
    fn clear_expired_pause(&self) {
        if self.pause.is_some() && !self.may_replay && self.paused_until(self.context.clock.tick()).is_none() {
            self.context.sink_pauses.set(&self.settings.name, None);
        }
    }

    /// A person changed something: a paused or stopped sink is tried at once.
    pub fn retry_now(&mut self) {
        self.next_row_refresh = Tick::default();
        self.next_object_at.clear();
        if let Some(pause) = &mut self.pause {
            pause.until = Tick::default();
        }
        match &mut self.client {
            Some(SinkClient::Webhook(delivery)) => delivery.retry_now(self.context.clock.tick()),
            Some(SinkClient::Lake(delivery)) => delivery.retry_now(),
            Some(SinkClient::Batch(_)) | None => {}
        }
    }

    /// Pauses this sink after an unexpected database error; other sinks continue. Returns the end
    /// of the pause.
    pub(crate) fn pause_on_error(&mut self, error: &DbError) -> Tick {
        self.pause_delivery(&SinkError::unavailable(format!("the database failed: {error}")), false)
    }

    /// Returns the sink's key. Creates the row for a new name, and reads it again from time to
    /// time.
    async fn refresh_row(&mut self, now: Tick) -> Result<SinkKey, DbError> {
        if let Some(key) = self.sink_key.filter(|_| now < self.next_row_refresh) {
            return Ok(key);
        }
        if let (Some(key), SinkKind::Lake(_)) = (self.sink_key, &self.settings.kind) {
            // A store is never stopped. During a change of settings, another replica may still have
            // the old ones, and the tables would begin anew each time.
            return Ok(key);
        }
        let from_beginning = self.settings.start == SinkStart::Beginning;
        let destination = destination_digest(&self.settings);
        let (db, name, started) = (&self.context.db, &self.settings.name, self.context.clock.now());
        let row = match &self.settings.kind {
            SinkKind::Lake(_) => db.ensure_lake_sink(name, from_beginning, &destination, started).await?,
            _ => db.ensure_sink(name, from_beginning, &destination, started).await?,
        };
        if std::mem::replace(&mut self.stopped, row.stopped.is_some()) && !self.stopped {
            tracing::info!(sink = self.settings.name, "delivery to the stopped sink is enabled again");
        } else if self.stopped && self.sink_key.is_none() {
            let reason = row.reason.unwrap_or_default();
            tracing::error!(sink = self.settings.name, reason, "the sink is stopped; {STOPPED_SINK_HINT}");
        }
        self.sink_key = Some(row.key);
        self.next_row_refresh = now + IDLE_POLL_INTERVAL;
        self.may_replay = true;
        Ok(row.key)
    }

    async fn ensure_client(&mut self) -> Result<(), SinkError> {
        if self.client.is_none() {
            // On Postgres, several replicas may share a folder. On SQLite there is only one.
            let shared = self.context.db.sqlite_path().is_none().then_some(self.context.owner.as_str());
            let client = SinkClient::new(&self.settings.kind, shared, &self.context.clock)?;
            if let SinkClient::Batch(client) = &client {
                client.repair_files().await;
            }
            self.client = Some(client);
        }
        Ok(())
    }

    /// Account key and epoch of each lease that this process holds.
    fn owned_epochs(&self) -> HashSet<(AccountKey, i64)> {
        (self.context.leases)().into_iter().map(|owned| (owned.account, owned.epoch)).collect()
    }

    /// The end of the pause, if the sink is paused at `now`.
    fn paused_until(&self, now: Tick) -> Option<Tick> {
        self.pause.as_ref().map(|pause| pause.until).filter(|until| now < *until)
    }

    /// Pauses a sink that accepts batches, for as long as it asks, or longer each time in a row.
    /// Returns the end of the pause.
    fn pause_delivery(&mut self, error: &SinkError, accepted: bool) -> Tick {
        if accepted {
            self.pause = None;
        }
        let consecutive = self.pause.as_ref().map_or(1, |pause| pause.consecutive.saturating_add(1));
        let asked = error.retry_after.filter(|asked| !asked.is_zero());
        let delay = asked.unwrap_or_else(|| pause_delay(consecutive, rand::rng().random()));
        let until = self.context.clock.tick() + delay;
        self.publish_pause(until, error);
        until
    }

    /// Publishes and logs a pause.
    fn publish_pause(&mut self, until: Tick, error: &SinkError) {
        let (tick, now) = (self.context.clock.tick(), self.context.clock.now());
        let (since, consecutive, logged) =
            self.pause.take().map_or((now, 1, false), |pause| (pause.since, pause.consecutive + 1, pause.logged));
        let logs = !logged && tick >= self.next_pause_warning;
        if logs {
            self.next_pause_warning = tick + PAUSE_WARNING_INTERVAL;
            tracing::warn!(
                sink = self.settings.name,
                reason = error.reason(),
                "the sink is not accepting events; delivery is paused and retried automatically, and no event is lost"
            );
        } else {
            tracing::debug!(
                sink = self.settings.name,
                reason = error.reason(),
                consecutive,
                "the sink is still not accepting events"
            );
        }
        self.pause = Some(PauseState { until, consecutive, since, logged: logged || logs });
        let pause = SinkPause { since, until: now + until.since(tick), reason: error.reason() };
        self.context.sink_pauses.set(&self.settings.name, Some(pause));
    }

    fn resume_delivery(&mut self) {
        if let Some(pause) = self.pause.take() {
            if pause.logged {
                let after = self.context.clock.now().since(pause.since).as_secs();
                tracing::info!(
                    sink = self.settings.name,
                    after_seconds = after,
                    "delivery resumed: the sink accepts events again"
                );
            }
            self.context.sink_pauses.set(&self.settings.name, None);
        }
    }

    /// Applies the result of a batch. `accepted` tells whether the sink accepted an event: a round
    /// without events proves nothing.
    fn apply_result(&mut self, failure: Option<SinkError>, accepted: bool) {
        match failure {
            Some(error) => {
                self.pause_delivery(&error, accepted);
            }
            None if accepted => self.resume_delivery(),
            None => {}
        }
    }

    /// Stops delivery until a person starts it again: the sink wants no more events.
    fn stop_delivery(&mut self, error: &SinkError) {
        self.stopped = true;
        self.context.sink_pauses.set(&self.settings.name, None);
        self.pause = None;
        tracing::error!(sink = self.settings.name, reason = error.reason(), "the sink is stopped; {STOPPED_SINK_HINT}");
    }

    /// This process's accounts that the sink is behind in.
    async fn accounts_behind(&self, sink: SinkKey) -> Result<Vec<LaggingFeed>, DbError> {
        let owned = self.owned_epochs();
        let mut accounts_behind = self.context.db.lagging_feeds(sink, &self.context.owner).await?;
        accounts_behind.retain(|account| owned.contains(&(account.lease.account, account.lease.epoch)));
        Ok(accounts_behind)
    }

    /// Records a round. Returns the accounts whose lease was still held. If that fails, the round is
    /// kept, so that nothing is sent twice for it.
    async fn record_round(&mut self, round: DeliveryRound) -> Result<HashSet<AccountKey>, DbError> {
        let recorded = self.context.db.record_delivery_round(&round).await;
        if recorded.is_err() {
            self.unrecorded_round = Some(round);
        }
        recorded
    }

    /// When to check again if there is nothing to do: at the next event's due time, or after the
    /// poll interval.
    async fn next_wakeup(&self, sink: SinkKey) -> Result<DeliveryProgress, DbError> {
        let (tick, now) = (self.context.clock.tick(), self.context.clock.now());
        let due = self.context.db.next_delivery_due(sink, now).await?.map(|due| tick + due.since(now));
        Ok(DeliveryProgress::Idle(due.map_or(tick + IDLE_POLL_INTERVAL, |due| due.min(tick + IDLE_POLL_INTERVAL))))
    }
}

/// A digest of the sink's destination, which does not reveal it. That of tables also covers which rows
/// they have and what these show: nothing else would write the existing rows again.
fn destination_digest(settings: &Sink) -> String {
    let text = match &settings.kind {
        SinkKind::Jsonl { path, .. } => format!("jsonl {}", path.display()),
        SinkKind::Webhook(settings) => format!("webhook {}", settings.url.expose_secret()),
        SinkKind::ObjectStore { url, .. } => format!("object_store {url}"),
        SinkKind::Lake(lake) => {
            let tables: Vec<&str> = lake.tables.iter().map(|table| table.name()).collect();
            let artifacts: Vec<&str> = settings.artifacts.iter().map(Artifact::name).collect();
            let redact = settings.redact.iter().map(|rule| match rule {
                RedactionRule::Card => "card".to_owned(),
                RedactionRule::Email => "email".to_owned(),
                RedactionRule::Phone => "phone".to_owned(),
                RedactionRule::Pattern { name, pattern } => format!("{name}={pattern}"),
            });
            let (accounts, channels, redact) = (&settings.accounts, &settings.channels, redact.collect::<Vec<_>>());
            format!("lake {} {tables:?} {artifacts:?} {accounts:?} {channels:?} {redact:?}", lake.url)
        }
    };
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
