//! Rules of the specification that the rest of the program relies on.

use std::collections::HashSet;

use prost::Message;

use super::proto::{FunctionProto, GraphProto, ModelProto, NodeProto};
use crate::error::{Error, Result};

/// The newest format whose every field `proto/onnx.proto` has.
const KNOWN_IR_VERSION: i64 = 14;

/// Decodes a model and makes sure that it is one: most random bytes are some protobuf message.
///
/// # Errors
/// What speaks against it.
pub(super) fn parse(bytes: bytes::Bytes) -> Result<ModelProto, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let proto = ModelProto::decode(bytes).map_err(|e| e.to_string())?;
    identity(&proto)?;
    Ok(proto)
}

/// Checks for the fields no model lacks.
pub(super) fn identity(model: &ModelProto) -> Result<(), String> {
    let Some(ir_version) = model.ir_version.filter(|&v| v > 0) else {
        return Err("it has no IR version".to_owned());
    };
    if model.graph.is_none() {
        return Err("it has no graph".to_owned());
    }
    // Operator sets came with IR version 3.
    if ir_version >= 3 && model.opset_import.is_empty() {
        return Err("it names no operator set".to_owned());
    }
    if ir_version > KNOWN_IR_VERSION {
        log::warn!(
            "the model has IR version {ir_version}; fields newer than version \
             {KNOWN_IR_VERSION} are lost"
        );
    }
    Ok(())
}

/// Checks names: each value has one definition, which comes before its uses.
pub(super) fn names(model: &ModelProto) -> Result<()> {
    for (i, set) in model.opset_import.iter().enumerate() {
        let clash = |other: &&super::proto::OperatorSetIdProto| {
            same_domain(other.domain(), set.domain()) && other.version() != set.version()
        };
        if let Some(other) = model.opset_import[..i].iter().find(clash) {
            return Err(invalid(format!(
                "operator set `{}` is imported in versions {} and {}",
                set.domain(),
                other.version(),
                set.version()
            )));
        }
    }
    if let Some(main) = &model.graph {
        graph(main, None)?;
    }
    model.functions.iter().try_for_each(function)
}

/// Whether two operator set domains are one; `ai.onnx` is the long form of the empty one.
pub(super) fn same_domain(a: &str, b: &str) -> bool {
    let short = |domain| if domain == "ai.onnx" { "" } else { domain };
    short(a) == short(b)
}

/// Names visible at a point of a graph: its own so far, then those around a body.
struct Scope<'s> {
    own: HashSet<&'s str>,
    outer: Option<&'s Scope<'s>>,
}

impl<'s> Scope<'s> {
    fn sees(&self, name: &str) -> bool {
        self.own.contains(name) || self.outer.is_some_and(|outer| outer.sees(name))
    }

    fn define(&mut self, name: &'s str, what: &str) -> Result<()> {
        if self.own.insert(name) {
            Ok(())
        } else {
            Err(invalid(format!("{what} `{name}` is defined twice")))
        }
    }
}

fn graph(graph: &GraphProto, outer: Option<&Scope<'_>>) -> Result<()> {
    let mut scope = Scope { own: HashSet::new(), outer };
    let mut constants = HashSet::new();
    let dense = graph.initializer.iter().map(|t| t.name());
    let sparse =
        graph.sparse_initializer.iter().map(|t| t.values.as_ref().map_or("", |v| v.name()));
    for name in dense.chain(sparse) {
        if name.is_empty() {
            return Err(invalid("an initializer has no name"));
        }
        if !constants.insert(name) {
            return Err(invalid(format!("initializer `{name}` is defined twice")));
        }
    }
    for input in &graph.input {
        if input.name().is_empty() {
            return Err(invalid("a graph input has no name"));
        }
        scope.define(input.name(), "graph input")?;
    }
    // Up to IR version 3 initializers are listed as inputs too: one definition, not two.
    scope.own.extend(constants);
    nodes(&graph.node, &mut scope)?;
    for output in &graph.output {
        if !scope.sees(output.name()) {
            return Err(invalid(format!("nothing makes graph output `{}`", output.name())));
        }
    }
    Ok(())
}

fn function(function: &FunctionProto) -> Result<()> {
    let inside = |error| match error {
        Error::InvalidModel { reason } => {
            invalid(format!("in function `{}`: {reason}", function.name()))
        }
        other => other,
    };
    let mut scope = Scope { own: HashSet::new(), outer: None };
    for input in &function.input {
        scope.define(input, "function input").map_err(inside)?;
    }
    nodes(&function.node, &mut scope).map_err(inside)?;
    for output in &function.output {
        if !scope.sees(output) {
            return Err(inside(invalid(format!("nothing makes output `{output}`"))));
        }
    }
    Ok(())
}

fn nodes<'s>(nodes: &'s [NodeProto], scope: &mut Scope<'s>) -> Result<()> {
    for (index, node) in nodes.iter().enumerate() {
        if node.op_type().is_empty() {
            return Err(invalid(format!("node `{}` has no operator", node.label())));
        }
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if !scope.sees(input) {
                return Err(undefined(nodes, index, input));
            }
        }
        for attribute in &node.attribute {
            for body in attribute.g.iter().chain(&attribute.graphs) {
                graph(body, Some(scope)).map_err(|error| match error {
                    Error::InvalidModel { reason } => invalid(format!(
                        "in `{}` of node `{}`: {reason}",
                        attribute.name(),
                        node.label()
                    )),
                    other => other,
                })?;
            }
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            scope.define(output, "value")?;
        }
    }
    Ok(())
}

/// The error for an input that is not there yet when its node comes.
fn undefined(nodes: &[NodeProto], index: usize, input: &str) -> Error {
    let node = nodes[index].label();
    let maker = nodes[index..].iter().find(|n| n.output.iter().any(|o| o == input));
    invalid(match maker {
        Some(maker) => format!(
            "node `{node}` reads `{input}` before node `{}` makes it: the nodes are out of order or \
             form a cycle",
            maker.label()
        ),
        None => format!("node `{node}` reads `{input}`, which nothing makes"),
    })
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidModel { reason: reason.into() }
}
