//! Convolution.

mod backward;
mod problem;
mod transposed;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use crate::error::OpError;
use crate::kernels::Clamp;
use crate::kernels::conv::{ConvShape, PackedConv, Spatial};
use crate::kernels::matmul::{filled, uninit};
use crate::onnx::{NodeAttributes, NodeProto};
use crate::tensor::Tensor;

use super::args::peek;
use super::{Backward, Decoding, Derivative, Epilogue, Gradients, Operator, epilogue};
use backward::Kernels;
use problem::{Problem, add_bias};
use transposed::reads;
pub(super) use transposed::transposed;

/// Padding of a convolution or pooling window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Elements before and after each spatial axis.
    Explicit {
        /// Before the first element.
        begin: Vec<usize>,
        /// After the last element.
        end: Vec<usize>,
    },
    /// As many as make the output `ceil(input / stride)` long, the odd one at the end.
    SameUpper,
    /// The same, the odd one at the beginning.
    SameLower,
}

/// The attributes of a Conv node, with their defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvAttributes {
    /// Kernel extents, one per spatial axis.
    pub kernel: Vec<usize>,
    /// Strides.
    pub strides: Vec<usize>,
    /// Dilations.
    pub dilations: Vec<usize>,
    /// Groups.
    pub groups: usize,
    /// Padding.
    pub padding: Padding,
}

impl ConvAttributes {
    /// Reads the attributes of `node`, whose weight has `weight_shape`
    /// `[out, in / groups, kernel..]`.
    ///
    /// # Errors
    /// When an attribute contradicts the weight or is out of range.
    pub fn read(node: &NodeProto, weight_shape: &[usize]) -> Result<Self, OpError> {
        let kernel = weight_shape.get(2..).unwrap_or(&[]).to_vec();
        if kernel.is_empty() || kernel.contains(&0) {
            return Err(OpError::shape(format!(
                "a convolution's weight can't be {weight_shape:?}"
            )));
        }
        let axes = kernel.len();
        if let Some(stated) = node.ints("kernel_shape")
            && !stated.iter().map(|&k| usize::try_from(k).ok()).eq(kernel.iter().map(|&k| Some(k)))
        {
            return Err(OpError::Attribute {
                name: "kernel_shape",
                reason: format!("{stated:?} for a weight of shape {weight_shape:?}"),
            });
        }
        let groups = positive(node.int("group").unwrap_or(1), "group")?;
        if !weight_shape[0].is_multiple_of(groups) || weight_shape[0] == 0 {
            return Err(OpError::Attribute {
                name: "group",
                reason: format!("{groups} does not divide {} output channels", weight_shape[0]),
            });
        }
        Ok(Self {
            kernel,
            strides: positives(node, "strides", axes)?,
            dilations: positives(node, "dilations", axes)?,
            groups,
            padding: padding(node, axes)?,
        })
    }

    /// The zeros before and after every spatial axis for an input of these extents.
    #[must_use]
    pub fn pads(&self, spatial: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let same = |lower: bool| {
            (0..self.kernel.len())
                .map(|axis| {
                    let (stride, size) = (self.strides[axis], spatial[axis]);
                    let reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1;
                    let total =
                        ((size.div_ceil(stride).max(1) - 1) * stride + reach).saturating_sub(size);
                    let less = total / 2;
                    if lower { (total - less, less) } else { (less, total - less) }
                })
                .unzip()
        };
        match &self.padding {
            Padding::Explicit { begin, end } => (begin.clone(), end.clone()),
            Padding::SameUpper => same(false),
            Padding::SameLower => same(true),
        }
    }

    /// The kernel's description of the convolution, for an input of these extents.
    fn shape(&self, in_channels: usize, out_channels: usize, spatial: &[usize]) -> ConvShape {
        let (begin, end) = self.pads(spatial);
        ConvShape {
            in_channels,
            out_channels,
            groups: self.groups,
            kernel: three(&self.kernel, 1),
            strides: three(&self.strides, 1),
            dilations: three(&self.dilations, 1),
            pads_begin: three(&begin, 0),
            pads_end: three(&end, 0),
        }
    }
}

/// Up to three spatial extents as three, the missing leading ones being `fill`.
fn three(values: &[usize], fill: usize) -> Spatial {
    let mut out = [fill; 3];
    out[3 - values.len()..].copy_from_slice(values);
    out
}

/// The largest extent, stride, dilation or padding: far beyond any real model, and small enough for
/// products of a few of them.
const MOST: i64 = 1 << 20;

fn positive(value: i64, name: &'static str) -> Result<usize, OpError> {
    usize::try_from(value)
        .ok()
        .filter(|&v| v > 0 && value <= MOST)
        .ok_or_else(|| OpError::Attribute { name, reason: format!("{value} is out of range") })
}

fn positives(node: &NodeProto, name: &'static str, axes: usize) -> Result<Vec<usize>, OpError> {
    match node.ints(name) {
        None | Some([]) => Ok(vec![1; axes]),
        Some(values) if values.len() == axes => values.iter().map(|&v| positive(v, name)).collect(),
        Some(values) => Err(OpError::Attribute {
            name,
            reason: format!("{} values for {axes} spatial axes", values.len()),
        }),
    }
}

fn padding(node: &NodeProto, axes: usize) -> Result<Padding, OpError> {
    let zeros = || Padding::Explicit { begin: vec![0; axes], end: vec![0; axes] };
    match node.string("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => match node.ints("pads") {
            None | Some([]) => Ok(zeros()),
            Some(pads) if pads.len() == 2 * axes => {
                let pads: Vec<usize> = pads
                    .iter()
                    .map(|&p| if p == 0 { Ok(0) } else { positive(p, "pads") })
                    .collect::<Result<_, _>>()?;
                Ok(Padding::Explicit { begin: pads[..axes].to_vec(), end: pads[axes..].to_vec() })
            }
            Some(pads) => Err(OpError::Attribute {
                name: "pads",
                reason: format!("{} values for {axes} spatial axes", pads.len()),
            }),
        },
        "VALID" => Ok(zeros()),
        "SAME_UPPER" => Ok(Padding::SameUpper),
        "SAME_LOWER" => Ok(Padding::SameLower),
        other => Err(OpError::Attribute { name: "auto_pad", reason: format!("unknown `{other}`") }),
    }
}

struct Conv {
    node: NodeProto,
    /// Present when the weight is constant and of `f32`.
    constant: Option<(ConvAttributes, PackedConv)>,
    /// Whether the weight is known to be of `f64`, for which nothing is laid out or fused.
    double: bool,
    epilogue: Epilogue,
    /// Kernels of the last backward pass, kept while the weight is constant.
    kernels: Mutex<Option<Arc<Kernels>>>,
}

pub(super) fn decode(decoding: &Decoding<'_>) -> Result<Box<dyn Operator>, OpError> {
    let constant = |i: usize| decoding.constants.get(i).and_then(Option::as_ref);
    let has_bias = decoding.node.input.get(2).is_some_and(|name| !name.is_empty());
    let double = matches!(constant(1), Some(Tensor::F64(_)));
    let constant = match (constant(1), constant(2)) {
        _ if double => None,
        (Some(weight), bias) if bias.is_some() || !has_bias => {
            Some(pack(decoding.node, weight, bias)?)
        }
        _ => None,
    };
    // Attributes stay with the node; its constants' data does not have to.
    let node = decoding.node.clone();
    Ok(Box::new(Conv::new(node, constant, double, Epilogue::NONE)))
}

fn pack(
    node: &NodeProto,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(ConvAttributes, PackedConv), OpError> {
    let attributes = ConvAttributes::read(node, weight.shape())?;
    if attributes.kernel.len() > 3 {
        return Err(OpError::unsupported("convolution over more than three spatial axes"));
    }
    let out_channels = weight.shape()[0];
    let in_channels = weight.shape()[1]
        .checked_mul(attributes.groups)
        .ok_or_else(|| OpError::shape("too many input channels"))?;
    let weight = weight.f32("a convolution's weight")?.as_standard_layout();
    let bias = match bias {
        Some(bias) if bias.len() == out_channels => {
            bias.f32("a convolution's bias")?.iter().copied().collect()
        }
        Some(bias) => {
            return Err(OpError::shape(format!(
                "bias of shape {:?} for {out_channels} output channels",
                bias.shape()
            )));
        }
        None => Vec::new(),
    };
    // Padding that depends on the input is filled in when the input is known.
    let shape = attributes.shape(in_channels, out_channels, &attributes.kernel);
    let elements = weight.as_slice().unwrap_or(&[]);
    let packed = PackedConv::new(shape, elements, &bias);
    Ok((attributes, packed))
}

impl Conv {
    fn new(
        node: NodeProto,
        constant: Option<(ConvAttributes, PackedConv)>,
        double: bool,
        epilogue: Epilogue,
    ) -> Self {
        Self { node, constant, double, epilogue, kernels: Mutex::default() }
    }

    fn has_bias(&self) -> bool {
        self.node.input.get(2).is_some_and(|name| !name.is_empty())
    }

    /// The convolution for an input and a weight of these shapes.
    fn problem(&self, input: &[usize], weight: &[usize]) -> Result<Problem, OpError> {
        let mut attributes = ConvAttributes::read(&self.node, weight)?;
        if let Some((constant, _)) = &self.constant {
            // With what Pads before the node add.
            attributes.padding.clone_from(&constant.padding);
        }
        let axes = attributes.kernel.len();
        if axes > 3 {
            return Err(OpError::unsupported("convolution over more than three spatial axes"));
        }
        let channels = weight[1].checked_mul(attributes.groups);
        if input.len() != axes + 2 || channels != Some(input[1]) {
            return Err(OpError::shape(format!("input {input:?} for a weight of {weight:?}")));
        }
        let shape = attributes.shape(input[1], weight[0], &input[2..]);
        let spatial = shape.output(three(&input[2..], 1))?;
        let y = [input[0], weight[0]].iter().chain(&spatial[3 - axes..]).copied().collect();
        Ok(Problem { shape, x: input.to_vec(), y })
    }

    /// In `f64`: from the definition.
    fn run_double(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let (x, weight) = (peek(inputs, 0)?, peek(inputs, 1)?);
        let mut y = self.problem(x.shape(), weight.shape())?.forward(weight, x)?;
        if self.has_bias() {
            y = add_bias(y, peek(inputs, 2)?)?;
        }
        let residual = inputs.last().filter(|_| self.epilogue.residual);
        Ok(vec![epilogue::finish(y, residual.and_then(Option::as_ref), &self.epilogue)?])
    }
}

impl Operator for Conv {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        if let Some(Some(Tensor::F64(_))) = inputs.first() {
            return self.run_double(inputs);
        }
        let residual =
            if self.epilogue.residual { inputs.last_mut().and_then(Option::take) } else { None };
        let get = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let constant = match &self.constant {
            Some(constant) => Cow::Borrowed(constant),
            None => {
                let weight = get(1).ok_or(OpError::MissingInput { index: 1 })?;
                Cow::Owned(pack(&self.node, weight, get(2).filter(|_| self.has_bias()))?)
            }
        };
        let (attributes, packed) = &*constant;
        let x = get(0).ok_or(OpError::MissingInput { index: 0 })?;
        let x = x.f32("a convolution's input")?;
        let axes = attributes.kernel.len();
        if x.ndim() != axes + 2 || x.shape()[1] != packed.shape.in_channels {
            return Err(OpError::shape(format!(
                "input {:?} for a convolution of {} channels over {axes} axes",
                x.shape(),
                packed.shape.in_channels
            )));
        }
        let spatial = &x.shape()[2..];
        let (begin, end) = attributes.pads(spatial);
        let packed = packed.with_pads(three(&begin, 0), three(&end, 0));
        let samples = x.shape()[0];
        let out_spatial = packed.shape.output(three(spatial, 1))?;
        let mut out_shape = vec![samples, packed.shape.out_channels];
        out_shape.extend(&out_spatial[3 - axes..]);
        let spatial = three(spatial, 1);

        // A residual of another shape is broadcast, after the product.
        let (fused, apart): (Vec<_>, Vec<_>) =
            residual.iter().partition(|r| r.shape() == out_shape);
        let clamp = if apart.is_empty() { self.epilogue.clamp } else { Clamp::NONE };
        let fused = fused.first().map(|r| r.f32("a residual")).transpose()?;
        let fused = fused.map(|r| r.as_standard_layout());
        let x = x.as_standard_layout();
        let x = x.as_slice().unwrap_or(&[]);
        let mut out = uninit(out_shape.iter().product());
        packed.run(
            x,
            samples,
            spatial,
            fused.as_ref().and_then(|r| r.as_slice()),
            clamp,
            &mut out,
        )?;
        // SAFETY: the kernel writes every element.
        let out = Tensor::from_vec(&out_shape, unsafe { filled(out) })?;
        Ok(vec![match apart.first() {
            Some(residual) => epilogue::finish(out, Some(residual), &self.epilogue)?,
            None => out,
        }])
    }

    fn derivative(&self, wanted: &[bool]) -> Derivative {
        match self.epilogue.clamp {
            Clamp::NONE => Derivative::Rule(reads(wanted)),
            // Where the result is positive nothing was clamped.
            Clamp::RELU => Derivative::Rule(reads(wanted).with_output(0, true)),
            _ => Derivative::Unknown,
        }
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        self.gradients(pass)
    }

    fn prepared(&self, constants: &[Option<Tensor>]) -> Option<Box<dyn Operator>> {
        let constant = |i: usize| constants.get(i).and_then(Option::as_ref);
        let weight = constant(1).filter(|weight| weight.f32("a weight").is_ok())?;
        let bias = constant(2).filter(|_| self.has_bias());
        if self.constant.is_some() || bias.is_some() != self.has_bias() {
            return None;
        }
        let packed = pack(&self.node, weight, bias).ok()?;
        Some(Box::new(Self::new(self.node.clone(), Some(packed), false, self.epilogue.clone())))
    }

    fn with_epilogue(&self, epilogue: &Epilogue) -> Option<Box<dyn Operator>> {
        let (node, constant) = (self.node.clone(), self.constant.clone());
        // Additions along the last axis are not for its kernels.
        (!self.double && epilogue.bias.is_none()).then(|| {
            Box::new(Self::new(node, constant, false, epilogue.clone())) as Box<dyn Operator>
        })
    }

    /// Depthwise only: what other convolutions read is what a layer's factors are fitted to, and
    /// stays a value of the graph.
    fn with_padding(&self, amounts: &[usize]) -> Option<Box<dyn Operator>> {
        let (attributes, packed) = self.constant.as_ref()?;
        let depthwise = attributes.groups > 1 && packed.shape.group_in() == 1;
        if !depthwise {
            return None;
        }
        let Padding::Explicit { begin, end } = &attributes.padding else { return None };
        let (before, after) = amounts.split_at_checked(begin.len() + 2)?;
        let [0, 0, before @ ..] = before else { return None };
        let [0, 0, after @ ..] = after else { return None };
        let sums = |a: &[usize], b: &[usize]| -> Option<Vec<usize>> {
            let small = |&sum: &usize| sum <= MOST as usize;
            a.iter().zip(b).map(|(a, b)| a.checked_add(*b).filter(small)).collect()
        };
        let padding = Padding::Explicit { begin: sums(begin, before)?, end: sums(end, after)? };
        let attributes = ConvAttributes { padding, ..attributes.clone() };
        let constant = Some((attributes, packed.clone()));
        Some(Box::new(Self::new(self.node.clone(), constant, false, self.epilogue.clone())))
    }
}
