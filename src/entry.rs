//! `Entry`: what goes into the log, and its conversions.

use std::borrow::Cow;

/// One record to append: a payload, optional meta bytes and a kind. The log looks into none of
/// them.
///
/// The payload has 0 to [`record_bytes_max`](crate::Options::record_bytes_max) bytes, and the meta
/// has 0 to 65,535. Bytes and text convert into an entry without meta and of kind 0. Borrowed bytes
/// are copied once, into the log's buffer.
///
/// # Examples
/// ```
/// use seawall::Entry;
/// let plain: Entry = "debit 7".into();
/// let tagged = Entry::new(b"debit 7").with_meta(b"account 3").with_kind(2);
/// assert_eq!(plain.payload(), tagged.payload());
/// assert_eq!((tagged.meta(), tagged.kind()), (&b"account 3"[..], 2));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    payload: Cow<'a, [u8]>,
    meta: Cow<'a, [u8]>,
    kind: u16,
}

impl<'a> Entry<'a> {
    /// Makes an entry of `payload`, without meta and of kind 0.
    ///
    /// # Examples
    /// ```
    /// use seawall::Entry;
    /// assert_eq!(Entry::new("debit 7").payload(), b"debit 7");
    /// ```
    pub fn new(payload: impl Into<Entry<'a>>) -> Entry<'a> {
        payload.into()
    }

    /// Sets the meta bytes, which are stored beside the payload: at most 65,535 bytes.
    ///
    /// # Examples
    /// ```
    /// use seawall::Entry;
    /// assert_eq!(Entry::new("debit 7").with_meta("account 3").meta(), b"account 3");
    /// ```
    #[must_use]
    pub fn with_meta(mut self, meta: impl Into<Entry<'a>>) -> Entry<'a> {
        self.meta = meta.into().payload;
        self
    }

    /// Sets the kind. Default 0.
    ///
    /// # Examples
    /// ```
    /// use seawall::Entry;
    /// assert_eq!(Entry::new("debit 7").with_kind(2).kind(), 2);
    /// ```
    #[must_use]
    pub fn with_kind(mut self, kind: u16) -> Entry<'a> {
        self.kind = kind;
        self
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the meta bytes.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind
    }
}

impl<'a> From<&'a [u8]> for Entry<'a> {
    fn from(payload: &'a [u8]) -> Entry<'a> {
        Entry { payload: Cow::Borrowed(payload), meta: Cow::Borrowed(&[]), kind: 0 }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Entry<'a> {
    fn from(payload: &'a [u8; N]) -> Entry<'a> {
        payload.as_slice().into()
    }
}

impl<'a> From<&'a str> for Entry<'a> {
    fn from(payload: &'a str) -> Entry<'a> {
        payload.as_bytes().into()
    }
}

impl<'a> From<&'a Vec<u8>> for Entry<'a> {
    fn from(payload: &'a Vec<u8>) -> Entry<'a> {
        payload.as_slice().into()
    }
}

impl<'a> From<&'a String> for Entry<'a> {
    fn from(payload: &'a String) -> Entry<'a> {
        payload.as_bytes().into()
    }
}

impl From<Vec<u8>> for Entry<'_> {
    fn from(payload: Vec<u8>) -> Self {
        Entry { payload: Cow::Owned(payload), meta: Cow::Borrowed(&[]), kind: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_bytes_converts() {
        let vec = b"ab".to_vec();
        let string = String::from("ab");
        let entries: [Entry; 6] = [
            b"ab".into(),
            b"ab".as_slice().into(),
            "ab".into(),
            (&vec).into(),
            (&string).into(),
            vec.clone().into(),
        ];
        for entry in &entries {
            assert_eq!((entry.payload(), entry.meta(), entry.kind()), (&b"ab"[..], &b""[..], 0));
        }
    }
}
