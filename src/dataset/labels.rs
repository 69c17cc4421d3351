//! Class indices that go with samples.

use std::path::Path;

use super::form::{self, Form};
use super::npz::Archive;
use super::preprocess::is_float;
use super::{find, idx};
use crate::error::{Error, Result};
use crate::tensor::{DataType, Tensor};

/// Names under which an archive may hold labels.
pub(super) const NAMES: [&str; 6] = ["labels", "label", "y", "targets", "target", "classes"];
/// Classes beyond this are taken for a mistake.
const MAX_CLASS: i64 = i32::MAX as i64;

/// Labels of all samples, one or several (one per position) for each.
#[derive(Debug, PartialEq)]
pub(super) struct Labels {
    pub values: Vec<i64>,
    pub per_sample: usize,
}

impl Labels {
    /// The labels in `tensor`, whose axis 0 counts `samples`.
    ///
    /// # Errors
    /// When the numbers differ, or a value is no class index. `path` is named in the error.
    pub fn from_tensor(tensor: &Tensor, samples: usize, path: &Path) -> Result<Self> {
        let data = |reason: String| Error::Data { path: path.into(), reason };
        let shape = tensor.shape();
        if shape.first() != Some(&samples) {
            return Err(data(format!(
                "labels have shape {shape:?}, but there are {samples} samples"
            )));
        }
        let integers = match tensor.data_type() {
            float if is_float(float) => {
                tensor.to_f64_vec().into_iter().map(whole).collect::<Result<_, _>>()
            }
            DataType::U64 | DataType::Bool => {
                Ok(tensor.to_f64_vec().into_iter().map(|v| v as i64).collect())
            }
            _ => tensor.to_i64_vec("labels").map_err(|e| e.to_string()),
        };
        let values: Vec<i64> = integers.map_err(data)?;
        let per_sample = values.len() / samples.max(1);
        if let Some(at) = values.iter().position(|v| !(0..=MAX_CLASS).contains(v)) {
            return Err(data(format!(
                "the label of sample {} is {}: labels are class indices from 0",
                at / per_sample.max(1),
                values[at]
            )));
        }
        Ok(Self { values, per_sample })
    }

    /// The labels in a file of their own: `.npy`, IDX, or `.npz` with one array or one named like
    /// labels.
    ///
    /// # Errors
    /// When it can't be read or does not fit `samples`.
    pub fn read(path: &Path, samples: usize) -> Result<Self> {
        let data = |reason: &str| Error::Data { path: path.into(), reason: reason.to_owned() };
        let tensor = match form::of(path)? {
            Form::Npy => find::read_npy(path)?,
            Form::Idx => idx::read(path)?,
            Form::Npz => {
                let mut archive = Archive::open(path)?;
                let by_name = NAMES
                    .iter()
                    .find_map(|name| archive.entries.iter().position(|e| e.key == *name));
                let only = (archive.entries.len() == 1).then_some(0);
                let position =
                    by_name.or(only).ok_or_else(|| data("has no array named `labels`"))?;
                archive.read(position)?
            }
            Form::TestSets | Form::Images => {
                return Err(data("labels are a file: .npy, .npz or IDX"));
            }
        };
        Self::from_tensor(&tensor, samples, path)
    }
}

fn whole(value: f64) -> Result<i64, String> {
    if value.is_finite() && value.fract() == 0.0 {
        Ok(value as i64)
    } else {
        Err(format!(
            "a label is {value}: labels are whole class indices; leave them out to compare with \
             the original model's outputs instead"
        ))
    }
}
