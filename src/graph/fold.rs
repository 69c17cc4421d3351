//! Two additions of constants in a row as one.

use ndarray::Zip;

use super::constants::Source;
use super::{
    Links, add_initializer, constant_tensor, constants, fresh_name, remove_unused_constants,
};
use crate::error::Result;
use crate::onnx::{Model, NodeProto, TensorProto};
use crate::tensor::{Array, Tensor};

/// Makes the addition of a constant at index `add` part of another one that alone reads its result:
/// `(x + c) + d` becomes `x + (c + d)`. The node that computes x takes over the name and the output
/// of `add`, which must not broadcast x: the types recorded for its output then stay true.
///
/// Where other nodes read c too, the sum is a constant of its own, which additions of the same two share.
///
/// Returns whether it did: not where something else reads x or x + c, where a constant is not of `f32`,
/// and where c + d has more elements than d.
///
/// # Errors
/// As [`Model::tensor`].
pub fn fold_addition(model: &mut Model, add: usize) -> Result<bool> {
    let graph = model.graph();
    let links = Links::new(graph);
    let Some(first) = Addition::of(model, add)? else { return Ok(false) };
    let Some(producer) = links.producer(&first.value) else { return Ok(false) };
    if graph.node[producer].output.len() != 1 || links.sole_consumer(&first.value).is_none() {
        return Ok(false);
    }
    let own = constants(model).get(&first.constant).map(|c| c.source);
    let stored = matches!(own, Some(Source::Initializer(_)));
    let alone = links.sole_consumer(&first.constant).is_some();
    let result = &graph.node[add].output[0];
    let Some(consumer) = links.sole_consumer(result).filter(|_| stored) else { return Ok(false) };
    let Some(second) = Addition::of(model, consumer.node)? else { return Ok(false) };
    let Some(sum) = sum(&first.elements, &second.elements) else { return Ok(false) };
    if second.value != *result || sum.len() != second.elements.len() {
        return Ok(false);
    }

    let name = match made(model, &second.constant, &sum)? {
        Some(made) => made,
        None if alone => first.constant,
        None => fresh_name(model.graph(), &format!("{}/sum", second.constant)),
    };
    let graph = model.graph_mut();
    add_initializer(graph, TensorProto::from_tensor(&name, &sum));
    graph.node[consumer.node].input[1 - consumer.input] = name;
    let computes = std::mem::take(&mut graph.node[producer]);
    graph.node[producer] = NodeProto {
        input: computes.input,
        op_type: computes.op_type,
        domain: computes.domain,
        overload: computes.overload,
        attribute: computes.attribute,
        ..graph.node[add].clone()
    };
    graph.node.remove(add);
    super::drop_value_info(graph, &[&first.value]);
    remove_unused_constants(graph);
    Ok(true)
}

/// The name of an initializer that is `sum`, which stands for `constant` and another one, where an addition
/// of the two has made it before.
fn made(model: &Model, constant: &str, sum: &Tensor) -> Result<Option<String>> {
    let wanted = format!("{constant}/sum");
    for tensor in model.graph().initializer.iter().filter(|t| t.name().starts_with(&wanted)) {
        if model.tensor(tensor)? == *sum {
            return Ok(Some(tensor.name().to_owned()));
        }
    }
    Ok(None)
}

/// A node that adds a constant to a value.
struct Addition {
    value: String,
    constant: String,
    elements: Array<f32>,
}

impl Addition {
    fn of(model: &Model, node: usize) -> Result<Option<Self>> {
        let Some(node) = model.graph().node.get(node) else { return Ok(None) };
        let plain = matches!(node.domain(), "" | "ai.onnx") && node.op_type() == "Add";
        let ([a, b], true) = (&node.input[..], plain) else { return Ok(None) };
        for (value, constant) in [(a, b), (b, a)] {
            if let Some(Tensor::F32(elements)) = constant_tensor(model, constant)? {
                let (value, constant) = (value.clone(), constant.clone());
                return Ok(Some(Self { value, constant, elements }));
            }
        }
        Ok(None)
    }
}

/// The sum of two arrays that broadcast; `None` where they don't.
fn sum(a: &Array<f32>, b: &Array<f32>) -> Option<Tensor> {
    let rank = a.ndim().max(b.ndim());
    let extent = |array: &Array<f32>, axis: usize| {
        let missing = rank - array.ndim();
        if axis < missing { 1 } else { array.shape()[axis - missing] }
    };
    let shape: Vec<usize> = (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let pair = (a.broadcast(shape.clone())?, b.broadcast(shape)?);
    Some(Zip::from(pair.0).and(pair.1).map_collect(|x, y| x + y).into_shared().into())
}
