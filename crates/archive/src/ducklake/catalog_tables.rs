//! The tables and columns of a DuckLake catalog. Columns that a later version of this program adds are
//! added here, too, so that earlier snapshots keep theirs.

use rand::Rng as _;

use super::super::{DbError, DbFault, Stmt, Tx, sql};
use super::catalog_schema::{catalog_statements, first_rows};
use super::{CatalogColumn, CatalogLayout, CatalogTable, SnapshotRow};
use crate::clock::Time;

/// The columns as rows: id, order, name, type, parent.
type ColumnRow = (i64, i64, &'static str, &'static str, Option<i64>);

/// The id of a column: its field id in the files.
pub(super) fn column_id(columns: &[CatalogColumn], index: usize) -> i64 {
    let before = columns.iter().take(index).map(|column| if column.kind == "list" { 2 } else { 1 });
    before.sum::<i64>() + 1
}

fn column_rows(columns: &[CatalogColumn]) -> Vec<ColumnRow> {
    let mut rows = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        let id = column_id(columns, index);
        rows.push((id, id, column.name, column.kind, None));
        if column.kind == "list" {
            rows.push((id + 1, id + 1, "element", "varchar", Some(id)));
        }
    }
    rows
}

impl Tx {
    /// Creates the tables of the specification, and the first snapshot.
    pub(super) async fn create_catalog(&mut self, base: &str, now: Time) -> Result<(), DbError> {
        for statement in catalog_statements(self.is_postgres()) {
            self.run(Stmt::built(statement)).await?;
        }
        for (key, value) in first_rows(base) {
            let stmt = sql("insert into ducklake_metadata (key, value) values ($1, $2)");
            self.run(stmt.bind(key).bind(value)).await?;
        }
        let first = SnapshotRow { snapshot_id: 0, schema_version: 0, next_catalog_id: 1, next_file_id: 0 };
        self.insert_snapshot(first, "created_schema:\"main\"", now).await?;
        let uuid_cast = self.uuid_cast(1);
        let stmt = Stmt::built(format!(
            "insert into ducklake_schema (schema_id, schema_uuid, begin_snapshot, schema_name, path, path_is_relative)
             values (0, {uuid_cast}, 0, 'main', 'main/', true)"
        ));
        self.run(stmt.bind(new_uuid())).await.map(drop)
    }

    /// Creates a table, or adds the columns that it lacks.
    ///
    /// # Errors
    /// If a table of this name has other columns.
    pub(super) async fn prepare_table(
        &mut self,
        layout: &CatalogLayout,
        table: &CatalogTable,
        now: Time,
    ) -> Result<(), DbError> {
        let snapshot = self.newest_snapshot().await?;
        let new = SnapshotRow {
            snapshot_id: snapshot.snapshot_id + 1,
            schema_version: snapshot.schema_version + 1,
            ..snapshot
        };
        let wanted = column_rows(&table.columns);
        let Some(id) = self.table_id(table.name).await? else {
            let id = new.next_catalog_id;
            let uuid_cast = self.uuid_cast(2);
            let stmt = Stmt::built(format!(
                "insert into ducklake_table (table_id, table_uuid, begin_snapshot, schema_id, table_name, path, path_is_relative)
                 select $1, {uuid_cast}, $3, schema_id, $4, $5, false from ducklake_schema
                 where schema_name = 'main' and end_snapshot is null"
            ));
            let stmt = stmt.bind(id).bind(new_uuid()).bind(new.snapshot_id).bind(table.name);
            self.run(stmt.bind(format!("{}{}/", layout.base, table.name))).await?;
            self.add_columns(id, &wanted, new).await?;
            self.create_delete_table(id).await?;
            let change = format!("created_table:\"main\".\"{}\"", table.name);
            let new = SnapshotRow { next_catalog_id: id + 1, ..new };
            return self.insert_snapshot(new, &change, now).await;
        };
        let stmt = sql("select column_id, column_name, column_type from ducklake_column
             where table_id = $1 and end_snapshot is null order by column_id");
        let held: Vec<(i64, String, String)> = self.all(stmt.bind(id)).await?;
        let is_same = |(held, wanted): (&(i64, String, String), &ColumnRow)| {
            held.0 == wanted.0 && held.1 == wanted.2 && held.2 == wanted.3
        };
        if held.len() > wanted.len() || !held.iter().zip(&wanted).all(is_same) {
            let what = format!("the table {} of the DuckLake catalog has other columns", table.name);
            return Err(DbError::new(DbFault::Broken, what).with_hint("configure another catalog for this sink"));
        }
        let added = wanted.get(held.len()..).unwrap_or_default();
        if added.is_empty() {
            return Ok(());
        }
        self.add_columns(id, added, new).await?;
        self.insert_snapshot(new, &format!("altered_table:{id}"), now).await
    }

    /// Creates the table for rows that a reader deletes one by one. DuckDB looks for it in each query. In
    /// a SQLite file with virtual tables that it does not know, it fails if there is none.
    async fn create_delete_table(&mut self, number: i64) -> Result<(), DbError> {
        let stmt = Stmt::built(format!(
            "create table if not exists ducklake_inlined_delete_{number} (file_id bigint, row_id bigint, begin_snapshot bigint)"
        ));
        self.run(stmt).await.map(drop)
    }

    async fn add_columns(&mut self, table: i64, columns: &[ColumnRow], snapshot: SnapshotRow) -> Result<(), DbError> {
        for (id, order, name, kind, parent) in columns {
            let stmt =
                sql("insert into ducklake_column (column_id, begin_snapshot, table_id, column_order, column_name,
                 column_type, default_value, nulls_allowed, parent_column, default_value_type, default_value_dialect)
                 values ($1, $2, $3, $4, $5, $6, 'NULL', true, $7, 'literal', 'duckdb')");
            let stmt = stmt.bind(*id).bind(snapshot.snapshot_id).bind(table).bind(*order);
            self.run(stmt.bind(*name).bind(*kind).bind(*parent)).await?;
        }
        let stmt =
            sql("insert into ducklake_schema_versions (begin_snapshot, schema_version, table_id) values ($1, $2, $3)");
        self.run(stmt.bind(snapshot.snapshot_id).bind(snapshot.schema_version).bind(table)).await.map(drop)
    }
}

/// A random UUID, as text: version 4 and the variant of RFC 9562.
fn new_uuid() -> String {
    let random: u128 = rand::rng().random();
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let part = |shift: u32, digits: u32| (bits >> shift) & ((1 << (4 * digits)) - 1);
    format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_columns_count_the_elements_of_lists() {
        let column = |name, kind| CatalogColumn { name, kind };
        let columns = [column("a", "varchar"), column("l", "list"), column("n", "int64")];
        let expected: [ColumnRow; 4] = [
            (1, 1, "a", "varchar", None),
            (2, 2, "l", "list", None),
            (3, 3, "element", "varchar", Some(2)),
            (4, 4, "n", "int64", None),
        ];
        assert_eq!(column_rows(&columns), expected);
    }

    #[test]
    fn a_uuid_is_random_and_of_version_4() {
        let (one, other) = (new_uuid(), new_uuid());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
    }
}
