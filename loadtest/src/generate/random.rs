//! Random numbers of a seed: the same on every machine and for every number of threads.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of one stream of a seed; streams do not touch each other.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut start = Random(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17));
        Random(start.bits() ^ stream)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Within [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Within `0..count`; `count` is above 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Of the standard normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Of the lognormal distribution with this mean and standard deviation of the logarithm.
    pub fn log_normal(&mut self, (mean, deviation): (f64, f64)) -> f64 {
        (mean + deviation * self.normal()).exp()
    }

    /// An index, with the probability of its share.
    pub fn pick(&mut self, shares: &[f64]) -> usize {
        let mut left = self.unit() * shares.iter().sum::<f64>();
        let at = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        at.unwrap_or(shares.len() - 1)
    }
}

/// Rows to be drawn by their weight.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    rows: Vec<u32>,
    sums: Vec<f64>,
}

impl Pool {
    /// Rows with their weights.
    pub fn new(rows: Vec<u32>, weight: impl Fn(u32) -> f64) -> Pool {
        let sum = |sum: &mut f64, &row: &u32| {
            *sum += weight(row);
            Some(*sum)
        };
        Pool { sums: rows.iter().scan(0.0, sum).collect(), rows }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.sums.last().copied().unwrap_or(0.0)
    }

    /// The rows.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// One row; `None` of an empty pool.
    pub fn draw(&self, random: &mut Random) -> Option<u32> {
        let wanted = random.unit() * self.total();
        let at = self.sums.partition_point(|&sum| sum <= wanted);
        self.rows.get(at.min(self.rows.len().saturating_sub(1))).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_and_stream_alone() {
        let first = |seed, stream| Random::new(seed, stream).bits();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(1, 3));
        assert_ne!(first(1, 2), first(2, 2));
    }

    #[test]
    fn a_normal_number_has_mean_zero_and_deviation_one() {
        let mut random = Random::new(7, 0);
        let drawn: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let square = drawn.iter().map(|number| number * number).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "{mean} {square}");
    }

    #[test]
    fn a_pool_draws_by_weight() {
        let pool = Pool::new(vec![4, 9], |row| if row == 9 { 3.0 } else { 1.0 });
        let mut random = Random::new(1, 1);
        let nines = (0..10_000).filter(|_| pool.draw(&mut random) == Some(9)).count();
        assert!((7_200..7_800).contains(&nines), "{nines}");
        assert_eq!(Pool::default().draw(&mut random), None);
    }
}
