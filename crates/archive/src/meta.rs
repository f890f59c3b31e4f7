//! Table `meta`: single values by key.

use super::{Db, DbError, Stmt, Tx, sql};

fn select(key: &str) -> Stmt {
    sql("select value from meta where key = $1").bind(key)
}

impl Db {
    pub(crate) async fn meta(&self, key: &str) -> Result<Option<String>, DbError> {
        self.value(select(key)).await
    }
}

impl Tx {
    pub(crate) async fn meta(&mut self, key: &str) -> Result<Option<String>, DbError> {
        self.value(select(key)).await
    }

    pub(crate) async fn put_meta(&mut self, key: &str, value: &str) -> Result<(), DbError> {
        let stmt =
            sql("insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value");
        self.run(stmt.bind(key).bind(value)).await.map(drop)
    }

    pub(crate) async fn delete_meta(&mut self, key: &str) -> Result<(), DbError> {
        self.run(sql("delete from meta where key = $1").bind(key)).await.map(drop)
    }
}
