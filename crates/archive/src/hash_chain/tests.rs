//! Any change of an entry changes the head; an erased entry's leaf keeps it.

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::model::AccountId;

#[derive(Debug, Clone)]
struct TestEntry {
    salt: Vec<u8>,
    segment_id: String,
    artifact: i64,
    version: i64,
    outcome: i64,
    fetched: i64,
    size: i64,
    sha256: Vec<u8>,
}

impl TestEntry {
    fn leaf(&self, feed: i64) -> Hash {
        let TestEntry { artifact, version, outcome, fetched, size, .. } = *self;
        let (salt, segment_id, sha256) = (&*self.salt, &*self.segment_id, &*self.sha256);
        FeedRecord { salt, feed, sub: "7", segment_id, artifact, version, outcome, fetched, size, sha256 }.leaf()
    }
}

fn test_entry() -> impl Strategy<Value = TestEntry> {
    let numbers = (0_i64..3, 1_i64..9, 0_i64..2, any::<i64>(), 0_i64..99_999);
    (prop::collection::vec(any::<u8>(), SALT_LEN), "[a-z0-9/ ]{1,9}", numbers, prop::collection::vec(any::<u8>(), 32))
        .prop_map(|(salt, segment_id, (artifact, version, outcome, fetched, size), sha256)| TestEntry {
            salt,
            segment_id,
            artifact,
            version,
            outcome,
            fetched,
            size,
            sha256,
        })
}

fn head(entries: &[TestEntry]) -> Hash {
    (1..).zip(entries).fold(GENESIS_HASH, |head, (feed, entry)| link(&head, &entry.leaf(feed)))
}

/// Changes one field; `bit` says how.
fn change(entry: &mut TestEntry, field: usize, bit: u32) {
    let mask = 1_i64 << (bit % 63);
    match field {
        0 => entry.salt[bit as usize % SALT_LEN] ^= 1 << (bit % 8),
        1 => entry.segment_id.push('x'),
        2 => entry.artifact ^= mask,
        3 => entry.version ^= mask,
        4 => entry.outcome ^= mask,
        5 => entry.fetched ^= mask,
        6 => entry.size ^= mask,
        _ => entry.sha256[bit as usize % 32] ^= 1 << (bit % 8),
    }
}

proptest! {
    #[test]
    fn a_change_to_any_field_of_any_entry_changes_the_head(
        entries in prop::collection::vec(test_entry(), 1..8), at in any::<prop::sample::Index>(), field in 0_usize..8, bit in any::<u32>(),
    ) {
        let mut changed = entries.clone();
        let at = at.index(entries.len());
        change(&mut changed[at], field, bit);
        prop_assert_ne!(head(&entries), head(&changed));
    }

    #[test]
    fn a_missing_added_or_moved_entry_changes_the_head(
        entries in prop::collection::vec(test_entry(), 2..8), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
    ) {
        let original = head(&entries);
        let (one, other) = (one.index(entries.len()), other.index(entries.len()));
        let mut less = entries.clone();
        let removed = less.remove(one);
        prop_assert_ne!(original, head(&less));
        let mut more = entries.clone();
        more.insert(one, removed);
        prop_assert_ne!(original, head(&more));
        if one != other {
            let mut moved = entries;
            moved.swap(one, other);
            prop_assert_ne!(original, head(&moved));
        }
    }

    #[test]
    fn the_leaf_of_an_erased_entry_keeps_the_chain_whole(
        entries in prop::collection::vec(test_entry(), 1..8), at in any::<prop::sample::Index>(),
    ) {
        let leaves: Vec<Hash> = (1..).zip(&entries).map(|(feed, entry)| entry.leaf(feed)).collect();
        let erased = at.index(entries.len());
        let walked = (0..entries.len()).fold(GENESIS_HASH, |head, index| {
            let leaf = if index == erased { leaves[index] } else { entries[index].leaf(index as i64 + 1) };
            link(&head, &leaf)
        });
        prop_assert_eq!(walked, head(&entries));
    }

    #[test]
    fn hexadecimal_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    }
}

#[test]
fn fields_do_not_run_into_each_other() {
    let of = |first: &[u8], second: &[u8]| FieldHasher::new(b"x").bytes(first).bytes(second).hash();
    assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
    assert_ne!(of(b"", b"a"), of(b"a", b""));
}

/// The example in `docs/proof.md`: what other programs rely on must never change.
#[test]
fn the_bytes_are_those_that_were_written_down() {
    let salt = [7; SALT_LEN];
    let sha256 = Sha256::digest(b"hello");
    let entry = FeedRecord {
        salt: &salt,
        feed: 1,
        sub: "99999999",
        segment_id: "a-1",
        artifact: 1,
        version: 1,
        outcome: 0,
        fetched: 1_800_000_000_000,
        size: 5,
        sha256: &sha256,
    };
    let leaf = entry.leaf();
    let guide = include_str!("../../../../docs/proof.md");
    assert!(guide.contains(&hex(&leaf)), "leaf {}", hex(&leaf));
    let head = link(&GENESIS_HASH, &leaf);
    assert!(guide.contains(&hex(&head)), "head {}", hex(&head));
    let mut manifest = manifest();
    manifest.head = head.to_vec();
    manifest.record_heads = Some(RecordHeads {
        records: 1,
        record_head: GENESIS_HASH.to_vec(),
        journal: 1,
        journal_head: GENESIS_HASH.to_vec(),
    });
    let metadata = MetadataRecord {
        salt: &[7; SALT_LEN],
        record: 1,
        sub: "99999999",
        segment_id: "a-1",
        dialog_id: Some("d-1"),
        ended: Some(1_799_999_000_000),
        has_transcript: Some(1),
        is_agent: Some(0),
        since: Some(1_800_000_000_000),
        digest: &Sha256::digest(b"{}")[..16],
    };
    let tombstone = TombstoneRecord { record: 2, sub: "99999999", hash: &[9; 16], at: 5, kind: 0, day: 20_832 };
    let entry = JournalRecord {
        record: 1,
        at: 5,
        who: "ann",
        what: "erase",
        sub: Some("99999999"),
        kind: None,
        subject: None,
        segments: 1,
        records: 0,
        hold: None,
        reason: Some("asked for"),
        value_hash: None,
    };
    for (what, hash) in [
        ("manifest 2", manifest.digest()),
        ("metadata", metadata.leaf()),
        ("tombstone", tombstone.leaf()),
        ("journal", entry.leaf()),
    ] {
        assert!(guide.contains(&hex(&hash)), "{what} {}", hex(&hash));
    }
}

#[test]
fn a_change_to_any_field_of_metadata_changes_its_leaf() {
    let original = MetadataRecord {
        salt: &[7; SALT_LEN],
        record: 1,
        sub: "7",
        segment_id: "a",
        dialog_id: Some("d"),
        ended: Some(1),
        has_transcript: Some(1),
        is_agent: Some(0),
        since: Some(5),
        digest: &[1; 16],
    };
    let others = [
        MetadataRecord { salt: &[8; SALT_LEN], ..original },
        MetadataRecord { record: 2, ..original },
        MetadataRecord { sub: "8", ..original },
        MetadataRecord { segment_id: "b", ..original },
        MetadataRecord { dialog_id: Some("e"), ..original },
        MetadataRecord { dialog_id: None, ..original },
        MetadataRecord { ended: Some(0), ..original },
        MetadataRecord { has_transcript: Some(0), ..original },
        MetadataRecord { is_agent: Some(1), ..original },
        MetadataRecord { since: None, ..original },
        MetadataRecord { digest: &[2; 16], ..original },
    ];
    let mut leaves: Vec<Hash> = others.iter().map(MetadataRecord::leaf).collect();
    leaves.push(original.leaf());
    let distinct: std::collections::BTreeSet<&Hash> = leaves.iter().collect();
    assert_eq!(distinct.len(), leaves.len());
    // Postgres keeps no NUL: a text that holds one has the same leaf there.
    let leaf = |id| MetadataRecord { segment_id: id, ..original }.leaf();
    assert_eq!(leaf("a\0"), leaf("a\u{fffd}"));
}

fn manifest() -> Manifest {
    let mut manifest = Manifest {
        sub: "99999999".to_owned(),
        day: 20_832,
        from: 0,
        feed: 1,
        head: link(&GENESIS_HASH, &GENESIS_HASH).to_vec(),
        segments: 1,
        ledger: hash_daily_digests([[20_832, 1, 2, 3]].into_iter()).to_vec(),
        sealed: 1_800_000_060_000,
        previous: GENESIS_HASH.to_vec(),
        record_heads: None,
        hash: Vec::new(),
    };
    manifest.hash = manifest.digest().to_vec();
    manifest
}

#[test]
fn a_line_is_read_back_and_refused_where_anything_in_it_was_altered() {
    let mut manifest = manifest();
    manifest.record_heads = Some(RecordHeads {
        records: 5,
        record_head: GENESIS_HASH.to_vec(),
        journal: 6,
        journal_head: GENESIS_HASH.to_vec(),
    });
    manifest.hash = manifest.digest().to_vec();
    let line = ExportedLine::manifest(&AccountId::new("1", "99999999"), &manifest);
    let text = serde_json::to_string(&line).unwrap();
    assert!(text.contains(r#""type":"manifest""#) && text.contains(r#""day":"2027-01-14""#), "{text}");
    assert_eq!(ExportedLine::parse(&text), Ok(line));
    for (from, to) in [
        (r#""feed":1"#, r#""feed":2"#),
        (r#""from":0"#, r#""from":1"#),
        (r#""segments":1"#, r#""segments":0"#),
        (r#""records":5"#, r#""records":4"#),
        (r#""journal":6,"#, ""),
        ("2027-01-14", "2027-01-15"),
        ("T08:01:00.000Z", "T08:01:00.001Z"),
        ("\"99999999\"", "\"99999998\""),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert_eq!(ExportedLine::parse(&text.replace(from, to)), Err(LineError::Altered), "{from}");
    }
    assert!(matches!(ExportedLine::parse("{}"), Err(LineError::NotAManifest(_))));
    assert!(matches!(ExportedLine::parse(&text.replace(&hex(&manifest.head), "00")), Err(LineError::NotAManifest(_))));
}
