//! The content model: words of items to vectors that are close where the items' latent directions are.
//!
//! Training finds such a projection by a singular value decomposition; here a word's vector is the mean direction of the
//! items that have it, which needs no decomposition of a million rows and ties the same items together.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use marquee_engine::bundle::arrays::ArraysWriter;
use marquee_engine::content;

use super::{DIMS, Synthetic, parallel};

/// Rows made at once.
const CHUNK: usize = 4096;
/// Words of fewer items have no direction, as in `retrieval_content.py`.
const ITEMS_MIN: u32 = 2;

/// Writes `content.safetensors` and the `vocabulary.jsonl` that an export of these items has.
pub(super) fn write(made: &Synthetic, models: &Path) -> Result<()> {
    let (items, catalogue) = (made.catalogue.len(), &made.catalogue);
    let tokens = |chunk: usize| {
        let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(items);
        rows.map(|row| content::tokens(&catalogue.item(row)))
    };
    let counted = parallel(items.div_ceil(CHUNK), |chunk| {
        let mut counts: HashMap<String, u32> = HashMap::new();
        tokens(chunk).flatten().for_each(|(token, _)| *counts.entry(token).or_default() += 1);
        counts
    });
    let mut counts: HashMap<String, u32> = HashMap::new();
    for (token, count) in counted.into_iter().flatten() {
        *counts.entry(token).or_default() += count;
    }
    let mut vocabulary: Vec<(String, u32)> = counts.into_iter().collect();
    vocabulary.sort_unstable();
    let numbers: HashMap<&str, u32> = vocabulary.iter().map(|(token, _)| token.as_str()).zip(0..).collect();
    let rows = parallel(items.div_ceil(CHUNK), |chunk| {
        let row = |tokens: Vec<(String, f32)>| tokens.iter().map(|(token, _)| numbers[token.as_str()]).collect();
        tokens(chunk).map(row).collect::<Vec<Vec<u32>>>()
    });
    let mut projection = vec![0.0_f32; vocabulary.len() * DIMS];
    for (row, tokens) in rows.iter().flatten().enumerate() {
        let centre = catalogue.centre(row);
        for &token in tokens {
            let sum = &mut projection[token as usize * DIMS..][..DIMS];
            sum.iter_mut().zip(&centre).for_each(|(sum, number)| *sum += number);
        }
    }
    for ((_, count), vector) in vocabulary.iter().zip(projection.chunks_exact_mut(DIMS)) {
        let share = if *count >= ITEMS_MIN { 1.0 / *count as f32 } else { 0.0 };
        vector.iter_mut().for_each(|number| *number *= share);
    }
    let idf = |count: u32| ((1.0 + items as f32) / (1.0 + count as f32)).ln() + 1.0;
    ArraysWriter::default()
        .add("idf", &[vocabulary.len()], &vocabulary.iter().map(|(_, count)| idf(*count)).collect::<Vec<f32>>())
        .add("projection", &[vocabulary.len(), DIMS], &projection)
        .write(&models.join("content.safetensors"))?;
    let mut file = BufWriter::new(std::fs::File::create(models.join("vocabulary.jsonl"))?);
    for (token, _) in &vocabulary {
        serde_json::to_writer(&mut file, token)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}
