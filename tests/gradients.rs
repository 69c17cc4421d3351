//! Every backward rule against central finite differences in `f64`, over the shapes and attributes
//! of the operator cases with values drawn anew.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod cases;

use std::collections::BTreeMap;

use cases::{Case, cases};
use onnx_bsr::error::OpError;
use onnx_bsr::onnx::{AttributeProto, NodeProto};
use onnx_bsr::ops::{self, Backward, Decoding, Derivative, Kept, Operator};
use onnx_bsr::tensor::{DataType, Tensor};

/// Operators without a rule, each with the reason.
const WITHOUT: &[(&str, &str)] = &[
    ("OneHot", "indices are integers; the two values it writes are settings"),
    ("Range", "makes positions from settings"),
    ("DynamicQuantizeLinear", "rounds to integers"),
];

/// Operators whose results only jump, or are no function of the input's values.
const FLAT: &[&str] = &[
    "MatMulInteger",
    "ConvInteger",
    "ArgMax",
    "ArgMin",
    "And",
    "Or",
    "Xor",
    "Not",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "IsNaN",
    "IsInf",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Hardmax",
    "Shape",
    "Size",
    "Constant",
    "ConstantOfShape",
    "EyeLike",
];

/// Operators whose rules pass by jumps, so that no difference shows them.
const STRAIGHT: &[&str] = &["QuantizeLinear", "DequantizeLinear"];

/// Float inputs that are settings: they keep the case's values and get no gradient.
fn is_setting(op: &str, index: usize) -> bool {
    matches!(
        (op, index),
        ("Clip" | "Pad" | "OneHot", 1..)
            | ("Resize" | "Upsample", 1..)
            | ("CastLike" | "Dropout", 1..)
    )
}

/// Magnitudes of an operand's elements, and whether they have either sign.
fn domain(op: &str, index: usize) -> (f64, f64, bool) {
    match (op, index) {
        ("Log" | "Sqrt" | "ReduceLogSum", _) | ("Pow", 0) => (0.5, 2.0, false),
        ("BatchNormalization", 4) => (0.5, 2.0, false),
        ("Div" | "Mod", 1) | ("Reciprocal", _) => (0.5, 2.0, true),
        ("Acosh", _) => (1.2, 3.0, false),
        ("Asin" | "Acos" | "Atanh", _) => (0.05, 0.8, true),
        _ => (0.1, 2.5, true),
    }
}

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn tensor(&mut self, shape: &[usize], (low, high, signed): (f64, f64, bool)) -> Tensor {
        let one = |random: &mut Self| {
            let magnitude = low + (high - low) * random.unit();
            if signed && random.unit() < 0.5 { -magnitude } else { magnitude }
        };
        let values = (0..shape.iter().product()).map(|_| one(self)).collect();
        Tensor::from_vec::<f64>(shape, values).unwrap()
    }
}

fn is_float(tensor: &Tensor) -> bool {
    use DataType::{BF16, F16, F32, F64};
    matches!(tensor.data_type(), F16 | BF16 | F32 | F64)
}

/// The operands of a case in `f64`, and which of them get gradients.
fn operands(case: &Case, random: &mut Random) -> (Vec<Option<Tensor>>, Vec<bool>) {
    let op = case.node().op_type();
    let one = |(index, value): (usize, Option<Tensor>)| {
        let Some(value) = value.filter(is_float) else { return (None, false) };
        if is_setting(op, index) {
            let same = Tensor::from_vec(value.shape(), value.to_f64_vec()).unwrap();
            return (Some(same), false);
        }
        (Some(random.tensor(value.shape(), domain(op, index))), true)
    };
    let values = case.values();
    let drawn: Vec<_> = values.clone().into_iter().enumerate().map(one).collect();
    let floats = drawn.into_iter().zip(values);
    floats.map(|((float, wanted), value)| (float.or(value), wanted)).unzip()
}

/// The sum of the `f64` outputs' elements, weighted.
fn loss(outputs: &[Tensor], weights: &[Option<Tensor>]) -> f64 {
    let pairs = outputs.iter().zip(weights).filter_map(|(o, w)| Some((o, w.as_ref()?)));
    pairs
        .map(|(o, w)| o.to_f64_vec().iter().zip(w.to_f64_vec()).map(|(o, w)| o * w).sum::<f64>())
        .sum()
}

/// The largest number of an operand's elements that are moved.
const PROBES: usize = 24;

/// Checks the gradients of `wanted` operands. `None` where the operator takes no `f64`, or has no
/// `f64` output that any wanted operand could move.
fn check(
    case: &Case,
    operator: &dyn Operator,
    values: &[Option<Tensor>],
    wanted: &[bool],
    random: &mut Random,
) -> Result<Option<usize>, String> {
    let outputs = match operator.run(&mut values.to_vec()) {
        Ok(outputs) => outputs,
        Err(OpError::Unsupported { .. } | OpError::DataType { .. }) => return Ok(None),
        Err(error) => return Err(format!("forward: {error}")),
    };
    let Derivative::Rule(reads) = operator.derivative(wanted) else { return Ok(None) };
    let names = &case.node().output;
    let named = |i: usize| names.get(i).is_some_and(|name| !name.is_empty());
    let double = |i: usize| matches!(outputs[i], Tensor::F64(_)) && named(i);
    let smooth: Vec<usize> = (0..outputs.len()).filter(|&i| double(i)).collect();
    if smooth.is_empty() || !wanted.contains(&true) {
        return Ok(None);
    }
    let keep = |list: Vec<Option<&Tensor>>, read: &dyn Fn(usize) -> bool| -> Vec<Option<Kept>> {
        let one = |(i, value): (usize, Option<&Tensor>)| {
            value.map(|value| Kept::new(value, read(i) || !is_float(value)))
        };
        list.into_iter().enumerate().map(one).collect()
    };
    let inputs = keep(values.iter().map(Option::as_ref).collect(), &|i| reads.input(i));
    let kept = keep(outputs.iter().map(Some).collect(), &|i| reads.output(i));
    // All outputs together, then each of several alone.
    let mut uses = vec![smooth.clone()];
    if smooth.len() > 1 {
        uses.extend(smooth.iter().map(|&i| vec![i]));
    }
    let mut checked = 0;
    for used in uses {
        let weights: Vec<Option<Tensor>> = (0..outputs.len())
            .map(|i| used.contains(&i).then(|| random.tensor(outputs[i].shape(), (0.1, 1.0, true))))
            .collect();
        let mut pass = Backward {
            inputs: &inputs,
            outputs: &kept,
            gradients: weights.clone(),
            wanted,
            so_far: Vec::new(),
        };
        let gradients = operator.backward(&mut pass).map_err(|e| format!("backward: {e}"))?;
        for (index, value) in values.iter().enumerate() {
            let (Some(value), true) = (value, wanted[index]) else { continue };
            let Some(gradient) = gradients.get(index).and_then(Option::as_ref) else {
                return Err(format!("no gradient of input {index}"));
            };
            if (gradient.shape(), gradient.data_type()) != (value.shape(), value.data_type()) {
                let (shape, kind) = (gradient.shape(), gradient.data_type());
                return Err(format!("gradient {index} is {kind:?} {shape:?}"));
            }
            let gradient = gradient.to_f64_vec();
            let largest = gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
            let count = value.len().min(PROBES);
            for probe in 0..count {
                let at = match value.len() <= PROBES {
                    true => probe,
                    false => (random.unit() * value.len() as f64) as usize,
                };
                let step = 1e-5;
                let moved = |by: f64| {
                    let mut elements = value.to_f64_vec();
                    elements[at] += by;
                    let mut values = values.to_vec();
                    values[index] = Some(Tensor::from_vec(value.shape(), elements).unwrap());
                    loss(&operator.run(&mut values).unwrap(), &weights)
                };
                // Errors of the fourth order in the step.
                let slope = (8.0 * (moved(step) - moved(-step))
                    - (moved(2.0 * step) - moved(-2.0 * step)))
                    / (12.0 * step);
                let scale = largest.max(slope.abs()).max(1e-2);
                if (slope - gradient[at]).abs() > 1e-6 * scale || slope.is_nan() {
                    return Err(format!(
                        "input {index} element {at}: {} instead of {slope} (outputs {used:?})",
                        gradient[at]
                    ));
                }
                checked += 1;
            }
        }
    }
    Ok(Some(checked))
}

#[test]
fn rules_agree_with_finite_differences() {
    let mut random = Random(7);
    let mut checked: BTreeMap<String, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for case in cases() {
        let op = case.node().op_type().to_owned();
        let (values, wanted) = operands(&case, &mut random);
        // Once with everything varying, once with the case's constants known beforehand.
        let fixed = case.constants();
        for known in [vec![None; values.len()], fixed.clone()] {
            let constants: Vec<Option<Tensor>> =
                known.iter().zip(&values).map(|(k, v)| k.as_ref().and(v.clone())).collect();
            let wanted: Vec<bool> =
                wanted.iter().zip(&known).map(|(&w, k)| w && k.is_none()).collect();
            let decoding =
                Decoding { node: case.node(), opset: case.opset(), constants: &constants };
            let Some(Ok(operator)) = ops::decode(&decoding) else { continue };
            match check(&case, &*operator, &values, &wanted, &mut random) {
                Ok(count) => {
                    if let Some(count) = count {
                        *checked.entry(op.clone()).or_default() += count;
                    }
                }
                Err(text) => failed.push(format!("{}: {text}", case.name)),
            }
        }
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
    for (op, count) in &checked {
        println!("{op}: {count} elements");
    }
    let untested: Vec<&str> = ops::TABLE
        .iter()
        .filter(|entry| entry.domain.is_empty())
        .map(|entry| entry.op_type)
        .filter(|op| {
            checked.get(*op).copied().unwrap_or(0) == 0
                && !FLAT.contains(op)
                && !STRAIGHT.contains(op)
                && !WITHOUT.iter().any(|(without, _)| without == op)
        })
        .collect();
    assert!(untested.is_empty(), "no rule, or no case for it: {untested:?}");
}

/// Gradients pass by rounding as if it were not there, where it is not beyond the ends of the range.
#[test]
fn gradients_pass_by_rounding() {
    let node = |op: &str| NodeProto { op_type: Some(op.to_owned()), ..NodeProto::default() };
    let f32s = |shape: &[usize], v: Vec<f32>| Tensor::from_vec(shape, v).unwrap();
    let x = f32s(&[2, 3], vec![-0.3, 0.2, 0.6, 9.0, -9.0, 127.4 * 0.05]);
    let scale = f32s(&[2], vec![0.1, 0.05]);
    let zero = Tensor::from_vec(&[2], vec![0i8, 0]).unwrap();
    let mut quantize = node("QuantizeLinear");
    quantize.attribute.push(AttributeProto::from_int("axis", 0));
    let mut dequantize = node("DequantizeLinear");
    dequantize.attribute.push(AttributeProto::from_int("axis", 0));
    let given = f32s(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let back = |node: &NodeProto, input: &Tensor, gradient: Tensor| -> (Tensor, Tensor) {
        let decoding = Decoding { node, opset: 13, constants: &[None, None, None] };
        let operator = ops::decode(&decoding).unwrap().unwrap();
        let inputs = [input, &scale, &zero].map(|t| Some(t.clone())).to_vec();
        let output = operator.run(&mut inputs.clone()).unwrap().remove(0);
        let keep = |t: &Tensor| Some(Kept::new(t, true));
        let inputs: Vec<_> = inputs.iter().flatten().map(keep).collect();
        let mut pass = Backward {
            inputs: &inputs,
            outputs: &[keep(&output)],
            gradients: vec![Some(gradient)],
            wanted: &[true, false, false],
            so_far: Vec::new(),
        };
        (output, operator.backward(&mut pass).unwrap().remove(0).unwrap())
    };
    let (codes, _) = back(&quantize, &x, given.clone());
    let (_, of_codes) = back(&dequantize, &codes, given);
    let (_, of_x) = back(&quantize, &x, of_codes);
    let expected = [1.0, 2.0, 3.0, 0.0, 0.0, 6.0];
    for (found, wanted) in of_x.to_f64_vec().iter().zip(expected) {
        assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
    }
}

/// What the lists say of operators is what the operators say of themselves.
#[test]
fn operators_without_a_rule_are_listed() {
    for case in cases() {
        let op = case.node().op_type();
        let constants = vec![None; case.node().input.len()];
        let decoding = Decoding { node: case.node(), opset: case.opset(), constants: &constants };
        let Some(Ok(operator)) = ops::decode(&decoding) else { continue };
        let derivative = operator.derivative(&vec![true; constants.len()]);
        let listed = (FLAT.contains(&op), WITHOUT.iter().any(|(without, _)| *without == op));
        match derivative {
            Derivative::Zero => assert!(listed.0 || op == "Cast", "{}: no gradient", case.name),
            Derivative::Unknown => {
                let scatters = matches!(op, "ScatterND" | "ScatterElements");
                assert!(listed.1 || scatters, "{}: no rule", case.name);
            }
            Derivative::Rule(_) => assert_eq!(listed, (false, false), "{}: a rule", case.name),
        }
    }
}
