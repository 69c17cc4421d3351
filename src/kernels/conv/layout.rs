//! Where the elements of a convolution's input lie in the scratch image, and how the output is cut
//! into vectors.

use crate::error::OpError;

use super::ConvShape;
use crate::kernels::lanes::{Lanes, Part};

/// Extents along depth, height and width.
pub type Spatial = [usize; 3];

/// One vector of outputs: consecutive elements of the output plane, whose taps read consecutive
/// elements of the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector {
    /// Element of the image that lane 0 of tap offset 0 reads.
    pub base: usize,
    /// Element of the output plane that lane 0 goes to.
    pub out: usize,
    /// Number of lanes that are outputs; the others are dropped.
    pub len: usize,
}

/// A vector of a row's copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Element of the input row that lane 0 has; negative before the row.
    pub source: isize,
    /// The lanes that the row has elements for.
    pub part: Part,
}

/// The padded copy of one group's channels of a sample:
/// `[channel][depth][row phase][column copy][row][column]`.
///
/// A stride of s has s phases; element i along an axis is in phase i mod s at place i / s, so that
/// consecutive outputs read consecutive elements. There are two ways to lay out columns, and the
/// one with less work is taken. Either a column copy is a phase, as for rows, and vectors run along
/// single rows. Or every tap along the width has a copy of its own, as long as an output row, so
/// that vectors run on from row to row: three times the copying for a kernel of width 3, but no
/// lane lost at the ends of rows.
#[derive(Debug)]
pub(super) struct Image {
    /// The extents of the input.
    pub spatial: Spatial,
    depth: usize,
    rows: usize,
    row_phases: Vec<usize>,
    /// For every column copy, the vectors of a row's copy.
    columns: Vec<Vec<Chunk>>,
    /// Elements of a row's copy.
    width: usize,
    /// Offset of every tap (group input channel, depth, row, column) from a vector's base.
    pub taps: Vec<usize>,
    /// The output plane, cut into vectors.
    pub vectors: Vec<Vector>,
    /// Whether the input itself has the image's layout, so that no copy is needed. Then there is
    /// no slack after its end, and `vectors` are whole ones.
    pub is_input: bool,
    /// The last vector of an input that is not copied, when it is not a whole one.
    pub tail: Option<Vector>,
    /// Elements of the image, with what vectors read and write past its end.
    pub len: usize,
}

impl Image {
    /// The layout for an input of `spatial` extents and vectors of `lanes` elements.
    ///
    /// # Errors
    /// When the kernel is larger than the padded input.
    pub fn new(shape: &ConvShape, spatial: Spatial, lanes: usize) -> Result<Self, OpError> {
        let out = shape.output(spatial)?;
        if shape.kernel == [1; 3]
            && shape.strides == [1; 3]
            && shape.pads_begin == [0; 3]
            && shape.pads_end == [0; 3]
        {
            return Ok(Self::input(shape, spatial, lanes));
        }
        let single = Self::copied(shape, spatial, out, lanes, false);
        let joined = Self::copied(shape, spatial, out, lanes, true);
        let work = |image: &Self| {
            let sums = image.vectors.len() * image.taps.len() * shape.group_out();
            // A vector is copied in the time of a few products.
            sums + 3 * shape.group_in() * image.copies()
        };
        Ok(if work(&joined) <= work(&single) { joined } else { single })
    }

    /// The input as it is, for a convolution that sees one element at a time.
    fn input(shape: &ConvShape, spatial: Spatial, lanes: usize) -> Self {
        let plane = spatial.iter().product();
        let mut vectors = cut(0, 0, plane, lanes);
        let tail = vectors.pop_if(|last| last.len < lanes);
        Self {
            spatial,
            depth: spatial[0],
            rows: spatial[1],
            row_phases: vec![0],
            columns: Vec::new(),
            width: spatial[2],
            taps: (0..shape.group_in()).map(|c| c * plane).collect(),
            vectors,
            is_input: true,
            tail,
            len: shape.group_in() * plane,
        }
    }

    fn copied(
        shape: &ConvShape,
        spatial: Spatial,
        out: Spatial,
        lanes: usize,
        joined: bool,
    ) -> Self {
        let [stride_d, stride_h, stride_w] = shape.strides;
        let reach = |axis: usize| shape.dilations[axis] * (shape.kernel[axis] - 1);
        let depth = stride_d * (out[0] - 1) + reach(0) + 1;
        let rows = out[1] + reach(1) / stride_h;
        let width = if joined { out[2] } else { out[2] + reach(2) / stride_w };
        let row_phases = phases(shape, 1);
        let starts = if joined {
            (0..shape.kernel[2]).map(|k| k * shape.dilations[2]).collect()
        } else {
            phases(shape, 2)
        };
        let plane = rows * width;
        let slice = plane * row_phases.len() * starts.len();
        let channel = depth * slice;

        let mut taps = Vec::with_capacity(shape.taps());
        for c in 0..shape.group_in() {
            for kd in 0..shape.kernel[0] {
                for kh in 0..shape.kernel[1] {
                    for kw in 0..shape.kernel[2] {
                        let (h, w) = (kh * shape.dilations[1], kw * shape.dilations[2]);
                        let (copy, column) = if joined {
                            (kw, 0)
                        } else {
                            (place(&starts, w % stride_w), w / stride_w)
                        };
                        let phase = place(&row_phases, h % stride_h) * starts.len() + copy;
                        taps.push(
                            c * channel
                                + kd * shape.dilations[0] * slice
                                + phase * plane
                                + h / stride_h * width
                                + column,
                        );
                    }
                }
            }
        }
        let mut vectors = Vec::new();
        for d in 0..out[0] {
            let (base, to) = (d * stride_d * slice, d * out[1] * out[2]);
            if joined {
                vectors.extend(cut(base, to, out[1] * out[2], lanes));
            } else {
                for row in 0..out[1] {
                    vectors.extend(cut(base + row * width, to + row * out[2], out[2], lanes));
                }
            }
        }
        let columns = starts
            .into_iter()
            .map(|start| chunks(start, stride_w, shape.pads_begin[2], spatial[2], width, lanes))
            .collect();
        Self {
            spatial,
            depth,
            rows,
            row_phases,
            columns,
            width,
            taps,
            vectors,
            is_input: false,
            tail: None,
            len: channel * shape.group_in() + 2 * lanes,
        }
    }

    /// Vectors that are copied for one channel.
    fn copies(&self) -> usize {
        let row: usize = self.columns.iter().map(Vec::len).sum();
        self.depth * self.row_phases.len() * self.rows * row
    }

    /// Calls `copy` for every row of one channel of the image, in order, with the place of the row
    /// in the channel's image, its vectors and where the input's row starts in the input's
    /// channel (`None` for a row of padding). Gives the elements of the channel's image.
    #[inline(always)]
    pub fn rows(
        &self,
        shape: &ConvShape,
        mut copy: impl FnMut(usize, &[Chunk], Option<usize>),
    ) -> usize {
        let [in_d, in_h, in_w] = self.spatial;
        let mut place = 0;
        for d in 0..self.depth {
            let source_d = d.checked_sub(shape.pads_begin[0]).filter(|&d| d < in_d);
            for &phase in &self.row_phases {
                for column in &self.columns {
                    for row in 0..self.rows {
                        let source_h = (row * shape.strides[1] + phase)
                            .checked_sub(shape.pads_begin[1])
                            .filter(|&h| h < in_h);
                        let start = source_d.zip(source_h).map(|(d, h)| (d * in_h + h) * in_w);
                        copy(place, column, start);
                        place += self.width;
                    }
                }
            }
        }
        place
    }
}

/// Copies a group's channels of a sample into their image.
///
/// # Safety
/// The processor has the vector's instructions; `input` holds the group's channels of the image's
/// extents; `to` has room for the image.
#[inline(always)]
pub(super) unsafe fn fill<V: Lanes>(shape: &ConvShape, image: &Image, input: &[f32], to: *mut f32) {
    // SAFETY: as the caller vouches.
    unsafe {
        match shape.strides[2] {
            1 => fill_strided::<V, 1>(shape, image, input, to),
            2 => fill_strided::<V, 2>(shape, image, input, to),
            _ => fill_strided::<V, 0>(shape, image, input, to),
        }
    }
}

/// [`fill`] for a stride along rows, 0 for any. Vectors reach past the end of a row's copy; the next
/// row, which is copied later, overwrites that.
#[inline(always)]
unsafe fn fill_strided<V: Lanes, const STRIDE: usize>(
    shape: &ConvShape,
    image: &Image,
    input: &[f32],
    mut to: *mut f32,
) {
    let channel: usize = image.spatial.iter().product();
    for c in 0..shape.group_in() {
        let source = input.as_ptr().wrapping_add(c * channel);
        // SAFETY: the image has room for its rows and one vector more; only elements of the row
        // are read.
        let len = image.rows(shape, |place, chunks, start| unsafe {
            let to = to.add(place);
            for (i, chunk) in chunks.iter().enumerate() {
                let vector = match start {
                    Some(start) => {
                        let from = source.wrapping_add(start).wrapping_offset(chunk.source);
                        V::load_part::<STRIDE>(from, chunk.part)
                    }
                    None => V::splat(0.0),
                };
                vector.store(to.add(i * V::COUNT));
            }
        });
        to = to.wrapping_add(len);
    }
}

/// Cuts `len` consecutive outputs into vectors.
fn cut(base: usize, out: usize, len: usize, lanes: usize) -> Vec<Vector> {
    (0..len)
        .step_by(lanes)
        .map(|at| Vector { base: base + at, out: out + at, len: lanes.min(len - at) })
        .collect()
}

/// The vectors of a copy of a row of `source` elements: place i holds the row's element
/// `i * stride + start - pad`.
fn chunks(
    start: usize,
    stride: usize,
    pad: usize,
    source: usize,
    width: usize,
    lanes: usize,
) -> Vec<Chunk> {
    // First place whose source is not before the row, first place whose source is past its end.
    let first = pad.saturating_sub(start).div_ceil(stride);
    let end = (source + pad).saturating_sub(start).div_ceil(stride).min(width);
    (0..width)
        .step_by(lanes)
        .map(|at| {
            let end = end.saturating_sub(at).min(lanes);
            let part = Part::new(first.saturating_sub(at).min(end), end, stride);
            Chunk { source: (at * stride + start) as isize - pad as isize, part }
        })
        .collect()
}

/// The stride phases that some tap reads along an axis, ascending.
fn phases(shape: &ConvShape, axis: usize) -> Vec<usize> {
    let mut phases: Vec<usize> =
        (0..shape.kernel[axis]).map(|k| k * shape.dilations[axis] % shape.strides[axis]).collect();
    phases.sort_unstable();
    phases.dedup();
    phases
}

fn place(phases: &[usize], phase: usize) -> usize {
    phases.iter().position(|&p| p == phase).unwrap_or(0)
}
