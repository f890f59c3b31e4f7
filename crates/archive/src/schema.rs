//! The schema and its migrations, applied when a database is opened.

use sqlx::ConnectOptions as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{Db, DbError, OpenMode, PgPools, SqlitePools, retry_on_busy, sql};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// The earlier migrations, which were merged into the first one of today.
static MERGED_SQLITE: Migrator = sqlx::migrate!("migrations/until_25/sqlite");
static MERGED_POSTGRES: Migrator = sqlx::migrate!("migrations/until_25/postgres");

/// The newest of them.
const LAST_MERGED: i64 = 25;

/// The first migration after which table `meta` says which programs may write.
const FIRST_MARKED_MIGRATION: i64 = 30;

impl Db {
    /// Checks the version of the schema and, unless `mode` forbids it, brings it up to date.
    ///
    /// # Errors
    /// If the schema is too new, or a migration fails, which is rolled back.
    pub(crate) async fn prepare_schema(&self, mode: OpenMode) -> Result<(), DbError> {
        if mode == OpenMode::AnyVersion {
            return Ok(());
        }
        if let Some(required) = self.required_migration().await? {
            return Err(DbError::schema_too_new(required, self.newest_known_migration()));
        }
        let newest = self.newest_known_migration();
        match self.newest_applied_migration().await? {
            held if held < newest && mode != OpenMode::CreateOrMigrate => Err(DbError::schema_too_old(held, newest)),
            held if held >= newest || mode != OpenMode::CreateOrMigrate => Ok(()),
            held => {
                if (1..=LAST_MERGED).contains(&held)
                    && let Err(error) = self.upgrade_merged_schema().await
                    // Another process may have completed it in the meantime.
                    && self.newest_applied_migration().await? <= LAST_MERGED
                {
                    return Err(error);
                }
                self.migrate().await?;
                self.create_archive_key().await;
                Ok(())
            }
        }
    }

    /// The migration that a program must know to write to this database, if this program does not
    /// know it. A newer migration does not count if it is marked as one that only added something.
    pub(crate) async fn required_migration(&self) -> Result<Option<i64>, DbError> {
        let newest = self.newest_known_migration();
        let applied = self.newest_applied_migration().await?;
        let (mut oldest_writer, mut newest_marked) = (0, 0);
        if applied >= FIRST_MARKED_MIGRATION {
            let stmt = sql("select key, value from meta where key in ('schema.oldest_writer', 'schema.newest_marked')");
            for (key, value) in self.all_unchecked::<(String, String)>(stmt).await? {
                let number = value
                    .parse::<i64>()
                    .map_err(|_| DbError::inconsistent(&format!("meta.value of {key}"), 0, value))?;
                *(if key == "schema.oldest_writer" { &mut oldest_writer } else { &mut newest_marked }) = number;
            }
        }
        let required = if applied > newest.max(newest_marked) { applied } else { oldest_writer };
        Ok(Some(required).filter(|required| *required > newest))
    }

    /// Creates the archive's key in a new archive, so that every copy of it has the key, and the
    /// erasures that come later can be repeated in it. Whatever needs the key creates it, too.
    async fn create_archive_key(&self) {
        if let Err(error) = self.ensure_archive_key().await {
            tracing::debug!(%error, "failed to create the archive's key; the first erasure or hold creates it");
        }
    }

    /// Upgrades a database of the migrations that were merged. Each step is complete or continues
    /// where it was interrupted.
    async fn upgrade_merged_schema(&self) -> Result<(), DbError> {
        match self {
            Db::Sqlite(pools) => {
                retry_on_busy(|| async {
                    // One transaction: two processes must not apply a migration twice.
                    let mut tx = pools.writer.begin_with("begin immediate").await?;
                    // `run` takes what lends a connection, which makes the future of `open` not `Send`.
                    MERGED_SQLITE.run_direct(None, &mut *tx, false).await?;
                    Ok(tx.commit().await?)
                })
                .await?;
            }
            Db::Postgres(pools) => run_on_postgres(&MERGED_POSTGRES, pools).await?,
        }
        self.chain_existing_rows().await?;
        self.adopt_merged_migrations().await
    }

    /// Replaces the records of the merged migrations by the one that they were merged into: the
    /// schema is the same.
    async fn adopt_merged_migrations(&self) -> Result<(), DbError> {
        let Some(merged) = self.migrator().iter().next() else { return Ok(()) };
        let mut tx = self.begin().await?;
        tx.advisory_lock("migrations").await?;
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
            Db::Postgres(pools) => run_on_postgres(&POSTGRES, pools).await,
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

    /// The newest migration of this program.
    pub(crate) fn newest_known_migration(&self) -> i64 {
        self.migrator().iter().map(|migration| migration.version).max().unwrap_or(0)
    }

    pub(crate) async fn newest_applied_migration(&self) -> Result<i64, DbError> {
        Ok(self.applied_migrations().await?.into_iter().max().unwrap_or(0))
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, DbError> {
        if !self.has_table("_sqlx_migrations").await? {
            return Ok(Vec::new());
        }
        let rows: Vec<(i64,)> = self.all_unchecked(sql("select version from _sqlx_migrations where success")).await?;
        Ok(rows.into_iter().map(|(version,)| version).collect())
    }
}

/// Runs migrations on a connection without a statement time-out, and without a warning that quotes
/// the whole schema where it takes longer than a second.
async fn run_on_postgres(migrator: &Migrator, pools: &PgPools) -> Result<(), DbError> {
    let options = PgConnectOptions::clone(&pools.pool.connect_options()).disable_statement_logging();
    let untimed = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
    let migrated = migrator.run(&untimed).await;
    untimed.close().await;
    Ok(migrated?)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn a_migration_that_takes_something_away_shuts_out_the_programs_that_would_miss_it() {
        for migrator in [&SQLITE, &POSTGRES] {
            let mut follows_unmarked = false;
            for migration in migrator.iter().filter(|migration| migration.version > FIRST_MARKED_MIGRATION) {
                let text = migration.sql.as_str().to_ascii_lowercase();
                let (version, name) = (migration.version, &migration.description);
                let sets = |key: &str| text.contains(&format!("set value = '{version}' where key = '{key}'"));
                let takes_away = |statement: &str| {
                    let requires = ["alter table", "not null"].iter().all(|word| statement.contains(word));
                    // A wider check in its place takes nothing away; a key that is dropped does.
                    let is_check =
                        |rest: &str| rest.split_whitespace().next().is_some_and(|name| name.ends_with("_check"));
                    let statement = match statement.split_once("drop constraint") {
                        Some((before, rest)) if is_check(rest) => format!("{before}{rest}"),
                        _ => statement.to_owned(),
                    };
                    let removes =
                        ["drop ", "rename ", "alter column", "delete from"].iter().any(|word| statement.contains(word));
                    removes || (requires && !statement.contains("default"))
                };
                let is_marked = sets("schema.newest_marked");
                if text.split(';').any(takes_away) || (is_marked && follows_unmarked) {
                    assert!(
                        sets("schema.oldest_writer"),
                        "{version} {name} must set schema.oldest_writer: see CONTRIBUTING.md"
                    );
                }
                if sets("schema.oldest_writer") {
                    assert!(is_marked, "{version} {name} must set schema.newest_marked, too");
                }
                follows_unmarked = !is_marked;
            }
        }
    }

    #[test]
    fn the_merged_migrations_are_those_whose_checksums_archives_hold() {
        let digest = |migrator: &Migrator| {
            let checksums = migrator.iter().fold(Sha256::new(), |all, migration| all.chain_update(&migration.checksum));
            crate::hash_chain::hex(&checksums.finalize())
        };
        assert_eq!(digest(&MERGED_SQLITE), "1b0a17ff2b7be5287988d6ba779fd2653d9d2f38c6d6af0ba3cc0ebbbee1a485");
        assert_eq!(digest(&MERGED_POSTGRES), "106c69716200b34eea09ac7bcb63ecab4dbf222e9ec382406f51ed1bfa418b9c");
    }
}
