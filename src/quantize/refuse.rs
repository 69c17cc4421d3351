//! Models whose values are quantized already.

use crate::error::{Error, Result};
use crate::onnx::{Model, NodeProto};

/// Operators of a model whose values are quantized already.
const QUANTIZED: [&str; 12] = [
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
];

/// Refuses a model that is quantized already.
///
/// # Errors
/// [`Error::UnsupportedModel`] naming its operators.
pub fn check(model: &Model) -> Result<()> {
    let quantized = |node: &&NodeProto| {
        let name = node.op_type();
        QUANTIZED.contains(&name) || name.starts_with("QLinear") || name.starts_with("QAttention")
    };
    let nodes: Vec<&str> =
        model.graph().node.iter().filter(quantized).map(|n| n.op_type()).collect();
    let Some(first) = nodes.first() else { return Ok(()) };
    Err(Error::UnsupportedModel {
        reason: format!(
            "it is quantized already ({} nodes such as {first}); quantize the float model it was \
             made from, or leave --quantize out to compress what is still float",
            nodes.len()
        ),
    })
}
