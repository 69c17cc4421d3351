//! Models of an older operator set as ones of a newer set that compute the same.

use super::Form;
use crate::error::{Error, Result};
use crate::graph::{self, NameAllocator};
use crate::onnx::{AttributeProto, Model, NodeAttributes, NodeProto, TensorProto};
use crate::ops;
use crate::tensor::Tensor;

/// The operator set since which operands of Mul are broadcast.
const BROADCAST: i64 = 7;

/// The first operator set with DynamicQuantizeLinear, and the first that can be brought to a newer
/// one here.
const OLDEST: i64 = 11;

/// The first operator set that has scales along an axis.
pub(super) const PER_AXIS: i64 = 13;

/// The first operator set that has blocks of scales and INT4.
const BLOCKED: i64 = 21;

/// Operators whose meaning changed in ways that aren't followed here.
const CHANGED: [&str; 3] = ["Upsample", "GroupNormalization", "Optional"];

/// Operators of which only fewer attributes were known before.
const UNCHANGED: [&str; 6] = ["LSTM", "GRU", "RNN", "NonZero", "NonMaxSuppression", "IsInf"];

/// Reductions whose axes became an input in operator set 18.
const REDUCTIONS: [&str; 9] = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
];

/// The model, brought to the operator set that a form needs.
///
/// # Errors
/// When the model's is too old, or a node can't be brought there.
pub(super) fn upgraded(model: &Model, form: Form) -> Result<Model> {
    let version = model.opset("").unwrap_or(1);
    let (needed, oldest) = match form {
        Form::Int4Dq => (BLOCKED, OLDEST),
        Form::Int8Qdq => (PER_AXIS, OLDEST),
        Form::Int8Dynamic => (OLDEST, OLDEST),
        Form::Int8 | Form::Int4 | Form::Fp16 | Form::Auto => (BROADCAST, BROADCAST),
    };
    if version >= needed {
        return Ok(model.clone());
    }
    let refuse = |reason: String| Error::UnsupportedModel {
        reason: format!(
            "--quantize {form} needs operator set {needed}, this model has {version}, and {reason}"
        ),
    };
    if version < oldest {
        return Err(refuse("it is too old to be brought there: export it with a newer one".into()));
    }
    if !model.proto.functions.is_empty() {
        return Err(refuse("it has functions of its own, which can't be brought there".into()));
    }
    let mut result = model.clone();
    let mut names = NameAllocator::new(model.graph());
    let graph = result.graph_mut();
    let mut constants = Vec::new();
    for node in std::mem::take(&mut graph.node) {
        let known = (ops::supported("", node.op_type()) || UNCHANGED.contains(&node.op_type()))
            && !CHANGED.contains(&node.op_type());
        let own = matches!(node.domain(), "" | "ai.onnx");
        if own && !known || node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
            let (label, op) = (node.label().to_owned(), node.op_type().to_owned());
            return Err(refuse(format!("node `{label}` ({op}) can't be brought there")));
        }
        if own {
            let mut step = Step { names: &mut names, constants: &mut constants };
            graph.node.extend(step.node(node, version, needed));
        } else {
            graph.node.push(node);
        }
    }
    for constant in constants {
        graph::add_initializer(graph, constant);
    }
    for set in &mut result.proto.opset_import {
        if matches!(set.domain(), "" | "ai.onnx") {
            set.version = Some(needed);
        }
    }
    let ir = match needed {
        ..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    };
    result.proto.ir_version = Some(result.proto.ir_version().max(ir));
    Ok(result)
}

/// The step of one node.
struct Step<'a> {
    names: &'a mut NameAllocator,
    constants: &'a mut Vec<TensorProto>,
}

impl Step<'_> {
    fn node(&mut self, mut node: NodeProto, from: i64, to: i64) -> Vec<NodeProto> {
        let crosses = |version: i64| from < version && version <= to;
        if node.op_type() == "Dropout" && crosses(12) {
            // It drops nothing at inference.
            node.attribute.retain(|a| a.name() != "ratio");
        }
        if crosses(13) {
            match node.op_type() {
                "Squeeze" | "Unsqueeze" | "ReduceSum" => self.make_input(&mut node, "axes"),
                "Split" => self.make_input(&mut node, "split"),
                "Softmax" | "LogSoftmax" | "Hardmax" => return self.softmax(node),
                _ => {}
            }
        }
        if crosses(18) {
            if REDUCTIONS.contains(&node.op_type()) {
                self.make_input(&mut node, "axes");
            }
            if node.op_type() == "Split" && node.input.len() < 2 {
                let count = node.output.len() as i64;
                node.attribute.push(AttributeProto::from_int("num_outputs", count));
            }
        }
        vec![node]
    }

    /// Makes an attribute the second input.
    fn make_input(&mut self, node: &mut NodeProto, name: &str) {
        let Some(values) = node.ints(name).map(<[i64]>::to_vec) else { return };
        node.attribute.retain(|a| a.name() != name);
        let Ok(tensor) = Tensor::from_vec(&[values.len()], values) else { return };
        let constant = self.names.fresh(&format!("{}/{name}", node.label()));
        self.constants.push(TensorProto::from_tensor(&constant, &tensor));
        node.input.truncate(1);
        node.input.push(constant);
    }

    /// Before set 13 all axes from the stated one on were one.
    fn softmax(&mut self, mut node: NodeProto) -> Vec<NodeProto> {
        let axis = node.int("axis").unwrap_or(1);
        node.attribute.retain(|a| a.name() != "axis");
        node.attribute.push(AttributeProto::from_int("axis", -1));
        if axis == -1 {
            return vec![node];
        }
        let label = node.label().to_owned();
        let mut fresh = |part: &str| self.names.fresh(&format!("{label}/{part}"));
        let (flat, shape, result) = (fresh("flat"), fresh("shape"), fresh("result"));
        let (x, y) =
            (node.input[0].clone(), std::mem::replace(&mut node.output[0], result.clone()));
        let make = |op: &str, input: Vec<String>, output: &str| NodeProto {
            op_type: Some(op.to_owned()),
            input,
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let mut flatten = make("Flatten", vec![x.clone()], &flat);
        flatten.attribute.push(AttributeProto::from_int("axis", axis));
        node.input[0] = flat;
        let back = make("Reshape", vec![result, shape.clone()], &y);
        vec![make("Shape", vec![x], &shape), flatten, node, back]
    }
}
