//! What is done with hostile bytes, by the property tests and by the fuzz targets alike.

use std::path::Path;

use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph::{self, InputSpec};
use onnx_bsr::layer::{Filter, find, prepare};
use onnx_bsr::onnx::Model;
use onnx_bsr::quantize::{self, Form, Settings};
use onnx_bsr::search::Plan;
use onnx_bsr::tensor::{DataType, Tensor};

/// Inputs and values that a damaged model is run with take at most so many bytes together.
const RUN_BYTES: usize = 1 << 22;
/// Elements of the weights that are decomposed and rounded.
const WEIGHTS: usize = 1 << 16;

/// Reads a model that lies beside a file of external data, looks at everything in it, and writes it:
/// what is read back is the same.
pub fn model(bytes: &[u8], folder: &Path) -> bool {
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(folder.join("w.bin"), [1; 64]).unwrap();
    let Ok(mut model) = Model::read(&path) else { return false };
    for tensor in &model.graph().initializer {
        if model.tensor(tensor).is_ok() {
            assert!(model.tensor_byte_len(tensor) > 0 || tensor.dims.contains(&0));
        }
    }
    for name in graph::constants(&model).keys() {
        let _ = graph::constant_tensor(&model, name);
    }
    let _ = graph::Links::new(model.graph());
    let _ = graph::fresh_name(model.graph(), "w");
    let target = folder.join("out.onnx");
    let written = model.write(&target).unwrap();
    assert_eq!(written, disk(&target) + disk(&folder.join("out.onnx.data")));
    let again = Model::read(&target).expect("what was written is a model");
    assert!(same(&again, &model), "what was written is not what was read");
    graph::remove_unused_constants(model.graph_mut());
    assert!(Model::from_bytes(model.to_bytes().unwrap()).is_ok());
    true
}

fn disk(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Whether both models are the same once all data lies inside them.
fn same(a: &Model, b: &Model) -> bool {
    a.to_bytes().unwrap() == b.to_bytes().unwrap()
}

/// Does with a model whatever doesn't take long.
pub fn graph(bytes: Vec<u8>) -> bool {
    let Ok(mut model) = Model::from_bytes(bytes) else { return false };
    let _ = find(&model, &Filter::default());
    let specs = graph::inputs(&model);
    if prepare(&mut model).is_err() {
        return true;
    }
    let encoded = model.to_bytes().unwrap();
    assert!(Model::from_bytes(encoded).is_ok(), "preparing made an invalid model");
    if let Ok(layers) = find(&model, &Filter::default()) {
        for layer in layers.iter().filter(|layer| layer.map.is_some()) {
            let _ = layer.weight(&model);
        }
    }
    let params = quantize::params(&model);
    let _ = Evaluator::never_run(&model);
    if let (Ok(evaluator), Ok(specs)) = (Evaluator::new(&model), specs) {
        run(&evaluator, &specs);
    }
    let settings = Settings { form: Form::Int8, ..Settings::default() };
    if params <= WEIGHTS as u64
        && let Ok((quantization, _)) = quantize::quantize(&model, &settings, None)
    {
        let _ = quantization.apply(&model);
    }
    true
}

/// Runs a model on one small sample, as long as its values stay small.
fn run(evaluator: &Evaluator, specs: &[InputSpec]) {
    let Some(inputs) = specs.iter().map(input).collect::<Option<Vec<_>>>() else { return };
    let Ok(mut state) = evaluator.start(inputs) else { return };
    while state.next() < evaluator.len() {
        let next = state.next() + 1;
        if evaluator.advance(&mut state, next).is_err() || state.byte_len() > RUN_BYTES {
            return;
        }
    }
    let _ = evaluator.finish(&state);
}

/// A value for an input, where it is small.
fn input(spec: &InputSpec) -> Option<Tensor> {
    let extents = spec.shape.iter().enumerate();
    let shape: Vec<usize> = extents.map(|(i, d)| d.unwrap_or(if i == 0 { 1 } else { 4 })).collect();
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let ramp = (count <= 1 << 14).then(|| (0..count).map(|i| (i % 3) as f32).collect())?;
    Tensor::from_vec(&shape, ramp).ok().and_then(|t| typed(&t, spec.data_type))
}

fn typed(ramp: &Tensor, data_type: DataType) -> Option<Tensor> {
    let values = ramp.to_f64_vec();
    let shape = ramp.shape();
    let integers = || values.iter().map(|&v| v as u8);
    match data_type {
        DataType::F32 => Some(ramp.clone()),
        DataType::F64 => Tensor::from_vec(shape, values).ok(),
        DataType::I32 => Tensor::from_vec(shape, integers().map(i32::from).collect()).ok(),
        DataType::I64 => Tensor::from_vec(shape, integers().map(i64::from).collect()).ok(),
        DataType::U8 => Tensor::from_vec(shape, integers().collect()).ok(),
        DataType::Bool => Tensor::from_vec(shape, integers().map(|v| v != 0).collect()).ok(),
        _ => None,
    }
}

/// Opens bytes as a data file and as a tensor of an ONNX test set, for inputs of several forms, and
/// takes samples from it.
pub fn data(bytes: &[u8], folder: &Path) {
    let file = folder.join("a-idx3-ubyte");
    std::fs::write(&file, bytes).unwrap();
    open(&file);
    let set = folder.join("sets/test_data_set_0");
    std::fs::create_dir_all(&set).unwrap();
    std::fs::write(set.join("input_0.pb"), bytes).unwrap();
    open(&folder.join("sets"));
}

fn open(path: &Path) {
    for shape in [vec![None, Some(4)], vec![None, Some(2), Some(2)], vec![None; 3]] {
        for data_type in [DataType::F32, DataType::I64] {
            let spec = InputSpec { name: "x".to_owned(), data_type, shape: shape.clone() };
            if let Ok(data) = Dataset::open(path, &[spec], None, &Preprocess::default())
                && !data.is_empty()
            {
                let _ = data.batch(&[0, data.len() - 1]);
                let _ = data.all_labels();
            }
        }
    }
}

/// Reads a plan and carries it out on the model it is for.
pub fn plan(text: &str, model: &Model) -> bool {
    let Ok(plan) = Plan::parse(text) else { return false };
    let Ok(mut result) = plan.apply(model) else { return true };
    if plan.set_trained(&mut result).is_err() {
        return true;
    }
    if let Some(quantization) = &plan.quantization {
        let Ok(quantized) = quantization.apply(&result) else { return true };
        result = quantized;
    }
    assert!(Model::from_bytes(result.to_bytes().unwrap()).is_ok(), "a plan made an invalid model");
    true
}

/// The model that plans are tried on.
pub fn planned() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if path.join("fixtures").is_dir() { path } else { path.parent().unwrap() };
    let mut model = Model::read(&root.join("fixtures/forms/constants.onnx")).unwrap();
    prepare(&mut model).unwrap();
    model
}
