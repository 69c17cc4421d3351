mod arrays;
mod held;
mod hostile;
mod images;

use std::path::{Path, PathBuf};

use super::{Dataset, InputSpec, Preprocess};
use crate::error::{Error, Result};
use crate::tensor::{DataType, Tensor};

/// A file of `tests/data`, which `make.py` there writes.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn spec(name: &str, data_type: DataType, dims: &[usize]) -> InputSpec {
    let dims = dims.iter().map(|&d| (d > 0).then_some(d));
    InputSpec {
        name: name.to_owned(),
        data_type,
        shape: std::iter::once(None).chain(dims).collect(),
    }
}

/// An input `x` of `f32`, with 0 for an open dim.
fn floats(dims: &[usize]) -> Vec<InputSpec> {
    vec![spec("x", DataType::F32, dims)]
}

fn open(path: &Path, inputs: &[InputSpec]) -> Result<Dataset> {
    Dataset::open(path, inputs, None, &Preprocess::default())
}

fn all(data: &Dataset) -> Tensor {
    data.batch(&(0..data.len()).collect::<Vec<_>>()).unwrap().remove(0)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_f64_vec()
}

/// The error's text, where it is one about data rather than a fault of something else.
fn refusal<T>(result: Result<T>) -> String {
    match result.map(drop).unwrap_err() {
        error @ (Error::Data { .. } | Error::DataMismatch { .. } | Error::Option { .. }) => {
            error.to_string()
        }
        other => panic!("{other}"),
    }
}

/// A `.npy` file in version 1.
fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let header =
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A folder for the files of one test.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
