//! The main job on a trained network, through the library.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use onnx_bsr::compress::{DataSource, Request, apply, compress, compress_bytes, inspect};
use onnx_bsr::dataset::{Arrays, Dataset, Preprocess};
use onnx_bsr::error::Error;
use onnx_bsr::factorize::Scheme;
use onnx_bsr::graph;
use onnx_bsr::onnx::Model;
use onnx_bsr::options::{Options, RankMultiple, SearchMode, Statistics, Target};
use onnx_bsr::progress::{Progress, Silent};
use onnx_bsr::report::{Action, Report};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::{Session, random_inputs};

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

/// A short run on the digits: few samples, few networks scored.
fn request(output: &Path, ratio: f64) -> Request {
    Request {
        input: fixture("mnist_conv.onnx"),
        output: output.to_owned(),
        data: Some(source("mnist_train.npz")),
        test: Some(source("mnist_heldout.npz")),
        train: None,
        resume: None,
        shapes: Vec::new(),
        report: None,
        command: Vec::new(),
        save_plan: None,
        force: false,
        file_metric: None,
        options: Options {
            ratio: Some(ratio),
            max_evals: Some(12),
            calibration_samples: 200,
            search_samples: Some(150),
            ..Options::default()
        },
    }
}

/// Held-out images that a written model gets right in tract, of 1000.
fn correct(model: &Path) -> usize {
    let session = Session::open(model).unwrap();
    let path = fixture("mnist_heldout.npz");
    let data = Dataset::open(&path, session.inputs(), None, &Preprocess::default()).unwrap();
    let outputs = session.run_samples(|rows| data.batch(rows), data.len(), &Silent).unwrap();
    let classes = outputs[0].to_f64_vec();
    let labels = data.all_labels().unwrap();
    let guess = |scores: &[f64]| (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
    classes.chunks(10).zip(&labels).filter(|(s, l)| guess(s) as i64 == **l).count()
}

/// One run that several tests look at.
struct Run {
    folder: tempfile::TempDir,
    report: Report,
}

impl Run {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn quarter() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut request = request(&folder.path().join("out.onnx"), 4.0);
        request.save_plan = Some(folder.path().join("plan.json"));
        let report = on_threads(1, &request);
        Run { folder, report }
    })
}

fn on_threads(threads: usize, request: &Request) -> Report {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| compress(request, &Silent)).unwrap()
}

#[test]
fn a_quarter_of_the_bytes_loses_at_most_a_point() {
    let run = quarter();
    let (before, after) = (correct(&fixture("mnist_conv.onnx")), correct(&run.file("out.onnx")));
    assert!(after + 10 >= before, "{after} right of 1000, {before} before");
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let (small, large) = (size(&run.file("out.onnx")), size(&fixture("mnist_conv.onnx")));
    assert!(small * 4 <= large, "{small} bytes of {large}");
}

/// What the report says is what other means find.
#[test]
fn the_report_is_true() {
    let run = quarter();
    let report = &run.report;
    let path = run.file("out.onnx");
    let metric = report.metric.as_ref().unwrap();
    assert_eq!((metric.name.as_str(), metric.samples), ("top1", 1000));
    let points = |path: &Path| correct(path) as f64 / 10.0;
    assert!((metric.written.unwrap() - points(&path)).abs() < 1e-9, "{metric:?}");
    // The evaluator's own digits may round another way than tract's.
    assert!((metric.original - points(&fixture("mnist_conv.onnx"))).abs() < 0.11, "{metric:?}");
    assert!((metric.factorized.unwrap() - points(&path)).abs() < 0.11, "{metric:?}");

    let files = (fs::metadata(fixture("mnist_conv.onnx")).unwrap(), fs::metadata(&path).unwrap());
    assert_eq!((report.model.bytes, report.output.bytes), (files.0.len(), files.1.len()));
    let reached = files.0.len() as f64 / files.1.len() as f64;
    assert!((report.ratio.reached.unwrap() - reached).abs() < 1e-9);
    assert!(reached >= 4.0 && report.missed.is_empty(), "{reached}, {:?}", report.missed);

    for (file, params, macs) in [
        (fixture("mnist_conv.onnx"), report.model.params, report.model.macs),
        (path, report.output.params, report.output.macs),
    ] {
        let totals = inspect(&file, &[], None, &Options::default()).unwrap().totals;
        assert_eq!((totals.params, totals.macs), (params, macs));
    }
    let layers = report.layers.iter().filter(|l| l.action != Action::Skip);
    let sum: u64 = layers.clone().map(|l| l.params_after).sum();
    assert_eq!(sum, report.output.params);
    assert_eq!(layers.map(|l| l.macs_after.unwrap()).sum::<u64>(), report.output.macs.unwrap());

    let validation = report.validation.as_ref().unwrap();
    assert!(validation.samples > 0 && validation.max_relative_difference < 1e-4, "{validation:?}");
    // Probes of single layers come before the networks that count.
    let search = report.search.as_ref().unwrap();
    let most = 12 + report.layers.len() as u64;
    assert!(search.evaluations > 1 && search.evaluations <= most, "{search:?}");
}

#[test]
fn threads_and_repetition_change_no_byte() {
    let run = quarter();
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(&folder.path().join("out.onnx"), 4.0);
    request.save_plan = Some(folder.path().join("plan.json"));
    on_threads(2, &request);
    for name in ["out.onnx", "plan.json"] {
        let (one, two) = (fs::read(run.file(name)), fs::read(folder.path().join(name)));
        assert!(one.unwrap() == two.unwrap(), "{name} differs between one thread and two");
    }
}

#[test]
fn a_saved_plan_replays_to_the_same_bytes() {
    let run = quarter();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("again.onnx");
    let report = apply(&fixture("mnist_conv.onnx"), &run.file("plan.json"), &output, false);
    assert!(fs::read(&output).unwrap() == fs::read(run.file("out.onnx")).unwrap());
    let report = report.unwrap();
    assert_eq!(report.output.bytes, run.report.output.bytes);
    assert_eq!(report.ratio.reached, run.report.ratio.reached);
}

/// Random samples for `residual.onnx`, as a file in `folder`.
fn residual(folder: &Path, ratio: f64) -> Request {
    let path = fixture("residual.onnx");
    let specs = graph::inputs(&Model::read(&path).unwrap()).unwrap();
    let shape = (specs[0].name.clone(), vec![60, 3, 16, 16]);
    let samples = random_inputs(&specs, &[shape], 9).unwrap()[0].to_f64_vec();
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (60, 3, 16, 16), }";
    npy.extend(format!("{header:<117}\n").bytes());
    npy.extend(samples.iter().flat_map(|v| v.to_le_bytes()));
    let data = folder.join("samples.npy");
    fs::write(&data, npy).unwrap();
    let data =
        DataSource { path: data, arrays: None, labels: None, preprocess: Preprocess::default() };
    let request = request(&folder.join("out.onnx"), ratio);
    Request { input: path, data: Some(data), test: None, ..request }
}

/// Every way to choose ranks and to fit factors, every target: within the budget, at work in tract,
/// and each with a result of its own.
#[test]
fn every_mode_keeps_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let run = |change: &dyn Fn(&mut Options)| {
        let mut request = residual(folder.path(), 2.0);
        change(&mut request.options);
        let report = compress(&request, &Silent).unwrap();
        assert!(report.missed.is_empty(), "{:?}", report.missed);
        assert!(report.ratio.reached.unwrap() >= 2.0);
        let validation = report.validation.as_ref().unwrap();
        assert!(validation.max_relative_difference < 1e-4, "{validation:?}");
        let metric = report.metric.as_ref().unwrap();
        assert_eq!(metric.samples, 12);
        assert!((metric.written.unwrap() - metric.factorized.unwrap()).abs() < 0.01, "{metric:?}");
        (report, fs::read(&request.output).unwrap())
    };
    let mut files = Vec::new();
    for search in SearchMode::ALL {
        let (report, bytes) = run(&|o| (o.search, o.beam) = (search, 1));
        assert_eq!(report.search.unwrap().mode, search.name());
        files.push(bytes);
    }
    let at = |mode| SearchMode::ALL.iter().position(|&m| m == mode).unwrap();
    assert!(files[at(SearchMode::Start)] != files[at(SearchMode::Paper)]);
    for statistics in [Statistics::None, Statistics::Whitened, Statistics::Centred] {
        let (_, bytes) = run(&|o| (o.search, o.statistics) = (SearchMode::Start, statistics));
        assert!(!files.contains(&bytes), "{statistics}: the same as others");
        files.push(bytes);
    }
    let (params, _) = run(&|o| (o.search, o.target) = (SearchMode::Start, Target::Params));
    assert!(params.output.params * 2 <= params.model.params);
    let (macs, _) = run(&|o| (o.search, o.target) = (SearchMode::Start, Target::Macs));
    assert!(macs.output.macs.unwrap() * 2 <= macs.model.macs.unwrap());
    let (rounded, _) =
        run(&|o| (o.search, o.rank_multiple) = (SearchMode::Start, RankMultiple::Of(4)));
    let ranks: Vec<usize> =
        rounded.layers.iter().flat_map(|l| [l.rank, l.rank_in]).flatten().collect();
    assert!(!ranks.is_empty() && ranks.iter().all(|r| r % 4 == 0), "{ranks:?}");
    let schemes = vec![Scheme::Tucker];
    let (tucker, _) = run(&|o| (o.search, o.schemes) = (SearchMode::Start, schemes.clone()));
    assert!(tucker.layers.iter().filter_map(|l| l.scheme.as_deref()).all(|s| s == "tucker"));
    let (kept, _) = run(&|o| {
        o.search = SearchMode::Start;
        o.exclude = vec!["*block1_a".to_owned()];
    });
    let left = kept.layers.iter().find(|l| l.name == "node_block1_a").unwrap();
    assert_eq!((left.action, left.reason.as_deref()), (Action::Skip, Some("excluded")));
}

/// Small ratios, at which layers stay dense and are refitted with a bias they did not have, and
/// large ones.
#[test]
fn the_ratio_asked_for_is_reached_and_not_much_more() {
    let folder = tempfile::tempdir().unwrap();
    for target in [Target::Bytes, Target::Params, Target::Macs] {
        for ratio in [1.1, 1.25, 1.6, 2.5, 3.5] {
            let mut request = residual(folder.path(), ratio);
            request.options.search = SearchMode::Start;
            request.options.target = target;
            let reached = compress(&request, &Silent).unwrap().ratio.reached.unwrap();
            let range = ratio..ratio * 1.06;
            assert!(range.contains(&reached), "{target}: {reached}, where {ratio} was asked for");
        }
    }
}

/// A ratio that is too much names one that is not, and nothing is written before.
#[test]
fn the_largest_ratio_is_named_and_can_be_had() {
    let folder = tempfile::tempdir().unwrap();
    for target in [Target::Bytes, Target::Params, Target::Macs] {
        let mut request = residual(folder.path(), 1e6);
        request.options.search = SearchMode::Start;
        request.options.target = target;
        let _ = fs::remove_file(&request.output);
        let error = compress(&request, &Silent).unwrap_err();
        let Error::RatioOutOfReach { asked: 1e6, largest } = error else { panic!("{error:?}") };
        assert!(!request.output.exists());
        let named = (largest * 100.0).floor() / 100.0;
        assert!(error.hint().unwrap().contains(&format!("--ratio {named:.2}")));
        request.options.ratio = Some(named);
        let reached = compress(&request, &Silent).unwrap().ratio.reached.unwrap();
        assert!(named > 1.5 && reached >= named, "{target}: {reached}, {named} named");
    }
}

/// Without data the weights decide, and the report says so.
/// Without a ratio the allowed drop decides: what is chosen keeps it with its standard error, and
/// more is had where more may be lost.
#[test]
fn the_allowed_drop_decides_without_a_ratio() {
    let folder = tempfile::tempdir().unwrap();
    let largest = |most: f64| {
        let mut request = request(&folder.path().join("out.onnx"), 1.0);
        request.options.ratio = None;
        request.options.max_drop = Some(most);
        request.options.search = SearchMode::Start;
        let report = compress(&request, &Silent).unwrap();
        let drop = report.search.unwrap().drop.unwrap();
        assert!(drop.points + drop.standard_error <= most, "{drop:?}");
        assert_eq!(drop.samples, 150);
        assert_eq!(report.ratio.asked, None);
        report.ratio.reached.unwrap()
    };
    let (little, much) = (largest(1.0), largest(20.0));
    assert!(little > 2.0 && much > 1.5 * little, "{little} {much}");
}

#[test]
fn a_drop_that_can_not_be_measured_decides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(&folder.path().join("out.onnx"), 1.0);
    request.options.ratio = None;
    request.options.max_drop = Some(1.0);
    request.train = Some(source("mnist_train.npz"));
    let refused = |request: &Request| matches!(compress(request, &Silent), Err(Error::Option { option, .. }) if option == "--max-drop");
    assert!(refused(&request), "training");
    (request.train, request.data, request.test) = (None, None, None);
    assert!(refused(&request), "no data");
}

#[test]
fn weights_alone_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.onnx");
    let request = Request { data: None, test: None, ..request(&path, 2.0) };
    let report = compress(&request, &Silent).unwrap();
    assert!(report.metric.is_none() && report.ratio.reached.unwrap() >= 2.0);
    assert!(report.warnings.iter().any(|w| w.contains("no data")), "{:?}", report.warnings);
    assert!(correct(&path) > 800);
}

/// Stops at the `steps`-th word of progress.
struct Stop {
    steps: std::sync::atomic::AtomicI64,
}

impl Progress for Stop {
    fn phase(&self, _: &str, _: Option<u64>) {}
    fn step(&self, _: u64, _: &str) {}
    fn warn(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.steps.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) <= 0
    }
}

/// An interrupted run leaves the folder as it was, wherever it is stopped.
#[test]
fn interrupted_runs_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = residual(folder.path(), 2.0);
    let output = request.output.clone();
    fs::write(&output, b"what was there").unwrap();
    request.save_plan = Some(folder.path().join("plan.json"));
    for steps in [0, 4, 10] {
        let stop = Stop { steps: steps.into() };
        let result = compress(&request, &stop);
        assert!(matches!(result, Err(Error::Interrupted)), "after {steps}: {result:?}");
        assert_eq!(fs::read(&output).unwrap(), b"what was there");
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2, "the samples, and what was there");
    }
}

/// A search that was interrupted goes on from the scores it kept, and ends with the same file.
#[test]
fn scores_outlast_an_interruption() {
    /// Interrupts after so many steps of the search.
    struct Impatient(std::sync::Mutex<(bool, u32)>);
    impl Progress for Impatient {
        fn phase(&self, name: &str, _: Option<u64>) {
            self.0.lock().unwrap().0 = name == "search";
        }
        fn step(&self, _: u64, _: &str) {
            let mut state = self.0.lock().unwrap();
            state.1 += u32::from(state.0);
        }
        fn warn(&self, _: &str) {}
        fn interrupted(&self) -> bool {
            self.0.lock().unwrap().1 >= 4
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.onnx"), folder.path().join("b.onnx"));
    let plain = compress(&request(&first, 4.0), &Silent).unwrap();
    let mut kept = request(&second, 4.0);
    kept.options.cache_dir = Some(folder.path().join("cache"));
    let impatient = Impatient(std::sync::Mutex::new((false, 0)));
    assert!(matches!(compress(&kept, &impatient), Err(Error::Interrupted)));
    let resumed = compress(&kept, &Silent).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let passes = |report: &Report| report.search.as_ref().unwrap().layer_passes;
    assert!(passes(&resumed) < passes(&plain), "{} {}", passes(&resumed), passes(&plain));
    let again = compress(&Request { force: true, ..kept.clone() }, &Silent).unwrap();
    assert!(passes(&again) < passes(&resumed));
    // Damaged entries are made anew.
    let mut damaged = 0;
    for entry in fs::read_dir(folder.path().join("cache")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        damaged += 1;
    }
    assert!(damaged > 3, "{damaged}");
    compress(&Request { force: true, ..kept }, &Silent).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
}

/// What the search has no room for it computes again, to the same bytes.
#[test]
fn memory_for_the_search_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.onnx"), folder.path().join("b.onnx"));
    let usual = compress(&request(&first, 4.0), &Silent).unwrap();
    let mut tight = request(&second, 4.0);
    tight.options.cache_bytes = Some(1);
    let tight = compress(&tight, &Silent).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let evaluations = |report: &Report| report.search.as_ref().unwrap().evaluations;
    assert_eq!(evaluations(&tight), evaluations(&usual));
}

/// From memory to memory the same is done as from file to file.
#[test]
fn memory_is_as_good_as_files() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.onnx");
    let on_files = Request { test: None, ..request(&output, 3.0) };
    let report = compress(&on_files, &Silent).unwrap();

    let model = fs::read(fixture("mnist_conv.onnx")).unwrap();
    let inputs = graph::inputs(&Model::from_bytes(model.clone()).unwrap()).unwrap();
    let data = source("mnist_train.npz").open(&inputs).unwrap();
    let all: Vec<usize> = (0..data.len()).collect();
    let images = data.batch(&all).unwrap();
    let labels = data.all_labels().unwrap();
    let labels = Tensor::from_vec(&[labels.len()], labels).unwrap();
    let arrays = Arrays::in_order(images, Some(labels));
    let held = DataSource::held(arrays, "held");
    let (bytes, in_memory) =
        compress_bytes(&model, &Request { data: Some(held), ..on_files }, &Silent).unwrap();
    assert_eq!(bytes, fs::read(&output).unwrap());
    let (a, b) = (report.metric.unwrap(), in_memory.metric.unwrap());
    assert_eq!((a.samples, a.original, a.written), (b.samples, b.original, b.written));
    assert!(b.source.ends_with("set aside from held") && in_memory.output.path.is_empty());
}
