//! Numbers of work items, and compression of stored bodies.

use std::cell::RefCell;
use std::io::Read;
use std::thread::LocalKey;

use bytes::Bytes;
use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{DCtx, ResetDirective};

use super::{DbError, DbFault};
use crate::charset::{Charset, decode_to_utf8};
use crate::model::Artifact;

/// One artifact of one segment: the segment's key times four, plus the artifact's code. Every table
/// uses this number. A notice about a segment has a negative number. In the full-text index, the
/// fourth item of a segment is the agent's notes, as recordings have no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct Item(pub i64);

impl Item {
    /// The item for `artifact` of the segment with this key.
    pub(crate) fn of(segment: i64, artifact: Artifact) -> Item {
        Item(segment.saturating_mul(4) + i64::from(artifact.code()))
    }

    /// The item of the notices about a segment.
    pub(crate) fn of_notice(segment: i64) -> Item {
        Item(segment.saturating_mul(-4) - 1)
    }

    /// All items of a segment, that of its notices included.
    pub(crate) fn all_of(segment: i64) -> impl Iterator<Item = Item> {
        Artifact::ALL.into_iter().map(move |artifact| Item::of(segment, artifact)).chain([Item::of_notice(segment)])
    }

    /// The segment's key.
    pub fn segment(self) -> i64 {
        if self.0 < 0 { self.0.saturating_add(1) / -4 } else { self.0 / 4 }
    }

    /// The artifact; `None` for a notice.
    pub fn artifact(self) -> Option<Artifact> {
        if self.0 < 0 {
            return None;
        }
        i16::try_from(self.0.rem_euclid(4)).ok().and_then(Artifact::from_code)
    }
}

/// A body as the database stores it: as received, or compressed where that is smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBody {
    /// 0: as received. 1: Zstandard with `ZSTD_DICTIONARY`.
    pub codec: i64,
    /// The bytes in this codec.
    pub body: Bytes,
}

pub(super) const CODEC_PLAIN: i64 = 0;
const CODEC_ZSTD: i64 = 1;
/// Metadata is small, and repeats little of itself: a higher level costs nothing more.
const METADATA_LEVEL: i32 = 3;
/// Level 3 takes 1.4 times as long and saves 1.5 % (docs/benchmarks.md).
const BODY_LEVEL: i32 = 1;
/// No stored body unpacks to more than this, so that a corrupt length cannot exhaust memory.
const MAX_UNPACKED_BYTES: u64 = 256 * 1024 * 1024;

/// Magic number of a skippable Zstandard frame (RFC 8878). Of the sixteen kinds, this one holds the
/// name of a charset.
const CHARSET_FRAME_MAGIC: [u8; 4] = 0x184d_2a5c_u32.to_le_bytes();
/// Compression saves a few bytes at most of a body that is shorter than this.
const MIN_COMPRESSED_BYTES: usize = 128;

/// The common parts of metadata, as a Zstandard dictionary. Nearly all of a segment's metadata is in
/// it. Bodies are packed without it: a transcript repeats its own parts, so the dictionary would
/// save 3.5 %, and take 1.25 times as long. What was packed without the dictionary can be unpacked
/// with it, too.
///
/// Never change it: packed metadata, and bodies of earlier versions, could not be read any more.
const ZSTD_DICTIONARY: &[u8] = include_bytes!("item/zstd_dictionary.txt");

/// `None` only without memory; nothing is compressed then.
type ThreadCompressor = RefCell<Option<Compressor<'static>>>;

thread_local! {
    /// Setting up a compressor's tables costs more than compressing a body, so each thread keeps
    /// its compressors.
    static METADATA_COMPRESSOR: ThreadCompressor = RefCell::new(Compressor::with_dictionary(METADATA_LEVEL, ZSTD_DICTIONARY).ok());
    static BODY_COMPRESSOR: ThreadCompressor = RefCell::new(Compressor::new(BODY_LEVEL).ok());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(new_decompressor());
}

fn new_decompressor() -> DCtx<'static> {
    let mut context = DCtx::create();
    // This fails only without memory; unpacking then fails, too.
    let _ = context.load_dictionary(ZSTD_DICTIONARY);
    context
}

fn compress(compressor: &'static LocalKey<ThreadCompressor>, bytes: &[u8]) -> Option<Vec<u8>> {
    compressor.with_borrow_mut(|compressor| compressor.as_mut()?.compress(bytes).ok())
}

fn pack(compressor: &'static LocalKey<ThreadCompressor>, bytes: &[u8]) -> PackedBody {
    let packed = (bytes.len() >= MIN_COMPRESSED_BYTES).then(|| compress(compressor, bytes)).flatten();
    match packed {
        Some(packed) if packed.len() < bytes.len() => PackedBody { codec: CODEC_ZSTD, body: packed.into() },
        _ => PackedBody { codec: CODEC_PLAIN, body: Bytes::copy_from_slice(bytes) },
    }
}

/// Packs a segment's metadata for the database.
pub(crate) fn pack_metadata(metadata: &[u8]) -> PackedBody {
    pack(&METADATA_COMPRESSOR, metadata)
}

/// Packs a body for the database, together with the charset that the answer declared.
///
/// The charset's name is in a skippable frame before the body, which every Zstandard reader
/// ignores. Few bodies declare a charset, so there is no column for it.
pub(crate) fn pack_body(body: &[u8], charset: Option<Charset>) -> PackedBody {
    let Some(charset) = charset else { return pack(&BODY_COMPRESSOR, body) };
    let Some(compressed) = compress(&BODY_COMPRESSOR, body) else { return pack(&BODY_COMPRESSOR, body) };
    let name = charset.name().as_bytes();
    let length = u32::try_from(name.len()).unwrap_or_default();
    let packed = [&CHARSET_FRAME_MAGIC[..], &length.to_le_bytes(), name, &compressed].concat();
    PackedBody { codec: CODEC_ZSTD, body: packed.into() }
}

/// The charset that was packed with a body.
fn packed_charset(codec: i64, packed: &[u8]) -> Option<Charset> {
    let frame = packed.strip_prefix(&CHARSET_FRAME_MAGIC).filter(|_| codec == CODEC_ZSTD)?;
    let (length, rest) = frame.split_first_chunk()?;
    let name = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Charset::from_label(std::str::from_utf8(name).ok()?)
}

/// Unpacks a body and decodes it to UTF-8. Bytes that are invalid in its charset stay as they are.
///
/// # Errors
/// Where the stored bytes were damaged.
pub fn unpack_text(codec: i64, packed: Vec<u8>) -> Result<Vec<u8>, DbError> {
    let charset = packed_charset(codec, &packed);
    Ok(decode_to_utf8(charset, unpack(codec, packed)?))
}

/// Unpacks a body to the bytes as received.
///
/// # Errors
/// Where the stored bytes were damaged.
pub fn unpack(codec: i64, packed: Vec<u8>) -> Result<Vec<u8>, DbError> {
    let damaged = |why: String| DbError::new(DbFault::Broken, format!("failed to unpack a stored body: {why}"));
    match codec {
        CODEC_PLAIN => Ok(packed),
        CODEC_ZSTD => {
            let mut body = Vec::new();
            DECOMPRESSOR
                .with_borrow_mut(|context| {
                    // The rest of a damaged body must not be read as the beginning of this one.
                    context.reset(ResetDirective::SessionOnly).map_err(|_| std::io::ErrorKind::Other)?;
                    let reader = Decoder::with_context(packed.as_slice(), context);
                    reader.take(MAX_UNPACKED_BYTES).read_to_end(&mut body)
                })
                .map_err(|error| damaged(error.to_string()))?;
            Ok(body)
        }
        other => Err(damaged(format!("unknown codec {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_names_its_segment_and_artifact() {
        for artifact in Artifact::ALL {
            let item = Item::of(77, artifact);
            assert_eq!((item.segment(), item.artifact()), (77, Some(artifact)));
        }
        for segment in [1, 77] {
            let notice = Item::of_notice(segment);
            assert_eq!((notice.segment(), notice.artifact(), notice.0 < 0), (segment, None, true));
            // The migration turns the items of earlier notices into these.
            assert_eq!(2 - Item::of(segment, Artifact::Recording).0, notice.0);
        }
    }

    #[test]
    fn unpacking_returns_the_packed_bytes() {
        for body in [&b""[..], b"x", &[b'a'; 10_000], "äöü€😀".as_bytes()] {
            for packed in [pack_body(body, None), pack_metadata(body)] {
                assert_eq!(unpack(packed.codec, packed.body.to_vec()).unwrap(), body);
            }
        }
        assert_eq!(pack_body(&[b'a'; 10_000], None).codec, CODEC_ZSTD);
        assert!(unpack(CODEC_ZSTD, b"not zstd".to_vec()).is_err());
        let whole = pack_body(&[b'a'; 10_000], None).body.to_vec();
        assert!(unpack(CODEC_ZSTD, whole[..whole.len() - 3].to_vec()).is_err());
        assert_eq!(unpack(CODEC_ZSTD, whole).unwrap(), [b'a'; 10_000]);
    }

    #[test]
    fn a_declared_charset_is_stored_with_the_unchanged_bytes() {
        let latin = Charset::from_label("ISO-8859-1");
        for body in [&b"caf\xe9"[..], b"", &b"caf\xe9 ".repeat(100)] {
            let packed = pack_body(body, latin);
            assert_eq!(unpack(packed.codec, packed.body.to_vec()).unwrap(), body);
            let text = String::from_utf8(unpack_text(packed.codec, packed.body.to_vec()).unwrap()).unwrap();
            assert_eq!(text, String::from_utf8_lossy(body).replace('\u{fffd}', "é"));
        }
        let marked = pack_body(b"\xff\xfea\0", None);
        assert_eq!(unpack_text(marked.codec, marked.body.to_vec()).unwrap(), b"a");
    }

    #[test]
    fn bodies_of_earlier_versions_can_be_unpacked() {
        let without = Compressor::new(3).unwrap().compress(&[b'a'; 10_000]).unwrap();
        assert_eq!(unpack(CODEC_ZSTD, without).unwrap(), [b'a'; 10_000]);
        let with = include_bytes!("item/packed.zst");
        assert_eq!(unpack(CODEC_ZSTD, with.to_vec()).unwrap(), include_bytes!("item/packed.json"));
    }

    #[test]
    fn typical_metadata_compresses_to_a_third() {
        let metadata = include_bytes!("item/packed.json");
        let packed = pack_metadata(metadata).body.len();
        assert!(packed * 3 < metadata.len(), "{packed} of {}", metadata.len());
    }
}
