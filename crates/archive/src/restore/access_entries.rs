//! Continues the access log of a restored copy, so that it stays known who read what.

use super::super::{Arg, DbError, Stmt, Tx, sql};
use super::apply_state::diverged;
use super::carried_state::{CarriedAccessEntry, CarriedState};

impl Tx {
    /// Continues the access log of the copy by the entries made since, and blanks and removes what was
    /// blanked and removed since. The log of the archive then is as it was.
    pub(super) async fn adopt_access_log(&mut self, state: &CarriedState) -> Result<(), DbError> {
        let Some(chain) = &state.access_chain else { return Ok(()) };
        let stmt = sql("select newest, removed from access_chain");
        let (newest, removed): (i64, i64) = self.first(stmt).await?.unwrap_or_default();
        if chain.newest < newest {
            return Ok(());
        }
        let stmt = sql("select subject_hash from access_log where id = $1").bind(newest);
        let last: Option<Vec<u8>> = self.value(stmt).await?;
        let carried = state.access_log.iter().find(|entry| entry.id == newest);
        if let (Some(last), Some(carried)) = (last, carried)
            && last != carried.subject_hash.0
        {
            return Err(diverged());
        }
        for entry in state.access_log.iter().filter(|entry| entry.id <= newest && entry.erased_by.is_some()) {
            let stmt =
                sql("update access_log set subject = null, erased_by = $2 where id = $1 and subject is not null");
            self.run(stmt.bind(entry.id).bind(entry.erased_by)).await?;
        }
        let row = |entry: &CarriedAccessEntry| -> Vec<Arg> {
            vec![
                entry.id.into(),
                entry.at.into(),
                Arg::from(&entry.reader_kind),
                Arg::from(&entry.reader),
                Arg::from(&entry.origin),
                Arg::from(&entry.action),
                entry.sub.clone().into(),
                Arg::from(&entry.subject_kind),
                entry.subject.clone().into(),
                entry.subject_hash.0.clone().into(),
                entry.hits.into(),
                entry.erased_by.into(),
            ]
        };
        let rows = state.access_log.iter().filter(|entry| entry.id > newest).map(row).collect();
        let head = "insert into access_log (id, at, reader_kind, reader, origin, action, sub, subject_kind, subject, subject_hash, hits, erased_by) values ";
        self.run(Stmt::rows(head, rows, "")).await?;
        let stmt = sql("insert into access_chain (id, newest, head, removed, removed_head) values (1, $1, $2, $3, $4)
             on conflict (id) do update set newest = excluded.newest, head = excluded.head, removed = excluded.removed,
             removed_head = excluded.removed_head");
        let stmt = stmt.bind(chain.newest).bind(chain.head.0.clone()).bind(chain.removed.max(removed));
        self.run(stmt.bind(chain.removed_head.0.clone())).await?;
        self.run(sql("delete from access_log where id <= $1").bind(chain.removed)).await.map(drop)
    }
}
