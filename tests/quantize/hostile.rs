//! Weights that can't be rounded, models that are quantized already, plans of other models.

use onnx_bsr::error::Error;
use onnx_bsr::graph;
use onnx_bsr::onnx::{Model, NodeProto, TensorProto};
use onnx_bsr::quantize::{Form, Quantization, Settings, quantize};
use onnx_bsr::tensor::Tensor;

use super::{FIXTURES, difference, inputs, model, quantized, run};

const STATED: &[(&str, &[usize])] = FIXTURES[0].1;

/// The digits' network with the elements of a weight changed.
fn changed(weight: &str, change: impl Fn(usize, &mut f32)) -> Model {
    let mut model = model("mnist_conv.onnx");
    let old = graph::constant_tensor(&model, weight).unwrap().unwrap();
    let mut elements: Vec<f32> = old.to_f64_vec().into_iter().map(|v| v as f32).collect();
    elements.iter_mut().enumerate().for_each(|(at, v)| change(at, v));
    let new = Tensor::from_vec(old.shape(), elements).unwrap();
    assert!(graph::set_constant(model.graph_mut(), TensorProto::from_tensor(weight, &new)));
    model
}

/// The name and shape of a convolution's weight that isn't the first.
fn kernel() -> (String, Vec<usize>) {
    let model = model("mnist_conv.onnx");
    let conv = model.graph().node.iter().filter(|n| n.op_type() == "Conv").nth(1).unwrap();
    let name = conv.input[1].clone();
    let shape = graph::constant_tensor(&model, &name).unwrap().unwrap().shape().to_vec();
    (name, shape)
}

#[test]
fn weights_that_are_not_finite_stay() {
    let (name, _) = kernel();
    for value in [f32::NAN, f32::INFINITY] {
        let model = changed(&name, |at, v| *v = if at == 7 { value } else { *v });
        for form in [Form::Int8, Form::Int4, Form::Fp16, Form::Int8Dynamic] {
            let settings = Settings { form, ..Settings::default() };
            let (quantization, kept) = quantize(&model, &settings, None).unwrap();
            assert!(kept.iter().any(|k| k.name == name && k.reason.contains("NaN")), "{kept:?}");
            assert!(quantization.weights.iter().all(|w| w.name != name));
            quantization.apply(&model).unwrap();
        }
    }
}

/// A channel of zeros, one of numbers near the smallest, and one that dwarfs the others.
#[test]
fn extreme_channels_keep_their_outputs() {
    let (name, shape) = kernel();
    let channel: usize = shape[1..].iter().product();
    let model = changed(&name, |at, v| match at / channel {
        0 => *v = 0.0,
        1 => *v *= 1e-41,
        2 => *v *= 100.0,
        _ => {}
    });
    let x = inputs(&model, STATED, 5);
    let wanted = run(&model, x.clone());
    for form in [Form::Int8, Form::Fp16, Form::Int8Dynamic, Form::Int8Qdq] {
        let settings = Settings { form, ..Settings::default() };
        let (quantization, _) = quantized(&model, STATED, &settings);
        assert!(quantization.weights.iter().any(|w| w.name == name));
        let scales = quantization.weights.iter().flat_map(|w| &w.scales.0);
        assert!(scales.clone().all(|s| s.is_normal() && *s > 0.0));
        let apart = difference(&run(&quantization.apply(&model).unwrap(), x.clone()), &wanted);
        assert!(apart < 0.1, "{form}: {apart}");
    }
}

#[test]
fn empty_weights_stay() {
    let mut model = model("matmul.onnx");
    let graph = model.graph_mut();
    let input = graph.input[0].name().to_owned();
    let empty = Tensor::from_vec(&[0, 3], Vec::<f32>::new()).unwrap();
    graph::add_initializer(graph, TensorProto::from_tensor("empty", &empty));
    graph.node.push(NodeProto {
        op_type: Some("MatMul".to_owned()),
        input: vec![input, "empty".to_owned()],
        output: vec!["nothing".to_owned()],
        ..NodeProto::default()
    });
    let (quantization, kept) = quantize(&model, &Settings::default(), None).unwrap();
    assert!(kept.iter().any(|k| k.name == "empty" && k.reason == "empty"), "{kept:?}");
    quantization.apply(&model).unwrap();
}

#[test]
fn half_floats_that_overflow_stay() {
    let (name, _) = kernel();
    let model = changed(&name, |at, v| *v = if at == 0 { 1e6 } else { *v });
    let settings = Settings { form: Form::Fp16, ..Settings::default() };
    let (_, kept) = quantize(&model, &settings, None).unwrap();
    assert!(kept.iter().any(|k| k.name == name && k.reason.contains("range")), "{kept:?}");
}

#[test]
fn what_is_quantized_already_is_refused() {
    for form in Form::ALL.into_iter().filter(|f| *f != Form::Fp16) {
        let settings = Settings { form, ..Settings::default() };
        let plain = model("mnist_conv.onnx");
        let (quantization, _) = quantized(&plain, STATED, &settings);
        let once = quantization.apply(&plain).unwrap();
        let fault = quantize(&once, &Settings::default(), None).unwrap_err();
        assert!(matches!(fault, Error::UnsupportedModel { .. }), "{form}: {fault}");
        assert!(fault.to_string().contains("quantized already"), "{form}: {fault}");
    }
}

/// Faults of a replay are errors that name the weight.
#[test]
fn plans_that_do_not_fit_are_refused() {
    let plain = model("mnist_conv.onnx");
    let (whole, _) = quantized(&plain, STATED, &Settings { form: Form::Int8Qdq, ..<_>::default() });
    let refused = |change: &dyn Fn(&mut Quantization)| {
        let mut quantization = whole.clone();
        change(&mut quantization);
        let fault = quantization.apply(&plain).unwrap_err();
        assert!(matches!(fault, Error::Plan { .. }), "{fault}");
    };
    refused(&|q| q.weights[0].name = "absent".to_owned());
    refused(&|q| q.weights[0].checksum ^= 1);
    refused(&|q| q.weights[0].shape.reverse());
    refused(&|q| q.weights[0].codes.0.truncate(1));
    refused(&|q| q.weights[0].scales.0.clear());
    refused(&|q| q.weights[0].axis = 9);
    refused(&|q| q.weights[0].scales.0[0] = f32::NAN);
    refused(&|q| q.constants[0].name = "absent".to_owned());
    refused(&|q| q.constants[0].data.0.clear());
    refused(&|q| q.values.as_mut().unwrap().names[0] = "absent".to_owned());
    refused(&|q| q.values.as_mut().unwrap().zero_points[0] = 256);
    refused(&|q| q.values.as_mut().unwrap().scales.0.clear());
    let (four, _) = quantized(&plain, STATED, &Settings { form: Form::Int4, ..<_>::default() });
    let at = four.weights.iter().position(|w| w.block > 0).unwrap();
    for block in [0, 1, 15, 48] {
        let mut quantization = four.clone();
        quantization.weights[at].block = block;
        assert!(matches!(quantization.apply(&plain), Err(Error::Plan { .. })), "{block}");
    }
}
