//! The gradient of a convolution's input, which is also the transposed convolution.
//!
//! Inputs whose place along an axis is the same modulo the stride see the same taps: each such phase
//! is a convolution of stride 1 of the output's gradient with every s-th tap, the other way round.

use std::mem::MaybeUninit;

use super::{ConvShape, PackedConv, Spatial, plain};
use crate::error::OpError;
use crate::kernels::Clamp;
use crate::kernels::lanes::Isa;
use crate::kernels::matmul::{filled, uninit};

/// d loss / d input of a convolution.
#[derive(Debug)]
pub struct InputGradient {
    shape: ConvShape,
    spatial: Spatial,
    output: Spatial,
    phases: Vec<Phase>,
    /// The weight itself, where phases can't be convolutions.
    weight: Option<Vec<f32>>,
}

/// The inputs at places `start + stride * i`.
#[derive(Debug)]
struct Phase {
    start: Spatial,
    extents: Spatial,
    conv: PackedConv,
}

/// A phase along one axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    start: usize,
    extent: usize,
    /// First tap and number of taps.
    tap: usize,
    taps: usize,
    begin: isize,
    end: isize,
}

impl InputGradient {
    /// For convolutions of this shape with `weight` `[out_channels, group_in, kernel..]`, of inputs
    /// of `spatial` extents.
    ///
    /// # Errors
    /// When the weight has another length or the kernel is larger than the input.
    pub fn new(shape: ConvShape, weight: &[f32], spatial: Spatial) -> Result<Self, OpError> {
        Self::for_isa(shape, weight, spatial, Isa::detect())
    }

    pub(crate) fn for_isa(
        shape: ConvShape,
        weight: &[f32],
        spatial: Spatial,
        isa: Isa,
    ) -> Result<Self, OpError> {
        if weight.len() != shape.out_channels * shape.taps() {
            return Err(OpError::shape("a convolution's weight has another length than its shape"));
        }
        let output = shape.output(spatial)?;
        let axes: Vec<Vec<Axis>> = (0..3).map(|a| phases(&shape, spatial, output, a)).collect();
        let plain = axes.iter().flatten().all(|axis| axis.begin >= 0 && axis.end >= 0)
            && (0..3).all(|a| shape.strides[a] == 1 || shape.dilations[a] == 1);
        if !plain {
            let weight = Some(weight.to_vec());
            return Ok(Self { shape, spatial, output, phases: Vec::new(), weight });
        }
        let mut all = Vec::new();
        for &d in &axes[0] {
            for &h in &axes[1] {
                for &w in &axes[2] {
                    let axes = [d, h, w];
                    // Inputs that no tap sees have no gradient.
                    if axes.iter().all(|axis| axis.taps > 0) {
                        all.push(phase(&shape, weight, axes, isa));
                    }
                }
            }
        }
        Ok(Self { shape, spatial, output, phases: all, weight: None })
    }

    /// The gradient `[samples, in_channels, spatial..]` for `dy`
    /// `[samples, out_channels, output spatial..]`, added to `so_far`.
    ///
    /// # Errors
    /// When `dy` or `so_far` has another length.
    pub fn run(
        &self,
        dy: &[f32],
        samples: usize,
        so_far: Option<&[f32]>,
    ) -> Result<Vec<f32>, OpError> {
        let channels = self.shape.in_channels;
        let plane: usize = self.spatial.iter().product();
        let expected = samples * self.shape.out_channels * self.output.iter().product::<usize>();
        let len = samples * channels * plane;
        if dy.len() != expected || so_far.is_some_and(|so_far| so_far.len() != len) {
            return Err(OpError::shape("convolution gradient over slices of unexpected length"));
        }
        let start = || so_far.map_or_else(|| vec![0.0; len], <[f32]>::to_vec);
        if let Some(weight) = &self.weight {
            return Ok(self.scattered(weight, dy, start()));
        }
        if let [Phase { conv, .. }] = self.phases.as_slice()
            && self.shape.strides == [1; 3]
        {
            let mut out = uninit(len);
            conv.run(dy, samples, self.output, so_far, Clamp::NONE, &mut out)?;
            // SAFETY: the convolution has written every element.
            return Ok(unsafe { filled(out) });
        }
        let mut out = start();
        for Phase { start, extents, conv } in &self.phases {
            let part_len: usize = extents.iter().product();
            let mut part: Vec<MaybeUninit<f32>> = uninit(samples * channels * part_len);
            conv.run(dy, samples, self.output, None, Clamp::NONE, &mut part)?;
            // SAFETY: as above.
            let part = unsafe { filled(part) };
            let planes = part.chunks_exact(part_len.max(1)).zip(out.chunks_exact_mut(plane.max(1)));
            let [_, height, width] = self.spatial;
            let strides = self.shape.strides;
            for (part, out) in planes {
                for (row, values) in part.chunks_exact(extents[2].max(1)).enumerate() {
                    let d = start[0] + row / extents[1] * strides[0];
                    let h = start[1] + row % extents[1] * strides[1];
                    let to = &mut out[(d * height + h) * width + start[2]..];
                    let places = to.iter_mut().step_by(strides[2]);
                    places.zip(values).for_each(|(to, value)| *to += *value);
                }
            }
        }
        Ok(out)
    }

    /// Straight from the definition, for what no phase covers: strides together with dilations,
    /// and padding wider than the kernel.
    fn scattered(&self, weight: &[f32], dy: &[f32], mut out: Vec<f32>) -> Vec<f32> {
        let shape = &self.shape;
        let in_len = shape.in_channels * self.spatial.iter().product::<usize>();
        let out_len = shape.out_channels * self.output.iter().product::<usize>();
        let parts = dy.chunks_exact(out_len.max(1)).zip(out.chunks_exact_mut(in_len.max(1)));
        for (dy, dx) in parts {
            plain::data_gradient(shape, [self.spatial, self.output], weight, dy, dx);
        }
        out
    }
}

fn split(index: usize, extents: Spatial) -> Spatial {
    [index / (extents[1] * extents[2]), index / extents[2] % extents[1], index % extents[2]]
}

/// The phases along an axis.
fn phases(shape: &ConvShape, spatial: Spatial, output: Spatial, axis: usize) -> Vec<Axis> {
    let (kernel, stride) = (shape.kernel[axis], shape.strides[axis]);
    let (pad, input, output) = (shape.pads_begin[axis], spatial[axis], output[axis] as isize);
    (0..stride.min(input))
        .map(|start| {
            let extent = (input - start).div_ceil(stride);
            let tap = (start + pad) % stride;
            let taps = kernel.saturating_sub(tap).div_ceil(stride);
            // Input `start + stride * i` meets tap `tap + stride * j` at output `i + first - j`.
            let first = ((start + pad) / stride) as isize;
            let reach = (taps.saturating_sub(1) * shape.dilations[axis]) as isize;
            let begin = reach - first;
            let end = extent as isize + reach - output - begin;
            Axis { start, extent, tap, taps, begin, end }
        })
        .collect()
}

fn phase(shape: &ConvShape, weight: &[f32], axes: [Axis; 3], isa: Isa) -> Phase {
    let taps = axes.map(|axis| axis.taps);
    let (rows, columns) = (shape.group_out(), shape.group_in());
    // The phase's taps, last first.
    let places: Vec<usize> = (0..taps.iter().product())
        .map(|position| {
            let at = split(position, taps);
            (0..3).fold(0, |index, a| {
                let tap = axes[a].tap + shape.strides[a] * (taps[a] - 1 - at[a]);
                index * shape.kernel[a] + tap
            })
        })
        .collect();
    let filter = shape.kernel.iter().product::<usize>();
    let mut turned = Vec::with_capacity(weight.len());
    for group in 0..shape.groups {
        for column in 0..columns {
            for row in 0..rows {
                let from = ((group * rows + row) * columns + column) * filter;
                let filter = &weight[from..from + filter];
                turned.extend(places.iter().map(|&place| filter[place]));
            }
        }
    }
    let transposed = ConvShape {
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        groups: shape.groups,
        kernel: taps,
        strides: [1; 3],
        dilations: shape.dilations,
        pads_begin: axes.map(|axis| axis.begin.unsigned_abs()),
        pads_end: axes.map(|axis| axis.end.unsigned_abs()),
    };
    Phase {
        start: axes.map(|axis| axis.start),
        extents: axes.map(|axis| axis.extent),
        conv: PackedConv::for_isa(transposed, &turned, &[], isa),
    }
}
