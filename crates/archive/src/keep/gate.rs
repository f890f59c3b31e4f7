//! What is not let in again: segments with a tombstone, and those that are past retention when they are announced.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rand::Rng;
use sha2::Sha256;

use super::super::announce::day_of;
use super::super::{BULK, Db, DbError, DbFault, Row, Stmt, Tx, sql};
use super::{Gone, Hold};
use crate::clock::Time;
use crate::model::{AsideRecord, Certainty, Participants, SegmentRecord, Stretch, Subject};

/// Where the archive's secret is kept.
pub(super) const KEY: &str = "keeping.key";

/// How much of a keyed hash is kept: that two ids share so much of it does not happen.
const HASH: usize = 16;

/// A secret of this archive's own: without it nobody can tell from a tombstone which id it stands for, not even by trying
/// all ids.
#[derive(Clone)]
pub(crate) struct ArchiveKey(Hmac<Sha256>);

impl ArchiveKey {
    /// A new one, and how it is kept.
    pub(super) fn new(chance: &mut impl Rng) -> Result<(ArchiveKey, String), DbError> {
        let secret: [u8; 32] = chance.random();
        Ok((ArchiveKey::from_secret(&secret)?, STANDARD.encode(secret)))
    }

    fn from_secret(secret: &[u8]) -> Result<ArchiveKey, DbError> {
        Hmac::new_from_slice(secret).map(ArchiveKey).map_err(|_| damaged())
    }

    fn hash(&self, parts: [&[u8]; 2]) -> Vec<u8> {
        let mut mac = self.0.clone();
        mac.update(parts[0]);
        mac.update(b"\0");
        mac.update(parts[1]);
        mac.finalize().into_bytes()[..HASH].to_vec()
    }

    pub(super) fn segment(&self, id: &str) -> Vec<u8> {
        self.hash([b"segment", id.as_bytes()])
    }

    /// For a record that cannot be understood so far that its id were known.
    pub(super) fn record(&self, raw: &[u8]) -> Vec<u8> {
        self.hash([b"record", raw])
    }

    /// For what was typed, letter by letter.
    pub(crate) fn typed(&self, kind: &str, value: &str) -> Vec<u8> {
        self.hash([format!("typed {kind}").as_bytes(), value.as_bytes()])
    }

    pub(super) fn subject(&self, subject: &Subject) -> Vec<u8> {
        self.hash([subject.kind().as_bytes(), subject.normal().as_bytes()])
    }

    /// The hashes under which the journal may have a subject: today's and the first version's.
    pub(crate) fn subjects(&self, subject: &Subject) -> [Vec<u8>; 2] {
        let first = subject.normal_of_first_version();
        [self.subject(subject), self.hash([subject.kind().as_bytes(), first.as_bytes()])]
    }
}

const HELD: &str = "select value from meta where key = $1";

fn held(row: Option<Row>) -> Result<Option<ArchiveKey>, DbError> {
    let Some(text) = row.map(|row| row.text(0)).transpose()? else { return Ok(None) };
    ArchiveKey::from_secret(&STANDARD.decode(text).map_err(|_| damaged())?).map(Some)
}

pub(super) fn damaged() -> DbError {
    DbError::new(
        DbFault::Broken,
        "failed to read the archive's key in the table meta: it is damaged or missing\nhint: restore it from a backup: without it nothing that was erased is known any more",
    )
}

/// What was erased, as it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// When it went.
    pub at: Time,
    /// Why.
    pub gone: Gone,
}

/// Who is kept out of an account.
pub(crate) struct Gate {
    account: i64,
    /// `None` where the account has no tombstone.
    key: Option<ArchiveKey>,
    /// What ended before is past retention.
    kept_since: Option<Time>,
}

impl Tx {
    pub(crate) async fn held_key(&mut self) -> Result<Option<ArchiveKey>, DbError> {
        held(self.first(sql(HELD).bind(KEY)).await?)
    }

    /// The gate of an account. Costs one look where nothing of it was ever erased.
    pub(crate) async fn gate(&mut self, account: i64, kept_since: Option<Time>) -> Result<Gate, DbError> {
        let any = self.first(sql("select 1 from tombstone where account = $1 limit 1").bind(account)).await?;
        // Without the key nobody can tell any more what was erased, and all of it would come back.
        let key = if any.is_some() { Some(self.held_key().await?.ok_or_else(damaged)?) } else { None };
        Ok(Gate { account, key, kept_since })
    }

    /// Which of these segments, none of which is held, are not to be let in. One that was erased before it had ever been
    /// announced is counted now.
    pub(crate) async fn kept_out(
        &mut self,
        gate: &Gate,
        records: &[&SegmentRecord],
    ) -> Result<HashSet<String>, DbError> {
        let mut out = HashSet::new();
        if let Some(since) = gate.kept_since {
            let past: Vec<&&SegmentRecord> =
                records.iter().filter(|record| record.end.is_some_and(|end| end < since)).collect();
            let holds = if past.is_empty() { Vec::new() } else { self.holds(Some(gate.account)).await? };
            out.extend(past.iter().filter(|record| !is_held(&holds, record)).map(|record| record.segment_id.clone()));
        }
        let Some(key) = &gate.key else { return Ok(out) };
        let hashes: HashMap<Vec<u8>, &SegmentRecord> =
            records.iter().map(|record| (key.segment(&record.segment_id), *record)).collect();
        let mut days: BTreeMap<i64, [i64; 4]> = BTreeMap::new();
        let mut met = Vec::new();
        for (hash, counted) in self.buried(gate.account, hashes.keys().cloned()).await? {
            let Some(record) = hashes.get(&hash) else { continue };
            out.insert(record.segment_id.clone());
            if !counted {
                days.entry(day_of(record.end.unwrap_or(Time::NONE))).or_default()[0] += 1;
                met.push(hash);
            }
        }
        if !met.is_empty() {
            let head = "update tombstone set counted = 1 where account = $1 and hash in ";
            self.run(Stmt::list(head, vec![gate.account.into()], met, "")).await?;
            self.count_gone(gate.account, Gone::Erased, days).await?;
        }
        Ok(out)
    }

    /// The records of a window that may be set aside: not those of segments that were erased, and of a time that is past
    /// retention only what a hold may mean.
    pub(crate) async fn may_be_aside<'a>(
        &mut self,
        gate: &Gate,
        stretch: Stretch,
        asides: &'a [AsideRecord],
    ) -> Result<Vec<&'a AsideRecord>, DbError> {
        let mut allowed: Vec<&AsideRecord> = asides.iter().collect();
        if !allowed.is_empty() && gate.kept_since.is_some_and(|since| stretch.to <= since) {
            let holds = self.holds(Some(gate.account)).await?;
            allowed.retain(|aside| is_aside_held(&holds, aside.segment_id.as_deref(), &aside.raw));
        }
        let Some(key) = gate.key.as_ref().filter(|_| !allowed.is_empty()) else { return Ok(allowed) };
        let hash = |aside: &AsideRecord| match &aside.segment_id {
            Some(id) => key.segment(id),
            None => key.record(aside.raw.as_bytes()),
        };
        let mut buried = HashSet::new();
        for part in allowed.chunks(BULK) {
            let hashes: Vec<Vec<u8>> = part.iter().map(|aside| hash(aside)).collect();
            let found = self.buried(gate.account, hashes.into_iter()).await?;
            buried.extend(found.into_iter().map(|(hash, _)| hash));
        }
        allowed.retain(|aside| !buried.contains(&hash(aside)));
        Ok(allowed)
    }

    /// Which of these hashes have a tombstone, and whether it is counted.
    pub(super) async fn buried(
        &mut self,
        account: i64,
        hashes: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Vec<(Vec<u8>, bool)>, DbError> {
        let mut hashes = hashes.peekable();
        if hashes.peek().is_none() {
            return Ok(Vec::new());
        }
        let head = "select hash, counted from tombstone where account = $1 and hash in ";
        let rows = self.all(Stmt::list(head, vec![account.into()], hashes, "")).await?;
        rows.iter().map(|row| Ok((row.bytes(0)?, row.flag(1)?))).collect()
    }
}

/// Whether one of the account's holds keeps this record set aside, or may mean it.
pub(super) fn is_aside_held(holds: &[Hold], segment_id: Option<&str>, raw: &str) -> bool {
    holds.iter().any(|hold| hold.subject.concerns_record(segment_id, raw) > Certainty::Not)
}

fn is_held(holds: &[Hold], record: &SegmentRecord) -> bool {
    let participants = Participants::read([record.raw.as_str()], []);
    holds.iter().any(|hold| {
        hold.subject.names(&record.segment_id, record.dialog_id.as_deref())
            || hold.subject.concern(&participants).certainty > Certainty::Not
    })
}

impl Db {
    /// `None` where nothing was ever erased or kept on hold.
    pub(super) async fn held_key(&self) -> Result<Option<ArchiveKey>, DbError> {
        let key = held(self.first(sql(HELD).bind(KEY)).await?)?;
        if key.is_none() && self.first(sql("select 1 from journal limit 1")).await?.is_some() {
            return Err(damaged());
        }
        Ok(key)
    }

    /// Whether and when a segment of this id was erased, in this account or in any.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn tombstone(&self, segment_id: &str, account: Option<i64>) -> Result<Option<Tombstone>, DbError> {
        let Some(key) = self.held_key().await? else { return Ok(None) };
        let stmt = sql(
            "select t.at, t.kind, t.record from account a join tombstone t on t.account = a.id where t.hash = $1 and ($2 = -1 or a.id = $2)",
        );
        let row = self.first(stmt.bind(key.segment(segment_id)).bind(account.unwrap_or(-1))).await?;
        let gone = |row: &Row| row.code(1, ("tombstone.kind", row.maybe_int(2)?.unwrap_or(-1)), Gone::from_code);
        row.map(|row| Ok(Tombstone { at: row.time(0)?, gone: gone(&row)? })).transpose()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_hash_depends_on_the_archive_and_on_the_kind() {
        let key = |seed| ArchiveKey::new(&mut StdRng::seed_from_u64(seed)).unwrap().0;
        let (one, other) = (key(1), key(2));
        assert_eq!(one.segment("a"), one.segment("a"));
        assert_eq!(one.segment("a").len(), HASH);
        assert_ne!(one.segment("a"), other.segment("a"));
        assert_ne!(one.segment("a"), one.record(b"a"));
        assert_eq!(one.segment("a"), one.subject(&Subject::Segment("a".into())));
        let contact = |value: &str| one.subject(&Subject::Contact(value.into()));
        assert_eq!(contact("+1 201 377 0791"), contact("12013770791"));
        // What the first version entered for a value that is read otherwise today is known as that value's.
        let (value, hash) = (Subject::Contact("Tel: 0049 30".into()), one.hash([b"contact", b"tel: 0049 30"]));
        assert_ne!(one.subject(&value), hash);
        assert_eq!(one.subjects(&value), [one.subject(&value), hash.clone()]);
        assert!(!one.subjects(&Subject::Contact("other".into())).contains(&hash));
    }
}
