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
use onnx_bsr::onnx::proto::{tensor_shape_proto::dimension, type_proto};
use onnx_bsr::onnx::{Model, TensorProto};
use onnx_bsr::options::{Options, SearchMode};
use onnx_bsr::progress::{Progress, Silent};
use onnx_bsr::score::{Objective, Scorer};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::tune::{Augmentation, Parameter, Student, trainable};

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
        report: None,
        command: Vec::new(),
        save_plan: Some(folder.join("plan.json")),
        force: false,
        file_metric: None,
        options: Options {
            ratio: Some(16.0),
            search: SearchMode::Start,
            calibration_samples: 200,
            search_samples: Some(150),
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
    assert!(training.stages[0].fitted_after < training.stages[0].fitted_before);
    assert!(training.stages[0].fitted_before.is_some());
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
    let unlabelled = DataSource {
        path: unlabelled,
        arrays: None,
        labels: None,
        preprocess: Preprocess::default(),
    };
    (request.data, request.train) = (Some(unlabelled.clone()), Some(unlabelled));
    let report = compress(&request, &Silent).unwrap();
    let metric = report.metric.unwrap();
    assert!(metric.tuned.unwrap() > metric.factorized.unwrap(), "{metric:?}");
    // Only what knows labels can know them by heart.
    assert!(report.training.unwrap().stages[0].fitted_before.is_none());
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
fn assert_goes_on(request: &mut Request, folder: &Path) {
    request.save_plan = None;
    compress(request, &Silent).unwrap();
    let whole = fs::read(&request.output).unwrap();
    let state = folder.join("state");
    request.resume = Some(state.clone());
    for checks in [2, 5] {
        fs::remove_file(&request.output).unwrap();
        let stop = StopAfter { checks: AtomicU64::new(checks), tuning: AtomicBool::new(false) };
        let stopped = compress(request, &stop);
        assert!(matches!(stopped, Err(Error::Interrupted)), "{checks}");
        assert!(state.exists() && !request.output.exists());

        let mut other = request.clone();
        other.options.seed = 1;
        let refused = compress(&other, &Silent);
        assert!(matches!(refused, Err(Error::Option { .. })), "a state of another seed is used");

        compress(request, &Silent).unwrap();
        assert!(fs::read(&request.output).unwrap() == whole, "stopped after {checks} checks");
        assert!(!state.exists());
    }
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    request.options.msr = 0.5;
    request.options.epochs = Some(0.4);
    assert_goes_on(&mut request, folder.path());
}

/// The ranks of the second stage are searched in what the first one has trained.
#[test]
fn interrupted_stages_go_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    request.options.stages = Some(2);
    request.options.epochs = Some(0.6);
    assert_goes_on(&mut request, folder.path());
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

/// The conv digits as a student of themselves with changed weights, so that there is something to learn.
struct Case {
    model: Model,
    original: Evaluator,
    data: Dataset,
    scorer: Scorer,
    names: Vec<String>,
}

/// The value that the second layer reads.
fn inner_value(model: &Model) -> String {
    let nodes = &model.graph().node;
    let last = nodes.iter().rfind(|n| matches!(n.op_type(), "Conv" | "Gemm" | "MatMul")).unwrap();
    last.input[0].clone()
}

impl Case {
    fn new(observed: &[&str]) -> Self {
        let original = Model::read(&fixture("mnist_conv.onnx")).unwrap();
        let inputs = graph::inputs(&original).unwrap();
        let data =
            Dataset::open(&fixture("mnist_train.npz"), &inputs, None, &Preprocess::default())
                .unwrap();
        let names = trainable(&original).unwrap();
        let mut model = original.clone();
        for name in &names {
            let tensor = graph::constant_tensor(&model, name).unwrap().unwrap();
            let values = tensor.to_f64_vec();
            let moved =
                values.iter().enumerate().map(|(i, v)| (v * (1.0 + 0.2 * (i as f64).sin())) as f32);
            let moved = Tensor::from_vec(tensor.shape(), moved.collect::<Vec<f32>>()).unwrap();
            graph::set_constant(model.graph_mut(), TensorProto::from_tensor(name, &moved));
        }
        let original = Evaluator::observing(&original, observed).unwrap();
        let outputs = original.run_all(&data.batch(&[0, 1, 2]).unwrap()).unwrap();
        let labels = data.labels(&[0, 1, 2]).unwrap();
        let scorer = Scorer::new(outputs, labels, None, None).unwrap();
        Self { model, original, data, scorer, names }
    }

    fn student(&self, matched: &[(&str, f64)]) -> Student<'_> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        Student::matching(&self.model, &names, &self.original, &self.data, &self.scorer, matched)
            .unwrap()
    }
}

const LANES: [&[usize]; 2] = [&[5, 9, 100, 7, 8, 11], &[3, 1, 4, 15, 9, 2, 6, 53, 58, 97]];

fn assert_alike(given: &[(f64, Vec<Vec<f32>>)], wanted: &[(f64, Vec<Vec<f32>>)], tolerance: f64) {
    for ((loss, gradients), (expected, wanted)) in given.iter().zip(wanted) {
        assert!((loss - expected).abs() < tolerance * expected, "{loss} {expected}");
        for (given, wanted) in gradients.iter().zip(wanted) {
            let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let most = given.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most <= tolerance as f32 * largest, "{most} of {largest}");
        }
    }
}

/// Within less memory, by runs of fewer samples and by running stretches again, gradients are the same
/// but for rounding; a bound that can't be kept is refused with one that can.
#[test]
fn memory_is_bound_without_changing_gradients() {
    let case = Case::new(&[]);
    let mut student = case.student(&[]);
    student.augmentation = Augmentation { flip: true, shift: 32 };
    let parameters = student.parameters();
    let free = student.slopes(&parameters, &LANES, 7).unwrap();
    let wide = student.bind(usize::MAX / 16).unwrap();
    assert_eq!(student.slopes(&parameters, &LANES, 7).unwrap(), free);
    let (mut bytes, mut cut, mut least) = (8 * wide.bytes, false, 0);
    while bytes > 0 {
        match student.bind(bytes) {
            Ok(bound) => {
                assert!(bound.bytes * bound.at_once.min(8) <= bytes, "{bound:?} {bytes}");
                assert!(bound.at_once > 0);
                assert_alike(&student.slopes(&parameters, &LANES, 7).unwrap(), &free, 1e-5);
                cut |= bound.stretches > 1;
                least = bytes;
                // Runs of one sample fit into not much more than what stretches of one take.
                bytes = if bound.samples > 1 { bytes * 5 / 8 } else { bytes * 15 / 16 };
            }
            Err(error) => {
                let text = error.to_string();
                let named = text.split_whitespace().rev().find_map(|w| w.parse::<usize>().ok());
                let named = named.unwrap();
                assert!(bytes < named && named <= least, "{text}");
                assert!(student.bind(named).is_ok() && student.bind(named - 1).is_err());
                break;
            }
        }
    }
    assert!(cut, "nothing was run again");
}

/// The gradient of the errors of an inner value is their slope; layers behind that value have none.
#[test]
fn inner_values_are_matched() {
    let inner = inner_value(&Model::read(&fixture("mnist_conv.onnx")).unwrap());
    let case = Case::new(&[&inner]);
    let mut student = case.student(&[(&inner, 3.0)]);
    student.objective = Objective { labels: 0.0, distill: 0.0, ..student.objective };
    let parameters = student.parameters();
    let loss = |parameters: &[Parameter]| student.slopes(parameters, &LANES, 7).unwrap();
    // The value itself, from the model run by another evaluator.
    let changed = Evaluator::observing(&case.model, &[&inner]).unwrap();
    let value = |evaluator: &Evaluator, samples: &[usize]| {
        let mut state = evaluator.start(case.data.batch(samples).unwrap()).unwrap();
        evaluator.advance(&mut state, usize::MAX).unwrap();
        evaluator.get(&state, evaluator.value(&inner).unwrap()).unwrap().to_f64_vec()
    };
    let first: Vec<usize> = (0..64).collect();
    let energy = value(&case.original, &first).iter().map(|v| v * v).sum::<f64>() / 64.0;
    for (lane, (given, _)) in LANES.iter().zip(loss(&parameters)) {
        let pair = value(&changed, lane).into_iter().zip(value(&case.original, lane));
        let expected = 3.0 * pair.map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / energy;
        assert!((given - expected).abs() < 1e-4 * expected, "{given} {expected}");
    }
    let gradients = &loss(&parameters)[0].1;
    let zero = gradients.iter().filter(|g| g.iter().all(|v| *v == 0.0)).count();
    assert!((1..=3).contains(&zero), "{zero} parameters have no part");
    let along: f64 = gradients.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum();
    let moved = |step: f64| {
        let mut parameters = parameters.clone();
        for (p, g) in parameters.iter_mut().zip(gradients) {
            p.values.iter_mut().zip(g).for_each(|(v, g)| *v += (step * f64::from(*g)) as f32);
        }
        loss(&parameters)[0].0
    };
    let step = 1e-3 / along.sqrt();
    let slope = (moved(step) - moved(-step)) / (2.0 * step);
    assert!((slope - along).abs() < 0.02 * along, "{slope} {along}");
}

/// What the original gives is the same kept as run anew.
#[test]
fn remembered_outputs_are_those_of_the_original() {
    let case = Case::new(&[]);
    let mut student = case.student(&[]);
    let parameters = student.parameters();
    let anew = student.slopes(&parameters, &LANES, 7).unwrap();
    student.remember(&(0..120).collect::<Vec<_>>()).unwrap();
    assert_alike(&student.slopes(&parameters, &LANES, 7).unwrap(), &anew, 1e-6);
}

/// By way of a gentler ratio, the file has the ratio asked for, and its plan makes the same bytes.
#[test]
fn stages_lead_to_the_same_ratio_and_replay() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path());
    request.options.stages = Some(2);
    request.options.epochs = Some(1.2);
    let report = compress(&request, &Silent).unwrap();
    assert!(report.ratio.reached.unwrap() >= 16.0 * 0.999, "{:?}", report.ratio);
    let ratios: Vec<f64> =
        report.training.unwrap().stages.iter().map(|stage| stage.ratio.unwrap()).collect();
    assert_eq!(ratios, [4.0, 16.0]);
    let metric = report.metric.unwrap();
    assert!(metric.tuned.unwrap() >= metric.factorized.unwrap());
    assert!((metric.written.unwrap() - metric.tuned.unwrap()).abs() < 0.11);
    let again = folder.path().join("again.onnx");
    apply(&request.input, request.save_plan.as_ref().unwrap(), &again, false).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&request.output).unwrap());
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
    let (given, wanted) = (slopes(&eight), slopes(&free));
    // Of samples that the model is sure of, gradients are differences of probabilities from one, with
    // the rounding of those: what is measured against are the largest over both lanes.
    let largest = |index: usize| {
        let all = wanted.iter().flat_map(|(_, gradients)| &gradients[index]);
        all.fold(0.0f32, |most, v| most.max(v.abs()))
    };
    for ((loss, gradients), (expected, wanted)) in given.iter().zip(&wanted) {
        assert!(*loss > 0.0 && (loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
        for (index, (given, wanted)) in gradients.iter().zip(wanted).enumerate() {
            let largest = largest(index);
            let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-4 * largest;
            assert!(!given.iter().zip(wanted).any(differs));
        }
    }
}
