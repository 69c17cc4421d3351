//! Quantization as part of a compression, and on the command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use onnx_bsr::compress::{DataSource, Request, apply, compress, inspect};
use onnx_bsr::dataset::Preprocess;
use onnx_bsr::options::{Form, Options, SearchMode};
use onnx_bsr::progress::Silent;
use onnx_bsr::report::{Action, Report};

use super::path;

fn source(name: &str) -> DataSource {
    DataSource { path: path(name), arrays: None, labels: None, preprocess: Preprocess::default() }
}

fn request(folder: &Path, options: Options) -> Request {
    Request {
        input: path("mnist_conv.onnx"),
        output: folder.join("out.onnx"),
        data: Some(source("mnist_train.npz")),
        test: Some(source("mnist_heldout.npz")),
        train: None,
        resume: None,
        shapes: Vec::new(),
        report: None,
        command: Vec::new(),
        save_plan: Some(folder.join("plan.json")),
        force: false,
        file_metric: None,
        options: Options {
            search: SearchMode::Start,
            calibration_samples: 200,
            search_samples: Some(150),
            ..options
        },
    }
}

/// Compresses, replays the plan to the same bytes, and checks what the report says of the file.
fn checked(options: Options) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), options);
    let report = compress(&request, &Silent).unwrap();
    let again = folder.path().join("again.onnx");
    let replayed = apply(&request.input, &folder.path().join("plan.json"), &again, false).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&request.output).unwrap(), "another file");
    assert_eq!(replayed.output.bytes, report.output.bytes);
    assert_eq!(report.output.bytes, fs::metadata(&again).unwrap().len());
    let totals = inspect(&again, &[], None, &Options::default()).unwrap().totals;
    assert_eq!((totals.params, totals.macs), (report.output.params, report.output.macs));
    let (metric, quantization) = (report.metric.clone().unwrap(), report.quantization.clone());
    let quantization = quantization.unwrap();
    assert_eq!(quantization.form, request.options.quantize.unwrap().name());
    assert!(quantization.bytes_before > report.output.bytes);
    if let Some(written) = metric.written {
        assert!((metric.quantized.unwrap() - written).abs() < 0.25, "{metric:?}");
    }
    report
}

#[test]
fn every_form_keeps_the_metric() {
    for form in Form::ALL {
        // Integer products take long in tract.
        if form == Form::Int8Dynamic {
            continue;
        }
        let report = checked(Options { quantize: Some(form), ..Options::default() });
        let metric = report.metric.unwrap();
        assert!(metric.original - metric.quantized.unwrap() <= 0.5, "{form}: {metric:?}");
        assert_eq!(metric.written.is_some(), form.runs_in_tract(), "{form}");
        assert_eq!(report.validation.is_some(), form.runs_in_tract(), "{form}");
        assert!(metric.factorized.is_none() && report.search.is_none());
        let ratio = report.ratio.reached.unwrap();
        let least = match form {
            Form::Fp16 => 1.95,
            Form::Int4 | Form::Int4Dq => 5.0,
            Form::Auto => 3.7,
            _ => 3.7,
        };
        assert!(ratio > least, "{form}: {ratio}");
        let bits = report.layers.iter().filter_map(|l| l.bits).max();
        assert_eq!(bits, Some(if form == Form::Fp16 { 16 } else { 8 }), "{form}");
    }
}

/// A ratio counts what both do together.
#[test]
fn one_budget_for_rank_and_bits() {
    let joint = |ratio| {
        let options =
            Options { ratio: Some(ratio), quantize: Some(Form::Int8), ..Options::default() };
        let report = checked(options);
        assert!(report.missed.is_empty(), "{:?}", report.missed);
        assert!(report.ratio.reached.unwrap() >= ratio);
        report
    };
    // Eight bits alone reach this one: no rank is given up.
    let easy = joint(3.5);
    assert!(easy.layers.iter().all(|l| l.action != Action::Factorize));
    let hard = joint(16.0);
    assert!(hard.ratio.reached.unwrap() < 17.0, "{:?}", hard.ratio);
    assert!(hard.layers.iter().any(|l| l.action == Action::Factorize && l.bits == Some(8)));
    let alone = checked_rank_only(16.0);
    let metric = |report: &Report| report.metric.as_ref().unwrap().written.unwrap();
    assert!(metric(&hard) >= metric(&alone), "{} against {}", metric(&hard), metric(&alone));
}

fn checked_rank_only(ratio: f64) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { ratio: Some(ratio), ..Options::default() };
    compress(&request(folder.path(), options), &Silent).unwrap()
}

/// What a form adds around its weights counts too.
#[test]
fn every_form_keeps_a_budget() {
    for form in [Form::Int8Qdq, Form::Int4, Form::Fp16] {
        let ratio = 12.0;
        let options = Options { ratio: Some(ratio), quantize: Some(form), ..Options::default() };
        let report = checked(options);
        let reached = report.ratio.reached.unwrap();
        assert!((ratio..1.1 * ratio).contains(&reached), "{form}: {reached}");
    }
}

/// Training comes first, and its result is what is rounded.
#[test]
fn training_comes_before_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        ratio: Some(24.0),
        quantize: Some(Form::Int8),
        epochs: Some(0.3),
        ..Options::default()
    };
    let request =
        Request { train: Some(source("mnist_train.npz")), ..request(folder.path(), options) };
    let report = compress(&request, &Silent).unwrap();
    let metric = report.metric.unwrap();
    assert!((metric.tuned.unwrap() - metric.quantized.unwrap()).abs() < 0.6, "{metric:?}");
    let again = folder.path().join("again.onnx");
    apply(&request.input, &folder.path().join("plan.json"), &again, false).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&request.output).unwrap(), "another file");
}

#[test]
fn faults_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let run = |line: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
            .current_dir(path(""))
            .args(line.split_whitespace())
            .arg(&out)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (line, code, part) in [
        ("--quantize=int8-qdq mnist_conv.onnx", 1, "--data"),
        ("--quantize=int3 mnist_conv.onnx", 2, "none of int8, int4"),
        ("mnist_conv.onnx", 2, "--ratio"),
    ] {
        let (found, text) = run(line);
        assert!(found == code && text.contains(part), "{line}: {found} {text}");
        assert!(!out.exists());
    }
    let (code, text) = run("--quantize=int8 mnist_conv.onnx");
    assert!(code == 0 && out.exists(), "{text}");
    // The result is not taken again.
    let again = folder.path().join("again.onnx");
    let output = Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .args([out.as_os_str(), again.as_os_str()])
        .arg("--quantize")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("quantized already"), "{text}");
}
