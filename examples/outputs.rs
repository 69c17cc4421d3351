//! Outputs of a model on data, as an `.npz` for `benches/check_outputs.py` and
//! `benches/check_ort.py`.
//!
//! `outputs MODEL DATA OUT.npz [--runtime tract|native]`

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use onnx_bsr::compress::{DataSource, Runtime};
use onnx_bsr::dataset::Preprocess;
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::onnx::{Model, to_raw};
use onnx_bsr::progress::Silent;
use onnx_bsr::tensor::{DataType, Tensor};
use onnx_bsr::validate::Session;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, data, output, runtime) = match &args[..] {
        [model, data, output] => (model, data, output, Runtime::Tract),
        [model, data, output, flag, runtime] if flag == "--runtime" => {
            (model, data, output, runtime.parse()?)
        }
        _ => return Err("usage: outputs MODEL DATA OUT.npz [--runtime tract|native]".into()),
    };
    let path = Path::new(model);
    let model = Model::read(path)?;
    let names: Vec<&str> = model.graph().output.iter().map(|o| o.name()).collect();
    let source = DataSource {
        path: data.into(),
        arrays: None,
        labels: None,
        preprocess: Preprocess::default(),
    };
    let data = source.open(&graph::inputs(&model)?)?;
    let all: Vec<usize> = (0..data.len()).collect();
    let tensors = match runtime {
        Runtime::Tract => Session::open_for(path, &data.batch(&[0])?)?.run_samples(
            |rows| data.batch(rows),
            data.len(),
            &Silent,
        )?,
        Runtime::Native => Evaluator::new(&model)?.run_all(&data.batch(&all)?)?,
    };
    let mut archive = ZipWriter::new(File::create(output)?);
    for (name, tensor) in names.iter().zip(&tensors) {
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default())?;
        archive.write_all(&npy(tensor)?)?;
    }
    archive.finish()?;
    Ok(())
}

/// The tensor as a `.npy` file of version 1.
fn npy(tensor: &Tensor) -> Result<Vec<u8>, Box<dyn Error>> {
    let kind = match tensor.data_type() {
        DataType::F32 => "<f4",
        DataType::F64 => "<f8",
        DataType::F16 => "<f2",
        DataType::I8 => "|i1",
        DataType::I16 => "<i2",
        DataType::I32 => "<i4",
        DataType::I64 => "<i8",
        DataType::U8 => "|u1",
        DataType::U16 => "<u2",
        DataType::U32 => "<u4",
        DataType::U64 => "<u8",
        DataType::Bool => "|b1",
        DataType::BF16 => return Err("NumPy has no bfloat16".into()),
    };
    let dims: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({dims}), }}");
    // Elements start at a multiple of 64 bytes; the magic, version and length take 10.
    let padding = 63 - (10 + header.len()) % 64;
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len())?.to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend_from_slice(&to_raw(tensor));
    Ok(bytes)
}
