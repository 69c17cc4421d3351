//! Fixtures through tract, against the outputs of the reference evaluator.

use std::path::{Path, PathBuf};

use super::*;
use crate::dataset::{Dataset, Preprocess};
use crate::progress::{Progress, Silent};
use crate::score::Scorer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Arrays of an npz by name.
fn arrays(path: &Path, specs: &[InputSpec]) -> Vec<Tensor> {
    let data = Dataset::open(path, specs, None, &Preprocess::default()).expect("arrays");
    let all: Vec<usize> = (0..data.len()).collect();
    data.batch(&all).expect("a batch")
}

/// The outputs of the reference evaluator, read as if they were inputs of a model.
fn expected(path: &Path, session: &Session) -> Vec<Tensor> {
    let model = crate::onnx::Model::read(&path.with_extension("onnx")).expect("a model");
    let mut proto = model.proto.clone();
    let graph = proto.graph.as_mut().expect("a graph");
    graph.node.clear();
    graph.initializer.clear();
    graph.input = graph.output.drain(..).collect();
    let outputs = crate::onnx::Model::from_proto(proto).expect("a model of outputs");
    let name = path.file_name().expect("a name");
    let npz = fixture("expected").join(Path::new(name).with_extension("npz"));
    let specs = graph::inputs(&outputs).expect("outputs");
    assert_eq!(specs.len(), session.outputs().len());
    arrays(&npz, &specs)
}

#[test]
fn fixtures_agree_with_the_reference() {
    for name in ["conv1d", "conv3d", "grouped", "matmul", "attention", "residual"] {
        let path = fixture(&format!("{name}.onnx"));
        let session = Session::open(&path).expect(name);
        let npz = fixture("expected").join(format!("{name}.npz"));
        let inputs = arrays(&npz, session.inputs());
        let wanted = expected(&path, &session);
        let given = session.run(&inputs).expect(name);
        let agreement = Agreement::between(&wanted, &given).expect(name);
        assert!(agreement.max_relative_difference() < 1e-5, "{name}: {agreement:?}");

        // Sample by sample the joined outputs are those of the batch.
        let n = inputs[0].shape()[0];
        let rows = |rows: &[usize]| Ok(inputs.iter().map(|t| t.select_batch(rows)).collect());
        let joined = session.run_samples(rows, n, &Silent).expect(name);
        let agreement = Agreement::between(&wanted, &joined).expect(name);
        assert!(agreement.max_relative_difference() < 1e-5, "{name}: {agreement:?}");
    }
}

#[test]
fn mnist_has_its_accuracy() {
    let model = fixture("mnist_conv.onnx");
    let session = Session::open(&model).expect("a session");
    let path = fixture("mnist_heldout.npz");
    let data = Dataset::open(&path, session.inputs(), None, &Preprocess::default()).expect("data");
    let outputs =
        session.run_samples(|rows| data.batch(rows), data.len(), &Silent).expect("outputs");
    let scorer = Scorer::new(outputs.clone(), data.all_labels(), None, None).expect("a scorer");
    let metric = scorer.score(&outputs, 0..data.len()).expect("a score").metric();
    assert!((metric - 99.2).abs() < 0.15, "{metric}");
}

#[test]
fn open_dims_are_taken_from_the_data() {
    let path = fixture("ppocr_cls.onnx");
    let data = |specs: &[InputSpec]| {
        Dataset::open(&fixture("ppocr_cls_data.npz"), specs, None, &Preprocess::default())
    };
    let specs = graph::inputs(&Model::read(&path).expect("a model")).expect("inputs");
    let data = data(&specs).expect("data");
    let session =
        Session::open_for(&path, &data.batch(&[0]).expect("a sample")).expect("a session");
    let outputs = session.run_samples(|rows| data.batch(rows), 3, &Silent).expect("outputs");
    assert_eq!(outputs[0].shape(), [3, 2]);
}

#[test]
fn a_fixed_batch_is_filled_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut model = Model::read(&fixture("mnist_conv.onnx")).expect("a model");
    fix_batch(&mut model, 4);
    let path = dir.path().join("fixed.onnx");
    model.write(&path).expect("written");
    let fixed = Session::open(&path).expect("a session");
    assert_eq!(fixed.fixed_batch(), Some(4));
    let free = Session::open(&fixture("mnist_conv.onnx")).expect("a session");
    let inputs = random_inputs(free.inputs(), &[("input".into(), vec![6, 1, 28, 28])], 3);
    let inputs = inputs.expect("inputs");
    let rows = |rows: &[usize]| Ok(inputs.iter().map(|t| t.select_batch(rows)).collect());
    let a = free.run_samples(rows, 6, &Silent).expect("outputs");
    let b = fixed.run_samples(rows, 6, &Silent).expect("outputs");
    assert_eq!(b[0].shape(), [6, 10]);
    let agreement = Agreement::between(&a, &b).expect("comparable");
    assert!(agreement.max_relative_difference() < 1e-5, "{agreement:?}");
}

/// Demands batches of `size` at inputs and outputs.
fn fix_batch(model: &mut Model, size: i64) {
    use crate::onnx::proto::{tensor_shape_proto::dimension, type_proto};
    let graph = model.graph_mut();
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        let value = info.r#type.as_mut().and_then(|t| t.value.as_mut());
        if let Some(type_proto::Value::TensorType(tensor)) = value
            && let Some(dim) = tensor.shape.as_mut().and_then(|s| s.dim.first_mut())
        {
            dim.value = Some(dimension::Value::DimValue(size));
        }
    }
    graph.value_info.clear();
}

#[test]
fn faults_are_errors() {
    let session = Session::open(&fixture("mnist_conv.onnx")).expect("a session");
    assert!(matches!(session.run(&[]), Err(Error::DataMismatch { .. })));
    let wrong = Tensor::from_vec(&[1, 2, 3], vec![0f32; 6]).expect("a tensor");
    assert!(matches!(session.run(&[wrong]), Err(Error::Runtime { .. })));
    assert!(matches!(Session::open(&fixture("mnist_heldout.npz")), Err(Error::NotOnnx { .. })));
    assert!(matches!(Session::open(Path::new("no such file")), Err(Error::Read { .. })));
    let shapes = [("nothing".to_owned(), vec![1])];
    let model = fixture("mnist_conv.onnx");
    assert!(matches!(Session::open_shaped(&model, &shapes), Err(Error::Option { .. })));
}

struct Stop;

impl Progress for Stop {
    fn phase(&self, _: &str, _: Option<u64>) {}
    fn step(&self, _: u64, _: &str) {}
    fn warn(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        true
    }
}

#[test]
fn interrupted_runs_stop() {
    let session = Session::open(&fixture("mnist_conv.onnx")).expect("a session");
    let inputs = random_inputs(session.inputs(), &[], 0).expect("inputs");
    let result = session.run_samples(|_| Ok(inputs.clone()), 5, &Stop);
    assert!(matches!(result, Err(Error::Interrupted)));
    let result = latency(&session, &session, &inputs, 5, &Stop);
    assert!(matches!(result, Err(Error::Interrupted)));
    let (a, b) = latency(&session, &session, &inputs, 5, &Silent).expect("times");
    assert!(a.runs == 5 && b.runs == 5 && a.min_ms > 0.0 && a.min_ms <= a.median_ms);
}
