//! How a work item is numbered and how a body is packed.

use std::cell::RefCell;
use std::io::Read;

use bytes::Bytes;
use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{DCtx, ResetDirective};

use super::{DbError, DbFault};
use crate::charset::{Charset, decoded};
use crate::model::Artifact;

/// One artifact of one segment: the segment's number in the database times four, plus the artifact's code. One
/// number finds it in every table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item(pub i64);

impl Item {
    /// The item for `artifact` of the segment with this number.
    pub fn of(segment: i64, artifact: Artifact) -> Item {
        Item(segment.saturating_mul(4) + i64::from(artifact.code()))
    }

    /// The segment's number.
    pub fn segment(self) -> i64 {
        self.0.div_euclid(4)
    }

    /// Which artifact.
    pub fn artifact(self) -> Option<Artifact> {
        i16::try_from(self.0.rem_euclid(4)).ok().and_then(Artifact::from_code)
    }

    /// Which artifact, where it stands in `column`, in which nothing else may stand.
    pub(super) fn known_artifact(self, column: &str) -> Result<Artifact, DbError> {
        self.artifact().ok_or_else(|| DbError::inconsistent(column, self.segment(), self.0))
    }
}

/// Bytes as they lie in the database: as they came, or compressed where that is smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// 0 as they came, 1 zstd with [`USUAL`].
    pub codec: i64,
    /// The bytes.
    pub body: Bytes,
}

const PLAIN: i64 = 0;
const ZSTD: i64 = 1;
const LEVEL: i32 = 3;
/// Nothing that was stored unpacks to more; a corrupt length cannot exhaust memory.
const LARGEST: u64 = 256 * 1024 * 1024;

/// How a skippable frame of zstd begins (RFC 8878), of the sixteen kinds this program's own for the name of a charset.
const CHARSET_FRAME: [u8; 4] = 0x184d_2a5c_u32.to_le_bytes();
/// Shorter bodies are not worth the effort: it saves a few bytes of them at most.
const SHORTEST: usize = 128;

/// How answers of the API usually read, after its reference: zstd need not spell out in each body what all of them have in
/// common, which of a segment's metadata is nearly everything. What was packed without it is read with it as well.
///
/// It never changes: what is packed could not be read any more.
const USUAL: &[u8] = include_bytes!("item/usual.txt");

thread_local! {
    /// A compressor's tables are large: setting them up anew for each body would cost more than compressing it.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::with_dictionary(LEVEL, USUAL).ok());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(decompressor());
}

fn decompressor() -> DCtx<'static> {
    let mut context = DCtx::create();
    // It fails where there is no memory; then so does what is unpacked.
    let _ = context.load_dictionary(USUAL);
    context
}

/// Packs a body for the database.
pub fn pack(body: &[u8]) -> Packed {
    let packed = (body.len() >= SHORTEST).then(|| {
        COMPRESSOR
            .with_borrow_mut(|compressor| compressor.as_mut().and_then(|compressor| compressor.compress(body).ok()))
    });
    match packed.flatten() {
        Some(packed) if packed.len() < body.len() => Packed { codec: ZSTD, body: packed.into() },
        _ => Packed { codec: PLAIN, body: Bytes::copy_from_slice(body) },
    }
}

/// Packs a body whose charset was declared, and that charset with it.
///
/// It stands in a frame before the body's, which every reader of zstd passes over: no column is needed for what few bodies
/// have.
pub fn pack_as(body: &[u8], charset: Option<Charset>) -> Packed {
    let Some(charset) = charset else { return pack(body) };
    let Ok(compressed) = Compressor::new(LEVEL).and_then(|mut compressor| compressor.compress(body)) else {
        return pack(body);
    };
    let name = charset.name().as_bytes();
    let length = u32::try_from(name.len()).unwrap_or_default();
    let packed = [&CHARSET_FRAME[..], &length.to_le_bytes(), name, &compressed].concat();
    Packed { codec: ZSTD, body: packed.into() }
}

/// The charset that was packed along with a body.
fn charset_of(codec: i64, packed: &[u8]) -> Option<Charset> {
    let frame = packed.strip_prefix(&CHARSET_FRAME).filter(|_| codec == ZSTD)?;
    let (length, rest) = frame.split_first_chunk()?;
    let name = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Charset::named(std::str::from_utf8(name).ok()?)
}

/// The body as text: in UTF-8, but for single bad bytes.
///
/// # Errors
/// Where the stored bytes were damaged.
pub fn unpack_text(codec: i64, packed: Vec<u8>) -> Result<Vec<u8>, DbError> {
    let charset = charset_of(codec, &packed);
    Ok(decoded(charset, unpack(codec, packed)?))
}

/// The body as it came.
///
/// # Errors
/// Where the stored bytes were damaged.
pub fn unpack(codec: i64, packed: Vec<u8>) -> Result<Vec<u8>, DbError> {
    let damaged = |why: String| DbError::new(DbFault::Broken, format!("failed to unpack a stored body: {why}"));
    match codec {
        PLAIN => Ok(packed),
        ZSTD => {
            let mut body = Vec::new();
            DECOMPRESSOR
                .with_borrow_mut(|context| {
                    // What was left of a damaged body must not be taken for the beginning of this one.
                    context.reset(ResetDirective::SessionOnly).map_err(|_| std::io::ErrorKind::Other)?;
                    let reader = Decoder::with_context(packed.as_slice(), context);
                    reader.take(LARGEST).read_to_end(&mut body)
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
        assert_eq!(Item(7).artifact(), None);
    }

    #[test]
    fn what_was_packed_comes_back_byte_for_byte() {
        for body in [&b""[..], b"x", &[b'a'; 10_000], "äöü€😀".as_bytes()] {
            let packed = pack(body);
            assert_eq!(unpack(packed.codec, packed.body.to_vec()).unwrap(), body);
        }
        assert_eq!(pack(&[b'a'; 10_000]).codec, ZSTD);
        assert!(unpack(ZSTD, b"not zstd".to_vec()).is_err());
        let whole = pack(&[b'a'; 10_000]).body.to_vec();
        assert!(unpack(ZSTD, whole[..whole.len() - 3].to_vec()).is_err());
        assert_eq!(unpack(ZSTD, whole).unwrap(), [b'a'; 10_000]);
    }

    #[test]
    fn a_declared_charset_is_kept_beside_the_bytes_as_they_came() {
        let latin = Charset::named("ISO-8859-1");
        for body in [&b"caf\xe9"[..], b"", &b"caf\xe9 ".repeat(100)] {
            let packed = pack_as(body, latin);
            assert_eq!(unpack(packed.codec, packed.body.to_vec()).unwrap(), body);
            let text = String::from_utf8(unpack_text(packed.codec, packed.body.to_vec()).unwrap()).unwrap();
            assert_eq!(text, String::from_utf8_lossy(body).replace('\u{fffd}', "é"));
        }
        assert_eq!(pack_as(b"x", None), pack(b"x"));
        let marked = pack(b"\xff\xfea\0");
        assert_eq!(unpack_text(marked.codec, marked.body.to_vec()).unwrap(), b"a");
    }

    #[test]
    fn what_was_packed_by_earlier_versions_can_be_read() {
        let without = Compressor::new(LEVEL).unwrap().compress(&[b'a'; 10_000]).unwrap();
        assert_eq!(unpack(ZSTD, without).unwrap(), [b'a'; 10_000]);
        let with = include_bytes!("item/packed.zst");
        assert_eq!(unpack(ZSTD, with.to_vec()).unwrap(), include_bytes!("item/packed.json"));
    }

    #[test]
    fn metadata_of_the_usual_kind_take_little() {
        let metadata = include_bytes!("item/packed.json");
        let packed = pack(metadata).body.len();
        assert!(packed * 3 < metadata.len(), "{packed} of {}", metadata.len());
    }
}
