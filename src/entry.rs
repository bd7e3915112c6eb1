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
    pub fn new(payload: impl Into<EntryBytes<'a>>) -> Entry<'a> {
        Entry { payload: payload.into().0, meta: Cow::Borrowed(&[]), kind: 0 }
    }

    /// Sets the meta bytes, which are stored beside the payload: at most 65,535 bytes.
    ///
    /// # Examples
    /// ```
    /// use seawall::Entry;
    /// assert_eq!(Entry::new("debit 7").with_meta("account 3").meta(), b"account 3");
    /// ```
    #[must_use]
    pub fn with_meta(mut self, meta: impl Into<EntryBytes<'a>>) -> Entry<'a> {
        self.meta = meta.into().0;
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

impl<'a, B: Into<EntryBytes<'a>>> From<B> for Entry<'a> {
    fn from(payload: B) -> Entry<'a> {
        Entry::new(payload)
    }
}

/// The bytes of a payload or of meta: lent by the caller, or given away.
///
/// It converts from every reference to bytes or text, such as `&str`, `&[u8]`, `&[u8; N]`,
/// `&String`, `&Vec<u8>` and `&Arc<[u8]>`, and from what owns bytes or text. An [`Entry`] does not
/// convert into it: its kind and its meta would be lost.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// for number in 1..=3 {
///     wal.append(format!("job {number}"))?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
/// ```compile_fail
/// use seawall::Entry;
/// let entry = Entry::new("payload").with_kind(7);
/// let _ = Entry::new("other").with_meta(entry); // An entry is not bytes.
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryBytes<'a>(Cow<'a, [u8]>);

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for EntryBytes<'a> {
    fn from(bytes: &'a T) -> EntryBytes<'a> {
        EntryBytes(Cow::Borrowed(bytes.as_ref()))
    }
}

impl<'a> From<Cow<'a, [u8]>> for EntryBytes<'a> {
    fn from(bytes: Cow<'a, [u8]>) -> EntryBytes<'a> {
        EntryBytes(bytes)
    }
}

impl<'a> From<Cow<'a, str>> for EntryBytes<'a> {
    fn from(text: Cow<'a, str>) -> EntryBytes<'a> {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl From<Vec<u8>> for EntryBytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        EntryBytes(Cow::Owned(bytes))
    }
}

impl From<String> for EntryBytes<'_> {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<Box<[u8]>> for EntryBytes<'_> {
    fn from(bytes: Box<[u8]>) -> Self {
        bytes.into_vec().into()
    }
}

impl From<Box<str>> for EntryBytes<'_> {
    fn from(text: Box<str>) -> Self {
        text.into_string().into()
    }
}

impl<const N: usize> From<[u8; N]> for EntryBytes<'_> {
    fn from(bytes: [u8; N]) -> Self {
        bytes.to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn all_that_is_or_owns_bytes_or_text_converts() {
        let vec = b"ab".to_vec();
        let string = String::from("ab");
        let shared: Arc<[u8]> = Arc::from(*b"ab");
        let entries: [Entry; 15] = [
            b"ab".into(),
            b"ab".as_slice().into(),
            "ab".into(),
            (&"ab").into(),
            (&vec).into(),
            (&string).into(),
            (&shared).into(),
            (*b"ab").into(),
            vec.clone().into(),
            string.clone().into(),
            vec.clone().into_boxed_slice().into(),
            string.clone().into_boxed_str().into(),
            Cow::Borrowed("ab").into(),
            Cow::<str>::Owned(string.clone()).into(),
            Cow::Borrowed(&vec[..]).into(),
        ];
        for entry in &entries {
            assert_eq!((entry.payload(), entry.meta(), entry.kind()), (&b"ab"[..], &b""[..], 0));
        }
    }
}
