//! Where the elements of a convolution's input lie in the scratch image, and how the output is cut
//! into vectors.

use crate::error::OpError;

use super::ConvShape;

/// Extents along depth, height and width.
pub type Spatial = [usize; 3];

/// A run of an output vector's lanes that is stored to consecutive elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// First lane.
    pub lane: usize,
    /// Element of the output plane.
    pub out: usize,
    /// Number of lanes.
    pub len: usize,
}

/// One vector of outputs: where its first tap is read and where its lanes go.
#[derive(Clone, Debug)]
pub(super) struct Vector {
    /// Element of a group's image that lane 0 of tap offset 0 reads.
    pub base: usize,
    /// Where the lanes go; lanes in no segment are dropped.
    pub segments: Vec<Segment>,
}

impl Vector {
    /// The output element and number of lanes, where all valid lanes go to one place from lane 0.
    pub fn contiguous(&self) -> Option<(usize, usize)> {
        match self.segments[..] {
            [Segment { lane: 0, out, len }] => Some((out, len)),
            _ => None,
        }
    }
}

/// The padded copy of one sample, channel by channel: `[channel][depth][row phase][column
/// phase][row][column]`. A stride of s has s phases; element i along an axis is in phase i mod s at
/// place i / s, so that consecutive outputs read consecutive elements.
#[derive(Debug)]
pub(super) struct Image {
    shape: ConvShape,
    spatial: Spatial,
    depth: usize,
    rows: usize,
    columns: usize,
    row_phases: Vec<usize>,
    column_phases: Vec<usize>,
    /// Elements of one channel.
    channel: usize,
    /// Offset of every tap (group input channel, depth, row, column) from a vector's base.
    pub taps: Vec<usize>,
    /// The output plane, cut into vectors.
    pub vectors: Vec<Vector>,
    is_input: bool,
    slack: usize,
}

impl Image {
    pub fn new(shape: &ConvShape, spatial: Spatial, lanes: usize) -> Result<Self, OpError> {
        let out = shape.output(spatial)?;
        let [_, stride_h, stride_w] = shape.strides;
        let reach = |axis: usize| shape.dilations[axis] * (shape.kernel[axis] - 1);
        let depth = shape.strides[0] * (out[0] - 1) + reach(0) + 1;
        let rows = out[1] + reach(1) / stride_h;
        let columns = out[2] + reach(2) / stride_w;
        let row_phases = phases(shape, 1);
        let column_phases = phases(shape, 2);
        let plane = rows * columns;
        let depth_slice = plane * row_phases.len() * column_phases.len();
        let channel = depth * depth_slice;
        let is_input = shape.kernel == [1; 3]
            && shape.strides == [1; 3]
            && shape.pads_begin == [0; 3]
            && shape.pads_end == [0; 3];

        let mut taps = Vec::with_capacity(shape.taps());
        for c in 0..shape.group_in() {
            for kd in 0..shape.kernel[0] {
                for kh in 0..shape.kernel[1] {
                    for kw in 0..shape.kernel[2] {
                        let (h, w) = (kh * shape.dilations[1], kw * shape.dilations[2]);
                        let phase = place(&row_phases, h % stride_h) * column_phases.len()
                            + place(&column_phases, w % stride_w);
                        taps.push(
                            c * channel
                                + kd * shape.dilations[0] * depth_slice
                                + phase * plane
                                + h / stride_h * columns
                                + w / stride_w,
                        );
                    }
                }
            }
        }
        let vectors = vectors(shape, out, columns, depth_slice, lanes);
        // The last vectors read past the image: as far as lanes that are dropped reach.
        let slack = 4 * lanes;
        Ok(Self {
            shape: shape.clone(),
            spatial,
            depth,
            rows,
            columns,
            row_phases,
            column_phases,
            channel,
            taps,
            vectors,
            is_input,
            slack,
        })
    }

    /// Whether the input itself has the image's layout, so that no copy is needed. Then there is
    /// no slack after its end.
    pub fn is_input(&self) -> bool {
        self.is_input
    }

    /// Elements of one group's channels.
    pub fn group_len(&self) -> usize {
        self.channel * self.shape.group_in()
    }

    /// Copies one sample into `image`.
    pub fn fill(&self, sample: &[f32], image: &mut Vec<f32>) {
        let len = self.channel * self.shape.in_channels + self.slack;
        if image.len() < len {
            image.resize(len, 0.0);
        }
        let [in_d, in_h, in_w] = self.spatial;
        let pads = self.shape.pads_begin;
        let [_, stride_h, stride_w] = self.shape.strides;
        let mut rows = image.chunks_exact_mut(self.columns);
        for c in 0..self.shape.in_channels {
            for d in 0..self.depth {
                let source_d = d.checked_sub(pads[0]).filter(|&d| d < in_d);
                for &row_phase in &self.row_phases {
                    for &column_phase in &self.column_phases {
                        for row in rows.by_ref().take(self.rows).enumerate() {
                            let (place, row) = row;
                            let h = (place * stride_h + row_phase)
                                .checked_sub(pads[1])
                                .filter(|&h| h < in_h);
                            match source_d.zip(h) {
                                Some((d, h)) => {
                                    let start = ((c * in_d + d) * in_h + h) * in_w;
                                    let source = &sample[start..start + in_w];
                                    fill_row(row, source, column_phase, stride_w, pads[2]);
                                }
                                None => row.fill(0.0),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `row[j] = source[j * stride + phase - pad]`, zero outside.
fn fill_row(row: &mut [f32], source: &[f32], phase: usize, stride: usize, pad: usize) {
    // First place whose source index is not negative, first place past the source's end.
    let first = pad.saturating_sub(phase).div_ceil(stride).min(row.len());
    let end = (source.len() + pad).saturating_sub(phase).div_ceil(stride).clamp(first, row.len());
    row[..first].fill(0.0);
    row[end..].fill(0.0);
    if first == end {
        return;
    }
    let start = first * stride + phase - pad;
    if stride == 1 {
        row[first..end].copy_from_slice(&source[start..start + (end - first)]);
    } else {
        for (to, from) in row[first..end].iter_mut().zip(source[start..].iter().step_by(stride)) {
            *to = *from;
        }
    }
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

/// Cuts the output into vectors, along single rows or along the image's rows joined (the places
/// between two rows are then computed and dropped), whichever wastes fewer lanes.
fn vectors(
    shape: &ConvShape,
    out: Spatial,
    columns: usize,
    depth_slice: usize,
    lanes: usize,
) -> Vec<Vector> {
    let [out_d, out_h, out_w] = out;
    let joined_len = (out_h - 1) * columns + out_w;
    let joined = joined_len.div_ceil(lanes) < out_h * out_w.div_ceil(lanes);
    let mut vectors = Vec::new();
    for d in 0..out_d {
        let base = d * shape.strides[0] * depth_slice;
        let plane = d * out_h * out_w;
        if joined {
            for start in (0..joined_len).step_by(lanes) {
                let mut segments: Vec<Segment> = Vec::new();
                let end = (start + lanes).min(joined_len);
                let mut at = start;
                while at < end {
                    let (row, column) = (at / columns, at % columns);
                    if column >= out_w {
                        at = (row + 1) * columns;
                        continue;
                    }
                    let len = (end - at).min(out_w - column);
                    let target = plane + row * out_w + column;
                    match segments.last_mut() {
                        Some(last)
                            if last.out + last.len == target
                                && last.lane + last.len == at - start =>
                        {
                            last.len += len;
                        }
                        _ => segments.push(Segment { lane: at - start, out: target, len }),
                    }
                    at += len;
                }
                if !segments.is_empty() {
                    vectors.push(Vector { base: base + start, segments });
                }
            }
        } else {
            for row in 0..out_h {
                for start in (0..out_w).step_by(lanes) {
                    vectors.push(Vector {
                        base: base + row * columns + start,
                        segments: vec![Segment {
                            lane: 0,
                            out: plane + row * out_w + start,
                            len: lanes.min(out_w - start),
                        }],
                    });
                }
            }
        }
    }
    vectors
}
