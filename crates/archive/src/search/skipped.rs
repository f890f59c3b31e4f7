//! Documents that could not be worked on: known by name, and not in the index until a newer version of them is.

use super::super::{Arg, BULK, Db, DbError, Row, Stmt, Tx, sql};
use super::batch::{IndexBatch, SkippedDocument};

fn skipped(row: &Row) -> Result<SkippedDocument, DbError> {
    Ok(SkippedDocument { account: row.int(0)?, item: row.int(1)?, reason: row.text(2)? })
}

impl Tx {
    /// Notes these, and forgets those that are in the index now.
    pub(super) async fn put_skipped(
        &mut self,
        skipped: &[SkippedDocument],
        indexed: impl Iterator<Item = i64>,
    ) -> Result<(), DbError> {
        self.forget_skipped(indexed).await?;
        let rows = skipped.iter().map(|one| vec![one.item.into(), one.account.into(), Arg::from(one.reason.as_str())]);
        let tail = " on conflict (item) do update set reason = excluded.reason";
        self.run_rows("insert into search_skipped (item, account, reason) values ", rows.collect(), tail)
            .await
            .map(drop)
    }

    /// Forgets these, where there are any.
    pub(super) async fn forget_skipped(&mut self, items: impl Iterator<Item = i64>) -> Result<(), DbError> {
        if self.first(sql("select item from search_skipped limit 1")).await?.is_none() {
            return Ok(());
        }
        for part in items.collect::<Vec<_>>().chunks(BULK) {
            let head = "delete from search_skipped where item in ";
            self.run(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await?;
        }
        Ok(())
    }
}

impl Db {
    /// How many documents were set aside, and the first of them with its segment's id.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn skipped_documents(&self) -> Result<Option<(u64, SkippedDocument, String)>, DbError> {
        let stmt = sql("select k.account, k.item, k.reason, s.segment_id, (select count(*) from search_skipped)
             from search_skipped k join segment s on s.id = k.item / 4 order by k.item limit 1");
        let Some(row) = self.first(stmt).await? else { return Ok(None) };
        Ok(Some((row.count(4)?, skipped(&row)?, row.text(3)?)))
    }

    /// What a batch covers, as documents that were set aside: asked for without reading any of their texts.
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
            batch.todos.iter().map(|todo| of(todo.account, todo.segment * 4 + 3)).collect();
        for slice in &batch.slices {
            let stmt = sql("select item from artifact where account = $1 and feed > $2 and feed <= $3");
            let stmt = stmt.bind(slice.owned.account).bind(slice.after).bind(slice.to);
            for row in self.all(stmt).await? {
                found.push(of(slice.owned.account, row.int(0)?));
            }
        }
        Ok(found)
    }
}
