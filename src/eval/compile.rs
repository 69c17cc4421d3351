//! From a model to steps: decode, fold what is constant, drop what is dead, fuse.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Batches, Evaluator, Label, Step, ValueId, fuse, gelu};
use crate::error::{Error, OpError, Result};
use crate::graph::{self, captured};
use crate::onnx::{Model, NodeProto, OpsetImport};
use crate::ops::{self, Decoding, Epilogue, Foreign, Operator};
use crate::tensor::Tensor;

/// Folded constants larger than this many bytes are computed on every run instead.
const FOLDED_BYTES: usize = 256 << 20;

/// Operators with bodies that run as often as their inputs say, which may be without end: they are left
/// to a run of the graph.
const LOOPS: [&str; 2] = ["Loop", "Scan"];

/// Operators whose result is not a function of their inputs.
const RANDOM: [&str; 6] = [
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
];

impl Evaluator {
    /// The evaluator of a model's graph.
    ///
    /// # Errors
    /// When an input is not a tensor or a node is malformed. Operators that can't be run are
    /// reported when they are reached.
    pub fn new(model: &Model) -> Result<Self> {
        Self::observing(model, &[])
    }

    /// The evaluator of a model's graph that keeps the `observed` values: they are not fused away
    /// and stay in the state to the end.
    ///
    /// # Errors
    /// As [`Evaluator::new`], and when an observed value doesn't exist.
    pub fn observing(model: &Model, observed: &[&str]) -> Result<Self> {
        Self::compile(model, observed, None)
    }

    /// [`Evaluator::observing`], or with `trained` constants its training form: they are values
    /// like inputs, and only what has a backward rule is fused.
    pub(super) fn compile(
        model: &Model,
        observed: &[&str],
        trained: Option<&[&str]>,
    ) -> Result<Self> {
        Self::compile_for(model, graph::inputs(model)?, observed, trained)
    }

    /// The evaluator of a model whose inputs are no tensors that this crate holds, and that therefore
    /// can't be run: it tells the order of the steps.
    ///
    /// # Errors
    /// As [`Evaluator::new`].
    pub fn never_run(model: &Model) -> Result<Self> {
        Self::compile_for(model, Vec::new(), &[], None)
    }

    fn compile_for(
        model: &Model,
        inputs: Vec<graph::InputSpec>,
        observed: &[&str],
        trained: Option<&[&str]>,
    ) -> Result<Self> {
        let graph = model.graph();
        let mut names: HashMap<String, ValueId> = HashMap::new();
        let mut id = |name: &str| -> ValueId {
            let next = names.len();
            *names.entry(name.to_owned()).or_insert(next)
        };
        let mut stored = graph::constants(model);
        let parameters: HashSet<&str> = trained.unwrap_or_default().iter().copied().collect();
        stored.retain(|name, _| !parameters.contains(name.as_str()));
        let mut known: HashMap<String, Tensor> = HashMap::new();
        let mut steps: Vec<Step> = Vec::new();
        for (index, node) in graph.node.iter().enumerate() {
            let held = |o: &String| stored.contains_key(o) || parameters.contains(o.as_str());
            if node.output.iter().any(held) {
                continue;
            }
            let captured: Vec<String> = captured(node).into_iter().map(str::to_owned).collect();
            let names_in: Vec<&str> =
                node.input.iter().chain(&captured).map(String::as_str).collect();
            for name in &names_in {
                if let Some(constant) = stored.get(*name)
                    && !known.contains_key(*name)
                    && let Some(tensor) = constant.tensor(model)?
                {
                    known.insert((*name).to_owned(), tensor);
                }
            }
            let constants: Vec<Option<Tensor>> =
                names_in.iter().map(|name| known.get(*name).cloned()).collect();
            let (operator, fallback) = decode(node, model, &constants, &captured)?;

            let all_constant =
                names_in.iter().zip(&constants).all(|(n, c)| n.is_empty() || c.is_some());
            if all_constant
                && !RANDOM.contains(&node.op_type())
                && let Some(outputs) = fold(&*operator, &constants, node)
            {
                for (name, tensor) in node.output.iter().zip(outputs) {
                    known.insert(name.clone(), tensor);
                }
                continue;
            }
            let mut value = |name: &str| (!name.is_empty()).then(|| id(name));
            steps.push(Step {
                node: index,
                operator,
                epilogue: Epilogue::NONE,
                inputs: names_in.iter().map(|name| value(name)).collect(),
                outputs: node.output.iter().map(|name| value(name)).collect(),
                label: Arc::new(Label {
                    node: node.label().to_owned(),
                    op_type: node.op_type().to_owned(),
                }),
                fallback,
                taken: Arc::default(),
            });
        }
        let input_ids: Vec<ValueId> = inputs.iter().map(|input| id(&input.name)).collect();
        let outputs: Vec<ValueId> = graph.output.iter().map(|output| id(output.name())).collect();
        for name in graph.output.iter().map(|o| o.name()) {
            // An output that is a constant itself.
            if let (Some(constant), false) = (stored.get(name), known.contains_key(name))
                && let Some(tensor) = constant.tensor(model)?
            {
                known.insert(name.to_owned(), tensor);
            }
        }
        let mut kept: HashSet<ValueId> = outputs.iter().copied().collect();
        for name in observed {
            // A value that was folded is constant, and needs no keeping.
            if let Some(&id) = names.get(*name) {
                kept.insert(id);
            } else if !known.contains_key(*name) && !stored.contains_key(*name) {
                return Err(Error::InvalidModel { reason: format!("there is no value `{name}`") });
            }
        }
        drop_dead(&mut steps, &kept);
        let constants = known_ids(&known, &names);
        gelu::join(&mut steps, &kept, &constants);
        fuse::fuse(&mut steps, &kept, &constants, &graph.node, trained.is_some());

        let mut last_use = vec![0; names.len()];
        for (index, step) in steps.iter().enumerate() {
            for id in step.inputs.iter().flatten() {
                last_use[*id] = index;
            }
        }
        for id in kept {
            last_use[id] = usize::MAX;
        }
        let used: HashSet<ValueId> =
            steps.iter().flat_map(|s| &s.inputs).flatten().chain(&outputs).copied().collect();
        let constants = constants.into_iter().filter(|(id, _)| used.contains(id)).collect();
        let batches = Batches::new(inputs);
        Ok(Self {
            steps,
            names: Arc::new(names),
            constants: Arc::new(constants),
            last_use: Arc::new(last_use),
            inputs: Arc::new(input_ids),
            outputs: Arc::new(outputs),
            batches,
            widest: Arc::default(),
        })
    }
}

fn known_ids(
    known: &HashMap<String, Tensor>,
    names: &HashMap<String, ValueId>,
) -> HashMap<ValueId, Tensor> {
    known
        .iter()
        .filter_map(|(name, tensor)| names.get(name).map(|&id| (id, tensor.clone())))
        .collect()
}

/// The operator of a node: this crate's where it has one, else tract's.
pub(super) fn decode_node(
    node: &NodeProto,
    opsets: &[OpsetImport],
    ir_version: i64,
    constants: &[Option<Tensor>],
    captured: &[String],
) -> Result<(Arc<dyn Operator>, Option<Arc<Foreign>>), OpError> {
    let normal = |domain: &str| if domain == "ai.onnx" { String::new() } else { domain.to_owned() };
    let opset = opsets
        .iter()
        .find(|set| normal(set.domain()) == normal(node.domain()))
        .map_or(1, OpsetImport::version);
    let foreign = || {
        Arc::new(Foreign::new(
            node.clone(),
            opsets.to_vec(),
            ir_version,
            constants,
            captured.to_vec(),
        ))
    };
    match ops::decode(&Decoding { node, opset, constants }) {
        Some(Ok(operator)) => Ok((operator.into(), Some(foreign()))),
        None | Some(Err(OpError::Unsupported { .. } | OpError::DataType { .. })) => {
            Ok((foreign(), None))
        }
        Some(Err(source)) => Err(source),
    }
}

fn decode(
    node: &NodeProto,
    model: &Model,
    constants: &[Option<Tensor>],
    captured: &[String],
) -> Result<(Arc<dyn Operator>, Option<Arc<Foreign>>)> {
    let (opsets, ir) = (&model.proto.opset_import, model.proto.ir_version());
    decode_node(node, opsets, ir, constants, captured).map_err(|source| Error::Node {
        node: node.label().to_owned(),
        op_type: node.op_type().to_owned(),
        source,
    })
}

/// A node's outputs when all its inputs are constant; `None` leaves it to be run.
fn fold(
    operator: &dyn Operator,
    constants: &[Option<Tensor>],
    node: &NodeProto,
) -> Option<Vec<Tensor>> {
    if std::iter::once(node).chain(graph::body_nodes(node)).any(|n| LOOPS.contains(&n.op_type())) {
        return None;
    }
    // What may be folded has at most so many elements of four bytes.
    let run = || operator.run(&mut constants.to_vec());
    let outputs = ops::bounded(FOLDED_BYTES / 4, run).ok()?;
    let small = outputs.iter().map(Tensor::byte_len).sum::<usize>() <= FOLDED_BYTES;
    (small && outputs.len() >= node.output.len()).then_some(outputs)
}

/// Drops the steps that no kept value depends on.
fn drop_dead(steps: &mut Vec<Step>, kept: &HashSet<ValueId>) {
    let mut needed = kept.clone();
    let mut alive = vec![false; steps.len()];
    for (index, step) in steps.iter().enumerate().rev() {
        if step.outputs.iter().flatten().any(|id| needed.contains(id)) {
            alive[index] = true;
            needed.extend(step.inputs.iter().flatten());
        }
    }
    let mut alive = alive.into_iter();
    steps.retain(|_| alive.next().unwrap_or(true));
}
