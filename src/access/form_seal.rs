//! Seals that bind a text of a page to the session that the page was shown to. Pure.
//!
//! A form carries one, so that another site, which cannot read our pages, cannot make a browser send
//! a form in someone's name (CSRF). So does the notice of a completed action, so that a link cannot
//! put words into our pages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

/// What a seal is for: one kind never passes as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SealPurpose {
    /// A form that carries out an action.
    Form,
    /// The text that says what an action did.
    Notice,
}

impl SealPurpose {
    const fn label(self) -> &'static str {
        match self {
            SealPurpose::Form => "form",
            SealPurpose::Notice => "notice",
        }
    }
}

/// The seal of a text for a session.
pub(super) fn seal(key: &[u8], purpose: SealPurpose, session: &str, text: &str) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(&signing_key(key), message(purpose, session, text).as_bytes()))
}

/// Whether this is the seal of the text for the session. Compares in constant time.
pub(super) fn is_sealed(key: &[u8], purpose: SealPurpose, session: &str, text: &str, given: &str) -> bool {
    let Ok(given) = URL_SAFE_NO_PAD.decode(given) else { return false };
    hmac::verify(&signing_key(key), message(purpose, session, text).as_bytes(), &given).is_ok()
}

fn signing_key(key: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

/// Neither a label nor a session's digest contains a line break.
fn message(purpose: SealPurpose, session: &str, text: &str) -> String {
    format!("{}\n{session}\n{text}", purpose.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_key_purpose_session_and_text_alone() {
        let made = seal(b"key", SealPurpose::Form, "session", "text");
        assert!(is_sealed(b"key", SealPurpose::Form, "session", "text", &made));
        assert!(!is_sealed(b"other", SealPurpose::Form, "session", "text", &made));
        assert!(!is_sealed(b"key", SealPurpose::Notice, "session", "text", &made));
        assert!(!is_sealed(b"key", SealPurpose::Form, "other", "text", &made));
        assert!(!is_sealed(b"key", SealPurpose::Form, "session", "other", &made));
        for given in ["", "x", "====", &made[1..], &format!("{made}A")] {
            assert!(!is_sealed(b"key", SealPurpose::Form, "session", "text", given), "{given}");
        }
    }
}
