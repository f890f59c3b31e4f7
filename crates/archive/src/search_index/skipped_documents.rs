//! Documents that could not be indexed. They are recorded until a newer version is indexed.

use super::super::{Arg, Db, DbError, MAX_ROWS_PER_STATEMENT, Row, Stmt, Tx, sql};
use super::index_batch::{IndexBatch, SkippedDocument};

fn skipped_from_row(row: &Row) -> Result<SkippedDocument, DbError> {
    Ok(SkippedDocument { account: row.int(0)?, item: row.int(1)?, reason: row.text(2)? })
}

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
        self.run_rows("insert into search_skipped (item, account, reason) values ", rows.collect(), tail)
            .await
            .map(drop)
    }

    /// Deletes the records of these items, where there are any.
    pub(super) async fn delete_skipped(&mut self, items: impl Iterator<Item = i64>) -> Result<(), DbError> {
        if self.first(sql("select item from search_skipped limit 1")).await?.is_none() {
            return Ok(());
        }
        for part in items.collect::<Vec<_>>().chunks(MAX_ROWS_PER_STATEMENT) {
            let head = "delete from search_skipped where item in ";
            self.run(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await?;
        }
        Ok(())
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
        let Some(row) = self.first(stmt).await? else { return Ok(None) };
        Ok(Some((row.count(4)?, skipped_from_row(&row)?, row.text(3)?)))
    }

    /// All documents of a batch as skipped documents, without reading their texts.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn unreadable_documents(
        &self,
        batch: &IndexBatch,
        reason: &str,
    ) -> Result<Vec<SkippedDocument>, DbError> {
        let of = |account, item| SkippedDocument { account, item, reason: reason.to_owned() };
        let mut found: Vec<SkippedDocument> =
            batch.reindex_tasks.iter().map(|task| of(task.account, task.segment * 4 + 3)).collect();
        for slice in &batch.slices {
            let stmt = sql("select item from artifact where account = $1 and feed > $2 and feed <= $3");
            let stmt = stmt.bind(slice.lease.account).bind(slice.after).bind(slice.to);
            for row in self.all(stmt).await? {
                found.push(of(slice.lease.account, row.int(0)?));
            }
        }
        Ok(found)
    }
}
