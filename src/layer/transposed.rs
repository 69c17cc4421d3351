//! The map of a transposed convolution.

use super::{Form, LinearMap};
use crate::error::{Error, Result};
use crate::onnx::{NodeAttributes, NodeProto};
use crate::ops::{ConvAttributes, Padding};

/// The map of a transposed convolution whose weight has this shape, or why there is none; the bias stays
/// with the node.
///
/// # Errors
/// When the node contradicts its weight.
pub(super) fn transposed(
    node: &NodeProto,
    shape: &[usize],
) -> Result<std::result::Result<LinearMap, String>> {
    let attributes = ConvAttributes::read(node, shape).map_err(|source| Error::Node {
        node: node.label().to_owned(),
        op_type: node.op_type().to_owned(),
        source,
    })?;
    let groups = attributes.groups;
    if shape[0] == groups {
        return Ok(Err("depthwise: one input channel per group".to_owned()));
    }
    if attributes.kernel.len() > 3 {
        return Ok(Err("more than three spatial axes".to_owned()));
    }
    let automatic = !matches!(attributes.padding, Padding::Explicit { .. });
    if automatic || node.ints("output_shape").is_some_and(|shape| !shape.is_empty()) {
        return Ok(Err("its padding follows from the extents of its output".to_owned()));
    }
    let added = node.ints("output_padding").unwrap_or(&[]);
    let output_padding: Vec<usize> =
        added.iter().map(|&v| usize::try_from(v).unwrap_or(usize::MAX)).collect();
    if output_padding.iter().zip(&attributes.strides).any(|(added, stride)| added >= stride) {
        return Ok(Err("its output padding reaches further than its stride".to_owned()));
    }
    let kernel: usize = attributes.kernel.iter().product();
    let (rows, columns) = (shape[1] * kernel, shape[0] / groups);
    let form = Form::ConvTranspose { attributes, output_padding };
    Ok(Ok(LinearMap { form, groups, rows, columns, bias: None }))
}
