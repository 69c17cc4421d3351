//! Exact counts of weights and multiply-accumulates.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Form, Layer, LinearMap};
use crate::error::Result;
use crate::eval::Evaluator;
use crate::onnx::{Model, NodeAttributes, NodeProto};
use crate::tensor::Tensor;

/// What something costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Weights.
    pub params: u64,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Nanoseconds that one sample takes in the runtime; 0 where that was not measured.
    pub nanoseconds: u64,
}

/// At how many positions a layer's factors are applied for one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Positions of its input: where a 1 x 1 kernel before it is applied.
    pub input: u64,
    /// Positions between a vertical and a horizontal kernel; of a transposed convolution's output, whose
    /// map is applied at the positions of its input.
    pub middle: u64,
    /// Positions of its output.
    pub output: u64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            params: self.params + other.params,
            macs: self.macs + other.macs,
            bytes: self.bytes + other.bytes,
            nanoseconds: self.nanoseconds + other.nanoseconds,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |a, b| a + b)
    }
}

/// Operators whose multiply-accumulates count.
pub const PRODUCTS: [&str; 7] =
    ["Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "MatMulNBits"];

/// Shapes of the inputs and outputs of [`PRODUCTS`] and of tables, found by running the model on `inputs`.
///
/// # Errors
/// When an operator fails.
pub fn shapes(model: &Model, inputs: Vec<Tensor>) -> Result<HashMap<String, Vec<usize>>> {
    Evaluator::shapes(model, inputs, &product_values(model))
}

/// Names of the inputs and outputs of [`PRODUCTS`] and of Gather from constants, these apart.
#[must_use]
pub fn product_values(model: &Model) -> Vec<&str> {
    let graph = model.graph();
    let products = PRODUCTS;
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
        .filter(|n| {
            let from_table = || n.input.first().is_some_and(|table| !made.contains(table.as_str()));
            products.contains(&n.op_type()) || (n.op_type() == "Gather" && from_table())
        })
        .flat_map(|n| n.input.iter().chain(&n.output))
        .map(String::as_str)
        .filter(|name| made.contains(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl LinearMap {
    /// Multiply-accumulates of one application to all groups: none where a row is looked up.
    #[must_use]
    pub fn macs(&self) -> u64 {
        if self.is_table() { 0 } else { (self.groups * self.rows * self.columns) as u64 }
    }

    /// At how many positions `node`, of which this is the map, applies it.
    fn extent(&self, node: &NodeProto, values: &HashMap<String, Vec<usize>>) -> Option<Extent> {
        let total = |shape: &[usize]| shape.iter().map(|&d| d as u64).product::<u64>();
        let output = values.get(node.output.first()?)?;
        let channels = (self.rows / self.spread() * self.groups).max(1) as u64;
        let at_output = total(output) / channels;
        if let Form::ConvTranspose { .. } = self.form {
            let input = values.get(node.input.first()?)?;
            let at_input = total(input) / (self.columns * self.groups).max(1) as u64;
            return Some(Extent { input: at_input, middle: at_output, output: at_input });
        }
        let Form::Conv(_) = self.form else {
            return Some(Extent { input: at_output, middle: at_output, output: at_output });
        };
        let input = values.get(node.input.first()?)?;
        let at_input = total(input) / input.get(1).copied().unwrap_or(1).max(1) as u64;
        let middle = match (&input[..], &output[..]) {
            (&[n, _, _, width], &[_, _, height, _]) => (n * width * height) as u64,
            _ => at_output,
        };
        Some(Extent { input: at_input, middle, output: at_output })
    }
}

impl Layer {
    /// At how many positions the layer's factors are applied for one run, by all its nodes; `values`
    /// has the shapes of their inputs and outputs.
    #[must_use]
    pub fn extent(&self, model: &Model, values: &HashMap<String, Vec<usize>>) -> Option<Extent> {
        let nodes = &model.graph().node;
        self.uses().filter_map(|(node, map)| map.extent(&nodes[node], values)).reduce(|a, b| {
            Extent {
                input: a.input + b.input,
                middle: a.middle + b.middle,
                output: a.output + b.output,
            }
        })
    }

    /// Multiply-accumulates of the layer's nodes for one run.
    #[must_use]
    pub fn macs(&self, model: &Model, values: &HashMap<String, Vec<usize>>) -> Option<u64> {
        let others = self.others.iter().map(|other| other.node);
        let nodes = std::iter::once(self.node).chain(others);
        nodes.map(|node| self.macs_of(&model.graph().node[node], values)).sum()
    }

    fn macs_of(&self, node: &NodeProto, values: &HashMap<String, Vec<usize>>) -> Option<u64> {
        let output = values.get(node.output.first()?)?;
        let total: u64 = output.iter().map(|&d| d as u64).product();
        // A weight that another node computes has its shape among the values.
        let weight = match &self.shape[..] {
            [] => values.get(&self.weight).map(Vec::as_slice),
            shape => Some(shape),
        };
        let taps = |shape: &[usize]| Some(shape.get(1..)?.iter().map(|&d| d as u64).product());
        let depth: u64 = match (node.op_type(), &self.map) {
            ("ConvTranspose", _) => {
                // Every input element meets every weight of its channel.
                let input = values.get(node.input.first()?)?;
                let inputs: u64 = input.iter().map(|&d| d as u64).product();
                let taps: u64 = taps(weight?)?;
                return Some(inputs * taps);
            }
            (_, Some(map)) if map.is_table() => 0,
            (_, Some(map)) => map.columns as u64,
            ("MatMulNBits", _) => u64::try_from(node.int("K")?).ok()?,
            ("Conv" | "ConvInteger", None) => taps(weight?)?,
            ("Gemm" | "MatMul" | "MatMulInteger", None) => {
                // Where the first operand is no value, it is this layer's weight.
                let first = values.get(node.input.first()?).map(Vec::as_slice).or(weight)?;
                let axis = if node.int("transA") == Some(1) { first.first() } else { first.last() };
                *axis? as u64
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
