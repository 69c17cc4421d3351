//! Products with an activation, a scale or a transposition.

use super::Speller;
use crate::onnx::{AttributeProto, NodeAttributes};

/// FusedConv: a convolution, a value added to it, an activation.
pub(super) fn conv(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let parameters = s.of.floats("activation_params").unwrap_or(&[]).to_vec();
    let activation = activation(s, &parameters)?;
    let own = ["activation", "activation_params"];
    let mut input = vec![s.input(0)?, s.input(1)?];
    input.extend(s.input(2));
    product(s, "Conv", &input, &own, s.input(3), activation)
}

/// FusedGemm: a Gemm and an activation.
pub(super) fn gemm(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let parameters: Vec<f32> = ["activation_alpha", "activation_beta", "activation_gamma"]
        .iter()
        .map_while(|name| s.of.float(name))
        .collect();
    let activation = activation(s, &parameters)?;
    let own = ["activation", "activation_alpha", "activation_beta", "activation_gamma"];
    let mut input = vec![s.input(0)?, s.input(1)?];
    input.extend(s.input(2));
    product(s, "Gemm", &input, &own, None, activation)
}

/// An activation's operator and attributes.
type Activation = (&'static str, Vec<AttributeProto>);

/// The activation of a fused product; `Some(None)` where it has none.
fn activation(s: &Speller<'_>, parameters: &[f32]) -> Option<Option<Activation>> {
    let attributes = |names: &[&str]| -> Vec<AttributeProto> {
        let pairs = names.iter().zip(parameters);
        pairs.map(|(name, &value)| AttributeProto::from_float(name, value)).collect()
    };
    Some(Some(match s.of.string("activation").unwrap_or("") {
        "" => return Some(None),
        "Relu" => ("Relu", Vec::new()),
        "Tanh" => ("Tanh", Vec::new()),
        "Sigmoid" => ("Sigmoid", Vec::new()),
        "LeakyRelu" => ("LeakyRelu", attributes(&["alpha"])),
        "Elu" => ("Elu", attributes(&["alpha"])),
        "HardSigmoid" => ("HardSigmoid", attributes(&["alpha", "beta"])),
        "HardSwish" if s.opset >= 14 && parameters.is_empty() => ("HardSwish", Vec::new()),
        "Clip" => ("Clip", attributes(&["min", "max"])),
        _ => return None,
    }))
}

/// A product of standard form, `added` and the activation after it.
fn product(
    s: &mut Speller<'_>,
    op: &str,
    input: &[String],
    own: &[&str],
    added: Option<String>,
    activation: Option<Activation>,
) -> Option<()> {
    let attributes = s.of.attribute.iter().filter(|a| !own.contains(&a.name())).cloned().collect();
    let input: Vec<&str> = input.iter().map(String::as_str).collect();
    if added.is_none() && activation.is_none() {
        s.last(op, &input, attributes);
        s.name();
        return Some(());
    }
    let mut value = s.node(op, &input, attributes);
    s.name();
    if let Some(added) = added {
        if activation.is_none() {
            s.last("Add", &[&value, &added], Vec::new());
            return Some(());
        }
        value = s.node("Add", &[&value, &added], Vec::new());
    }
    match activation {
        // Bounds are inputs from operator set 11 on.
        Some(("Clip", bounds)) if s.opset >= 11 => {
            let bounds: Vec<f32> = bounds.iter().map(AttributeProto::f).collect();
            let [low, high] = bounds[..] else { return None };
            let (low, high) = (s.scalar(low), s.scalar(high));
            s.last("Clip", &[&value, &low, &high], Vec::new());
        }
        Some((op, attributes)) => s.last(op, &[&value], attributes),
        None => {}
    }
    Some(())
}

/// FusedMatMul: operands whose last two axes may be swapped, and a scale.
pub(super) fn matmul(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let flag = |name: &str| s.of.int(name).unwrap_or(0) != 0;
    if flag("transBatchA") || flag("transBatchB") {
        return None;
    }
    let (turn_a, turn_b) = (flag("transA"), flag("transB"));
    let mut turned = |position: usize, turn: bool| -> Option<String> {
        let value = s.input(position)?;
        if !turn {
            return Some(value);
        }
        let rank = s.rank(&value)?;
        // A vector has nothing to swap.
        if rank < 2 {
            return Some(value);
        }
        let mut order: Vec<i64> = (0..rank as i64).collect();
        order.swap(rank - 1, rank - 2);
        Some(s.node("Transpose", &[&value], vec![AttributeProto::from_ints("perm", &order)]))
    };
    let (a, b) = (turned(0, turn_a)?, turned(1, turn_b)?);
    let scale = s.of.float("alpha").unwrap_or(1.0);
    if scale == 1.0 {
        s.last("MatMul", &[&a, &b], Vec::new());
        s.name();
        return Some(());
    }
    let product = s.node("MatMul", &[&a, &b], Vec::new());
    s.name();
    let scale = s.scalar(scale);
    s.last("Mul", &[&product, &scale], Vec::new());
    Some(())
}
