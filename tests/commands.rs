//! The commands that change nothing, on the fixtures.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use onnx_bsr::onnx::proto::{
    StringStringEntryProto, TensorShapeProto,
    tensor_proto::DataLocation,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use onnx_bsr::onnx::{Model, TensorProto, TypeProto, ValueInfoProto};
use onnx_bsr::tensor::Tensor;
use prost::Message;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn run(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .current_dir(fixture(""))
        .args(line.split_whitespace())
        .output()
        .expect("the program runs")
}

fn json(line: &str) -> (Value, i32) {
    let output = run(line);
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{line}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
    (value, output.status.code().expect("a code"))
}

#[test]
fn eval_tells_the_metric() {
    let (report, code) = json("eval mnist_conv.onnx --data mnist_heldout.npz --json");
    assert_eq!(code, 0);
    assert_eq!(report["metric"]["name"], "top1");
    assert_eq!(report["metric"]["samples"], 1000);
    let value = report["metric"]["value"].as_f64().expect("a number");
    assert!((value - 99.2).abs() < 0.15, "{value}");

    let text = run("eval mnist_conv.onnx --data mnist_heldout.npz --threads 1");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.starts_with("top1 99.") && !text.contains('\x1b'), "{text}");
}

/// Two implementations of the same arithmetic: predictions are equal, other metrics nearly so.
#[test]
fn eval_agrees_between_runtimes() {
    let value = |line: &str, runtime: &str| {
        let (report, code) = json(&format!("{line} --runtime {runtime} --json"));
        assert_eq!((code, report["runtime"].as_str()), (0, Some(runtime)));
        report["metric"]["value"].as_f64().expect("a number")
    };
    let line = "eval mnist_conv.onnx --data mnist_heldout.npz";
    assert_eq!(value(line, "native"), value(line, "tract"));

    let dir = tempfile::tempdir().expect("a folder");
    let other = dir.path().join("other.onnx");
    let mut model = Model::read(&fixture("mnist_conv.onnx")).expect("a model");
    for tensor in &mut model.graph_mut().initializer {
        // Two bits of mantissa are left of every weight.
        let mut raw = tensor.raw_data().to_vec();
        raw.iter_mut().skip(1).step_by(4).for_each(|byte| *byte = 0);
        raw.iter_mut().skip(2).step_by(4).for_each(|byte| *byte &= 0xc0);
        tensor.raw_data = Some(raw.into());
    }
    model.write(&other).expect("written");
    let line = format!(
        "eval {} --data mnist_heldout.npz --reference mnist_conv.onnx --metric relative-error",
        other.display()
    );
    let (native, tract) = (value(&line, "native"), value(&line, "tract"));
    assert!(native > 0.1 && (native - tract).abs() < 1e-3 * native, "{native} {tract}");
}

#[test]
fn eval_takes_open_dims_from_the_data() {
    let line = "eval ppocr_cls.onnx --data ppocr_cls_data.npz --mean 0.5 --std 0.5 --json";
    let (report, _) = json(line);
    assert_eq!(report["metric"]["value"], 100.0);
}

#[test]
fn eval_without_labels_compares_with_a_reference() {
    let line = "eval basic_pitch.onnx --data basic_pitch_data.npz --reference basic_pitch.onnx \
                --metric cosine --json";
    let (report, code) = json(line);
    assert_eq!(code, 0);
    let value = report["metric"]["value"].as_f64().expect("a number");
    assert!((value - 100.0).abs() < 1e-6, "{value}");
}

#[test]
fn check_finds_equal_and_unequal_models() {
    let (report, code) = json("check residual.onnx residual.onnx --json");
    assert_eq!((report["equal"].as_bool(), code), (Some(true), 0));
    assert_eq!(report["outputs"][0]["max_abs_difference"], 0.0);

    let dir = tempfile::tempdir().expect("a folder");
    let other = dir.path().join("other.onnx");
    let mut model = Model::read(&fixture("mnist_conv.onnx")).expect("a model");
    let weight = model.graph_mut().initializer.first_mut().expect("a weight");
    let zeros = vec![0; weight.raw_data().len()];
    weight.raw_data = Some(zeros.into());
    model.write(&other).expect("written");
    let line = format!("check mnist_conv.onnx {} --data mnist_heldout.npz --json", other.display());
    let (report, code) = json(&line);
    assert_eq!((report["equal"].as_bool(), code), (Some(false), 3));
    assert_eq!(report["samples"], 1000);
}

#[test]
fn check_refuses_models_of_other_inputs() {
    let output = run("check residual.onnx mnist_conv.onnx");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("inputs differ"));
}

#[test]
fn bench_times_both() {
    let (report, code) = json("bench mnist_conv.onnx mnist_conv.onnx --runs 20 --json");
    assert_eq!(code, 0);
    assert_eq!(report["runs"], 20);
    let ratio = report["ratio"].as_f64().expect("a number");
    assert!(ratio > 0.2 && ratio < 5.0, "{ratio}");
}

/// A model's external data are part of it, before and after.
#[test]
fn gzip_sizes_count_external_data() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let (input, output) = (at("in.onnx"), at("out.onnx"));
    let mut proto = Model::read(&fixture("mnist_conv.onnx")).expect("a model").proto;
    let mut data = Vec::new();
    for tensor in &mut proto.graph.as_mut().expect("a graph").initializer {
        let raw = tensor.raw_data.take().expect("raw data");
        let entries = [
            ("location", "weights.bin".to_owned()),
            ("offset", data.len().to_string()),
            ("length", raw.len().to_string()),
        ];
        tensor.external_data = entries
            .map(|(key, value)| StringStringEntryProto {
                key: Some(key.into()),
                value: Some(value),
            })
            .into();
        tensor.data_location = Some(DataLocation::External.into());
        data.extend_from_slice(&raw);
    }
    std::fs::write(&input, proto.encode_to_vec()).expect("written");
    std::fs::write(at("weights.bin"), &data).expect("written");
    let line = format!("{} {} --ratio 1.5 --json", input.display(), output.display());
    let (report, code) = json(&line);
    assert_eq!(code, 0);
    let gzip = |model: &str, files: &[&str]| {
        let paths: Vec<PathBuf> = files.iter().map(|name| at(name)).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let expected = onnx_bsr::report::gzip_bytes(&paths).expect("a size");
        assert_eq!(report[model]["gzip_bytes"], expected, "{model}");
        expected
    };
    // Random-like mantissas hardly compress: most of the weights' bytes stay.
    assert!(gzip("model", &["in.onnx", "weights.bin"]) > data.len() as u64 / 2);
    gzip("output", &["out.onnx", "out.onnx.data"]);
}

/// The change of the mean joins the bias that follows a product, types recorded for values that stay
/// are kept, and what the report says of each layer adds up to the file.
#[test]
fn corrections_join_the_bias_that_follows() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, output) = (dir.path().join("in.onnx"), dir.path().join("out.onnx"));
    let mut model = Model::read(&fixture("attention.onnx")).expect("a model");
    // As exporters do, with the names of the open dims.
    let open = |name: &str| Dimension {
        value: Some(dimension::Value::DimParam(name.to_owned())),
        denotation: None,
    };
    let dims = vec![open("batch"), open("sequence"), Dimension::default()];
    let shape = TensorShapeProto { dim: dims };
    let float = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(float)), denotation: None };
    for name in ["query_product", "query", "gelu"] {
        model.graph_mut().value_info.push(ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(kind.clone()),
            ..ValueInfoProto::default()
        });
    }
    model.write(&input).expect("written");
    for set in 0..24i64 {
        let folder = dir.path().join(format!("test_data_set_{set}"));
        std::fs::create_dir(&folder).expect("a folder");
        let ids: Vec<i64> = (0..8).map(|at| (set * 7 + at * (set % 5 + 3)) % 40).collect();
        for (file, name, values) in
            [("input_0.pb", "input_ids", ids), ("input_1.pb", "attention_mask", vec![1; 8])]
        {
            let tensor = Tensor::from_vec(&[1, 8], values).expect("a tensor");
            let bytes = TensorProto::from_tensor(name, &tensor).encode_to_vec();
            std::fs::write(folder.join(file), bytes).expect("written");
        }
    }
    let (report, code) = json(&format!(
        "{} {} --ratio 1.3 --data {} --search start --json",
        input.display(),
        output.display(),
        dir.path().display()
    ));
    assert_eq!(code, 0);
    let written = Model::read(&output).expect("a model");
    let count = |model: &Model, op_type: &str| {
        model.graph().node.iter().filter(|node| node.op_type() == op_type).count()
    };
    assert!(count(&written, "MatMul") > count(&model, "MatMul"), "something was factorized");
    assert_eq!(count(&written, "Add"), count(&model, "Add"));
    assert_eq!(written.graph().value_info, model.graph().value_info);

    let layers = report["layers"].as_array().expect("layers");
    let sum = |key: &str| layers.iter().map(|l| l[key].as_u64().expect("a count")).sum::<u64>();
    let params = |key: &str| report[key]["params"].as_u64().expect("a count");
    assert_eq!(
        params("model") - sum("params_before"),
        params("output") - sum("params_after"),
        "what belongs to no layer stays"
    );
}

/// Times of layers are measured once; a table of another machine is used as it is, or refused.
#[test]
fn a_target_of_latency_takes_times_from_a_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let (table, out) = (dir.path().join("table.json"), dir.path().join("out.onnx"));
    let (report, code) = json(&format!("bench mnist_conv.onnx --table {} --json", table.display()));
    assert_eq!(code, 0);
    let ms = |name: &str| report[name].as_f64().expect("a number");
    assert!(
        ms("model_ms") > 0.0 && ms("layers_ms") > 0.0 && ms("layers_ms") < 2.0 * ms("model_ms")
    );

    let line = format!(
        "mnist_conv.onnx {} --ratio 1.3 --target latency --latency-table {} --force --json",
        out.display(),
        table.display()
    );
    let text = std::fs::read_to_string(&table).expect("the table");
    let foreign = text.replace(report["machine"].as_str().expect("a name"), "another machine");
    assert_ne!(text, foreign);
    std::fs::write(&table, &foreign).expect("written");
    let (report, code) = json(&line);
    // How fast the file is in the end, the machine decides.
    assert!(code == 0 || code == 3, "{code}");
    assert_eq!(report["ratio"]["target"], "latency");
    assert!(report["output"]["macs"].as_u64() < report["model"]["macs"].as_u64());
    assert_eq!(std::fs::read_to_string(&table).expect("the table"), foreign, "nothing was lacking");

    let mut lacking: Value = serde_json::from_str(&foreign).expect("JSON");
    lacking["layers"] = serde_json::json!({});
    std::fs::write(&table, lacking.to_string()).expect("written");
    let output = run(&line);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("another machine") && error.contains("bench"), "{error}");
}

fn compress_judged(output: &Path, metric: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .current_dir(fixture(""))
        .args(["mnist_conv.onnx".as_ref(), output.as_os_str()])
        .args(["--metric", metric, "--json"])
        .args(more)
        .output()
        .expect("the program runs")
}

/// The number is the file's size, so that a smaller file has lost.
#[cfg(unix)]
#[test]
fn a_program_judges_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.onnx");
    let size = r#"cmd:sh -c 'echo one moment; wc -c < "$0"'"#;
    let judged = |more: &[&str]| {
        let output = compress_judged(&path, size, more);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report, output.status.code().expect("a code"))
    };
    let (report, code) = judged(&["--ratio", "2"]);
    assert_eq!(code, 0);
    let metric = &report["file_metric"];
    assert_eq!(metric["original"].as_f64(), report["model"]["bytes"].as_f64());
    assert_eq!(metric["written"].as_f64(), report["output"]["bytes"].as_f64());
    assert!(report["metric"].is_null());

    let (report, code) = judged(&["--ratio", "2", "--max-drop", "1000"]);
    let missed = report["missed"][0].as_str().expect("a miss");
    assert!(code == 3 && missed.contains("points of sh -c"), "{missed}");
    assert_eq!(judged(&["--ratio", "2", "--max-drop", "1e9"]).1, 0);

    // Only the written file's name ends so.
    let fails = r#"cmd:sh -c 'case "$0" in *out.onnx) exit 7;; esac; echo 1'"#;
    std::fs::remove_file(&path).expect("the file of before");
    let output = compress_judged(&path, fails, &["--ratio", "2", "--max-drop", "1"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["file_metric"]["written"].is_null());
    assert!(report["missed"][0].as_str().expect("a miss").contains("exit status: 7"));
    assert!(output.status.code() == Some(3) && path.is_file());

    let evaluated = Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .current_dir(fixture(""))
        .args(["eval", "mnist_conv.onnx", "--json", "--metric", size])
        .output()
        .expect("the program runs");
    let report: Value = serde_json::from_slice(&evaluated.stdout).expect("JSON");
    assert_eq!(report["runtime"], "program");
    assert!(
        report["metric"]["value"].as_f64() > Some(1e5) && report["metric"]["samples"].is_null()
    );
}

#[cfg(unix)]
#[test]
fn a_program_that_judges_nothing_ends_the_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.onnx");
    for (metric, more, reason) in [
        ("cmd:false", "2", "ended with exit status: 1"),
        ("cmd:echo 92 percent", "2", "not a number"),
        ("cmd:true", "2", "printed nothing"),
        ("cmd:/no/such/judge", "2", "can't be started"),
    ] {
        let output = compress_judged(&path, metric, &["--ratio", more]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(reason) && text.contains("hint: the program is given"), "{text}");
    }
    let output = compress_judged(&path, "cmd:echo 1", &["--max-drop", "1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("give --ratio too"));
    assert!(!path.exists());
}

#[test]
fn completions_and_manuals_are_printed() {
    let output = run("completions bash");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("_onnx"));
    assert!(String::from_utf8_lossy(&run("man eval").stdout).contains("onnx\\-bsr\\-eval"));
    assert_eq!(run("man nothing").status.code(), Some(1));
}

/// Nothing but the report where `--quiet` is given; colours and bars are for terminals alone.
#[test]
fn quiet_is_quiet() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.onnx");
    let line = |more: &str| format!("mnist_conv.onnx {} --ratio 2 {more}", path.display());
    let quiet = run(&line("--quiet"));
    assert!(quiet.status.success() && quiet.stderr.is_empty() && !quiet.stdout.is_empty());
    let loud = run(&line("-v"));
    let text = String::from_utf8_lossy(&loud.stderr).into_owned();
    assert!(text.contains("info: factorize") && !text.contains('\x1b'), "{text}");
}
