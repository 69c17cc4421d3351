//! Who makes and who reads each value of a graph.

use std::collections::{HashMap, HashSet};

use super::names;
use crate::onnx::GraphProto;

/// One use of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Index of the node.
    pub node: usize,
    /// Position among the node's inputs.
    pub input: usize,
}

/// Producers and consumers by value name, as they were when this was made.
#[derive(Clone, Debug, Default)]
pub struct Links {
    producers: HashMap<String, usize>,
    consumers: HashMap<String, Vec<Consumer>>,
    outputs: HashSet<String>,
    captured: HashSet<String>,
}

impl Links {
    /// The links of one graph; bodies of its nodes count only by what they read from it.
    #[must_use]
    pub fn new(graph: &GraphProto) -> Self {
        let mut links = Self::default();
        for (index, node) in graph.node.iter().enumerate() {
            for (input, name) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
                let consumer = Consumer { node: index, input };
                links.consumers.entry(name.clone()).or_default().push(consumer);
            }
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                links.producers.insert(name.clone(), index);
            }
            links.captured.extend(names::captured(node).into_iter().map(str::to_owned));
        }
        links.outputs = graph.output.iter().map(|o| o.name().to_owned()).collect();
        links
    }

    /// Index of the node that makes a value; `None` for graph inputs and initializers.
    #[must_use]
    pub fn producer(&self, name: &str) -> Option<usize> {
        self.producers.get(name).copied()
    }

    /// Every use of a value as a node's input, in node order.
    #[must_use]
    pub fn consumers(&self, name: &str) -> &[Consumer] {
        self.consumers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a value is an output of the graph.
    #[must_use]
    pub fn is_graph_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }

    /// Whether the body of a control-flow node of this graph reads a value.
    #[must_use]
    pub fn used_in_body(&self, name: &str) -> bool {
        self.captured.contains(name)
    }

    /// The one use of a value, where there is exactly one and neither an output of the graph nor a
    /// body reads it besides.
    #[must_use]
    pub fn sole_consumer(&self, name: &str) -> Option<Consumer> {
        match self.consumers(name) {
            [only] if !self.is_graph_output(name) && !self.used_in_body(name) => Some(*only),
            _ => None,
        }
    }
}
