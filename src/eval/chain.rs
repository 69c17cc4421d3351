//! A few nodes run in the place of one.

use std::collections::HashMap;
use std::sync::Arc;

use super::compile::decode_node;
use crate::error::{Error, OpError, Result};
use crate::onnx::{NodeProto, OpsetImport};
use crate::ops::{Epilogue, Operator, epilogue};
use crate::tensor::Tensor;

/// The newest format a node is handed to tract in.
const IR_VERSION: i64 = 8;

/// Nodes in order, the last one making the replaced node's output.
pub struct Chain {
    links: Vec<Link>,
    /// Values that the nodes pass on, the replaced node's inputs first.
    values: usize,
    inputs: usize,
    output: usize,
    /// What the last node could not take over, applied after it.
    rest: Epilogue,
}

struct Link {
    operator: Arc<dyn Operator>,
    inputs: Vec<Option<Source>>,
    output: usize,
    /// Whether the value added by the epilogue goes to this node.
    residual: bool,
}

#[derive(Clone)]
enum Source {
    Value(usize),
    Constant(Tensor),
}

impl Chain {
    /// `nodes` in the place of `original`: they read its inputs, `constants` and one another, and
    /// the last one makes its output. The epilogue goes to the last node where that can take it.
    ///
    /// # Errors
    /// When a node reads anything else or is malformed.
    pub fn new(
        nodes: &[NodeProto],
        constants: &HashMap<String, Tensor>,
        original: &NodeProto,
        opsets: &[OpsetImport],
        epilogue: Epilogue,
    ) -> Result<Self> {
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (place, name) in original.input.iter().enumerate() {
            places.entry(name).or_insert(place);
        }
        let inputs = original.input.len();
        let mut links = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            let known: Vec<Option<Tensor>> =
                node.input.iter().map(|name| constants.get(name).cloned()).collect();
            let wrap = |source| Error::Node {
                node: node.label().to_owned(),
                op_type: node.op_type().to_owned(),
                source,
            };
            let (operator, _) = decode_node(node, opsets, IR_VERSION, &known, &[]).map_err(wrap)?;
            let sources = node
                .input
                .iter()
                .zip(known)
                .map(|(name, constant)| match (name.as_str(), constant) {
                    ("", _) => Ok(None),
                    (_, Some(tensor)) => Ok(Some(Source::Constant(tensor))),
                    (name, None) => places
                        .get(name)
                        .map(|&place| Some(Source::Value(place)))
                        .ok_or_else(|| wrap(OpError::value(format!("unknown value `{name}`")))),
                })
                .collect::<Result<Vec<_>>>()?;
            let output = inputs + i;
            if let Some(name) = node.output.first() {
                places.insert(name, output);
            }
            links.push(Link { operator, inputs: sources, output, residual: false });
        }
        let output = original.output.first().and_then(|name| places.get(name.as_str()).copied());
        let output = output.ok_or_else(|| Error::InvalidModel {
            reason: format!("nothing makes the output of `{}`", original.label()),
        })?;
        let bias = nodes.last().and_then(|last| join_bias(&mut links, last.op_type()));
        let mut rest = epilogue;
        let sums = |own: Arc<[f32]>| match &rest.bias {
            Some(bias) => own.iter().zip(&**bias).map(|(own, bias)| own + bias).collect(),
            None => own,
        };
        let whole = Epilogue { bias: bias.map_or(rest.bias.clone(), |b| Some(sums(b))), ..rest };
        if rest != Epilogue::NONE
            && let Some(last) = links.last_mut().filter(|link| link.output == output)
            && let Some(operator) = last.operator.with_epilogue(&whole)
        {
            last.operator = operator.into();
            last.residual = rest.residual;
            rest = Epilogue::NONE;
        }
        Ok(Self { values: inputs + nodes.len(), links, inputs, output, rest })
    }
}

/// Gives the constant that the last node, of type `op_type`, adds along the last axis to the product before
/// it; then the last node goes.
fn join_bias(links: &mut Vec<Link>, op_type: &str) -> Option<Arc<[f32]>> {
    let [.., product, add] = links.as_mut_slice() else { return None };
    let bias: Arc<[f32]> = match add.inputs.as_slice() {
        [Some(Source::Value(sum)), Some(Source::Constant(Tensor::F32(bias)))]
        | [Some(Source::Constant(Tensor::F32(bias))), Some(Source::Value(sum))]
            if op_type == "Add" && *sum == product.output && bias.ndim() == 1 =>
        {
            bias.iter().copied().collect()
        }
        _ => return None,
    };
    let epilogue = Epilogue { bias: Some(Arc::clone(&bias)), ..Epilogue::NONE };
    product.operator = product.operator.with_epilogue(&epilogue)?.into();
    product.output = add.output;
    links.pop();
    Some(bias)
}

impl Operator for Chain {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.values];
        let mut residual = inputs.get_mut(self.inputs).and_then(Option::take);
        for (value, input) in values.iter_mut().zip(inputs.iter_mut().take(self.inputs)) {
            *value = input.take();
        }
        for (i, link) in self.links.iter().enumerate() {
            let later = |place: usize| {
                self.links[i + 1..]
                    .iter()
                    .flat_map(|l| &l.inputs)
                    .flatten()
                    .any(|source| matches!(source, Source::Value(other) if *other == place))
                    || place == self.output
            };
            let mut sources: Vec<Option<Tensor>> = link
                .inputs
                .iter()
                .map(|source| match source {
                    None => None,
                    Some(Source::Constant(tensor)) => Some(tensor.clone()),
                    Some(Source::Value(place)) if later(*place) => values[*place].clone(),
                    Some(Source::Value(place)) => values[*place].take(),
                })
                .collect();
            if link.residual {
                sources.push(residual.take());
            }
            let output = link.operator.run(&mut sources)?.into_iter().next();
            values[link.output] = output;
        }
        let output = values[self.output].take().ok_or(OpError::MissingInput { index: 0 })?;
        let output = if self.rest == Epilogue::NONE {
            output
        } else {
            epilogue::finish(output, residual.as_ref(), &self.rest)?
        };
        Ok(vec![output])
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("nodes", &self.links.len()).finish_non_exhaustive()
    }
}
