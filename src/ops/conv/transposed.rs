//! ConvTranspose: what a convolution's input gradient is to its output's.

use super::problem::{Problem, add_bias, bias_gradient};
use super::{ConvAttributes, MOST, Padding, three};
use crate::error::OpError;
use crate::kernels::conv::ConvShape;
use crate::onnx::{NodeAttributes, NodeProto};
use crate::ops::Decoding;
use crate::ops::args::{Decoded, one, peek, peek_optional};
use crate::ops::backward::{Reads, choosy};
use crate::ops::layout::count;

/// The attributes beside those of a convolution.
#[derive(Clone)]
struct Attributes {
    node: NodeProto,
    output_padding: Vec<usize>,
    output_shape: Option<Vec<usize>>,
}

impl Attributes {
    fn of(node: &NodeProto) -> Result<Self, OpError> {
        let list = |name: &'static str| -> Result<Option<Vec<usize>>, OpError> {
            let one = |&value: &i64| {
                usize::try_from(value).ok().filter(|_| value <= MOST).ok_or_else(|| {
                    OpError::Attribute { name, reason: format!("{value} is out of range") }
                })
            };
            let given = node.ints(name).filter(|values| !values.is_empty());
            given.map(|values| values.iter().map(one).collect()).transpose()
        };
        let output_padding = list("output_padding")?.unwrap_or_default();
        Ok(Self { node: node.clone(), output_padding, output_shape: list("output_shape")? })
    }

    /// The convolution from the result back to the input: `y` is the input of the node.
    fn problem(&self, input: &[usize], weight: &[usize]) -> Result<Problem, OpError> {
        let fault = || OpError::shape(format!("{input:?} for a transposed weight {weight:?}"));
        let conv = ConvAttributes::read(&self.node, weight)?;
        let axes = conv.kernel.len();
        if axes > 3 {
            return Err(OpError::unsupported("convolution over more than three spatial axes"));
        }
        if input.len() != axes + 2 || input[1] != weight[0] {
            return Err(fault());
        }
        let lists = [Some(&self.output_padding), self.output_shape.as_ref()];
        if lists.iter().flatten().any(|list| !list.is_empty() && list.len() != axes) {
            return Err(fault());
        }
        let channels = weight[1].checked_mul(conv.groups).ok_or_else(fault)?;
        let mut x = vec![input[0], channels];
        let (mut before, mut after) = (vec![0; axes], vec![0; axes]);
        for axis in 0..axes {
            let stride = conv.strides[axis];
            let reach = conv.dilations[axis] * (conv.kernel[axis] - 1) + 1;
            let extra = self.output_padding.get(axis).copied().unwrap_or(0);
            let steps = input[axis + 2].saturating_sub(1).checked_mul(stride);
            let full = steps.and_then(|v| v.checked_add(reach + extra)).ok_or_else(fault)?;
            let asked = match (&self.output_shape, &conv.padding) {
                (Some(shape), _) => Some(shape[axis]),
                (None, Padding::Explicit { .. }) => None,
                (None, _) => Some(input[axis + 2].checked_mul(stride).ok_or_else(fault)?),
            };
            let (begin, end, extent) = match (asked, &conv.padding) {
                (None, Padding::Explicit { begin, end }) => {
                    let cut = begin[axis] + end[axis];
                    (begin[axis], end[axis], full.checked_sub(cut).ok_or_else(fault)?)
                }
                (asked, padding) => {
                    let extent = asked.unwrap_or(full);
                    let total = full.saturating_sub(extent);
                    let less = total / 2;
                    match padding {
                        Padding::SameUpper => (less, total - less, extent),
                        _ => (total - less, less, extent),
                    }
                }
            };
            before[axis] = begin;
            // The convolution doesn't reach what the output padding adds.
            after[axis] = end.saturating_sub(extra);
            x.push(extent);
        }
        count(&x)?;
        let shape = ConvShape {
            in_channels: channels,
            out_channels: weight[0],
            groups: conv.groups,
            kernel: three(&conv.kernel, 1),
            strides: three(&conv.strides, 1),
            dilations: three(&conv.dilations, 1),
            pads_begin: three(&before, 0),
            pads_end: three(&after, 0),
        };
        Ok(Problem { shape, x, y: input.to_vec() })
    }
}

pub(in crate::ops) fn transposed(d: &Decoding<'_>) -> Decoded {
    let attributes = Attributes::of(d.node)?;
    let same = attributes.clone();
    let run = one(move |inputs| {
        let (x, weight) = (peek(inputs, 0)?, peek(inputs, 1)?);
        let y = attributes.problem(x.shape(), weight.shape())?.data_gradient(weight, x)?;
        match peek_optional(inputs, 2) {
            Some(bias) => add_bias(y, bias),
            None => Ok(y),
        }
    });
    choosy(run, super::reads, move |pass| {
        let gradient = pass.gradient(0)?;
        let problem = same.problem(pass.shape(0)?, pass.shape(1)?)?;
        let data = || problem.forward(pass.input(1)?, &gradient);
        let weight = || problem.weight_gradient(&gradient, pass.input(0)?);
        Ok(vec![
            pass.wants(0).then(data).transpose()?,
            pass.wants(1).then(weight).transpose()?,
            pass.wants(2).then(|| bias_gradient(&gradient)).transpose()?,
        ])
    })
}

/// What the rules of convolutions read: each operand for the other's gradient.
pub(super) fn reads(wanted: &[bool]) -> Reads {
    let wants = |i: usize| wanted.get(i).copied().unwrap_or(false);
    Reads::NOTHING.with_input(0, wants(1)).with_input(1, wants(0))
}
