//! Values of a graph that no input changes.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::onnx::{GraphProto, Model, NodeAttributes, NodeProto, TensorProto};
use crate::tensor::{Element, Tensor};

/// Larger elements than this are those of masks, not of weights.
const LARGEST_WEIGHT: f64 = 1e4;

/// Whether an element could be that of a mask: 0, 1, or out of proportion.
#[must_use]
pub fn is_switch(element: f64) -> bool {
    element == 0.0 || element == 1.0 || element.abs() > LARGEST_WEIGHT
}

/// Where a constant is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Index among the graph's initializers.
    Initializer(usize),
    /// Index of a `Constant` node.
    Node(usize),
}

/// A constant of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Where it is stored.
    pub source: Source,
}

impl Constant {
    /// The stored tensor; `None` for a `Constant` node that holds bare numbers. `graph` is the one
    /// the constant was found in.
    #[must_use]
    pub fn proto<'g>(&self, graph: &'g GraphProto) -> Option<&'g TensorProto> {
        match self.source {
            Source::Initializer(index) => graph.initializer.get(index),
            Source::Node(index) => graph.node.get(index)?.tensor("value"),
        }
    }

    /// The value, decoded.
    ///
    /// # Errors
    /// As [`Model::tensor`].
    pub fn tensor(&self, model: &Model) -> Result<Option<Tensor>> {
        let graph = model.graph();
        if let Some(proto) = self.proto(graph) {
            return model.tensor(proto).map(Some);
        }
        Ok(match self.source {
            Source::Initializer(_) => None,
            Source::Node(index) => graph.node.get(index).and_then(numbers),
        })
    }
}

/// Every constant of the main graph by name: initializers, whether or not they are listed as inputs
/// too, and `Constant` nodes that hold a tensor or numbers. Strings in attributes and sparse tensors
/// are not among them.
#[must_use]
pub fn constants(model: &Model) -> BTreeMap<String, Constant> {
    let graph = model.graph();
    let initializers = graph.initializer.iter().enumerate().map(|(index, tensor)| {
        (tensor.name().to_owned(), Constant { source: Source::Initializer(index) })
    });
    let nodes = graph.node.iter().enumerate().filter_map(|(index, node)| {
        Some((held(node)?.to_owned(), Constant { source: Source::Node(index) }))
    });
    initializers.chain(nodes).collect()
}

/// The value of a constant of the main graph; `None` when `name` is none.
///
/// # Errors
/// As [`Model::tensor`].
pub fn constant_tensor(model: &Model, name: &str) -> Result<Option<Tensor>> {
    let graph = model.graph();
    let initializer = graph.initializer.iter().position(|t| t.name() == name);
    let source = initializer
        .map(Source::Initializer)
        .or_else(|| graph.node.iter().position(|n| held(n) == Some(name)).map(Source::Node));
    match source {
        Some(source) => Constant { source }.tensor(model),
        None => Ok(None),
    }
}

/// Whether a node is the `Constant` operator.
pub(super) fn is_constant(node: &NodeProto) -> bool {
    node.op_type() == "Constant" && matches!(node.domain(), "" | "ai.onnx")
}

/// The output of a `Constant` node whose value is a tensor or numbers.
fn held(node: &NodeProto) -> Option<&str> {
    const FORMS: [&str; 5] = ["value", "value_float", "value_floats", "value_int", "value_ints"];
    let output = node.output.first().filter(|o| !o.is_empty())?;
    let known = is_constant(node) && FORMS.iter().any(|form| node.attribute(form).is_some());
    known.then_some(output)
}

/// The value of a `Constant` node that holds bare numbers.
fn numbers(node: &NodeProto) -> Option<Tensor> {
    let floats = || node.floats("value_floats").and_then(vector);
    let ints = || node.ints("value_ints").and_then(vector);
    node.float("value_float")
        .map(Tensor::scalar)
        .or_else(floats)
        .or_else(|| node.int("value_int").map(Tensor::scalar))
        .or_else(ints)
}

fn vector<T: Element>(values: &[T]) -> Option<Tensor> {
    Tensor::from_vec(&[values.len()], values.to_vec()).ok()
}
