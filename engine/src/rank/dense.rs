//! Dense layers: rows times a matrix, plus a bias, perhaps cut at zero.
//!
//! Answers: the outputs of a layer for these rows. Must not know tract, nor where the weights come from.
//!
//! An output is `bias`, then one fused multiply-add for each input, in their order: the same bits whatever the other
//! rows are and whatever the processor. The matrix is kept in panels of 16 outputs, input by input, so that a panel
//! stays in the first-level cache while all rows pass it; six rows at a time keep twelve sums in registers (the
//! register blocking of Goto and van de Geijn, 2008), with AVX-512 twelve rows and two panels twenty-four.

/// Outputs of a panel.
const PANEL: usize = 16;
/// Rows whose sums are under way at once.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 6;

/// One layer: `outputs = inputs x weights + bias`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    inputs: usize,
    outputs: usize,
    /// For each 16 outputs: `inputs` times their 16 weights; zeros beyond the last output.
    panels: Vec<f32>,
    /// One for each output, filled up to whole panels.
    bias: Vec<f32>,
    /// Outputs below zero become zero; NaN stays.
    is_rectified: bool,
}

impl Layer {
    /// From a row-major matrix of `inputs` x `outputs`. `None` when the lengths do not fit or when something is empty.
    pub(super) fn new(weights: &[f32], inputs: usize, outputs: usize) -> Option<Layer> {
        if inputs == 0 || outputs == 0 || Some(weights.len()) != inputs.checked_mul(outputs) {
            return None;
        }
        let width = outputs.next_multiple_of(PANEL);
        let mut panels = vec![0.0; width * inputs];
        for (input, row) in weights.chunks_exact(outputs).enumerate() {
            for (output, weight) in row.iter().enumerate() {
                panels[(output / PANEL * inputs + input) * PANEL + output % PANEL] = *weight;
            }
        }
        Some(Layer { inputs, outputs, panels, bias: vec![0.0; width], is_rectified: false })
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The same layer with that bias; `None` when it has one already or cuts at zero, and for another length.
    pub(super) fn with_bias(&self, bias: &[f32]) -> Option<Layer> {
        let is_plain = !self.is_rectified && self.bias.iter().all(|value| value.to_bits() == 0);
        (is_plain && bias.len() == self.outputs).then(|| {
            let mut layer = self.clone();
            layer.bias[..bias.len()].copy_from_slice(bias);
            layer
        })
    }

    /// The same layer, cut at zero.
    pub(super) fn rectified(&self) -> Layer {
        Layer { is_rectified: true, ..self.clone() }
    }

    /// Row-major `rows` of `inputs()` numbers into rows of `outputs()` numbers.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub(super) fn run(&self, rows: &[f32], out: &mut [f32]) {
        assert_eq!(rows.len() % self.inputs, 0, "the last row is incomplete");
        assert_eq!(out.len(), rows.len() / self.inputs * self.outputs, "one output for each row and column");
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512; the lengths were checked.
            return unsafe { self.run_avx512(rows, out) };
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA; the lengths were checked.
            return unsafe { self.run_avx2(rows, out) };
        }
        self.run_portable(rows, out);
    }

    /// As `run`, whatever the processor.
    pub(super) fn run_portable(&self, rows: &[f32], out: &mut [f32]) {
        let blocks = self.panels.chunks_exact(self.inputs * PANEL).zip(self.bias.chunks_exact(PANEL));
        for (at, (panel, bias)) in blocks.enumerate() {
            let first = at * PANEL;
            let valid = (self.outputs - first).min(PANEL);
            for (row, out) in rows.chunks_exact(self.inputs).zip(out.chunks_exact_mut(self.outputs)) {
                let mut sums = [0.0; PANEL];
                sums.copy_from_slice(bias);
                for (value, weights) in row.iter().zip(panel.chunks_exact(PANEL)) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = value.mul_add(*weight, *sum);
                    }
                }
                if self.is_rectified {
                    sums.iter_mut().filter(|sum| **sum < 0.0).for_each(|sum| *sum = 0.0);
                }
                out[first..first + valid].copy_from_slice(&sums[..valid]);
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512; `rows` and `out` are whole rows, equally many.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn run_avx512(&self, rows: &[f32], out: &mut [f32]) {
        for first in (0..self.outputs).step_by(2 * PANEL) {
            // SAFETY: the caller's; a second panel is there when outputs are left for it.
            unsafe {
                if self.outputs - first > PANEL {
                    self.panels_avx512::<2>(rows, out, first);
                } else {
                    self.panels_avx512::<1>(rows, out, first);
                }
            }
        }
    }

    /// The `P` panels that begin at output `first`, for all rows.
    ///
    /// # Safety
    /// As [`Layer::run_avx512`], and the panels are there.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn panels_avx512<const P: usize>(&self, rows: &[f32], out: &mut [f32], first: usize) {
        let count = rows.len() / self.inputs;
        let mut row = 0;
        while row < count {
            // SAFETY: the caller's; every block lies within `count` rows.
            row += unsafe {
                match count - row {
                    12.. => self.block_avx512::<P, 12>(rows, out, row, first),
                    8.. => self.block_avx512::<P, 8>(rows, out, row, first),
                    4.. => self.block_avx512::<P, 4>(rows, out, row, first),
                    2.. => self.block_avx512::<P, 2>(rows, out, row, first),
                    _ => self.block_avx512::<P, 1>(rows, out, row, first),
                }
            };
        }
    }

    /// The `P` panels that begin at output `first`, for `R` rows from `row` on. Gives `R`.
    ///
    /// # Safety
    /// The processor has AVX-512; panels and rows are there.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn block_avx512<const P: usize, const R: usize>(
        &self,
        rows: &[f32],
        out: &mut [f32],
        row: usize,
        first: usize,
    ) -> usize {
        use std::arch::x86_64::{
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
        };
        let inputs = self.inputs;
        // SAFETY: `first` is the start of a panel, `bias` is filled up to whole panels, row + R rows are there; of the last
        // panel only the outputs that exist are written.
        unsafe {
            let panels: [*const f32; P] =
                std::array::from_fn(|panel| self.panels.as_ptr().add((first + panel * PANEL) * inputs));
            let from = rows.as_ptr().add(row * inputs);
            let bias = self.bias.as_ptr().add(first);
            let mut sums = [[_mm512_setzero_ps(); P]; R];
            for sums in &mut sums {
                for (panel, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(bias.add(panel * PANEL));
                }
            }
            for input in 0..inputs {
                let mut weights = [_mm512_setzero_ps(); P];
                for (weights, panel) in weights.iter_mut().zip(panels) {
                    *weights = _mm512_loadu_ps(panel.add(input * PANEL));
                }
                for (at, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*from.add(at * inputs + input));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_fmadd_ps(value, weights, *sum);
                    }
                }
            }
            for (at, sums) in sums.iter().enumerate() {
                for (panel, &sum) in sums.iter().enumerate() {
                    // Of a NaN and a number, `max` gives its second operand: NaN stays.
                    let sum = if self.is_rectified { _mm512_max_ps(_mm512_setzero_ps(), sum) } else { sum };
                    let output = first + panel * PANEL;
                    let valid = (self.outputs - output).min(PANEL);
                    let to = out.as_mut_ptr().add((row + at) * self.outputs + output);
                    _mm512_mask_storeu_ps(to, u16::MAX >> (PANEL - valid), sum);
                }
            }
        }
        R
    }

    /// # Safety
    /// The processor has AVX2 and FMA; `rows` and `out` are whole rows, equally many.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run_avx2(&self, rows: &[f32], out: &mut [f32]) {
        let count = rows.len() / self.inputs;
        for first in (0..self.outputs).step_by(PANEL) {
            let mut row = 0;
            // SAFETY: the caller's; every block lies within `count` rows.
            unsafe {
                while row + ROWS <= count {
                    self.block_avx2::<ROWS>(rows, out, row, first);
                    row += ROWS;
                }
                match count - row {
                    0 => {}
                    1 => self.block_avx2::<1>(rows, out, row, first),
                    2 => self.block_avx2::<2>(rows, out, row, first),
                    3 => self.block_avx2::<3>(rows, out, row, first),
                    4 => self.block_avx2::<4>(rows, out, row, first),
                    _ => self.block_avx2::<5>(rows, out, row, first),
                }
            }
        }
    }

    /// The panel that begins at output `first`, for `R` rows from `row` on.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; the rows exist in both slices.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn block_avx2<const R: usize>(&self, rows: &[f32], out: &mut [f32], row: usize, first: usize) {
        use std::arch::x86_64::{
            _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        };
        let inputs = self.inputs;
        // SAFETY: `first` is the start of a panel, `bias` is filled up to whole panels, row + R rows are there.
        unsafe {
            let mut panel = self.panels.as_ptr().add(first * inputs);
            let bias = self.bias.as_ptr().add(first);
            let from = rows.as_ptr().add(row * inputs);
            let mut sums = [[_mm256_loadu_ps(bias), _mm256_loadu_ps(bias.add(8))]; R];
            for input in 0..inputs {
                let low = _mm256_loadu_ps(panel);
                let high = _mm256_loadu_ps(panel.add(8));
                panel = panel.add(PANEL);
                for (at, sum) in sums.iter_mut().enumerate() {
                    let value = _mm256_broadcast_ss(&*from.add(at * inputs + input));
                    sum[0] = _mm256_fmadd_ps(value, low, sum[0]);
                    sum[1] = _mm256_fmadd_ps(value, high, sum[1]);
                }
            }
            let zero = _mm256_setzero_ps();
            let valid = (self.outputs - first).min(PANEL);
            for (at, sum) in sums.iter().enumerate() {
                // Of a NaN and a number, `max` gives its second operand: NaN stays.
                let sum = if self.is_rectified { sum.map(|sum| _mm256_max_ps(zero, sum)) } else { *sum };
                let to = out.as_mut_ptr().add((row + at) * self.outputs + first);
                if valid == PANEL {
                    _mm256_storeu_ps(to, sum[0]);
                    _mm256_storeu_ps(to.add(8), sum[1]);
                } else {
                    let mut edge = [0.0_f32; PANEL];
                    _mm256_storeu_ps(edge.as_mut_ptr(), sum[0]);
                    _mm256_storeu_ps(edge.as_mut_ptr().add(8), sum[1]);
                    std::ptr::copy_nonoverlapping(edge.as_ptr(), to, valid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let value = |at: u32| (at.wrapping_mul(2_654_435_769) ^ seed).wrapping_mul(2_246_822_519) as f32;
        (0..count as u32).map(|at| value(at) / u32::MAX as f32 * 4.0 - 2.0).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn every_kernel_gives_the_bits_of_the_plain_sum(
            rows in 1_usize..20, inputs in 1_usize..40, outputs in 1_usize..40, is_rectified: bool, seed: u32,
            odd in prop::option::of(prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-0.0), Just(f32::MIN_POSITIVE / 2.0)]),
        ) {
            let (weights, bias) = (noise(inputs * outputs, seed), noise(outputs, !seed));
            let mut features = noise(rows * inputs, seed ^ 99);
            if let Some(odd) = odd {
                let at = seed as usize % features.len();
                features[at] = odd;
            }
            let layer = Layer::new(&weights, inputs, outputs).unwrap().with_bias(&bias).unwrap();
            let layer = if is_rectified { layer.rectified() } else { layer };
            let mut plain = Vec::new();
            for row in features.chunks_exact(inputs) {
                for output in 0..outputs {
                    let sum = (0..inputs).fold(bias[output], |sum, at| row[at].mul_add(weights[at * outputs + output], sum));
                    plain.push(if is_rectified && sum < 0.0 { 0.0 } else { sum });
                }
            }
            let mut out = vec![7.0; rows * outputs];
            layer.run(&features, &mut out);
            // The sign of a zero that was cut is open.
            let unsigned = |values: &[f32]| bits(&values.iter().map(|value| value + 0.0).collect::<Vec<_>>());
            prop_assert_eq!(unsigned(&out), unsigned(&plain));
            layer.run_portable(&features, &mut out);
            prop_assert_eq!(unsigned(&out), unsigned(&plain));
            #[cfg(target_arch = "x86_64")]
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                out.fill(7.0);
                // SAFETY: the processor has both; lengths are those of `run`.
                unsafe { layer.run_avx2(&features, &mut out) };
                prop_assert_eq!(unsigned(&out), unsigned(&plain));
            }
        }
    }

    #[test]
    fn a_layer_of_another_shape_is_none() {
        assert!(Layer::new(&[1.0; 5], 2, 3).is_none());
        assert!(Layer::new(&[], 0, 3).is_none());
        let layer = Layer::new(&[1.0; 6], 2, 3).unwrap();
        assert!(layer.with_bias(&[1.0; 2]).is_none());
        assert!(layer.with_bias(&[1.0; 3]).unwrap().with_bias(&[1.0; 3]).is_none(), "it has one already");
    }
}
