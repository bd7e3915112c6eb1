//! How a record looks: as a line, as JSON, as hexadecimal digits, as raw bytes.

use std::io::{self, Write};

use seawall::{Lsn, Record, RecordRef};
use serde::{Deserialize, Serialize};

/// A record, wherever its bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) kind: u16,
    pub(crate) meta: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> From<&'a Record> for View<'a> {
    fn from(record: &'a Record) -> View<'a> {
        let lsn = record.lsn();
        View { lsn, kind: record.kind(), meta: record.meta(), payload: record.payload() }
    }
}

impl<'a> From<&RecordRef<'a>> for View<'a> {
    fn from(record: &RecordRef<'a>) -> View<'a> {
        let lsn = record.lsn();
        View { lsn, kind: record.kind(), meta: record.meta(), payload: record.payload() }
    }
}

/// A record in JSON. Bytes that are no UTF-8 are in hexadecimal digits.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Json {
    /// `append` ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lsn: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload_hex: Option<String>,
    /// `tail` alone: whether it is proven that the record is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proven: Option<bool>,
}

impl Json {
    pub(crate) fn of(record: View<'_>) -> Json {
        let (meta, meta_hex) = match record.meta {
            [] => (None, None),
            bytes => text_or_hex(bytes),
        };
        let (payload, payload_hex) = text_or_hex(record.payload);
        let lsn = Some(record.lsn.get());
        let kind = Some(record.kind);
        Json { lsn, kind, meta, meta_hex, payload, payload_hex, proven: None }
    }

    /// Returns meta and payload.
    pub(crate) fn into_bytes(self) -> Result<(Vec<u8>, Vec<u8>), String> {
        let meta = one_of(self.meta, self.meta_hex, "meta")?.unwrap_or_default();
        let payload = one_of(self.payload, self.payload_hex, "payload")?;
        Ok((meta, payload.ok_or("it has no `payload` and no `payload_hex`")?))
    }
}

fn one_of(
    text: Option<String>,
    digits: Option<String>,
    what: &str,
) -> Result<Option<Vec<u8>>, String> {
    match (text, digits) {
        (Some(_), Some(_)) => Err(format!("it has both `{what}` and `{what}_hex`")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(digits)) => unhex(&digits)
            .map(Some)
            .ok_or_else(|| format!("`{what}_hex` does not hold pairs of hexadecimal digits")),
        (None, None) => Ok(None),
    }
}

fn text_or_hex(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(hex(bytes))),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        digits.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Writes a record as one line. Control characters are escaped, so that no record can disturb the
/// terminal.
pub(crate) fn write_line(
    out: &mut impl Write,
    record: View<'_>,
    is_proven: bool,
) -> io::Result<()> {
    write!(out, "{:>10}  ", record.lsn)?;
    if !is_proven {
        out.write_all(b"unproven  ")?;
    }
    if record.kind != 0 {
        write!(out, "kind {}  ", record.kind)?;
    }
    if !record.meta.is_empty() {
        write!(out, "meta {}  ", visible(record.meta))?;
    }
    writeln!(out, "{}", visible(record.payload))
}

/// Shows bytes: text as it is, everything else escaped.
fn visible(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => shown.push_str("\\\\"),
                letter if letter.is_control() => shown.extend(letter.escape_default()),
                letter => shown.push(letter),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Writes a record as a head and lines of 16 bytes.
pub(crate) fn write_hex(out: &mut impl Write, record: View<'_>) -> io::Result<()> {
    let bytes = record.payload.len();
    writeln!(out, "LSN {}, kind {}, {bytes} bytes", record.lsn, record.kind)?;
    if !record.meta.is_empty() {
        writeln!(out, "  meta {}", hex(record.meta))?;
    }
    for (at, line) in record.payload.chunks(16).enumerate() {
        write!(out, "  {:08x} ", at * 16)?;
        for place in 0..16 {
            if place == 8 {
                out.write_all(b" ")?;
            }
            match line.get(place) {
                Some(byte) => write!(out, " {byte:02x}")?,
                None => out.write_all(b"   ")?,
            }
        }
        let is_shown = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let letter = |byte: &u8| if is_shown(*byte) { *byte as char } else { '.' };
        writeln!(out, "  |{}|", line.iter().map(letter).collect::<String>())?;
    }
    Ok(())
}

/// Returns the length that goes before a payload.
pub(crate) fn length_prefix(lsn: Lsn, payload: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(payload.len());
    let too_long = |_| io::Error::other(format!("the record {lsn} is longer than 4 GiB"));
    Ok(length.map_err(too_long)?.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_become_the_bytes_that_they_show() {
        assert_eq!(unhex(&hex(&[0, 1, 0xfe, 0xff])), Some(vec![0, 1, 0xfe, 0xff]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
    }

    #[test]
    fn no_byte_reaches_the_terminal_as_a_command() {
        assert_eq!(visible(b"debit 7"), "debit 7");
        assert_eq!(visible("grüß\n\x1b[2J\\".as_bytes()), r"grüß\n\u{1b}[2J\\");
        assert_eq!(visible(b"\xff\xfeok"), r"\xff\xfeok");
    }

    #[test]
    fn json_takes_one_form_of_each_part() {
        let take = |text: &str| serde_json::from_str::<Json>(text).unwrap().into_bytes();
        assert_eq!(take(r#"{"payload":"a","meta_hex":"ff"}"#), Ok((vec![0xff], vec![b'a'])));
        assert!(take(r#"{"payload":"a","payload_hex":"61"}"#).is_err());
        assert!(take(r#"{"kind":1}"#).is_err());
    }
}
