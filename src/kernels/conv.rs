//! Convolution in one to three spatial dimensions, one sample at a time.
//!
//! A group's channels are copied once into a padded scratch image, split by stride phase so that a
//! tap of a strided kernel reads consecutive elements too. Then every output vector is a sum of products of
//! a weight and a vector read at `base + offset[tap]`: no column matrix is built. Bias, a residual
//! and an activation are applied while the sums are in registers. Kernels of 3 x 3 with enough channels
//! go another way, with fewer products.

mod input_gradient;
mod interleave;
mod layout;
mod outer;
pub mod plain;
mod tile;
mod weight_gradient;
mod winograd;

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::OpError;

use super::Clamp;
use super::lanes::Isa;
use super::share::{self, Target};
pub use input_gradient::InputGradient;
pub use layout::Spatial;
use layout::{Image, Vector};
pub use weight_gradient::WeightGradient;
use winograd::Winograd;

/// Shape of a convolution; spatial dimensions are depth, height, width, leading ones being 1 where
/// the convolution has fewer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups; divides both channel counts.
    pub groups: usize,
    /// Kernel extents.
    pub kernel: Spatial,
    /// Strides.
    pub strides: Spatial,
    /// Dilations.
    pub dilations: Spatial,
    /// Zeros before the first element of each spatial axis.
    pub pads_begin: Spatial,
    /// Zeros after the last element of each spatial axis.
    pub pads_end: Spatial,
}

impl ConvShape {
    /// The extents of the output for an input of `spatial` extents.
    ///
    /// # Errors
    /// When the dilated kernel is larger than the padded input.
    pub fn output(&self, spatial: Spatial) -> Result<Spatial, OpError> {
        let mut out = [0; 3];
        for axis in 0..3 {
            let padded = spatial[axis] + self.pads_begin[axis] + self.pads_end[axis];
            let reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1;
            if padded < reach {
                return Err(OpError::shape(format!(
                    "kernel reaches over {reach} elements, the padded input has {padded}"
                )));
            }
            out[axis] = (padded - reach) / self.strides[axis] + 1;
        }
        Ok(out)
    }

    /// Input channels that one output channel sees.
    #[must_use]
    pub fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of one group.
    #[must_use]
    pub fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Weights that one output channel has.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.group_in() * self.kernel.iter().product::<usize>()
    }
}

/// Weights of a convolution laid out for this processor's kernel.
#[derive(Clone, Debug)]
pub struct PackedConv {
    /// The convolution.
    pub shape: ConvShape,
    isa: Isa,
    /// Row blocks of every group in turn: `[tap][row]`, rows beyond the last being absent.
    weights: Arc<[f32]>,
    bias: Arc<[f32]>,
    blocks: Arc<[Block]>,
    last: Arc<Mutex<Option<(Key, Arc<Image>)>>>,
    /// The weights for the way with fewer products, from the first run that it pays for.
    winograd: Arc<OnceLock<Winograd>>,
}

/// What a layout depends on beyond the weights: input extents, padding before and after.
type Key = (Spatial, Spatial, Spatial);

/// Output channels of a group that are computed together.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// First channel within the group.
    row: usize,
    /// Number of channels.
    rows: usize,
    /// Where the block starts among the group's weights.
    offset: usize,
}

/// A part of a run's outputs.
#[derive(Clone, Debug)]
struct Part {
    /// Groups, counted over all samples.
    groups: Range<usize>,
    /// The image's vectors.
    vectors: Range<usize>,
    /// Whether the image's tail is among them.
    tail: bool,
    /// Blocks of output channels.
    blocks: Range<usize>,
}

/// Vectors that a part has at least where positions are shared out: some tiles of registers.
const VECTORS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl PackedConv {
    /// Lays out `weight` `[out_channels, group_in, kernel..]` and `bias` `[out_channels]` (empty
    /// for none).
    #[must_use]
    pub fn new(shape: ConvShape, weight: &[f32], bias: &[f32]) -> Self {
        Self::for_isa(shape, weight, bias, Isa::detect())
    }

    pub(crate) fn for_isa(shape: ConvShape, weight: &[f32], bias: &[f32], isa: Isa) -> Self {
        let (taps, rows) = (shape.taps(), shape.group_out());
        let mut blocks = Vec::new();
        // Blocks of about the same size.
        let count = rows.div_ceil(tile::most_rows(isa));
        for i in 0..count {
            let row = rows * i / count;
            blocks.push(Block { row, rows: rows * (i + 1) / count - row, offset: row * taps });
        }
        let mut packed = Vec::with_capacity(weight.len());
        for group in 0..shape.groups {
            for block in &blocks {
                let first = group * rows + block.row;
                for tap in 0..taps {
                    packed.extend((0..block.rows).map(|r| weight[(first + r) * taps + tap]));
                }
            }
        }
        let bias = if bias.is_empty() { vec![0.0; shape.out_channels] } else { bias.to_vec() };
        Self {
            shape,
            isa,
            weights: packed.into(),
            bias: bias.into(),
            blocks: blocks.into(),
            last: Arc::default(),
            winograd: Arc::default(),
        }
    }

    /// The same weights with other padding, without a copy.
    #[must_use]
    pub fn with_pads(&self, begin: Spatial, end: Spatial) -> Self {
        let shape = ConvShape { pads_begin: begin, pads_end: end, ..self.shape.clone() };
        Self { shape, ..self.clone() }
    }

    /// Convolves `samples` samples of `[in_channels, spatial..]` into `out`
    /// `[samples, out_channels, output spatial..]`, adding `residual` of the same shape, then
    /// clamping.
    ///
    /// Every element of `out` is written.
    ///
    /// # Errors
    /// When a slice's length doesn't match or the kernel is larger than the input.
    pub fn run(
        &self,
        input: &[f32],
        samples: usize,
        spatial: Spatial,
        residual: Option<&[f32]>,
        clamp: Clamp,
        out: &mut [MaybeUninit<f32>],
    ) -> Result<(), OpError> {
        let shape = &self.shape;
        let output = shape.output(spatial)?;
        let plane_out: usize = output.iter().product();
        let (in_len, out_len) =
            (shape.in_channels * spatial.iter().product::<usize>(), shape.out_channels * plane_out);
        if input.len() != samples * in_len
            || out.len() != samples * out_len
            || residual.is_some_and(|r| r.len() != out.len())
        {
            return Err(OpError::shape("convolution over slices of unexpected length"));
        }
        if samples == 0 || out_len == 0 {
            return Ok(());
        }
        if Winograd::pays(shape, spatial, self.isa) {
            let winograd = self.winograd.get_or_init(|| Winograd::new(self));
            winograd.run(self, input, samples, spatial, output, residual, clamp, out);
            return Ok(());
        }
        let image = self.image(spatial)?;
        let (group_in, group_out) = (in_len / shape.groups, out_len / shape.groups);
        let parts = self.parts(&image, samples, share::parts(out.len() * shape.taps()));
        let target = Target::unwritten(out);
        share::each(parts, |part| {
            SCRATCH.with_borrow_mut(|scratch| {
                for i in part.groups.clone() {
                    let job = tile::Job {
                        conv: self,
                        image: &image,
                        part: &part,
                        group: i % shape.groups,
                        input: &input[i * group_in..][..group_in],
                        residual: residual.map(|r| &r[i * group_out..][..group_out]),
                        clamp,
                        plane_out,
                    };
                    // SAFETY: the group's outputs, which no other part writes where this one does.
                    let out = unsafe { target.from(i * group_out) };
                    tile::run(&job, scratch, out);
                }
            });
        });
        Ok(())
    }

    /// A run of so many samples in parts: by samples and groups where there are enough, else by positions,
    /// else by blocks of output channels.
    fn parts(&self, image: &Image, samples: usize, parts: usize) -> Vec<Part> {
        let all = Part {
            groups: 0..samples * self.shape.groups,
            vectors: 0..image.vectors.len(),
            tail: true,
            blocks: 0..self.blocks.len(),
        };
        let part = |index: usize| {
            let of = |range: &Range<usize>| share::part(range.end, 1, index, parts);
            let last = index + 1 == parts;
            if all.groups.end >= 2 * parts {
                Part { groups: of(&all.groups), ..all.clone() }
            } else if all.vectors.end >= VECTORS * parts {
                Part { vectors: of(&all.vectors), tail: last, ..all.clone() }
            } else {
                Part { blocks: of(&all.blocks), ..all.clone() }
            }
        };
        (0..parts).map(part).collect()
    }

    /// The layout of the scratch image: the last one made where it fits, else a new one.
    fn image(&self, spatial: Spatial) -> Result<Arc<Image>, OpError> {
        let (begin, end) = (self.shape.pads_begin, self.shape.pads_end);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, image)) = &*last
            && *key == (spatial, begin, end)
        {
            return Ok(image.clone());
        }
        let image = Arc::new(Image::new(&self.shape, spatial, tile::lane_count(self.isa))?);
        *last = Some(((spatial, begin, end), image.clone()));
        Ok(image)
    }
}

#[cfg(test)]
mod tests;
