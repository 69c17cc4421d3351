//! Additions and activations computed together with the product before them, padding with the
//! convolution after it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Step, ValueId};
use crate::kernels::Clamp;
use crate::onnx::{NodeAttributes, NodeProto};
use crate::ops::{Derivative, Epilogue};
use crate::tensor::Tensor;

/// Merges `product -> Add -> Relu or Clip` into the product's step, wherever the values between are
/// used by nothing else and the product's kernel can do it, and a Pad into the convolution that
/// reads it. When `training`, only where the merged step has a backward rule.
pub(super) fn fuse(
    steps: &mut Vec<Step>,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
    nodes: &[NodeProto],
    training: bool,
) {
    let mut index = 0;
    while index < steps.len() {
        if !merge_padding(steps, index, kept, constants, nodes) {
            index += 1;
        }
    }
    let mut index = 0;
    while index < steps.len() {
        if let Some((bias, add)) = bias(steps, index, kept, constants) {
            let epilogue = Epilogue { bias: Some(bias), ..Epilogue::NONE };
            merge(steps, index, add, epilogue, training);
        }
        if let Some((other, add)) = addition(steps, index, kept, constants) {
            let epilogue = Epilogue { residual: true, ..steps[index].epilogue.clone() };
            if merge(steps, index, add, epilogue, training) {
                steps[index].inputs.push(Some(other));
            }
        }
        while let Some((activation, clamp)) = activation(steps, index, kept, constants) {
            let before = steps[index].epilogue.clamp;
            let clamp = Clamp { low: within(before.low, clamp), high: within(before.high, clamp) };
            let epilogue = Epilogue { clamp, ..steps[index].epilogue.clone() };
            if !merge(steps, index, activation, epilogue, training) {
                break;
            }
        }
        index += 1;
    }
}

/// Gives a Pad with constant zeros to the convolution that is alone in reading its result; then step
/// `index` goes.
fn merge_padding(
    steps: &mut Vec<Step>,
    index: usize,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
    nodes: &[NodeProto],
) -> bool {
    let padded = |steps: &[Step]| {
        let step = &steps[index];
        let mode = nodes.get(step.node)?.string("mode").unwrap_or("constant");
        if step.label.op_type != "Pad"
            || mode != "constant"
            || step.inputs.get(3).is_some_and(Option::is_some)
        {
            return None;
        }
        if let Some(Some(value)) = step.inputs.get(2) {
            match constants.get(value)? {
                Tensor::F32(value) if value.iter().all(|&v| v == 0.0) => {}
                _ => return None,
            }
        }
        let amounts = constants.get(&step.inputs.get(1).copied()??)?.to_i64_vec("pads").ok()?;
        let amounts: Vec<usize> =
            amounts.into_iter().map(usize::try_from).collect::<Result<_, _>>().ok()?;
        let (reader, position) = sole_reader(steps, index, kept)?;
        if position != 0 {
            return None;
        }
        Some((reader, steps[reader].operator.with_padding(&amounts)?))
    };
    let Some((reader, operator)) = padded(steps) else {
        return false;
    };
    steps[reader].operator = operator.into();
    steps[reader].inputs[0] = steps[index].inputs[0];
    steps[reader].fallback = None;
    steps.remove(index);
    true
}

/// `value` brought into the bounds.
fn within(value: f32, clamp: Clamp) -> f32 {
    value.max(clamp.low).min(clamp.high)
}

/// Gives step `index` the epilogue and takes over the output of step `next`, which goes.
fn merge(
    steps: &mut Vec<Step>,
    index: usize,
    next: usize,
    epilogue: Epilogue,
    training: bool,
) -> bool {
    let Some(operator) = steps[index].operator.with_epilogue(&epilogue) else {
        return false;
    };
    let inputs = vec![true; steps[index].inputs.len() + usize::from(epilogue.residual)];
    if training && !matches!(operator.derivative(&inputs), Derivative::Rule(_)) {
        return false;
    }
    let next = steps.remove(next);
    let step = &mut steps[index];
    step.operator = operator.into();
    step.epilogue = epilogue;
    step.outputs = next.outputs;
    // A fallback would run the node without what is fused into it.
    step.fallback = None;
    true
}

/// The only step that reads the only output of step `index`, and where among its inputs.
pub(super) fn sole_reader(
    steps: &[Step],
    index: usize,
    kept: &HashSet<ValueId>,
) -> Option<(usize, usize)> {
    let [Some(output)] = steps[index].outputs[..] else {
        return None;
    };
    if kept.contains(&output) {
        return None;
    }
    let mut readers = steps.iter().enumerate().flat_map(|(step, s)| {
        let positions = s.inputs.iter().enumerate();
        positions.filter(|(_, id)| **id == Some(output)).map(move |(position, _)| (step, position))
    });
    let reader = readers.next()?;
    readers.next().is_none().then_some(reader)
}

/// The Add right after step `index`, and where among its operands the step's result is.
fn sum(steps: &[Step], index: usize, kept: &HashSet<ValueId>) -> Option<(usize, usize)> {
    let (add, position) = sole_reader(steps, index, kept)?;
    let step = &steps[add];
    let plain = step.inputs.len() == 2 && step.epilogue == Epilogue::NONE;
    (step.label.op_type == "Add" && plain).then_some((add, position))
}

/// The constant that an Add right after step `index`, a MatMul, adds along the last axis, and the Add's step.
/// A Gemm has a bias of its own, which is fitted with its factors.
fn bias(
    steps: &[Step],
    index: usize,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
) -> Option<(Arc<[f32]>, usize)> {
    let step = &steps[index];
    if step.epilogue != Epilogue::NONE || step.label.op_type != "MatMul" {
        return None;
    }
    let (add, position) = sum(steps, index, kept)?;
    match constants.get(&steps[add].inputs[1 - position]?)? {
        Tensor::F32(bias) if bias.ndim() == 1 => Some((bias.iter().copied().collect(), add)),
        _ => None,
    }
}

/// The value that an Add right after step `index` adds, and the Add's step. The value must be there
/// before step `index` runs, and not be constant.
fn addition(
    steps: &[Step],
    index: usize,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
) -> Option<(ValueId, usize)> {
    let Epilogue { residual: false, clamp: Clamp::NONE, .. } = steps[index].epilogue else {
        return None;
    };
    let (add, position) = sum(steps, index, kept)?;
    let other = steps[add].inputs[1 - position]?;
    let late = steps[index..].iter().any(|s| s.outputs.contains(&Some(other)));
    (!late && !constants.contains_key(&other)).then_some((other, add))
}

/// The bounds that an activation right after step `index` applies, and the activation's step.
fn activation(
    steps: &[Step],
    index: usize,
    kept: &HashSet<ValueId>,
    constants: &HashMap<ValueId, Tensor>,
) -> Option<(usize, Clamp)> {
    let (next, position) = sole_reader(steps, index, kept)?;
    let step = &steps[next];
    if position != 0 {
        return None;
    }
    let bound = |position: usize, none: f32| match step.inputs.get(position) {
        None | Some(None) => Some(none),
        Some(Some(id)) => match constants.get(id)? {
            Tensor::F32(bound) if bound.len() == 1 => bound.first().copied(),
            _ => None,
        },
    };
    let clamp = match step.label.op_type.as_str() {
        "Relu" => Clamp::RELU,
        // Bounds given as attributes, before operator set 11, are not looked at here.
        "Clip" if step.inputs.len() > 1 => {
            Clamp { low: bound(1, f32::NEG_INFINITY)?, high: bound(2, f32::INFINITY)? }
        }
        _ => return None,
    };
    (clamp.low <= clamp.high).then_some((next, clamp))
}
