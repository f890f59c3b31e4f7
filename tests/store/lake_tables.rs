//! Tables in an object store, on both databases: they hold what the export holds, whatever happened.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parquet::file::reader::{FileReader, SerializedFileReader};
use ringcx_extractor::config::{DatabaseUrl, LakeCatalog, LakeSettings, LakeTable, Sink, SinkKind, SinkStart};
use ringcx_extractor::db::{Db, sql};
use ringcx_extractor::export::{ExportFormat, Selection, Table, write_export};

use super::delivery_store::{
    DeliveryEnv, MINUTE, NOW, acquire_account, answer_due_items, erase_segment, ingest_segments, sink_settings,
    step_until_idle,
};
use crate::support::TestDb;

crate::on_both! {
    tables_hold_what_the_export_holds,
    an_erasure_rewrites_the_files_that_hold_the_segment,
    what_a_crash_left_is_removed,
    a_store_that_fails_changes_nothing,
    small_files_are_merged_and_large_ones_are_not,
    a_new_owner_goes_on_and_the_old_one_changes_nothing,
    a_new_place_begins_anew,
    a_catalog_in_the_archive_lists_the_files_until_they_expire,
    a_catalog_in_another_database_catches_up,
}

const DAY: Duration = Duration::from_secs(86_400);
const ROLL_AFTER: Duration = Duration::from_secs(900);

fn lake_settings(env: &DeliveryEnv, start: SinkStart) -> Sink {
    let kind = SinkKind::Lake(Box::new(LakeSettings {
        url: format!("file://{}", env.folder().display()),
        options: BTreeMap::new(),
        tables: LakeTable::ALL.to_vec(),
        roll_after: ROLL_AFTER,
        roll_size: 1 << 20,
        catalog: None,
        expire_after: DAY,
    }));
    sink_settings(start, kind)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn rows_of(content: bytes::Bytes) -> Vec<String> {
    let reader = SerializedFileReader::new(content).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
}

/// The rows of all files of a table, sorted.
fn table_rows(env: &DeliveryEnv, table: &str) -> Vec<String> {
    let files = files(&env.folder().join(table));
    let mut rows: Vec<String> = files.iter().flat_map(|path| rows_of(std::fs::read(path).unwrap().into())).collect();
    rows.sort();
    rows
}

/// Checks each table against the archive, and that no other object is there.
async fn assert_tables_equal_the_export(env: &DeliveryEnv) {
    for (table, name) in [(Table::Segments, "segments"), (Table::Phrases, "phrases")] {
        let mut out = Vec::new();
        let selection = Selection { table, ..Selection::default() };
        write_export(env.db(), &selection, ExportFormat::Parquet, &mut out, &mut |_| {}).await.unwrap();
        let mut expected = rows_of(out.into());
        expected.sort();
        assert_eq!(table_rows(env, name), expected, "{name}");
    }
    let versions = env.db().count(sql("select count(*) from artifact where outcome = 0")).await.unwrap();
    assert_eq!(table_rows(env, "artifacts").len() as u64, versions);
    let registered = env.db().count(sql("select count(*) from lake_file")).await.unwrap();
    assert_eq!(files(&env.folder()).len() as u64, registered);
    assert_eq!(env.db().count(sql("select count(*) from lake_slice where state <> 1")).await.unwrap(), 0);
}

/// Ingests segments whose transcripts have phrases when they are answered.
async fn announce(env: &DeliveryEnv, numbers: std::ops::Range<usize>) {
    let now = env.clock.now();
    ingest_segments(env.db(), env.owned, numbers, now, |number| format!(r#"{{"segmentId":"seg-{number}"}}"#)).await;
}

async fn tables_hold_what_the_export_holds(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    // Before the sink exists: answered, and not yet answered.
    env.store_transcripts(0..3).await;
    announce(&env, 3..5).await;
    let mut deliverer = env.deliverer(lake_settings(&env, SinkStart::Beginning));
    step_until_idle(&mut deliverer).await;
    assert_eq!(table_rows(&env, "segments").len(), 5);
    assert_tables_equal_the_export(&env).await;
    let name = files(&env.folder().join("segments"))[0].strip_prefix(env.folder()).unwrap().display().to_string();
    assert!(name.starts_with("segments/account=sub/day=2027-01-15/part-"), "{name}");
    // A text that arrives, and a segment that is announced, wait for the next file.
    answer_due_items(env.db(), env.owned, env.clock.now(), "late", None).await;
    announce(&env, 5..7).await;
    step_until_idle(&mut deliverer).await;
    assert_eq!(table_rows(&env, "segments").len(), 5);
    env.clock.advance(ROLL_AFTER);
    step_until_idle(&mut deliverer).await;
    assert_eq!(table_rows(&env, "segments").len(), 7);
    assert_tables_equal_the_export(&env).await;
    // Another text replaces the row, and is a further version.
    answer_due_items(env.db(), env.owned, env.clock.now(), "second", None).await;
    env.clock.advance(ROLL_AFTER);
    step_until_idle(&mut deliverer).await;
    assert_eq!(table_rows(&env, "segments").iter().filter(|row| row.contains("second")).count(), 5);
    assert_tables_equal_the_export(&env).await;
    assert_eq!(env.totals().await.0, 0);
    // Nothing is left to do, and nothing is written again.
    let before = files(&env.folder());
    env.clock.advance(ROLL_AFTER);
    step_until_idle(&mut deliverer).await;
    assert_eq!(files(&env.folder()), before);
}

async fn an_erasure_rewrites_the_files_that_hold_the_segment(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..4).await;
    let mut deliverer = env.deliverer(lake_settings(&env, SinkStart::Beginning));
    step_until_idle(&mut deliverer).await;
    let before = files(&env.folder());
    let key = env.db().segments_by_id("seg-1").await.unwrap()[0].key;
    let copies = env.db().lake_copies(&[key]).await.unwrap();
    assert_eq!((copies[0].sink.as_str(), copies[0].segments), ("sink", 1));
    erase_segment(&env, "seg-1").await;
    // It does not wait for `roll_after`.
    step_until_idle(&mut deliverer).await;
    assert!(before.iter().all(|path| !path.exists()), "the earlier objects are gone");
    assert_eq!(table_rows(&env, "segments").len(), 3);
    assert_tables_equal_the_export(&env).await;
    assert!(env.db().lake_copies(&[key]).await.unwrap().is_empty());
    assert_eq!(env.db().forget_delivered_erasures(&["sink"], NOW).await.unwrap(), 1);
    for number in [0, 2, 3] {
        erase_segment(&env, &format!("seg-{number}")).await;
    }
    step_until_idle(&mut deliverer).await;
    assert_eq!(files(&env.folder()), Vec::<PathBuf>::new());
}

async fn what_a_crash_left_is_removed(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..2).await;
    let settings = || lake_settings(&env, SinkStart::Beginning);
    step_until_idle(&mut env.deliverer(settings())).await;
    let held = files(&env.folder());
    // A slice was planned and written, but not committed.
    let sink = env.view().await.row.key;
    let day = env.db().current_slices(sink, env.owned.account).await.unwrap()[0].day;
    let id = env.db().plan_slice(sink, env.owned.account, day, NOW).await.unwrap();
    for path in &held {
        std::fs::copy(path, path.with_file_name(format!("part-{id:016x}.parquet"))).unwrap();
    }
    // A restored copy of the archive does not know an object.
    std::fs::copy(&held[0], held[0].with_file_name("part-00000000000000ff.parquet")).unwrap();
    // An object was being written when the process was killed.
    std::fs::write(held[0].with_file_name(".aB3xYz.part"), "half").unwrap();
    let foreign = held[0].with_file_name("someone-elses.parquet");
    std::fs::copy(&held[0], &foreign).unwrap();
    step_until_idle(&mut env.deliverer(settings())).await;
    assert!(foreign.exists(), "another program's object stays");
    std::fs::remove_file(foreign).unwrap();
    assert_eq!(files(&env.folder()), held);
    assert_tables_equal_the_export(&env).await;
    // An object that someone deleted is written again.
    std::fs::remove_file(&held[0]).unwrap();
    step_until_idle(&mut env.deliverer(settings())).await;
    assert_eq!(files(&env.folder()).len(), held.len());
    assert_tables_equal_the_export(&env).await;
}

async fn a_store_that_fails_changes_nothing(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..2).await;
    std::fs::write(env.folder(), "in the way").unwrap();
    let mut deliverer = env.deliverer(lake_settings(&env, SinkStart::Beginning));
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.db().count(sql("select count(*) from lake_segment")).await.unwrap(), 0);
    std::fs::remove_file(env.folder()).unwrap();
    env.clock.advance(2 * MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(table_rows(&env, "segments").len(), 2);
    assert_tables_equal_the_export(&env).await;
}

async fn small_files_are_merged_and_large_ones_are_not(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let mut deliverer = env.deliverer(lake_settings(&env, SinkStart::Now));
    step_until_idle(&mut deliverer).await;
    for number in 0..3 {
        ingest_segments(env.db(), env.owned, number..number + 1, NOW, |number| {
            format!(r#"{{"segmentId":"seg-{number}"}}"#)
        })
        .await;
        env.clock.advance(ROLL_AFTER);
        step_until_idle(&mut deliverer).await;
        assert_eq!(files(&env.folder().join("segments")).len(), number + 1);
    }
    env.clock.advance(5 * ROLL_AFTER);
    step_until_idle(&mut deliverer).await;
    assert_eq!(files(&env.folder().join("segments")).len(), 1);
    assert_tables_equal_the_export(&env).await;
    // A file that is full is not written again for a few more rows.
    env.db().run(sql("update lake_slice set size = 2000000")).await.unwrap();
    announce(&env, 3..4).await;
    env.clock.advance(10 * ROLL_AFTER);
    step_until_idle(&mut deliverer).await;
    assert_eq!(files(&env.folder().join("segments")).len(), 2);
    assert_tables_equal_the_export(&env).await;
}

async fn a_new_owner_goes_on_and_the_old_one_changes_nothing(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..2).await;
    let mut old = env.deliverer(lake_settings(&env, SinkStart::Beginning));
    step_until_idle(&mut old).await;
    let lease = acquire_account(env.db(), "sub").await;
    erase_segment(&env, "seg-0").await;
    step_until_idle(&mut old).await;
    assert_eq!(table_rows(&env, "segments").len(), 2);
    let mut new = env.deliverer_for(lake_settings(&env, SinkStart::Beginning), vec![lease]);
    step_until_idle(&mut new).await;
    assert_eq!(table_rows(&env, "segments").len(), 1);
    assert_tables_equal_the_export(&env).await;
    // The old owner must not delete what the new one is writing.
    let sink = env.view().await.row.key;
    let id = env.db().plan_slice(sink, lease.account, 0, NOW).await.unwrap();
    assert_eq!(env.db().obsolete_slices(sink, env.owned, 0).await.unwrap(), []);
    assert_eq!(env.db().obsolete_slices(sink, lease, 0).await.unwrap()[0].id, id);
    assert!(env.db().holds_lease(lease).await.unwrap() && !env.db().holds_lease(env.owned).await.unwrap());
}

async fn a_new_place_begins_anew(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..2).await;
    step_until_idle(&mut env.deliverer(lake_settings(&env, SinkStart::Now))).await;
    assert_eq!(files(&env.folder()), Vec::<PathBuf>::new(), "a sink that starts now has nothing yet");
    let mut settings = lake_settings(&env, SinkStart::Now);
    if let SinkKind::Lake(lake) = &mut settings.kind {
        lake.tables = vec![LakeTable::Segments];
    }
    step_until_idle(&mut env.deliverer(settings)).await;
    assert_eq!((files(&env.folder()).len(), table_rows(&env, "segments").len()), (1, 2));
    let mut deliverer = env.deliverer(lake_settings(&env, SinkStart::Now));
    step_until_idle(&mut deliverer).await;
    assert_tables_equal_the_export(&env).await;
    // What the sink does not receive any more is in no object: an erasure would not reach it there.
    let mut settings = lake_settings(&env, SinkStart::Now);
    settings.accounts = BTreeSet::from(["other".to_owned()]);
    step_until_idle(&mut env.deliverer(settings)).await;
    assert_eq!(files(&env.folder()), Vec::<PathBuf>::new());
    // A replica with the earlier settings adds nothing.
    announce(&env, 2..3).await;
    env.clock.advance(ROLL_AFTER);
    assert!(deliverer.step().await.is_err());
    assert_eq!(env.db().count(sql("select count(*) from lake_segment")).await.unwrap(), 0);
}

fn catalog_settings(env: &DeliveryEnv, catalog: LakeCatalog) -> Sink {
    let mut settings = lake_settings(env, SinkStart::Beginning);
    if let SinkKind::Lake(lake) = &mut settings.kind {
        lake.catalog = Some(catalog);
    }
    settings
}

/// The files that the newest snapshot shows.
async fn listed_files(catalog: &Db) -> Vec<PathBuf> {
    let stmt = sql("select path from ducklake_data_file where end_snapshot is null order by path");
    catalog.values::<String>(stmt).await.unwrap().into_iter().map(PathBuf::from).collect()
}

async fn count_snapshots(catalog: &Db) -> u64 {
    catalog.count(sql("select count(*) from ducklake_snapshot")).await.unwrap()
}

async fn a_catalog_in_the_archive_lists_the_files_until_they_expire(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..3).await;
    let mut deliverer = env.deliverer(catalog_settings(&env, LakeCatalog::Archive));
    step_until_idle(&mut deliverer).await;
    let before = files(&env.folder());
    assert_eq!(listed_files(env.db()).await, before);
    // The first snapshot, one a table, and one of the rows.
    assert_eq!(count_snapshots(env.db()).await, 5);
    let rows = sql(
        "select record_count from ducklake_table_stats join ducklake_table using (table_id) where table_name = 'segments'",
    );
    assert_eq!(env.db().count(rows).await.unwrap(), 3);
    let bounds = sql("select count(*) from ducklake_file_column_stats where min_value = '2027-01-15 08:00:00.000+00'");
    assert_eq!(env.db().count(bounds).await.unwrap(), before.len() as u64);
    erase_segment(&env, "seg-1").await;
    step_until_idle(&mut deliverer).await;
    let listed = listed_files(env.db()).await;
    assert!(before.iter().all(|path| path.exists() && !listed.contains(path)), "earlier snapshots show them");
    assert!(!listed.is_empty() && listed.iter().all(|path| path.exists()));
    // Another process, before the time is over.
    env.clock.advance(DAY / 2);
    let mut deliverer = env.deliverer(catalog_settings(&env, LakeCatalog::Archive));
    step_until_idle(&mut deliverer).await;
    assert!(before.iter().all(|path| path.exists()));
    env.clock.advance(DAY);
    step_until_idle(&mut deliverer).await;
    assert_eq!(files(&env.folder()), listed, "nothing of it is left");
    assert_eq!(env.db().count(sql("select count(*) from ducklake_data_file")).await.unwrap(), listed.len() as u64);
    assert_eq!(count_snapshots(env.db()).await, 1);
    assert_tables_equal_the_export(&env).await;
    // Tables that are no longer in the settings list nothing, and keep no object.
    let mut settings = catalog_settings(&env, LakeCatalog::Archive);
    if let SinkKind::Lake(lake) = &mut settings.kind {
        lake.tables = vec![LakeTable::Segments];
    }
    let mut deliverer = env.deliverer(settings);
    step_until_idle(&mut deliverer).await;
    env.clock.advance(2 * DAY);
    step_until_idle(&mut deliverer).await;
    assert_eq!((listed_files(env.db()).await, table_rows(&env, "segments").len()), (files(&env.folder()), 2));
    assert!(files(&env.folder()).iter().all(|path| path.starts_with(env.folder().join("segments"))));
}

async fn a_catalog_in_another_database_catches_up(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let path = env.test.folder.path().join("catalog/lake.ducklake");
    let settings = || catalog_settings(&env, LakeCatalog::Other(DatabaseUrl::Sqlite(path.clone())));
    env.store_transcripts(0..3).await;
    step_until_idle(&mut env.deliverer(settings())).await;
    let catalog = Db::open_sqlite_catalog(&path).await.unwrap();
    assert_eq!(listed_files(&catalog).await, files(&env.folder()));
    // As after a crash between the two transactions, and a text that arrives.
    catalog.run(sql("update ducklake_data_file set path = 'x' || path")).await.unwrap();
    env.store_transcripts(3..5).await;
    env.clock.advance(ROLL_AFTER);
    step_until_idle(&mut env.deliverer(settings())).await;
    let listed = listed_files(&catalog).await;
    assert_eq!(listed.iter().filter(|path| path.is_absolute()).count(), files(&env.folder()).len());
    assert_eq!(table_rows(&env, "segments").len(), 5);
    // A catalog that is away does not lose a change.
    catalog.run(sql("alter table ducklake_data_file rename to away")).await.unwrap();
    env.store_transcripts(5..6).await;
    env.clock.advance(ROLL_AFTER);
    let mut deliverer = env.deliverer(settings());
    step_until_idle(&mut deliverer).await;
    catalog.run(sql("alter table away rename to ducklake_data_file")).await.unwrap();
    env.clock.advance(2 * MINUTE);
    step_until_idle(&mut deliverer).await;
    let listed = listed_files(&catalog).await;
    assert_eq!(listed.iter().filter(|path| path.is_absolute()).count(), files(&env.folder()).len());
    assert_eq!(table_rows(&env, "segments").len(), 6);
    catalog.close().await;
}
