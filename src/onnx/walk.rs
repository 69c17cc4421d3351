//! Every tensor of a model, wherever the schema lets one stand.

use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use crate::error::Result;

/// Where a tensor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the initializers of a graph or body.
    Initializer,
    /// In an attribute, or as a part of a sparse tensor.
    Inner,
}

type Visit<'v> = dyn FnMut(&mut TensorProto, Place) -> Result<()> + 'v;

/// Visits all tensors: those of the main graph, of training graphs, of functions, and of bodies and
/// attributes at any depth. Stops at the first error.
pub(super) fn each_tensor(model: &mut ModelProto, visit: &mut Visit<'_>) -> Result<()> {
    if let Some(graph) = &mut model.graph {
        in_graph(graph, visit)?;
    }
    for training in &mut model.training_info {
        for graph in training.initialization.iter_mut().chain(&mut training.algorithm) {
            in_graph(graph, visit)?;
        }
    }
    for function in &mut model.functions {
        in_attributes(&mut function.attribute_proto, visit)?;
        in_nodes(&mut function.node, visit)?;
    }
    Ok(())
}

fn in_graph(graph: &mut GraphProto, visit: &mut Visit<'_>) -> Result<()> {
    for tensor in &mut graph.initializer {
        visit(tensor, Place::Initializer)?;
    }
    for sparse in &mut graph.sparse_initializer {
        in_sparse(sparse, visit)?;
    }
    in_nodes(&mut graph.node, visit)
}

fn in_nodes(nodes: &mut [NodeProto], visit: &mut Visit<'_>) -> Result<()> {
    nodes.iter_mut().try_for_each(|node| in_attributes(&mut node.attribute, visit))
}

fn in_attributes(attributes: &mut [AttributeProto], visit: &mut Visit<'_>) -> Result<()> {
    for attribute in attributes {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            visit(tensor, Place::Inner)?;
        }
        for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
            in_sparse(sparse, visit)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            in_graph(graph, visit)?;
        }
    }
    Ok(())
}

fn in_sparse(sparse: &mut SparseTensorProto, visit: &mut Visit<'_>) -> Result<()> {
    for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
        visit(tensor, Place::Inner)?;
    }
    Ok(())
}
