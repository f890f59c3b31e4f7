//! The database's own integrity check of its files.

use super::super::{Db, DbError, sql};

/// Maximum number of faults that are reported.
const MAX_FAULTS_REPORTED: usize = 100;

/// The result of the integrity check.
#[derive(Debug, Clone, Default)]
pub struct IntegrityReport {
    /// The check that ran; `None` if none is available.
    pub checked_by: Option<&'static str>,
    /// The faults found.
    pub faults: Vec<String>,
}

/// Key in the table `meta`: what the last verification of the whole archive found, as JSON.
const LAST_VERIFICATION_META: &str = "verify.last";

impl Db {
    /// What the last verification of the whole archive found, as it was recorded.
    pub async fn last_verification(&self) -> Result<Option<String>, DbError> {
        self.meta(LAST_VERIFICATION_META).await
    }

    /// Records what a verification found.
    pub async fn record_verification(&self, note: &str) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.put_meta(LAST_VERIFICATION_META, note).await?;
        tx.commit().await
    }

    /// Checks the database files: SQLite by `integrity_check`, Postgres by the extension `amcheck`
    /// if it is installed and permitted.
    ///
    /// # Errors
    /// If the database cannot be queried. Damage is reported as faults, not as an error.
    pub async fn check_integrity(&self) -> Result<IntegrityReport, DbError> {
        match self {
            Db::Sqlite(_) => self.sqlite_integrity().await,
            Db::Postgres(_) => self.postgres_integrity().await,
        }
    }

    async fn sqlite_integrity(&self) -> Result<IntegrityReport, DbError> {
        let mut faults = match self.values::<String>(sql("pragma integrity_check(100)")).await {
            Ok(faults) => faults,
            Err(error) => vec![error.to_string()],
        };
        faults.retain(|fault| fault != "ok");
        Ok(IntegrityReport { checked_by: Some("integrity_check"), faults })
    }

    async fn postgres_integrity(&self) -> Result<IntegrityReport, DbError> {
        let stmt = sql("select count(*) from pg_proc where proname = 'verify_heapam' and has_function_privilege(oid, 'execute')
             and exists (select 1 from pg_proc b where b.proname = 'bt_index_check' and has_function_privilege(b.oid, 'execute'))");
        if self.count(stmt).await? == 0 {
            return Ok(IntegrityReport::default());
        }
        let stmt = sql("select cast(c.relname as text), cast(c.relkind as text) from pg_class c join pg_namespace n on n.oid = c.relnamespace
             left join pg_index i on i.indexrelid = c.oid left join pg_am m on m.oid = c.relam
             where n.nspname = current_schema() and (c.relkind = 'r' or c.relkind = 'i' and m.amname = 'btree' and i.indisvalid)
             order by 1");
        let mut faults = Vec::new();
        for (name, kind) in self.all::<(String, String)>(stmt).await? {
            let index = kind == "i";
            let stmt = if index {
                sql("select cast(bt_index_check(cast(quote_ident($1) as regclass), true) as text)")
            } else {
                sql("select cast(msg as text) from verify_heapam(cast(quote_ident($1) as regclass)) limit 10")
            };
            match self.values::<Option<String>>(stmt.bind(&name)).await {
                Ok(found) if !index => faults.extend(found.iter().flatten().map(|fault| format!("{name}: {fault}"))),
                Ok(_) => {}
                Err(error) => faults.push(format!("{name}: {error}")),
            }
            faults.truncate(MAX_FAULTS_REPORTED);
        }
        Ok(IntegrityReport { checked_by: Some("amcheck"), faults })
    }
}
