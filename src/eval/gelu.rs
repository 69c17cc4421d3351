//! Gelu that a graph spells out, computed as one function.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compile::decode_node;
use super::fuse::sole_reader;
use super::{Label, Step, ValueId};
use crate::onnx::{NodeProto, OpsetImport};
use crate::ops::Epilogue;
use crate::tensor::Tensor;

/// The operator set that has Gelu.
const OPSET: i64 = 20;

/// Replaces `x (1 + erf(x / sqrt 2)) / 2`, with its factors in any order, by one step for each.
pub(super) fn join(
    steps: &mut Vec<Step>,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
) {
    let mut index = 0;
    while index < steps.len() {
        if let Some(spelled) = find(steps, index, kept, constants)
            && let Some(step) = spelled.step(steps)
        {
            steps[spelled.last] = step;
            let gone: HashSet<usize> = spelled.others.into_iter().collect();
            let mut place = 0;
            steps.retain(|_| {
                place += 1;
                !gone.contains(&(place - 1))
            });
            index = 0;
        } else {
            index += 1;
        }
    }
}

/// The steps of a Gelu.
struct Spelled {
    x: ValueId,
    /// The one that makes the result.
    last: usize,
    others: Vec<usize>,
}

impl Spelled {
    /// One step in the place of the last.
    fn step(&self, steps: &[Step]) -> Option<Step> {
        let node = NodeProto { op_type: Some("Gelu".to_owned()), ..NodeProto::default() };
        let opset = OpsetImport { domain: None, version: Some(OPSET) };
        let (operator, _) = decode_node(&node, &[opset], 9, &[None], &[]).ok()?;
        let last = &steps[self.last];
        let label = Label { node: last.label.node.clone(), op_type: "Gelu".to_owned() };
        Some(Step {
            operator,
            inputs: vec![Some(self.x)],
            label: Arc::new(label),
            fallback: None,
            ..last.clone()
        })
    }
}

/// The Gelu whose Erf is step `erf`.
fn find(
    steps: &[Step],
    erf: usize,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
) -> Option<Spelled> {
    let steps = Steps { steps, kept, constants };
    let [Some(scaled)] = steps.plain(erf, "Erf")?[..] else { return None };
    let scale = steps.makes(scaled)?;
    let (x, factor) = steps.scaled(scale)?;
    if !near(factor, std::f32::consts::FRAC_1_SQRT_2) {
        return None;
    }
    let (plus, one) = steps.after(erf, "Add")?;
    if !near(steps.constant(one)?, 1.0) {
        return None;
    }
    // What is left are two products: with x and with one half, of the sum or of one another.
    let (first, other) = steps.after(plus, "Mul")?;
    let mut others = vec![scale, erf, plus];
    let last = if other == x {
        others.push(first);
        let (last, half) = steps.after(first, "Mul")?;
        steps.constant(half).filter(|half| near(*half, 0.5))?;
        last
    } else if let Some(half) = steps.constant(other) {
        others.push(first);
        let (last, factor) = steps.after(first, "Mul")?;
        (near(half, 0.5) && factor == x).then_some(last)?
    } else {
        let halved = steps.makes(other)?;
        others.push(halved);
        let (of, half) = steps.scaled(halved)?;
        (of == x && near(half, 0.5)).then_some(first)?
    };
    // What goes must have no other reader.
    let alone = |step: &usize| sole_reader(steps.steps, *step, kept).is_some();
    others.iter().all(alone).then_some(Spelled { x, last, others })
}

fn near(value: f32, expected: f32) -> bool {
    (value - expected).abs() <= 1e-5 * expected
}

/// Steps, with what is known about values.
struct Steps<'a> {
    steps: &'a [Step],
    kept: &'a HashSet<ValueId>,
    constants: &'a HashMap<ValueId, Tensor>,
}

impl Steps<'_> {
    /// The inputs of a step that is such an operator with nothing fused into it.
    fn plain(&self, step: usize, op_type: &str) -> Option<&[Option<ValueId>]> {
        let step = &self.steps[step];
        let plain = step.label.op_type == op_type && step.epilogue == Epilogue::NONE;
        plain.then_some(&step.inputs)
    }

    /// The step that makes a value.
    fn makes(&self, value: ValueId) -> Option<usize> {
        self.steps.iter().position(|step| step.outputs == [Some(value)])
    }

    /// The value of a constant of one `f32`.
    fn constant(&self, value: ValueId) -> Option<f32> {
        match self.constants.get(&value)? {
            Tensor::F32(array) if array.len() == 1 && array.ndim() <= 1 => array.first().copied(),
            _ => None,
        }
    }

    /// The step that alone reads what `step` makes, where it is such an operator, and its other operand.
    fn after(&self, step: usize, op_type: &str) -> Option<(usize, ValueId)> {
        let (next, position) = sole_reader(self.steps, step, self.kept)?;
        let [a, b] = *self.plain(next, op_type)? else { return None };
        Some((next, [b, a][position]?))
    }

    /// A value times a constant, or divided by one: the value and the factor.
    fn scaled(&self, step: usize) -> Option<(ValueId, f32)> {
        if let Some(&[Some(a), Some(b)]) = self.plain(step, "Mul") {
            return match (self.constant(a), self.constant(b)) {
                (None, Some(factor)) => Some((a, factor)),
                (Some(factor), None) => Some((b, factor)),
                _ => None,
            };
        }
        match *self.plain(step, "Div")? {
            [Some(a), Some(b)] => Some((a, self.constant(b)?.recip())),
            _ => None,
        }
    }
}
