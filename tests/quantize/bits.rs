//! Bits of single weights: what is said of them, and what a search chooses.

use std::fs;
use std::path::Path;

use onnx_bsr::compress::{DataSource, Request, apply, compress};
use onnx_bsr::dataset::Preprocess;
use onnx_bsr::error::Error;
use onnx_bsr::layer::{Filter, find};
use onnx_bsr::onnx::Model;
use onnx_bsr::options::{Form, Options, SearchMode};
use onnx_bsr::progress::Silent;
use onnx_bsr::quantize::{Grid, Settings, Settled, Storage, params, weights};
use onnx_bsr::report::{Action, Report};
use onnx_bsr::validate::Session;

use super::forms::dequantized;
use super::{FIXTURES, difference, inputs, model, path, run, settled, shapes};

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
        force: true,
        file_metric: None,
        options: Options {
            search: SearchMode::Start,
            calibration_samples: 200,
            search_samples: Some(150),
            ..options
        },
    }
}

/// Compresses, replays the plan to the same bytes, and says how the weights are stored.
fn stored(request: &Request) -> (Report, Vec<(String, Storage)>) {
    let report = compress(request, &Silent).unwrap();
    let again = request.output.with_extension("again");
    let plan = request.save_plan.as_ref().unwrap();
    apply(&request.input, plan, &again, true).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&request.output).unwrap(), "another file");
    let plan = onnx_bsr::search::Plan::parse(&fs::read_to_string(plan).unwrap()).unwrap();
    let weights = plan.quantization.unwrap().weights;
    (report, weights.into_iter().map(|w| (w.name, w.storage)).collect())
}

/// Codes that a table is looked up for stand for what they say, in the evaluator to the bit and in tract,
/// in old operator sets too; odd numbers of them are stored otherwise.
#[test]
fn packed_codes_are_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.onnx");
    let (mut packed, mut odd, mut old) = (0, 0, 0);
    for (name, stated) in FIXTURES {
        let model = model(name);
        let all = weights(&model).into_iter().map(|w| (w.name, Some(Storage::Int4Packed)));
        let said = Settled { storages: all.collect(), ..Settled::default() };
        let settings = Settings { form: Form::Int4, block: 16, ..Settings::default() };
        let found = settled(&model, stated, &settings, &said);
        for stored in &found.quantization.weights {
            let even = stored.codes.0.len().is_multiple_of(2);
            odd += usize::from(!even);
            packed += usize::from(stored.storage == Storage::Int4Packed);
            assert!(even || stored.storage != Storage::Int4Packed, "{name}");
            let small = stored.codes.0.iter().all(|c| (-8..=7).contains(c));
            assert!(small || stored.storage == Storage::Int8, "{name}");
        }
        old += usize::from(model.opset("").unwrap() < 13);
        let written = found.quantization.apply(&model).unwrap();
        let written = Model::from_bytes(written.to_bytes().unwrap()).unwrap();
        let expected = dequantized(&model, &found.quantization);
        let x = inputs(&model, stated, 77);
        let apart = difference(&run(&written, x.clone()), &run(&expected, x.clone()));
        assert!(apart <= 1e-5, "{name}: {apart}");
        assert_eq!(params(&written), params(&model), "{name}");
        written.write(&file).unwrap();
        let session = Session::open_shaped(&file, &shapes(&model, stated)).unwrap();
        let apart = difference(&session.run(&x).unwrap(), &run(&written, x));
        assert!(apart <= 1e-4, "{name}: {apart}");
        // They are trained like others.
        let grids = Grid::all(&found, &settings);
        assert_eq!(grids.len(), found.quantization.weights.len());
    }
    assert!(packed > 20 && old > 0, "{packed} packed, {odd} odd, {old} of old sets");
}

/// A layer that is to stay float does, factorized or not, and the ratio counts it.
#[test]
fn layers_stay_float_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("mnist_conv.onnx");
    let first = weights(&model).into_iter().map(|w| w.name).next().unwrap();
    let found = find(&model, &Filter::default()).unwrap();
    let node = found.into_iter().find(|l| l.weight == first).unwrap().name;
    let float = vec![first.clone()];
    for ratio in [None, Some(8.0)] {
        let options = Options {
            quantize: Some(Form::Int8),
            float: float.clone(),
            ratio,
            ..Options::default()
        };
        let (report, stored) = stored(&request(folder.path(), options));
        assert!(!stored.is_empty());
        let of = |name: &str| name == first || name.starts_with(&format!("{first}/"));
        assert!(!stored.iter().any(|(name, _)| of(name)), "{stored:?}");
        let layer = report.layers.iter().find(|l| l.name == node).unwrap();
        assert!(layer.bits.is_none());
        if let Some(ratio) = ratio {
            assert!(report.ratio.reached.unwrap() >= ratio, "{:?}", report.ratio);
        } else {
            let kept = report.quantization.unwrap().kept;
            assert!(kept.iter().any(|k| k.name == first && k.reason.contains("float")), "{kept:?}");
        }
    }
    let options = Options {
        quantize: Some(Form::Int8),
        float: vec!["no such*".into()],
        ..Options::default()
    };
    let error = compress(&request(folder.path(), options), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Option { option, .. } if option == "--float"), "{error}");
}

/// With room to spare layers keep more bits; with less of it they have fewer, and lower ranks only where
/// bits don't do. The budget holds.
#[test]
fn a_budget_is_spent_on_bits_and_ranks() {
    let mut coarse = Vec::new();
    for ratio in [3.0, 7.0, 32.0] {
        let folder = tempfile::tempdir().unwrap();
        let options =
            Options { ratio: Some(ratio), quantize: Some(Form::Auto), ..Options::default() };
        let (report, stored) = stored(&request(folder.path(), options));
        let reached = report.ratio.reached.unwrap();
        assert!((ratio..1.25 * ratio).contains(&reached), "{ratio}: {reached}");
        let four = stored.iter().filter(|(_, storage)| storage.bits() == 4).count();
        let metric = report.metric.unwrap();
        assert!(metric.original - metric.written.unwrap() < 3.0, "{ratio}: {metric:?}");
        let factorized = report.layers.iter().filter(|l| l.action == Action::Factorize).count();
        coarse.push((four, factorized));
    }
    assert_eq!(coarse[0].0, 0, "four bits where eight would do: {coarse:?}");
    assert!(coarse[2].0 > 0 && coarse[2].1 > 0, "{coarse:?}");
}
