//! The tables that the DuckLake specification 1.0 lists, with the types that DuckDB gives them on each
//! database.

/// Each table with its columns. `TIME`, `BOOL` and `UUID` differ between the databases.
const TABLES: &[(&str, &str)] = &[
    ("ducklake_metadata", "key TEXT NOT NULL, value TEXT NOT NULL, scope TEXT, scope_id INT"),
    (
        "ducklake_snapshot",
        "snapshot_id INT PRIMARY KEY, snapshot_time TIME, schema_version INT, next_catalog_id INT, next_file_id INT",
    ),
    (
        "ducklake_snapshot_changes",
        "snapshot_id INT PRIMARY KEY, changes_made TEXT, author TEXT, commit_message TEXT, commit_extra_info TEXT",
    ),
    (
        "ducklake_schema",
        "schema_id INT PRIMARY KEY, schema_uuid UUID, begin_snapshot INT, end_snapshot INT, schema_name TEXT, path TEXT, path_is_relative BOOL",
    ),
    (
        "ducklake_table",
        "table_id INT, table_uuid UUID, begin_snapshot INT, end_snapshot INT, schema_id INT, table_name TEXT, path TEXT, path_is_relative BOOL",
    ),
    (
        "ducklake_view",
        "view_id INT, view_uuid UUID, begin_snapshot INT, end_snapshot INT, schema_id INT, view_name TEXT, dialect TEXT, sql TEXT, column_aliases TEXT",
    ),
    ("ducklake_tag", "object_id INT, begin_snapshot INT, end_snapshot INT, key TEXT, value TEXT"),
    ("ducklake_column_tag", "table_id INT, column_id INT, begin_snapshot INT, end_snapshot INT, key TEXT, value TEXT"),
    (
        "ducklake_data_file",
        "data_file_id INT PRIMARY KEY, table_id INT, begin_snapshot INT, end_snapshot INT, file_order INT, path TEXT, path_is_relative BOOL, file_format TEXT, record_count INT, file_size_bytes INT, footer_size INT, row_id_start INT, partition_id INT, encryption_key TEXT, mapping_id INT, partial_max INT",
    ),
    (
        "ducklake_file_column_stats",
        "data_file_id INT, table_id INT, column_id INT, column_size_bytes INT, value_count INT, null_count INT, min_value TEXT, max_value TEXT, contains_nan BOOL, extra_stats TEXT",
    ),
    (
        "ducklake_file_variant_stats",
        "data_file_id INT, table_id INT, column_id INT, variant_path TEXT, shredded_type TEXT, column_size_bytes INT, value_count INT, null_count INT, min_value TEXT, max_value TEXT, contains_nan BOOL, extra_stats TEXT",
    ),
    (
        "ducklake_delete_file",
        "delete_file_id INT PRIMARY KEY, table_id INT, begin_snapshot INT, end_snapshot INT, data_file_id INT, path TEXT, path_is_relative BOOL, format TEXT, delete_count INT, file_size_bytes INT, footer_size INT, encryption_key TEXT, partial_max INT",
    ),
    (
        "ducklake_column",
        "column_id INT, begin_snapshot INT, end_snapshot INT, table_id INT, column_order INT, column_name TEXT, column_type TEXT, initial_default TEXT, default_value TEXT, nulls_allowed BOOL, parent_column INT, default_value_type TEXT, default_value_dialect TEXT",
    ),
    ("ducklake_table_stats", "table_id INT, record_count INT, next_row_id INT, file_size_bytes INT"),
    (
        "ducklake_table_column_stats",
        "table_id INT, column_id INT, contains_null BOOL, contains_nan BOOL, min_value TEXT, max_value TEXT, extra_stats TEXT",
    ),
    ("ducklake_partition_info", "partition_id INT, table_id INT, begin_snapshot INT, end_snapshot INT"),
    (
        "ducklake_partition_column",
        "partition_id INT, table_id INT, partition_key_index INT, column_id INT, transform TEXT",
    ),
    ("ducklake_file_partition_value", "data_file_id INT, table_id INT, partition_key_index INT, partition_value TEXT"),
    (
        "ducklake_files_scheduled_for_deletion",
        "data_file_id INT, path TEXT, path_is_relative BOOL, schedule_start TIME",
    ),
    ("ducklake_inlined_data_tables", "table_id INT, table_name TEXT, schema_version INT"),
    ("ducklake_column_mapping", "mapping_id INT, table_id INT, type TEXT"),
    (
        "ducklake_name_mapping",
        "mapping_id INT, column_id INT, source_name TEXT, target_field_id INT, parent_column INT, is_partition BOOL",
    ),
    ("ducklake_schema_versions", "begin_snapshot INT, schema_version INT, table_id INT"),
    ("ducklake_macro", "schema_id INT, macro_id INT, macro_name TEXT, begin_snapshot INT, end_snapshot INT"),
    ("ducklake_macro_impl", "macro_id INT, impl_id INT, dialect TEXT, sql TEXT, type TEXT"),
    (
        "ducklake_macro_parameters",
        "macro_id INT, impl_id INT, column_id INT, parameter_name TEXT, parameter_type TEXT, default_value TEXT, default_value_type TEXT",
    ),
    ("ducklake_sort_info", "sort_id INT, table_id INT, begin_snapshot INT, end_snapshot INT"),
    (
        "ducklake_sort_expression",
        "sort_id INT, table_id INT, sort_key_index INT, expression TEXT, dialect TEXT, sort_direction TEXT, null_order TEXT",
    ),
];

/// The statements that create the tables.
pub(super) fn catalog_statements(is_postgres: bool) -> impl Iterator<Item = String> {
    let types = match is_postgres {
        true => [
            (" INT", " bigint"),
            (" TEXT", " varchar"),
            (" TIME", " timestamptz"),
            (" BOOL", " boolean"),
            (" UUID", " uuid"),
        ],
        false => [
            (" INT", " bigint"),
            (" TEXT", " varchar"),
            (" TIME", " varchar"),
            (" BOOL", " bigint"),
            (" UUID", " varchar"),
        ],
    };
    TABLES.iter().map(move |(name, columns)| {
        let columns = types.iter().fold((*columns).to_owned(), |columns, (word, kind)| columns.replace(word, kind));
        format!("create table {name} ({columns})")
    })
}

/// The entries of `ducklake_metadata`.
pub(super) fn first_rows(base: &str) -> [(&'static str, String); 4] {
    let created_by = concat!("ringcx-extractor ", env!("CARGO_PKG_VERSION"));
    [
        ("version", super::VERSION.to_owned()),
        ("created_by", created_by.to_owned()),
        ("data_path", base.to_owned()),
        ("encrypted", "false".to_owned()),
    ]
}
