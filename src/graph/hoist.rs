//! Constants of bodies moved to the main graph, where bodies read them as they read any other value.

use std::collections::{HashMap, HashSet};

use super::constants::is_constant;
use super::names::{NameAllocator, bodies, bodies_mut, rename_graph};
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{GraphProto, Model, NodeAttributes, NodeProto, TensorProto};

/// Moves the float matrices and kernels of at least `smallest` elements that bodies of If, Loop and
/// Scan hold to the main graph, under names of their own. Returns how many.
pub fn hoist_constants(model: &mut Model, smallest: u64) -> usize {
    let mut names = NameAllocator::new(model.graph());
    let graph = model.graph_mut();
    let mut moved = Vec::new();
    for node in &mut graph.node {
        bodies_mut(node).for_each(|body| take(body, smallest, &mut names, &mut moved));
    }
    let count = moved.len();
    for tensor in moved {
        super::add_initializer(graph, tensor);
    }
    count
}

fn take(
    body: &mut GraphProto,
    smallest: u64,
    names: &mut NameAllocator,
    moved: &mut Vec<TensorProto>,
) {
    let elements =
        |tensor: &TensorProto| tensor.dims.iter().map(|&d| u64::try_from(d).unwrap_or(0)).product();
    let worth = |tensor: &TensorProto| {
        tensor.data_type() == Code::Float as i32
            && tensor.dims.len() >= 2
            && u64::ge(&elements(tensor), &smallest)
    };
    // Inputs of a loop's body may have an initial value, and outputs stay the body's own.
    let own: HashSet<String> =
        body.input.iter().chain(&body.output).map(|value| value.name().to_owned()).collect();
    let mut renamed = HashMap::new();
    let mut fresh = |old: &str, mut tensor: TensorProto| {
        let name = names.fresh(old);
        tensor.name = Some(name.clone());
        renamed.insert(old.to_owned(), name);
        moved.push(tensor);
    };
    let (go, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut body.initializer)
        .into_iter()
        .partition(|tensor| worth(tensor) && !own.contains(tensor.name()));
    body.initializer = stay;
    for tensor in go {
        let name = tensor.name().to_owned();
        fresh(&name, tensor);
    }
    body.node.retain(|node| {
        let output = node.output.first().filter(|o| is_constant(node) && !own.contains(*o));
        let held = output.zip(node.tensor("value")).filter(|(_, tensor)| worth(tensor));
        if let Some((output, tensor)) = held {
            fresh(output, tensor.clone());
        }
        held.is_none()
    });
    // Types that are recorded for what is no longer the body's are of no use to it.
    body.value_info.retain(|info| !renamed.contains_key(info.name()));
    if !renamed.is_empty() {
        rename_graph(body, &renamed);
    }
    for node in &mut body.node {
        bodies_mut(node).for_each(|inner| take(inner, smallest, names, moved));
    }
}

/// The nodes in the bodies of a node, at any depth.
#[must_use]
pub fn body_nodes(node: &NodeProto) -> Vec<&NodeProto> {
    let mut found = Vec::new();
    for body in bodies(node) {
        for inner in &body.node {
            found.push(inner);
            found.extend(body_nodes(inner));
        }
    }
    found
}
