//! Takes out of texts what must not leave: card numbers, e-mail addresses, telephone numbers, own patterns.
//!
//! Pure. The archive keeps the original; this is for what goes out. Whatever it takes out it replaces by a name in
//! brackets, and what it has been over once it leaves alone: the second time changes nothing. JSON stays JSON, and
//! whatever is no free text in it stays as it is, byte for byte. What it does not catch, `docs/export.md` says.

mod digits;
mod email;
mod json;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use regex::Regex;

use crate::config::Redact;
use crate::model::{PhoneNumber, fold_char, is_plain};
use json::Role;

/// What is taken out, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    email: bool,
    card: bool,
    phone: bool,
    own: Vec<Regex>,
    /// What stands for each: e-mail, card, telephone, then the own ones.
    names: Vec<String>,
    /// Those of them that may stand in a text.
    used: Vec<String>,
}

const EMAIL: usize = 0;
const CARD: usize = 1;
const PHONE: usize = 2;
const OWN: usize = 3;

/// A stretch of a text, and the number of what was found there.
#[derive(Debug, Clone)]
struct Find {
    place: Range<usize>,
    what: usize,
}

impl Redactor {
    /// From a sink's settings, or an export's options.
    pub fn new(rules: &[Redact]) -> Redactor {
        let mut redactor =
            Redactor { names: ["[email]", "[card]", "[phone]"].map(str::to_owned).to_vec(), ..Redactor::default() };
        for rule in rules {
            match rule {
                Redact::Card => redactor.card = true,
                Redact::Email => redactor.email = true,
                Redact::Phone => redactor.phone = true,
                Redact::Pattern { name, pattern } => {
                    // A bracket in it would make it impossible to see where a name ends.
                    let name: String = name.chars().filter(|letter| !matches!(letter, '[' | ']')).collect();
                    redactor.names.push(format!("[{name}]"));
                    redactor.own.push(pattern.clone());
                }
            }
        }
        let on = |what| match what {
            EMAIL => redactor.email,
            CARD => redactor.card,
            PHONE => redactor.phone,
            _ => true,
        };
        redactor.used =
            redactor.names.iter().enumerate().filter(|(what, _)| on(*what)).map(|(_, name)| name.clone()).collect();
        redactor
    }

    /// Whether it takes out nothing at all.
    pub fn is_idle(&self) -> bool {
        self.used.is_empty()
    }

    /// A text without what is to be taken out.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut left = Cow::Borrowed(text);
        // Until nothing is found any more: what was taken out may have stood between parts of something else. Each round
        // leaves less of the original, so there is a last one.
        while let Some(less) = self.round(&left) {
            left = Cow::Owned(less);
        }
        left
    }

    /// A transcript's body without it; field for field as the API sent it otherwise. What is no JSON is a text.
    pub fn transcript<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        self.bytes(body, |text| self.document(text))
    }

    /// A segment's metadata, JSON, without it. What is no JSON is a text.
    pub fn metadata<'m>(&self, metadata: &'m str) -> Cow<'m, str> {
        if self.is_idle() {
            return Cow::Borrowed(metadata);
        }
        self.document(metadata)
    }

    /// A summary's body without it: a JSON string, which stays one, or else a text.
    pub fn summary<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        self.bytes(body, |text| match json::is_string(text) {
            true => self.document(text),
            false => self.text(text),
        })
    }

    fn bytes<'b>(&self, body: &'b [u8], redact: impl Fn(&str) -> Cow<'_, str>) -> Cow<'b, [u8]> {
        if self.is_idle() {
            return Cow::Borrowed(body);
        }
        let text = String::from_utf8_lossy(body);
        match redact(&text) {
            Cow::Borrowed(_) => Cow::Borrowed(body),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }

    /// JSON, its free texts one by one; anything else as one text.
    fn document<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut left = Cow::Borrowed(text);
        loop {
            let edited = match json::edit(&left, |role, text| self.value(role, text)) {
                Some(Cow::Borrowed(_)) => return left,
                Some(Cow::Owned(edited)) => return Cow::Owned(edited),
                None => match self.text(&left) {
                    Cow::Borrowed(_) => return left,
                    Cow::Owned(less) => less,
                },
            };
            // A text without what was taken out of it may, by a whim of an own name, be JSON.
            left = Cow::Owned(edited);
        }
    }

    /// What becomes of a string in JSON; `None` if it stays.
    fn value(&self, role: Role, text: &str) -> Option<String> {
        match role {
            Role::Fixed => None,
            Role::Endpoint if self.phone => Some(self.endpoint(text)).filter(|less| less != text),
            Role::Participant if self.phone && number(text).is_some_and(|number| number.is_long()) => {
                self.names.get(PHONE).cloned()
            }
            // An id that is no address stays one.
            Role::Participant if !text.contains('@') => None,
            Role::Endpoint | Role::Participant | Role::Text => match self.text(text) {
                Cow::Borrowed(_) => None,
                Cow::Owned(less) => Some(less),
            },
        }
    }

    /// What becomes of a number, or of several, or of those with names beside them: `Jane <+49…>`.
    fn endpoint(&self, text: &str) -> String {
        const BETWEEN: [char; 4] = [',', ';', '<', '>'];
        let phone = self.names.get(PHONE).map_or("[]", String::as_str);
        if number(text).is_some() {
            return phone.to_owned();
        }
        let mut less = String::with_capacity(text.len());
        for piece in text.split_inclusive(BETWEEN) {
            let bare = piece.trim_end_matches(BETWEEN);
            less.push_str(if number(bare).is_some() { phone } else { bare });
            less.push_str(&piece[bare.len()..]);
        }
        self.text(&less).into_owned()
    }

    fn round(&self, text: &str) -> Option<String> {
        let taken = self.taken(text);
        let mut finds = self.own_finds(text, &taken);
        let mut from = 0;
        for end in taken.iter().chain(std::iter::once(&(text.len()..text.len()))) {
            self.known_finds(&text[from..end.start], from, &mut finds);
            from = end.end;
        }
        if finds.is_empty() {
            return None;
        }
        let mut less = String::with_capacity(text.len());
        let mut from = 0;
        for find in merged(finds) {
            less.push_str(&text[from..find.place.start]);
            less.push_str(self.names.get(find.what).map_or("[]", String::as_str));
            from = find.place.end;
        }
        less.push_str(&text[from..]);
        Some(less)
    }

    /// Where something was taken out before.
    fn taken(&self, text: &str) -> Vec<Range<usize>> {
        let mut taken = Vec::new();
        let mut from = 0;
        while let Some(at) = text[from..].find('[').map(|at| from + at) {
            let name = self.used.iter().find(|name| text[at..].starts_with(name.as_str()));
            from = at + name.map_or(1, String::len);
            if name.is_some() {
                taken.push(at..from);
            }
        }
        taken
    }

    /// What own patterns match, but for what touches something taken out before.
    fn own_finds(&self, text: &str, taken: &[Range<usize>]) -> Vec<Find> {
        let is_new = |place: &Range<usize>| {
            let next = taken.partition_point(|old| old.end <= place.start);
            taken.get(next).is_none_or(|old| old.start >= place.end)
        };
        let mut finds = Vec::new();
        for (index, pattern) in self.own.iter().enumerate() {
            let places = pattern.find_iter(text).map(|found| found.range());
            let new = places.filter(|place| !place.is_empty() && is_new(place));
            finds.extend(new.map(|place| Find { place, what: OWN + index }));
        }
        finds
    }

    /// Addresses, cards and telephones in a piece that begins at `offset`, each where no earlier kind was found.
    fn known_finds(&self, piece: &str, offset: usize, finds: &mut Vec<Find>) {
        let folded = Folded::of(piece);
        let mut rest = folded.text.clone();
        for (on, what) in [(self.email, EMAIL), (self.card, CARD), (self.phone, PHONE)] {
            let places = match what {
                _ if !on => continue,
                EMAIL => email::find(&rest),
                CARD => digits::cards(&rest),
                _ => digits::phones(&rest),
            };
            for place in places {
                let origin = folded.origin(&place);
                finds.push(Find { place: offset + origin.start..offset + origin.end, what });
                let blank = "\u{1}".repeat(place.len());
                rest.to_mut().replace_range(place, &blank);
            }
        }
    }
}

/// One number and nothing else, also where letters of it were lost.
fn number(text: &str) -> Option<PhoneNumber> {
    PhoneNumber::parse(&text.replace(char::REPLACEMENT_CHARACTER, " "))
}

/// A text with its digits and marks in their plainest form, without what nobody sees.
struct Folded<'t> {
    text: Cow<'t, str>,
    /// For each byte where the character that it comes of stood; none where nothing was changed.
    origins: Vec<Range<usize>>,
}

impl<'t> Folded<'t> {
    fn of(text: &'t str) -> Folded<'t> {
        if text.chars().all(is_plain) {
            return Folded { text: Cow::Borrowed(text), origins: Vec::new() };
        }
        let (mut folded, mut origins) = (String::with_capacity(text.len()), Vec::with_capacity(text.len()));
        let mut push = |folded: &mut String, letter: char, origin: Range<usize>| {
            folded.push(letter);
            origins.resize(folded.len(), origin);
        };
        let mut unseen = None;
        for (at, original) in text.char_indices() {
            let origin = at..at + original.len_utf8();
            let Some(letter) = fold_char(original) else {
                unseen = Some(origin);
                continue;
            };
            // It may part a word from a number.
            let meets = |before: char| before.is_alphanumeric() && before.is_numeric() != letter.is_numeric();
            if let Some(gap) =
                unseen.take().filter(|_| letter.is_alphanumeric() && folded.chars().next_back().is_some_and(meets))
            {
                push(&mut folded, ' ', gap);
            }
            push(&mut folded, letter, origin);
        }
        Folded { text: Cow::Owned(folded), origins }
    }

    /// Where a part of it stood.
    fn origin(&self, place: &Range<usize>) -> Range<usize> {
        match (self.origins.get(place.start), self.origins.get(place.end.saturating_sub(1))) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => place.clone(),
        }
    }
}

/// In order, those that overlap as one, named by the widest.
fn merged(mut finds: Vec<Find>) -> Vec<Find> {
    finds.sort_by_key(|find| (find.place.start, find.what));
    let mut merged: Vec<(Find, usize)> = Vec::new();
    for find in finds {
        let wide = find.place.len();
        match merged.last_mut() {
            Some((last, widest)) if find.place.start < last.place.end => {
                last.place.end = last.place.end.max(find.place.end);
                if wide > *widest || (wide == *widest && find.what < last.what) {
                    (last.what, *widest) = (find.what, wide);
                }
            }
            _ => merged.push((find, wide)),
        }
    }
    merged.into_iter().map(|(find, _)| find).collect()
}
