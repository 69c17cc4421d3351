//! Every form on every fixture.

use onnx_bsr::graph;
use onnx_bsr::onnx::{Model, TensorProto};
use onnx_bsr::quantize::{Form, Quantization, Range, Rounding, Settings, Storage, params};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::Session;

use super::{FIXTURES, difference, inputs, model, quantized, run, shapes};

/// The float model whose weights are what the codes stand for.
pub fn dequantized(model: &Model, quantization: &Quantization) -> Model {
    let mut result = model.clone();
    for constant in &quantization.constants {
        let old = graph::constant_tensor(&result, &constant.name).unwrap().unwrap();
        let new = Tensor::from_vec(old.shape(), constant.data.0.clone()).unwrap();
        graph::set_constant(result.graph_mut(), TensorProto::from_tensor(&constant.name, &new));
    }
    for stored in &quantization.weights {
        let old = graph::constant_tensor(&result, &stored.name).unwrap().unwrap();
        let inner: usize = stored.shape[stored.axis + 1..].iter().product();
        let extent = stored.shape[stored.axis];
        let blocks = if stored.block == 0 { extent } else { extent.div_ceil(stored.block) };
        let elements: Vec<f32> = match stored.storage {
            Storage::Fp16 => {
                let half = |v: f64| half::f16::from_f64(v).to_f32();
                old.to_f64_vec().into_iter().map(half).collect()
            }
            _ => (0..stored.codes.0.len())
                .map(|at| {
                    let place = at / inner % extent;
                    let scale = match stored.block {
                        0 => place,
                        block => {
                            (at / inner / extent * blocks + place / block) * inner + at % inner
                        }
                    };
                    f32::from(stored.codes.0[at]) * stored.scales.0[scale]
                })
                .collect(),
        };
        let new = Tensor::from_vec(&stored.shape, elements).unwrap();
        graph::set_constant(result.graph_mut(), TensorProto::from_tensor(&stored.name, &new));
    }
    result
}

fn settings(form: Form) -> Settings {
    // Small blocks, so that small matrices have several.
    Settings { form, block: 16, ..Settings::default() }
}

/// What is written computes to the bit what a float model with the rounded weights does.
#[test]
fn files_compute_what_the_codes_say() {
    for (name, stated) in FIXTURES {
        let model = model(name);
        for form in [Form::Int8, Form::Int4, Form::Fp16, Form::Auto] {
            let (quantization, _) = quantized(&model, stated, &settings(form));
            assert!(!quantization.weights.is_empty(), "{name} {form}");
            let written = quantization.apply(&model).unwrap();
            let written = Model::from_bytes(written.to_bytes().unwrap()).unwrap();
            let expected = dequantized(&model, &quantization);
            let x = inputs(&model, stated, 77);
            let (got, wanted) = (run(&written, x.clone()), run(&expected, x));
            let apart = difference(&got, &wanted);
            // A product that turned from Gemm to MatMul adds its bias in another step.
            let most = if matches!(form, Form::Int4 | Form::Auto) { 1e-5 } else { 0.0 };
            assert!(apart <= most, "{name} {form}: {apart}");
            assert_eq!(params(&written), params(&model), "{name} {form}");
            assert!(written.encoded_len() < model.encoded_len(), "{name} {form}");
        }
    }
}

/// tract loads every form and computes the same; integer products to the bit, so that only the floats
/// between them differ.
#[test]
fn tract_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.onnx");
    for (name, stated) in FIXTURES {
        let model = model(name);
        for form in Form::ALL.into_iter().filter(|f| f.runs_in_tract()) {
            let (quantization, _) = quantized(&model, stated, &settings(form));
            let written = quantization.apply(&model).unwrap();
            written.write(&file).unwrap();
            let session = Session::open_shaped(&file, &shapes(&model, stated)).unwrap();
            let x = inputs(&model, stated, 78);
            let apart = difference(&session.run(&x).unwrap(), &run(&written, x));
            // A value between two levels may fall to either side.
            let most = match form {
                Form::Int8Qdq | Form::Int8Dynamic => 0.03,
                _ => 1e-4,
            };
            assert!(apart <= most, "{name} {form}: {apart}");
        }
    }
}

/// Values of 8 bits change outputs little, whatever finds their range, in both kinds of bytes.
#[test]
fn rounded_values_stay_close() {
    for (name, stated) in [FIXTURES[0], FIXTURES[6], FIXTURES[7], FIXTURES[2]] {
        let model = model(name);
        let x = inputs(&model, stated, 79);
        let wanted = run(&model, x.clone());
        for range in Range::ALL {
            for signed in [false, true] {
                let settings =
                    Settings { form: Form::Int8Qdq, range, signed, ..Settings::default() };
                let (quantization, _) = quantized(&model, stated, &settings);
                let values = quantization.values.as_ref().unwrap();
                assert!(values.names.len() > 3, "{name}");
                let written = quantization.apply(&model).unwrap();
                let apart = difference(&run(&written, x.clone()), &wanted);
                assert!(apart > 0.0 && apart < 0.25, "{name} {range} {signed}: {apart}");
            }
        }
    }
}

/// Seven bits and float ends do what they say.
#[test]
fn options_of_values_arrive() {
    let (name, stated) = FIXTURES[6];
    let model = model(name);
    let base = Settings { form: Form::Int8Qdq, ..Settings::default() };
    let (plain, _) = quantized(&model, stated, &base);
    let (seven, _) = quantized(&model, stated, &Settings { seven_bits: true, ..base });
    let most = |q: &Quantization| {
        q.weights.iter().flat_map(|w| &w.codes.0).map(|c| c.unsigned_abs()).max().unwrap()
    };
    assert_eq!(most(&plain), 127);
    assert_eq!(most(&seven), 63);
    let (ends, _) = quantized(&model, stated, &Settings { float_ends: true, ..base });
    let (plain, ends) = (plain.values.unwrap(), ends.values.unwrap());
    assert_eq!((plain.float_nodes.len(), ends.float_nodes.len()), (0, 2));
    assert!(plain.names.contains(&"input".to_owned()) && !ends.names.contains(&"input".to_owned()));
}

/// Rounding by what layers see beats the nearest level on other inputs of the same kind.
#[test]
fn compensated_rounding_is_closer() {
    let (name, stated) = FIXTURES[0];
    let model = model(name);
    let wanted: Vec<Vec<Tensor>> =
        (50..70).map(|seed| run(&model, inputs(&model, stated, seed))).collect();
    let error = |rounding| {
        let settings = Settings { form: Form::Int4, rounding, ..Settings::default() };
        let written = quantized(&model, stated, &settings).0.apply(&model).unwrap();
        let square = |(seed, wanted): (u64, &Vec<Tensor>)| -> f64 {
            let got = run(&written, inputs(&model, stated, seed));
            let pairs = got[0].to_f64_vec().into_iter().zip(wanted[0].to_f64_vec());
            pairs.map(|(a, b)| (a - b) * (a - b)).sum()
        };
        (50..70).zip(&wanted).map(square).sum::<f64>()
    };
    let (nearest, compensated) = (error(Rounding::Nearest), error(Rounding::Compensated));
    assert!(compensated < 0.8 * nearest, "{compensated} against {nearest}");
}

/// The standard's four-bit tensors: a newer operator set, and the same numbers.
#[test]
fn four_bit_tensors_are_read_back() {
    let (name, stated) = FIXTURES[5];
    let model = model(name);
    let (quantization, _) = quantized(&model, stated, &settings(Form::Int4Dq));
    let four = quantization.weights.iter().filter(|w| w.storage == Storage::Int4Dq).count();
    assert!(four > 3, "{four}");
    let written = quantization.apply(&model).unwrap();
    assert_eq!(written.opset(""), Some(21));
    let written = Model::from_bytes(written.to_bytes().unwrap()).unwrap();
    let x = inputs(&model, stated, 80);
    let expected = dequantized(&model, &quantization);
    assert_eq!(difference(&run(&written, x.clone()), &run(&expected, x)), 0.0);
}

/// A model of an older operator set computes the same in a newer one.
#[test]
fn newer_operator_sets_change_nothing() {
    let (name, stated) = FIXTURES[7];
    let model = model(name);
    assert_eq!(model.opset(""), Some(11));
    for (form, version) in [(Form::Int8Qdq, 13), (Form::Int4Dq, 21)] {
        let nothing =
            Quantization { form, weights: Vec::new(), constants: Vec::new(), values: None };
        let newer = nothing.apply(&model).unwrap();
        assert_eq!(newer.opset(""), Some(version));
        let x = inputs(&model, stated, 81);
        assert_eq!(difference(&run(&newer, x.clone()), &run(&model, x)), 0.0);
    }
    // Weights alone don't need a newer one.
    let (quantization, _) = quantized(&model, stated, &settings(Form::Int8));
    assert_eq!(quantization.apply(&model).unwrap().opset(""), Some(11));
}
