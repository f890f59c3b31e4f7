//! E-mails in HTML as the text that people see.
//!
//! A page is neither laid out nor repaired: tags go, blocks become lines, entities their letters. What only looks like a tag
//! stays.

/// Tags by which a message is known to be HTML,
const PAGE: [&str; 5] = ["!doctype", "html", "head", "body", "br"];
/// and those that must be closed, too: someone may have written about one. Not those for letters alone, which people write in a
/// chat ([`INLINE`]).
const PAIRED: [&str; 22] = [
    "p",
    "div",
    "span",
    "table",
    "tbody",
    "tr",
    "td",
    "th",
    "font",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "pre",
    "center",
    "style",
];
/// Tags by which only an e-mail is known to be HTML; of these `a` and `img` elsewhere too, where they have an address.
const INLINE: [&str; 18] = [
    "a", "b", "strong", "i", "em", "u", "s", "strike", "del", "small", "big", "sub", "sup", "code", "img", "label",
    "title", "script",
];
/// Tags that begin a line.
const BLOCKS: [&str; 24] = [
    "p",
    "div",
    "br",
    "hr",
    "tr",
    "table",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "pre",
    "body",
    "html",
    "center",
    "section",
    "article",
    "header",
    "footer",
];
/// The longest name of a tag, in bytes.
const LONGEST_NAME: usize = 64;
/// What stands in these is not for people.
const HIDDEN: [&str; 4] = ["head", "style", "script", "title"];

/// The text of a message in HTML; `None` where it is none. That of an e-mail is by any tag that HTML has; by entities alone
/// only these are replaced, so that its lines stay.
pub(super) fn text(message: &str, is_email: bool) -> Option<String> {
    if !is_html(message, is_email) {
        let decoded = is_email.then(|| html_escape::decode_html_entities(message))?;
        return (decoded != message).then(|| decoded.into_owned());
    }
    let mut budget = budget(message);
    let mut text = Text::default();
    let mut rest = message;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        text.add(before);
        rest = match Tag::at(from, &mut budget) {
            None => {
                text.add("<");
                &from[1..]
            }
            Some(tag) => {
                match tag.name.as_str() {
                    "td" | "th" => text.space = true,
                    name if BLOCKS.contains(&name) => text.line(),
                    _ => {}
                }
                let after = &from[tag.length..];
                let hides = !tag.closes && HIDDEN.contains(&tag.name.as_str());
                if hides { closing(after, &tag.name, &mut budget).map_or(after, |end| &after[end..]) } else { after }
            }
        };
    }
    text.add(rest);
    text.out.truncate(text.out.trim_end().len());
    Some(text.out)
}

fn is_html(message: &str, is_email: bool) -> bool {
    let mut budget = budget(message);
    message.match_indices('<').any(|(at, from)| {
        let Some(tag) = Tag::at(&message[at..], &mut budget) else { return false };
        let name = tag.name.as_str();
        let (inside, after) = message[at + from.len()..].split_at(tag.length - from.len());
        let mut is_closed = || !tag.closes && closing(after, name, &mut budget).is_some();
        match name {
            _ if is_email && is_known(name) => true,
            "a" => has_attribute(inside, "href") && is_closed(),
            "img" => has_attribute(inside, "src"),
            _ => PAGE.contains(&name) || (PAIRED.contains(&name) && is_closed()),
        }
    })
}

/// Whether HTML has a tag of this name.
fn is_known(name: &str) -> bool {
    PAGE.contains(&name) || PAIRED.contains(&name) || BLOCKS.contains(&name) || INLINE.contains(&name)
}

/// Whether a tag has this attribute, with a value.
fn has_attribute(tag: &str, name: &str) -> bool {
    tag.split(char::is_whitespace).skip(1).any(|part| {
        let (head, rest) = part.split_at(part.floor_char_boundary(name.len()));
        head.eq_ignore_ascii_case(name) && (rest.is_empty() || rest.starts_with('='))
    })
}

/// How many bytes may be looked at in search of ends: a message full of beginnings must not take the square of its length.
fn budget(message: &str) -> usize {
    message.len().saturating_mul(8).saturating_add(4096)
}

/// As much of a text as may still be looked at.
fn within(text: &str, budget: usize) -> &str {
    &text[..text.floor_char_boundary(budget)]
}

/// Where the tag begins that closes this one.
fn closing(text: &str, name: &str, budget: &mut usize) -> Option<usize> {
    let text = within(text, *budget);
    let bytes = text.as_bytes();
    let end = text.match_indices("</").map(|(at, _)| at).find(|at| {
        let found = bytes.get(at + 2..at + 2 + name.len());
        let next = bytes.get(at + 2 + name.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
            && next.is_some_and(|next| *next == b'>' || next.is_ascii_whitespace())
    });
    *budget -= end.unwrap_or(text.len());
    end
}

/// A tag, a comment or a declaration.
struct Tag {
    /// In lower case; empty for a comment.
    name: String,
    closes: bool,
    length: usize,
}

impl Tag {
    /// The one at the beginning of a text.
    fn at(text: &str, budget: &mut usize) -> Option<Tag> {
        if let Some(comment) = text.strip_prefix("<!--") {
            let comment = within(comment, *budget);
            let end = comment.find("-->");
            *budget -= end.unwrap_or(comment.len());
            return Some(Tag { name: String::new(), closes: false, length: 4 + end? + 3 });
        }
        let inner = text.strip_prefix('<')?;
        let (closes, inner) = inner.strip_prefix('/').map_or((false, inner), |inner| (true, inner));
        let name = &inner[..inner.find(|letter: char| !of_name(letter)).filter(|length| *length <= LONGEST_NAME)?];
        let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '!' | '?'));
        let ends =
            inner[name.len()..].starts_with(|next: char| matches!(next, '>' | '/' | ']') || next.is_whitespace());
        if !begins || !ends {
            return None;
        }
        let looked_at = within(inner, *budget);
        let mut quote = None;
        let end = looked_at.bytes().position(|byte| {
            match (quote, byte) {
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), _) if open == byte => quote = None,
                (None, b'>') => return true,
                _ => {}
            }
            false
        });
        *budget -= end.unwrap_or(looked_at.len());
        Some(Tag { name: name.to_ascii_lowercase(), closes, length: text.len() - inner.len() + end? + 1 })
    }
}

fn of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '!' | '?' | ':' | '-' | '_' | '[')
}

/// What people see, spaces and empty lines drawn together.
#[derive(Default)]
struct Text {
    out: String,
    /// Whether a space comes before the next word.
    space: bool,
}

impl Text {
    fn add(&mut self, part: &str) {
        let part = html_escape::decode_html_entities(part);
        for letter in part.chars() {
            if letter.is_whitespace() {
                self.space = true;
                continue;
            }
            if self.space && !self.out.is_empty() && !self.out.ends_with('\n') {
                self.out.push(' ');
            }
            self.space = false;
            self.out.push(letter);
        }
    }

    fn line(&mut self) {
        self.space = false;
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_e_mail_is_read_as_its_text() {
        for (html, expected) in [
            (
                "<!DOCTYPE html><html><head><title>T</title><style>p > a {color:red}</style></head>\n<body><p class=\"x>y\">Dear\n  \
                 Ms&nbsp;Roe,</p><p>your <b>ref</b>und &amp; the caf&eacute;&#233;&#x20AC;<br/>A<3 &lt;b&gt;</p></body></html>",
                "Dear Ms Roe,\nyour refund & the caféé€\nA<3 <b>",
            ),
            ("Hello<br>World", "Hello\nWorld"),
            ("<DIV>one</DIV><DIV>two</DIV>", "one\ntwo"),
            ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
            (
                "<p>x<!-- no --><script>var a = '<p>';</script>y <anna@example.com> <o:p></o:p>&unknown;</p>",
                "xy <anna@example.com> &unknown;",
            ),
            ("<div>never closed <b", "never closed <b"),
            ("<p>a</p><style>x", "a\nx"),
        ] {
            if html.starts_with("<div>never") {
                assert_eq!(text(html, false), None);
                assert_eq!(text(&format!("<br>{html}"), false).as_deref(), Some(expected));
            } else {
                assert_eq!(text(html, false).as_deref(), Some(expected), "{html}");
            }
        }
    }

    #[test]
    fn what_only_speaks_of_html_stays() {
        for message in [
            "plain",
            "my <div> is broken",
            "a < b > c",
            "mail <anna@example.com>",
            "<3",
            "x <y",
            "&amp;",
            "<b>bold</b> & more",
            "a link is <a href=\"x\">",
            "<a name=\"x\">an anchor</a>",
            "<img> is for pictures",
            "<i>no</i> &lt;",
        ] {
            assert_eq!(text(message, false), None, "{message}");
        }
    }

    #[test]
    fn links_and_pictures_are_html() {
        for (html, expected) in [
            ("see <a href=\"https://example.com/?a=1&amp;b=2\">the&nbsp;page</a> &amp; call", "see the page & call"),
            ("<A class='x' HREF='y'>z</A>", "z"),
            ("<img src=\"cid:1\" alt=\"\">Regards", "Regards"),
            ("x <img width=1 src=y/> z", "x z"),
        ] {
            assert_eq!(text(html, false).as_deref(), Some(expected), "{html}");
            assert_eq!(text(html, true).as_deref(), Some(expected), "{html}");
        }
    }

    #[test]
    fn of_an_e_mail_any_tag_and_any_entity_counts() {
        for (html, expected) in [
            ("<b>bold</b> &amp; more", "bold & more"),
            ("<strong>a</strong> <i>b</i> <em>c</em> <u>d</u>", "a b c d"),
            ("never <b>closed", "never closed"),
            ("one\ntwo &amp; I&#39;d &eacute;", "one\ntwo & I'd é"),
        ] {
            assert_eq!(text(html, true).as_deref(), Some(expected), "{html}");
        }
        for plain in ["plain", "a < b & c", "<3", "mail <anna@example.com>", "x <y", "&unknown;"] {
            assert_eq!(text(plain, true), None, "{plain}");
        }
    }

    #[test]
    fn a_message_full_of_beginnings_is_read_all_the_same() {
        for beginning in ["<p>", "<p \"", "<style>", "<!-- ", "</p", "<x", "&"] {
            let message = format!("<br>{}", beginning.repeat(100_000));
            assert!(text(&message, false).is_some() && text(&message, true).is_some());
        }
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(message in "(<|>|/|!|-|\"|&|;|#|p|br|style|td|é| |\n){0,40}") {
            text(&message, false);
            text(&message, true);
        }

        #[test]
        fn no_word_is_lost(words in proptest::collection::vec("[a-zé]{1,8}", 1..8)) {
            let html = format!("<html><body>{}</body></html>", words.iter().map(|word| format!("<p>{word}</p>")).collect::<String>());
            let read = text(&html, false).unwrap();
            prop_assert_eq!(read.split_whitespace().collect::<Vec<_>>(), words);
        }
    }
}
