//! Convolution and its gradients from the definition, a row of the output at a time: for element
//! types and shapes that the packed kernel doesn't take.

use super::{ConvShape, Spatial};
use crate::kernels::Real;

/// The outputs along one axis that a tap meets the input at.
struct Meeting {
    first: usize,
    past: usize,
    /// Input element that output `first` meets.
    at: usize,
}

impl Meeting {
    fn new(shape: &ConvShape, axis: usize, k: usize, input: usize, output: usize) -> Self {
        let (tap, begin) = (k * shape.dilations[axis], shape.pads_begin[axis]);
        let stride = shape.strides[axis];
        let first = begin.saturating_sub(tap).div_ceil(stride);
        let past = (input + begin).saturating_sub(tap).div_ceil(stride).min(output);
        let at = (first * stride + tap).saturating_sub(begin);
        Self { first: first.min(past), past, at }
    }
}

/// Calls `visit` for every stretch of one sample's sums: `(weight, output, input, length)`, where
/// the input moves by the last stride. `input` and `output` are spatial extents.
fn stretches(
    shape: &ConvShape,
    input: Spatial,
    output: Spatial,
    mut visit: impl FnMut(usize, usize, usize, usize),
) {
    let [kd, kh, kw] = shape.kernel;
    let area = kd * kh * kw;
    let (in_plane, out_plane): (usize, usize) = (input.iter().product(), output.iter().product());
    for tap in 0..area {
        let at = [tap / (kh * kw), tap / kw % kh, tap % kw];
        let [depth, height, width] =
            std::array::from_fn(|i| Meeting::new(shape, i, at[i], input[i], output[i]));
        if width.first == width.past {
            continue;
        }
        for o in 0..shape.out_channels {
            let group = o / shape.group_out();
            for c in 0..shape.group_in() {
                let weight = (o * shape.group_in() + c) * area + tap;
                let source = (group * shape.group_in() + c) * in_plane;
                for (i, d) in (depth.first..depth.past).enumerate() {
                    let in_d = depth.at + i * shape.strides[0];
                    for (j, h) in (height.first..height.past).enumerate() {
                        let in_h = height.at + j * shape.strides[1];
                        let to = o * out_plane + (d * output[1] + h) * output[2] + width.first;
                        let from = source + (in_d * input[1] + in_h) * input[2] + width.at;
                        visit(weight, to, from, width.past - width.first);
                    }
                }
            }
        }
    }
}

/// Adds the convolution of one sample `x` to `y`.
pub fn forward<T: Real>(
    shape: &ConvShape,
    [input, output]: [Spatial; 2],
    weight: &[T],
    x: &[T],
    y: &mut [T],
) {
    let stride = shape.strides[2];
    stretches(shape, input, output, |w, to, from, len| {
        let w = weight[w];
        let taps = x[from..].iter().step_by(stride);
        y[to..to + len].iter_mut().zip(taps).for_each(|(y, &x)| *y += w * x);
    });
}

/// Adds to `dx` the gradient of one sample's input from that of its output, `dy`.
pub fn data_gradient<T: Real>(
    shape: &ConvShape,
    [input, output]: [Spatial; 2],
    weight: &[T],
    dy: &[T],
    dx: &mut [T],
) {
    let stride = shape.strides[2];
    stretches(shape, input, output, |w, to, from, len| {
        let w = weight[w];
        let taps = dx[from..].iter_mut().step_by(stride);
        taps.zip(&dy[to..to + len]).for_each(|(dx, &dy)| *dx += w * dy);
    });
}

/// Adds to `dw` the gradient of the weight from one sample's input and its output's gradient.
pub fn weight_gradient<T: Real>(
    shape: &ConvShape,
    [input, output]: [Spatial; 2],
    x: &[T],
    dy: &[T],
    dw: &mut [T],
) {
    let stride = shape.strides[2];
    stretches(shape, input, output, |w, to, from, len| {
        let dy = &dy[to..to + len];
        dw[w] += if stride == 1 {
            dot(&x[from..from + len], dy)
        } else {
            let taps = x[from..].iter().step_by(stride);
            taps.zip(dy).fold(T::default(), |sum, (&x, &dy)| sum + x * dy)
        };
    });
}

/// A sum of products in independent lanes, which vectorise.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut lanes = [T::default(); 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(T::default(), |sum, (&x, &y)| sum + x * y);
    lanes.into_iter().fold(rest, |sum, lane| sum + lane)
}
