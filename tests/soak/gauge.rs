//! Measures a running daemon and its database: memory, files, threads, sizes, and the rows of every table.

use std::collections::BTreeMap;
use std::path::Path;

use ringcx_extractor::db::{Access, Db, DbError, Stmt, sql};
use secrecy::SecretString;

use super::support::daemon::Rig;

/// One look.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Resident memory in kilobytes, and open files, and threads.
    pub memory: u64,
    pub files: u64,
    pub threads: u64,
    /// In kilobytes: what the database takes on the disk, without the room in it that is free, and its log.
    pub database: u64,
    pub used: u64,
    pub log: u64,
    pub connections: u64,
    pub rows: BTreeMap<String, i64>,
}

/// The process's part; zeros where it does not run.
fn process(sample: &mut Sample, pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (sample.memory, sample.threads) = (field("VmRSS:"), field("Threads:"));
    sample.files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |files| files.count() as u64);
}

async fn number(db: &Db, text: &'static str) -> Result<i64, DbError> {
    db.first(sql(text)).await?.map_or(Ok(0), |row| row.int(0))
}

fn kilobytes(path: &str) -> u64 {
    std::fs::metadata(Path::new(path)).map_or(0, |file| file.len() / 1024)
}

/// Looks at everything; fails where the database is away.
pub async fn look(rig: &mut Rig) -> Result<Sample, DbError> {
    let mut sample = Sample::default();
    if rig.is_running() {
        process(&mut sample, rig.pid());
    }
    let db = match rig.place.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), Access::Existing).await?,
        None => Db::open_postgres(&SecretString::from(rig.place.url.clone()), Access::Existing, 2).await?,
    };
    let looked = database(&mut sample, &db, &rig.place.url).await;
    db.close().await;
    looked.map(|()| sample)
}

async fn database(sample: &mut Sample, db: &Db, url: &str) -> Result<(), DbError> {
    let kb = |bytes: i64| u64::try_from(bytes / 1024).unwrap_or(0);
    let names = if let Some(path) = url.strip_prefix("sqlite:") {
        let page = number(db, "select page_size from pragma_page_size").await?;
        let pages = number(db, "select page_count from pragma_page_count").await?;
        let free = number(db, "select freelist_count from pragma_freelist_count").await?;
        (sample.database, sample.used) = (kb(page * pages), kb(page * (pages - free)));
        sample.log = kilobytes(&format!("{path}-wal"));
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' and name <> 'search_text'"
    } else {
        sample.database = kb(number(db, "select pg_database_size(current_database())").await?);
        sample.used = sample.database;
        sample.log = kb(number(db, "select cast(sum(size) as bigint) from pg_ls_waldir()").await?);
        let connections = "select count(*) from pg_stat_activity where application_name = 'ringcx-extractor' and pid <> pg_backend_pid()";
        sample.connections = u64::try_from(number(db, connections).await?).unwrap_or(0);
        "select cast(relname as text) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    };
    for row in db.all(sql(names)).await? {
        let name = row.text(0)?;
        let rows = db.first(Stmt::built(format!("select count(*) from {name}"))).await?;
        sample.rows.insert(name, rows.map_or(Ok(0), |row| row.int(0))?);
    }
    let stray = "select count(*) from attempt a where not exists (select 1 from segment s where s.id = a.item / 4)";
    sample.rows.insert("attempts at what is gone".to_owned(), number(db, stray).await?);
    Ok(())
}
