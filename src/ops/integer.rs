//! Products of integers, and products with weights in packed blocks.
//!
//! Integer products run in the float kernels, over so few terms at a time that every partial sum is an
//! integer below 2^24, which `f32` holds exactly; the parts are summed as integers.

use ndarray::{Axis, Slice};

use super::args::{Decoded, bad_type, elements, many, one, peek, peek_optional, take_optional};
use super::backward::flat;
use super::{Decoding, Operator, conv, matmul};
use crate::error::OpError;
use crate::onnx::{NodeAttributes, NodeProto};
use crate::tensor::{Array, Tensor};

/// Integers below this are exact in `f32`.
const EXACT: f32 = 16_777_216.0;

/// The largest magnitude of a byte less its zero point.
const MOST: f32 = 255.0;

/// A tensor of bytes as floats, less its zero point: one, or one for each position along `axis`.
fn centred(tensor: &Tensor, zero: Option<&Tensor>, axis: usize) -> Result<Array<f32>, OpError> {
    let mut values = match tensor {
        Tensor::U8(a) => a.mapv(f32::from),
        Tensor::I8(a) => a.mapv(f32::from),
        other => return Err(bad_type(other, "an operand of an integer product")),
    };
    let zero = zero.map(|z| z.to_i64_vec("a zero point")).transpose()?.unwrap_or_default();
    match zero[..] {
        [] => {}
        [zero] => values.mapv_inplace(|v| v - zero as f32),
        _ if values.shape().get(axis) == Some(&zero.len()) => {
            for (mut part, &zero) in values.axis_iter_mut(Axis(axis)).zip(&zero) {
                part.mapv_inplace(|v| v - zero as f32);
            }
        }
        _ => return Err(OpError::unsupported("zero points of this shape")),
    }
    Ok(values.into_shared())
}

/// A part of the terms of a product.
struct Part {
    operator: Box<dyn Operator>,
    /// Where its terms lie along the axis that is summed over.
    terms: Slice,
}

/// A product with a weight that is known.
struct Product {
    parts: Vec<Part>,
    /// Extent of the axis of the data that is summed over, and that axis from the end or the start.
    extent: usize,
    last: bool,
}

impl Product {
    /// By a matrix.
    fn matrix(node: &NodeProto, weight: &Array<f32>) -> Result<Self, OpError> {
        if weight.ndim() != 2 {
            return Err(OpError::unsupported("a weight that is no matrix"));
        }
        let extent = weight.shape()[0];
        let node = float_node(node, "MatMul");
        let step = terms(weight)?;
        let mut parts = Vec::new();
        for start in (0..extent).step_by(step) {
            let terms = Slice::from(start..(start + step).min(extent));
            let rows = weight.slice_axis(Axis(0), terms).as_standard_layout().into_owned();
            let operator = with(&node, rows.into_shared(), matmul::decode_matmul)?;
            parts.push(Part { operator, terms });
        }
        Ok(Self { parts, extent, last: true })
    }

    /// By a kernel.
    fn kernel(node: &NodeProto, weight: &Array<f32>) -> Result<Self, OpError> {
        if weight.ndim() < 3 {
            return Err(OpError::unsupported("a weight without spatial axes"));
        }
        let taps: usize = weight.shape()[2..].iter().product();
        let channels = weight.shape()[1];
        let groups = node.int("group").unwrap_or(1);
        let step = (terms(weight)? / taps.max(1)).min(channels.max(1));
        if step == 0 || (groups != 1 && step < channels) {
            return Err(OpError::unsupported("too many terms in one product"));
        }
        let node = float_node(node, "Conv");
        let mut parts = Vec::new();
        for start in (0..channels).step_by(step) {
            let own = Slice::from(start..(start + step).min(channels));
            let kernel = weight.slice_axis(Axis(1), own).as_standard_layout().into_owned();
            let operator = with(&node, kernel.into_shared(), conv::decode)?;
            // Several groups are one part, of all channels.
            let terms = if groups == 1 { own } else { Slice::from(..) };
            parts.push(Part { operator, terms });
        }
        let groups = usize::try_from(groups).unwrap_or(1);
        Ok(Self { parts, extent: channels * groups, last: false })
    }

    /// The sum over parts of products with slices of `x`.
    fn apply(&self, x: &Array<f32>) -> Result<Tensor, OpError> {
        let fault = || OpError::shape("operands differ in the number of terms");
        let axis = if self.last { x.ndim().checked_sub(1).ok_or_else(fault)? } else { 1 };
        if x.shape().get(axis) != Some(&self.extent) {
            return Err(fault());
        }
        let mut total: Option<Array<i32>> = None;
        for part in &self.parts {
            let slice = x.slice_axis(Axis(axis), part.terms).as_standard_layout().into_owned();
            let mut inputs = [Some(Tensor::F32(slice.into_shared())), None];
            let product = part.operator.run(&mut inputs)?.into_iter().next();
            let product = product.ok_or(OpError::MissingInput { index: 0 })?;
            let product = product.f32("a product")?.mapv(|v| v as i32).into_shared();
            total = Some(match total {
                None => product,
                Some(total) => (&total + &product).into_shared(),
            });
        }
        total.map(Tensor::I32).ok_or_else(|| OpError::unsupported("a product of no terms"))
    }
}

/// Terms of a product with bytes that `f32` sums exactly.
fn terms(weight: &Array<f32>) -> Result<usize, OpError> {
    let most = weight.iter().fold(1f32, |most, v| most.max(v.abs()));
    if weight.is_empty() {
        return Err(OpError::unsupported("an empty weight"));
    }
    Ok((EXACT / (MOST * most)) as usize)
}

/// An integer product: `make` prepares it for a weight, once where that is constant; `axis` is that
/// of the weight's outputs.
fn product(
    d: &Decoding<'_>,
    axis: usize,
    make: fn(&NodeProto, &Array<f32>) -> Result<Product, OpError>,
) -> Decoded {
    let constant = |index: usize| d.constants.get(index).and_then(Option::as_ref);
    let stated = d.node.input.get(3).is_some_and(|name| !name.is_empty());
    let known = match (constant(1), constant(3)) {
        (Some(weight), zero) if zero.is_some() || !stated => {
            Some(make(d.node, &centred(weight, zero, axis)?)?)
        }
        _ => None,
    };
    let node = d.node.clone();
    flat(one(move |inputs| {
        let x = centred(peek(inputs, 0)?, peek_optional(inputs, 2), usize::MAX)?;
        match &known {
            Some(product) => product.apply(&x),
            None => {
                let zero = peek_optional(inputs, 3);
                make(&node, &centred(peek(inputs, 1)?, zero, axis)?)?.apply(&x)
            }
        }
    }))
}

pub(super) fn matmul_integer(d: &Decoding<'_>) -> Decoded {
    product(d, 1, Product::matrix)
}

pub(super) fn conv_integer(d: &Decoding<'_>) -> Decoded {
    product(d, 0, Product::kernel)
}

/// The node as one of floats that reads data and weight alone.
fn float_node(node: &NodeProto, op_type: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        domain: None,
        input: node.input.iter().take(2).cloned().collect(),
        ..node.clone()
    }
}

/// The operator of a node for a weight, which it holds.
fn with(node: &NodeProto, weight: Array<f32>, decode: fn(&Decoding<'_>) -> Decoded) -> Decoded {
    struct Held {
        operator: Box<dyn Operator>,
        weight: Tensor,
    }
    impl Operator for Held {
        fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
            if let Some(weight) = inputs.get_mut(1) {
                *weight = Some(self.weight.clone());
            }
            self.operator.run(inputs)
        }
    }
    let weight = Tensor::F32(weight);
    let constants = [None, Some(weight.clone())];
    let operator = decode(&Decoding { node, opset: 13, constants: &constants })?;
    Ok(Box::new(Held { operator, weight }))
}

/// `MatMulNBits` of the domain `com.microsoft`, 4 bits: rows of outputs in blocks, two codes a byte,
/// the low half first; a code less 8, or less its block's zero point, times the block's scale.
pub(super) fn matmul_nbits(d: &Decoding<'_>) -> Decoded {
    let size = |name: &'static str| -> Result<usize, OpError> {
        let value = d.node.int(name).and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0);
        value.ok_or(OpError::Attribute { name, reason: "missing or not positive".to_owned() })
    };
    let (depth, outputs, block) = (size("K")?, size("N")?, size("block_size")?);
    if d.node.int("bits").unwrap_or(4) != 4 || !block.is_multiple_of(2) {
        return Err(OpError::unsupported("MatMulNBits of another number of bits than 4"));
    }
    if d.node.input.iter().skip(4).any(|name| !name.is_empty()) {
        return Err(OpError::unsupported("MatMulNBits with an order or a bias"));
    }
    let constant = |index: usize| d.constants.get(index).and_then(Option::as_ref);
    let (Some(Tensor::U8(codes)), Some(Tensor::F32(scales))) = (constant(1), constant(2)) else {
        return Err(OpError::unsupported("MatMulNBits with computed weights"));
    };
    let (codes, scales) = (elements(codes), elements(scales));
    let blocks = depth.div_ceil(block);
    let zeros = match (d.node.input.get(3).map_or("", String::as_str), constant(3)) {
        ("", _) => None,
        (_, Some(Tensor::U8(zeros))) if zeros.len() == outputs * blocks.div_ceil(2) => {
            Some(elements(zeros))
        }
        _ => return Err(OpError::unsupported("MatMulNBits with zero points of this form")),
    };
    let wanted = outputs.checked_mul(blocks).and_then(|n| n.checked_mul(block / 2));
    if wanted != Some(codes.len()) || scales.len() != outputs * blocks {
        return Err(OpError::shape("codes or scales of MatMulNBits don't fit K and N"));
    }
    let half = |byte: u8, at: usize| if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
    let mut matrix = vec![0f32; depth * outputs];
    for output in 0..outputs {
        for k in 0..depth {
            let own = k / block;
            let code = half(codes[(output * blocks * block + k) / 2], k);
            let zero = zeros
                .as_ref()
                .map_or(8, |zeros| half(zeros[output * blocks.div_ceil(2) + own / 2], own));
            let code = f32::from(code) - f32::from(zero);
            matrix[k * outputs + output] = code * scales[output * blocks + own];
        }
    }
    let matrix = Tensor::from_vec(&[depth, outputs], matrix)?.into_typed::<f32>("a weight")?;
    let operator = with(&float_node(d.node, "MatMul"), matrix, matmul::decode_matmul)?;
    many(move |inputs| operator.run(&mut [take_optional(inputs, 0), None]))
}
