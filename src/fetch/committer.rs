//! Gathers what the workers settle and writes it in few, large transactions.
//!
//! A worker's result is durable when its acknowledgement comes. While the database is away or the disk is full, results
//! wait here and the channel in front of it fills, which stops the workers: nothing is fetched that could not be
//! stored, and nothing that was fetched is lost.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::db::{Db, DbError, Item, Settled};

/// How many results one transaction holds at the most.
const BATCH: usize = 500;
/// How many bytes of bodies, as they are stored, one transaction holds at the most; a larger one is written alone.
const BATCH_BYTES: usize = 8_000_000;
/// How long the first result of a batch waits for others.
const LINGER: Duration = Duration::from_millis(4);
/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_millis(200);
const PATIENCE_MOST: Duration = Duration::from_secs(5);

/// What a worker hears of its result: the item, and whether it counted.
pub type Acknowledgement = (Item, bool);

/// A result on its way into the database.
#[derive(Debug)]
pub struct Submission {
    /// The claim and what became of it.
    pub settled: Settled,
    /// Where to say that it is durable.
    pub done: mpsc::UnboundedSender<Acknowledgement>,
}

/// Whether the database takes what it is given, for all who should stop asking the API if it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// It does.
    Ok,
    /// It does not, and why.
    Away(String),
}

/// Where results go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {
    queue: mpsc::Sender<Submission>,
    storage: watch::Receiver<Storage>,
}

/// The other end, to be driven by [`Writer::run`].
#[derive(Debug)]
pub struct Writer {
    db: Db,
    queue: mpsc::Receiver<Submission>,
    storage: watch::Sender<Storage>,
    stored: watch::Sender<u64>,
    gave_up: CancellationToken,
}

impl Committer {
    /// A committer and the writer behind it. `gave_up` ends a wait for a database that is away, when the process has
    /// to end; what was not written then is fetched again by the next one. `stored` counts what was written, for those
    /// who follow the archive.
    pub fn new(db: Db, stored: watch::Sender<u64>, gave_up: CancellationToken) -> (Committer, Writer) {
        let (sender, receiver) = mpsc::channel(BATCH * 4);
        let (storage, watched) = watch::channel(Storage::Ok);
        (Committer { queue: sender, storage: watched }, Writer { db, queue: receiver, storage, stored, gave_up })
    }

    /// Hands a result over; waits while too many others wait.
    pub async fn submit(&self, submission: Submission) {
        // The writer outlives the workers; if it is gone, the process is ending and the claim dies with it.
        let _ = self.queue.send(submission).await;
    }

    /// Whether the database takes what it is given.
    pub fn storage(&self) -> watch::Receiver<Storage> {
        self.storage.clone()
    }
}

/// Results, and where to say of each that it is durable.
type Part = (Vec<Settled>, Vec<mpsc::UnboundedSender<Acknowledgement>>);

/// A batch cut up into transactions by bytes, the first last.
fn parts(batch: Vec<Submission>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut bytes = 0;
    for Submission { settled, done } in batch {
        bytes += settled.settlement.stored_bytes();
        match parts.last_mut().filter(|_| bytes <= BATCH_BYTES) {
            Some(part) => {
                part.0.push(settled);
                part.1.push(done);
            }
            None => {
                bytes = settled.settlement.stored_bytes();
                parts.push((vec![settled], vec![done]));
            }
        }
    }
    parts.reverse();
    parts
}

impl Writer {
    /// Writes until all committers are gone and everything is written.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            if batch.len() < BATCH {
                tokio::time::sleep(LINGER).await;
                while batch.len() < BATCH {
                    let Ok(next) = self.queue.try_recv() else { break };
                    batch.push(next);
                }
            }
            self.write(std::mem::take(&mut batch)).await;
        }
    }

    async fn write(&self, batch: Vec<Submission>) {
        let mut parts = parts(batch);
        while let Some((settled, done)) = parts.pop() {
            match self.persist(&settled).await {
                Ok(counted) => {
                    self.stored.send_modify(|stored| *stored += counted.len() as u64);
                    for ((settled, done), counted) in settled.iter().zip(done).zip(counted) {
                        let _ = done.send((settled.claim.item, counted));
                    }
                }
                // Something about one of them is unacceptable to the database: find out which, save the others.
                Err(error) if settled.len() > 1 => {
                    tracing::warn!(items = settled.len(), %error, "a batch was refused by the database; trying its halves");
                    let (mut settled, mut done) = (settled, done);
                    let half = settled.len() / 2;
                    parts.push((settled.split_off(half), done.split_off(half)));
                    parts.push((settled, done));
                }
                Err(error) => {
                    for (settled, done) in settled.iter().zip(done) {
                        tracing::error!(item = settled.claim.item.0, %error, "failed to store a result; it will be fetched again");
                        let _ = done.send((settled.claim.item, false));
                    }
                }
            }
        }
    }

    /// Writes, for as long as it takes where waiting helps.
    async fn persist(&self, settled: &[Settled]) -> Result<Vec<bool>, DbError> {
        let mut patience = PATIENCE;
        loop {
            match self.db.settle(settled).await {
                Err(error) if error.is_passing() && !self.gave_up.is_cancelled() => {
                    self.report(Storage::Away(error.to_string()));
                    tokio::select! {
                        () = tokio::time::sleep(patience) => patience = (patience * 2).min(PATIENCE_MOST),
                        () = self.gave_up.cancelled() => {}
                    }
                }
                result => {
                    if result.is_ok() {
                        self.report(Storage::Ok);
                    }
                    return result;
                }
            }
        }
    }

    fn report(&self, now: Storage) {
        self.storage.send_if_modified(|held| {
            if *held == now {
                return false;
            }
            match (&*held, &now) {
                (Storage::Ok, Storage::Away(why)) => {
                    tracing::error!(reason = %why, "the database does not take results; fetching stops until it does");
                }
                (Storage::Away(_), Storage::Ok) => tracing::info!("the database takes results again"),
                _ => {}
            }
            *held = now;
            true
        });
    }
}
