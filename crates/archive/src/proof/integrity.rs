//! The database's own check of its files.

use super::super::{Db, DbError, sql};

/// How many faults are told.
const FAULTS: usize = 100;

/// What the database's own check found.
#[derive(Debug, Clone, Default)]
pub struct Integrity {
    /// What it was checked by; `None` where it was not.
    pub checked_by: Option<&'static str>,
    /// What is wrong.
    pub faults: Vec<String>,
}

impl Db {
    /// Has the database check its own files: SQLite by `integrity_check`, Postgres by the extension `amcheck` where that is
    /// installed and may be used.
    ///
    /// # Errors
    /// Where the database cannot be asked. That it is found damaged is no error.
    pub async fn integrity(&self) -> Result<Integrity, DbError> {
        match self {
            Db::Sqlite(_) => self.sqlite_integrity().await,
            Db::Postgres(_) => self.postgres_integrity().await,
        }
    }

    async fn sqlite_integrity(&self) -> Result<Integrity, DbError> {
        let rows = match self.all(sql("pragma integrity_check(100)")).await {
            Ok(rows) => rows,
            Err(error) => {
                return Ok(Integrity { checked_by: Some("integrity_check"), faults: vec![error.to_string()] });
            }
        };
        let mut faults = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
        faults.retain(|fault| fault != "ok");
        Ok(Integrity { checked_by: Some("integrity_check"), faults })
    }

    async fn postgres_integrity(&self) -> Result<Integrity, DbError> {
        let stmt = sql("select count(*) from pg_proc where proname = 'verify_heapam' and has_function_privilege(oid, 'execute')
             and exists (select 1 from pg_proc b where b.proname = 'bt_index_check' and has_function_privilege(b.oid, 'execute'))");
        if self.first(stmt).await?.map_or(Ok(0), |row| row.int(0))? == 0 {
            return Ok(Integrity::default());
        }
        let stmt = sql("select cast(c.relname as text), cast(c.relkind as text) from pg_class c join pg_namespace n on n.oid = c.relnamespace
             left join pg_index i on i.indexrelid = c.oid left join pg_am m on m.oid = c.relam
             where n.nspname = current_schema() and (c.relkind = 'r' or c.relkind = 'i' and m.amname = 'btree' and i.indisvalid)
             order by 1");
        let mut faults = Vec::new();
        for row in self.all(stmt).await? {
            let (name, index) = (row.text(0)?, row.text(1)? == "i");
            let stmt = if index {
                sql("select cast(bt_index_check(cast(quote_ident($1) as regclass), true) as text)")
            } else {
                sql("select cast(msg as text) from verify_heapam(cast(quote_ident($1) as regclass)) limit 10")
            };
            match self.all(stmt.bind(&name)).await {
                Ok(rows) => {
                    for row in rows.iter().filter(|_| !index) {
                        faults.push(format!("{name}: {}", row.text(0)?));
                    }
                }
                Err(error) => faults.push(format!("{name}: {error}")),
            }
            faults.truncate(FAULTS);
        }
        Ok(Integrity { checked_by: Some("amcheck"), faults })
    }
}
