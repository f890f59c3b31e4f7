//! Ids of erased segments, for `export --changed-since`: whoever holds an earlier export must learn
//! what to remove from it.
//!
//! An id is kept only if an export has printed a number before, for
//! [`EXPORT_ERASURE_RETENTION`], and encrypted with a key that derives from the archive's: no id of
//! an erased segment stands in the files. After that, only the tombstone's keyed hash is left.

use std::time::Duration;

use rand::Rng as _;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::deletion::{ArchiveKey, archive_key_damaged};
use super::sql::DeletionCode;
use super::{AccountKey, Arg, Db, DbError, DbFault, DeletionReason, ExportCursor, Stmt, Tx, sql};
use crate::clock::Time;
use crate::model::AccountId;

/// How long the id of an erased segment is kept for exports of changes.
pub const EXPORT_ERASURE_RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// An erasure carries the time at which it began, and may take hours.
const ERASURE_VISIBILITY_MARGIN: Duration = Duration::from_secs(24 * 3600);

/// What the derived key is for.
const KEY_PURPOSE: &str = "export erasures";

/// A segment that was erased, or deleted by retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedSegment {
    /// The number of the row.
    pub id: i64,
    /// The RingCX ids of its account.
    pub account: AccountId,
    /// Key of its account.
    pub account_key: AccountKey,
    /// Its id in RingCX.
    pub segment_id: String,
    /// Its dialog's id.
    pub dialog_id: Option<String>,
    /// When it was erased.
    pub at: Time,
    /// Why.
    pub reason: DeletionReason,
}

#[derive(sqlx::FromRow)]
struct SealedRow {
    id: i64,
    #[sqlx(flatten)]
    account: AccountId,
    account_key: AccountKey,
    sealed_ids: Vec<u8>,
    at: Time,
    #[sqlx(rename = "kind", try_from = "DeletionCode")]
    reason: DeletionReason,
}

/// Segment and dialog.
type Ids = (String, Option<String>);

impl Db {
    /// The next page of the segments that were erased after the cursor, after the row `after`.
    /// Those that were erased shortly before may be included.
    pub async fn erased_segments_after(
        &self,
        cursor: &ExportCursor,
        account: Option<AccountKey>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<ErasedSegment>, DbError> {
        let stmt = sql("select x.id, a.rc, a.sub, x.account as account_key, x.sealed_ids, x.at, x.kind
             from export_erasure x join account a on a.id = x.account
             where x.at >= $1 and ($2 = -1 or x.account = $2) and x.id > $3 order by x.id limit $4");
        let since = cursor.visible_since() - ERASURE_VISIBILITY_MARGIN;
        let stmt = stmt.bind(since).bind(account.unwrap_or(AccountKey::ALL));
        let rows: Vec<SealedRow> = self.all(stmt.bind(after).bind(limit)).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let key = sealing_key(&self.stored_archive_key().await?.ok_or_else(archive_key_damaged)?)?;
        rows.into_iter().map(|row| row.unseal(&key)).collect()
    }

    /// Deletes the ids whose time is over.
    pub async fn forget_export_erasures(&self, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.run(sql("delete from export_erasure where at < $1").bind(now - EXPORT_ERASURE_RETENTION)).await?;
        tx.commit().await
    }
}

impl Tx {
    /// Keeps the ids of erased segments, if there was an export that may contain them.
    pub(super) async fn keep_export_erasures(
        &mut self,
        key: &ArchiveKey,
        account: AccountKey,
        segments: impl Iterator<Item = Ids>,
        at: Time,
        reason: DeletionReason,
    ) -> Result<(), DbError> {
        if self.meta("export").await?.is_none() {
            return Ok(());
        }
        let key = sealing_key(key)?;
        let row = |ids: Ids| -> Result<Vec<Arg>, DbError> {
            Ok(vec![account.into(), seal(&key, &ids)?.into(), at.into(), reason.code().into()])
        };
        let rows: Vec<Vec<Arg>> = segments.map(row).collect::<Result<_, _>>()?;
        let head = "insert into export_erasure (account, sealed_ids, at, kind) values ";
        self.run(Stmt::rows(head, rows, "")).await.map(drop)
    }
}

fn sealing_key(key: &ArchiveKey) -> Result<LessSafeKey, DbError> {
    let key = UnboundKey::new(&AES_128_GCM, &key.derive(KEY_PURPOSE)).map_err(|_| archive_key_damaged())?;
    Ok(LessSafeKey::new(key))
}

/// Encrypts ids under a random nonce, which stands before them.
fn seal(key: &LessSafeKey, ids: &Ids) -> Result<Vec<u8>, DbError> {
    let failed = || DbError::new(DbFault::Broken, "failed to encrypt the id of an erased segment");
    let nonce: [u8; NONCE_LEN] = rand::rng().random();
    let mut text = serde_json::to_vec(ids).map_err(|_| failed())?;
    let nonce_of = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce_of, Aad::empty(), &mut text).map_err(|_| failed())?;
    Ok([nonce.as_slice(), &text].concat())
}

fn unseal(key: &LessSafeKey, sealed: &[u8]) -> Option<Ids> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut text = text.to_vec();
    let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut text).ok()?;
    serde_json::from_slice(plain).ok()
}

impl SealedRow {
    fn unseal(self, key: &LessSafeKey) -> Result<ErasedSegment, DbError> {
        let Some((segment_id, dialog_id)) = unseal(key, &self.sealed_ids) else {
            return Err(DbError::inconsistent("export_erasure.sealed_ids", self.id, "something that is not its ids"));
        };
        let SealedRow { id, account, account_key, at, reason, .. } = self;
        Ok(ErasedSegment { id, account, account_key, segment_id, dialog_id, at, reason })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn key(seed: u64) -> LessSafeKey {
        sealing_key(&ArchiveKey::new(&mut StdRng::seed_from_u64(seed)).unwrap().0).unwrap()
    }

    #[test]
    fn ids_are_read_back_with_the_same_key_only() {
        let ids = ("segment".to_owned(), Some("dialog".to_owned()));
        let sealed = seal(&key(1), &ids).unwrap();
        assert_eq!(unseal(&key(1), &sealed), Some(ids.clone()));
        assert_eq!(unseal(&key(2), &sealed), None);
        assert!(!sealed.windows(7).any(|part| part == b"segment"));
        assert_ne!(seal(&key(1), &ids).unwrap(), sealed);
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(unseal(&key(1), &bytes), None);
        }
    }
}
