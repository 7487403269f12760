//! Vectors of items and users, and users' likes.
//!
//! An item's vector is its latent direction, longer the more it was met, as factor models have it. A user's is what
//! folding their history in gives (the formula of `models/marquee_models/retrieval_ials.py`).

use std::path::Path;

use anyhow::Result;
use marquee_engine::bundle::arrays::ArraysWriter;

use super::{DIMS, Synthetic, parallel};

/// As in `retrieval_ials.py`.
const ALPHA: f64 = 5.0;
/// As in `retrieval_ials.py`.
const REGULARIZATION: f64 = 5.0;
/// Length of the vector of an item that nobody met; the most met one's is 1.
const NORM_MIN: f32 = 0.1;
/// Newest items of a history that are folded in, as the engine does.
const FOLD_IN_MAX_ITEMS: usize = 500;
/// As in `retrieval_likes.py`.
const LIKES_MAX: usize = 100;
/// As in `retrieval_likes.py`.
const DECAY_ITEMS: f32 = 50.0;
/// Rows made at once.
const CHUNK: usize = 1024;

pub(super) fn write(made: &Synthetic, models: &Path) -> Result<()> {
    let items = items(made);
    let users = users(made, &items);
    ArraysWriter::default()
        .add("items", &[made.catalogue.len(), DIMS], &items)
        .add("users", &[made.people.len(), DIMS], &users)
        .text("alpha", &format!("{ALPHA:?}"))
        .text("regularization", &format!("{REGULARIZATION:?}"))
        .text("weighting", "interaction")
        .write(&models.join("embedding.safetensors"))?;
    write_likes(made, models)
}

/// Item vectors by row.
fn items(made: &Synthetic) -> Vec<f32> {
    let mut met = vec![0_u32; made.catalogue.len()];
    made.people.events.iter().for_each(|event| met[event.item as usize] += 1);
    let most = (1.0 + met.iter().copied().max().unwrap_or(0) as f32).ln().max(1e-6);
    let chunks = parallel(met.len().div_ceil(CHUNK), |chunk| {
        let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(met.len());
        let vector = |row: usize| {
            let norm = NORM_MIN + (1.0 - NORM_MIN) * (1.0 + met[row] as f32).ln() / most;
            made.catalogue.direction(row).map(|number| number * norm)
        };
        rows.flat_map(vector).collect::<Vec<f32>>()
    });
    chunks.concat()
}

/// User vectors by row.
fn users(made: &Synthetic, items: &[f32]) -> Vec<f32> {
    let mut gram = [[0.0_f64; DIMS]; DIMS];
    for vector in items.chunks_exact(DIMS) {
        add_square(&mut gram, vector, 1.0);
    }
    (0..DIMS).for_each(|at| gram[at][at] += REGULARIZATION);
    let people = &made.people;
    let chunks = parallel(people.len().div_ceil(CHUNK), |chunk| {
        let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(people.len());
        let fold_in = |user: usize| {
            let (mut left, mut right) = (gram, [0.0_f64; DIMS]);
            for event in people.history(user).iter().rev().take(FOLD_IN_MAX_ITEMS) {
                let vector = &items[event.item as usize * DIMS..][..DIMS];
                add_square(&mut left, vector, ALPHA);
                right.iter_mut().zip(vector).for_each(|(sum, &number)| *sum += ALPHA * f64::from(number));
            }
            solve(&mut left, &mut right);
            right.map(|number| number as f32)
        };
        rows.flat_map(fold_in).collect::<Vec<f32>>()
    });
    chunks.concat()
}

/// Adds weight x v v' to the lower triangle.
fn add_square(sum: &mut [[f64; DIMS]; DIMS], vector: &[f32], weight: f64) {
    for (at, row) in sum.iter_mut().enumerate() {
        let scaled = weight * f64::from(vector[at]);
        row[..=at].iter_mut().zip(vector).for_each(|(sum, &number)| *sum += scaled * f64::from(number));
    }
}

/// Solves a positive definite system in place by Cholesky's decomposition of its lower triangle.
fn solve(left: &mut [[f64; DIMS]; DIMS], right: &mut [f64; DIMS]) {
    for row in 0..DIMS {
        for column in 0..=row {
            let known: f64 = (0..column).map(|at| left[row][at] * left[column][at]).sum();
            let rest = left[row][column] - known;
            left[row][column] = if row == column { rest.sqrt() } else { rest / left[column][column] };
        }
    }
    for row in 0..DIMS {
        let known: f64 = (0..row).map(|at| left[row][at] * right[at]).sum();
        right[row] = (right[row] - known) / left[row][row];
    }
    for row in (0..DIMS).rev() {
        let known: f64 = (row + 1..DIMS).map(|at| left[at][row] * right[at]).sum();
        right[row] = (right[row] - known) / left[row][row];
    }
}

fn write_likes(made: &Synthetic, models: &Path) -> Result<()> {
    let (mut offsets, mut item, mut weight, mut time_ms) = (vec![0_i64], Vec::new(), Vec::new(), Vec::new());
    for user in 0..made.people.len() {
        let liked = made.people.history(user).iter().rev().filter(|event| event.is_liked());
        for (place, event) in liked.take(LIKES_MAX).enumerate() {
            item.push(event.item);
            weight.push((-(place as f32) / DECAY_ITEMS).exp());
            time_ms.push(event.time_ms);
        }
        offsets.push(item.len() as i64);
    }
    ArraysWriter::default()
        .add("offsets", &[offsets.len()], &offsets)
        .add("item", &[item.len()], &item)
        .add("weight", &[weight.len()], &weight)
        .add("time_ms", &[time_ms.len()], &time_ms)
        .write(&models.join("likes.safetensors"))?;
    Ok(())
}
