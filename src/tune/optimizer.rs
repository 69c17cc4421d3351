//! Steps of gradient descent.

use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Parameter;
use crate::elements::Elements;

/// How gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Method {
    /// Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019).
    Adam {
        /// Share of the mean gradient that is kept.
        beta1: f32,
        /// Share of the mean squared gradient that is kept.
        beta2: f32,
        /// Added to the root of the mean squared gradient.
        epsilon: f32,
    },
    /// Momentum made orthogonal for weights that are matrices (Muon: Jordan et al. 2024), of the size of
    /// Adam's steps (Liu et al. 2025, section 2.2); Adam for all others.
    Muon {
        /// Share of the velocity that is kept.
        momentum: f32,
        /// As Adam's.
        beta1: f32,
        /// As Adam's.
        beta2: f32,
        /// As Adam's.
        epsilon: f32,
    },
    /// Gradient descent with Nesterov momentum (Sutskever et al. 2013).
    Sgd {
        /// Share of the velocity that is kept.
        momentum: f32,
    },
}

impl Method {
    /// Adam with its usual constants.
    pub const ADAM: Self = Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    /// Muon with its usual constants.
    pub const MUON: Self = Self::Muon { momentum: 0.95, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
}

/// A method with what it remembers of earlier steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    method: Method,
    steps: i32,
    /// For each parameter the mean gradient or velocity, and the mean squared gradient.
    memory: Vec<(Elements, Elements)>,
}

impl Optimizer {
    /// An optimizer that has made no step yet.
    #[must_use]
    pub fn new(method: Method) -> Self {
        Self { method, steps: 0, memory: Vec::new() }
    }

    /// Moves `parameters` against `gradients`, one for each of them and of its length.
    /// `decay` shrinks those parameters that are to be decayed by `rate * decay` of their size.
    pub fn step(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &[Vec<f32>],
        rate: f64,
        decay: f64,
    ) {
        self.steps = self.steps.saturating_add(1);
        if self.memory.len() != parameters.len() {
            let zeros = |length| Elements(vec![0.0; length]);
            let adaptive = |p: &Parameter| match self.method {
                Method::Adam { .. } => true,
                Method::Muon { .. } => matrix(&p.shape).is_none(),
                Method::Sgd { .. } => false,
            };
            let memory = |p: &Parameter| {
                let length = p.values.len();
                (zeros(length), zeros(if adaptive(p) { length } else { 0 }))
            };
            self.memory = parameters.iter().map(memory).collect();
        }
        let (steps, method) = (self.steps, self.method);
        parameters.par_iter_mut().zip(gradients).zip(&mut self.memory).for_each(
            |((parameter, gradient), (first, second))| {
                let keep = if parameter.decays { 1.0 - (rate * decay) as f32 } else { 1.0 };
                let shape = matrix(&parameter.shape);
                let values = parameter.values.iter_mut().zip(gradient).zip(&mut first.0);
                match (method, shape) {
                    (Method::Muon { momentum, .. }, Some((rows, columns))) => {
                        let mut step: Vec<f32> = gradient.clone();
                        for (step, velocity) in step.iter_mut().zip(&mut first.0) {
                            *velocity = momentum * *velocity + *step;
                            *step += momentum * *velocity;
                        }
                        let step = orthogonal(step, rows, columns);
                        let size = 0.2 * (rows.max(columns) as f32).sqrt() * rate as f32;
                        for (value, step) in parameter.values.iter_mut().zip(&step) {
                            *value = *value * keep - size * step;
                        }
                    }
                    (
                        Method::Adam { beta1, beta2, epsilon }
                        | Method::Muon { beta1, beta2, epsilon, .. },
                        _,
                    ) => {
                        let (c1, c2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
                        let rate = rate as f32 / c1;
                        for (((value, &g), m), v) in values.zip(&mut second.0) {
                            *m += (1.0 - beta1) * (g - *m);
                            *v += (1.0 - beta2) * (g * g - *v);
                            *value = *value * keep - rate * *m / ((*v / c2).sqrt() + epsilon);
                        }
                    }
                    (Method::Sgd { momentum }, _) => {
                        for ((value, &g), velocity) in values {
                            *velocity = momentum * *velocity + g;
                            *value = *value * keep - rate as f32 * (g + momentum * *velocity);
                        }
                    }
                }
            },
        );
    }
}

/// Rows and columns of a weight that maps several inputs to several outputs: outputs first.
fn matrix(shape: &[usize]) -> Option<(usize, usize)> {
    match shape {
        [rows, inputs, kernel @ ..] if *rows > 1 && *inputs > 1 => {
            Some((*rows, inputs * kernel.iter().product::<usize>()))
        }
        _ => None,
    }
}

/// Near the closest matrix whose singular values are all one, by five Newton-Schulz steps (Jordan et
/// al. 2024, with their coefficients): between 0.7 and 1.2.
fn orthogonal(elements: Vec<f32>, rows: usize, columns: usize) -> Vec<f32> {
    let norm = elements.iter().map(|v| v * v).sum::<f32>().sqrt();
    let Ok(x) = Array2::from_shape_vec((rows, columns), elements) else { return Vec::new() };
    let turned = rows > columns;
    let mut x = if turned { x.t().as_standard_layout().into_owned() } else { x };
    x /= norm.max(f32::MIN_POSITIVE);
    for _ in 0..5 {
        let square = x.dot(&x.t());
        let inner = &square * -4.7750 + square.dot(&square) * 2.0315;
        x = &x * 3.4445 + inner.dot(&x);
    }
    if turned { x.t().iter().copied().collect() } else { x.iter().copied().collect() }
}

/// Scales gradients so that their common norm is at most `limit`; returns the norm they had.
pub fn clip(gradients: &mut [Vec<f32>], limit: f64) -> f64 {
    let square = |g: &Vec<f32>| g.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    let norm = gradients.iter().map(square).sum::<f64>().sqrt();
    if norm > limit {
        let scale = (limit / norm) as f32;
        gradients.iter_mut().flatten().for_each(|v| *v *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(values: &[f32]) -> Parameter {
        Parameter {
            name: "w".into(),
            shape: vec![values.len()],
            values: values.to_vec(),
            decays: true,
        }
    }

    /// Both methods against their recurrences, worked out by hand for two steps.
    #[test]
    fn steps_follow_the_published_recurrences() {
        let mut w = [parameter(&[1.0])];
        let mut adam = Optimizer::new(Method::ADAM);
        adam.step(&mut w, &[vec![0.5]], 0.1, 0.0);
        assert!((w[0].values[0] - 0.9).abs() < 1e-6, "the first step of Adam has the rate's size");
        adam.step(&mut w, &[vec![-0.5]], 0.1, 0.0);
        // m = 0.9 * 0.05 - 0.05 = -0.005, m / (1 - 0.81) = -0.0263; v / (1 - 0.998001) = 0.25.
        assert!((w[0].values[0] - (0.9 + 0.1 * 0.026_315_8 / 0.5)).abs() < 1e-5);

        let mut w = [parameter(&[1.0])];
        let mut sgd = Optimizer::new(Method::Sgd { momentum: 0.9 });
        sgd.step(&mut w, &[vec![1.0]], 0.1, 0.5);
        assert!((w[0].values[0] - (0.95 - 0.19)).abs() < 1e-6);
        sgd.step(&mut w, &[vec![1.0]], 0.1, 0.0);
        assert!((w[0].values[0] - (0.76 - 0.1 * (1.0 + 0.9 * 1.9))).abs() < 1e-6);
    }

    #[test]
    fn both_methods_find_the_minimum_of_a_bowl() {
        for method in [Method::ADAM, Method::MUON, Method::Sgd { momentum: 0.9 }] {
            let mut w = [parameter(&[3.0, -2.0])];
            let mut optimizer = Optimizer::new(method);
            for step in 0..600 {
                let g = vec![2.0 * (w[0].values[0] - 1.0), 20.0 * (w[0].values[1] + 1.0)];
                optimizer.step(&mut w, &[g], 0.02 * (1.0 - f64::from(step) / 600.0), 0.0);
            }
            assert!((w[0].values[0] - 1.0).abs() < 1e-2, "{method:?} {:?}", w[0].values);
            assert!((w[0].values[1] + 1.0).abs() < 1e-2, "{method:?} {:?}", w[0].values);
        }
    }

    /// Muon's step on a matrix has the direction of the polar factor, by nalgebra's SVD, and the size of
    /// Adam's.
    #[test]
    fn muon_steps_along_the_polar_factor() {
        for (rows, columns) in [(4, 7), (7, 4)] {
            let gradient: Vec<f32> = (0..28).map(|i| ((i * 37 % 23) as f32 - 11.0) / 9.0).collect();
            let mut w = [Parameter {
                name: "w".into(),
                shape: vec![rows, columns],
                values: vec![0.0; 28],
                decays: true,
            }];
            Optimizer::new(Method::MUON).step(&mut w, std::slice::from_ref(&gradient), 1.0, 0.0);
            let g = nalgebra::DMatrix::from_row_slice(rows, columns, &gradient);
            let svd = g.svd(true, true);
            let polar = svd.u.unwrap() * svd.v_t.unwrap();
            let step = nalgebra::DMatrix::from_row_slice(rows, columns, &w[0].values);
            let cosine = -step.dot(&polar) / (step.norm() * polar.norm());
            assert!(cosine > 0.97, "{cosine}");
            let rms = step.norm() / 28f32.sqrt();
            assert!((0.14..0.26).contains(&rms), "{rms}");
        }
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let mut gradients = vec![vec![3.0], vec![0.0, 4.0]];
        assert!((clip(&mut gradients, 10.0) - 5.0).abs() < 1e-12);
        assert_eq!(gradients, [vec![3.0], vec![0.0, 4.0]]);
        clip(&mut gradients, 1.0);
        assert!((gradients[0][0] - 0.6).abs() < 1e-6 && (gradients[1][1] - 0.8).abs() < 1e-6);
    }
}
