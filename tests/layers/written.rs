//! Models factorized, written, and run by the evaluator and by tract.

use std::path::{Path, PathBuf};

use ndarray::{Array1, ArrayView1};
use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::eval::moments::Moments;
use onnx_bsr::factorize::{Choice, Factors, Fit, Scheme, curves};
use onnx_bsr::graph;
use onnx_bsr::layer::{Filter, Layer, Weight, find};
use onnx_bsr::linalg::{Covariance, Matrix};
use onnx_bsr::onnx::Model;
use onnx_bsr::search::Plan;
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::{Agreement, Session};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The layers of a model that have a map.
pub fn layers(model: &Model) -> Vec<Layer> {
    let all = find(model, &Filter::default()).unwrap();
    all.into_iter().filter(|l| l.map.is_some()).collect()
}

/// A share of a scheme's ranks: all of them, or about half.
#[derive(Clone, Copy)]
pub enum Ranks {
    Full,
    Half,
}

/// The choice that a scheme makes of a layer; `None` where it doesn't apply.
pub fn choice(layer: &Layer, scheme: Scheme, ranks: Ranks) -> Option<Choice> {
    let map = layer.map.as_ref()?;
    let some = |rank: usize| match ranks {
        Ranks::Full => rank,
        Ranks::Half => rank.div_ceil(2),
    };
    scheme.applies(map).then(|| Choice {
        scheme,
        rank: some(Choice::most(scheme, map)),
        rank_in: (scheme == Scheme::Tucker).then(|| some(map.columns / map.kernel_len())),
    })
}

/// Moments of made-up inputs whose means are not zero, so that a bias appears where there was none.
fn moments(weight: &Matrix, bias: &[f64]) -> Moments {
    let columns = weight.ncols();
    let mut random = ChaCha8Rng::seed_from_u64(columns as u64);
    let mut real = || f64::from(random.next_u32()) / f64::from(u32::MAX) - 0.5;
    let root = Matrix::from_shape_simple_fn((columns, columns), &mut real);
    let x_mean = Array1::from_shape_simple_fn(columns, &mut real);
    let xx = root.dot(&root.t()) + Matrix::eye(columns);
    let tx = weight.dot(&xx);
    let tt = tx.dot(&weight.t()).diag().to_owned();
    let t_mean = weight.dot(&x_mean) + ArrayView1::from(bias);
    Moments { rows: columns, x_mean, t_mean, xx: Covariance::dense(xx), tx, tt }
}

/// The factors of a layer.
fn factors(layer: &Layer, weight: &Weight, choice: Choice) -> Factors {
    let map = layer.map.as_ref().unwrap();
    let share = weight.bias.len() / weight.groups.len();
    let fit = |(g, w): (usize, &Matrix)| {
        let moments = moments(w, &weight.bias[g * share..(g + 1) * share]);
        Fit::of_inputs(w, &moments, map.takes_bias(), 1e-3)
    };
    let fits: Vec<Fit> = weight.groups.iter().enumerate().map(fit).collect();
    let curve = curves(map, &fits, &[choice.scheme]).unwrap().remove(0);
    curve.factors(choice, &fits, &weight.bias).unwrap()
}

/// The plan that factorizes every layer to which `scheme` applies, and how many those are.
pub fn plan(model: &Model, scheme: Scheme, ranks: Ranks) -> (Plan, usize) {
    let layers = layers(model);
    let factors: Vec<Option<Factors>> = layers
        .iter()
        .map(|layer| {
            let choice = choice(layer, scheme, ranks)?;
            Some(factors(layer, &layer.weight(model).unwrap(), choice))
        })
        .collect();
    let count = factors.iter().flatten().count();
    (Plan::new(model, &layers, &factors).unwrap(), count)
}

/// A fixture's arrays that are named as `model`'s inputs.
pub fn arrays(npz: &Path, model: &Model) -> Vec<Tensor> {
    let specs = graph::inputs(model).unwrap();
    let data = Dataset::open(npz, &specs, None, &Preprocess::default()).unwrap();
    let all: Vec<usize> = (0..data.len()).collect();
    data.batch(&all).unwrap()
}

/// A model's outputs in the evaluator.
pub fn evaluated(model: &Model, inputs: &[Tensor]) -> Vec<Tensor> {
    Evaluator::new(model).unwrap().run(inputs.to_vec()).unwrap()
}

/// A model's outputs in tract, from a file.
pub fn in_tract(model: &Model, inputs: &[Tensor]) -> Vec<Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    model.write(&path).unwrap();
    // What is written is what counts, read back by both.
    assert_eq!(Model::read(&path).unwrap().to_bytes().unwrap(), model.to_bytes().unwrap());
    let specs = graph::inputs(model).unwrap();
    let shapes: Vec<_> =
        specs.iter().zip(inputs).map(|(s, t)| (s.name.clone(), t.shape().to_vec())).collect();
    Session::open_shaped(&path, &shapes).unwrap().run(inputs).unwrap()
}

/// The largest difference relative to the largest output.
pub fn apart(a: &[Tensor], b: &[Tensor]) -> f64 {
    Agreement::between(a, b).unwrap().max_relative_difference()
}

/// Factorizes a model by every scheme. At full rank all outputs stay; at half rank they don't, but
/// evaluator and tract agree. Returns how many factorized layers were seen for each scheme.
pub fn check(name: &str, model: &Model, inputs: &[Tensor]) -> Vec<(Scheme, usize)> {
    let wanted = in_tract(model, inputs);
    let ours = evaluated(model, inputs);
    assert!(apart(&wanted, &ours) < 1e-5, "{name}: {:e}", apart(&wanted, &ours));
    let mut seen = Vec::new();
    for scheme in Scheme::ALL {
        let (full, count) = plan(model, scheme, Ranks::Full);
        if count == 0 {
            continue;
        }
        seen.push((scheme, count));
        let full = full.apply(model).unwrap();
        assert!(full.graph().node.len() >= model.graph().node.len() + count);
        for (runtime, outputs) in
            [("evaluator", evaluated(&full, inputs)), ("tract", in_tract(&full, inputs))]
        {
            let off = apart(&wanted, &outputs);
            assert!(off < 1e-5, "{name}, {scheme} at full rank in {runtime}: {off:e}");
        }

        let (half, _) = plan(model, scheme, Ranks::Half);
        let half = half.apply(model).unwrap();
        let (a, b) = (evaluated(&half, inputs), in_tract(&half, inputs));
        assert!(apart(&a, &b) < 1e-4, "{name}, {scheme} at half rank: {:e}", apart(&a, &b));
        let off = apart(&wanted, &a);
        assert!(off > 1e-3 && off.is_finite(), "{name}, {scheme} at half rank: only {off:e} lost");
    }
    seen
}
