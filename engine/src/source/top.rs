//! The best of many: rows of highest score, kept while they come by.

use crate::index::Hit;
use crate::types::Row;

/// Keeps the best `limit` rows of positive score; equal scores by lower row.
#[derive(Debug)]
pub(crate) struct Top {
    limit: usize,
    /// Larger is better; at most twice `limit`.
    keys: Vec<u64>,
    /// A row that scores less is none of the best.
    threshold: f32,
}

impl Top {
    pub(crate) fn new(limit: usize) -> Top {
        Top { limit, keys: Vec::new(), threshold: if limit == 0 { f32::INFINITY } else { f32::from_bits(1) } }
    }

    /// A row that scores less need not be offered; infinite when none need.
    #[inline]
    pub(crate) fn threshold(&self) -> f32 {
        self.threshold
    }

    /// A row and its score; a score of 0 or below, or NaN, is not kept.
    #[inline]
    pub(crate) fn offer(&mut self, row: Row, score: f32) {
        if score >= self.threshold && self.limit > 0 {
            self.keys.push(key(row, score));
            if self.keys.len() >= 2 * self.limit {
                self.cut();
            }
        }
    }

    /// The score of the worst of the best, once there are as many as may be kept.
    pub(crate) fn worst(&mut self) -> Option<f32> {
        self.cut();
        (self.keys.len() == self.limit).then_some(self.threshold)
    }

    /// Best first.
    pub(crate) fn finish(mut self) -> Vec<Hit> {
        self.cut();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys.iter().map(|&key| Hit { row: !(key as u32), score: f32::from_bits((key >> 32) as u32) }).collect()
    }

    fn cut(&mut self) {
        if self.limit > 0 && self.keys.len() >= self.limit {
            let (_, &mut worst, _) = self.keys.select_nth_unstable_by(self.limit - 1, |a, b| b.cmp(a));
            self.keys.truncate(self.limit);
            self.threshold = f32::from_bits((worst >> 32) as u32);
        }
    }
}

/// Bits of positive numbers are in the order of the numbers.
fn key(row: Row, score: f32) -> u64 {
    u64::from(score.to_bits()) << 32 | u64::from(!row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_keeps_what_sorting_all_would(scores in prop::collection::vec(-2_i8..6, 0..200), limit in 0_usize..20) {
            let mut top = Top::new(limit);
            let mut all: Vec<(i8, usize)> = Vec::new();
            for (row, &score) in scores.iter().enumerate() {
                top.offer(row as Row, f32::from(score));
                all.extend((score > 0).then_some((-score, row)));
            }
            all.sort_unstable();
            let wanted: Vec<(f32, usize)> = all.iter().take(limit).map(|&(score, row)| (f32::from(-score), row)).collect();
            let found: Vec<(f32, usize)> = top.finish().iter().map(|hit| (hit.score, hit.row as usize)).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
