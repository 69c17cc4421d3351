//! Names: which are taken, and which a body reads from the graph around it.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::onnx::{GraphProto, NodeProto};

/// Hands out names that nothing in a graph or its bodies has yet.
#[derive(Clone, Debug, Default)]
pub struct NameAllocator {
    taken: HashSet<String>,
}

impl NameAllocator {
    /// Collects the names of all values, constants and nodes, in bodies too.
    #[must_use]
    pub fn new(graph: &GraphProto) -> Self {
        let mut taken = HashSet::new();
        collect(graph, &mut taken);
        Self { taken }
    }

    /// `wanted` if it is free, else `wanted_1`, `wanted_2` and so on; the name is taken from then on.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 0u64;
        while name.is_empty() || !self.taken.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}_{number}");
        }
        name
    }
}

/// A name for one new value or node; [`NameAllocator`] is faster for many.
#[must_use]
pub fn fresh_name(graph: &GraphProto, wanted: &str) -> String {
    NameAllocator::new(graph).fresh(wanted)
}

fn collect(graph: &GraphProto, taken: &mut HashSet<String>) {
    let infos = graph.input.iter().chain(&graph.output).chain(&graph.value_info);
    let tensors = graph.initializer.iter();
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    taken.extend(infos.map(|info| info.name().to_owned()));
    taken.extend(tensors.chain(sparse).map(|tensor| tensor.name().to_owned()));
    for node in &graph.node {
        taken.insert(node.name().to_owned());
        taken.extend(node.input.iter().chain(&node.output).cloned());
        bodies(node).for_each(|body| collect(body, taken));
    }
}

/// The graphs among the attributes of a node: branches and loop bodies.
pub(super) fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// The same graphs, to be edited.
pub(super) fn bodies_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
}

/// Gives values of a body, and of bodies in it, other names.
pub(super) fn rename_graph(graph: &mut GraphProto, names: &HashMap<String, String>) {
    let swap = |name: &mut Option<String>| {
        if let Some(new) = name.as_ref().and_then(|old| names.get(old)) {
            *name = Some(new.clone());
        }
    };
    let infos = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    infos.for_each(|info| swap(&mut info.name));
    graph.initializer.iter_mut().for_each(|tensor| swap(&mut tensor.name));
    let sparse = graph.sparse_initializer.iter_mut().filter_map(|s| s.values.as_mut());
    sparse.for_each(|tensor| swap(&mut tensor.name));
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if let Some(new) = names.get(name) {
                name.clone_from(new);
            }
        }
        bodies_mut(node).for_each(|body| rename_graph(body, names));
    }
}

/// Values that the bodies of `node` read from the graph around them.
pub fn captured(node: &NodeProto) -> BTreeSet<&str> {
    let mut free = BTreeSet::new();
    for body in bodies(node) {
        let mut own: HashSet<&str> = body.input.iter().map(|i| i.name()).collect();
        own.extend(body.initializer.iter().map(|t| t.name()));
        own.extend(body.sparse_initializer.iter().flat_map(|s| &s.values).map(|v| v.name()));
        own.extend(body.node.iter().flat_map(|n| &n.output).map(String::as_str));
        let mut reads: BTreeSet<&str> = body.output.iter().map(|o| o.name()).collect();
        for inner in &body.node {
            reads.extend(inner.input.iter().map(String::as_str));
            reads.extend(captured(inner));
        }
        free.extend(reads.into_iter().filter(|name| !name.is_empty() && !own.contains(name)));
    }
    free
}
