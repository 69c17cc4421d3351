//! Steps of gradient descent.

use serde::{Deserialize, Serialize};

use super::Parameter;

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
    /// Gradient descent with Nesterov momentum (Sutskever et al. 2013).
    Sgd {
        /// Share of the velocity that is kept.
        momentum: f32,
    },
}

impl Method {
    /// Adam with its usual constants.
    pub const ADAM: Self = Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
}

/// A method with what it remembers of earlier steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Optimizer {
    method: Method,
    steps: i32,
    /// For each parameter the mean gradient or velocity, and the mean squared gradient.
    memory: Vec<(Vec<f32>, Vec<f32>)>,
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
        let adam = matches!(self.method, Method::Adam { .. });
        if self.memory.len() != parameters.len() {
            self.memory = parameters
                .iter()
                .map(|p| {
                    (vec![0.0; p.values.len()], vec![0.0; if adam { p.values.len() } else { 0 }])
                })
                .collect();
        }
        let steps = self.steps;
        for ((parameter, gradient), (first, second)) in
            parameters.iter_mut().zip(gradients).zip(&mut self.memory)
        {
            let keep = if parameter.decays { 1.0 - (rate * decay) as f32 } else { 1.0 };
            let values = parameter.values.iter_mut().zip(gradient).zip(first);
            match self.method {
                Method::Adam { beta1, beta2, epsilon } => {
                    let (c1, c2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
                    let rate = rate as f32 / c1;
                    for (((value, &g), m), v) in values.zip(second) {
                        *m += (1.0 - beta1) * (g - *m);
                        *v += (1.0 - beta2) * (g * g - *v);
                        *value = *value * keep - rate * *m / ((*v / c2).sqrt() + epsilon);
                    }
                }
                Method::Sgd { momentum } => {
                    for ((value, &g), velocity) in values {
                        *velocity = momentum * *velocity + g;
                        *value = *value * keep - rate as f32 * (g + momentum * *velocity);
                    }
                }
            }
        }
    }
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
        for method in [Method::ADAM, Method::Sgd { momentum: 0.9 }] {
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

    #[test]
    fn clipping_keeps_the_direction() {
        let mut gradients = vec![vec![3.0], vec![0.0, 4.0]];
        assert!((clip(&mut gradients, 10.0) - 5.0).abs() < 1e-12);
        assert_eq!(gradients, [vec![3.0], vec![0.0, 4.0]]);
        clip(&mut gradients, 1.0);
        assert!((gradients[0][0] - 0.6).abs() < 1e-6 && (gradients[1][1] - 0.8).abs() < 1e-6);
    }
}
