//! Answers that repeat a logged slate: many to a row, so that one costs next to nothing.

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::{Row, SqliteConnection};

use super::writer::{Tx, Write};
use super::{corrupt, failed};
use crate::error::Result;
use crate::ids;
use crate::store::{Repeat, SlateRecord};

/// One row holds at most so many: a look-up reads whole rows.
const ROW_MAX_REPEATS: usize = 4_096;
/// A row spans less than this: they are written many times a second.
const ROW_MAX_MS: TimeMs = 600_000;

pub(super) struct Put {
    pub(super) repeats: Vec<Repeat>,
}

#[async_trait]
impl Write for Put {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        for chunk in self.repeats.chunk_by(|a, b| (a.now_ms - b.now_ms).abs() < ROW_MAX_MS / 2) {
            for part in chunk.chunks(ROW_MAX_REPEATS) {
                let times = || part.iter().map(|repeat| repeat.now_ms);
                sqlx::query("INSERT INTO repeats (first_ms, last_ms, entries) VALUES (?, ?, ?)")
                    .bind(times().min())
                    .bind(times().max())
                    .bind(pack(part))
                    .execute(&mut *tx.connection)
                    .await
                    .map_err(failed("writing repeated slates"))?;
            }
        }
        Ok(())
    }
}

/// The slate that `slate_id` repeats, as it was given that time.
pub(super) async fn get(connection: &mut SqliteConnection, slate_id: &str) -> Result<Option<SlateRecord>> {
    let Some(time_ms) = ids::time_of(slate_id) else { return Ok(None) };
    let rows = sqlx::query(
        "SELECT entries FROM repeats WHERE last_ms >= ?1 AND last_ms < ?1 + ?2 AND first_ms <= ?1 ORDER BY last_ms",
    )
    .bind(time_ms)
    .bind(ROW_MAX_MS)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("reading repeated slates"))?;
    for row in rows {
        let entries: Vec<u8> = row.try_get(0).map_err(failed("reading repeated slates"))?;
        let found = unpack(&entries)?.into_iter().find(|repeat| repeat.slate_id == slate_id);
        if let Some(Repeat { slate_id, ranked_id, now_ms }) = found {
            let ranked = super::slates::ranked(connection, &ranked_id).await?;
            return Ok(ranked.map(|ranked| SlateRecord { slate_id, now_ms, rows: None, ..ranked }));
        }
    }
    Ok(None)
}

fn pack(repeats: &[Repeat]) -> Vec<u8> {
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

fn unpack(mut bytes: &[u8]) -> Result<Vec<Repeat>> {
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
    fn what_is_packed_comes_back_and_garbage_is_refused() {
        let repeat = |id: &str, now_ms| Repeat { slate_id: id.to_owned(), ranked_id: "r".into(), now_ms };
        let repeats = vec![repeat("a", -1), repeat("ü", i64::MAX)];
        let bytes = pack(&repeats);
        assert_eq!(unpack(&bytes).unwrap(), repeats);
        assert!(unpack(&bytes[..bytes.len() - 1]).is_err());
    }
}
