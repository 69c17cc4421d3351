//! Normalizations of sums, and of the sums of looked up rows.

use super::Speller;
use crate::onnx::{AttributeProto, NodeAttributes};

/// SkipLayerNormalization: a LayerNormalization of input + skip + bias, and maybe that sum.
pub(super) fn skip_layer(s: &mut Speller<'_>) -> Option<()> {
    let (gamma, beta) = (s.input(2)?, s.input(3));
    let sum = skipped(s, 4)?;
    let epsilon = s.of.float("epsilon").unwrap_or(1e-12);
    let output = s.output(0)?;
    layer(s, &sum, &gamma, beta.as_deref(), epsilon, output)
}

/// SkipSimplifiedLayerNormalization: the same without mean and beta.
pub(super) fn skip_simplified(s: &mut Speller<'_>) -> Option<()> {
    let gamma = s.input(2)?;
    let sum = skipped(s, 3)?;
    let epsilon = s.of.float("epsilon").unwrap_or(1e-12);
    root_mean_square(s, &sum, &gamma, epsilon)
}

/// SimplifiedLayerNormalization over the last axis: x / sqrt(mean x^2 + epsilon) gamma.
pub(super) fn simplified(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let (x, gamma) = (s.input(0)?, s.input(1)?);
    let axis = s.of.int("axis").unwrap_or(-1);
    let last = axis == -1 || s.rank(&x).is_some_and(|rank| axis == rank as i64 - 1);
    if !last || s.output(1).is_some() {
        return None;
    }
    let epsilon = s.of.float("epsilon").unwrap_or(1e-5);
    root_mean_square(s, &x, &gamma, epsilon)
}

/// The sum of the first two inputs and of the bias at position `bias`; it is the fourth output where
/// the node has one. Mean and deviation, the second and the third, are not to be had.
fn skipped(s: &mut Speller<'_>, bias: usize) -> Option<String> {
    s.float()?;
    if s.output(1).is_some() || s.output(2).is_some() {
        return None;
    }
    let (mut sum, skip) = (s.input(0)?, s.input(1)?);
    let mut addends = vec![skip];
    addends.extend(s.input(bias));
    let count = addends.len();
    for (i, addend) in addends.into_iter().enumerate() {
        sum = match s.output(3).filter(|_| i + 1 == count) {
            Some(output) => {
                s.push("Add", &[&sum, &addend], output.clone(), Vec::new());
                output
            }
            None => s.node("Add", &[&sum, &addend], Vec::new()),
        };
    }
    Some(sum)
}

/// A LayerNormalization over the last axis, as `output`: of operator set 17, or of what there was
/// before.
fn layer(
    s: &mut Speller<'_>,
    x: &str,
    gamma: &str,
    beta: Option<&str>,
    epsilon: f32,
    output: String,
) -> Option<()> {
    if s.opset >= 17 {
        let input: Vec<&str> = [x, gamma].into_iter().chain(beta).collect();
        let attributes = vec![
            AttributeProto::from_int("axis", -1),
            AttributeProto::from_float("epsilon", epsilon),
        ];
        s.push("LayerNormalization", &input, output, attributes);
        return Some(());
    }
    let mean = mean(s, x)?;
    let centred = s.node("Sub", &[x, &mean], Vec::new());
    let scaled = divided(s, &centred, epsilon)?;
    match beta {
        Some(beta) => {
            let scaled = s.node("Mul", &[&scaled, gamma], Vec::new());
            s.push("Add", &[&scaled, beta], output, Vec::new());
        }
        None => s.push("Mul", &[&scaled, gamma], output, Vec::new()),
    }
    Some(())
}

fn root_mean_square(s: &mut Speller<'_>, x: &str, gamma: &str, epsilon: f32) -> Option<()> {
    let scaled = divided(s, x, epsilon)?;
    s.last("Mul", &[&scaled, gamma], Vec::new());
    Some(())
}

/// x / sqrt(mean x^2 + epsilon).
fn divided(s: &mut Speller<'_>, x: &str, epsilon: f32) -> Option<String> {
    let square = s.node("Mul", &[x, x], Vec::new());
    let mean = mean(s, &square)?;
    let epsilon = s.scalar(epsilon);
    let sum = s.node("Add", &[&mean, &epsilon], Vec::new());
    let root = s.node("Sqrt", &[&sum], Vec::new());
    Some(s.node("Div", &[x, &root], Vec::new()))
}

/// The mean over the last axis, which stays.
fn mean(s: &mut Speller<'_>, x: &str) -> Option<String> {
    let keep = vec![AttributeProto::from_int("keepdims", 1)];
    s.with_integers(("ReduceMean", x), ("axes", &[-1], 18), keep)
}

/// EmbedLayerNormalization: rows of tables for words, positions and segments, added and normalized.
pub(super) fn embed(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    // The ends of padded sequences, and the place of the sum in older files, are not to be had.
    if s.output(1).is_some() || s.opset < 10 {
        return None;
    }
    let (ids, words, positions) = (s.input(0)?, s.input(2)?, s.input(3)?);
    let (gamma, beta) = (s.input(5)?, s.input(6)?);
    let word = s.node("Gather", &[&words, &ids], Vec::new());
    let position = match s.input(8) {
        Some(places) => s.node("Gather", &[&positions, &places], Vec::new()),
        None => {
            let shape = s.node("Shape", &[&ids], Vec::new());
            let (zero, one, two) = (s.integers(&[0])?, s.integers(&[1])?, s.integers(&[2])?);
            let length = s.node("Slice", &[&shape, &one, &two, &zero], Vec::new());
            s.node("Slice", &[&positions, &zero, &length, &zero], Vec::new())
        }
    };
    let mut sum = s.node("Add", &[&word, &position], Vec::new());
    if let Some(table) = s.input(4) {
        let segments = s.input(1)?;
        let segment = s.node("Gather", &[&table, &segments], Vec::new());
        sum = s.node("Add", &[&sum, &segment], Vec::new());
    }
    if let Some(output) = s.output(2) {
        // The same value under the name of the output.
        s.push("Identity", &[&sum], output, Vec::new());
    }
    let epsilon = s.of.float("epsilon").unwrap_or(1e-12);
    let output = s.output(0)?;
    layer(s, &sum, &gamma, Some(&beta), epsilon, output)
}
