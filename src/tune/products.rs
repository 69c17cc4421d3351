//! Weight decay of products: of what two neighbouring factors do together, not of each alone
//! (Frobenius decay: Khodak et al. 2021).

use std::collections::{BTreeMap, HashMap};

use super::Parameter;
use crate::error::Result;
use crate::graph::{self, Constant, Links};
use crate::linalg::{Matrix, product};
use crate::onnx::{Model, NodeAttributes, NodeProto};

/// Two weights with nothing but a value of `rank` channels between them, by the parameters they are and
/// the axes of these that the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    first: (usize, usize),
    last: (usize, usize),
    rank: usize,
}

/// The pairs of neighbouring factors among a model's parameters.
#[derive(Clone, Debug)]
pub struct Products {
    pairs: Vec<Pair>,
}

impl Products {
    /// The pairs of `model`: linear layers of which one alone reads what the other yields, without
    /// groups and without an activation between them.
    ///
    /// # Errors
    /// When a constant can't be read.
    pub fn of(model: &Model, parameters: &[Parameter]) -> Result<Self> {
        let graph = model.graph();
        let links = Links::new(graph);
        let constants = graph::constants(model);
        let places: HashMap<&str, usize> =
            parameters.iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
        let linear = |node: &NodeProto| Linear::of(node, &constants);
        let mut pairs = Vec::new();
        for node in &graph.node {
            let Some(first) = linear(node) else { continue };
            let Some(next) = node.output.first().and_then(|o| links.sole_consumer(o)) else {
                continue;
            };
            let Some(last) = linear(&graph.node[next.node]) else { continue };
            let known = places.get(first.weight.as_str()).zip(places.get(last.weight.as_str()));
            let (Some((&a, &b)), true) = (known, next.input == last.data) else { continue };
            let extent = |p: usize, axis: usize| parameters[p].shape.get(axis).copied();
            let rank = extent(a, first.outputs);
            if let (Some(rank), true) = (rank, rank == extent(b, last.inputs) && a != b) {
                pairs.push(Pair { first: (a, first.outputs), last: (b, last.inputs), rank });
            }
        }
        Ok(Self { pairs })
    }

    /// Adds the gradient of `decay` / 2 times the products' squared Frobenius norms, and returns that
    /// value.
    pub fn decay(&self, parameters: &[Parameter], gradients: &mut [Vec<f32>], decay: f64) -> f64 {
        let mut value = 0.0;
        for pair in &self.pairs {
            let first = along(&parameters[pair.first.0], pair.first.1, pair.rank);
            let last = along(&parameters[pair.last.0], pair.last.1, pair.rank);
            // |L F|^2 = tr(L^T L F F^T), whose gradients are 2 L (F F^T) and 2 (L^T L) F.
            let (of_first, of_last) = (gram(&first), gram(&last));
            value += 0.5 * decay * (&of_first * &of_last).sum();
            let slope = product(&of_last, &first) * decay;
            add(&slope, &parameters[pair.first.0], pair.first.1, &mut gradients[pair.first.0]);
            let slope = product(&of_first, &last) * decay;
            add(&slope, &parameters[pair.last.0], pair.last.1, &mut gradients[pair.last.0]);
        }
        value
    }
}

/// A layer's weight, and the axes of it along which its inputs and outputs are.
struct Linear {
    weight: String,
    data: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    fn of(node: &NodeProto, constants: &BTreeMap<String, Constant>) -> Option<Self> {
        if !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        let name = |input: usize| node.input.get(input).filter(|n| constants.contains_key(*n));
        let (data, inputs, outputs) = match node.op_type() {
            "Conv" if node.int("group").unwrap_or(1) == 1 => (0, 1, 0),
            "Gemm" if node.int("transA").unwrap_or(0) != 0 => return None,
            "Gemm" if node.int("transB").unwrap_or(0) != 0 => (0, 1, 0),
            "Gemm" => (0, 0, 1),
            "MatMul" if name(1).is_some() => (0, 0, 1),
            "MatMul" => (1, 1, 0),
            _ => return None,
        };
        Some(Self { weight: name(1 - data)?.clone(), data, inputs, outputs })
    }
}

/// A parameter as the matrix with one of its axes as rows.
fn along(parameter: &Parameter, axis: usize, rank: usize) -> Matrix {
    let inner: usize = parameter.shape[axis + 1..].iter().product();
    let columns = parameter.values.len() / rank.max(1);
    Matrix::from_shape_fn((rank, columns), |(row, column)| {
        let at = (column / inner * rank + row) * inner + column % inner;
        f64::from(parameter.values[at])
    })
}

fn add(slope: &Matrix, parameter: &Parameter, axis: usize, gradient: &mut [f32]) {
    let inner: usize = parameter.shape[axis + 1..].iter().product();
    let rank = slope.nrows();
    for ((row, column), &v) in slope.indexed_iter() {
        gradient[(column / inner * rank + row) * inner + column % inner] += v as f32;
    }
}

fn gram(matrix: &Matrix) -> Matrix {
    product(matrix, &matrix.t().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::tests::random;

    fn parameter(name: &str, shape: &[usize], seed: u64) -> Parameter {
        let count = shape.iter().product();
        let values = random(1, count, seed).iter().map(|&v| v as f32).collect();
        Parameter { name: name.into(), shape: shape.to_vec(), values, decays: true }
    }

    /// Value and gradient against the product itself, for a spatial pair of convolutions: a kernel
    /// column and then a kernel row.
    #[test]
    fn the_decay_is_that_of_the_product() {
        let parameters = [parameter("v", &[2, 3, 3, 1], 1), parameter("u", &[4, 2, 1, 3], 2)];
        let pair = Pair { first: (0, 0), last: (1, 1), rank: 2 };
        let products = Products { pairs: vec![pair] };
        let energy = |p: &[Parameter]| -> f64 {
            let mut sum = 0.0;
            for o in 0..4 {
                for x in 0..3 {
                    for rest in 0..9 {
                        let term = |r: usize| {
                            f64::from(p[1].values[(o * 2 + r) * 3 + x])
                                * f64::from(p[0].values[r * 9 + rest])
                        };
                        sum += (term(0) + term(1)).powi(2);
                    }
                }
            }
            0.5 * sum
        };
        let mut gradients = vec![vec![0.0; 18], vec![0.0; 24]];
        let value = products.decay(&parameters, &mut gradients, 0.3);
        assert!((value - 0.3 * energy(&parameters)).abs() < 1e-9 * value);
        for (which, at) in [(0, 0), (0, 7), (0, 17), (1, 5), (1, 23)] {
            let (mut high, mut low) = (parameters.clone(), parameters.clone());
            high[which].values[at] += 1e-2;
            low[which].values[at] -= 1e-2;
            let step = f64::from(high[which].values[at]) - f64::from(low[which].values[at]);
            let numeric = 0.3 * (energy(&high) - energy(&low)) / step;
            let given = f64::from(gradients[which][at]);
            assert!((given - numeric).abs() < 1e-5 * (1.0 + numeric.abs()), "{given} {numeric}");
        }
    }
}
