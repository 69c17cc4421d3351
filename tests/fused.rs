//! Operators that ONNX Runtime fuses nodes into: spelled out in standard ones they compute what ONNX
//! Runtime computes (`fixtures/make_fused_cases.py`), here and in tract, and their weights are layers.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod cases;

use cases::{Case, cases_of};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::layer::{Filter, find, prepare};
use onnx_bsr::onnx::{Model, ModelProto};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::Session;

fn assert_close(case: &Case, runtime: &str, given: &[Tensor]) {
    assert_eq!(given.len(), case.outputs.len(), "{}", case.name);
    for (given, wanted) in given.iter().zip(&case.outputs) {
        assert_eq!(given.shape(), wanted.shape(), "{} in {runtime}", case.name);
        let (given, wanted) = (given.to_f64_vec(), wanted.to_f64_vec());
        let largest = wanted.iter().fold(1e-3, |most: f64, v| most.max(v.abs()));
        let off = given.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 3e-6 * largest, "{} in {runtime}: {off:e} of {largest}", case.name);
    }
}

fn spelled(proto: &ModelProto) -> Model {
    let mut model = Model::from_proto(proto.clone()).unwrap();
    let prepared = prepare(&mut model).unwrap();
    let own = proto.graph.as_ref().unwrap().node[0].op_type();
    assert_eq!(prepared.spelled_out, [own]);
    let graph = model.graph();
    assert!(graph.node.iter().all(|n| n.domain().is_empty() && n.op_type() != own));
    // The result is a valid model.
    Model::from_bytes(model.to_bytes().unwrap()).unwrap()
}

#[test]
fn spelled_out_they_compute_the_same() {
    let cases = cases_of("fused_cases.tar.gz");
    assert_eq!(cases.len(), 57);
    for case in cases {
        let model = spelled(&case.model);
        let outputs = Evaluator::new(&model).unwrap().run(case.inputs.clone());
        assert_close(&case, "the evaluator", &outputs.unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        model.write(&path).unwrap();
        let names = graph::inputs(&model).unwrap().into_iter().map(|spec| spec.name);
        let shapes = case.inputs.iter().map(|t| t.shape().to_vec());
        let shapes: Vec<_> = names.zip(shapes).collect();
        let session = Session::open_shaped(&path, &shapes)
            .unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain()));
        assert_close(&case, "tract", &session.run(&case.inputs).unwrap());
    }
}

/// The weight of a fused product is a layer that has the fused node's name.
#[test]
fn their_weights_are_layers() {
    for case in cases_of("fused_cases.tar.gz") {
        let graph = case.model.graph.as_ref().unwrap();
        let fused = ["FusedConv", "FusedGemm", "FusedMatMul", "Attention"];
        let constant = graph.initializer.iter().any(|t| t.name() == "w");
        if !fused.contains(&graph.node[0].op_type()) || !constant {
            continue;
        }
        let layers = find(&spelled(&case.model), &Filter::default().any_size()).unwrap();
        let eligible: Vec<&str> =
            layers.iter().filter(|l| l.map.is_some()).map(|l| l.name.as_str()).collect();
        assert_eq!(eligible, ["fused"], "{}", case.name);
    }
}

/// What has no exact equivalent stays as it is: other float types, pasts, statistics as outputs.
#[test]
fn other_uses_stay() {
    let all = cases_of("fused_cases.tar.gz");
    let find = |name: &str| all.iter().find(|c| c.name.starts_with(name)).unwrap().model.clone();
    let stays = |proto: ModelProto| {
        let mut model = Model::from_proto(proto).unwrap();
        let before = model.to_bytes().unwrap();
        assert!(graph::spell_out(&mut model).is_empty());
        assert_eq!(model.to_bytes().unwrap(), before);
    };
    let mut half = find("Gelu");
    let graph = half.graph.as_mut().unwrap();
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        let kind = info.r#type.as_mut().unwrap().value.as_mut().unwrap();
        let onnx_bsr::onnx::proto::type_proto::Value::TensorType(tensor) = kind else { panic!() };
        tensor.elem_type = Some(10);
    }
    stays(half);
    let mut past = find("Attention_01");
    let node = &mut past.graph.as_mut().unwrap().node[0];
    node.input.extend([String::new(), "x".to_owned()]);
    stays(past);
    let mut statistics = find("SkipLayerNormalization_01");
    statistics.graph.as_mut().unwrap().node[0].output.extend(["mean".to_owned()]);
    stays(statistics);
    let mut activation = find("FusedConv_01");
    for attribute in &mut activation.graph.as_mut().unwrap().node[0].attribute {
        if attribute.name() == "activation" {
            attribute.s = Some(b"Unheard".as_slice().into());
        }
    }
    stays(activation);
}
