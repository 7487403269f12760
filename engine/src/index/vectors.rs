//! Dense vectors in memory, and the one definition of a score.
//!
//! Every path (single row, batch, AVX2, AVX-512, plain) runs the same source loop: sixteen running sums,
//! number `i` of a row going to sum `i % 16`, then a fixed tree. Rust neither reorders nor fuses floating
//! point operations, so the paths differ in speed and never in a bit.

use super::Error;
use super::beam::NODES_MAX;

/// The largest Euclidean norm of a row or a query. Twice this far from overflow (norm x norm < 3.4e38), so
/// that no score is ever infinite or NaN.
pub const NORM_MAX: f64 = 1e18;

/// The most numbers that a row may have: a square of as many is kept of factors.
pub const DIMS_MAX: usize = 16_384;

const LANES: usize = 16;

/// One cache line: rows start on a line and fill whole lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Dense vectors, row-major; every number is finite, every norm at most [`NORM_MAX`].
#[derive(Debug, Clone)]
pub struct Vectors {
    lines: Vec<Line>,
    rows: usize,
    dims: usize,
}

impl Vectors {
    /// `data` holds whole rows of `dims` numbers each. An error names the first bad row.
    pub fn from_rows(data: &[f32], dims: usize) -> Result<Self, Error> {
        let rows = data.len().checked_div(dims).unwrap_or(0);
        let mut vectors = Self::with_capacity(rows, dims)?;
        if !data.len().is_multiple_of(dims) {
            let numbers = data.len();
            return Err(Error::Vectors(format!("{numbers} numbers are not whole rows of {dims}")));
        }
        data.chunks_exact(dims).try_for_each(|row| vectors.push(row))?;
        Ok(vectors)
    }

    /// Without rows, and with room for so many of them.
    pub(crate) fn with_capacity(rows: usize, dims: usize) -> Result<Self, Error> {
        if dims == 0 {
            return Err(Error::Vectors("a row needs at least one number".into()));
        }
        if dims > DIMS_MAX {
            return Err(Error::Vectors(format!("{dims} numbers in a row, at most {DIMS_MAX}")));
        }
        if rows > NODES_MAX {
            return Err(Error::Vectors(format!("{rows} rows, at most {NODES_MAX}")));
        }
        let mut lines = Vec::new();
        let room = lines.try_reserve_exact(rows * dims.div_ceil(LANES));
        room.map_err(|error| Error::Vectors(format!("{rows} rows of {dims} numbers: {error}")))?;
        Ok(Self { lines, rows: 0, dims })
    }

    /// Adds a row of `dims` numbers. An error names it, and leaves it out.
    pub(crate) fn push(&mut self, numbers: &[f32]) -> Result<(), Error> {
        let row = self.rows;
        if numbers.len() != self.dims {
            return Err(Error::Vectors(format!("row {row}: {} numbers, not {}", numbers.len(), self.dims)));
        }
        if let Some(column) = numbers.iter().position(|x| !x.is_finite()) {
            return Err(Error::Vectors(format!("row {row}, column {column}: {} is not finite", numbers[column])));
        }
        let norm = norm(numbers);
        if norm > NORM_MAX {
            return Err(Error::Vectors(format!("row {row}: norm {norm:e} is above {NORM_MAX:e}")));
        }
        for chunk in numbers.chunks(LANES) {
            let mut line = Line([0.0; LANES]);
            for (to, from) in line.0.iter_mut().zip(chunk) {
                *to = from + 0.0; // -0 becomes 0: equal rows have equal bits
            }
            self.lines.push(line);
        }
        self.rows += 1;
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Numbers in a row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The numbers of row `i`. Panics when there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.line_row(i)[..self.dims]
    }

    /// The inner product of row `i` with `query` (`dims` numbers): the score that every search returns.
    pub fn dot(&self, i: usize, query: &[f32]) -> f32 {
        dot(self.row(i), query)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// The rows `order` of `self`, each of them at most once, in that order. In place, so that those of a large
    /// catalogue are not held twice.
    pub(super) fn reordered(mut self, order: impl ExactSizeIterator<Item = u32>) -> Self {
        let stride = self.dims.div_ceil(LANES);
        let kept = order.len();
        // For each place the row that belongs there. What is left out goes behind the rest: so it is a permutation.
        let mut sources: Vec<u32> = order.collect();
        let mut is_out = vec![true; self.rows];
        sources.iter().for_each(|&row| is_out[row as usize] = false);
        sources.extend((0..self.rows as u32).filter(|&row| is_out[row as usize]));
        let lines = |row: usize| row * stride..(row + 1) * stride;
        debug_assert_eq!(sources.len(), self.rows, "a row stands twice in the order");
        let mut first = vec![Line([0.0; LANES]); stride];
        for start in 0..self.rows {
            if sources[start] as usize == start {
                continue;
            }
            first.copy_from_slice(&self.lines[lines(start)]);
            let mut place = start;
            loop {
                let source = std::mem::replace(&mut sources[place], place as u32) as usize;
                if source == start {
                    self.lines[lines(place)].copy_from_slice(&first);
                    break;
                }
                self.lines.copy_within(lines(source), place * stride);
                place = source;
            }
        }
        self.lines.truncate(kept * stride);
        if kept < self.rows / 2 {
            self.lines.shrink_to_fit();
        }
        self.rows = kept;
        self
    }

    /// Row `i` with the zeros that fill its last cache line.
    pub(super) fn line_row(&self, i: usize) -> &[f32] {
        let stride = self.dims.div_ceil(LANES);
        let lines = &self.lines[i * stride..(i + 1) * stride];
        // SAFETY: `Line` is `repr(C)`, 64 bytes of sixteen f32 and nothing else, so lines in a row are
        // `16 * len` initialised f32 in a row, borrowed for as long as `self`.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<f32>(), lines.len() * LANES) }
    }

    /// Fills `out` with the scores of `rows`, in their order.
    pub(super) fn dots(&self, rows: &[u32], query: &[f32], out: &mut Vec<f32>) {
        out.clear();
        self.add_dots(rows, query, out);
    }

    /// As [`Self::dots`], of rows that lie here and there: some are fetched while those before them are scored.
    pub(super) fn scattered_dots(&self, rows: &[u32], query: &[f32], out: &mut Vec<f32>) {
        /// Of the usual width few enough for the nearest cache, and enough to cover the way to memory.
        const ROWS_AT_ONCE: usize = 12;
        out.clear();
        let (at_once, mut ahead) = (rows.chunks(ROWS_AT_ONCE), rows.chunks(ROWS_AT_ONCE));
        let mut fetch = || ahead.next().unwrap_or_default().iter().for_each(|&row| self.prefetch(row as usize));
        fetch();
        for some in at_once {
            fetch();
            self.add_dots(some, query, out);
        }
    }

    /// Adds the scores of `rows` to `out`.
    fn add_dots(&self, rows: &[u32], query: &[f32], out: &mut Vec<f32>) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature was just detected.
                return unsafe { dots_avx512(self, rows, query, out) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature was just detected.
                return unsafe { dots_avx2(self, rows, query, out) };
            }
        }
        dots_plain(self, rows, query, out);
    }

    /// Asks the processor to fetch row `i`; only a hint.
    #[inline(always)]
    pub(super) fn prefetch(&self, i: usize) {
        prefetch_lines(self.line_row(i));
    }
}

/// The hardware prefetcher takes over after a few lines.
#[cfg(target_arch = "x86_64")]
const PREFETCH_LINES_MAX: usize = 8;

#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = size_of::<Line>();

/// Asks the processor to fetch `numbers`; only a hint.
#[inline(always)]
pub(super) fn prefetch_lines<T>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = numbers.as_ptr().cast::<i8>();
        let mut at = 0;
        while at < size_of_val(numbers).min(PREFETCH_LINES_MAX * LINE_BYTES) {
            // SAFETY: a prefetch reads nothing and faults on nothing, and SSE is part of x86_64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(at)) };
            at += LINE_BYTES;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Asks the processor to fetch the first `LINES` cache lines from where `numbers` begin, however many they are; only a hint.
#[inline(always)]
pub(crate) fn prefetch_first<const LINES: usize, T>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = numbers.as_ptr().cast::<i8>();
        for line in 0..LINES {
            // SAFETY: a prefetch reads nothing and faults on nothing, and SSE is part of x86_64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line * LINE_BYTES)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Euclidean norm, in f64 so that squares neither overflow nor vanish. NaN and infinity come through.
pub(super) fn norm(numbers: &[f32]) -> f64 {
    numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Inner product of two slices of the same length.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_lanes(a, b, |x, y| x * y)
}

/// Squared Euclidean distance of two slices of the same length.
pub(super) fn distance_squared(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(a: &[f32], b: &[f32]) -> f32 {
            distance_squared_inline(a, b)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { avx2(a, b) };
        }
    }
    distance_squared_inline(a, b)
}

/// As [`distance_squared`], for callers that run with the processor's features already.
#[inline(always)]
pub(super) fn distance_squared_inline(a: &[f32], b: &[f32]) -> f32 {
    sum_lanes(a, b, |x, y| (x - y) * (x - y))
}

#[inline(always)]
fn sum_lanes(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += term(x[lane], y[lane]);
        }
    }
    for (lane, (&x, &y)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += term(x, y);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0] + 0.0 // never -0: scores that are equal compare equal as bits
}

#[inline(always)]
fn dots_plain(vectors: &Vectors, rows: &[u32], query: &[f32], out: &mut Vec<f32>) {
    let width = vectors.dims.div_ceil(LANES) * LANES;
    let query = &query[..width];
    out.reserve(rows.len());
    // Not `extend`: the compiler may leave the closure outside the function that has the wider registers.
    for &row in rows {
        out.push(dot(vectors.line_row(row as usize), query));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(vectors: &Vectors, rows: &[u32], query: &[f32], out: &mut Vec<f32>) {
    dots_plain(vectors, rows, query, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dots_avx512(vectors: &Vectors, rows: &[u32], query: &[f32], out: &mut Vec<f32>) {
    dots_plain(vectors, rows, query, out);
}

/// `query` with the zeros that make it as wide as [`Vectors::line_row`].
pub(super) fn pad_query(query: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(query);
    out.resize(query.len().div_ceil(LANES) * LANES, 0.0);
}
