//! What both databases write in the same way: numbers and packed columns whose meaning is in their files.
//!
//! Must not know SQL.

use marquee_engine::types::{Item, TimeMs};

use super::{KeyHash, Repeat, SlateRecord, SlateRows};
use crate::error::{Error, Result};

/// What a row of the log is.
pub(super) const EVENT: i64 = 0;
pub(super) const UPSERT: i64 = 1;
pub(super) const DELETE: i64 = 2;
pub(super) const MERGE: i64 = 3;
pub(super) const ERASURE: i64 = 4;

/// One row of repeats holds at most so many: a look-up reads whole rows.
const ROW_MAX_REPEATS: usize = 4_096;
/// A row of repeats spans less than this: they are written many times a second.
pub(super) const ROW_MAX_MS: TimeMs = 600_000;

/// A row that does not read back as it was written.
pub(super) fn corrupt(what: &str) -> Error {
    Error::internal("reading the store", format!("corrupt row: {what}"))
}

/// An erasure's payload: the hashes in hex.
pub(super) fn hashes_to_hex(hashes: &[KeyHash]) -> String {
    hashes.iter().map(|hash| format!("{hash:?}")).collect::<Vec<_>>().join(" ")
}

/// Reads an erasure's payload.
pub(super) fn hashes_from_hex(payload: &str) -> Result<Vec<KeyHash>> {
    let hash = |text: &str| hex_to_bytes(text).and_then(|bytes| KeyHash::from_bytes(&bytes));
    payload.split_whitespace().map(hash).collect::<Option<_>>().ok_or_else(|| corrupt("key hash"))
}

/// Bytes from pairs of hexadecimal digits.
pub(super) fn hex_to_bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

/// Two hexadecimal digits for each byte.
pub(super) fn bytes_to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// What the catalogue has under an id.
pub(super) enum Kept {
    Present(String),
    Deleted,
}

impl Kept {
    /// The item that is there.
    pub(super) fn item(&self) -> Result<Option<Item>> {
        match self {
            Kept::Present(json) => parse_item(json).map(Some),
            Kept::Deleted => Ok(None),
        }
    }
}

/// The item as it is kept: the moment of its creation is its own, else the one known already, else the given one.
pub(super) fn item_json(item: &Item, kept: Option<&Kept>, created: Option<TimeMs>) -> Result<String> {
    let mut item = item.clone();
    if item.created_ms.is_none() {
        item.created_ms = match kept {
            Some(Kept::Present(old)) => parse_item(old)?.created_ms.or(created),
            _ => created,
        };
    }
    serde_json::to_string(&item).map_err(|error| Error::internal("writing an item", error))
}

pub(super) fn parse_item(json: &str) -> Result<Item> {
    serde_json::from_str(json).map_err(|error| corrupt(&format!("item: {error}")))
}

/// A slate's columns beside its id, user and moment.
pub(super) struct SlateColumns {
    pub(super) json: String,
    pub(super) columns_hash: Option<i64>,
    /// JSON list.
    pub(super) row_items: Option<String>,
    /// f32, little-endian, row-major.
    pub(super) row_features: Option<Vec<u8>>,
}

impl SlateColumns {
    pub(super) fn of(slate: &SlateRecord) -> Result<SlateColumns> {
        let rows = slate.rows.as_ref();
        Ok(SlateColumns {
            json: serde_json::to_string(slate).map_err(|error| Error::internal("writing a slate", error))?,
            columns_hash: rows.map(|rows| rows.columns_hash as i64),
            row_items: rows.map(|rows| serde_json::Value::from(rows.items.clone()).to_string()),
            row_features: rows.map(|rows| rows.features.iter().flat_map(|value| value.to_le_bytes()).collect()),
        })
    }

    pub(super) fn read(self) -> Result<SlateRecord> {
        let mut slate: SlateRecord =
            serde_json::from_str(&self.json).map_err(|error| corrupt(&format!("slate: {error}")))?;
        if let Some(columns_hash) = self.columns_hash {
            let (items, bytes) = (self.row_items.unwrap_or_default(), self.row_features.unwrap_or_default());
            let (floats, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(corrupt("feature rows"));
            }
            slate.rows = Some(SlateRows {
                columns_hash: columns_hash as u64,
                items: serde_json::from_str(&items).map_err(|error| corrupt(&format!("row items: {error}")))?,
                features: floats.iter().map(|float| f32::from_le_bytes(*float)).collect(),
            });
        }
        Ok(slate)
    }
}

/// A row of repeats.
pub(super) struct RepeatsRow {
    pub(super) first_ms: TimeMs,
    pub(super) last_ms: TimeMs,
    pub(super) entries: Vec<u8>,
}

/// The rows that hold these repeats.
pub(super) fn pack(repeats: &[Repeat]) -> Vec<RepeatsRow> {
    let near = repeats.chunk_by(|a, b| (a.now_ms - b.now_ms).abs() < ROW_MAX_MS / 2);
    let row = |part: &[Repeat]| {
        let times = || part.iter().map(|repeat| repeat.now_ms);
        RepeatsRow {
            first_ms: times().min().unwrap_or_default(),
            last_ms: times().max().unwrap_or_default(),
            entries: pack_row(part),
        }
    };
    near.flat_map(|chunk| chunk.chunks(ROW_MAX_REPEATS)).map(row).collect()
}

fn pack_row(repeats: &[Repeat]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(repeats.len() * 88);
    for repeat in repeats {
        for id in [&*repeat.slate_id, &*repeat.ranked_id] {
            let id = &id.as_bytes()[..id.len().min(usize::from(u8::MAX))];
            bytes.push(id.len() as u8);
            bytes.extend_from_slice(id);
        }
        bytes.extend_from_slice(&repeat.now_ms.to_le_bytes());
    }
    bytes
}

/// What a row of repeats holds.
pub(super) fn unpack(mut bytes: &[u8]) -> Result<Vec<Repeat>> {
    fn id(bytes: &mut &[u8]) -> Option<String> {
        let length = usize::from(*bytes.split_off_first()?);
        String::from_utf8(bytes.split_off(..length)?.to_vec()).ok()
    }
    fn one(bytes: &mut &[u8]) -> Option<Repeat> {
        let (slate_id, ranked_id) = (id(bytes)?, id(bytes)?);
        let now_ms = TimeMs::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?);
        Some(Repeat { slate_id, ranked_id: ranked_id.into(), now_ms })
    }
    let mut repeats = Vec::new();
    while !bytes.is_empty() {
        repeats.push(one(&mut bytes).ok_or_else(|| corrupt("repeated slates"))?);
    }
    Ok(repeats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_read_back() {
        let hashes = [KeyHash::of("u:ann"), KeyHash::of("a:x")];
        assert_eq!(hashes_from_hex(&hashes_to_hex(&hashes)).unwrap(), hashes);
        for wrong in ["zz", "0", "üü", "00"] {
            assert!(hashes_from_hex(wrong).is_err(), "{wrong}");
        }
        assert_eq!(hex_to_bytes(&bytes_to_hex(&[0, 15, 16, 255])), Some(vec![0, 15, 16, 255]));
    }

    #[test]
    fn repeats_that_are_packed_come_back_and_garbage_is_refused() {
        let repeat = |id: &str, now_ms| Repeat { slate_id: id.to_owned(), ranked_id: "r".into(), now_ms };
        let repeats = vec![repeat("a", -1), repeat("ü", i64::MAX)];
        let bytes = pack_row(&repeats);
        assert_eq!(unpack(&bytes).unwrap(), repeats);
        assert!(unpack(&bytes[..bytes.len() - 1]).is_err());
        let many: Vec<Repeat> = (0..5_000).map(|at| repeat("a", at)).chain([repeat("b", 90_000_000)]).collect();
        let rows = pack(&many);
        assert_eq!(rows.iter().map(|row| row.last_ms).collect::<Vec<_>>(), [4_095, 4_999, 90_000_000]);
    }
}
