//! A model in the form that layers are looked for in: the same function, with its weights in plain sight.

use std::collections::HashMap;

use super::find::SMALLEST;
use crate::error::Result;
use crate::graph::{self, Links};
use crate::onnx::proto::SparseTensorProto;
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{GraphProto, Model, NodeAttributes, NodeProto, Spill, TensorProto};
use crate::ops::{self, Decoding};
use crate::tensor::{DataType, Tensor};

/// Elements of a sparse tensor that is stored dense, at most.
const MOST_ELEMENTS: usize = 1 << 27;

/// Bytes of a reshaped constant above which it waits in a file.
const LARGE: usize = 16 << 20;

/// Operators that only bring a constant into another form.
const FORMS: [&str; 6] = ["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// What was done to a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Fused operators of ONNX Runtime that are spelled out in standard ones now.
    pub spelled_out: Vec<String>,
    /// Whether calls of local functions gave way to the functions' nodes.
    pub functions: bool,
    /// Sparse constants that are dense now.
    pub sparse: usize,
    /// Constants of bodies that are the main graph's now.
    pub hoisted: usize,
    /// Weights of 16 bits that were widened before use and are stored as `f32` now.
    pub widened: usize,
}

/// Brings a model into the form that layers are looked for in. What it computes stays the same: calls
/// of local functions give way to the functions' nodes, operators that ONNX Runtime fuses to the nodes
/// that they are made of, sparse constants become dense, constants that
/// a node only transposes, widens or shapes are stored as they are used, unless something else reads
/// them too, and the weights of bodies move to the main graph.
///
/// # Errors
/// When a constant can't be read, or local functions call themselves.
pub fn prepare(model: &mut Model) -> Result<Prepared> {
    let functions = graph::inline_functions(model)?;
    let spelled_out = graph::spell_out(model);
    let sparse = dense(model)?;
    let hoisted = graph::hoist_constants(model, SMALLEST);
    let widen = mostly_halves(model);
    let widened = reform(model, widen)?;
    Ok(Prepared { spelled_out, functions, sparse, hoisted, widened })
}

/// Stores sparse float constants dense.
fn dense(model: &mut Model) -> Result<usize> {
    let mut made: HashMap<String, TensorProto> = HashMap::new();
    let graph = model.graph();
    let initializers = graph.sparse_initializer.iter().filter_map(|s| {
        let name = s.values.as_ref()?.name().to_owned();
        Some((name, s))
    });
    let nodes =
        graph.node.iter().filter(|n| n.op_type() == "Constant" && n.output.len() == 1).filter_map(
            |n| {
                let sparse = n.attribute("sparse_value")?.sparse_tensor.as_ref()?;
                Some((n.output.first()?.clone(), sparse))
            },
        );
    for (name, sparse) in initializers.chain(nodes) {
        if let Some(tensor) = densified(model, sparse)? {
            made.insert(name.clone(), TensorProto::from_tensor(&name, &tensor));
        }
    }
    let graph = model.graph_mut();
    let gone = |name: Option<&str>| name.is_some_and(|name| made.contains_key(name));
    graph.sparse_initializer.retain(|s| !gone(s.values.as_ref().map(TensorProto::name)));
    graph.node.retain(|n| n.op_type() != "Constant" || !gone(n.output.first().map(String::as_str)));
    let count = made.len();
    let mut made: Vec<_> = made.into_iter().collect();
    made.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, tensor) in made {
        graph::add_initializer(graph, tensor);
    }
    Ok(count)
}

/// The dense form; `None` where it is not float, too large, or its indices are out of range.
fn densified(model: &Model, sparse: &SparseTensorProto) -> Result<Option<Tensor>> {
    let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else { return Ok(None) };
    let shape: Option<Vec<usize>> = sparse.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let Some(shape) = shape else { return Ok(None) };
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let Some(elements) = elements.filter(|&n| n <= MOST_ELEMENTS) else { return Ok(None) };
    let (Tensor::F32(values), Tensor::I64(indices)) =
        (model.tensor(values)?, model.tensor(indices)?)
    else {
        return Ok(None);
    };
    let mut all = vec![0f32; elements];
    let places: Vec<i64> = indices.iter().copied().collect();
    let axes = if indices.ndim() == 2 { shape.len().max(1) } else { 1 };
    if places.len() != values.len() * axes {
        return Ok(None);
    }
    for (value, place) in values.iter().zip(places.chunks_exact(axes)) {
        let mut at = 0usize;
        for (axis, &index) in place.iter().enumerate() {
            let extent = if axes == 1 { elements } else { shape[axis] };
            let Some(index) = usize::try_from(index).ok().filter(|&i| i < extent) else {
                return Ok(None);
            };
            at = at * extent + index;
        }
        let at = if axes == 1 { usize::try_from(place[0]).unwrap_or(0) } else { at };
        all[at] = *value;
    }
    Ok(Tensor::from_vec(&shape, all).ok())
}

/// Stores constants in the form that a node brings them into. Returns how many of them had 16 bits.
fn reform(model: &mut Model, widen: bool) -> Result<usize> {
    let mut widened = 0;
    let mut done = Vec::new();
    let mut spill = None;
    for index in 0..model.graph().node.len() {
        let Some((name, tensor, wider)) = reformed(model, index, widen)? else { continue };
        widened += usize::from(wider);
        let graph = model.graph_mut();
        for twin in twins(graph, index).unwrap_or_default() {
            // The nodes go once all are looked at; until then they make values that nothing reads.
            done.push(twin);
            graph.node[twin].input.clear();
            for output in std::mem::take(&mut graph.node[twin].output) {
                graph::drop_value_info(graph, &[&output]);
                let inputs = graph.node.iter_mut().flat_map(|node| &mut node.input);
                inputs.filter(|input| **input == output).for_each(|input| input.clone_from(&name));
            }
        }
        graph::add_initializer(
            graph,
            waiting(&mut spill, TensorProto::from_tensor(&name, &tensor)),
        );
    }
    done.sort_unstable();
    let graph = model.graph_mut();
    let mut index = 0;
    graph.node.retain(|_| {
        index += 1;
        done.binary_search(&(index - 1)).is_err()
    });
    if !done.is_empty() {
        graph::remove_unused_constants(graph);
    }
    Ok(widened)
}

/// The nodes that read the constant which the node at `index` reads: this one, and others that make the
/// same of it. None where something else reads it too, or a result has to keep its name.
fn twins(graph: &GraphProto, index: usize) -> Option<Vec<usize>> {
    let links = Links::new(graph);
    let node = &graph.node[index];
    let source = node.input.first()?;
    let readers = links.consumers(source);
    let alike = |other: &NodeProto| {
        other.op_type == node.op_type
            && other.domain == node.domain
            && other.input == node.input
            && other.attribute == node.attribute
            && other.output.len() == 1
    };
    let free = |other: &NodeProto| {
        let mut outputs = other.output.iter();
        outputs.all(|output| !links.is_graph_output(output) && !links.used_in_body(output))
    };
    let own = readers.iter().all(|reader| {
        let other = &graph.node[reader.node];
        reader.input == 0 && alike(other) && (readers.len() == 1 || free(other))
    });
    let kept = links.is_graph_output(source) || links.used_in_body(source);
    (own && !kept).then(|| readers.iter().map(|reader| reader.node).collect())
}

/// The name and the value that the node at `index` makes of a constant, and whether it had 16 bits.
fn reformed(model: &Model, index: usize, widen: bool) -> Result<Option<(String, Tensor, bool)>> {
    let graph = model.graph();
    let node = &graph.node[index];
    let plain = matches!(node.domain(), "" | "ai.onnx") && node.output.len() == 1;
    if !plain || !FORMS.contains(&node.op_type()) {
        return Ok(None);
    }
    let (Some(source), Some(output)) = (node.input.first(), node.output.first()) else {
        return Ok(None);
    };
    let Some(elements) = stored(graph, source) else { return Ok(None) };
    if elements < SMALLEST || graph.input.iter().any(|i| i.name() == source) {
        return Ok(None);
    }
    let links = Links::new(graph);
    if twins(graph, index).is_none() || links.is_graph_output(output) {
        return Ok(None);
    }
    let mut constants = Vec::with_capacity(node.input.len());
    for name in &node.input {
        let value = if name.is_empty() { None } else { graph::constant_tensor(model, name)? };
        if value.is_none() && !name.is_empty() {
            return Ok(None);
        }
        constants.push(value);
    }
    let floats = [DataType::F32, DataType::F16, DataType::BF16, DataType::F64];
    let before = constants.first().and_then(Option::as_ref).map(Tensor::data_type);
    let Some(before) = before.filter(|d| floats.contains(d)) else { return Ok(None) };
    let opset = model.opset("").unwrap_or(1);
    let Some(Ok(operator)) = ops::decode(&Decoding { node, opset, constants: &constants }) else {
        return Ok(None);
    };
    let Ok(outputs) = operator.run(&mut constants.clone()) else { return Ok(None) };
    let Some(tensor) = outputs.into_iter().next() else { return Ok(None) };
    if !floats.contains(&tensor.data_type())
        || (node.op_type() == "Cast" && tensor.data_type() != DataType::F32)
    {
        return Ok(None);
    }
    let wider = node.op_type() == "Cast" && matches!(before, DataType::F16 | DataType::BF16);
    Ok((!wider || widen).then(|| (output.clone(), tensor, wider)))
}

/// A constant whose elements, where they are many, wait in a file if the system has room for one.
fn waiting(spill: &mut Option<Spill>, tensor: TensorProto) -> TensorProto {
    if tensor.raw_data.as_ref().is_none_or(|raw| raw.len() < LARGE) {
        return tensor;
    }
    let made = spill.take().or_else(|| Spill::new(&std::env::temp_dir()).ok());
    let Some(mut open) = made else { return tensor };
    match open.keep_tensor(tensor.clone()) {
        Ok(kept) => {
            *spill = Some(open);
            kept
        }
        Err(error) => {
            log::debug!("`{}` stays in memory: {error}", tensor.name());
            tensor
        }
    }
}

/// Whether nearly all weights have 16 bits and are widened before use: stored so again, they lose
/// nothing by being `f32` meanwhile.
fn mostly_halves(model: &Model) -> bool {
    let graph = model.graph();
    let links = Links::new(graph);
    let (mut halves, mut all) = (0, 0);
    for (name, constant) in graph::constants(model) {
        let Some(tensor) = constant.proto(graph) else { continue };
        let elements = stored(graph, &name).unwrap_or(0);
        let code = tensor.data_type();
        let half = code == Code::Float16 as i32 || code == Code::Bfloat16 as i32;
        let cast =
            links.sole_consumer(&name).is_some_and(|c| graph.node[c.node].op_type() == "Cast");
        all += elements;
        halves += if half && cast { elements } else { 0 };
    }
    halves > 0 && halves * 10 >= all * 9
}

/// Elements of a float constant of the graph; none where it is no constant, or not stored so.
fn stored(graph: &GraphProto, name: &str) -> Option<u64> {
    let float = [Code::Float, Code::Float16, Code::Bfloat16, Code::Double];
    let node = || {
        let node = graph.node.iter().find(|n| n.output.first().is_some_and(|o| o == name))?;
        (node.op_type() == "Constant").then(|| node.tensor("value"))?
    };
    let tensor = graph.initializer.iter().find(|t| t.name() == name).or_else(node)?;
    let known = float.iter().any(|&code| code as i32 == tensor.data_type());
    known.then(|| tensor.dims.iter().map(|&d| u64::try_from(d).unwrap_or(0)).product())
}
