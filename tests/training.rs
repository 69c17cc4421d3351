//! Training within a compression, through the library.

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
use onnx_bsr::onnx::proto::{tensor_shape_proto::dimension, type_proto};
use onnx_bsr::options::{Options, SearchMode};
use onnx_bsr::progress::{Progress, Silent};
use onnx_bsr::score::Scorer;
use onnx_bsr::tune::{Student, trainable};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn source(name: &str) -> DataSource {
    DataSource { path: fixture(name), labels: None, preprocess: Preprocess::default() }
}

/// The digits to a sixteenth, trained for a short while.
fn request(folder: &Path) -> Request {
    Request {
        input: fixture("mnist_conv.onnx"),
        output: folder.join("out.onnx"),
        data: Some(source("mnist_train.npz")),
        test: Some(source("mnist_heldout.npz")),
        train: Some(source("mnist_train.npz")),
        resume: None,
        shapes: Vec::new(),
        save_plan: Some(folder.join("plan.json")),
        force: false,
        options: Options {
            ratio: Some(16.0),
            search: SearchMode::Start,
            calibration_samples: 200,
            search_samples: 150,
            epochs: Some(0.8),
            ..Options::default()
        },
    }
}

/// The trained file is better than the factorized one, and its plan makes the same bytes of the
/// original without data.
#[test]
fn training_recovers_what_the_ratio_cost_and_replays() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path());
    let report = compress(&request, &Silent).unwrap();
    let metric = report.metric.unwrap();
    let (factorized, tuned) = (metric.factorized.unwrap(), metric.tuned.unwrap());
    assert!(tuned > factorized + 1.0, "{factorized} before, {tuned} after");
    assert!((metric.written.unwrap() - tuned).abs() < 0.11);
    let training = report.training.unwrap();
    assert_eq!(training.stages.len(), 1);
    assert!(training.stages[0].score_after < training.stages[0].score_before);
    // Digits are not mirrored, but moved.
    assert_eq!(training.augmentation, "shifts");
    // The search's samples are not trained on.
    assert_eq!(training.samples, 4000 - 150);

    let again = folder.path().join("again.onnx");
    apply(&request.input, request.save_plan.as_ref().unwrap(), &again, false).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&request.output).unwrap());
}

/// Training towards the ranks makes the weights lose less where they are cut.
#[test]
fn the_modified_stable_rank_moves_energy_into_the_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    request.options.ratio = Some(8.0);
    request.options.msr = 20.0;
    request.options.epochs = Some(5.0);
    let stages = compress(&request, &Silent).unwrap().training.unwrap().stages;
    assert_eq!(stages.iter().map(|s| s.stage.as_str()).collect::<Vec<_>>(), ["msr", "tune"]);
    let (before, after) = (stages[0].tail_before.unwrap(), stages[0].tail_after.unwrap());
    assert!(after < 0.9 * before, "{before} before, {after} after");
}

/// Without labels the original's outputs are imitated.
#[test]
fn no_labels_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    let unlabelled = folder.path().join("digits.npz");
    let mut archive = zip::ZipArchive::new(fs::File::open(fixture("mnist_train.npz")).unwrap());
    let mut written = zip::ZipWriter::new(fs::File::create(&unlabelled).unwrap());
    let archive = archive.as_mut().unwrap();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).unwrap();
        if !file.name().starts_with("labels") {
            written.raw_copy_file(file).unwrap();
        }
    }
    written.finish().unwrap();
    let unlabelled =
        DataSource { path: unlabelled, labels: None, preprocess: Preprocess::default() };
    (request.data, request.train) = (Some(unlabelled.clone()), Some(unlabelled));
    let metric = compress(&request, &Silent).unwrap().metric.unwrap();
    assert!(metric.tuned.unwrap() > metric.factorized.unwrap(), "{metric:?}");
}

/// Asks to stop once so many checks of training were made.
struct StopAfter {
    checks: AtomicU64,
    tuning: AtomicBool,
}

impl Progress for StopAfter {
    fn phase(&self, name: &str, _: Option<u64>) {
        self.tuning.store(matches!(name, "tune" | "msr"), Ordering::SeqCst);
    }
    fn step(&self, _: u64, note: &str) {
        if self.tuning.load(Ordering::SeqCst) && note.contains("score") {
            self.checks.fetch_sub(1, Ordering::SeqCst);
        }
    }
    fn warn(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.tuning.load(Ordering::SeqCst) && self.checks.load(Ordering::SeqCst) == 0
    }
}

/// Interrupted in the first or the second of two trainings and started again, a run ends with the
/// bytes of one that was left alone; the state it kept is gone then.
#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    request.options.msr = 0.5;
    request.options.epochs = Some(0.4);
    request.save_plan = None;
    compress(&request, &Silent).unwrap();
    let whole = fs::read(&request.output).unwrap();
    let state = folder.path().join("state");
    request.resume = Some(state.clone());
    for checks in [2, 9] {
        fs::remove_file(&request.output).unwrap();
        let stop = StopAfter { checks: AtomicU64::new(checks), tuning: AtomicBool::new(false) };
        let stopped = compress(&request, &stop);
        assert!(matches!(stopped, Err(Error::Interrupted)), "{checks}");
        assert!(state.exists() && !request.output.exists());

        let mut other = request.clone();
        other.options.seed = 1;
        let refused = compress(&other, &Silent);
        assert!(matches!(refused, Err(Error::Option { .. })), "a state of another seed is used");

        compress(&request, &Silent).unwrap();
        assert!(fs::read(&request.output).unwrap() == whole, "stopped after {checks} checks");
        assert!(!state.exists());
    }
}

/// Samples that are reported on are not trained on.
#[test]
fn training_on_the_test_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    request.train = request.test.clone();
    let error = compress(&request, &Silent).unwrap_err();
    assert!(matches!(&error, Error::Option { option, .. } if option == "--train"), "{error}");
    request.test = None;
    request.train = request.data.take();
    let error = compress(&request, &Silent).unwrap_err();
    assert!(error.to_string().contains("--data"), "{error}");
    assert!(!request.output.exists());
}

/// A model that takes eight samples at a time has the gradients of one that takes any number, on sets of
/// samples that are no multiple of eight.
#[test]
fn a_fixed_batch_is_filled_up() {
    let free = Model::read(&fixture("mnist_conv.onnx")).unwrap();
    let mut eight = free.clone();
    let input = eight.graph_mut().input[0].r#type.as_mut().unwrap();
    let Some(type_proto::Value::TensorType(tensor)) = &mut input.value else { panic!("a tensor") };
    tensor.shape.as_mut().unwrap().dim[0].value = Some(dimension::Value::DimValue(8));
    let data = Dataset::open(
        &fixture("mnist_train.npz"),
        &graph::inputs(&free).unwrap(),
        None,
        &Preprocess::default(),
    )
    .unwrap();
    let lanes: [&[usize]; 2] = [&[5, 9, 100], &[3, 1, 4, 15, 9, 2, 6, 53, 58, 97]];
    let slopes = |model: &Model| {
        let original = Evaluator::new(model).unwrap();
        let digits = data.batch(lanes[1]).unwrap();
        let outputs = original.run_all(&digits).unwrap();
        let labels = data.labels(lanes[1]).unwrap();
        let scorer = Scorer::new(outputs, labels, None, None).unwrap();
        let names = trainable(model).unwrap();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let student = Student::new(model, &names, &original, &data, &scorer).unwrap();
        student.slopes(&student.parameters(), &lanes, 7).unwrap()
    };
    for ((loss, gradients), (expected, wanted)) in slopes(&eight).iter().zip(slopes(&free)) {
        assert!(*loss > 0.0 && (loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
        for (given, wanted) in gradients.iter().zip(&wanted) {
            let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-4 * largest;
            assert!(!given.iter().zip(wanted).any(differs));
        }
    }
}
