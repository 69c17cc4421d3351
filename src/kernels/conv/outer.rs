//! The gradient of a convolution's weights as a sum of outer products.
//!
//! Input and output's gradient are copied so that channels are innermost. Then every position adds
//! the product of two runs of consecutive elements: the channels of a row of taps, and the output
//! channels. One of the two runs is read as vectors, the other element by element, whichever fills
//! the vectors better; their products have their sums in registers over a block of positions.
//! Nothing is added across lanes.

mod tiles;

use std::cell::RefCell;
use std::ops::Range;

use super::ConvShape;
use super::Spatial;
use super::interleave::interleave;
use crate::kernels::lanes::Isa;
use tiles::Job;

/// Positions whose products are summed before sums go back to memory: enough to make that cheap,
/// few enough for their elements to stay in the first-level cache.
const POSITIONS: usize = 128;

/// What the copies of samples that are summed over together take at most, unless one takes more.
const COPIES_BYTES: usize = 256 << 10;

/// Elements that may be read past the end of a copy.
const SLACK: usize = 4 * 16;

#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    dy: Vec<f32>,
    sums: Vec<f32>,
    runs: Vec<Run>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Consecutive positions: where they start in either copy, and how many they are.
#[derive(Clone, Copy, Debug)]
struct Run {
    x: usize,
    dy: usize,
    len: usize,
}

/// The cut of the products into tiles of registers.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Whether vectors are read from the input, else from the output's gradient.
    vectors_of_x: bool,
    /// Vectors of a tile and how many tiles they are in a row.
    vectors: usize,
    across: usize,
    /// Single elements of a tile and how many tiles they are in a column.
    singles: usize,
    down: usize,
    /// About the cycles for one position.
    cost: usize,
}

/// The layout of the copies and of the sums for one group.
#[derive(Debug)]
pub(super) struct Outer {
    pub spatial: Spatial,
    output: Spatial,
    isa: Isa,
    /// Place of every position of the input in its copy, in elements; none for what no tap sees.
    places: Vec<usize>,
    /// Elements of one sample's copy of the input, and those that are padding.
    x_len: usize,
    gaps: Vec<Range<usize>>,
    /// Starts of the rows of taps in the copy, and consecutive elements of one.
    starts: Vec<usize>,
    row: usize,
    /// For every element of a row of taps, and every row, the tap within a filter.
    taps: Vec<usize>,
    /// Elements from a row of positions to the next, and from an input slice to the next.
    pitches: [usize; 2],
    cut: Cut,
}

/// Numbers of single elements that there are tiles for.
const SINGLES: [usize; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24];

impl Cut {
    /// The best cut of `vectored` elements by `single` ones.
    fn best(vectored: usize, single: usize, isa: Isa, vectors_of_x: bool) -> Self {
        let (lanes, registers) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (16, 24),
            _ => (8, 12),
        };
        let all = vectored.div_ceil(lanes);
        let cuts = (1..=4).map(|vectors| {
            let most = registers / vectors;
            let even = single.div_ceil(single.div_ceil(most));
            let singles = SINGLES.into_iter().find(|&n| n >= even).unwrap_or(most).min(most);
            let (across, down) = (all.div_ceil(vectors), single.div_ceil(singles));
            // Products, or what they wait for: loads, and sums of the position before.
            let tile = (vectors * singles).max(vectors + singles / 2 + 1).max(4) + 1;
            Self { vectors_of_x, vectors, across, singles, down, cost: across * down * tile }
        });
        cuts.min_by_key(|cut| cut.cost).unwrap_or(Self {
            vectors_of_x,
            vectors: 1,
            across: all,
            singles: 1,
            down: single,
            cost: usize::MAX,
        })
    }
}

impl Outer {
    pub fn new(shape: &ConvShape, spatial: Spatial, output: Spatial, isa: Isa) -> Self {
        let channels = shape.group_in();
        let reach = |axis: usize| shape.dilations[axis] * (shape.kernel[axis] - 1);
        let extents: Spatial =
            std::array::from_fn(|a| shape.strides[a] * (output[a] - 1) + reach(a) + 1);
        let [_, height, width] = extents;
        let places = places(shape, spatial, extents);
        // Taps along the width read consecutive elements unless they are dilated.
        let joined = if shape.dilations[2] == 1 { shape.kernel[2] } else { 1 };
        let (mut starts, mut taps) = (Vec::new(), Vec::new());
        for d in 0..shape.kernel[0] {
            for h in 0..shape.kernel[1] {
                for w in (0..shape.kernel[2]).step_by(joined) {
                    let [d_at, h_at, w_at] =
                        [d * shape.dilations[0], h * shape.dilations[1], w * shape.dilations[2]];
                    starts.push(((d_at * height + h_at) * width + w_at) * channels);
                    for w in w..w + joined {
                        for c in 0..channels {
                            let tap = (c * shape.kernel[0] + d) * shape.kernel[1] + h;
                            taps.push(tap * shape.kernel[2] + w);
                        }
                    }
                }
            }
        }
        let row = joined * channels;
        let cuts = [
            Cut::best(row, shape.group_out(), isa, true),
            Cut::best(shape.group_out(), row, isa, false),
        ];
        let cut = if cuts[0].cost <= cuts[1].cost { cuts[0] } else { cuts[1] };
        let x_len = extents.iter().product::<usize>() * channels;
        Self {
            spatial,
            output,
            isa,
            gaps: gaps(&places, channels, x_len),
            places,
            x_len,
            starts,
            row,
            taps,
            pitches: [
                shape.strides[1] * width * channels,
                shape.strides[0] * height * width * channels,
            ],
            cut,
        }
    }

    /// About the cycles that one sample takes.
    pub fn cost(&self, shape: &ConvShape) -> usize {
        let plane: usize = self.output.iter().product();
        let copies = self.places.len() * shape.group_in() + plane * shape.group_out();
        plane * self.starts.len() * self.cut.cost + copies / 3
    }

    /// Adds the gradient of one group to `out` `[output channel, tap]`. `x` and `dy` give the
    /// group's channels of a sample.
    pub fn add<'a>(
        &self,
        shape: &ConvShape,
        samples: usize,
        x: impl Fn(usize) -> &'a [f32],
        dy: impl Fn(usize) -> &'a [f32],
        out: &mut [f32],
    ) {
        let plane: usize = self.output.iter().product();
        let dy_len = plane * shape.group_out();
        let together = (COPIES_BYTES / 4 / (self.x_len + dy_len))
            .min(POSITIONS.div_ceil(plane))
            .clamp(1, samples);
        let tile = self.cut.vectors * lanes(self.isa) * self.cut.singles;
        let tiles = self.starts.len() * self.cut.across * self.cut.down;
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { x: x_copy, dy: dy_copy, sums, runs } = scratch;
            grow(sums, tiles * tile);
            let sums = &mut sums[..tiles * tile];
            let mut first = true;
            grow(x_copy, self.x_len * together + SLACK);
            grow(dy_copy, dy_len * together + SLACK);
            for start in (0..samples).step_by(together) {
                let range = start..(start + together).min(samples);
                for (place, sample) in range.clone().enumerate() {
                    let to = &mut x_copy[place * self.x_len..][..self.x_len];
                    self.gaps.iter().for_each(|gap| to[gap.clone()].fill(0.0));
                    let channels = shape.group_in();
                    let positions = 0..self.places.len();
                    interleave(self.isa, x(sample), channels, positions, Some(&self.places), to);
                    let to = &mut dy_copy[place * dy_len..][..dy_len];
                    interleave(self.isa, dy(sample), shape.group_out(), 0..plane, None, to);
                }
                self.sum(shape, range.len(), [x_copy, dy_copy], sums, runs, &mut first);
            }
            self.spread(shape, sums, out);
        });
    }

    /// Adds the products of the samples that are copied to the sums, block by block.
    fn sum(
        &self,
        shape: &ConvShape,
        samples: usize,
        [x, dy]: [&[f32]; 2],
        sums: &mut [f32],
        runs: &mut Vec<Run>,
        first: &mut bool,
    ) {
        let width = self.output[2];
        let steps = [shape.strides[2] * shape.group_in(), shape.group_out()];
        let rows = samples * self.output[0] * self.output[1];
        let mut flush = |runs: &mut Vec<Run>| {
            let job = Job { outer: self, x, dy, steps, runs, sums: &mut *sums, first: *first };
            job.run();
            *first = false;
            runs.clear();
        };
        runs.clear();
        let mut held = 0;
        for row in 0..rows {
            let (sample, line) = (row / (rows / samples), row % (rows / samples));
            let (d, h) = (line / self.output[1], line % self.output[1]);
            let mut x = sample * self.x_len + d * self.pitches[1] + h * self.pitches[0];
            let mut dy = row * width * steps[1];
            let mut left = width;
            while left > 0 {
                let len = left.min(POSITIONS - held);
                match runs.last_mut() {
                    Some(run) if run.x + run.len * steps[0] == x => run.len += len,
                    _ => runs.push(Run { x, dy, len }),
                }
                (x, dy) = (x + len * steps[0], dy + len * steps[1]);
                (left, held) = (left - len, held + len);
                if held == POSITIONS {
                    flush(runs);
                    held = 0;
                }
            }
        }
        if held > 0 {
            flush(runs);
        }
    }

    /// Adds the sums to the gradient, in the order of the weight.
    fn spread(&self, shape: &ConvShape, sums: &[f32], out: &mut [f32]) {
        let Cut { vectors_of_x, vectors, across, singles, down, .. } = self.cut;
        let (length, taps, channels) = (vectors * lanes(self.isa), shape.taps(), shape.group_out());
        let mut tiles = sums.chunks_exact(singles * length);
        for row in self.taps.chunks_exact(self.row) {
            for vector in 0..across {
                for single in 0..down {
                    let Some(tile) = tiles.next() else { return };
                    for (i, line) in tile.chunks_exact(length).enumerate() {
                        let (single, first) = (single * singles + i, vector * length);
                        if vectors_of_x {
                            if single < channels {
                                let out = &mut out[single * taps..][..taps];
                                let row = row[first.min(row.len())..].iter().zip(line);
                                row.for_each(|(&tap, sum)| out[tap] += sum);
                            }
                        } else if let Some(&tap) = row.get(single) {
                            let out = out[first * taps..].chunks_exact_mut(taps).zip(line);
                            out.for_each(|(out, sum)| out[tap] += sum);
                        }
                    }
                }
            }
        }
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

fn lanes(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 16,
        _ => 8,
    }
}

/// For every position of the input its place in the padded copy, in elements; `usize::MAX` for
/// those past what the taps see.
fn places(shape: &ConvShape, spatial: Spatial, extents: Spatial) -> Vec<usize> {
    let mut places = Vec::with_capacity(spatial.iter().product());
    for d in 0..spatial[0] {
        for h in 0..spatial[1] {
            for w in 0..spatial[2] {
                let at: Spatial = std::array::from_fn(|a| [d, h, w][a] + shape.pads_begin[a]);
                let seen = (0..3).all(|a| at[a] < extents[a]);
                let place = (at[0] * extents[1] + at[1]) * extents[2] + at[2];
                places.push(if seen { place * shape.group_in() } else { usize::MAX });
            }
        }
    }
    places
}

/// What of `0..len` no place covers.
fn gaps(places: &[usize], channels: usize, len: usize) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut end = 0;
    // Places ascend.
    for &place in places.iter().filter(|&&place| place != usize::MAX) {
        if place > end {
            gaps.push(end..place);
        }
        end = place + channels;
    }
    if end < len {
        gaps.push(end..len);
    }
    gaps
}
