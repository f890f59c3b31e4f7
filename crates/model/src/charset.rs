//! The charset of a received body: what its `Content-Type` declares, a byte order mark, else UTF-8.
//!
//! Pure. Each byte that is invalid in the charset becomes U+FFFD; no body is rejected.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// The number of bytes of a body that are inspected to detect its byte order.
const SAMPLE_BYTES: usize = 1024;

/// A declared charset other than UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// A charset whose byte order is known.
    Known(&'static Encoding),
    /// UTF-16 without a declared byte order.
    Utf16,
}

impl Charset {
    /// The charset that a `Content-Type` declares; `None` if it declares none, UTF-8, or an unknown
    /// one. ASCII counts as UTF-8, because its texts are the same.
    pub fn from_content_type(content_type: &str) -> Option<Charset> {
        let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
        let mut charsets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
        let (_, label) = charsets.next()?;
        Charset::from_label(label.trim().trim_matches(['"', '\'']))
    }

    /// Looks up a charset by [`Charset::name`], by a label of the web, or by the name that a server
    /// platform uses.
    pub fn from_label(label: &str) -> Option<Charset> {
        let label = label.to_ascii_lowercase();
        if label.ends_with("ascii") {
            return None;
        }
        let key: String = label.chars().filter(|letter| !matches!(letter, '-' | '_' | ' ')).collect();
        if matches!(&*key, "utf16" | "ucs2" | "unicode" | "iso10646ucs2" | "csunicode") {
            return Some(Charset::Utf16);
        }
        let of = |label: &str| Encoding::for_label_no_replacement(label.as_bytes());
        let encoding = of(&label).or_else(|| of(&key)).or_else(|| of(&web_label(&key)?))?;
        (encoding != UTF_8).then_some(Charset::Known(encoding))
    }

    /// The name of the charset.
    pub fn name(self) -> &'static str {
        match self {
            Charset::Known(encoding) => encoding.name(),
            Charset::Utf16 => "UTF-16",
        }
    }

    /// The encoding of a body, whose first bytes may tell the byte order.
    pub fn encoding_for(self, body: &[u8]) -> &'static Encoding {
        let (big, little) = byte_orders(body);
        match self {
            // RFC 2781: without any indication, UTF-16 is big-endian.
            Charset::Utf16 => {
                if little > big {
                    UTF_16LE
                } else {
                    UTF_16BE
                }
            }
            // Earlier versions stored this name also for UTF-16 without a declared byte order.
            Charset::Known(encoding)
                if encoding == UTF_16LE && little == 0 && big * 4 > body.len().min(SAMPLE_BYTES) =>
            {
                UTF_16BE
            }
            Charset::Known(encoding) => encoding,
        }
    }
}

/// Translates the name that a platform uses for a charset, without hyphens and underscores, to its
/// web label.
fn web_label(key: &str) -> Option<String> {
    Some(match key {
        "utf16le" | "ucs2le" => "utf-16le".to_owned(),
        "utf16be" | "ucs2be" => "utf-16be".to_owned(),
        "isolatin1" | "ansi" => "latin1".to_owned(),
        "latin9" | "isolatin9" => "iso-8859-15".to_owned(),
        "windows31j" | "cp932" | "ms932" | "shiftjis" => "shift_jis".to_owned(),
        "cp936" | "ms936" => "gbk".to_owned(),
        "cp949" | "ms949" | "euckr" => "euc-kr".to_owned(),
        "cp950" | "ms950" | "big5hkscs" => "big5".to_owned(),
        "eucjp" => "euc-jp".to_owned(),
        "iso2022jp" => "iso-2022-jp".to_owned(),
        "koi8r" => "koi8-r".to_owned(),
        "koi8u" => "koi8-u".to_owned(),
        "tis620" => "tis-620".to_owned(),
        "macroman" => "macintosh".to_owned(),
        _ => {
            let page = ["windows", "win", "ms", "ibm", "ansi"].iter().find_map(|prefix| key.strip_prefix(prefix));
            match (page, key.starts_with("8859")) {
                (Some(page), _) => format!("cp{page}"),
                (None, true) => format!("iso{key}"),
                (None, false) => return None,
            }
        }
    })
}

/// Counts the characters at the start of a UTF-16 body that indicate big-endian and little-endian
/// order. Spaces are counted; without any, all other characters below U+0100.
fn byte_orders(body: &[u8]) -> (usize, usize) {
    let units = || body.get(..SAMPLE_BYTES).unwrap_or(body).chunks_exact(2);
    let count = |is_meant: fn(u8) -> bool| {
        let big = units().filter(|unit| unit[0] == 0 && is_meant(unit[1])).count();
        (big, units().filter(|unit| unit[1] == 0 && is_meant(unit[0])).count())
    };
    match count(|byte| byte == b' ') {
        (0, 0) => count(|byte| byte != 0),
        blanks => blanks,
    }
}

/// Decodes a body. A byte order mark takes precedence over the declared charset, and is removed.
pub fn decode_text(declared: Option<Charset>, body: &[u8]) -> Cow<'_, str> {
    let (encoding, rest) = match (Encoding::for_bom(body), declared) {
        (Some((encoding, length)), _) => (encoding, body.get(length..).unwrap_or_default()),
        (None, Some(charset)) => (charset.encoding_for(body), body),
        (None, None) => (UTF_8, body),
    };
    if encoding == UTF_8 {
        return String::from_utf8_lossy(rest);
    }
    encoding.decode_without_bom_handling(rest).0
}

/// Decodes a body to UTF-8 bytes; does not copy a body that is UTF-8 already.
pub fn decode_to_utf8(declared: Option<Charset>, body: Vec<u8>) -> Vec<u8> {
    let is_utf8 = declared.is_none() && !matches!(body.as_slice(), [0xfe, 0xff, ..] | [0xff, 0xfe, ..]);
    if is_utf8 { body } else { decode_text(declared, &body).into_owned().into_bytes() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(content_type: &str, body: &[u8]) -> String {
        decode_text(Charset::from_content_type(content_type), body).into_owned()
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
            // The first characters may lie beyond U+00FF; without any indication the order is
            // big-endian.
            ("text/plain;charset=UTF-16", b"\x4e\x00\x4e\x8c\0 ", "一二 "),
            ("text/plain;charset=UTF-16", b"\x00\x4e\x8c\x4e \0", "一二 "),
            ("text/plain;charset=UTF-16", b"\x4e\x8c\x4e\x09", "二三"),
            ("text/plain;charset=utf16", b"\xe5e1\0\xff\0", "\u{65e5}1ÿ"),
            ("text/plain;charset=utf16", b"a\0\xe9\0", "aé"),
            ("text/plain;charset=UTF16LE", b"\x00\x4e\x8c\x4e", "一二"),
            ("text/plain;charset=utf_16be", b"\x4e\x8c", "二"),
            ("text/plain;charset=ucs-2", b"a\0", "a"),
            ("text/plain;charset=latin-1", b"caf\xe9", "café"),
            ("text/plain;charset=ISO8859_1", b"caf\xe9", "café"),
            ("text/plain;charset=8859_1", b"caf\xe9", "café"),
            ("text/plain;charset=ISO_8859_15", b"5 \xa4", "5 €"),
            ("text/plain;charset=cp1252", b"\x80 5", "€ 5"),
            ("text/plain;charset=CP-1252", b"\x80 5", "€ 5"),
            ("text/plain;charset=windows1252", b"\x80 5", "€ 5"),
            ("text/plain;charset=win-1251", b"\xcf", "П"),
            ("text/plain;charset=ShiftJIS", b"\x93\xfa", "日"),
            ("text/plain;charset=EUC_KR", b"\xb0\xa1", "가"),
            ("text/plain;charset=utf_8", "café".as_bytes(), "café"),
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
            label in "(iso[-_]?8859[-_][0-9]{1,2}|(windows|win|cp)[-_]?125[0-9]|utf[-_]?16(le|be)?|latin-?[1-9]|gbk|big5|euc-jp|koi8-r|hz-gb-2312|macintosh)",
            body in any::<Vec<u8>>(),
        ) {
            let charset = Charset::from_label(&label);
            prop_assert_eq!(charset.and_then(|charset| Charset::from_label(charset.name())), charset);
            let bytes = decode_to_utf8(charset, body.clone());
            let (bytes, text) = (String::from_utf8_lossy(&bytes), decode_text(charset, &body));
            prop_assert_eq!(bytes.trim_start_matches('\u{feff}'), text.trim_start_matches('\u{feff}'));
        }
    }
}
