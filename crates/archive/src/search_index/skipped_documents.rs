//! Documents that could not be indexed. They are recorded until a newer version is indexed.

use super::super::sql::count;
use super::super::{AccountKey, Arg, Db, DbError, Stmt, Tx, sql};
use super::index_batch::SkippedDocument;

impl Tx {
    /// Stores these, and deletes the records of documents that are indexed now.
    pub(super) async fn store_skipped(
        &mut self,
        skipped: &[SkippedDocument],
        indexed: impl Iterator<Item = i64>,
    ) -> Result<(), DbError> {
        self.delete_skipped(indexed).await?;
        let rows = skipped.iter().map(|one| vec![one.item.into(), one.account.into(), Arg::from(one.reason.as_str())]);
        let tail = " on conflict (item) do update set reason = excluded.reason";
        let head = "insert into search_skipped (item, account, reason) values ";
        self.run(Stmt::rows(head, rows.collect(), tail)).await.map(drop)
    }

    /// Deletes the records of these items, where there are any.
    pub(super) async fn delete_skipped(&mut self, items: impl Iterator<Item = i64>) -> Result<(), DbError> {
        if self.value::<i64>(sql("select item from search_skipped limit 1")).await?.is_none() {
            return Ok(());
        }
        self.run(Stmt::list("delete from search_skipped where item in ", Vec::new(), items, "")).await.map(drop)
    }
}

impl Db {
    /// How many documents were skipped, and the first of them with its segment's id.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn skipped_documents(&self) -> Result<Option<(u64, SkippedDocument, String)>, DbError> {
        let stmt = sql("select k.account, k.item, k.reason, s.segment_id, (select count(*) from search_skipped)
             from search_skipped k join segment s on s.id = k.item / 4 order by k.item limit 1");
        let first: Option<(AccountKey, i64, String, String, i64)> = self.first(stmt).await?;
        Ok(first.map(|(account, item, reason, segment_id, many)| {
            (count(many), SkippedDocument { account, item, reason }, segment_id)
        }))
    }
}
