//! The schema and its migrations, applied when a database is opened.

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{Db, DbError, OpenMode, SqlitePools, retry_on_busy, sql};

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

/// The newest of the earlier migrations that were merged into the first one of today.
const LAST_MERGED: i64 = 25;

/// Key in `meta` that records that the upgrade behind the merged migrations is complete.
const MERGED_UPGRADE_KEY: &str = "records.sealed";

impl Db {
    /// Checks the version of the schema and, unless `mode` forbids it, brings it up to date.
    ///
    /// # Errors
    /// If the schema is too new, or too old, or a migration fails, which is rolled back.
    pub(crate) async fn prepare_schema(&self, mode: OpenMode) -> Result<(), DbError> {
        let newest = self.known_migrations().max().unwrap_or(0);
        match self.applied_migrations().await?.into_iter().max().unwrap_or(0) {
            held if held > newest => Err(DbError::schema_too_new(held, newest)),
            held if (1..LAST_MERGED).contains(&held) => Err(DbError::schema_before_merge(held)),
            held if held < newest && mode == OpenMode::Existing => Err(DbError::schema_too_old(held, newest)),
            _ if mode == OpenMode::Existing => Ok(()),
            LAST_MERGED => {
                self.adopt_merged_migrations().await?;
                self.migrate().await
            }
            _ => self.migrate().await,
        }
    }

    /// Replaces the records of the merged migrations by the one that they were merged into: the
    /// schema is the same.
    async fn adopt_merged_migrations(&self) -> Result<(), DbError> {
        let Some(merged) = self.migrator().iter().next() else { return Ok(()) };
        let mut tx = self.begin().await?;
        tx.advisory_lock("migrations").await?;
        if tx.meta(MERGED_UPGRADE_KEY).await?.is_none() {
            return Err(DbError::schema_before_merge(LAST_MERGED));
        }
        // Another replica may do the same.
        let stmt = sql("insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values ($1, $2, true, $3, 0) on conflict (version) do nothing");
        tx.run(stmt.bind(merged.version).bind(&*merged.description).bind(&*merged.checksum)).await?;
        tx.run(sql("delete from _sqlx_migrations where version <= $1").bind(LAST_MERGED)).await?;
        tx.commit().await
    }

    async fn migrate(&self) -> Result<(), DbError> {
        match self {
            Db::Sqlite(pools) => self.migrate_sqlite(pools).await,
            Db::Postgres(pools) => {
                // On a connection without a statement time-out.
                let options = PgConnectOptions::clone(&pools.pool.connect_options());
                let untimed = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
                let migrated = POSTGRES.run(&untimed).await;
                untimed.close().await;
                Ok(migrated?)
            }
        }
    }

    /// SQLite has no lock that prevents two processes from migrating a new file at once, as
    /// Postgres has. The slower one finds the file locked, or fails at a migration that the other
    /// has just applied. It then continues after that one.
    async fn migrate_sqlite(&self, pools: &SqlitePools) -> Result<(), DbError> {
        let mut applied = self.applied_migrations().await?.len();
        loop {
            let migrated = retry_on_busy(|| async { Ok(SQLITE.run(&pools.writer).await?) }).await;
            let Err(error) = migrated else { return Ok(()) };
            let count = self.applied_migrations().await?.len();
            if count <= applied {
                return Err(error);
            }
            applied = count;
        }
    }

    fn migrator(&self) -> &'static Migrator {
        match self {
            Db::Sqlite(_) => &SQLITE,
            Db::Postgres(_) => &POSTGRES,
        }
    }

    pub(crate) fn known_migrations(&self) -> impl Iterator<Item = i64> {
        self.migrator().iter().map(|migration| migration.version)
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, DbError> {
        if !self.has_table("_sqlx_migrations").await? {
            return Ok(Vec::new());
        }
        self.values(sql("select version from _sqlx_migrations where success")).await
    }
}
