//! Tables that rows are looked up in.

use std::collections::BTreeMap;

use super::{Form, LinearMap};
use crate::error::Result;
use crate::graph::{Constant, Links, is_switch};
use crate::onnx::{Model, NodeAttributes, NodeProto};

/// Rows of a table that can be counted by an `f32`.
const MOST_PLACES: usize = 1 << 24;

/// Elements of a table that may be a mask: those of words are looked through only once they are decomposed.
const MOST_OF_MASK: usize = 1 << 24;

/// The linear map of a Gather from a table of this shape, or why there is none.
pub(super) fn table(
    node: &NodeProto,
    shape: &[usize],
    constants: &BTreeMap<String, Constant>,
    model: &Model,
) -> Result<std::result::Result<LinearMap, String>> {
    let &[columns, rows] = shape else { return Ok(Err(format!("a table of {shape:?}"))) };
    if !matches!(node.int("axis"), None | Some(0)) {
        return Ok(Err("a table whose columns are looked up".to_owned()));
    }
    if node.input.get(1).is_none_or(|places| constants.contains_key(places)) {
        return Ok(Err("a table of which the same rows are always looked up".to_owned()));
    }
    if columns > MOST_PLACES {
        return Ok(Err(format!("a table of more than {MOST_PLACES} rows")));
    }
    let stored = node.input.first().and_then(|name| constants.get(name));
    if let Some(stored) = stored.filter(|_| rows * columns <= MOST_OF_MASK)
        && let Some(elements) = stored.tensor(model)?
    {
        let elements = elements.to_f64_vec();
        let switches = || elements.iter().all(|&v| is_switch(v));
        if elements.iter().any(|v| !v.is_finite()) || switches() {
            return Ok(Err("a mask that rows are looked up in".to_owned()));
        }
    }
    Ok(Ok(LinearMap { form: Form::Table, groups: 1, rows, columns, bias: None }))
}

/// Why a weight that is a table too is left alone.
pub(super) fn tied(table: &str) -> String {
    format!(
        "tied to `{table}`, a table that rows are looked up in: one weight, which stays whole; \
         --quantize stores it in fewer bits"
    )
}

/// Whether rows of a constant are looked up.
pub(super) fn is_table(name: &str, nodes: &[NodeProto], links: &Links) -> bool {
    let mut readers = links.consumers(name).iter();
    readers.any(|reader| reader.input == 0 && nodes[reader.node].op_type() == "Gather")
}
