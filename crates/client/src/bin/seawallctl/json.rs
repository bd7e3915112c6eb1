//! A record in JSON. Bytes that are no UTF-8 are in hexadecimal digits.

use seawall_client::Record;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Json {
    /// `produce` ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// `produce` ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<JsonHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHeader {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

impl Json {
    pub(crate) fn of(record: &Record) -> Json {
        let (key, key_hex) = match &*record.key {
            [] => (None, None),
            bytes => text_or_hex(bytes),
        };
        let (value, value_hex) = text_or_hex(&record.value);
        let header = |own: &seawall_client::Header| {
            let (value, value_hex) = text_or_hex(&own.value);
            JsonHeader { name: own.name.clone(), value, value_hex }
        };
        Json {
            offset: Some(record.offset),
            term: Some(record.term),
            timestamp_ms: Some(record.timestamp_ms),
            kind: Some(record.kind).filter(|kind| *kind != 0),
            key,
            key_hex,
            headers: record.headers.iter().map(header).collect(),
            value,
            value_hex,
        }
    }

    pub(crate) fn into_record(self) -> Result<Record, String> {
        let value = one_of(self.value, self.value_hex, "value")?;
        let value = value.ok_or("it has no `value` and no `value_hex`")?;
        let mut record = Record::new(value)
            .with_key(one_of(self.key, self.key_hex, "key")?.unwrap_or_default())
            .with_kind(self.kind.unwrap_or(0))
            .with_timestamp_ms(self.timestamp_ms.unwrap_or(0));
        for header in self.headers {
            let value = one_of(header.value, header.value_hex, "value")?.unwrap_or_default();
            record = record.with_header(header.name, value);
        }
        Ok(record)
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
        Err(_) => (None, Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())),
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        digits.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        // Method: print and read a record that has everything, with bytes that are no text.
        let record = Record::new(vec![0xff, 0])
            .with_key("k")
            .with_kind(3)
            .with_timestamp_ms(7)
            .with_header("h", vec![0xfe])
            .with_header("h", "text");
        let text = serde_json::to_string(&Json::of(&record)).expect("it is JSON");
        let json: Json = serde_json::from_str(&text).expect("it is the same format");
        assert_eq!(json.into_record(), Ok(record));
        let wrong = ["{}", r#"{"value":"a","value_hex":"00"}"#, r#"{"value_hex":"0"}"#];
        for text in wrong {
            let json: Json = serde_json::from_str(text).expect("it is JSON");
            assert!(json.into_record().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Json>(r#"{"values":"a"}"#).is_err());
    }
}
