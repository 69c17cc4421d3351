//! Where sliding windows lie: kernel, stride, dilation and padding along each spatial axis.

use super::Decoding;
use super::layout::extent;
use crate::error::OpError;
use crate::onnx::NodeAttributes;

/// Windows along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// Extent of the input.
    pub(super) input: usize,
    /// Number of windows.
    pub(super) output: usize,
    /// Taps per window.
    pub(super) kernel: usize,
    /// Distance between windows.
    pub(super) stride: usize,
    /// Distance between taps.
    pub(super) dilation: usize,
    /// Padding before the input.
    pub(super) begin: usize,
    /// Padding after the input.
    pub(super) end: usize,
}

impl Span {
    /// Whether the windows are the input's consecutive pairs, with nothing left over.
    pub(super) fn is_pairs(&self) -> bool {
        let pairs = self.kernel == 2 && self.stride == 2 && self.dilation == 1 && self.begin == 0;
        pairs && self.input == 2 * self.output
    }

    /// The windows whose tap `k` meets the input: their range, and the input position the first of
    /// them meets there.
    pub(super) fn covered(&self, k: usize) -> (std::ops::Range<usize>, usize) {
        let tap = k * self.dilation;
        let first = self.begin.saturating_sub(tap).div_ceil(self.stride);
        let past = (self.input + self.begin).saturating_sub(tap).div_ceil(self.stride);
        let past = past.min(self.output);
        let at = (first * self.stride + tap).saturating_sub(self.begin);
        (first.min(past)..past, at)
    }
}

/// How much padding there is.
#[derive(Clone)]
enum Padding {
    Explicit(Vec<usize>),
    SameUpper,
    SameLower,
    Valid,
}

/// The window attributes of a node.
#[derive(Clone)]
pub(super) struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
    ceil: bool,
}

impl Window {
    /// Reads the attributes.
    ///
    /// # Errors
    /// When they are not positive, or not one per spatial axis.
    pub(super) fn of(d: &Decoding<'_>) -> Result<Self, OpError> {
        let list = |name: &'static str| -> Result<Option<Vec<usize>>, OpError> {
            d.node.ints(name).map(|v| v.iter().map(|&v| extent(v)).collect()).transpose()
        };
        let kernel = list("kernel_shape")?.unwrap_or_default();
        let rank = kernel.len();
        let ones = || vec![1; rank];
        let strides = list("strides")?.unwrap_or_else(ones);
        let dilations = list("dilations")?.unwrap_or_else(ones);
        let padding = match d.node.string("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" | "" => Padding::Explicit(list("pads")?.unwrap_or_else(|| vec![0; 2 * rank])),
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            "VALID" => Padding::Valid,
            other => return Err(OpError::unsupported(format!("auto_pad `{other}`"))),
        };
        let fits = strides.len() == rank
            && dilations.len() == rank
            && !matches!(&padding, Padding::Explicit(p) if p.len() != 2 * rank);
        let positive = kernel.iter().chain(&strides).chain(&dilations).all(|v| *v > 0);
        if rank == 0 || !fits || !positive {
            return Err(OpError::Attribute {
                name: "kernel_shape",
                reason: "kernel, strides, dilations and pads don't form a window".into(),
            });
        }
        let ceil = d.node.int("ceil_mode").unwrap_or(0) != 0;
        Ok(Self { kernel, strides, dilations, padding, ceil })
    }

    /// The windows over an input with spatial extents `spatial`.
    ///
    /// # Errors
    /// When the rank differs, or a window is larger than the padded input.
    pub(super) fn spans(&self, spatial: &[usize]) -> Result<Vec<Span>, OpError> {
        if spatial.len() != self.kernel.len() {
            let rank = self.kernel.len();
            return Err(OpError::shape(format!("a window of rank {rank} over {spatial:?}")));
        }
        spatial.iter().enumerate().map(|(i, &input)| self.span(i, input)).collect()
    }

    fn span(&self, i: usize, input: usize) -> Result<Span, OpError> {
        let (kernel, stride, dilation) = (self.kernel[i], self.strides[i], self.dilations[i]);
        let too_large = || OpError::shape(format!("a window of {kernel} over {input} elements"));
        let reach = (kernel - 1).checked_mul(dilation).and_then(|v| v.checked_add(1));
        let reach = reach.ok_or_else(too_large)?;
        let (output, begin, end) = match &self.padding {
            Padding::SameUpper | Padding::SameLower => {
                let output = input.div_ceil(stride);
                let needed = (output.saturating_sub(1) * stride).saturating_add(reach);
                let total = needed.saturating_sub(input);
                let small = total / 2;
                if matches!(self.padding, Padding::SameUpper) {
                    (output, small, total - small)
                } else {
                    (output, total - small, small)
                }
            }
            Padding::Valid => (fitting(input, reach, stride, false).ok_or_else(too_large)?, 0, 0),
            Padding::Explicit(pads) => {
                let (begin, end) = (pads[i], pads[i + self.kernel.len()]);
                let padded = input.checked_add(begin).and_then(|v| v.checked_add(end));
                let padded = padded.filter(|v| *v < isize::MAX as usize).ok_or_else(too_large)?;
                let mut output = fitting(padded, reach, stride, self.ceil).ok_or_else(too_large)?;
                // With rounding up, a last window that starts past the input is dropped.
                if self.ceil && output > 1 && (output - 1) * stride >= input + begin {
                    output -= 1;
                }
                (output, begin, end)
            }
        };
        Ok(Span { input, output, kernel, stride, dilation, begin, end })
    }
}

/// How many windows that reach over `reach` elements fit into `padded` ones.
fn fitting(padded: usize, reach: usize, stride: usize, ceil: bool) -> Option<usize> {
    let room = padded.checked_sub(reach)?;
    Some(if ceil { room.div_ceil(stride) } else { room / stride } + 1)
}
