//! The rows of a layer's linear map: what it sees and what it yields at sampled positions.

use std::hash::Hasher;

use super::{Form, LinearMap};
use crate::error::OpError;
use crate::ops::{ConvAttributes, Padding};
use crate::tensor::{Array, Tensor};

/// Positions of every sample at which a layer is looked at: a seeded choice that stays the same
/// whatever else is computed.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// Positions per sample, at most.
    pub per_sample: usize,
    /// Seed of the choice.
    pub seed: u64,
}

impl Positions {
    /// The chosen ones among `count` positions of a sample, ascending.
    #[must_use]
    pub fn choose(&self, sample: u64, count: usize) -> Vec<usize> {
        if count <= self.per_sample {
            return (0..count).collect();
        }
        // One position in each of equally many stretches.
        let mut hasher = Mix(self.seed ^ sample.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..self.per_sample)
            .map(|i| {
                let (start, end) = (i * count / self.per_sample, (i + 1) * count / self.per_sample);
                hasher.write_u64(i as u64);
                start + (hasher.finish() % (end - start) as u64) as usize
            })
            .collect()
    }
}

/// A small seeded mixer, the same on every platform.
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.finish().wrapping_add(value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}

/// Rows of one tensor at the chosen positions, for one group after another.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// For each group its rows, row-major.
    pub groups: Vec<Vec<f32>>,
}

impl LinearMap {
    /// What the map sees at the chosen positions of a batch whose first sample has number `first`.
    ///
    /// # Errors
    /// When `x` is not an input of this map.
    pub fn input_rows(&self, x: &Tensor, first: u64, at: &Positions) -> Result<Rows, OpError> {
        let x = x.f32("a layer's input")?;
        match &self.form {
            Form::Conv(attributes) => self.patches(x, attributes, first, at),
            Form::ConvTranspose { .. } => self.gather(x, 1, self.columns, true, first, at),
            _ => {
                let (axis, batch) = self.feature_axis(x.ndim())?;
                self.gather(x, axis, self.columns, batch, first, at)
            }
        }
    }

    /// What the map yields at the chosen positions; `y` is the layer's output or of its shape. Of a
    /// transposed convolution these are the elements of the output that each element of the input
    /// adds to, whatever others add there.
    ///
    /// # Errors
    /// When `y` is not an output of this map.
    pub fn output_rows(&self, y: &Tensor, first: u64, at: &Positions) -> Result<Rows, OpError> {
        let y = y.f32("a layer's output")?;
        match &self.form {
            Form::Conv(_) => self.gather(y, 1, self.rows, true, first, at),
            Form::ConvTranspose { attributes, output_padding } => {
                let Padding::Explicit { begin, end } = &attributes.padding else {
                    return Err(wrong(y, "output"));
                };
                // The convolution back to the input doesn't reach what the output padding adds.
                let extra = |axis: usize| output_padding.get(axis).copied().unwrap_or(0);
                let end = end.iter().enumerate().map(|(a, end)| end.saturating_sub(extra(a)));
                let padding = Padding::Explicit { begin: begin.clone(), end: end.collect() };
                let attributes = ConvAttributes { padding, ..attributes.clone() };
                let form = Form::Conv(attributes.clone());
                let back = Self { form, rows: self.columns, columns: self.rows, ..self.clone() };
                back.patches(y, &attributes, first, at)
            }
            Form::GemmLeft { .. } | Form::MatMulLeft => {
                let axis = y.ndim().checked_sub(2).ok_or_else(|| wrong(y, "output"))?;
                self.gather(y, axis, self.rows, axis > 0, first, at)
            }
            _ => {
                let axis = y.ndim().checked_sub(1).ok_or_else(|| wrong(y, "output"))?;
                self.gather(y, axis, self.rows, true, first, at)
            }
        }
    }

    /// The axis of the data that W contracts, and whether axis 0 counts samples.
    fn feature_axis(&self, rank: usize) -> Result<(usize, bool), OpError> {
        let axis = match self.form {
            Form::Gemm { trans_a: true, .. } => Some(0),
            Form::GemmLeft { trans_b: true, .. } => Some(1),
            Form::GemmLeft { .. } => Some(0),
            Form::MatMulLeft => rank.checked_sub(2),
            _ => rank.checked_sub(1),
        };
        let axis = axis.ok_or_else(|| OpError::shape("a layer's input has too few axes"))?;
        Ok((axis, axis > 0))
    }

    /// Rows along `axis`, which holds the groups' features one after another. Where axis 0 does not
    /// count samples, all of the tensor is one sample.
    fn gather(
        &self,
        x: &Array<f32>,
        axis: usize,
        features: usize,
        batch: bool,
        first: u64,
        at: &Positions,
    ) -> Result<Rows, OpError> {
        if x.shape().get(axis) != Some(&(self.groups * features)) {
            return Err(wrong(x, "rows"));
        }
        let standard = x.as_standard_layout();
        let data = standard.as_slice().unwrap_or(&[]);
        let samples = if batch { x.shape()[0] } else { 1 };
        let sample_len = data.len() / samples.max(1);
        let before: usize = x.shape()[usize::from(batch)..axis].iter().product();
        let after: usize = x.shape()[axis + 1..].iter().product();
        let mut rows = Rows { groups: vec![Vec::new(); self.groups] };
        for sample in 0..samples {
            for position in at.choose(first + sample as u64, before * after) {
                let (outer, inner) = (position / after, position % after);
                let start = sample * sample_len + outer * self.groups * features * after + inner;
                for (group, rows) in rows.groups.iter_mut().enumerate() {
                    let start = start + group * features * after;
                    rows.extend((0..features).map(|f| data[start + f * after]));
                }
            }
        }
        Ok(rows)
    }

    /// Unfolded patches, `[input channel, kernel..]`.
    fn patches(
        &self,
        x: &Array<f32>,
        attributes: &ConvAttributes,
        first: u64,
        at: &Positions,
    ) -> Result<Rows, OpError> {
        let axes = attributes.kernel.len();
        let channels = self.columns / self.kernel_len();
        if x.ndim() != axes + 2 || x.shape()[1] != channels * self.groups {
            return Err(wrong(x, "patches"));
        }
        let standard = x.as_standard_layout();
        let data = standard.as_slice().unwrap_or(&[]);
        let spatial = &x.shape()[2..];
        let (begin, end) = attributes.pads(spatial);
        let mut out = Vec::with_capacity(axes);
        for axis in 0..axes {
            let reach = attributes.dilations[axis] * (attributes.kernel[axis] - 1) + 1;
            let padded = spatial[axis] + begin[axis] + end[axis];
            let room = padded.checked_sub(reach).ok_or_else(|| wrong(x, "patches"))?;
            out.push(room / attributes.strides[axis] + 1);
        }
        let plane: usize = spatial.iter().product();
        let mut rows = Rows { groups: vec![Vec::new(); self.groups] };
        // For each tap of a position, the element within a plane, or none in the padding.
        let mut taps: Vec<Option<usize>> = Vec::with_capacity(self.kernel_len());
        for sample in 0..x.shape()[0] {
            for position in at.choose(first + sample as u64, out.iter().product()) {
                taps.clear();
                for tap in 0..self.kernel_len() {
                    taps.push(element(attributes, &begin, spatial, &out, position, tap));
                }
                for (group, rows) in rows.groups.iter_mut().enumerate() {
                    let start = (sample * self.groups + group) * channels * plane;
                    for c in 0..channels {
                        let start = start + c * plane;
                        rows.extend(taps.iter().map(|t| t.map_or(0.0, |t| data[start + t])));
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// The element of a plane that a kernel tap reads for an output position.
fn element(
    attributes: &ConvAttributes,
    begin: &[usize],
    spatial: &[usize],
    out: &[usize],
    position: usize,
    tap: usize,
) -> Option<usize> {
    let (mut position, mut tap) = (position, tap);
    let (mut index, mut scale) = (0, 1);
    for axis in (0..spatial.len()).rev() {
        let at = position % out[axis] * attributes.strides[axis]
            + tap % attributes.kernel[axis] * attributes.dilations[axis];
        position /= out[axis];
        tap /= attributes.kernel[axis];
        let at = at.checked_sub(begin[axis]).filter(|&at| at < spatial[axis])?;
        index += at * scale;
        scale *= spatial[axis];
    }
    Some(index)
}

fn wrong(x: &Array<f32>, what: &str) -> OpError {
    OpError::shape(format!("no {what} of this layer in a tensor of shape {:?}", x.shape()))
}
