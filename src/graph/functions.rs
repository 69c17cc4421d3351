//! Calls of local functions replaced by what the functions do.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::constants::is_constant;
use super::names::{NameAllocator, bodies_mut, rename_graph};
use crate::error::{Error, Result};
use crate::onnx::proto::FunctionProto;
use crate::onnx::{AttributeProto, Model, NodeProto};

/// Functions that call each other deeper than this call themselves, or might as well.
const DEEPEST: usize = 64;

/// Nodes that a graph may come to: calls of calls multiply.
const MOST_NODES: usize = 1 << 20;

/// Replaces every call of a local function, in bodies too, by the function's nodes under new names.
/// Constants of a function that is called several times stay one. Returns whether there was a call;
/// calls stay where a function is of another version of an operator set than the model.
///
/// # Errors
/// [`Error::UnsupportedModel`] when functions call themselves, or come to too many nodes.
pub fn inline_functions(model: &mut Model) -> Result<bool> {
    if model.proto.functions.is_empty() {
        return Ok(false);
    }
    let functions = std::mem::take(&mut model.proto.functions);
    let all = functions.clone();
    let mut inliner = Inliner {
        names: NameAllocator::new(model.graph()),
        functions: functions
            .iter()
            .filter(|function| fits(function, model) && is_closed(function))
            .map(|f| ((domain(f.domain()), f.name(), f.overload()), f))
            .collect(),
        constants: HashMap::new(),
        nodes: 0,
        calls: 0,
    };
    let nodes = std::mem::take(&mut model.graph_mut().node);
    let inlined = inliner.all(nodes.clone(), 0, true);
    let calls = inliner.calls;
    let fitting: HashSet<*const FunctionProto> =
        inliner.functions.values().map(|&f| std::ptr::from_ref(f)).collect();
    let gone: Vec<bool> =
        functions.iter().map(|f| fitting.contains(&std::ptr::from_ref(f))).collect();
    let imports: Vec<_> = functions
        .iter()
        .zip(&gone)
        .filter(|(_, gone)| **gone)
        .flat_map(|(function, _)| function.opset_import.clone())
        .collect();
    match inlined {
        Ok(nodes) => {
            model.graph_mut().node = nodes;
            for import in imports {
                if model.opset(import.domain()).is_none() {
                    model.proto.opset_import.push(import);
                }
            }
            let mut called = HashSet::new();
            model.graph().node.iter().for_each(|node| calls_in(node, &mut called));
            let mut gone = gone.into_iter();
            let mut functions = functions;
            functions.retain(|f| {
                !gone.next().unwrap_or(false)
                    || called.contains(&(f.domain().to_owned(), f.name().to_owned()))
            });
            // What a function that stays calls has to stay too.
            if !functions.is_empty() {
                functions = all;
            }
            model.proto.functions = functions;
            Ok(calls > 0)
        }
        Err(error) => {
            model.graph_mut().node = nodes;
            model.proto.functions = functions;
            Err(error)
        }
    }
}

type Key<'f> = (&'f str, &'f str, &'f str);

struct Inliner<'f> {
    names: NameAllocator,
    functions: HashMap<Key<'f>, &'f FunctionProto>,
    /// New names of the constants of functions that the main graph has already: by the function's
    /// address and the constant's name in it.
    constants: HashMap<(*const FunctionProto, String), String>,
    nodes: usize,
    calls: usize,
}

impl<'f> Inliner<'f> {
    /// The nodes with all calls replaced; `main` says that they are those of the main graph.
    fn all(&mut self, nodes: Vec<NodeProto>, depth: usize, main: bool) -> Result<Vec<NodeProto>> {
        let mut result = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            self.nodes += 1;
            if depth > DEEPEST || self.nodes > MOST_NODES {
                return Err(Error::UnsupportedModel {
                    reason: format!(
                        "local functions call each other too often or in a circle, at `{}`",
                        node.op_type()
                    ),
                });
            }
            for body in bodies_mut(&mut node) {
                let inner = std::mem::take(&mut body.node);
                body.node = self.all(inner, depth + 1, false)?;
            }
            let key = (domain(node.domain()), node.op_type(), node.overload());
            // Keys borrow from the functions, not from the node.
            let function = self.functions.get(&key).copied();
            // A call for more outputs than there are is left to whoever runs it.
            match function.filter(|f| node.output.len() <= f.output.len()) {
                Some(function) => {
                    self.calls += 1;
                    let nodes = self.call(function, &node, main);
                    result.extend(self.all(nodes, depth + 1, main)?);
                }
                None => result.push(node),
            }
        }
        Ok(result)
    }

    /// The nodes of one call.
    fn call(
        &mut self,
        function: &'f FunctionProto,
        call: &NodeProto,
        main: bool,
    ) -> Vec<NodeProto> {
        let mut names: HashMap<String, String> = HashMap::new();
        for (index, name) in function.input.iter().enumerate() {
            names.insert(name.clone(), call.input.get(index).cloned().unwrap_or_default());
        }
        let mut handed = Vec::new();
        for (index, name) in function.output.iter().enumerate() {
            let Some(output) = call.output.get(index).filter(|o| !o.is_empty()) else { continue };
            if names.contains_key(name) {
                // An input that is handed through, or one value for two outputs.
                handed.push((name.clone(), output.clone()));
            } else {
                names.insert(name.clone(), output.clone());
            }
        }
        let mut nodes = function.node.clone();
        let mut present = Vec::new();
        for node in &mut nodes {
            set_attributes(node, function, call);
            let output = node.output.first().cloned().unwrap_or_default();
            let plain = is_constant(node) && main && !function.output.contains(&output);
            let fixed =
                function.node.iter().any(|n| n.output.first() == Some(&output) && n == node);
            if plain && fixed {
                let place = (std::ptr::from_ref(function), output.clone());
                let known = self.constants.get(&place).cloned();
                present.push(known.is_some());
                let name = known.unwrap_or_else(|| self.names.fresh(&output));
                self.constants.insert(place, name.clone());
                names.insert(output, name);
            } else {
                present.push(false);
            }
        }
        let mut own: BTreeMap<String, ()> = BTreeMap::new();
        nodes.iter().for_each(|node| defined(node, &mut own));
        for name in own.into_keys().filter(|name| !name.is_empty()) {
            let fresh = |name: &String| self.names.fresh(name);
            names.entry(name).or_insert_with_key(fresh);
        }
        let mut present = present.into_iter();
        nodes.retain(|_| !present.next().unwrap_or(false));
        let prefix = call.label();
        for node in &mut nodes {
            for name in node.input.iter_mut().chain(&mut node.output) {
                if let Some(new) = names.get(name) {
                    name.clone_from(new);
                }
            }
            bodies_mut(node).for_each(|body| rename_graph(body, &names));
            if !node.name().is_empty() {
                let wanted = format!("{prefix}/{}", node.name());
                node.name = Some(self.names.fresh(&wanted));
            }
        }
        for (name, output) in handed {
            let value = names.get(&name).cloned().unwrap_or_default();
            nodes.push(NodeProto {
                op_type: Some("Identity".to_owned()),
                input: vec![value],
                output: vec![output],
                ..NodeProto::default()
            });
        }
        nodes
    }
}

/// Gives attributes that refer to those of the function the values that the call or the function's
/// defaults have for them; those without one go.
fn set_attributes(node: &mut NodeProto, function: &FunctionProto, call: &NodeProto) {
    node.attribute = std::mem::take(&mut node.attribute)
        .into_iter()
        .filter_map(|attribute| {
            let name = attribute.ref_attr_name().to_owned();
            if name.is_empty() {
                return Some(attribute);
            }
            let mut all = call.attribute.iter().chain(&function.attribute_proto);
            let given = all.find(|a| a.name() == name)?.clone();
            Some(AttributeProto { name: attribute.name, ..given })
        })
        .collect();
    for body in bodies_mut(node) {
        body.node.iter_mut().for_each(|inner| set_attributes(inner, function, call));
    }
}

/// Names that a node and its bodies give to values.
fn defined(node: &NodeProto, names: &mut BTreeMap<String, ()>) {
    let mut add = |name: &str| {
        names.insert(name.to_owned(), ());
    };
    node.output.iter().for_each(|o| add(o));
    for body in super::names::bodies(node) {
        body.input.iter().for_each(|i| add(i.name()));
        body.initializer.iter().for_each(|t| add(t.name()));
        body.sparse_initializer
            .iter()
            .filter_map(|s| s.values.as_ref())
            .for_each(|t| add(t.name()));
    }
    for body in super::names::bodies(node) {
        body.node.iter().for_each(|inner| defined(inner, names));
    }
}

/// Whether a function's operator sets are those of the model, where it has them at all.
fn fits(function: &FunctionProto, model: &Model) -> bool {
    function.opset_import.iter().all(|import| {
        model.opset(import.domain()).is_none_or(|version| version == import.version())
    })
}

/// Domains and operators of a node and of those in its bodies.
fn calls_in(node: &NodeProto, found: &mut HashSet<(String, String)>) {
    found.insert((node.domain().to_owned(), node.op_type().to_owned()));
    super::names::bodies(node).flat_map(|body| &body.node).for_each(|n| calls_in(n, found));
}

/// Whether all that a function reads and yields is an input or made by one of its nodes.
fn is_closed(function: &FunctionProto) -> bool {
    let made = function.node.iter().flat_map(|node| &node.output);
    let known: HashSet<&str> =
        function.input.iter().chain(made).map(String::as_str).chain([""]).collect();
    function.output.iter().all(|output| known.contains(output.as_str()))
        && function.node.iter().all(|node| {
            let reads = node.input.iter().map(String::as_str);
            reads.chain(super::names::captured(node)).all(|name| known.contains(name))
        })
}

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}
