//! The evaluator against runs in onnx's own reference evaluator.

use onnx_bsr::onnx::{Model, ModelProto};
use onnx_bsr::tensor::Tensor;

use super::written::{apart, arrays, evaluated, fixture};

/// The recorded outputs, read as if they were the inputs of a model.
fn recorded(name: &str, model: &Model) -> Vec<Tensor> {
    let mut proto: ModelProto = model.proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    graph.node.clear();
    graph.initializer.clear();
    graph.input = graph.output.drain(..).collect();
    let outputs = Model::from_proto(proto).unwrap();
    arrays(&fixture(&format!("expected/{name}.npz")), &outputs)
}

#[test]
fn the_evaluator_gives_what_the_reference_does() {
    for name in ["conv1d", "conv3d", "grouped", "matmul", "attention", "residual"] {
        let model = Model::read(&fixture(&format!("{name}.onnx"))).unwrap();
        let inputs = arrays(&fixture(&format!("expected/{name}.npz")), &model);
        let wanted = recorded(name, &model);
        assert_eq!(wanted.len(), model.graph().output.len());
        let given = evaluated(&model, &inputs);
        let off = apart(&wanted, &given);
        assert!(off < 1e-5, "{name}: {off:e}");

        // A sample alone gives what it gives among others.
        let samples = inputs[0].shape()[0];
        for sample in 0..samples {
            let one: Vec<Tensor> = inputs.iter().map(|t| t.select_batch(&[sample])).collect();
            let wanted: Vec<Tensor> = wanted.iter().map(|t| t.select_batch(&[sample])).collect();
            let off = apart(&wanted, &evaluated(&model, &one));
            assert!(off < 1e-5, "{name}, sample {sample}: {off:e}");
        }
    }
}
