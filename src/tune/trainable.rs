//! Which constants of a model are weights.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::graph::{self, Constant};
use crate::onnx::{Model, NodeProto};
use crate::tensor::Tensor;

/// Names of the constants that training may change: weights and biases of linear layers, scales and
/// shifts of normalisations, whether an operator has them or they are spelled out, and slopes of
/// activations. Statistics of normalisations, tables that are looked up in, masks, and single numbers
/// stay.
///
/// # Errors
/// When a constant can't be read.
pub fn trainable(model: &Model) -> Result<Vec<String>> {
    let constants = graph::constants(model);
    let mut found = BTreeSet::new();
    for node in &model.graph().node {
        for (input, spelled_out) in weights(node) {
            let Some(constant) = node.input.get(input).and_then(|name| constants.get(name)) else {
                continue;
            };
            if is_weight(constant, model, spelled_out)? {
                found.insert(node.input[input].clone());
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Inputs of a node that may be weights, and whether they are so only by their use in arithmetic.
fn weights(node: &NodeProto) -> Vec<(usize, bool)> {
    match (node.domain(), node.op_type()) {
        ("" | "ai.onnx", "Conv" | "ConvTranspose" | "BatchNormalization") => {
            vec![(1, false), (2, false)]
        }
        (
            "" | "ai.onnx",
            "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization",
        ) => vec![(1, false), (2, false)],
        ("" | "ai.onnx", "Gemm") => vec![(0, false), (1, false), (2, false)],
        ("" | "ai.onnx", "MatMul") => vec![(0, false), (1, false)],
        ("" | "ai.onnx", "PRelu") => vec![(1, false)],
        ("" | "ai.onnx", "Add" | "Mul") => vec![(0, true), (1, true)],
        _ => Vec::new(),
    }
}

fn is_weight(constant: &Constant, model: &Model, spelled_out: bool) -> Result<bool> {
    let Some(Tensor::F32(elements)) = constant.tensor(model)? else { return Ok(false) };
    if elements.iter().any(|v| !v.is_finite()) {
        return Ok(false);
    }
    Ok(!spelled_out
        || (elements.len() > 1 && !elements.iter().all(|&v| graph::is_switch(v.into()))))
}
