//! Einsum, by nested loops over output and summed indices.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Decoding;
use super::args::{Decoded, Inputs, bad_type, elements, floats, one, peek};
use super::backward::{Gradients, Reads, rule};
use super::layout::{count, strides};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Tensor};

/// An index of the equation: a letter, or an axis that an ellipsis stands for, counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// One side's term: letters, with the ellipsis as `None`.
type Term = Vec<Option<char>>;

fn term(text: &str) -> Result<Term, OpError> {
    let bad = || OpError::Attribute { name: "equation", reason: format!("can't read `{text}`") };
    let mut letters = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            letters.push(None);
            rest = after;
        } else if c.is_ascii_alphabetic() {
            letters.push(Some(c));
            rest = &rest[1..];
        } else {
            return Err(bad());
        }
    }
    if letters.iter().filter(|l| l.is_none()).count() > 1 {
        return Err(bad());
    }
    Ok(letters)
}

/// The labels of a term whose ellipsis stands for `hidden` axes.
fn labels(term: &Term, hidden: usize) -> Vec<Label> {
    let mut result = Vec::new();
    for letter in term {
        match letter {
            Some(letter) => result.push(Label::Letter(*letter)),
            None => result.extend((0..hidden).rev().map(Label::Ellipsis)),
        }
    }
    result
}

struct Equation {
    inputs: Vec<Term>,
    output: Option<Term>,
}

impl Equation {
    fn parse(text: &str) -> Result<Self, OpError> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match compact.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (compact.as_str(), None),
        };
        let inputs = left.split(',').map(term).collect::<Result<_, _>>()?;
        Ok(Self { inputs, output: right.map(term).transpose()? })
    }

    fn run<T: Number>(&self, inputs: &Inputs) -> Result<Tensor, OpError> {
        let mut operands: Vec<&Array<T>> = Vec::with_capacity(inputs.len());
        for index in 0..inputs.len() {
            operands.push(peek(inputs, index)?.typed("an operand")?);
        }
        let loops = self.loops(&operands.iter().map(|a| a.shape()).collect::<Vec<_>>())?;
        let data: Vec<_> = operands.iter().map(|a| elements(a)).collect();
        let views: Vec<&[T]> = data.iter().map(|d| &**d).collect();
        let result = contract(&views, &loops)?;
        Tensor::from_vec(&loops.shape[..loops.kept], result)
    }

    /// The gradients of the `wanted` operands from the result's.
    fn backward<T: Number>(&self, inputs: &Inputs, g: &Array<T>, wanted: &[bool]) -> Gradients {
        let mut operands: Vec<&Array<T>> = Vec::with_capacity(inputs.len());
        for index in 0..inputs.len() {
            operands.push(peek(inputs, index)?.typed("an operand")?);
        }
        let loops = self.loops(&operands.iter().map(|a| a.shape()).collect::<Vec<_>>())?;
        let data: Vec<_> = operands.iter().map(|a| elements(a)).collect();
        let mut result = Vec::with_capacity(operands.len());
        for (own, operand) in operands.iter().enumerate() {
            if !wanted[own] {
                result.push(None);
                continue;
            }
            // Its gradient is the sum of the result's, times the other operands.
            let mut sums = vec![T::ZERO; operand.len()];
            let g = elements(g);
            loops.visit(|at, output| {
                let others = data.iter().zip(at).enumerate().filter(|(i, _)| *i != own);
                let product = others.fold(g[output], |p, (_, (o, &at))| p.times(o[at]));
                sums[at[own]] = sums[at[own]].plus(product);
            });
            result.push(Some(Tensor::from_vec(operand.shape(), sums)?));
        }
        Ok(result)
    }

    /// The loops over operands of these shapes.
    fn loops(&self, operands: &[&[usize]]) -> Result<Loops, OpError> {
        if operands.len() != self.inputs.len() {
            let (given, wanted) = (operands.len(), self.inputs.len());
            return Err(OpError::value(format!("{given} operands for {wanted} terms")));
        }
        let mut extents: BTreeMap<Label, usize> = BTreeMap::new();
        let mut named = Vec::with_capacity(operands.len());
        let mut widest = 0;
        for (term, operand) in self.inputs.iter().zip(operands) {
            let letters = term.iter().flatten().count();
            let hidden = operand.len().checked_sub(letters);
            let hidden = hidden.filter(|h| *h == 0 || letters < term.len());
            let hidden = hidden.ok_or_else(|| OpError::shape("a term doesn't fit its operand"))?;
            widest = widest.max(hidden);
            let labels = labels(term, hidden);
            for (&label, &extent) in labels.iter().zip(operand.iter()) {
                let known = extents.entry(label).or_insert(extent);
                if *known == 1 {
                    *known = extent;
                } else if extent != 1 && extent != *known {
                    return Err(OpError::shape(format!("{label:?} is both {known} and {extent}")));
                }
            }
            named.push(labels);
        }
        let output = match &self.output {
            Some(term) => labels(term, widest),
            None => {
                let times = |l: &Label| named.iter().flatten().filter(|n| *n == l).count();
                let lone = |l: &&Label| matches!(l, Label::Letter(_)) && times(l) == 1;
                let letters = extents.keys().filter(lone).copied();
                (0..widest).rev().map(Label::Ellipsis).chain(letters).collect()
            }
        };
        let summed: Vec<Label> = extents.keys().filter(|l| !output.contains(l)).copied().collect();
        let order: Vec<Label> = output.iter().chain(&summed).copied().collect();
        let mut shape = Vec::with_capacity(order.len());
        for label in &order {
            let extent = extents.get(label).copied();
            shape.push(extent.ok_or_else(|| OpError::value(format!("{label:?} is not given")))?);
        }
        let steps = named
            .iter()
            .zip(operands)
            .map(|(labels, shape)| steps(labels, shape, &order))
            .collect();
        Ok(Loops { steps, shape, kept: output.len() })
    }
}

/// Nested loops over the result's labels, then over those that are summed.
struct Loops {
    /// Per operand, its stride along each loop.
    steps: Vec<Vec<usize>>,
    /// Extents of the loops.
    shape: Vec<usize>,
    /// How many of the loops are over the result.
    kept: usize,
}

impl Loops {
    /// Calls `visit` with the offsets in the operands and in the result.
    fn visit(&self, mut visit: impl FnMut(&[usize], usize)) {
        let sums: usize = self.shape[self.kept..].iter().product();
        let total = sums * self.shape[..self.kept].iter().product::<usize>();
        let mut index = vec![0usize; self.shape.len()];
        let mut at = vec![0usize; self.steps.len()];
        for step in 0..total {
            visit(&at, step / sums);
            // The next index, innermost fastest.
            for axis in (0..self.shape.len()).rev() {
                index[axis] += 1;
                at.iter_mut().zip(&self.steps).for_each(|(a, s)| *a += s[axis]);
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
                at.iter_mut().zip(&self.steps).for_each(|(a, s)| *a -= s[axis] * self.shape[axis]);
            }
        }
    }
}

/// Stride of an operand along each of the labels `order`; a repeated label walks a diagonal, an
/// extent of 1 is repeated.
fn steps(labels: &[Label], shape: &[usize], order: &[Label]) -> Vec<usize> {
    let own = strides(shape);
    order
        .iter()
        .map(|wanted| {
            let places = labels.iter().enumerate().filter(|(_, l)| *l == wanted);
            places.map(|(i, _)| if shape[i] == 1 { 0 } else { own[i] }).sum()
        })
        .collect()
}

/// Sums the product of the operands.
fn contract<T: Number>(operands: &[&[T]], loops: &Loops) -> Result<Vec<T>, OpError> {
    let outputs = count(&loops.shape[..loops.kept])?;
    count(&loops.shape)?;
    let mut result = vec![T::ZERO; outputs];
    loops.visit(|at, output| {
        let product = operands.iter().zip(at).fold(T::ONE, |p, (o, &i)| p.times(o[i]));
        result[output] = result[output].plus(product);
    });
    Ok(result)
}

pub(super) fn einsum(d: &Decoding<'_>) -> Decoded {
    let equation = Arc::new(Equation::parse(d.node.string("equation").unwrap_or(""))?);
    let same = Arc::clone(&equation);
    let run = one(move |inputs| match peek(inputs, 0)? {
        Tensor::F32(_) => equation.run::<f32>(inputs),
        Tensor::F64(_) => equation.run::<f64>(inputs),
        Tensor::I32(_) => equation.run::<i32>(inputs),
        Tensor::I64(_) => equation.run::<i64>(inputs),
        other => Err(bad_type(other, "an operand of Einsum")),
    });
    rule(run, Reads::INPUTS, move |pass| {
        let values = pass.values();
        floats!(pass.gradient(0)?, "a gradient", g => same.backward::<T>(&values, &g, pass.wanted))
    })
}
