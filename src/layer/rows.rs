//! The rows of a layer's linear map: what it sees and what it yields at sampled positions.

use std::hash::Hasher;

use super::{Form, LinearMap};
use crate::error::OpError;
use crate::ops::{ConvAttributes, Padding};
use crate::tensor::{Array, Tensor};
use crate::tokens::Tokens;

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
    /// The same for several samples together.
    fn of(&self, samples: usize) -> Self {
        Self { per_sample: self.per_sample.saturating_mul(samples.max(1)), ..*self }
    }

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

/// The samples of a run whose values are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Number of the first sample, of all there are.
    pub first: u64,
    /// How many there are. Axis 0 of a value may hold several rows of each.
    pub samples: usize,
    /// The positions of their sequences that count; `None` where all do.
    pub tokens: Option<&'a Tokens>,
}

impl Batch<'_> {
    /// The chosen ones among `count` positions of each of the samples: with `masked` those that count.
    fn choose(&self, sample: usize, count: usize, masked: bool, at: &Positions) -> Vec<usize> {
        let sample = self.first + sample as u64;
        let tokens = self.tokens.filter(|_| masked).zip(usize::try_from(sample).ok());
        match tokens.and_then(|(tokens, sample)| tokens.kept(sample, count)) {
            Some(kept) => at.choose(sample, kept.len()).into_iter().map(|i| kept[i]).collect(),
            None => at.choose(sample, count),
        }
    }

    /// How many samples axis 0 of so many rows counts; one, of all rows, where it counts none.
    fn samples_in(&self, rows: usize) -> usize {
        if self.samples > 0 && rows.is_multiple_of(self.samples) { self.samples } else { 1 }
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
    /// What the map sees at the chosen positions of a batch: of a table the place that is looked up.
    ///
    /// # Errors
    /// When `x` is not an input of this map.
    pub fn input_rows(
        &self,
        x: &Tensor,
        batch: &Batch<'_>,
        at: &Positions,
    ) -> Result<Rows, OpError> {
        if self.is_table() {
            let x = self.places(x)?;
            return self.gather(&x, x.ndim() - 1, 1, true, batch, at);
        }
        let x = x.f32("a layer's input")?;
        match &self.form {
            Form::Conv(attributes) => self.patches(x, attributes, batch, at),
            Form::ConvTranspose { .. } => self.gather(x, 1, self.columns, true, batch, at),
            _ => {
                let (axis, by_sample) = self.feature_axis(x.ndim())?;
                self.gather(x, axis, self.columns, by_sample, batch, at)
            }
        }
    }

    /// What the map yields at the chosen positions; `y` is the layer's output or of its shape. Of a
    /// transposed convolution these are the elements of the output that each element of the input
    /// adds to, whatever others add there.
    ///
    /// # Errors
    /// When `y` is not an output of this map.
    pub fn output_rows(
        &self,
        y: &Tensor,
        batch: &Batch<'_>,
        at: &Positions,
    ) -> Result<Rows, OpError> {
        let y = y.f32("a layer's output")?;
        match &self.form {
            Form::Conv(_) => self.gather(y, 1, self.rows, true, batch, at),
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
                back.patches(y, &attributes, batch, at)
            }
            Form::GemmLeft { .. } | Form::MatMulLeft => {
                let axis = y.ndim().checked_sub(2).ok_or_else(|| wrong(y, "output"))?;
                self.gather(y, axis, self.rows, axis > 0, batch, at)
            }
            _ => {
                let axis = y.ndim().checked_sub(1).ok_or_else(|| wrong(y, "output"))?;
                self.gather(y, axis, self.rows, true, batch, at)
            }
        }
    }

    /// Places in a table from its start, as rows of one element.
    fn places(&self, x: &Tensor) -> Result<Array<f32>, OpError> {
        let place = |&place: &i64| {
            let from_start = if place < 0 { place + self.columns as i64 } else { place };
            from_start as f32
        };
        let places: Vec<f32> = match x {
            Tensor::I64(x) => x.iter().map(place).collect(),
            Tensor::I32(x) => x.iter().map(|&v| place(&i64::from(v))).collect(),
            _ => return Err(OpError::shape("places in a table are no integers")),
        };
        let shape: Vec<usize> = x.shape().iter().copied().chain([1]).collect();
        Array::from_shape_vec(shape, places).map_err(|e| OpError::shape(e.to_string()))
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
    /// count samples (`by_sample`), all of the tensor is one sample.
    fn gather(
        &self,
        x: &Array<f32>,
        axis: usize,
        features: usize,
        by_sample: bool,
        batch: &Batch<'_>,
        at: &Positions,
    ) -> Result<Rows, OpError> {
        if x.shape().get(axis) != Some(&(self.groups * features)) {
            return Err(wrong(x, "rows"));
        }
        let standard = x.as_standard_layout();
        let data = standard.as_slice().unwrap_or(&[]);
        let samples = if by_sample { batch.samples_in(x.shape()[0]) } else { 1 };
        let at = &at.of(batch.samples / samples);
        let masked = !matches!(self.form, Form::ConvTranspose { .. } | Form::Conv(_));
        let sample_len = data.len() / samples.max(1);
        let before: usize = x.shape()[..axis].iter().product::<usize>() / samples;
        let after: usize = x.shape()[axis + 1..].iter().product();
        let mut rows = Rows { groups: vec![Vec::new(); self.groups] };
        for sample in 0..samples {
            for position in batch.choose(sample, before * after, masked, at) {
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
        batch: &Batch<'_>,
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
        let samples = batch.samples_in(x.shape()[0]);
        let at = &at.of(batch.samples / samples);
        // Images of each sample, such as the frames of a video.
        let images = x.shape()[0] / samples;
        let places: usize = out.iter().product();
        for sample in 0..samples {
            for position in batch.choose(sample, images * places, false, at) {
                let image = sample * images + position / places;
                taps.clear();
                for tap in 0..self.kernel_len() {
                    taps.push(element(attributes, &begin, spatial, &out, position % places, tap));
                }
                for (group, rows) in rows.groups.iter_mut().enumerate() {
                    let start = (image * self.groups + group) * channels * plane;
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
