//! A layer's weight and bias as matrices.

use super::{Form, Layer, LinearMap};
use crate::error::{Error, Result};
use crate::graph;
use crate::linalg::Matrix;
use crate::onnx::Model;
use crate::tensor::{Array, Element, Tensor};

/// W of every group and the bias, such that the layer yields `W x + bias`.
#[derive(Clone, Debug)]
pub struct Weight {
    /// For each group `[rows, columns]`.
    pub groups: Vec<Matrix>,
    /// `[groups * rows]`; zero where the node has none, or keeps its own apart.
    pub bias: Vec<f64>,
}

impl Form {
    /// Whether a matrix is stored as `[columns, rows]`, and what its elements are scaled by; none for
    /// kernels.
    fn stored(&self) -> Option<(bool, f64)> {
        match self {
            Self::Conv(_) => None,
            Self::MatMulLeft => Some((false, 1.0)),
            Self::Gemm { trans_b, alpha, .. } => Some((!trans_b, f64::from(*alpha))),
            Self::GemmLeft { trans_a, alpha, .. } => Some((*trans_a, f64::from(*alpha))),
            Self::MatMulRight | Self::ConvTranspose { .. } | Self::Table => Some((true, 1.0)),
        }
    }
}

/// W of a layer of one group, read by parts: nothing but the elements as they are stored is held.
#[derive(Clone, Debug)]
pub struct LongSide {
    stored: Tensor,
    scale: f64,
    /// Rows of W are on its shorter side: outputs are no more than inputs.
    pub short_rows: bool,
    /// Whether the stored rows are the longer side.
    by_rows: bool,
    /// Extents of the longer and of the shorter side.
    pub extents: (usize, usize),
    /// `[rows]`; zero where the node has none, or keeps its own apart.
    pub bias: Vec<f64>,
    weight: String,
}

impl LongSide {
    /// Part of W, `[part, shorter side]`: some of its rows, or columns, whichever are more.
    ///
    /// # Errors
    /// When an element is NaN or infinite, or the weight is not stored as floats.
    pub fn part(&self, range: std::ops::Range<usize>) -> Result<Matrix> {
        let bad = |reason: &str| Error::BadTensor {
            tensor: self.weight.clone(),
            reason: reason.to_owned(),
        };
        let part = match &self.stored {
            Tensor::F32(a) => self.read(a, range),
            Tensor::F64(a) => self.read(a, range),
            Tensor::F16(a) => self.read(a, range),
            Tensor::BF16(a) => self.read(a, range),
            _ => None,
        };
        let part = part.ok_or_else(|| bad("not stored as floats"))?;
        if part.iter().any(|v| !v.is_finite()) {
            return Err(bad("an element is NaN or infinite"));
        }
        Ok(part)
    }

    fn read<T: Element + Into<f64>>(
        &self,
        stored: &Array<T>,
        range: std::ops::Range<usize>,
    ) -> Option<Matrix> {
        let (elements, (long, short)) = (stored.as_slice()?, self.extents);
        Some(Matrix::from_shape_fn((range.len(), short), |(i, j)| {
            let i = range.start + i;
            let place = if self.by_rows { i * short + j } else { j * long + i };
            self.scale * elements[place].into()
        }))
    }
}

impl Layer {
    /// The layer's weight, to be read by parts of its longer side; none where it is a kernel or of several
    /// groups.
    ///
    /// # Errors
    /// When the stored data don't decode.
    pub fn long_side(&self, model: &Model) -> Result<Option<LongSide>> {
        let Some(map) = self.map.as_ref().filter(|map| map.groups == 1) else { return Ok(None) };
        let Some((transposed, scale)) = map.form.stored() else { return Ok(None) };
        let stored = graph::constant_tensor(model, &self.weight)?
            .ok_or_else(|| self.bad("not a constant"))?;
        let short_rows = map.rows <= map.columns;
        let extents = (map.rows.max(map.columns), map.rows.min(map.columns));
        Ok(Some(LongSide {
            stored,
            scale,
            short_rows,
            by_rows: short_rows == transposed,
            extents,
            bias: self.bias(map, model)?,
            weight: self.weight.clone(),
        }))
    }

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
        let (transposed, scale) = map.form.stored().unwrap_or((false, 1.0));
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
