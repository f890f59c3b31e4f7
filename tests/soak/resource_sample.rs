//! Samples a running daemon and its database: memory, open files, threads, sizes, and the rows of every table.

use std::collections::BTreeMap;
use std::path::Path;

use ringcx_extractor::db::{Db, DbError, OpenMode, Stmt, sql};
use secrecy::SecretString;

use super::support::test_env::TestEnv;

#[derive(Debug, Clone, Default)]
pub struct ResourceSample {
    /// Resident memory in kilobytes.
    pub memory_kb: u64,
    pub open_files: u64,
    pub threads: u64,
    /// The database's size on the disk in kilobytes.
    pub database_kb: u64,
    /// The same without what the database will use again before it asks for more: free pages, and on Postgres the free space
    /// within pages that a vacuum has recorded.
    pub used_kb: u64,
    /// The write-ahead log.
    pub log_kb: u64,
    pub connections: u64,
    pub rows: BTreeMap<String, i64>,
    /// On Postgres, what is used of each table in kilobytes, with its indexes: as in `used_kb`, without free space.
    pub sizes_kb: BTreeMap<String, i64>,
}

/// The process's figures; zeros if it does not run.
fn sample_process(sample: &mut ResourceSample, pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (sample.memory_kb, sample.threads) = (field("VmRSS:"), field("Threads:"));
    sample.open_files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |files| files.count() as u64);
}

async fn query_number(db: &Db, text: &'static str) -> Result<i64, DbError> {
    Ok(db.value(sql(text)).await?.unwrap_or(0))
}

fn file_kilobytes(path: &str) -> u64 {
    std::fs::metadata(Path::new(path)).map_or(0, |file| file.len() / 1024)
}

/// Takes a sample. Fails if the database is unavailable.
pub async fn take_sample(env: &mut TestEnv) -> Result<ResourceSample, DbError> {
    let mut sample = ResourceSample::default();
    if env.is_running() {
        sample_process(&mut sample, env.pid());
    }
    let db = match env.database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await?,
        None => Db::open_postgres(&SecretString::from(env.database.url.clone()), OpenMode::Existing, 2).await?,
    };
    let result = sample_database(&mut sample, &db, &env.database.url).await;
    db.close().await;
    result.map(|()| sample)
}

async fn sample_database(sample: &mut ResourceSample, db: &Db, url: &str) -> Result<(), DbError> {
    let kb = |bytes: i64| u64::try_from(bytes / 1024).unwrap_or(0);
    let names = if let Some(path) = url.strip_prefix("sqlite:") {
        let page = query_number(db, "select page_size from pragma_page_size").await?;
        let pages = query_number(db, "select page_count from pragma_page_count").await?;
        let free = query_number(db, "select freelist_count from pragma_freelist_count").await?;
        (sample.database_kb, sample.used_kb) = (kb(page * pages), kb(page * (pages - free)));
        sample.log_kb = file_kilobytes(&format!("{path}-wal"));
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' and name <> 'search_text'"
    } else {
        sample.database_kb = kb(query_number(db, "select pg_database_size(current_database())").await?);
        db.run(sql("create schema if not exists trial")).await?;
        db.run(sql("create extension if not exists pg_freespacemap schema trial")).await?;
        // By block: the function for a whole relation calls this one without its schema.
        let free = "select cast(coalesce(sum(trial.pg_freespace(c.oid, block)), 0) as bigint) from pg_class c, lateral
                    generate_series(0, pg_relation_size(c.oid) / current_setting('block_size')::bigint - 1) block
                    where c.relkind in ('r', 't', 'i')";
        sample.used_kb = sample.database_kb.saturating_sub(kb(query_number(db, free).await?));
        sample.log_kb = kb(query_number(db, "select cast(sum(size) as bigint) from pg_ls_waldir()").await?);
        let connections = "select count(*) from pg_stat_activity where application_name = 'ringcx-extractor' and pid <> pg_backend_pid()";
        sample.connections = u64::try_from(query_number(db, connections).await?).unwrap_or(0);
        "select cast(relname as text) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    };
    let sizes = "select cast(t.relname as text), (pg_total_relation_size(t.oid) - coalesce((
                     select cast(sum(trial.pg_freespace(c.oid, block)) as bigint) from pg_class c, lateral
                     generate_series(0, pg_relation_size(c.oid) / current_setting('block_size')::bigint - 1) block
                     where c.oid in (t.oid, t.reltoastrelid)
                     or c.oid in (select indexrelid from pg_index where indrelid in (t.oid, t.reltoastrelid))), 0)) / 1024
                 from pg_class t where t.relkind = 'r' and t.relnamespace = 'public'::regnamespace";
    if !url.starts_with("sqlite:") {
        sample.sizes_kb = db.all::<(String, i64)>(sql(sizes)).await?.into_iter().collect();
    }
    for name in db.values::<String>(sql(names)).await? {
        let rows = db.value(Stmt::built(format!("select count(*) from {name}"))).await?;
        sample.rows.insert(name, rows.unwrap_or(0));
    }
    let stray_attempts =
        "select count(*) from attempt a where not exists (select 1 from segment s where s.id = a.item / 4)";
    sample.rows.insert("attempts of erased segments".to_owned(), query_number(db, stray_attempts).await?);
    Ok(())
}
