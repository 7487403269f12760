//! Draws numbers by weight in constant time (Vose's alias method), and the weights of Zipf's law.

use crate::numbers::Numbers;

/// A table of columns, each shared by at most two numbers.
#[derive(Debug)]
pub(crate) struct Weighted {
    columns: Vec<(f64, u32)>,
}

impl Weighted {
    /// The rank r, from 1, has the weight r^-exponent.
    pub(crate) fn zipf(count: usize, exponent: f64) -> Weighted {
        Weighted::new((1..=count).map(|rank| (rank as f64).powf(-exponent)))
    }

    /// Number i is drawn with the i-th weight; at least one is above 0.
    pub(crate) fn new(weights: impl IntoIterator<Item = f64>) -> Weighted {
        let mut shares: Vec<f64> = weights.into_iter().collect();
        let scale = shares.len() as f64 / shares.iter().sum::<f64>();
        shares.iter_mut().for_each(|share| *share *= scale);
        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) = (0..shares.len()).partition(|&at| shares[at] < 1.0);
        let mut columns: Vec<(f64, u32)> = (0..shares.len()).map(|at| (1.0, at as u32)).collect();
        while let (Some(small), Some(&large)) = (poor.pop(), rich.last()) {
            columns[small] = (shares[small], large as u32);
            shares[large] -= 1.0 - shares[small];
            if shares[large] < 1.0 {
                rich.pop();
                poor.push(large);
            }
        }
        Weighted { columns }
    }

    /// One of the numbers.
    pub(crate) fn draw(&self, draw: &mut Numbers) -> usize {
        let at = draw.below(self.columns.len());
        let (own, other) = self.columns[at];
        if draw.chance(own) { at } else { other as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_zipfs_law() {
        let weighted = Weighted::zipf(100, 1.0);
        let (mut draw, mut counts) = (Numbers::new(1, 1), [0_u32; 100]);
        (0..200_000).for_each(|_| counts[weighted.draw(&mut draw)] += 1);
        let total: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1, 2, 10, 50] {
            let expected = 200_000.0 / f64::from(rank) / total;
            let off = (f64::from(counts[rank as usize - 1]) - expected).abs();
            assert!(
                off < 5.0 * expected.sqrt(),
                "rank {rank}: {} drawn, expected {expected}",
                counts[rank as usize - 1]
            );
        }
    }

    #[test]
    fn a_weight_of_zero_is_never_drawn() {
        let weighted = Weighted::new([0.0, 3.0, 0.0, 1.0]);
        let mut draw = Numbers::new(7, 0);
        assert!((0..10_000).all(|_| [1, 3].contains(&weighted.draw(&mut draw))));
    }
}
