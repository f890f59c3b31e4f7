//! Opaque cursors: a position, encrypted and bound to the question that it continues. Pure.
//!
//! A position may name a segment that the caller must not see, where a page ended after segments
//! that were left out. So a cursor is encrypted, and not only signed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ReadError, ReadFault};

/// Encrypts and decrypts cursors.
pub(super) struct CursorCodec(LessSafeKey);

impl CursorCodec {
    pub(super) fn new(secret: &[u8; 32]) -> Result<CursorCodec, ReadError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, secret).map_err(|_| failed())?;
        Ok(CursorCodec(LessSafeKey::new(key)))
    }

    /// A cursor of the question `scope`. `nonce` must be random.
    pub(super) fn seal(
        &self,
        scope: &str,
        position: &impl Serialize,
        nonce: [u8; NONCE_LEN],
    ) -> Result<String, ReadError> {
        let mut sealed = serde_json::to_vec(position).map_err(|_| failed())?;
        let key = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(key, Aad::from(scope), &mut sealed).map_err(|_| failed())?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), sealed.as_slice()].concat()))
    }

    /// The position of a cursor that was made for the question `scope`.
    pub(super) fn open<T: DeserializeOwned>(&self, scope: &str, cursor: &str) -> Result<T, ReadError> {
        self.decrypt(scope, cursor).ok_or_else(|| {
            ReadError::new(ReadFault::Invalid, "the cursor is not valid for this request")
                .with_hint("pass `next` of the last answer unchanged, with the same filters; or start without a cursor")
        })
    }

    fn decrypt<T: DeserializeOwned>(&self, scope: &str, cursor: &str) -> Option<T> {
        let mut sealed = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let nonce: [u8; NONCE_LEN] = sealed.get(..NONCE_LEN)?.try_into().ok()?;
        let sealed = sealed.get_mut(NONCE_LEN..)?;
        let position = self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(scope), sealed).ok()?;
        serde_json::from_slice(position).ok()
    }
}

fn failed() -> ReadError {
    ReadError::new(ReadFault::Unavailable, "failed to make a cursor")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codec(byte: u8) -> CursorCodec {
        CursorCodec::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_cursor_hides_its_position_and_continues_only_its_question() {
        let position = ("segment-of-another-channel".to_owned(), 7_i64);
        let cursor = codec(1).seal("segments a", &position, [3; NONCE_LEN]).unwrap();
        assert_eq!(codec(1).open::<(String, i64)>("segments a", &cursor).unwrap(), position);
        let decoded = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        assert!(!decoded.windows(7).any(|part| part == b"segment"));
        assert!(codec(1).open::<(String, i64)>("segments b", &cursor).is_err());
        assert!(codec(2).open::<(String, i64)>("segments a", &cursor).is_err());
        for at in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(codec(1).open::<(String, i64)>("segments a", &changed).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_and_does_no_harm(text in "\\PC{0,80}") {
            prop_assert!(codec(1).open::<Vec<i64>>("x", &text).is_err());
        }
    }
}
