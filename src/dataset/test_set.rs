//! ONNX's own test data: folders `test_data_set_K` of `input_I.pb` and `output_I.pb`.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::{InputSpec, form};
use crate::error::{Error, Result};
use crate::onnx::TensorProto;
use crate::tensor::Tensor;

/// All sets of a folder, joined along the batch axis.
#[derive(Debug)]
pub(super) struct TestSets {
    /// One per input of the model, in its order.
    pub inputs: Vec<Tensor>,
    /// One per output of the model; none where the sets don't say, or can't be joined.
    pub outputs: Vec<Tensor>,
    pub sets: usize,
}

/// Reads a test set, or all in a folder.
///
/// # Errors
/// When a file is damaged, or the sets don't have the model's inputs.
pub(super) fn read(path: &Path, specs: &[InputSpec]) -> Result<TestSets> {
    let folders: Vec<PathBuf> = if path.join("input_0.pb").is_file() {
        vec![path.into()]
    } else {
        form::folder(path)?.into_iter().filter(|p| form::is_test_set_name(p)).collect()
    };
    let mut inputs: Vec<Vec<Tensor>> = vec![Vec::new(); specs.len()];
    let mut outputs: Vec<Vec<Tensor>> = Vec::new();
    for folder in &folders {
        let given = tensors(folder, "input")?;
        if given.len() != specs.len() {
            return Err(Error::DataMismatch {
                reason: format!(
                    "`{}` has {} inputs, the model {}",
                    folder.display(),
                    given.len(),
                    specs.len()
                ),
            });
        }
        let named = specs.iter().all(|spec| given.iter().any(|(name, _)| *name == spec.name));
        for (position, (spec, input)) in specs.iter().zip(&mut inputs).enumerate() {
            let by_name = given.iter().position(|(name, _)| named && *name == spec.name);
            let (_, tensor) = &given[by_name.unwrap_or(position)];
            input.push(tensor.clone());
        }
        for (position, (_, tensor)) in tensors(folder, "output")?.into_iter().enumerate() {
            if outputs.len() <= position {
                outputs.push(Vec::new());
            }
            outputs[position].push(tensor);
        }
    }
    let inputs = inputs
        .iter()
        .zip(specs)
        .map(|(parts, spec)| {
            Tensor::concat_batch(parts).map_err(|e| Error::DataMismatch {
                reason: format!("the test sets can't be joined at input `{}`: {e}", spec.name),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let samples = inputs.first().and_then(|t| t.shape().first().copied()).unwrap_or(0);
    let joined: Option<Vec<Tensor>> = outputs
        .iter()
        .map(|parts| Tensor::concat_batch(parts).ok())
        .map(|joined| joined.filter(|t| t.shape().first() == Some(&samples)))
        .collect();
    if joined.is_none() {
        log::warn!("`{}`: expected outputs have no batch axis, ignored", path.display());
    }
    Ok(TestSets { inputs, outputs: joined.unwrap_or_default(), sets: folders.len() })
}

/// `KIND_0.pb`, `KIND_1.pb` and so on, with the names inside.
fn tensors(folder: &Path, kind: &str) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    loop {
        let path = folder.join(format!("{kind}_{}.pb", tensors.len()));
        if !path.is_file() {
            return Ok(tensors);
        }
        let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let data = |reason: String| Error::Data { path: path.clone(), reason };
        let proto = TensorProto::decode(bytes.as_slice())
            .map_err(|e| data(format!("is not a tensor: {e}")))?;
        let tensor = proto.to_tensor().map_err(|e| data(e.to_string()))?;
        tensors.push((proto.name.unwrap_or_default(), tensor));
    }
}
