//! Gradients of networks against finite differences in double precision.

use super::*;

/// The graph of a fixture with every `f32` constant and input in `f64`.
fn doubled(model: &Model) -> Model {
    let mut proto = model.proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    let widen = |tensor: &Tensor, name: &str| -> Option<_> {
        let Tensor::F32(array) = tensor else { return None };
        let values = array.iter().map(|&v| f64::from(v)).collect();
        Some(TensorProto::from_tensor(
            name,
            &Tensor::from_vec::<f64>(array.shape(), values).unwrap(),
        ))
    };
    for stored in &mut graph.initializer {
        if let Some(double) = widen(&model.tensor(stored).unwrap(), stored.name()) {
            *stored = double;
        }
    }
    for node in &mut graph.node {
        let casts = node.op_type() == "Cast";
        for attribute in &mut node.attribute {
            widen_attribute(attribute, casts, model, &widen);
        }
    }
    for input in &mut graph.input {
        if let Some(type_proto::Value::TensorType(tensor)) =
            input.r#type.as_mut().and_then(|t| t.value.as_mut())
            && tensor.elem_type == Some(1)
        {
            tensor.elem_type = Some(11);
        }
    }
    Model::from_proto(proto).unwrap()
}

fn widen_attribute(
    attribute: &mut AttributeProto,
    casts: bool,
    model: &Model,
    widen: &dyn Fn(&Tensor, &str) -> Option<onnx_bsr::onnx::TensorProto>,
) {
    if let Some(held) = &attribute.t
        && let Some(double) = widen(&model.tensor(held).unwrap(), held.name())
    {
        attribute.t = Some(double);
    }
    if casts && attribute.name() == "to" && attribute.i == Some(1) {
        attribute.i = Some(11);
    }
}

fn loss(outputs: &[Tensor]) -> f64 {
    let products = outputs
        .iter()
        .zip(weights(outputs, DataType::F64))
        .map(|(o, w)| o.to_f64_vec().iter().zip(w.to_f64_vec()).map(|(o, w)| o * w).sum::<f64>());
    products.sum()
}

fn gradients(
    model: &Model,
    names: &[&str],
    samples: usize,
    kind: DataType,
) -> HashMap<String, Tensor> {
    let recorder = Evaluator::recorder(model, names, &[]).unwrap();
    assert_eq!(recorder.obstacles(), []);
    let inputs = inputs(recorder.evaluator(), samples, kind);
    let tape = recorder.record(inputs, &recorder.stored()).unwrap();
    let weights = weights(&tape.outputs().unwrap(), kind);
    let outputs = model.graph().output.iter().map(|o| o.name().to_owned());
    let given: Vec<_> = outputs.zip(weights).collect();
    tape.backward(given).unwrap()
}

fn check(name: &str, samples: usize) {
    let single = fixture(name);
    let double = doubled(&single);
    let names = floats(&single);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let exact = gradients(&double, &names, samples, DataType::F64);
    assert_eq!(exact.len(), names.len(), "{name}: some parameters have no gradient");

    // Along random directions of every parameter.
    let recorder = Evaluator::recorder(&double, &names, &[]).unwrap();
    let inputs = inputs(recorder.evaluator(), samples, DataType::F64);
    let stored = recorder.stored();
    let order: Vec<String> = recorder.parameters().map(str::to_owned).collect();
    let mut random = Random(5);
    for (index, parameter) in order.iter().enumerate() {
        let values = stored[index].to_f64_vec();
        let gradient = exact[parameter].to_f64_vec();
        let direction: Vec<f64> = values.iter().map(|_| random.next()).collect();
        let step = 1e-7;
        let moved = |by: f64| {
            let values: Vec<f64> = values.iter().zip(&direction).map(|(v, d)| v + by * d).collect();
            let mut parameters = stored.clone();
            parameters[index] = of_kind(stored[index].shape(), &values, DataType::F64);
            loss(&recorder.record(inputs.clone(), &parameters).unwrap().outputs().unwrap())
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let product: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let scale: f64 = gradient.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum();
        assert!(
            (slope - product).abs() <= 1e-6 * scale.max(0.1),
            "{name}, `{parameter}`: {product} instead of {slope}"
        );
    }

    // The same in single precision.
    let rounded = gradients(&single, &names, samples, DataType::F32);
    for (parameter, exact) in &exact {
        let pairs: Vec<(f64, f64)> =
            exact.to_f64_vec().into_iter().zip(rounded[parameter].to_f64_vec()).collect();
        let norm: f64 = pairs.iter().map(|(e, _)| e * e).sum::<f64>().sqrt();
        let off: f64 = pairs.iter().map(|(e, r)| (e - r) * (e - r)).sum::<f64>().sqrt();
        assert!(off <= 1e-3 * norm.max(1e-3), "{name}, `{parameter}`: off by {off} of {norm}");
    }
}

#[test]
fn a_small_convolutional_network() {
    check("mnist_conv.onnx", 2);
}

#[test]
fn a_network_with_residuals() {
    check("residual.onnx", 2);
}

#[test]
fn an_attention_block() {
    check("attention.onnx", 2);
}

#[test]
fn convolutions_in_groups_and_in_one_and_three_dimensions() {
    for name in ["grouped.onnx", "conv1d.onnx", "conv3d.onnx", "matmul.onnx"] {
        check(name, 2);
    }
}
