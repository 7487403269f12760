//! The arrays of an export, in memory and as safetensors.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use marquee_engine::content;
use marquee_engine::event::EventPolicy;
use marquee_engine::types::{Item, TimeMs};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::store::Event;

/// Item events as columns, in the order in which they were given.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// User keys by row, in order of their first event.
    pub(super) users: Vec<String>,
    /// Events of items that the catalogue does not know, or of no item.
    pub(super) skipped_unknown_items: u64,
    user: Vec<u32>,
    item: Vec<u32>,
    weight: Vec<f32>,
    rating: Vec<f32>,
    seen: Vec<u8>,
    interaction: Vec<u8>,
    /// NaN when not said; training drops impossible ones.
    watched_seconds: Vec<f32>,
    time_ms: Vec<TimeMs>,
}

impl Events {
    pub(super) fn new(items: &[Item], events: Vec<Event>, policy: &EventPolicy) -> Events {
        let rows: HashMap<&str, u32> = items.iter().enumerate().map(|(row, item)| (&*item.id, row as u32)).collect();
        let mut user_rows: HashMap<String, u32> = HashMap::new();
        let mut all = Events::default();
        for event in events {
            let Some(id) = event.item.as_deref() else { continue };
            let Some(&item) = rows.get(id) else {
                all.skipped_unknown_items += 1;
                continue;
            };
            let users = &mut all.users;
            let user = *user_rows.entry(event.user.as_str().to_owned()).or_insert_with(|| {
                users.push(event.user.as_str().to_owned());
                users.len() as u32 - 1
            });
            let touch = policy.touch(&event.kind, event.value);
            all.user.push(user);
            all.item.push(item);
            all.weight.push(touch.weight);
            all.rating.push(touch.rating);
            all.seen.push(touch.seen.into());
            all.interaction.push(touch.interaction.into());
            all.watched_seconds.push(event.watched_seconds.map_or(f32::NAN, |seconds| seconds as f32));
            all.time_ms.push(event.time_ms);
        }
        all
    }

    pub(super) fn len(&self) -> usize {
        self.item.len()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let columns = [
            ("user", Dtype::U32, bytes(&self.user, u32::to_le_bytes)),
            ("item", Dtype::U32, bytes(&self.item, u32::to_le_bytes)),
            ("weight", Dtype::F32, bytes(&self.weight, f32::to_le_bytes)),
            ("rating", Dtype::F32, bytes(&self.rating, f32::to_le_bytes)),
            ("seen", Dtype::U8, self.seen.clone()),
            ("interaction", Dtype::U8, self.interaction.clone()),
            ("watched_seconds", Dtype::F32, bytes(&self.watched_seconds, f32::to_le_bytes)),
            ("time_ms", Dtype::I64, bytes(&self.time_ms, i64::to_le_bytes)),
        ];
        save(path, &columns)
    }
}

/// The items' content tokens as a sparse matrix by row.
pub(super) struct Tokens {
    /// In order of the token.
    pub(super) vocabulary: Vec<String>,
    offsets: Vec<i64>,
    token: Vec<u32>,
    weight: Vec<f32>,
}

impl Tokens {
    pub(super) fn new(items: &[Item]) -> Tokens {
        let by_item: Vec<Vec<(String, f32)>> = items.iter().map(content::tokens).collect();
        let distinct: BTreeSet<&String> = by_item.iter().flatten().map(|(token, _)| token).collect();
        let vocabulary: Vec<String> = distinct.into_iter().cloned().collect();
        let ids: HashMap<&String, u32> = vocabulary.iter().enumerate().map(|(id, token)| (token, id as u32)).collect();
        let mut offsets = vec![0];
        let (mut token, mut weight) = (Vec::new(), Vec::new());
        for (name, value) in by_item.iter().flat_map(|tokens| tokens.iter()) {
            token.push(ids[name]);
            weight.push(*value);
        }
        for tokens in &by_item {
            offsets.push(offsets[offsets.len() - 1] + tokens.len() as i64);
        }
        Tokens { vocabulary, offsets, token, weight }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let columns = [
            ("offsets", Dtype::I64, bytes(&self.offsets, i64::to_le_bytes)),
            ("token", Dtype::U32, bytes(&self.token, u32::to_le_bytes)),
            ("weight", Dtype::F32, bytes(&self.weight, f32::to_le_bytes)),
        ];
        save(path, &columns)
    }
}

fn bytes<T: Copy, const N: usize>(values: &[T], le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| le(*value)).collect()
}

fn save(path: &Path, columns: &[(&str, Dtype, Vec<u8>)]) -> Result<()> {
    let views = columns.iter().map(|(name, dtype, bytes)| {
        let rows = bytes.len() * 8 / dtype.bitsize();
        TensorView::new(*dtype, vec![rows], bytes).map(|view| (*name, view))
    });
    let views: Vec<_> = views.collect::<Result<_, _>>().with_context(|| format!("laying out {}", path.display()))?;
    serialize_to_file(views, None, path).with_context(|| format!("writing {}", path.display()))
}
