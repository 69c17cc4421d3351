//! Compression by the weights alone of a model that is too large to be held: layer by layer, from file to file.
//!
//! Of a layer only what its ranks leave stays in memory. Its vectors wait in a file beside the output until ranks
//! are chosen; then factors are made one layer after another and wait there too, as the written file's bytes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use rayon::prelude::*;

use super::account;
use super::choose::{Found, search_report};
use super::forms::budget;
use super::job::Job;
use super::result::{self, Streamed};
use super::spectra::spectra;
use super::{Request, compress};
use crate::error::{Error, Result};
use crate::eval::Pieces;
use crate::factorize::{Choice, Factors, Fit, LeadingCurve, Scheme, curves, replace};
use crate::graph::{self, NameAllocator};
use crate::layer::{Extent, Layer, product_values};
use crate::onnx::{Model, NodeProto, Spill, TensorProto};
use crate::options::{Options, RankMultiple, Target};
use crate::progress::Progress;
use crate::quantize;
use crate::report::{Report, Seconds};
use crate::search::{LayerOptions, Network, Plan, PlanLayer, Prediction, start};
use crate::tensor::Tensor;

/// Layers that are worked on at the same time, however many threads there are: memory is for so many.
const AT_ONCE: usize = 2;

/// Ranks that are looked at, as a multiple of the one that a layer had if all layers were cut alike.
const MARGIN: f64 = 1.5;

/// Bytes of initializers that a piece of the graph has, where one node has not more.
const PIECE: u64 = 256 << 20;

/// The step of ranks where it was to be measured, which takes a model that can be held.
const USUAL_STEP: usize = 8;

/// Whether a request of this model is carried out so: weights alone decide, and they are many.
pub(super) fn applies(request: &Request, options: &Options, model: &Model) -> bool {
    request.data.is_none()
        && request.train.is_none()
        && options.ratio.is_some()
        && options.max_drop.is_none()
        && options.quantize.is_none()
        && matches!(options.target, Target::Bytes | Target::Params)
        && model.initializer_byte_len() > options.stream_above as u64
}

/// Runs a model's graph piece by piece, for nothing but the shapes that it has.
///
/// # Errors
/// As [`Pieces::step`].
pub(super) fn shapes(
    model: &Model,
    inputs: &[Tensor],
    names: &[&str],
) -> Result<HashMap<String, Vec<usize>>> {
    let mut run = Pieces::new(model, PIECE, inputs, names)?;
    run.finish()?;
    Ok(run.shapes)
}

/// A layer, decomposed.
struct Decomposed {
    choices: Vec<(Choice, f64)>,
    energy: f64,
    /// Where the layer is a large matrix; others are decomposed again for their factors.
    leading: Option<LeadingCurve>,
    /// Whether all ranks that are of use are among the choices.
    whole: bool,
}

/// What layers are decomposed with.
struct Workshop<'a> {
    model: &'a Model,
    layers: Vec<Layer>,
    options: &'a Options,
    spill: Mutex<Spill>,
}

impl Workshop<'_> {
    /// Decomposes a layer: for the ranks that it may get at the ratio, or for all.
    fn decompose(&self, l: usize, all: bool) -> Result<Decomposed> {
        let layer = &self.layers[l];
        let (Some(map), ratio) = (&layer.map, self.options.ratio.unwrap_or(1.0)) else {
            return Err(Error::InvalidModel { reason: format!("`{}` has no map", layer.name) });
        };
        let long = if self.options.schemes.contains(&Scheme::Matrix) {
            layer.long_side(self.model)?
        } else {
            None
        };
        let Some(weight) = long else {
            let fits = self.fits(l)?;
            let mut choices = Vec::new();
            for curve in curves(map, &fits, &self.options.schemes)? {
                choices.extend(curve.choices(map)?);
            }
            let energy = fits.iter().map(|fit| fit.energy).sum();
            return Ok(Decomposed { choices, energy, leading: None, whole: true });
        };
        let profitable = map.rows * map.columns / (map.rows + map.columns);
        let likely = (profitable as f64 / ratio * MARGIN) as usize + 1;
        let rank = if all { map.full_rank() } else { likely.min(profitable) };
        let seed = self.options.seed ^ (l as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut curve = LeadingCurve::new(&weight, rank, seed)?;
        // More are of no use.
        let kept = profitable.min(curve.errors.len());
        curve.vectors.truncate(kept * weight.extents.1 * size_of::<f64>());
        curve.errors.truncate(kept);
        let whole = curve.known >= profitable;
        curve.vectors = self.keep(|spill| spill.keep(curve.vectors))?;
        let choices = curve.choices();
        Ok(Decomposed { choices, energy: curve.energy, leading: Some(curve), whole })
    }

    fn factors(&self, l: usize, decomposed: &Decomposed, choice: Choice) -> Result<Factors> {
        let layer = &self.layers[l];
        if let Some(curve) = &decomposed.leading
            && let Some(weight) = layer.long_side(self.model)?
        {
            return curve.factors(&weight, choice);
        }
        let misfit = || Error::Plan { reason: format!("`{}` can't be factorized", layer.name) };
        let map = layer.map.as_ref().ok_or_else(misfit)?;
        let fits = self.fits(l)?;
        let curves = curves(map, &fits, &[choice.scheme])?;
        let bias = layer.weight(self.model)?.bias;
        curves.first().ok_or_else(misfit)?.factors(choice, &fits, &bias)
    }

    fn fits(&self, l: usize) -> Result<Vec<Fit>> {
        let weight = self.layers[l].weight(self.model)?;
        Ok(weight.groups.iter().map(Fit::of_weight).collect())
    }

    fn keep<R>(&self, keep: impl FnOnce(&mut Spill) -> Result<R>) -> Result<R> {
        // A thread that failed has left the file usable: what it wrote is not referred to.
        keep(&mut self.spill.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Works on layers, some at a time, and gives what came of each in their order.
    fn each<R: Send>(
        &self,
        layers: &[usize],
        progress: &dyn Progress,
        work: impl Fn(usize) -> Result<R> + Sync,
    ) -> Result<Vec<(usize, R)>> {
        let mut order = layers.to_vec();
        // Those of one size take as long.
        order.sort_by_key(|&l| (std::cmp::Reverse(self.layers[l].weight_params), l));
        let mut done = Vec::new();
        for some in order.chunks(AT_ONCE) {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let results: Vec<(usize, R)> =
                some.par_iter().map(|&l| Ok((l, work(l)?))).collect::<Result<_>>()?;
            done.extend(results);
            self.model.release();
            progress.step(done.len() as u64, &self.layers[some[0]].name);
        }
        done.sort_by_key(|(l, _)| *l);
        Ok(done)
    }
}

/// Compresses the model of a job to the ratio of its request.
///
/// # Errors
/// When the ratio is out of reach, or something can't be read or written; nothing is written then.
pub(super) fn run(job: &Job, request: &Request, progress: &dyn Progress) -> Result<Report> {
    let begin = Instant::now();
    let options = &job.options(request);
    let model = &job.model;
    let mut warnings = vec![
        "the model is large: its layers were worked on one after another, its latency was not measured"
            .to_owned(),
    ];
    let step = match options.rank_multiple {
        RankMultiple::Of(step) => step,
        RankMultiple::Auto => {
            warnings.push(format!("ranks are multiples of {USUAL_STEP}: nothing was timed"));
            USUAL_STEP
        }
    };
    let layers: Vec<Layer> = job.layers.iter().filter(|l| l.map.is_some()).cloned().collect();
    let values = match job.unrunnable {
        Some(_) => HashMap::new(),
        None => shapes(model, &job.sample, &product_values(model))?,
    };
    let extents: Vec<Extent> =
        layers.iter().map(|l| l.extent(model, &values).unwrap_or_default()).collect();
    let spill = Mutex::new(Spill::new(result::folder(&request.output))?);
    let workshop = Workshop { model, layers, options, spill };
    let layers = &workshop.layers;
    let all: Vec<usize> = (0..layers.len()).collect();

    let clock = Instant::now();
    progress.phase("decompose", Some(all.len() as u64));
    let decomposed = workshop.each(&all, progress, |l| workshop.decompose(l, false))?;
    let mut decomposed: Vec<Decomposed> = decomposed.into_iter().map(|(_, d)| d).collect();
    let (choices, forms) = loop {
        let forms = workshop.forms(&decomposed, step, &extents)?;
        let choices = choose(&forms, model, job.bytes, options)?;
        let short: Vec<usize> = all
            .iter()
            .copied()
            .filter(|&l| {
                let last = forms[l].options.get(1).and_then(|option| option.choice);
                !decomposed[l].whole && (choices[l].is_none() || choices[l] == last)
            })
            .collect();
        if short.is_empty() {
            break (choices, forms);
        }
        log::info!(target: "factorize", "{} layers want ranks beyond those looked at", short.len());
        progress.phase("decompose", Some(short.len() as u64));
        for (l, whole) in workshop.each(&short, progress, |l| workshop.decompose(l, true))? {
            decomposed[l] = whole;
        }
    };
    let search = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let chosen: Vec<usize> = all.iter().copied().filter(|&l| choices[l].is_some()).collect();
    progress.phase("factorize", Some(chosen.len() as u64));
    let mut made = Made::new(model, request.save_plan.is_some());
    for some in chosen.chunks(AT_ONCE) {
        let of = |l: usize| -> Result<Option<Factors>> {
            choices[l].map(|choice| workshop.factors(l, &decomposed[l], choice)).transpose()
        };
        for (l, factors) in workshop.each(some, progress, of)? {
            if let Some(factors) = factors {
                workshop.keep(|spill| made.add(&layers[l], factors, spill))?;
            }
        }
    }
    drop(decomposed);
    let Made { replaced, hollow, planned, .. } = made;
    let factors: Vec<Option<Factors>> = {
        let mut hollow: HashMap<usize, Factors> = hollow.into_iter().collect();
        layers.iter().map(|layer| hollow.remove(&layer.node)).collect()
    };
    let plan = planned.map(Plan::of_layers);
    let mut output = apply(model, replaced)?;
    workshop.keep(|spill| {
        spill.lend(&mut output);
        Ok(())
    })?;
    let changed: Vec<Layer> = chosen.iter().map(|&l| layers[l].clone()).collect();
    let folded = compress::fold(&mut output, &changed)?;
    let factorize = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let streamed = Streamed {
        values: &values,
        sample: &job.sample,
        unrunnable: &job.unrunnable,
        piece: PIECE,
    };
    let mut report = result::write_streamed(
        request,
        model,
        &output,
        plan.as_ref(),
        streamed,
        job.judged,
        progress,
    )?;
    report.seconds = Seconds {
        search: Some(search),
        factorize: Some(factorize),
        validate: Some(clock.elapsed().as_secs_f64()),
        ..Seconds::default()
    };
    report.model.bytes = job.bytes;
    let spectra = spectra(&forms, &choices);
    let found = Found { choices, spectra, ..Found::nothing(layers.len(), "no data") };
    report.search = Some(search_report(options, &found, layers.len()));
    account::fill_layers(
        &mut report,
        &job.layers,
        layers,
        &extents,
        &factors,
        &folded,
        &found.spectra,
    );
    report.warnings.splice(0..0, job.warnings.iter().cloned().chain(warnings));
    report.seconds.total = begin.elapsed().as_secs_f64();
    Ok(report)
}

impl Workshop<'_> {
    fn forms(
        &self,
        decomposed: &[Decomposed],
        step: usize,
        extents: &[Extent],
    ) -> Result<Vec<LayerOptions>> {
        let resource = self.options.target;
        let form = |(l, found): (usize, &Decomposed)| -> Result<LayerOptions> {
            let layer = &self.layers[l];
            let mut forms = LayerOptions::of_choices(
                layer,
                &self.model.graph().node,
                found.energy,
                &found.choices,
                step,
                extents[l],
            )?;
            forms.prune(|cost| resource.of(cost));
            Ok(forms)
        };
        decomposed.iter().enumerate().map(form).collect()
    }
}

/// The choices that leave least within the ratio.
fn choose(
    forms: &[LayerOptions],
    model: &Model,
    bytes: u64,
    options: &Options,
) -> Result<Vec<Option<Choice>>> {
    let resource = options.target;
    let (total, kept) = match resource {
        Target::Params => (quantize::params(model), quantize::params(model)),
        _ => (bytes, model.encoded_len()),
    };
    let stored: u64 = forms.iter().map(|f| resource.of(&f.stored)).sum();
    let rest = kept.saturating_sub(stored);
    let budget = budget(total, rest, forms, resource, options.ratio.unwrap_or(1.0))?;
    let losses = Prediction::new(vec![1.0; forms.len()]).losses(forms);
    let allocation = start(forms, &losses, budget).unwrap_or_default();
    Ok(Network::choices(forms, &allocation))
}

/// What takes the place of the layers' nodes, as it is made.
struct Made<'a> {
    model: &'a Model,
    names: NameAllocator,
    /// By node, the first of a layer with the constants of all.
    replaced: Vec<(usize, Vec<NodeProto>, Vec<TensorProto>)>,
    /// By node: factors without their elements.
    hollow: Vec<(usize, Factors)>,
    /// Where a plan is asked for.
    planned: Option<Vec<PlanLayer>>,
}

impl<'a> Made<'a> {
    fn new(model: &'a Model, planned: bool) -> Self {
        Self {
            model,
            names: NameAllocator::new(model.graph()),
            replaced: Vec::new(),
            hollow: Vec::new(),
            planned: planned.then(Vec::new),
        }
    }

    fn add(&mut self, layer: &Layer, factors: Factors, spill: &mut Spill) -> Result<()> {
        if let Some(planned) = &mut self.planned {
            planned.push(PlanLayer::new(self.model, layer, &factors)?);
        }
        let replacements = replace(layer, &self.model.graph().node, &factors, &mut self.names)?;
        self.hollow.push((layer.node, Factors { groups: Vec::new(), ..factors }));
        let mut keep = |(name, tensor): &(String, Tensor)| {
            spill.keep_tensor(TensorProto::from_tensor(name, tensor))
        };
        for ((node, _), mut new) in layer.uses().zip(replacements) {
            if self.model.opset("").is_some_and(|version| version < 11) {
                new.complete_gemm(&mut self.names);
            }
            let constants = new.constants.iter().map(&mut keep).collect::<Result<_>>()?;
            self.replaced.push((node, new.nodes, constants));
        }
        Ok(())
    }
}

/// The model with new nodes in the layers' places, as [`Plan::apply`] makes it.
fn apply(
    model: &Model,
    mut replaced: Vec<(usize, Vec<NodeProto>, Vec<TensorProto>)>,
) -> Result<Model> {
    let mut output = model.clone();
    let graph = output.graph_mut();
    replaced.sort_by_key(|(node, ..)| *node);
    for (_, _, constants) in &mut replaced {
        for tensor in constants.drain(..) {
            graph::add_initializer(graph, tensor);
        }
    }
    // From the last node on, so that the indices of earlier ones stay.
    for (node, nodes, _) in replaced.into_iter().rev() {
        graph::replace_node(graph, node, nodes)?;
    }
    graph::remove_unused_constants(graph);
    Ok(output)
}
