//! A graph in pieces that run one after another, so that the weights of only one are needed at a time.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::constants::is_constant;
use super::names::captured;
use crate::onnx::{GraphProto, Model, NodeProto, TypeProto, ValueInfoProto};
use crate::tensor::Tensor;

/// Consecutive nodes of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The nodes.
    pub nodes: Range<usize>,
    /// Values that they read and others make, or the graph is given.
    pub reads: Vec<String>,
    /// Values that they make and others read, or the graph gives.
    pub makes: Vec<String>,
}

/// Cuts a model's graph into pieces whose initializers take at most `bytes` where a node has not more alone;
/// `watched` values are made visible.
#[must_use]
pub fn pieces(model: &Model, bytes: u64, watched: &HashSet<&str>) -> Vec<Piece> {
    let graph = model.graph();
    let sizes: HashMap<&str, u64> =
        graph.initializer.iter().map(|t| (t.name(), model.tensor_byte_len(t))).collect();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let (mut held, mut sum): (HashSet<&str>, u64) = (HashSet::new(), 0);
    for (index, node) in graph.node.iter().enumerate() {
        let new: Vec<&str> =
            reads(node).filter(|name| sizes.contains_key(name) && !held.contains(name)).collect();
        let more: u64 = new.iter().map(|name| sizes[name]).sum();
        match ranges.last_mut() {
            Some(range) if sum + more <= bytes => range.end = index + 1,
            _ => {
                held.clear();
                sum = 0;
                ranges.push(index..index + 1);
            }
        }
        let all = reads(node).filter(|name| sizes.contains_key(name));
        for name in all.collect::<HashSet<&str>>() {
            if held.insert(name) {
                sum += sizes[name];
            }
        }
    }
    let constants = constant_names(graph);
    // For every value the last node that reads it.
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        last.extend(reads(node).map(|name| (name, index)));
    }
    last.extend(graph.output.iter().map(|output| (output.name(), usize::MAX)));
    let of = |nodes: Range<usize>| -> Piece {
        let own: HashSet<&str> = graph.node[nodes.clone()].iter().flat_map(outputs).collect();
        let mut seen = HashSet::new();
        let read = graph.node[nodes.clone()].iter().flat_map(reads);
        let from_outside = |name: &&str| !own.contains(name) && !constants.contains(name);
        let reads = read.filter(from_outside).filter(|name| seen.insert(*name));
        let reads = reads.map(str::to_owned).collect();
        let makes = graph.node[nodes.clone()].iter().filter(|node| !is_constant(node));
        let makes = makes.flat_map(outputs).filter(|name| {
            watched.contains(name) || last.get(name).is_some_and(|&last| last >= nodes.end)
        });
        let makes = makes.map(str::to_owned).collect();
        Piece { nodes, reads, makes }
    };
    ranges.into_iter().map(of).collect()
}

impl Piece {
    /// The piece as a model of its own, for the values that it reads, all of which are given; `made` are those
    /// that it makes, where they are known: they tell their types.
    #[must_use]
    pub fn model(
        &self,
        whole: &Model,
        values: &HashMap<String, Tensor>,
        made: &HashMap<String, Tensor>,
    ) -> Model {
        let graph = whole.graph();
        let nodes = &graph.node[self.nodes.clone()];
        let mut needed: HashSet<&str> = nodes.iter().flat_map(reads).collect();
        needed.extend(self.makes.iter().map(String::as_str));
        let wanted = |name: &str| needed.contains(name);
        let earlier = graph.node[..self.nodes.start]
            .iter()
            .filter(|node| is_constant(node) && outputs(node).any(wanted));
        let info = |name: &String, tensor: Option<&Tensor>| ValueInfoProto {
            name: Some(name.clone()),
            r#type: tensor.map(TypeProto::of_tensor),
            ..ValueInfoProto::default()
        };
        let part = GraphProto {
            name: graph.name.clone(),
            node: earlier.chain(nodes).cloned().collect(),
            initializer: graph.initializer.iter().filter(|t| wanted(t.name())).cloned().collect(),
            sparse_initializer: graph
                .sparse_initializer
                .iter()
                .filter(|s| s.values.as_ref().is_some_and(|v| wanted(v.name())))
                .cloned()
                .collect(),
            input: self.reads.iter().map(|name| info(name, values.get(name))).collect(),
            output: self.makes.iter().map(|name| info(name, made.get(name))).collect(),
            ..GraphProto::default()
        };
        whole.with_graph(part)
    }
}

/// Values that no node computes from others.
fn constant_names(graph: &GraphProto) -> HashSet<&str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let stored = graph.initializer.iter().chain(sparse).map(|t| t.name());
    let nodes = graph.node.iter().filter(|node| is_constant(node)).flat_map(outputs);
    stored.chain(nodes).collect()
}

fn reads(node: &NodeProto) -> impl Iterator<Item = &str> {
    let inputs = node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
    inputs.chain(captured(node))
}

fn outputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.output.iter().map(String::as_str).filter(|name| !name.is_empty())
}
