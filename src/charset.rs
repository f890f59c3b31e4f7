//! The charset of a received body: what its `Content-Type` declares, a byte order mark, else UTF-8.
//!
//! Pure. Bytes that the charset does not know become U+FFFD one by one; nothing is refused.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// A declared charset other than UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charset(&'static Encoding);

impl Charset {
    /// The charset that a `Content-Type` declares; `None` where it declares none, UTF-8, or one that is not known. ASCII
    /// counts as UTF-8, since its texts are the same.
    pub fn declared(content_type: &str) -> Option<Charset> {
        let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
        let mut charsets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
        let (_, label) = charsets.next()?;
        Charset::named(label.trim().trim_matches(['"', '\'']))
    }

    /// The charset of this name, as [`Charset::name`] gives it, or any that the web knows it by.
    pub fn named(label: &str) -> Option<Charset> {
        if label.to_ascii_lowercase().ends_with("ascii") {
            return None;
        }
        let encoding = Encoding::for_label_no_replacement(label.as_bytes())?;
        (encoding != UTF_8).then_some(Charset(encoding))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// How to decode a body that begins so. `UTF-16` alone leaves the order of the bytes open: the first letter of a text,
    /// which is hardly ever beyond U+00FF, tells it.
    pub fn for_beginning(self, body: &[u8]) -> &'static Encoding {
        match body {
            [0, second, ..] if *second != 0 && self.0 == UTF_16LE => UTF_16BE,
            _ => self.0,
        }
    }
}

/// The text of a body. A byte order mark counts for more than what was declared, and is left out.
pub fn text(declared: Option<Charset>, body: &[u8]) -> Cow<'_, str> {
    let (encoding, rest) = match (Encoding::for_bom(body), declared) {
        (Some((encoding, length)), _) => (encoding, body.get(length..).unwrap_or_default()),
        (None, Some(charset)) => (charset.for_beginning(body), body),
        (None, None) => (UTF_8, body),
    };
    if encoding == UTF_8 {
        return String::from_utf8_lossy(rest);
    }
    encoding.decode_without_bom_handling(rest).0
}

/// The same as bytes of UTF-8, without a copy where the body is in UTF-8 already.
pub fn decoded(declared: Option<Charset>, body: Vec<u8>) -> Vec<u8> {
    let is_utf8 = declared.is_none() && !matches!(body.as_slice(), [0xfe, 0xff, ..] | [0xff, 0xfe, ..]);
    if is_utf8 { body } else { text(declared, &body).into_owned().into_bytes() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(content_type: &str, body: &[u8]) -> String {
        text(Charset::declared(content_type), body).into_owned()
    }

    #[test]
    fn a_body_is_read_as_declared_or_marked_or_as_utf_8() {
        for (content_type, body, expected) in [
            ("text/plain;charset=ISO-8859-1", &b"caf\xe9"[..], "café"),
            ("text/plain; CHARSET=\"windows-1252\"", b"\x80 5", "€ 5"),
            ("text/plain; charset='Shift_JIS'", b"\x93\xfa\x96{", "日本"),
            ("application/json;charset=UTF-16LE", b"a\0\xe9\0", "aé"),
            ("application/json;charset=UTF-16", b"\0a\0\xe9", "aé"),
            ("application/json;charset=UTF-16", b"\xfe\xff\0a\0\xe9", "aé"),
            ("application/json;charset=ISO-8859-1", b"\xef\xbb\xbfcaf\xc3\xa9", "café"),
            ("application/json", b"\xff\xfea\0\xe9\0", "aé"),
            ("application/json", b"caf\xe9 caf\xc3\xa9", "caf\u{fffd} café"),
            ("text/plain;charset=us-ascii", "café".as_bytes(), "café"),
            ("text/plain;charset=utf8", "café".as_bytes(), "café"),
            ("text/plain;charset=no-such", "café".as_bytes(), "café"),
            ("text/plain;charset", "café".as_bytes(), "café"),
            ("", "café".as_bytes(), "café"),
        ] {
            assert_eq!(read(content_type, body), expected, "{content_type} {body:?}");
        }
    }

    proptest! {
        #[test]
        fn a_charset_is_found_again_by_its_name_and_no_bytes_upset_it(
            label in "(iso-8859-[0-9]{1,2}|windows-125[0-9]|utf-16(le|be)?|gbk|big5|euc-jp|koi8-r|hz-gb-2312|macintosh)",
            body in any::<Vec<u8>>(),
        ) {
            let charset = Charset::named(&label);
            prop_assert_eq!(charset.and_then(|charset| Charset::named(charset.name())), charset);
            let bytes = decoded(charset, body.clone());
            let (bytes, text) = (String::from_utf8_lossy(&bytes), text(charset, &body));
            prop_assert_eq!(bytes.trim_start_matches('\u{feff}'), text.trim_start_matches('\u{feff}'));
        }
    }
}
