//! Einsum, by nested loops over output and summed indices.

use std::collections::BTreeMap;

use super::Decoding;
use super::args::{Decoded, Inputs, bad_type, elements, one, peek};
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
        if inputs.len() != self.inputs.len() {
            let (given, wanted) = (inputs.len(), self.inputs.len());
            return Err(OpError::value(format!("{given} operands for {wanted} terms")));
        }
        let mut operands: Vec<&Array<T>> = Vec::with_capacity(inputs.len());
        for index in 0..inputs.len() {
            operands.push(peek(inputs, index)?.typed("an operand")?);
        }
        let mut extents: BTreeMap<Label, usize> = BTreeMap::new();
        let mut named = Vec::with_capacity(operands.len());
        let mut widest = 0;
        for (term, array) in self.inputs.iter().zip(&operands) {
            let letters = term.iter().flatten().count();
            let hidden = array.ndim().checked_sub(letters);
            let hidden = hidden.filter(|h| *h == 0 || letters < term.len());
            let hidden = hidden.ok_or_else(|| OpError::shape("a term doesn't fit its operand"))?;
            widest = widest.max(hidden);
            let labels = labels(term, hidden);
            for (&label, &extent) in labels.iter().zip(array.shape()) {
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
        let steps: Vec<Vec<usize>> = named
            .iter()
            .zip(&operands)
            .map(|(labels, array)| steps(labels, array.shape(), &order))
            .collect();
        let data: Vec<_> = operands.iter().map(|a| elements(a)).collect();
        let views: Vec<&[T]> = data.iter().map(|d| &**d).collect();
        let result = contract(&views, &steps, &shape, output.len())?;
        Tensor::from_vec(&shape[..output.len()], result)
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

/// Sums the product of the operands over the axes of `shape` from `kept` on.
fn contract<T: Number>(
    operands: &[&[T]],
    steps: &[Vec<usize>],
    shape: &[usize],
    kept: usize,
) -> Result<Vec<T>, OpError> {
    let (outputs, sums) = (count(&shape[..kept])?, count(&shape[kept..])?);
    let mut result = vec![T::ZERO; outputs];
    if outputs == 0 || sums == 0 {
        return Ok(result);
    }
    let mut index = vec![0usize; shape.len()];
    let mut at = vec![0usize; operands.len()];
    for value in &mut result {
        for _ in 0..sums {
            let product = operands.iter().zip(&at).fold(T::ONE, |p, (o, &i)| p.times(o[i]));
            *value = value.plus(product);
            // The next index, innermost fastest.
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at.iter_mut().zip(steps).for_each(|(a, s)| *a += s[axis]);
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
                at.iter_mut().zip(steps).for_each(|(a, s)| *a -= s[axis] * shape[axis]);
            }
        }
    }
    Ok(result)
}

pub(super) fn einsum(d: &Decoding<'_>) -> Decoded {
    let equation = Equation::parse(d.node.string("equation").unwrap_or(""))?;
    one(move |inputs| match peek(inputs, 0)? {
        Tensor::F32(_) => equation.run::<f32>(inputs),
        Tensor::F64(_) => equation.run::<f64>(inputs),
        Tensor::I32(_) => equation.run::<i32>(inputs),
        Tensor::I64(_) => equation.run::<i64>(inputs),
        other => Err(bad_type(other, "an operand of Einsum")),
    })
}
