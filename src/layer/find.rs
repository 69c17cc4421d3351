//! Finds the layers of a graph.

use std::collections::{BTreeMap, HashSet};

use super::filter::Filter;
use super::shared::Readers;
use super::table::{is_table, table, tied};
use super::transposed::transposed;
use super::{Form, Layer, LinearMap};
use crate::error::{Error, Result};
use crate::graph::{self, Constant, Links};
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{GraphProto, Model, NodeAttributes, NodeProto, data_type_name};
use crate::ops::ConvAttributes;

/// A weight with fewer elements than this can't pay for another node.
pub(super) const SMALLEST: u64 = 64;

/// Every constant float matrix or kernel that a node of the main graph uses, in node order.
///
/// # Errors
/// When a node contradicts its weight.
pub fn find(model: &Model, filter: &Filter) -> Result<Vec<Layer>> {
    let graph = model.graph();
    let constants = graph::constants(model);
    let links = Links::new(graph);
    let readers = Readers::of(graph);
    // Weights of layers that have several nodes.
    let mut taken: HashSet<&str> = HashSet::new();
    let mut layers = Vec::new();
    for (index, node) in graph.node.iter().enumerate() {
        for (position, weight) in node.input.iter().enumerate() {
            if taken.contains(weight.as_str()) {
                continue;
            }
            let Some(constant) = constants.get(weight) else { continue };
            let Some(stored) = constant.proto(graph) else { continue };
            let shape: Vec<usize> =
                stored.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
            let elements: u64 = shape.iter().map(|&d| d as u64).product();
            let role = role(node, position);
            if shape.len() < 2
                || elements == 0
                || role == Role::Bias
                || (matches!(role, Role::Other | Role::Table) && elements < SMALLEST)
            {
                continue;
            }
            let mut layer = Layer {
                node: index,
                name: node.label().to_owned(),
                op_type: node.op_type().to_owned(),
                weight: weight.clone(),
                weight_params: elements,
                bias_params: 0,
                shape,
                map: None,
                others: Vec::new(),
                skip: None,
            };
            let code = stored.data_type();
            let float = [Code::Float, Code::Float16, Code::Bfloat16, Code::Double];
            if !float.iter().any(|&c| c as i32 == code) {
                if matches!(role, Role::Other | Role::Table) {
                    continue;
                }
                layer.skip = Some(format!("not float but {}", data_type_name(code)));
                layers.push(layer);
                continue;
            }
            layer.bias_params = bias_params(node, role, &constants, model);
            let mut found = if code != Code::Float as i32 {
                Err(format!("stored as {}", data_type_name(code)))
            } else if links.is_graph_output(weight) {
                Err("shared: it is an output of the model too".to_owned())
            } else if links.used_in_body(weight) {
                Err("shared with the body of another node".to_owned())
            } else if node.op_type() != "Gather" && is_table(weight, &graph.node, &links) {
                Err(tied(weight))
            } else {
                linear_map(node, role, &layer.shape, &constants, model)?
                    .and_then(|map| if filter.any_size { Ok(map) } else { profitable(map, &layer) })
            };
            if let Ok(map) = &found {
                let map_of = |at: usize, position: usize| {
                    let other = &graph.node[at];
                    let role = self::role(other, position);
                    linear_map(other, role, &layer.shape, &constants, model)
                };
                match readers.uses(model, weight, (index, position), map, map_of)? {
                    Ok(others) => layer.others = others,
                    Err(reason) if role == Role::Table => {
                        found = Err(format!(
                            "a table that rows are looked up in, {reason}; --quantize stores it in \
                             fewer bits"
                        ));
                    }
                    Err(reason) => found = Err(reason),
                }
            }
            if !layer.others.is_empty() {
                taken.insert(weight);
            }
            match (found, filter.reason(&layer)) {
                (Ok(_), Some(reason)) | (Err(reason), _) => layer.skip = Some(reason),
                (Ok(map), None) => layer.map = Some(map),
            }
            layers.push(layer);
        }
        if let Some(layer) = computed_weight(index, node, &graph.node, &constants, &links) {
            layers.push(layer);
        }
        in_bodies(index, node, graph, &constants, &mut layers);
    }
    Ok(layers)
}

/// The weights of the main graph that products in the bodies of `node` use: listed, and left to
/// quantization. One that several of them use is listed once.
fn in_bodies(
    index: usize,
    node: &NodeProto,
    graph: &GraphProto,
    constants: &BTreeMap<String, Constant>,
    layers: &mut Vec<Layer>,
) {
    for inner in graph::body_nodes(node) {
        for (position, weight) in inner.input.iter().enumerate() {
            if matches!(role(inner, position), Role::Other | Role::Bias | Role::Table)
                && !is_recurrent(inner, position)
            {
                continue;
            }
            let Some(stored) = constants.get(weight).and_then(|c| c.proto(graph)) else { continue };
            let shape: Vec<usize> =
                stored.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
            let elements: u64 = shape.iter().map(|&d| d as u64).product();
            if shape.len() < 2 || elements == 0 || layers.iter().any(|l| l.weight == *weight) {
                continue;
            }
            layers.push(Layer {
                node: index,
                name: inner.label().to_owned(),
                op_type: format!("{}/{}", node.op_type(), inner.op_type()),
                weight: weight.clone(),
                shape,
                weight_params: elements,
                bias_params: 0,
                map: None,
                others: Vec::new(),
                skip: Some(format!(
                    "in a body of {} `{}`: --quantize stores it in fewer bits, ranks stay",
                    node.op_type(),
                    node.label()
                )),
            });
        }
    }
}

/// Whether an input is one of the weights of a recurrent operator: of its inputs or of its state.
fn is_recurrent(node: &NodeProto, position: usize) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
        && matches!((node.op_type(), position), ("LSTM" | "GRU" | "RNN", 1 | 2))
}

/// What an input is to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    ConvWeight,
    ConvTransposeWeight,
    GemmRight,
    GemmLeft,
    MatMulRight,
    MatMulLeft,
    /// A table that rows are looked up in.
    Table,
    /// What Gemm adds, which counts as part of the layer of its weight.
    Bias,
    /// A weight of an operator that is not factorized.
    Other,
}

fn role(node: &NodeProto, position: usize) -> Role {
    match (node.domain(), node.op_type(), position) {
        ("" | "ai.onnx", "Conv" | "ConvInteger", 1) => Role::ConvWeight,
        ("" | "ai.onnx", "ConvTranspose", 1) => Role::ConvTransposeWeight,
        ("" | "ai.onnx", "Gemm", 1) => Role::GemmRight,
        ("" | "ai.onnx", "Gemm", 0) => Role::GemmLeft,
        ("" | "ai.onnx", "Gemm", 2) => Role::Bias,
        ("" | "ai.onnx", "MatMul" | "MatMulInteger", 1) => Role::MatMulRight,
        ("com.microsoft", "MatMulNBits", 1) => Role::MatMulRight,
        ("" | "ai.onnx", "MatMul", 0) => Role::MatMulLeft,
        ("" | "ai.onnx", "Gather", 0) => Role::Table,
        _ => Role::Other,
    }
}

fn bias_params(
    node: &NodeProto,
    role: Role,
    constants: &BTreeMap<String, Constant>,
    model: &Model,
) -> u64 {
    let has_bias = matches!(
        role,
        Role::ConvWeight | Role::ConvTransposeWeight | Role::GemmRight | Role::GemmLeft
    );
    let stored = node.input.get(2).filter(|_| has_bias).and_then(|name| constants.get(name));
    stored
        .and_then(|c| c.proto(model.graph()))
        .map_or(0, |t| t.dims.iter().map(|&d| u64::try_from(d).unwrap_or(0)).product())
}

/// The linear map of a node, or why there is none.
fn linear_map(
    node: &NodeProto,
    role: Role,
    shape: &[usize],
    constants: &BTreeMap<String, Constant>,
    model: &Model,
) -> Result<Result<LinearMap, String>> {
    let bias_name = node.input.get(2).filter(|name| !name.is_empty());
    let matrix =
        |form, rows, columns, bias| Ok(Ok(LinearMap { form, groups: 1, rows, columns, bias }));
    let flag = |name: &str| node.int(name) == Some(1);
    match role {
        Role::ConvWeight => {
            let attributes = ConvAttributes::read(node, shape).map_err(|source| Error::Node {
                node: node.label().to_owned(),
                op_type: node.op_type().to_owned(),
                source,
            })?;
            let groups = attributes.groups;
            let rows = shape[0] / groups;
            let kernel: usize = attributes.kernel.iter().product();
            let columns = shape[1] * kernel;
            if shape[1] == 1 && groups > 1 {
                return Ok(Err("depthwise: one input channel per group".to_owned()));
            }
            if attributes.kernel.len() > 3 {
                return Ok(Err("more than three spatial axes".to_owned()));
            }
            match bias_name {
                Some(name) if !constants.contains_key(name) => {
                    return Ok(Err("its bias is not constant".to_owned()));
                }
                _ => {}
            }
            let bias = bias_name.cloned();
            Ok(Ok(LinearMap { form: Form::Conv(attributes), groups, rows, columns, bias }))
        }
        Role::ConvTransposeWeight => transposed(node, shape),
        Role::Bias | Role::Other => Ok(Err(other_reason(node))),
        Role::Table => table(node, shape, constants, model),
        _ if shape.len() != 2 => Ok(Err(format!("a batch of matrices {shape:?}"))),
        Role::GemmRight => {
            let (trans_a, trans_b) = (flag("transA"), flag("transB"));
            let (rows, columns) = if trans_b { (shape[0], shape[1]) } else { (shape[1], shape[0]) };
            let per_output = |name: &String| {
                let dims = constants.get(name)?.proto(model.graph())?.dims.clone();
                let count: i64 = dims.iter().product();
                let in_row = dims.iter().rev().skip(1).all(|&d| d == 1);
                (in_row && (count == 1 || usize::try_from(count) == Ok(rows))).then_some(())
            };
            let free_bias = bias_name.is_some_and(|name| per_output(name).is_none());
            let form = Form::Gemm {
                trans_a,
                trans_b,
                alpha: node.float("alpha").unwrap_or(1.0),
                beta: node.float("beta").unwrap_or(1.0),
                free_bias,
            };
            let bias = bias_name.filter(|_| !free_bias).cloned();
            matrix(form, rows, columns, bias)
        }
        Role::GemmLeft => {
            let (trans_a, trans_b) = (flag("transA"), flag("transB"));
            let (rows, columns) = if trans_a { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
            let form = Form::GemmLeft {
                trans_a,
                trans_b,
                alpha: node.float("alpha").unwrap_or(1.0),
                beta: node.float("beta").unwrap_or(1.0),
            };
            matrix(form, rows, columns, None)
        }
        Role::MatMulRight => matrix(Form::MatMulRight, shape[1], shape[0], None),
        Role::MatMulLeft => matrix(Form::MatMulLeft, shape[0], shape[1], None),
    }
}

/// Why a weight of an operator that is not factorized is left alone.
fn other_reason(node: &NodeProto) -> String {
    match node.op_type() {
        other @ ("LSTM" | "GRU" | "RNN") => {
            format!("a weight of {other}: --quantize stores it in fewer bits, ranks stay")
        }
        other => format!("a weight of {other}, which is not factorized"),
    }
}

/// The map, where some rank has fewer weights than the dense layer.
fn profitable(map: LinearMap, layer: &Layer) -> Result<LinearMap, String> {
    let across = map.rows / map.spread() + map.columns * map.spread();
    let smallest = map.groups * across.min(map.rows + map.columns);
    if layer.weight_params < SMALLEST || smallest as u64 >= layer.weight_params {
        return Err(format!(
            "too small to gain: rank 1 takes {smallest} of {} weights",
            layer.weight_params
        ));
    }
    Ok(map)
}

/// A layer whose weight another node computes, or that has none.
fn computed_weight(
    index: usize,
    node: &NodeProto,
    nodes: &[NodeProto],
    constants: &BTreeMap<String, Constant>,
    links: &Links,
) -> Option<Layer> {
    if !matches!(role(node, 1), Role::ConvWeight | Role::GemmRight | Role::MatMulRight) {
        return None;
    }
    let (first, second) = (node.input.first()?, node.input.get(1)?);
    if constants.contains_key(second)
        || (constants.contains_key(first) && role(node, 0) != Role::Other)
    {
        return None;
    }
    let producer = links.producer(second).map(|p| &nodes[p]);
    let of_constant =
        producer.and_then(|p| p.input.first()).filter(|source| constants.contains_key(*source));
    let reason = match (producer.map(NodeProto::op_type), of_constant) {
        (Some("DequantizeLinear"), _) => "quantized: made by a DequantizeLinear".to_owned(),
        (Some(_), Some(source)) if is_table(source, nodes, links) => tied(source),
        (Some(op @ ("Cast" | "Identity" | "Reshape" | "Transpose")), Some(source)) => {
            format!("a {op} of `{source}`, which is stored in another form or read elsewhere too")
        }
        (Some(_), _) => "dynamic: the second factor is computed by another node".to_owned(),
        (None, _) => "dynamic: the second factor is an input of the model".to_owned(),
    };
    Some(Layer {
        node: index,
        name: node.label().to_owned(),
        op_type: node.op_type().to_owned(),
        weight: second.clone(),
        shape: Vec::new(),
        weight_params: 0,
        bias_params: 0,
        map: None,
        others: Vec::new(),
        skip: Some(reason),
    })
}
