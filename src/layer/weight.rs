//! A layer's weight and bias as matrices.

use super::{Form, Layer, LinearMap};
use crate::error::{Error, Result};
use crate::graph;
use crate::linalg::Matrix;
use crate::onnx::Model;

/// W of every group and the bias, such that the layer yields `W x + bias`.
#[derive(Clone, Debug)]
pub struct Weight {
    /// For each group `[rows, columns]`.
    pub groups: Vec<Matrix>,
    /// `[groups * rows]`; zero where the node has none, or keeps its own apart.
    pub bias: Vec<f64>,
}

impl Layer {
    /// The layer's weight, with the scale factors of Gemm taken in.
    ///
    /// # Errors
    /// When the stored data don't decode, or an element is NaN or infinite.
    pub fn weight(&self, model: &Model) -> Result<Weight> {
        let Some(map) = &self.map else {
            return Err(self.bad("left alone, so it has no matrix"));
        };
        let stored = graph::constant_tensor(model, &self.weight)?
            .ok_or_else(|| self.bad("not a constant"))?;
        let elements = stored.to_f64_vec();
        if elements.iter().any(|v| !v.is_finite()) {
            return Err(self.bad("an element is NaN or infinite"));
        }
        let (rows, columns) = (map.rows, map.columns);
        let matrix = |elements: &[f64], transposed: bool, scale: f64| {
            Matrix::from_shape_fn((rows, columns), |(i, j)| {
                scale * elements[if transposed { j * rows + i } else { i * columns + j }]
            })
        };
        let (transposed, scale) = match &map.form {
            Form::Conv(_) | Form::MatMulLeft => (false, 1.0),
            Form::Gemm { trans_b, alpha, .. } => (!trans_b, f64::from(*alpha)),
            Form::GemmLeft { trans_a, alpha, .. } => (*trans_a, f64::from(*alpha)),
            Form::MatMulRight | Form::ConvTranspose { .. } => (true, 1.0),
        };
        let groups = elements
            .chunks_exact(rows * columns)
            .map(|group| matrix(group, transposed, scale))
            .collect();
        Ok(Weight { groups, bias: self.bias(map, model)? })
    }

    fn bias(&self, map: &LinearMap, model: &Model) -> Result<Vec<f64>> {
        let outputs = map.groups * map.rows;
        let Some(name) = &map.bias else { return Ok(vec![0.0; outputs]) };
        let stored = graph::constant_tensor(model, name)?.ok_or_else(|| self.bad("no bias"))?;
        let scale = match map.form {
            Form::Gemm { beta, .. } => f64::from(beta),
            _ => 1.0,
        };
        let elements = stored.to_f64_vec();
        if elements.iter().any(|v| !v.is_finite()) {
            return Err(self.bad("an element of its bias is NaN or infinite"));
        }
        if elements.len() != outputs && elements.len() != 1 {
            return Err(self.bad("its bias has another length than its output"));
        }
        Ok(elements.iter().cycle().take(outputs).map(|v| scale * v).collect())
    }

    fn bad(&self, reason: &str) -> Error {
        Error::BadTensor { tensor: self.weight.clone(), reason: reason.to_owned() }
    }
}
