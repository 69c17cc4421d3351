//! Attention: a fused projection to queries, keys and values, and what follows from these.

use super::Speller;
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{AttributeProto, NodeAttributes};

/// Attention: queries, keys and values by one weight `[inputs, 3 * hidden]`, without a past.
pub(super) fn packed(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    if (4..=6).any(|i| i != 5 && s.input(i).is_some())
        || s.output(1).is_some()
        || s.of.int("do_rotary").unwrap_or(0) != 0
    {
        return None;
    }
    let (x, weight) = (s.input(0)?, s.input(1)?);
    let width = s.extents(&weight)?.get(1).copied()??;
    let sizes = match s.of.ints("qkv_hidden_sizes") {
        None | Some([]) if width % 3 == 0 => vec![width / 3; 3],
        Some(sizes) if sizes.len() == 3 && sizes.iter().sum::<i64>() == width => sizes.to_vec(),
        _ => return None,
    };
    let mut value = s.node("MatMul", &[&x, &weight], Vec::new());
    s.name();
    if let Some(bias) = s.input(2) {
        value = s.node("Add", &[&value, &bias], Vec::new());
    }
    let parts = split(s, &value, &sizes)?;
    let mask = mask(s, 3)?;
    let added = s.input(5);
    attend(s, [&parts[0], &parts[1], &parts[2]], &x, [mask, added])
}

/// MultiHeadAttention over queries, keys and values apart, without a past.
pub(super) fn multi_head(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    if s.of.input.iter().skip(6).chain(s.of.output.iter().skip(1)).any(|name| !name.is_empty()) {
        return None;
    }
    let mut parts = [s.input(0)?, s.input(1)?, s.input(2)?];
    if parts.iter().any(|part| s.rank(part) != Some(3)) {
        return None;
    }
    let queries = parts[0].clone();
    if let Some(bias) = s.input(3) {
        let width = s.extents(&bias)?.first().copied()??;
        let hidden = s.extents(&queries)?.last().copied()??;
        let slice = |s: &mut Speller<'_>, from: i64, to: i64| -> Option<String> {
            let (from, to, axis) = (s.integers(&[from])?, s.integers(&[to])?, s.integers(&[0])?);
            Some(s.node("Slice", &[&bias, &from, &to, &axis], Vec::new()))
        };
        let bounds = [0, hidden, 2 * hidden, width];
        for (part, bounds) in parts.iter_mut().zip(bounds.windows(2)) {
            let bias = slice(s, bounds[0], bounds[1])?;
            *part = s.node("Add", &[part, &bias], Vec::new());
        }
    }
    let mask = mask(s, 4)?;
    let added = s.input(5);
    attend(s, [&parts[0], &parts[1], &parts[2]], &queries, [mask, added])
}

/// The parts of the last axis of a value of three axes.
fn split(s: &mut Speller<'_>, value: &str, sizes: &[i64]) -> Option<Vec<String>> {
    let outputs: Vec<String> =
        (0..sizes.len()).map(|i| s.names.fresh(&format!("{}/part{i}", s.of.label()))).collect();
    let mut attributes = vec![AttributeProto::from_int("axis", 2)];
    let sizes = if s.opset >= 13 {
        Some(s.integers(sizes)?)
    } else {
        attributes.push(AttributeProto::from_ints("split", sizes));
        None
    };
    let input: Vec<&str> = [value].into_iter().chain(sizes.as_deref()).collect();
    s.push("Split", &input, String::new(), attributes);
    if let Some(node) = s.nodes.last_mut() {
        node.output.clone_from(&outputs);
    }
    Some(outputs)
}

/// What a mask of tokens, 1 for those that count, adds to scores `[batch, heads, queries, keys]`;
/// `Some(None)` where the node has none.
fn mask(s: &mut Speller<'_>, position: usize) -> Option<Option<String>> {
    let Some(mask) = s.input(position) else { return Some(None) };
    let axes: &[i64] = match s.rank(&mask)? {
        2 => &[1, 2],
        3 => &[1],
        _ => return None,
    };
    let filter = s.of.float("mask_filter_value").unwrap_or(-10000.0);
    let to = AttributeProto::from_int("to", Code::Bool as i64);
    let counts = s.node("Cast", &[&mask], vec![to]);
    let (zero, filter) = (s.scalar(0.0), s.scalar(filter));
    let added = s.node("Where", &[&counts, &zero, &filter], Vec::new());
    Some(Some(s.with_integers(("Unsqueeze", &added), ("axes", axes, 13), Vec::new())?))
}

/// Softmax(scale q k^T + added) v of every head; `like` has as many tokens as there are queries.
fn attend(
    s: &mut Speller<'_>,
    parts: [&str; 3],
    like: &str,
    added: [Option<String>; 2],
) -> Option<()> {
    let heads = s.of.int("num_heads").filter(|&heads| heads > 0)?;
    let causal = s.of.int("unidirectional").unwrap_or(0) != 0;
    if s.opset < if causal { 14 } else { 9 } {
        return None;
    }
    let split = s.integers(&[0, 0, heads, -1])?;
    let [q, k, v] = [(parts[0], [0, 2, 1, 3]), (parts[1], [0, 2, 3, 1]), (parts[2], [0, 2, 1, 3])]
        .map(|(part, order)| {
            let apart = s.node("Reshape", &[part, &split], Vec::new());
            s.node("Transpose", &[&apart], vec![AttributeProto::from_ints("perm", &order)])
        });
    let mut scores = s.node("MatMul", &[&q, &k], Vec::new());
    let scale = match s.of.float("scale").filter(|&scale| scale != 0.0) {
        Some(scale) => s.scalar(scale),
        None => {
            // 1 / sqrt of a head's width, which the reshaped queries have.
            let shape = s.node("Shape", &[&q], Vec::new());
            let (from, to, zero) = (s.integers(&[3])?, s.integers(&[4])?, s.integers(&[0])?);
            let width = s.node("Slice", &[&shape, &from, &to, &zero], Vec::new());
            let to = AttributeProto::from_int("to", Code::Float as i64);
            let width = s.node("Cast", &[&width], vec![to]);
            let root = s.node("Sqrt", &[&width], Vec::new());
            s.node("Reciprocal", &[&root], Vec::new())
        }
    };
    scores = s.node("Mul", &[&scores, &scale], Vec::new());
    let causal = if causal { Some(later(s, like)?) } else { None };
    for added in added.into_iter().flatten().chain(causal) {
        scores = s.node("Add", &[&scores, &added], Vec::new());
    }
    let weights = s.node("Softmax", &[&scores], vec![AttributeProto::from_int("axis", 3)]);
    let mixed = s.node("MatMul", &[&weights, &v], Vec::new());
    let order = AttributeProto::from_ints("perm", &[0, 2, 1, 3]);
    let mixed = s.node("Transpose", &[&mixed], vec![order]);
    let joined = s.integers(&[0, 0, -1])?;
    s.last("Reshape", &[&mixed, &joined], Vec::new());
    Some(())
}

/// A square of the most negative number above the diagonal and zeros elsewhere, as large as `like` has
/// tokens.
fn later(s: &mut Speller<'_>, like: &str) -> Option<String> {
    let shape = s.node("Shape", &[like], Vec::new());
    let (zero, one, two) = (s.integers(&[0])?, s.integers(&[1])?, s.integers(&[2])?);
    let tokens = s.node("Slice", &[&shape, &one, &two, &zero], Vec::new());
    let square = s.node("Concat", &[&tokens, &tokens], vec![AttributeProto::from_int("axis", 0)]);
    let lowest = s.scalar(f32::MIN);
    let full = s.node("Expand", &[&lowest, &square], Vec::new());
    let above = s.constant("above", &crate::tensor::Tensor::scalar(1i64));
    Some(s.node("Trilu", &[&full, &above], vec![AttributeProto::from_int("upper", 1)]))
}
