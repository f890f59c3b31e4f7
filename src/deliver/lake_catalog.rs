//! The DuckLake catalog of a sink's tables: in the archive's database, or in another one.
//!
//! In another database, the catalog follows the archive: it is updated after the cursor was committed,
//! and before the objects of replaced files are deleted. So it never lists an object that is gone, and
//! a start after a crash brings it up to date.

use std::time::Duration;

use super::lake_writer::{LakeError, account_partition};
use crate::clock::{Tick, Time};
use crate::config::{DatabaseUrl, LakeCatalog, LakeSettings, LakeTable};
use crate::db::{AccountKey, CatalogColumn, CatalogLayout, CatalogTable, CatalogUpdate, Db, DbError, SinkKey};
use crate::export::{Table, table_columns};
use crate::sink::SinkError;
use crate::sink::object_store::{EventFile, ObjectStoreSink};

/// The longest time between two looks for snapshots that are to expire.
const MAX_EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// The catalog of a sink.
pub(super) struct CatalogClient {
    place: LakeCatalog,
    layout: CatalogLayout,
    expire_after: Duration,
    /// The open database, once the catalog is complete.
    db: Option<Db>,
    expire_at: Tick,
}

impl CatalogClient {
    /// The catalog of these settings, if they name one.
    pub(super) fn new(settings: &LakeSettings, store: &ObjectStoreSink) -> Option<CatalogClient> {
        let base = match store.folder() {
            Some(folder) => folder.display().to_string(),
            None => settings.url.clone(),
        };
        let tables = settings.tables.iter().map(|table| catalog_table(*table)).collect();
        let unused = LakeTable::ALL.into_iter().filter(|table| !settings.tables.contains(table));
        let unused = unused.map(LakeTable::name).collect();
        Some(CatalogClient {
            place: settings.catalog.clone()?,
            layout: CatalogLayout { base: format!("{}/", base.trim_end_matches('/')), tables, unused },
            expire_after: settings.expire_after,
            db: None,
            expire_at: Tick::default(),
        })
    }

    /// Opens the catalog at the first call, and creates what it lacks.
    pub(super) async fn open(&mut self, archive: &Db, now: Time) -> Result<Db, SinkError> {
        if let Some(db) = &self.db {
            return Ok(db.clone());
        }
        let opened = match &self.place {
            LakeCatalog::Archive => Ok(archive.clone()),
            LakeCatalog::Other(DatabaseUrl::Sqlite(path)) => Db::open_sqlite_catalog(path).await,
            LakeCatalog::Other(DatabaseUrl::Postgres(url)) => Db::open_postgres_catalog(url).await,
        };
        let db = opened.map_err(|error| catalog_error(&error))?;
        db.prepare_catalog(&self.layout, now).await.map_err(|error| catalog_error(&error))?;
        self.db = Some(db.clone());
        Ok(db)
    }

    /// The update that is part of the transaction that moves the cursor, if the catalog is in the same
    /// database.
    pub(super) fn update_in_archive(&self, sub: &str) -> Option<CatalogUpdate> {
        matches!(self.place, LakeCatalog::Archive).then(|| self.update(sub))
    }

    fn update(&self, sub: &str) -> CatalogUpdate {
        CatalogUpdate { layout: self.layout.clone(), account_folder: format!("{}/", account_partition(sub)) }
    }

    /// Makes the catalog list what the tables of the account consist of.
    pub(super) async fn synchronize(
        &mut self,
        archive: &Db,
        sink: SinkKey,
        account: AccountKey,
        sub: &str,
        now: Time,
    ) -> Result<(), LakeError> {
        let (db, update) = (self.open(archive, now).await?, self.update(sub));
        let done = db.synchronize_catalog(archive, sink, account, &update, now).await;
        Ok(done.map_err(|error| catalog_error(&error))?)
    }

    /// Expires snapshots, if it is time to. Tells whether it did.
    pub(super) async fn expire(&mut self, archive: &Db, tick: Tick, now: Time) -> Result<bool, SinkError> {
        if tick < self.expire_at {
            return Ok(false);
        }
        let db = self.open(archive, now).await?;
        let expired = db.expire_catalog(&self.layout, now - self.expire_after).await;
        expired.map_err(|error| catalog_error(&error))?;
        self.expire_at = tick + (self.expire_after / 2).clamp(Duration::from_secs(1), MAX_EXPIRY_INTERVAL);
        Ok(true)
    }

    /// When snapshots are looked at again.
    pub(super) fn next_expiry(&self) -> Tick {
        self.expire_at
    }

    /// Those of these objects that a snapshot still shows.
    pub(super) async fn kept(&mut self, archive: &Db, names: &[String], now: Time) -> Result<Vec<String>, LakeError> {
        let db = self.open(archive, now).await?;
        let paths: Vec<String> = names.iter().map(|name| format!("{}{name}", self.layout.base)).collect();
        let kept = db.cataloged_paths(&paths).await.map_err(|error| catalog_error(&error))?;
        let is_kept = |(path, _): &(&String, &String)| kept.contains(*path);
        Ok(paths.iter().zip(names).filter(is_kept).map(|(_, name)| name.clone()).collect())
    }
}

fn catalog_table(table: LakeTable) -> CatalogTable {
    let columns = match table {
        LakeTable::Segments => table_columns(Table::Segments),
        LakeTable::Phrases => table_columns(Table::Phrases),
        LakeTable::Artifacts => EventFile::columns(),
    };
    let columns = columns.into_iter().map(|(name, kind)| CatalogColumn { name, kind }).collect();
    CatalogTable { name: table.name(), columns }
}

fn catalog_error(error: &DbError) -> SinkError {
    // The errors of a database name the archive's setting.
    let named = |text: &str| text.replace("database.url", "the sink's catalog");
    let failed = SinkError::unavailable(named(&format!("failed to update the DuckLake catalog: {error}")));
    match error.hint() {
        Some(hint) => failed.with_hint(named(hint)),
        None => failed,
    }
}
