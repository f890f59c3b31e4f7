//! Appends to record chains: each row is numbered and linked in the transaction that writes it.
//!
//! A writer locks the account first, then its row of `record_chain`, and holds both until the
//! transaction ends.

use super::super::{AccountKey, DbError, Stmt, Tx, sql};
use crate::hash_chain::{GENESIS_HASH, Hash, hash_coverage, link};

/// The account key of the archive's own chain, the journal.
pub(crate) const JOURNAL: AccountKey = AccountKey(0);

/// A locked record chain. It is updated with each appended leaf.
pub(crate) struct RecordChain {
    account: AccountKey,
    sub: String,
    newest: i64,
    head: Vec<u8>,
    reads: i64,
    reads_head: Vec<u8>,
}

impl RecordChain {
    /// Appends the leaf that `leaf` makes of the next number and the sub-account's id. Returns
    /// number and leaf.
    pub(crate) fn append(&mut self, leaf: impl FnOnce(i64, &str) -> Hash) -> (i64, Hash) {
        self.newest += 1;
        let leaf = leaf(self.newest, &self.sub);
        self.head = link(&self.head, &leaf).to_vec();
        (self.newest, leaf)
    }

    /// Appends a window read. Returns the head before it.
    pub(crate) fn append_read(&mut self, nth: i64, leaf: impl FnOnce(&str) -> Hash) -> Vec<u8> {
        self.reads = nth;
        let head = link(&self.reads_head, &leaf(&self.sub)).to_vec();
        std::mem::replace(&mut self.reads_head, head)
    }
}

impl Tx {
    /// Reads and locks an account's record chain until the transaction ends.
    pub(crate) async fn record_chain(&mut self, account: AccountKey) -> Result<RecordChain, DbError> {
        let sub = self.value(sql("select sub from account where id = $1").bind(account)).await?.unwrap_or_default();
        let stmt = sql("insert into record_chain (account, newest, head, taken_over, reads, reads_head)
             values ($1, 0, $2, 0, 0, $2) on conflict (account) do update set newest = record_chain.newest
             returning newest, head, reads, reads_head");
        let chain: Option<(i64, Vec<u8>, i64, Vec<u8>)> = self.first(stmt.bind(account).bind(GENESIS_HASH)).await?;
        let (newest, head, reads, reads_head) = chain.ok_or_else(|| DbError::lease_lost(account))?;
        Ok(RecordChain { account, sub, newest, head, reads, reads_head })
    }

    /// The newest number and the head of a record chain.
    pub(crate) async fn record_head(&mut self, account: AccountKey) -> Result<(i64, Vec<u8>), DbError> {
        let head = self.first(sql("select newest, head from record_chain where account = $1").bind(account)).await?;
        Ok(head.unwrap_or((0, GENESIS_HASH.to_vec())))
    }

    /// Stores the chain's new state.
    pub(crate) async fn save_record_chain(&mut self, chain: RecordChain) -> Result<(), DbError> {
        let stmt =
            sql("update record_chain set newest = $2, head = $3, reads = $4, reads_head = $5 where account = $1");
        let stmt = stmt.bind(chain.account).bind(chain.newest).bind(chain.head);
        self.run(stmt.bind(chain.reads).bind(chain.reads_head)).await.map(drop)
    }

    /// Keeps the leaves of metadata versions that are about to be replaced and do not go into the
    /// history.
    pub(crate) async fn keep_replaced_leaves(&mut self, segments: &[i64]) -> Result<(), DbError> {
        self.keep_leaves(
            segments,
            "insert into erased_record (account, record, leaf) select s.account, s.record, s.leaf from segment s
             where s.record is not null and s.leaf is not null and not exists
             (select 1 from segment_version v where v.account = s.account and v.record = s.record) and s.id in ",
        )
        .await
    }

    /// Keeps the leaves of these segments' metadata and history, before the segments are erased.
    /// They keep the chain verifiable.
    pub(crate) async fn keep_erased_leaves(&mut self, segments: &[i64]) -> Result<(), DbError> {
        for head in [
            "insert into erased_record (account, record, leaf) select account, record, leaf from segment
             where record is not null and leaf is not null and id in ",
            "insert into erased_record (account, record, leaf) select account, record, leaf from segment_version
             where account is not null and record is not null and leaf is not null and segment in ",
        ] {
            self.keep_leaves(segments, head).await?;
        }
        Ok(())
    }

    async fn keep_leaves(&mut self, segments: &[i64], head: &str) -> Result<(), DbError> {
        let tail = " on conflict (account, record) do nothing";
        self.run(Stmt::list(head, Vec::new(), segments.iter().copied(), tail)).await.map(drop)
    }

    /// A hash of the account's coverage.
    pub async fn coverage_digest(&mut self, account: AccountKey) -> Result<Hash, DbError> {
        let stmt = sql("select pass, from_ms, to_ms, reads, first_read, last_read from coverage where account = $1");
        let rows: Vec<(String, i64, i64, i64, i64, i64)> = self.all(stmt.bind(account)).await?;
        let mut rows: Vec<(String, [i64; 5])> =
            rows.into_iter().map(|(purpose, a, b, c, d, e)| (purpose, [a, b, c, d, e])).collect();
        Ok(hash_coverage(&mut rows))
    }
}
