//! Convolution by kernels of 3 x 3 in a quarter of the products: F(4 x 4, 3 x 3) of Winograd's minimal
//! filtering (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308).
//!
//! Four by four outputs are a tile. What a tile sees, 6 x 6 inputs, is transformed channel by channel, as
//! is the kernel; at each of the 36 points the sum over channels is then a matrix product over tiles,
//! and what it gives is transformed back. Channels are innermost all along, so that a vector is several
//! channels of one point.
//!
//! The points of interpolation are 0, infinity and the square roots of 1/2 and 2 with both signs. Powers
//! of these stay near one, which keeps rounding near that of the plain sum: with 0, 1, -1, 2 and -2 it is
//! about three times as much. A value that is not finite spoils the tiles that see it.

mod lanes;

use std::mem::MaybeUninit;
use std::ops::Range;

use super::interleave::interleave;
use super::{Clamp, ConvShape, PackedConv, SCRATCH, Spatial, tile};
use crate::kernels::lanes::Isa;
use crate::kernels::share::{self, Target};

/// Outputs along one side of a tile.
const SIDE: usize = 4;

/// Inputs along one side of what a tile sees.
const SEEN: usize = 6;

/// Points at which products are taken.
const POINTS: usize = SEEN * SEEN;

/// The square roots of 1/2 and of 2.
const ROOT_HALF: f64 = std::f64::consts::FRAC_1_SQRT_2;
const ROOT_TWO: f64 = std::f64::consts::SQRT_2;

/// Transforms a kernel along one axis.
const KERNEL: [[f64; 3]; SEEN] = [
    [1.0, 0.0, 0.0],
    [-2.0 / 3.0, -2.0 / 3.0 * ROOT_HALF, -1.0 / 3.0],
    [-2.0 / 3.0, 2.0 / 3.0 * ROOT_HALF, -1.0 / 3.0],
    [1.0 / 6.0, ROOT_TWO / 6.0, 1.0 / 3.0],
    [1.0 / 6.0, -ROOT_TWO / 6.0, 1.0 / 3.0],
    [0.0, 0.0, 1.0],
];

/// Bytes that the transformed inputs and outputs of a block of tiles may take: a part of the
/// second-level cache.
const BLOCK_BYTES: usize = 384 << 10;

/// Tiles of a block, at most.
const BLOCK_TILES: usize = 96;

/// Elements between the planes of two points, besides their tiles: keeps them off the same sets of a
/// cache.
const GAP: usize = 16;

/// Bytes that transformed weights take at most: four times the kernel's, and of larger ones a cache holds
/// too little.
const WEIGHT_BYTES: usize = 16 << 20;

/// Transformed weights.
#[derive(Debug)]
pub(super) struct Winograd {
    /// `[point][block of output channels][input channel][output channel of the block]`; a block is
    /// [`WIDE`] vectors, the last one of a point one vector where their number is odd.
    weights: Vec<f32>,
}

/// Vectors of output channels that are computed together.
const WIDE: usize = 2;

/// Where everything lies for an input of some extents.
struct Geometry {
    channels: usize,
    /// Channels of the input and of the output, up to whole vectors.
    channels_held: usize,
    outputs_held: usize,
    outputs: usize,
    /// Height and width of the output.
    output: [usize; 2],
    /// Tiles along height and width.
    tiles: [usize; 2],
    /// Height and width of the padded copy of the input.
    image: [usize; 2],
    /// Tiles of a block.
    block: usize,
}

/// A part of a run's outputs.
struct Part {
    /// Tiles, counted over all samples.
    tiles: Range<usize>,
    /// Output channels; whole blocks of them, and padding up to whole vectors.
    outputs: Range<usize>,
}

/// A run over some samples.
struct Job<'a> {
    conv: &'a PackedConv,
    weights: &'a [f32],
    geometry: &'a Geometry,
    /// For every position of the input its place in the padded copy, in elements.
    places: &'a [usize],
    input: &'a [f32],
    samples: usize,
    residual: Option<&'a [f32]>,
    clamp: Clamp,
}

impl Geometry {
    fn new(shape: &ConvShape, output: Spatial, isa: Isa) -> Self {
        let lanes = tile::lane_count(isa);
        let (channels, outputs) = (shape.in_channels, shape.out_channels);
        let (channels_held, outputs_held) =
            (channels.next_multiple_of(lanes), outputs.next_multiple_of(lanes));
        let output = [output[1], output[2]];
        let tiles = output.map(|extent| extent.div_ceil(SIDE));
        // Tiles take the place that rows have in the direct sums: what the registers hold.
        let together = tile::most_rows(isa);
        let fitting = BLOCK_BYTES / 4 / POINTS / (channels_held + outputs_held);
        let block = (fitting / together * together).clamp(together, BLOCK_TILES);
        let image = tiles.map(|tiles| tiles * SIDE + SEEN - SIDE);
        Self { channels, channels_held, outputs_held, outputs, output, tiles, image, block }
    }

    fn places(&self, shape: &ConvShape, spatial: Spatial) -> Vec<usize> {
        let (top, left) = (shape.pads_begin[1], shape.pads_begin[2]);
        let place =
            |y: usize, x: usize| ((y + top) * self.image[1] + x + left) * self.channels_held;
        (0..spatial[1]).flat_map(|y| (0..spatial[2]).map(move |x| place(y, x))).collect()
    }

    /// A run of so many samples in parts: by tiles where there are enough for the registers, else by
    /// output channels.
    fn parts(&self, samples: usize, parts: usize, isa: Isa) -> Vec<Part> {
        let (tiles, outputs) = (samples * self.tiles[0] * self.tiles[1], self.outputs_held);
        let (together, wide) = (tile::most_rows(isa), WIDE * tile::lane_count(isa));
        let by_tiles = tiles.div_ceil(together).min(parts);
        let by_outputs = outputs.div_ceil(wide).min(parts);
        let part = |index: usize| {
            if by_tiles >= by_outputs {
                Part { tiles: share::part(tiles, together, index, by_tiles), outputs: 0..outputs }
            } else {
                Part { tiles: 0..tiles, outputs: share::part(outputs, wide, index, by_outputs) }
            }
        };
        (0..by_tiles.max(by_outputs)).map(part).collect()
    }

    /// Elements of the padded copy.
    fn image_len(&self) -> usize {
        self.image[0] * self.image[1] * self.channels_held
    }

    /// Elements from a point's transformed inputs, or outputs, to the next point's.
    fn pitches(&self) -> [usize; 2] {
        [self.channels_held, self.outputs_held].map(|held| self.block * held + GAP)
    }
}

impl Job<'_> {
    /// The elements of the padded copy that a part's tiles see, and the positions of the input among
    /// them. Where tiles are of several samples, the copy holds one sample after the other whole.
    fn seen(&self, part: &Part) -> [Range<usize>; 2] {
        let at = self.geometry;
        let per_sample = at.tiles[0] * at.tiles[1];
        let (first, last) = (part.tiles.start, part.tiles.end.max(part.tiles.start + 1) - 1);
        let elements = if first / per_sample == last / per_sample {
            let [first, last] = [first, last].map(|tile| tile % per_sample / at.tiles[1] * SIDE);
            let row = at.image[1] * at.channels_held;
            first * row..(last + SEEN) * row
        } else {
            0..at.image_len()
        };
        let position = |element: usize| self.places.partition_point(|&place| place < element);
        [elements.clone(), position(elements.start)..position(elements.end)]
    }
}

impl Winograd {
    /// Whether this is the faster way to convolve inputs of `spatial` extents, if only one: the
    /// results of a sample must not depend on how many are run with it.
    pub fn pays(shape: &ConvShape, spatial: Spatial, isa: Isa) -> bool {
        let plain = shape.kernel == [1, 3, 3]
            && shape.strides == [1; 3]
            && shape.dilations == [1; 3]
            && shape.groups == 1
            && spatial[0] == 1
            && shape.pads_begin[0] == 0
            && shape.pads_end[0] == 0;
        let Ok(output) = shape.output(spatial) else { return false };
        if !plain {
            return false;
        }
        let geometry = Geometry::new(shape, output, isa);
        let lanes = tile::lane_count(isa);
        let products = shape.in_channels * shape.out_channels;
        let weights = POINTS * shape.in_channels * geometry.outputs_held;
        if 4 * weights > WEIGHT_BYTES {
            return false;
        }
        // In vector instructions, with what loads of weights from a third-level cache take.
        let loads = |weights: usize| (weights / 4) as f64;
        let plane = output[1] * output[2];
        let direct = 1.07 * (9 * products * plane) as f64 / lanes as f64 + loads(9 * products);
        let tiles = geometry.tiles[0] * geometry.tiles[1];
        let vectors = [geometry.channels_held, geometry.outputs_held].map(|held| held / lanes);
        let transforms = 330 * vectors[0] + 420 * vectors[1];
        let sums = 1.2 * (POINTS * shape.in_channels * vectors[1]) as f64;
        let blocks = tiles.div_ceil(geometry.block);
        let here = tiles as f64 * (sums + transforms as f64) + loads(blocks * weights);
        here < 0.9 * direct
    }

    /// Transforms the weights of a convolution that this pays for.
    pub fn new(conv: &PackedConv) -> Self {
        let lanes = tile::lane_count(conv.isa);
        let (channels, outputs) = (conv.shape.in_channels, conv.shape.out_channels);
        let held = outputs.next_multiple_of(lanes);
        let mut weights = vec![0.0; POINTS * channels * held];
        for block in conv.blocks.iter() {
            for row in 0..block.rows {
                let k = block.row + row;
                // Where the output channel lies within a point's weights.
                let (first, width) = columns(k, held, lanes);
                for c in 0..channels {
                    let tap = |tap: usize| {
                        let place = block.offset + (c * 9 + tap) * block.rows + row;
                        f64::from(conv.weights[place])
                    };
                    let kernel: [[f64; 3]; 3] =
                        std::array::from_fn(|y| std::array::from_fn(|x| tap(3 * y + x)));
                    let place = first * channels + c * width + (k - first);
                    for (point, value) in transformed(&kernel).into_iter().enumerate() {
                        weights[point * channels * held + place] = value as f32;
                    }
                }
            }
        }
        Self { weights }
    }

    /// As [`PackedConv::run`], whose checks were made.
    pub fn run(
        &self,
        conv: &PackedConv,
        input: &[f32],
        samples: usize,
        spatial: Spatial,
        output: Spatial,
        residual: Option<&[f32]>,
        clamp: Clamp,
        out: &mut [MaybeUninit<f32>],
    ) {
        let geometry = Geometry::new(&conv.shape, output, conv.isa);
        let places = geometry.places(&conv.shape, spatial);
        let pitches = geometry.pitches();
        let needed = geometry.image_len() + POINTS * (pitches[0] + pitches[1]);
        let job = Job {
            conv,
            weights: &self.weights,
            geometry: &geometry,
            places: &places,
            input,
            samples,
            residual,
            clamp,
        };
        let products = out.len() * conv.shape.in_channels * 9;
        let parts = geometry.parts(samples, share::parts(products), conv.isa);
        let target = Target::unwritten(out);
        share::each(parts, |part| {
            SCRATCH.with_borrow_mut(|scratch| {
                if scratch.len() < needed {
                    scratch.resize(needed, 0.0);
                }
                lanes::run(&job, &part, scratch, target);
            });
        });
    }
}

/// The first output channel of the block of columns that has channel `k`, and the block's width.
fn columns(k: usize, held: usize, lanes: usize) -> (usize, usize) {
    let first = k / (WIDE * lanes) * (WIDE * lanes);
    (first, (WIDE * lanes).min(held - first))
}

/// A kernel at all points.
fn transformed(kernel: &[[f64; 3]; 3]) -> [f64; POINTS] {
    let mut half = [[0.0; 3]; SEEN];
    for (row, by) in half.iter_mut().zip(&KERNEL) {
        *row = std::array::from_fn(|x| (0..3).map(|y| by[y] * kernel[y][x]).sum());
    }
    std::array::from_fn(|point| {
        let (row, by) = (half[point / SEEN], KERNEL[point % SEEN]);
        (0..3).map(|x| by[x] * row[x]).sum()
    })
}
