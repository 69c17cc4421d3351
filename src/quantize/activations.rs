//! Which values of a graph are rounded to 8 bits, and who reads them rounded.

use std::collections::{BTreeSet, HashSet};

use super::calibrate::Calibration;
use super::range;
use super::stored::{StoredValues, StoredWeight};
use super::weights::{Role, Weight};
use super::{Settings, Storage};
use crate::elements::Elements;
use crate::error::Result;
use crate::graph::{self, Constant, Links};
use crate::onnx::{GraphProto, Model, NodeProto};

/// Operators that compute on 8 bits about as well as on floats; at others (Softmax, normalizations,
/// powers, divisions) small differences of inputs become large ones.
const ROBUST: [&str; 27] = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Whether a node may read rounded values.
pub(super) fn is_robust(node: &NodeProto) -> bool {
    matches!(node.domain(), "" | "ai.onnx") && ROBUST.contains(&node.op_type())
}

/// The position of a product's data, where its weight is one of `stored` and the product can be
/// computed in integers.
fn data_input(role: Role) -> Option<usize> {
    match role {
        Role::Conv | Role::GemmRight(_) | Role::MatMulRight => Some(0),
        Role::GemmLeft(_) | Role::MatMulLeft => Some(1),
        Role::ConvTranspose | Role::Table(_) | Role::Recurrent => None,
    }
}

/// Finds the values around products with the given weights, and their grids.
///
/// # Errors
/// When the model can't be run.
pub(super) fn values(
    model: &Model,
    weights: &[Weight],
    stored: &[StoredWeight],
    settings: &Settings,
    calibration: &Calibration<'_>,
) -> Result<StoredValues> {
    let graph = model.graph();
    let links = Links::new(graph);
    let constants = graph::constants(model);
    let known: HashSet<&str> =
        stored.iter().filter(|s| s.storage == Storage::Int8).map(|s| s.name.as_str()).collect();
    let mut products: Vec<(usize, usize)> = weights
        .iter()
        .filter(|w| known.contains(w.name.as_str()))
        .flat_map(|w| &w.uses)
        .filter_map(|u| Some((u.node, data_input(u.role)?)))
        .collect();
    products.sort_unstable();
    let mut float_nodes = Vec::new();
    if settings.float_ends && products.len() > 2 {
        let ends = [products.remove(0), products.remove(products.len() - 1)];
        float_nodes = ends.iter().map(|(n, _)| graph.node[*n].label().to_owned()).collect();
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for &(node, data) in &products {
        let node = &graph.node[node];
        names.extend(node.input.get(data).map(String::as_str));
        let output = last_of_layer(graph, &links, &constants, node);
        let robust = links.consumers(output).iter().all(|c| is_robust(&graph.node[c.node]));
        let read = !links.consumers(output).is_empty() && !links.is_graph_output(output);
        if robust && read && !links.used_in_body(output) {
            names.insert(output);
        }
    }
    let names: Vec<&str> =
        names.into_iter().filter(|name| !constants.contains_key(*name)).collect();
    let ranges = calibration.ranges(model, &names, settings.range)?;
    let mut values = StoredValues {
        names: Vec::new(),
        scales: Elements::default(),
        zero_points: Vec::new(),
        signed: settings.signed,
        float_nodes,
    };
    for (name, ends) in names.iter().zip(ranges) {
        let Some((low, high)) = ends else { continue };
        let (scale, zero) = range::grid(low, high, settings.signed);
        values.names.push((*name).to_owned());
        values.scales.0.push(scale);
        values.zero_points.push(zero);
    }
    Ok(values)
}

/// The value that a layer's product becomes with its bias and a clamp, which integer kernels do in one
/// go: rounding before those would only add errors.
fn last_of_layer<'g>(
    graph: &'g GraphProto,
    links: &Links,
    constants: &std::collections::BTreeMap<String, Constant>,
    node: &'g NodeProto,
) -> &'g str {
    let mut output = node.output.first().map_or("", String::as_str);
    for _ in 0..2 {
        let Some(next) = links.sole_consumer(output) else { break };
        let node = &graph.node[next.node];
        let constant =
            |index: usize| node.input.get(index).is_some_and(|n| constants.contains_key(n));
        let joined = match node.op_type() {
            "Relu" => true,
            "Clip" => (1..node.input.len()).all(|i| node.input[i].is_empty() || constant(i)),
            "Add" => constant(1 - next.input.min(1)),
            _ => false,
        };
        if !joined || !matches!(node.domain(), "" | "ai.onnx") {
            break;
        }
        output = node.output.first().map_or("", String::as_str);
    }
    output
}
