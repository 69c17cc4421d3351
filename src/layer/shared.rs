//! Weights that several nodes read: one layer, where all of them apply the weight in the same way.

use std::collections::HashMap;

use super::{Form, LinearMap, Use};
use crate::error::Result;
use crate::graph;
use crate::onnx::{GraphProto, Model};

/// The nodes' inputs that are each value, as indices of nodes and positions, in node order.
pub(super) struct Readers<'a>(HashMap<&'a str, Vec<(usize, usize)>>);

impl<'a> Readers<'a> {
    pub(super) fn of(graph: &'a GraphProto) -> Self {
        let mut readers: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for (position, name) in node.input.iter().enumerate() {
                readers.entry(name).or_default().push((index, position));
            }
        }
        Self(readers)
    }

    /// The nodes besides `node`, which reads `weight` at `position` and applies it as `map`, that
    /// apply it too; or why they and it can't have the same factors. `map_of` gives the map of a
    /// node's input.
    ///
    /// # Errors
    /// Those of `map_of`, and when a bias can't be read.
    pub(super) fn uses(
        &self,
        model: &Model,
        weight: &str,
        (node, position): (usize, usize),
        map: &LinearMap,
        mut map_of: impl FnMut(usize, usize) -> Result<std::result::Result<LinearMap, String>>,
    ) -> Result<std::result::Result<Vec<Use>, String>> {
        let nodes = &model.graph().node;
        let mut uses = Vec::new();
        let all = self.0.get(weight).map_or(&[][..], Vec::as_slice);
        for &(index, at) in all.iter().filter(|reader| **reader != (node, position)) {
            let other = &nodes[index];
            let name = other.label().to_owned();
            match map_of(index, at)? {
                Ok(found) if index != node && alike(model, map, &found)? => {
                    uses.push(Use { node: index, name, map: found });
                }
                _ => {
                    let operator = other.op_type();
                    return Ok(Err(format!(
                        "shared with {operator} `{name}`, which reads it in another way"
                    )));
                }
            }
        }
        Ok(Ok(uses))
    }
}

/// Whether two nodes that read a weight have the same W and the same bias, and can both take a new
/// bias or both not: then factors of one are factors of the other. Where and how often a kernel is
/// applied may differ.
fn alike(model: &Model, a: &LinearMap, b: &LinearMap) -> Result<bool> {
    let forms = match (&a.form, &b.form) {
        (Form::Conv(a), Form::Conv(b))
        | (Form::ConvTranspose { attributes: a, .. }, Form::ConvTranspose { attributes: b, .. }) => {
            a.kernel == b.kernel
        }
        (
            Form::Gemm { trans_b, alpha, beta, .. },
            Form::Gemm { trans_b: other, alpha: scale, beta: bias, .. },
        ) => trans_b == other && alpha == scale && beta == bias,
        (
            Form::GemmLeft { trans_a, alpha, .. },
            Form::GemmLeft { trans_a: other, alpha: scale, .. },
        ) => trans_a == other && alpha == scale,
        (Form::MatMulRight, Form::MatMulRight)
        | (Form::MatMulLeft, Form::MatMulLeft)
        | (Form::Table, Form::Table) => true,
        _ => false,
    };
    let sizes = |map: &LinearMap| (map.groups, map.rows, map.columns, map.takes_bias());
    if !forms || sizes(a) != sizes(b) {
        return Ok(false);
    }
    match (&a.bias, &b.bias) {
        (None, None) => Ok(true),
        (Some(a), Some(b)) if a == b => Ok(true),
        (Some(a), Some(b)) => {
            let (a, b) = (graph::constant_tensor(model, a)?, graph::constant_tensor(model, b)?);
            Ok(a.zip(b).is_some_and(|(a, b)| a.to_f64_vec() == b.to_f64_vec()))
        }
        _ => Ok(false),
    }
}
