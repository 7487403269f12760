//! Eight bits for each number: what a walk looks at first.
//!
//! A quarter of the bytes of the vectors, and sums of whole numbers, which are the same in any order: so every
//! processor's path gives the same bits. An estimate is off by about a thousandth of the product of the norms; the
//! search scores what it keeps once more, exactly.

use super::Vectors;
use super::vectors::{prefetch_first, prefetch_lines};

/// Rows take whole steps of so many numbers.
const STEP: usize = 16;

/// As long as a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([i8; LINE]);

const LINE: usize = 64;

/// The largest code of a row.
const ROW_MAX: f64 = 127.0;

/// Rows of codes.
#[derive(Debug, Default)]
pub(super) struct Codes {
    lines: Vec<Line>,
    /// Codes of a row, a multiple of `STEP`.
    stride: usize,
    /// What a code of 1 is worth in each row.
    units: Vec<f32>,
}

impl Codes {
    pub(super) fn of(vectors: &Vectors) -> Self {
        let stride = vectors.dims().next_multiple_of(STEP);
        let mut codes = Self {
            lines: vec![Line([0; LINE]); (vectors.len() * stride).div_ceil(LINE)],
            stride,
            units: Vec::with_capacity(vectors.len()),
        };
        for row in 0..vectors.len() {
            let numbers = vectors.row(row);
            let unit = largest(numbers) / ROW_MAX;
            codes.units.push(unit as f32);
            if unit > 0.0 {
                for (at, &x) in (row * stride..).zip(numbers) {
                    codes.lines[at / LINE].0[at % LINE] = (f64::from(x) / unit).round() as i8;
                }
            }
        }
        codes
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.units[..])
    }

    /// In ascending order of the inner products, or nearly.
    #[inline(always)]
    pub(super) fn estimate(&self, row: u32, query: &[i16]) -> f32 {
        let codes = self.row(row);
        // A width that is known becomes a few instructions without a loop.
        let sum = match (codes.as_array::<LINE>(), query.as_array::<LINE>()) {
            (Some(codes), Some(query)) => product(codes, query),
            _ => codes
                .as_chunks::<STEP>()
                .0
                .iter()
                .zip(query.as_chunks::<STEP>().0)
                .map(|(codes, query)| product(codes, query))
                .sum(),
        };
        sum as f32 * self.units[row as usize]
    }

    /// Asks the processor to fetch row `row`; only a hint.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        let codes = self.row(row);
        prefetch_first::<1, _>(codes);
        if let Some(rest) = codes.get(LINE..) {
            prefetch_lines(rest);
        }
        prefetch_first::<1, _>(&self.units[row as usize..]);
    }

    #[inline(always)]
    fn row(&self, row: u32) -> &[i8] {
        // SAFETY: `Line` is `repr(C)`, 64 bytes of as many i8 and nothing else, so the lines are initialised i8 in a row,
        // borrowed for as long as `self`.
        let all = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<i8>(), self.lines.len() * LINE) };
        &all[row as usize * self.stride..][..self.stride]
    }
}

#[inline(always)]
fn product<const COUNT: usize>(codes: &[i8; COUNT], query: &[i16; COUNT]) -> i32 {
    codes.iter().zip(query).map(|(&code, &number)| i32::from(code) * i32::from(number)).sum()
}

/// `query` as whole numbers, and the zeros that fill its last step; finite numbers, not all zero.
pub(super) fn code_query(query: &[f32], out: &mut Vec<i16>) {
    let stride = query.len().next_multiple_of(STEP);
    // No sum of `stride` products overflows.
    let most = (f64::from(i32::MAX) / ROW_MAX / stride as f64).floor().min(f64::from(i16::MAX));
    let scale = most / largest(query);
    out.clear();
    out.extend(query.iter().map(|&x| (f64::from(x) * scale).round() as i16));
    out.resize(stride, 0);
}

fn largest(numbers: &[f32]) -> f64 {
    f64::from(numbers.iter().fold(0.0_f32, |most, x| most.max(x.abs())))
}
