//! Models that are worked on one layer at a time: small ones here, by a low threshold.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use onnx_bsr::compress::{Request, apply, compress};
use onnx_bsr::eval::{Evaluator, Pieces};
use onnx_bsr::graph;
use onnx_bsr::onnx::{GraphProto, Model, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use onnx_bsr::onnx::{OpsetImport, TypeProto};
use onnx_bsr::options::Options;
use onnx_bsr::progress::Silent;
use onnx_bsr::report::Report;
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::{Session, random_inputs};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn request(input: &Path, output: &Path, ratio: f64, stream_above: usize) -> Request {
    let options = Options { ratio: Some(ratio), stream_above, ..Options::default() };
    Request::new(input, output, options)
}

/// A matrix of falling singular values.
fn weight(rows: usize, columns: usize, seed: f64) -> Tensor {
    let element = |at: usize| {
        let (i, j) = ((at / columns) as f64, (at % columns) as f64);
        let term = |k: usize| {
            let k = k as f64;
            ((i + 1.3) * (k + 0.7) * 0.37 + seed).sin()
                * ((j + 0.9) * (k + 1.1) * 0.53 - seed).cos()
                / (1.0 + k).powf(1.2)
        };
        (0..rows.min(columns)).map(term).sum::<f64>() as f32 * 0.1
    };
    Tensor::from_vec(&[rows, columns], (0..rows * columns).map(element).collect::<Vec<f32>>())
        .unwrap()
}

/// x -> narrow -> wide -> narrow, by MatMul, with additions around; external data where `folder` says so.
fn decoder(path: &Path) {
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let value = |name: &str, shape: &[usize]| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto::of_tensor(
            &Tensor::from_vec(shape, vec![0f32; shape.iter().product()]).unwrap(),
        )),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        name: Some("decoder".to_owned()),
        node: vec![
            node("MatMul", &["x", "up"], "raised"),
            node("Tanh", &["raised"], "bent"),
            node("MatMul", &["bent", "down"], "lowered"),
            node("Add", &["lowered", "x"], "sum"),
            node("MatMul", &["sum", "square"], "turned"),
            node("Add", &["turned", "lowered"], "y"),
        ],
        initializer: vec![
            TensorProto::from_tensor("up", &weight(96, 320, 0.1)),
            TensorProto::from_tensor("down", &weight(320, 96, 0.2)),
            TensorProto::from_tensor("square", &weight(96, 96, 0.3)),
        ],
        input: vec![value("x", &[1, 5, 96])],
        output: vec![value("y", &[1, 5, 96])],
        ..GraphProto::default()
    };
    let set = OpsetImport { domain: None, version: Some(17) };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![set],
        graph: Some(graph),
        ..ModelProto::default()
    };
    Model::from_proto(proto).unwrap().write(path).unwrap();
}

/// The same with its weights in another file: an empty range of that file makes the model external.
fn outside(path: &Path, from: &Path) {
    let mut model = Model::read(from).unwrap();
    let mut data = Vec::new();
    let name = path.with_extension("onnx.data");
    for tensor in &mut model.graph_mut().initializer {
        let raw = tensor.raw_data.take().unwrap();
        let entry = |key: &str, value: String| onnx_bsr::onnx::proto::StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
        };
        let location = name.file_name().unwrap().to_str().unwrap().to_owned();
        tensor.external_data = vec![
            entry("location", location),
            entry("offset", data.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        tensor.data_location = Some(1);
        data.extend_from_slice(&raw);
    }
    fs::write(name, data).unwrap();
    model.write_message(path).unwrap();
}

fn outputs(path: &Path, seed: u64) -> Vec<f64> {
    let model = Model::read(path).unwrap();
    let inputs = random_inputs(&graph::inputs(&model).unwrap(), &[], seed).unwrap();
    let session = Session::open(path).unwrap();
    session.run(&inputs).unwrap().iter().flat_map(Tensor::to_f64_vec).collect()
}

fn off(a: &[f64], b: &[f64]) -> f64 {
    let scale = b.iter().map(|v| v * v).sum::<f64>().sqrt();
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt() / scale
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}

fn ranks(report: &Report) -> Vec<Option<usize>> {
    report.layers.iter().map(|layer| layer.rank).collect()
}

/// Layer by layer comes to what comes of the whole: kernels, Gemm, MatMul of both shapes.
#[test]
fn streaming_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    decoder(&dir.path().join("decoder.onnx"));
    let mut same = 0;
    for input in
        [dir.path().join("decoder.onnx"), fixture("mnist_conv.onnx"), fixture("residual.onnx")]
    {
        let (whole, parts) = (dir.path().join("whole.onnx"), dir.path().join("parts.onnx"));
        let held = compress(&request(&input, &whole, 2.0, usize::MAX), &Silent).unwrap();
        let streamed = compress(&request(&input, &parts, 2.0, 1), &Silent).unwrap();
        let what = input.display();
        assert!(held.validation.as_ref().unwrap().pieces.is_none());
        let validation = streamed.validation.clone().unwrap();
        assert!(validation.pieces.is_some_and(|pieces| pieces > 0), "{what}");
        assert!(validation.max_relative_difference < 1e-4, "{what}");
        assert_eq!(streamed.missed, held.missed, "{what}");
        assert!(streamed.output.macs.is_some());
        // What stays dense is known to stay as it is stored, which may leave bytes for a rank more.
        let pairs = ranks(&streamed).into_iter().zip(ranks(&held));
        let more: usize = pairs
            .map(|(own, other)| match (own, other) {
                (Some(own), Some(other)) => own.abs_diff(other),
                (own, other) => usize::from(own != other) * 99,
            })
            .sum();
        assert!(more <= 1, "{what}: {:?} {:?}", ranks(&streamed), ranks(&held));
        if more == 0 {
            same += 1;
            assert_eq!(streamed.output.macs, held.output.macs, "{what}");
            assert_eq!(streamed.output.params, held.output.params, "{what}");
            let (a, b) = (outputs(&parts, 1), outputs(&whole, 1));
            assert!(off(&a, &b) < 1e-4, "{what}: {}", off(&a, &b));
        }
        assert!(streamed.output.bytes * 199 < streamed.model.bytes * 100, "{what}");
    }
    assert!(same >= 2);
}

/// A table among the layers: what is written computes what the evaluator says, at the ratio.
#[test]
fn tables_are_streamed_too() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.onnx");
    let asked = request(&fixture("attention.onnx"), &output, 2.0, 1);
    let report = compress(&asked, &Silent).unwrap();
    let validation = report.validation.unwrap();
    assert!(validation.pieces.is_some_and(|pieces| pieces > 0));
    assert!(validation.max_relative_difference < 1e-4);
    assert!(report.missed.is_empty() && report.ratio.reached.unwrap() >= 2.0);
    let table = report.layers.iter().find(|layer| layer.op_type == "Gather").unwrap();
    assert!(table.rank.is_some(), "{table:?}");
    let nodes = Model::read(&output).unwrap().graph().node.clone();
    let gather = nodes.iter().find(|node| node.op_type() == "Gather").unwrap();
    let product = nodes.iter().find(|node| node.input.first() == gather.output.first()).unwrap();
    assert_eq!(product.op_type(), "MatMul");
}

/// Weights that stay stay external; the output doesn't depend on threads, and a plan replays it.
#[test]
fn external_in_external_out() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, input) = (dir.path().join("inner.onnx"), dir.path().join("in.onnx"));
    decoder(&inner);
    outside(&input, &inner);
    assert!(off(&outputs(&input, 2), &outputs(&inner, 2)) < 1e-12);
    let output = dir.path().join("out.onnx");
    let mut asked = request(&input, &output, 3.0, 1000);
    asked.save_plan = Some(dir.path().join("plan.json"));
    asked.options.exclude = vec!["square".to_owned()];
    let report = compress(&asked, &Silent).unwrap();
    assert!(report.missed.is_empty(), "{:?}", report.missed);
    let made = Model::read(&output).unwrap();
    assert_eq!(made.external_files(&output), [dir.path().join("out.onnx.data")]);
    let bytes = |path: &Path| {
        let data = fs::read(path.with_extension("onnx.data")).unwrap();
        (Model::read(path).unwrap().to_bytes().unwrap(), data)
    };
    let replayed = dir.path().join("out2.onnx");
    apply(&input, &dir.path().join("plan.json"), &replayed, false).unwrap();
    assert!(bytes(&output) == bytes(&replayed));
    let single = dir.path().join("out1.onnx");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    asked.save_plan = None;
    asked.output.clone_from(&single);
    pool.install(|| compress(&asked, &Silent)).unwrap();
    assert!(bytes(&output) == bytes(&single));
    let left = files(dir.path());
    assert!(left.iter().all(|name| !name.starts_with('.') && !name.contains("piece")), "{left:?}");
}

/// A file that can't grow ends the run with what was there.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, input) = (dir.path().join("inner.onnx"), dir.path().join("in.onnx"));
    decoder(&inner);
    outside(&input, &inner);
    let output = dir.path().join("out.onnx");
    fs::write(&output, "old").unwrap();
    let data = dir.path().join("out.onnx.data");
    fs::write(&data, "old data").unwrap();
    let before = files(dir.path());
    // Blocks of 512 or 1024 bytes: some of the files that are written fit, others don't.
    for blocks in [1, 40, 80] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let run = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_onnx-bsr")])
            .args([&input, &output])
            .args(["--ratio", "2", "--stream-above", "1K"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{blocks}: {said}");
        assert!(said.contains("write"), "{said}");
        assert_eq!(fs::read_to_string(&output).unwrap(), "old");
        assert_eq!(fs::read_to_string(&data).unwrap(), "old data");
        assert_eq!(files(dir.path()), before);
    }
}

/// Pieces of any size make what the whole graph makes.
#[test]
fn pieces_make_the_whole() {
    for name in ["mnist_conv.onnx", "residual.onnx", "attention.onnx", "matmul.onnx", "magika.onnx"]
    {
        let model = Model::read(&fixture(name)).unwrap();
        let specs = graph::inputs(&model).unwrap();
        let shapes: Vec<(String, Vec<usize>)> = specs
            .iter()
            .map(|spec| {
                let dims = spec.shape.iter().enumerate();
                let dims = dims.map(|(axis, d)| d.unwrap_or(if axis == 0 { 1 } else { 8 }));
                (spec.name.clone(), dims.collect())
            })
            .collect();
        let inputs = random_inputs(&specs, &shapes, 4).unwrap();
        let whole = Evaluator::new(&model).unwrap().run(inputs.clone()).unwrap();
        let mut counts = Vec::new();
        for bytes in [1, 4000, u64::MAX] {
            let mut run = Pieces::new(&model, bytes, &inputs, &[]).unwrap();
            counts.push(run.len());
            run.finish().unwrap();
            for (output, expected) in model.graph().output.iter().zip(&whole) {
                let made = run.value(output.name()).unwrap();
                assert_eq!(made.shape(), expected.shape(), "{name}");
                let (made, expected) = (made.to_f64_vec(), expected.to_f64_vec());
                assert!(off(&made, &expected) < 1e-5, "{name} in pieces of {bytes}");
            }
        }
        assert!(counts[0] > counts[2] && counts[2] == 1, "{name}: {counts:?}");
    }
}

/// NaN, and a ratio that is out of reach, are refused as ever.
#[test]
fn faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.onnx"), dir.path().join("bad.onnx"));
    decoder(&good);
    let mut model = Model::read(&good).unwrap();
    let mut elements: Vec<f32> =
        weight(96, 320, 0.1).to_f64_vec().iter().map(|&v| v as f32).collect();
    elements[500] = f32::NAN;
    let tensor = Tensor::from_vec(&[96, 320], elements).unwrap();
    graph::set_constant(model.graph_mut(), TensorProto::from_tensor("up", &tensor));
    model.write(&bad).unwrap();
    let output = dir.path().join("out.onnx");
    let refused = |input: &Path, ratio| {
        compress(&request(input, &output, ratio, 1), &Silent).unwrap_err().to_string()
    };
    assert!(refused(&bad, 2.0).contains("NaN"));
    assert!(refused(&good, 1e6).contains("ratio"));
    assert_eq!(files(dir.path()), ["bad.onnx", "good.onnx"]);
}
