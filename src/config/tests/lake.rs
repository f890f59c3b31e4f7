//! Object stores with tables.

use super::*;

const SINK: &str = "[[sinks]]\nname = \"lake\"\ntype = \"object_store\"\nurl = \"file:///srv/lake\"\n";

fn load_lake(rest: &str) -> Result<LakeSettings, String> {
    let loaded = load_text(&format!("{MINIMAL}{SINK}{rest}"), &[]).map_err(|errors| errors.to_string())?;
    match &loaded.settings.sinks[0].kind {
        SinkKind::Lake(lake) => Ok((**lake).clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tables_have_their_defaults() {
    let lake = load_lake("tables = [\"segments\", \"artifacts\", \"segments\"]").unwrap();
    assert_eq!(lake.tables, [LakeTable::Segments, LakeTable::Artifacts]);
    assert_eq!((lake.roll_after.as_secs(), lake.roll_size, lake.expire_after.as_secs()), (900, 32 << 20, 86_400));
    assert!(lake.catalog.is_none());
}

#[test]
fn a_catalog_is_the_archives_or_another() {
    let catalog = |rest: &str| load_lake(&format!("tables = [\"segments\"]\n{rest}")).unwrap().catalog;
    let other = catalog("catalog = \"ducklake:sqlite:/srv/lake.ducklake\"");
    assert!(matches!(other, Some(LakeCatalog::Other(DatabaseUrl::Sqlite(_)))), "{other:?}");
    let same = catalog("catalog = \"ducklake:sqlite:a.db\"\n[database]\nurl = \"sqlite:a.db\"");
    assert!(matches!(same, Some(LakeCatalog::Archive)), "{same:?}");
}

#[test]
fn what_cannot_work_is_refused() {
    for (rest, what) in [
        ("tables = []", "sinks[0].tables"),
        ("tables = [\"dialogs\"]", "sinks[0].tables"),
        ("tables = [\"segments\"]\nformat = \"jsonl\"", "sinks[0].format"),
        ("tables = [\"segments\"]\nerasures = \"requested\"", "sinks[0].erasures"),
        ("tables = [\"segments\"]\nroll_size = 10", "sinks[0].roll_size"),
        ("tables = [\"segments\"]\ncatalog = \"postgres://x/y\"", "sinks[0].catalog"),
        ("tables = [\"segments\"]\nexpire_after = \"1h\"", "sinks[0].expire_after"),
        ("roll_after = \"1h\"", "sinks[0].roll_after"),
    ] {
        let errors = load_lake(rest).unwrap_err();
        assert!(errors.contains(what), "{rest}: {errors}");
    }
}

#[test]
fn two_sinks_with_tables_cannot_share_a_place() {
    let second = SINK.replace("\"lake\"", "\"other\"");
    for second in [second.clone(), second.replace("/srv/lake", "/srv/lake/")] {
        let errors = load_lake(&format!("tables = [\"segments\"]\n{second}tables = [\"phrases\"]")).unwrap_err();
        assert!(errors.contains("sinks[1].url"), "{errors}");
    }
    let tables = "tables = [\"segments\"]\ncatalog = \"ducklake:sqlite:/srv/lake.ducklake\"\n";
    let second = second.replace("/srv/lake", "/srv/other");
    let errors = load_lake(&format!("{tables}{second}{tables}")).unwrap_err();
    assert!(errors.contains("sinks[1].catalog"), "{errors}");
}
