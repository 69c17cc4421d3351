//! Gradients of a convolution in `f32`: of its input as convolutions of the output's gradient, of
//! its weight by matrix products over tiles of one sample.

use std::cell::RefCell;

use super::{ConvShape, PackedConv, Spatial, plain};
use crate::error::OpError;
use crate::kernels::Clamp;
use crate::kernels::matmul::{Strided, filled, matmul, uninit};

/// The gradient of a convolution's input, with the weight laid out for it.
///
/// An input element sees the kernel's taps of one stride phase only, and those see it through an
/// ordinary convolution without stride, over the output's gradient, with the taps in reverse and
/// channels swapped. Phases are computed one by one and then interleaved. It is also what a
/// transposed convolution computes.
pub struct DataGradient {
    shape: ConvShape,
    weight: Vec<f32>,
}

/// The taps of one stride phase along an axis.
#[derive(Clone, Copy)]
struct Phase {
    /// First tap; the others follow at distance `step`.
    first: usize,
    step: usize,
    taps: usize,
    /// Distance, in outputs, between the places of consecutive taps.
    dilation: usize,
    /// First input element of the phase.
    start: usize,
    /// Number of its elements; they are a stride apart.
    count: usize,
    pads: Option<(usize, usize)>,
}

impl Phase {
    /// The phase of input elements that are `r` modulo the stride, counted with the padding.
    fn new(shape: &ConvShape, axis: usize, r: usize, input: usize, output: usize) -> Self {
        let (stride, dilation) = (shape.strides[axis], shape.dilations[axis]);
        let begin = shape.pads_begin[axis];
        // With the padding counted, elements are r + q stride for q in q0..q1.
        let q0 = begin.saturating_sub(r).div_ceil(stride);
        let q1 = (input + begin).saturating_sub(r).div_ceil(stride).max(q0);
        let count = q1 - q0;
        let start = (q0 * stride + r).saturating_sub(begin);
        let common = gcd(stride, dilation);
        let (step, dilated) = (stride / common, dilation / common);
        let first = (0..shape.kernel[axis]).find(|k| k * dilation % stride == r);
        let Some(first) = first else {
            return Self { first: 0, step, taps: 0, dilation: dilated, start, count, pads: None };
        };
        let taps = (shape.kernel[axis] - first).div_ceil(step);
        // Element q meets the first tap at output q - lag.
        let lag = (first * dilation - r) / stride;
        let reach = (taps - 1) * dilated;
        let before = (reach + lag).checked_sub(q0);
        let after = before.and_then(|b| (count + reach).checked_sub(output + b));
        Self { first, step, taps, dilation: dilated, start, count, pads: before.zip(after) }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl DataGradient {
    /// For a convolution of `shape` with `weight` `[out_channels, group_in, kernel..]`.
    #[must_use]
    pub fn new(shape: ConvShape, weight: &[f32]) -> Self {
        Self { shape, weight: weight.to_vec() }
    }

    /// The gradient of `samples` inputs of `input` extents, from `dy` `[samples, out_channels,
    /// output..]`: `[samples, in_channels, input..]`.
    ///
    /// # Errors
    /// When `dy` has another length.
    pub fn run(
        &self,
        dy: &[f32],
        samples: usize,
        [input, output]: [Spatial; 2],
    ) -> Result<Vec<f32>, OpError> {
        let shape = &self.shape;
        let in_len = shape.in_channels * input.iter().product::<usize>();
        let out_len = shape.out_channels * output.iter().product::<usize>();
        if dy.len() != samples * out_len {
            return Err(OpError::shape("a gradient of unexpected length"));
        }
        let phases: [Vec<Phase>; 3] = std::array::from_fn(|axis| {
            let all = (0..shape.strides[axis])
                .map(|r| Phase::new(shape, axis, r, input[axis], output[axis]));
            all.filter(|phase| phase.count > 0).collect()
        });
        let fits = |phase: &Phase| phase.taps == 0 || phase.pads.is_some();
        if !phases.iter().flatten().all(fits) || samples * in_len * out_len == 0 {
            return Ok(self.plain(dy, samples, [input, output], in_len, out_len));
        }
        if shape.strides == [1; 3] {
            let packed = self.phase([phases[0][0], phases[1][0], phases[2][0]]);
            let mut dx = uninit(samples * in_len);
            packed.run(dy, samples, output, None, Clamp::NONE, &mut dx)?;
            // SAFETY: the kernel writes every element.
            return Ok(unsafe { filled(dx) });
        }
        let mut dx = vec![0.0; samples * in_len];
        for &depth in &phases[0] {
            for &height in &phases[1] {
                for &width in &phases[2] {
                    let phase = [depth, height, width];
                    if phase.iter().any(|p| p.taps == 0) {
                        continue;
                    }
                    let packed = self.phase(phase);
                    let counts = phase.map(|p| p.count);
                    let mut part =
                        uninit(samples * shape.in_channels * counts.iter().product::<usize>());
                    packed.run(dy, samples, output, None, Clamp::NONE, &mut part)?;
                    // SAFETY: the kernel writes every element.
                    let part = unsafe { filled(part) };
                    interleave(&part, phase, shape.strides, input, &mut dx);
                }
            }
        }
        Ok(dx)
    }

    fn plain(
        &self,
        dy: &[f32],
        samples: usize,
        extents: [Spatial; 2],
        in_len: usize,
        out_len: usize,
    ) -> Vec<f32> {
        let mut dx = vec![0.0; samples * in_len];
        for sample in 0..if in_len * out_len == 0 { 0 } else { samples } {
            let dy = &dy[sample * out_len..(sample + 1) * out_len];
            let dx = &mut dx[sample * in_len..(sample + 1) * in_len];
            plain::data_gradient(&self.shape, extents, &self.weight, dy, dx);
        }
        dx
    }

    /// The convolution, over the output's gradient, of the taps of one phase.
    fn phase(&self, phase: [Phase; 3]) -> PackedConv {
        let shape = &self.shape;
        let [kd, kh, kw] = shape.kernel;
        let pads = |axis: usize| phase[axis].pads.unwrap_or((0, 0));
        let (group_in, group_out) = (shape.group_in(), shape.group_out());
        let transposed = ConvShape {
            in_channels: shape.out_channels,
            out_channels: shape.in_channels,
            groups: shape.groups,
            kernel: phase.map(|p| p.taps),
            strides: [1; 3],
            dilations: phase.map(|p| p.dilation),
            pads_begin: [0, 1, 2].map(|axis| pads(axis).0),
            pads_end: [0, 1, 2].map(|axis| pads(axis).1),
        };
        let reversed = |p: Phase| (0..p.taps).rev().map(move |j| p.first + j * p.step);
        let mut taps = Vec::new();
        for d in reversed(phase[0]) {
            for h in reversed(phase[1]) {
                taps.extend(reversed(phase[2]).map(|w| (d * kh + h) * kw + w));
            }
        }
        let area = kd * kh * kw;
        let mut weight = Vec::with_capacity(shape.in_channels * group_out * taps.len());
        for group in 0..shape.groups {
            for c in 0..group_in {
                for o in group * group_out..(group + 1) * group_out {
                    let from = &self.weight[(o * group_in + c) * area..][..area];
                    weight.extend(taps.iter().map(|&tap| from[tap]));
                }
            }
        }
        PackedConv::new(transposed, &weight, &[])
    }
}

/// Puts the planes of a phase to their places in `dx`.
fn interleave(part: &[f32], phase: [Phase; 3], strides: Spatial, input: Spatial, dx: &mut [f32]) {
    let plane: usize = input.iter().product();
    let mut rows = part.chunks_exact(phase[2].count);
    for dx in dx.chunks_exact_mut(plane) {
        for d in 0..phase[0].count {
            for h in 0..phase[1].count {
                let Some(row) = rows.next() else { return };
                let d = phase[0].start + d * strides[0];
                let h = phase[1].start + h * strides[1];
                let to = (d * input[1] + h) * input[2] + phase[2].start;
                let places = dx[to..].iter_mut().step_by(strides[2]);
                places.zip(row).for_each(|(dx, &value)| *dx = value);
            }
        }
    }
}

/// Elements of a tile of columns: within the second-level cache, with what it is multiplied by.
const TILE: usize = 1 << 16;

thread_local! {
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Adds to `dw` `[out_channels, group_in, kernel..]` the gradient of the weight from `x`
/// `[samples, in_channels, input..]` and `dy` `[samples, out_channels, output..]`.
///
/// # Errors
/// When a slice has another length.
pub fn weight_gradient(
    shape: &ConvShape,
    samples: usize,
    [input, output]: [Spatial; 2],
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) -> Result<(), OpError> {
    let (in_plane, out_plane): (usize, usize) = (input.iter().product(), output.iter().product());
    let (in_len, out_len) = (shape.in_channels * in_plane, shape.out_channels * out_plane);
    if x.len() != samples * in_len
        || dy.len() != samples * out_len
        || dw.len() != shape.out_channels * shape.taps()
    {
        return Err(OpError::shape("a convolution's gradient over slices of unexpected length"));
    }
    if samples * in_len * out_len == 0 {
        return Ok(());
    }
    let (group_in, group_out, taps) = (shape.group_in(), shape.group_out(), shape.taps());
    // A product with one column or row is no better than the sums themselves.
    if group_in * group_out < 4 {
        for (x, dy) in x.chunks_exact(in_len).zip(dy.chunks_exact(out_len)) {
            plain::weight_gradient(shape, [input, output], x, dy, dw);
        }
        return Ok(());
    }
    let is_input = shape.kernel == [1; 3]
        && shape.strides == [1; 3]
        && shape.pads_begin == [0; 3]
        && shape.pads_end == [0; 3];
    COLUMNS.with_borrow_mut(|columns| {
        for (x, dy) in x.chunks_exact(in_len).zip(dy.chunks_exact(out_len)) {
            for group in 0..shape.groups {
                let x = &x[group * group_in * in_plane..][..group_in * in_plane];
                let dy = &dy[group * group_out * out_plane..][..group_out * out_plane];
                let dw = &mut dw[group * group_out * taps..][..group_out * taps];
                let gradient = Strided::row_major(dy, group_out, out_plane);
                if is_input {
                    let x = Strided::row_major(x, group_in, out_plane).transposed();
                    matmul(gradient, x, true, dw)?;
                    continue;
                }
                // Whole rows of the output.
                let rows = output[0] * output[1];
                let tile_rows = (TILE / (taps * output[2])).clamp(1, rows);
                for first in (0..rows).step_by(tile_rows) {
                    let last = rows.min(first + tile_rows);
                    let width = (last - first) * output[2];
                    fill(shape, [input, output], x, first..last, columns);
                    let part =
                        Strided { elements: &dy[first * output[2]..], columns: width, ..gradient };
                    let x = Strided::row_major(columns, taps, width).transposed();
                    matmul(part, x, true, dw)?;
                }
            }
        }
        Ok(())
    })
}

/// What every tap of a group reads for the outputs of some rows: `[taps, rows * width]`.
fn fill(
    shape: &ConvShape,
    [input, output]: [Spatial; 2],
    x: &[f32],
    rows: std::ops::Range<usize>,
    columns: &mut Vec<f32>,
) {
    let [_, kh, kw] = shape.kernel;
    let [in_d, in_h, in_w] = input;
    let area: usize = shape.kernel.iter().product();
    let width = output[2];
    columns.clear();
    columns.resize(shape.taps() * rows.len() * width, 0.0);
    let mut targets = columns.chunks_exact_mut(width);
    let stride = shape.strides[2];
    let place = |axis: usize, out: usize, k: usize, extent: usize| {
        let at = (out * shape.strides[axis] + k * shape.dilations[axis])
            .checked_sub(shape.pads_begin[axis]);
        at.filter(|&at| at < extent)
    };
    for tap in 0..shape.taps() {
        let (c, k) = (tap / area, tap % area);
        let k = [k / (kh * kw), k / kw % kh, k % kw];
        // Outputs along the row that meet the input.
        let shift = k[2] * shape.dilations[2];
        let begin = shape.pads_begin[2];
        let first = begin.saturating_sub(shift).div_ceil(stride).min(width);
        let past = (in_w + begin).saturating_sub(shift).div_ceil(stride).clamp(first, width);
        for row in rows.clone() {
            let Some(target) = targets.next() else { return };
            let d = place(0, row / output[1], k[0], in_d);
            let h = place(1, row % output[1], k[1], in_h);
            let (Some(d), Some(h)) = (d, h) else { continue };
            if first == past {
                continue;
            }
            let from = ((c * in_d + d) * in_h + h) * in_w + first * stride + shift - begin;
            let target = &mut target[first..past];
            if stride == 1 {
                target.copy_from_slice(&x[from..from + target.len()]);
            } else {
                let source = x[from..].iter().step_by(stride);
                target.iter_mut().zip(source).for_each(|(t, &x)| *t = x);
            }
        }
    }
}
