//! Writes the results of many workers in few, large transactions (group commit).
//!
//! A result is durable once its acknowledgement arrives. While the database is unavailable or the
//! disk is full, results wait here and the channel fills. That stops the workers, so no more is
//! fetched than can be stored, and no result is lost.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::db::{CompletedJob, Db, DbError, DbFault, Item};

/// The most results in one transaction.
const MAX_BATCH_RESULTS: usize = 500;
/// The most bytes of stored bodies in one transaction. A larger body gets a transaction of its own.
const MAX_BATCH_BYTES: usize = 8_000_000;
/// How long the first result of a batch waits for further results.
const BATCH_LINGER: Duration = Duration::from_millis(4);
/// The first interval between attempts while the database is unavailable. It doubles...
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// ...up to this.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Tells a worker that its result is processed: the item, and whether the result was accepted.
pub(crate) type Acknowledgement = (Item, bool);

/// A result on its way into the database.
#[derive(Debug)]
pub(crate) struct Submission {
    /// The claim and its outcome.
    pub(crate) job: CompletedJob,
    /// Where to acknowledge it.
    pub(crate) acknowledge: mpsc::UnboundedSender<Acknowledgement>,
}

/// Whether the database accepts writes. Tasks that send requests stop while it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StorageState {
    /// The database accepts writes.
    Available,
    /// The database does not accept writes.
    Unavailable(StorageProblem),
}

/// Why the database does not accept writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageProblem {
    /// Who has to act.
    pub(crate) fault: DbFault,
    /// The error message.
    pub(crate) reason: String,
    /// What an operator can do, if that is known.
    pub(crate) hint: Option<String>,
}

impl From<&DbError> for StorageProblem {
    fn from(error: &DbError) -> StorageProblem {
        StorageProblem { fault: error.fault(), reason: error.to_string(), hint: error.hint().map(str::to_owned) }
    }
}

/// The sending half: accepts results. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BatchWriter {
    queue: mpsc::Sender<Submission>,
    storage: watch::Receiver<StorageState>,
}

/// The receiving half: a task, driven by [`BatchWriterTask::run`].
#[derive(Debug)]
pub(crate) struct BatchWriterTask {
    db: Db,
    queue: mpsc::Receiver<Submission>,
    storage: watch::Sender<StorageState>,
    stored: watch::Sender<u64>,
    gave_up: CancellationToken,
}

impl BatchWriter {
    /// Creates both halves. `gave_up` ends the wait for an unavailable database when the process
    /// has to exit; results that are not written by then are fetched again by the next process.
    /// `stored` counts the written results.
    pub(crate) fn new(
        db: Db,
        stored: watch::Sender<u64>,
        gave_up: CancellationToken,
    ) -> (BatchWriter, BatchWriterTask) {
        let (sender, receiver) = mpsc::channel(MAX_BATCH_RESULTS * 4);
        let (storage, watched) = watch::channel(StorageState::Available);
        (
            BatchWriter { queue: sender, storage: watched },
            BatchWriterTask { db, queue: receiver, storage, stored, gave_up },
        )
    }

    /// Submits a result. Waits while the queue is full.
    pub(crate) async fn submit(&self, submission: Submission) {
        // The task outlives the workers. If it is gone, the process is exiting, and the item is
        // claimed anew later.
        let _ = self.queue.send(submission).await;
    }

    /// Whether the database accepts writes.
    pub(crate) fn subscribe_storage(&self) -> watch::Receiver<StorageState> {
        self.storage.clone()
    }
}

/// The results of one transaction, and where to acknowledge each.
type TransactionBatch = (Vec<CompletedJob>, Vec<mpsc::UnboundedSender<Acknowledgement>>);

/// Splits a batch into transactions by size. The first transaction is the last element.
fn split_into_transactions(batch: Vec<Submission>) -> Vec<TransactionBatch> {
    let mut transactions: Vec<TransactionBatch> = Vec::new();
    let mut bytes = 0;
    for Submission { job, acknowledge } in batch {
        bytes += job.outcome.stored_bytes();
        match transactions.last_mut().filter(|_| bytes <= MAX_BATCH_BYTES) {
            Some((jobs, acknowledge_to)) => {
                jobs.push(job);
                acknowledge_to.push(acknowledge);
            }
            None => {
                bytes = job.outcome.stored_bytes();
                transactions.push((vec![job], vec![acknowledge]));
            }
        }
    }
    transactions.reverse();
    transactions
}

impl BatchWriterTask {
    /// Runs until all senders are dropped and everything is written.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(MAX_BATCH_RESULTS);
        while self.queue.recv_many(&mut batch, MAX_BATCH_RESULTS).await > 0 {
            if batch.len() < MAX_BATCH_RESULTS {
                tokio::time::sleep(BATCH_LINGER).await;
                while batch.len() < MAX_BATCH_RESULTS {
                    let Ok(next) = self.queue.try_recv() else { break };
                    batch.push(next);
                }
            }
            self.write(std::mem::take(&mut batch)).await;
        }
    }

    async fn write(&self, batch: Vec<Submission>) {
        let mut transactions = split_into_transactions(batch);
        while let Some((jobs, acknowledge_to)) = transactions.pop() {
            match self.write_with_retry(&jobs).await {
                Ok(accepted) => {
                    self.stored.send_modify(|stored| *stored += accepted.len() as u64);
                    for ((job, acknowledge), accepted) in jobs.iter().zip(acknowledge_to).zip(accepted) {
                        let _ = acknowledge.send((job.claim.item, accepted));
                    }
                }
                // The database rejects one of the results: find it by halving, and store the
                // others.
                Err(error) if jobs.len() > 1 => {
                    tracing::warn!(items = jobs.len(), %error, hint = error.hint(), "the database rejected a batch; retrying it in halves");
                    let (mut jobs, mut acknowledge_to) = (jobs, acknowledge_to);
                    let half = jobs.len() / 2;
                    transactions.push((jobs.split_off(half), acknowledge_to.split_off(half)));
                    transactions.push((jobs, acknowledge_to));
                }
                Err(error) => {
                    for (job, acknowledge) in jobs.iter().zip(acknowledge_to) {
                        tracing::error!(item = job.claim.item.0, %error, hint = error.hint(), "failed to store a result; it will be fetched again");
                        let _ = acknowledge.send((job.claim.item, false));
                    }
                }
            }
        }
    }

    /// Writes one transaction. Retries for as long as the error is transient.
    async fn write_with_retry(&self, jobs: &[CompletedJob]) -> Result<Vec<bool>, DbError> {
        let mut interval = MIN_RETRY_INTERVAL;
        loop {
            match self.db.complete_jobs(jobs).await {
                Err(error) if error.is_transient() && !self.gave_up.is_cancelled() => {
                    self.report_storage(StorageState::Unavailable(StorageProblem::from(&error)));
                    tokio::select! {
                        () = tokio::time::sleep(interval) => interval = (interval * 2).min(MAX_RETRY_INTERVAL),
                        () = self.gave_up.cancelled() => {}
                    }
                }
                result => {
                    if result.is_ok() {
                        self.report_storage(StorageState::Available);
                    }
                    return result;
                }
            }
        }
    }

    fn report_storage(&self, now: StorageState) {
        self.storage.send_if_modified(|held| {
            if *held == now {
                return false;
            }
            match (&*held, &now) {
                (StorageState::Available, StorageState::Unavailable(problem)) => {
                    tracing::error!(reason = %problem.reason, hint = problem.hint, "the database does not accept results; fetching stops until it does");
                }
                (StorageState::Unavailable(_), StorageState::Available) => tracing::info!("the database accepts results again"),
                _ => {}
            }
            *held = now;
            true
        });
    }
}
