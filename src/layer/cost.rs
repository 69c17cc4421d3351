//! Exact counts of weights and multiply-accumulates.

use std::collections::HashMap;

use super::{Form, Layer};
use crate::error::Result;
use crate::eval::Evaluator;
use crate::onnx::Model;
use crate::tensor::Tensor;

/// What something costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Weights.
    pub params: u64,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            params: self.params + other.params,
            macs: self.macs + other.macs,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |a, b| a + b)
    }
}

/// Shapes of the inputs and outputs of Conv, ConvTranspose, Gemm and MatMul nodes, found by running
/// the model on `inputs`.
///
/// # Errors
/// When an operator fails.
pub fn shapes(model: &Model, inputs: Vec<Tensor>) -> Result<HashMap<String, Vec<usize>>> {
    let graph = model.graph();
    let products = ["Conv", "ConvTranspose", "Gemm", "MatMul"];
    let made: std::collections::HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|n| &n.output)
        .map(String::as_str)
        .chain(graph.input.iter().map(|i| i.name()))
        .collect();
    let mut names: Vec<&str> = graph
        .node
        .iter()
        .filter(|n| products.contains(&n.op_type()))
        .flat_map(|n| n.input.iter().chain(&n.output))
        .map(String::as_str)
        .filter(|name| made.contains(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    Evaluator::shapes(model, inputs, &names)
}

impl Layer {
    /// Positions at which the layer's map is applied for one run: `values` has the shapes of its
    /// input and output.
    #[must_use]
    pub fn positions(&self, model: &Model, values: &HashMap<String, Vec<usize>>) -> Option<u64> {
        let map = self.map.as_ref()?;
        let node = &model.graph().node[self.node];
        let output = values.get(node.output.first()?)?;
        let total: u64 = output.iter().map(|&d| d as u64).product();
        Some(total / (map.rows * map.groups).max(1) as u64)
    }

    /// Multiply-accumulates of the node for one run.
    #[must_use]
    pub fn macs(&self, model: &Model, values: &HashMap<String, Vec<usize>>) -> Option<u64> {
        let node = &model.graph().node[self.node];
        let output = values.get(node.output.first()?)?;
        let total: u64 = output.iter().map(|&d| d as u64).product();
        let depth: u64 = match (node.op_type(), &self.map) {
            (_, Some(map)) => map.columns as u64,
            ("Conv", None) => self.shape.get(1..)?.iter().map(|&d| d as u64).product(),
            ("ConvTranspose", None) => {
                // Every input element meets every weight of its channel.
                let input = values.get(node.input.first()?)?;
                let inputs: u64 = input.iter().map(|&d| d as u64).product();
                return Some(inputs * self.shape.get(1..)?.iter().map(|&d| d as u64).product::<u64>());
            }
            ("Gemm" | "MatMul", None) => {
                let input = values.get(node.input.first()?);
                let transposed = node.attribute.iter().any(|a| a.name() == "transA" && a.i() == 1);
                match input {
                    Some(shape) if transposed => *shape.first()? as u64,
                    Some(shape) => *shape.last()? as u64,
                    // A constant on the left.
                    None => *self.shape.last()? as u64,
                }
            }
            _ => return None,
        };
        Some(total * depth)
    }

    /// Whether the map is a convolution over a kernel of more than one element.
    #[must_use]
    pub fn has_kernel(&self) -> bool {
        self.map.as_ref().is_some_and(|m| matches!(m.form, Form::Conv(_)) && m.kernel_len() > 1)
    }
}
