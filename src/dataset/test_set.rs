//! ONNX's own test data: folders `test_data_set_K` of `input_I.pb` and `output_I.pb`.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::{InputSpec, form};
use crate::error::{Error, Result};
use crate::onnx::TensorProto;
use crate::tensor::{DataType, Tensor};

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
        let tensor = tensor(&proto).map_err(data)?;
        tensors.push((proto.name.unwrap_or_default(), tensor));
    }
}

fn tensor(proto: &TensorProto) -> Result<Tensor, String> {
    let dims = proto.dims.iter().map(|&d| usize::try_from(d));
    let shape: Vec<usize> =
        dims.collect::<Result<_, _>>().map_err(|_| "has a negative dim".to_owned())?;
    let data_type = match proto.data_type.unwrap_or(0) {
        1 => DataType::F32,
        2 => DataType::U8,
        3 => DataType::I8,
        4 => DataType::U16,
        5 => DataType::I16,
        6 => DataType::I32,
        7 => DataType::I64,
        9 => DataType::Bool,
        10 => DataType::F16,
        11 => DataType::F64,
        12 => DataType::U32,
        13 => DataType::U64,
        other => return Err(format!("has element type {other}, which can't be used")),
    };
    if let Some(raw) = &proto.raw_data {
        let header = super::npy::Header {
            data_type,
            big_endian: false,
            fortran: false,
            shape,
            data_start: 0,
        };
        if header.byte_len()? != raw.len() as u64 {
            return Err(format!("has {} bytes for shape {:?}", raw.len(), header.shape));
        }
        return super::npy::read_elements(&mut raw.as_ref(), &header, raw.len() as u64);
    }
    let ints = &proto.int32_data;
    match data_type {
        DataType::F32 => Tensor::from_vec(&shape, proto.float_data.clone()),
        DataType::F64 => Tensor::from_vec(&shape, proto.double_data.clone()),
        DataType::I64 => Tensor::from_vec(&shape, proto.int64_data.clone()),
        DataType::U64 => Tensor::from_vec(&shape, proto.uint64_data.clone()),
        DataType::U32 => {
            Tensor::from_vec(&shape, proto.uint64_data.iter().map(|&v| v as u32).collect())
        }
        DataType::I32 => Tensor::from_vec(&shape, ints.clone()),
        DataType::I16 => Tensor::from_vec(&shape, ints.iter().map(|&v| v as i16).collect()),
        DataType::U16 => Tensor::from_vec(&shape, ints.iter().map(|&v| v as u16).collect()),
        DataType::I8 => Tensor::from_vec(&shape, ints.iter().map(|&v| v as i8).collect()),
        DataType::U8 => Tensor::from_vec(&shape, ints.iter().map(|&v| v as u8).collect()),
        DataType::Bool => Tensor::from_vec(&shape, ints.iter().map(|&v| v != 0).collect()),
        DataType::F16 => {
            let halves = ints.iter().map(|&v| half::f16::from_bits(v as u16));
            Tensor::from_vec(&shape, halves.collect())
        }
        DataType::BF16 => {
            let halves = ints.iter().map(|&v| half::bf16::from_bits(v as u16));
            Tensor::from_vec(&shape, halves.collect())
        }
    }
    .map_err(|e| e.to_string())
}
