//! Training with weights as they will be rounded: what is trained is what is written.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use onnx_bsr::compress::{DataSource, Request, apply, compress};
use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::error::Error;
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::onnx::Model;
use onnx_bsr::options::{Form, Options, SearchMode};
use onnx_bsr::progress::{Progress, Silent};
use onnx_bsr::quantize::{Calibration, Grid, Settings, Settled, rounded};
use onnx_bsr::report::Report;
use onnx_bsr::score::{Objective, Scorer};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::tune::{Grids, Student, trainable};
use onnx_bsr::validate::Session;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn source(name: &str) -> DataSource {
    DataSource {
        path: fixture(name),
        arrays: None,
        labels: None,
        preprocess: Preprocess::default(),
    }
}

/// The digits in fewer bits at a ratio, trained for a short while.
fn request(folder: &Path, form: Form, ratio: f64) -> Request {
    Request {
        input: fixture("mnist_conv.onnx"),
        output: folder.join("out.onnx"),
        data: Some(source("mnist_train.npz")),
        test: Some(source("mnist_heldout.npz")),
        train: Some(source("mnist_train.npz")),
        resume: None,
        shapes: Vec::new(),
        report: None,
        command: Vec::new(),
        save_plan: Some(folder.join("plan.json")),
        force: false,
        file_metric: None,
        options: Options {
            ratio: Some(ratio),
            quantize: Some(form),
            search: SearchMode::Start,
            calibration_samples: 200,
            search_samples: Some(150),
            epochs: Some(1.0),
            ..Options::default()
        },
    }
}

/// Compresses, and replays the plan to the same bytes.
fn replayed(request: &Request) -> Report {
    let report = compress(request, &Silent).unwrap();
    let again = request.output.with_extension("again");
    apply(&request.input, request.save_plan.as_ref().unwrap(), &again, true).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&request.output).unwrap(), "another file");
    report
}

/// The loss that a student has with its parameters rounded is that of the written file in tract, however
/// elements and steps have moved; its gradient passes to the elements.
#[test]
fn what_is_trained_is_what_is_written() {
    let model = Model::read(&fixture("mnist_conv.onnx")).unwrap();
    let specs = graph::inputs(&model).unwrap();
    let data =
        Dataset::open(&fixture("mnist_train.npz"), &specs, None, &Preprocess::default()).unwrap();
    let original = Evaluator::new(&model).unwrap();
    let samples: Vec<usize> = (0..48).collect();
    let digits = data.batch(&samples).unwrap();
    let labels = data.labels(&samples).unwrap();
    let classes: Vec<usize> = match labels.as_ref() {
        Some(labels) => labels.iter().map(|&l| l as usize).collect(),
        None => panic!("no labels"),
    };
    let scorer =
        Scorer::new(original.run_all(&digits).unwrap(), labels.clone(), None, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.onnx");
    for (form, seven_bits) in
        [(Form::Int8, false), (Form::Int4, false), (Form::Int8Qdq, false), (Form::Int8Qdq, true)]
    {
        // Blocks of 32 stay packed in tract, which rounds their products more coarsely than is asked here.
        let settings = Settings { form, seven_bits, block: 64, ..Settings::default() };
        let batch = |_: usize, _: &Evaluator| Ok((digits.clone(), 0..48));
        let calibration = Calibration { runs: 1, samples: 48, tokens: None, inputs: &batch };
        let found = rounded(&model, &settings, &Settled::default(), Some(&calibration)).unwrap();
        let floats = found.quantization.stands_for(&model).unwrap();
        let seen = found.quantization.of_values().apply(&floats).unwrap();
        let names = trainable(&seen).unwrap();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut student = Student::new(&seen, &names, &original, &data, &scorer).unwrap();
        assert!(student.obstacles().is_empty(), "{form}");
        student.objective = Objective { labels: 1.0, distill: 0.0, ..student.objective };
        let own = student.parameters();
        let grids = Grids::new(Grid::all(&found, &settings), &own);
        let mut parameters = grids.begin(own.clone());
        assert!(parameters.len() > own.len());
        // To begin with it is the model as it was rounded.
        assert_eq!(grids.rounded(&parameters), own);
        for (index, parameter) in parameters.iter_mut().enumerate() {
            let size = if index < own.len() { 0.1 } else { 0.2 };
            for (at, value) in parameter.values.iter_mut().enumerate() {
                *value += size * ((at * 7 + index) as f32).sin();
            }
        }
        let shown = grids.rounded(&parameters);
        let slopes = student.slopes(&shown, &[&samples], 3).unwrap().remove(0);
        let (loss, gradients) = grids.back(&parameters, slopes);
        assert_eq!(gradients.len(), parameters.len());
        for (parameter, gradient) in parameters.iter().zip(&gradients) {
            assert_eq!(parameter.values.len(), gradient.len());
            assert!(gradient.iter().any(|g| *g != 0.0), "{form}: `{}`", parameter.name);
        }

        let mut floats = floats;
        for parameter in &shown {
            let tensor = Tensor::from_vec(&parameter.shape, parameter.values.clone()).unwrap();
            let proto = onnx_bsr::onnx::TensorProto::from_tensor(&parameter.name, &tensor);
            assert!(graph::set_constant(floats.graph_mut(), proto));
        }
        let stored = found.quantization.with(&floats, grids.stored(&parameters)).unwrap();
        stored.apply(&floats).unwrap().write(&file).unwrap();
        let session = Session::open_for(&file, &data.batch(&[0]).unwrap()).unwrap();
        let mut expected = 0.0;
        for (at, class) in classes.iter().enumerate() {
            let logits = session.run(&data.batch(&[at]).unwrap()).unwrap()[0].to_f64_vec();
            let most = logits.iter().fold(f64::MIN, |m, v| m.max(*v));
            let sum: f64 = logits.iter().map(|v| (v - most).exp()).sum();
            expected += sum.ln() + most - logits[*class];
        }
        // Values may fall to either side between two levels, and biases are rounded there.
        let most = if form == Form::Int8Qdq { 0.02 } else { 1e-4 };
        assert!(expected > 1.0, "{form}: too little is lost to tell");
        assert!((loss - expected).abs() < most * expected, "{form}: {loss} {expected}");
    }
}

/// In the last part of the training weights are rounded; what is kept loses less than what was rounded
/// afterwards, and is written as it is.
#[test]
fn the_last_part_of_training_is_for_the_bits() {
    for (form, ratio) in [(Form::Int4, 20.0), (Form::Int8Qdq, 12.0), (Form::Int8, 16.0)] {
        let folder = tempfile::tempdir().unwrap();
        let request = request(folder.path(), form, ratio);
        let report = replayed(&request);
        let stages = report.training.unwrap().stages;
        let names: Vec<&str> = stages.iter().map(|s| s.stage.as_str()).collect();
        assert_eq!(names, ["tune", "round"], "{form}");
        let epochs: f64 = stages.iter().map(|s| s.epochs).sum();
        assert!((epochs - 1.0).abs() < 0.1, "{form}: {epochs} of the budget");
        let last = &stages[1];
        let sum = |held: f64, fitted: Option<f64>| held + fitted.unwrap_or(0.0);
        assert!(
            sum(last.score_after, last.fitted_after) <= sum(last.score_before, last.fitted_before)
        );
        let metric = report.metric.unwrap();
        assert!((metric.written.unwrap() - metric.quantized.unwrap()).abs() < 0.25, "{metric:?}");
        assert!(report.ratio.reached.unwrap() >= ratio, "{form}: {:?}", report.ratio);
    }
}

/// Four bits lose much that training with them wins back.
#[test]
fn training_with_the_bits_wins_back_what_they_cost() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), Form::Int4, 20.0);
    request.options.block = 256;
    let last = replayed(&request).training.unwrap().stages.remove(1);
    assert!(last.score_after < last.score_before, "{last:?}");
    request.options.rounded_share = 0.0;
    let report = replayed(&request);
    assert_eq!(report.training.unwrap().stages.len(), 1);
}

/// Asks to stop once so many checks of the last training were made.
struct StopAfter {
    checks: AtomicU64,
    rounding: AtomicBool,
}

impl Progress for StopAfter {
    fn phase(&self, name: &str, _: Option<u64>) {
        self.rounding.store(name == "round", Ordering::SeqCst);
    }
    fn step(&self, _: u64, note: &str) {
        if self.rounding.load(Ordering::SeqCst) && note.contains("score") {
            self.checks.fetch_sub(1, Ordering::SeqCst);
        }
    }
    fn warn(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.rounding.load(Ordering::SeqCst) && self.checks.load(Ordering::SeqCst) == 0
    }
}

/// Interrupted while weights are rounded and started again, a run ends with the bytes of one that was
/// left alone.
#[test]
fn it_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), Form::Int4, 16.0);
    request.options.epochs = Some(0.6);
    request.save_plan = None;
    compress(&request, &Silent).unwrap();
    let whole = fs::read(&request.output).unwrap();
    fs::remove_file(&request.output).unwrap();
    request.resume = Some(folder.path().join("state"));
    let stop = StopAfter { checks: AtomicU64::new(3), rounding: AtomicBool::new(false) };
    let stopped = compress(&request, &stop);
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert!(!request.output.exists());
    compress(&request, &Silent).unwrap();
    assert!(fs::read(&request.output).unwrap() == whole);
}
