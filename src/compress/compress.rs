//! The main job: a model in, a smaller one out, proven in tract.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::parts::Parts;
use super::quantization;
use super::result::{self, Proof};
use super::target::is_one_place;
use super::training::Trainer;
use super::{Request, check_output};
use crate::error::{Error, Result};
use crate::eval::Evaluator;
use crate::graph;
use crate::layer::{Filter, Layer, find};
use crate::onnx::Model;
use crate::options::{Options, SearchMode, Target};
use crate::progress::Progress;
use crate::quantize::{self, Price};
use crate::report::{self, Metric, Report, Seconds};
use crate::score::{MetricKind, Scorer};
use crate::search::{
    self, Budget, Compressed, Effort, LayerOptions, Limits, Network, NetworkOptions, Plan,
    Prediction, Samples, Snapshots, Statistics,
};
use crate::tensor::Tensor;
use crate::validate::{concrete_shapes, random_inputs};

/// Ridge of the fits, as a share of the mean variance of a layer's inputs.
const RIDGE: f64 = 1e-3;

/// Samples whose statistics candidates are refitted on during the search; the final fit takes all.
const SEARCH_CALIBRATION: usize = 256;

/// Rows per input of a layer that its moments are taken over, in the search and in the final fit.
const ROWS: (usize, usize) = (12, 48);

/// Samples whose gradients weigh the layers' outputs.
const WEIGHED: usize = 512;

/// Bytes of prefix states that the search may hold for each of its two sets of samples.
const SNAPSHOT_BYTES: usize = 192 << 20;

/// Compresses a model as asked and writes the result. The report says what was done.
///
/// # Errors
/// When anything can't be read, run or written; nothing is written then.
pub fn compress(request: &Request, progress: &dyn Progress) -> Result<Report> {
    let begin = Instant::now();
    let options = &request.options;
    let mut seconds = Seconds::default();
    check_output(&request.input, &request.output, request.force)?;
    let beside = [("--save-plan", &request.save_plan), ("--resume", &request.resume)];
    let beside = beside.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?)));
    for (option, path) in beside.clone() {
        check_output(&request.input, path, false)?;
        let others = beside.clone().filter(|(other, _)| *other != option).map(|(_, path)| path);
        if others.chain([&request.output]).any(|other| is_one_place(path, other)) {
            return Err(Error::Option {
                option: option.to_owned(),
                reason: "it would replace the output or another file that is written".to_owned(),
            });
        }
    }
    progress.phase("load", None);
    let model = Model::read(&request.input)?;
    let filter = Filter::new(&options.include, &options.exclude)?;
    let layers = find(&model, &filter)?;
    filter.check(&options.include, &options.exclude, &layers)?;
    if options.quantize.is_some() {
        quantize::check(&model)?;
    } else if options.ratio.is_none() {
        return Err(Error::Option {
            option: "--ratio".to_owned(),
            reason: "say how many times smaller the model is to be, or --quantize".to_owned(),
        });
    }
    if options.ratio.is_some() && layers.iter().all(|layer| layer.map.is_none()) {
        return Err(Error::UnsupportedModel {
            reason: "no layer can be factorized; `onnx-bsr inspect MODEL` says why".to_owned(),
        });
    }
    let specs = graph::inputs(&model)?;
    let parts = Parts::of(request, &specs)?;
    let sample: Vec<Tensor> = match &parts {
        Some(parts) => parts.data.batch(&parts.calibration[..1])?,
        None => random_inputs(&specs, &concrete_shapes(&specs, &request.shapes)?, options.seed)?,
    };
    seconds.load = Some(begin.elapsed().as_secs_f64());

    let knobs = |rows: usize| NetworkOptions {
        statistics: if parts.is_some() { options.statistics } else { Statistics::None },
        ridge: RIDGE,
        rows_per_input: rows,
        seed: options.seed,
    };
    let mut found = match options.ratio {
        Some(ratio) => Some(choose(
            &model,
            &layers,
            &sample,
            parts.as_ref(),
            ratio,
            options,
            &knobs(ROWS.0),
            &mut seconds,
            progress,
        )?),
        None => None,
    };

    let mut trainer = match &parts {
        Some(parts) => Trainer::new(&model, parts, &sample, request)?,
        None => None,
    };
    let mut stages = Vec::new();
    let clock = Instant::now();
    let dense = match &mut trainer {
        Some(trainer) if options.msr > 0.0 && found.is_some() => {
            let choices = found.iter().flat_map(|f| f.choices.clone()).collect::<Vec<_>>();
            trainer.prepare(&layers, &choices, &mut stages, progress)?
        }
        _ => model.clone(),
    };
    let mut tuning = clock.elapsed().as_secs_f64();

    progress.phase("factorize", None);
    let clock = Instant::now();
    let mut network = Network::new(&dense, &layers, sample.clone(), knobs(ROWS.1))?;
    let any = found.as_ref().is_some_and(|f| f.choices.iter().any(Option::is_some));
    if let Some(parts) = parts.as_ref().filter(|_| any) {
        network.calibrate(Samples::new(
            &parts.data,
            parts.calibration.clone(),
            &network.evaluator,
        )?)?;
        weigh(&mut network, parts, progress)?;
    }
    let compressed = match &mut found {
        Some(found) => network.compress(
            &found.choices,
            &network.dense(),
            &mut Snapshots::new(0),
            &mut found.effort,
        )?,
        None => network.dense(),
    };
    let mut plan = Plan::new(&model, &network.layers, &compressed.factors)?;
    let (mut output, folded) = carry_out(&plan, &model)?;
    seconds.factorize = Some(clock.elapsed().as_secs_f64());
    let mut proof = match &parts {
        Some(parts) => {
            let factorized = found.is_some().then_some(&compressed);
            Some(measure(&model, factorized, parts, options.metric)?)
        }
        None => None,
    };
    if let Some(trainer) = &mut trainer {
        let clock = Instant::now();
        let start = carry_out(&Plan::new(&dense, &network.layers, &compressed.factors)?, &dense)?.0;
        let tuned = trainer.tune(&start, &sample, &mut stages, progress)?;
        plan.take_trained(&output, &tuned)?;
        output = tuned;
        if let Some(proof) = &mut proof {
            proof.metric.tuned = Some(proof.score(&output)?);
        }
        tuning += clock.elapsed().as_secs_f64();
        seconds.tune = Some(tuning);
    }
    let mut quantized = None;
    if let Some(form) = options.quantize {
        let clock = Instant::now();
        let (result, about) =
            quantization::carry_out(&output, form, parts.as_ref(), options, &mut plan, progress)?;
        output = result;
        quantized = Some(about);
        if let Some(proof) = &mut proof {
            proof.metric.quantized = Some(proof.score(&output)?);
        }
        seconds.quantize = Some(clock.elapsed().as_secs_f64());
    }

    progress.phase("validate", None);
    let clock = Instant::now();
    let mut report = result::write(request, &model, &output, &plan, &sample, proof, progress)?;
    seconds.validate = Some(clock.elapsed().as_secs_f64());
    seconds.total = begin.elapsed().as_secs_f64();
    report.seconds = seconds;
    report.training = trainer.map(|mut trainer| {
        trainer.finish();
        trainer.report(stages)
    });
    report.ratio.asked = options.ratio;
    report.ratio.target = options.target.name().to_owned();
    report.ratio.reached = Some(reached(&report, options.target));
    report.search = found.as_ref().map(|found| search_report(options, found, network.layers.len()));
    result::fill_layers(&mut report, &layers, &network, &compressed, &folded);
    report.quantization = quantized;
    quantization::fill_report(&mut report, &layers, &plan, options);
    result::check_targets(&mut report, options);
    if parts.is_none() {
        report.warnings.push(
            "no data: everything comes from the weights alone; give --data for a far better result"
                .to_owned(),
        );
    }
    Ok(report)
}

fn reached(report: &Report, target: Target) -> f64 {
    let (before, after) = match target {
        Target::Bytes => (report.model.bytes, report.output.bytes),
        Target::Params => (report.model.params, report.output.params),
        Target::Macs => (report.model.macs.unwrap_or(0), report.output.macs.unwrap_or(0)),
    };
    before as f64 / after.max(1) as f64
}

/// What the search did, for the report.
fn search_report(options: &Options, found: &Found, layers: usize) -> report::Search {
    let per_pass = (layers * found.samples).max(1) as f64;
    let effort = &found.effort;
    report::Search {
        mode: found.mode.name().to_owned(),
        beam: options.beam,
        evaluations: effort.evaluations,
        full_pass_equivalents: effort.layer_passes as f64 / per_pass,
        layer_passes: effort.layer_passes,
        predicted_vs_measured_rank_correlation: search::rank_correlation(&effort.predicted),
    }
}

/// What was chosen, and how.
struct Found {
    choices: Vec<Option<crate::factorize::Choice>>,
    effort: Effort,
    mode: SearchMode,
    /// Samples that candidates were scored on.
    samples: usize,
}

/// Chooses scheme and ranks of every layer within the budget.
#[allow(clippy::too_many_arguments)]
fn choose(
    model: &Model,
    layers: &[Layer],
    sample: &[Tensor],
    parts: Option<&Parts>,
    ratio: f64,
    options: &Options,
    knobs: &NetworkOptions,
    seconds: &mut Seconds,
    progress: &dyn Progress,
) -> Result<Found> {
    let clock = Instant::now();
    progress.phase("calibrate", None);
    let mut network = Network::new(model, layers, sample.to_vec(), *knobs)?;
    network.price = Price { form: options.quantize.map(|form| (form, options.block)) };
    if options.target == Target::Bytes
        && options.quantize.is_some()
        && network.price.model(model)? as f64 * ratio <= model.encoded_len() as f64
    {
        return Ok(Found {
            choices: vec![None; network.layers.len()],
            effort: Effort { stopped: "fewer bits alone reach the ratio", ..Effort::default() },
            mode: SearchMode::Start,
            samples: 0,
        });
    }
    if let Some(parts) = parts {
        let count = parts.calibration.len().min(SEARCH_CALIBRATION);
        let indices = parts.calibration[..count].to_vec();
        network.calibrate(Samples::new(&parts.data, indices, &network.evaluator)?)?;
        weigh(&mut network, parts, progress)?;
    }
    seconds.calibrate = Some(clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    let forms = network.layer_options(&options.schemes, options.rank_multiple, options.target)?;
    let budget = budget(&network, layers, sample, &forms, options.target, ratio)?;
    let Some(parts) = parts else {
        let losses = Prediction::new(vec![1.0; forms.len()]).losses(&forms);
        let found = search::start(&forms, &losses, budget).unwrap_or_default();
        seconds.search = Some(clock.elapsed().as_secs_f64());
        let choices = Network::choices(&forms, &found);
        return Ok(Found {
            choices,
            effort: Effort::default(),
            mode: SearchMode::Start,
            samples: 0,
        });
    };
    let samples = Samples::new(&parts.data, parts.search.clone(), &network.evaluator)?;
    let mut effort = Effort::default();
    progress.phase("sensitivity", Some(forms.len() as u64));
    let imitation = network.scorer(&samples, None, false)?;
    let sensitivity = search::sensitivities(
        &network,
        &forms,
        budget,
        &samples,
        &imitation,
        SNAPSHOT_BYTES,
        &mut effort,
        progress,
    )?;
    let prediction = Prediction::new(sensitivity);
    let first = search::start(&forms, &prediction.losses(&forms), budget).unwrap_or_default();
    let limits = Limits {
        beam: options.beam,
        evaluations: options.evaluations(),
        deadline: options.time_limit.map(|limit| clock + limit),
        snapshot_bytes: SNAPSHOT_BYTES,
    };
    let scorer: Scorer = network.scorer(&samples, options.metric, true)?;
    progress.phase("search", Some(options.evaluations() as u64).filter(|&n| n < 1 << 32));
    let allocation = match options.search {
        SearchMode::Start => first,
        SearchMode::Beam => {
            let (best, spent) = search::beam(
                &network, &forms, budget, first, prediction, &samples, &scorer, limits, progress,
            )?;
            effort.add(spent);
            best
        }
        SearchMode::Paper => {
            let (best, spent) = search::paper(
                &network,
                &forms,
                budget,
                &prediction,
                &samples,
                &scorer,
                limits,
                progress,
            )?;
            effort.add(spent);
            best
        }
    };
    seconds.search = Some(clock.elapsed().as_secs_f64());
    let choices = Network::choices(&forms, &allocation);
    Ok(Found { choices, effort, mode: options.search, samples: samples.len() })
}

/// Gives the layers the metrics of their outputs, where these are asked for and can be had.
fn weigh(network: &mut Network<'_>, parts: &Parts, progress: &dyn Progress) -> Result<()> {
    if network.options.statistics < Statistics::Loss {
        return Ok(());
    }
    let count = parts.calibration.len().min(WEIGHED);
    let indices = parts.calibration[..count].to_vec();
    let samples = Samples::new(&parts.data, indices, &network.evaluator)?;
    let scorer = network.scorer(&samples, None, false)?;
    match network.weigh(&samples, &scorer) {
        // Only training needs gradients: factors can do without.
        Err(error @ (Error::Node { .. } | Error::DataMismatch { .. })) => {
            progress.warn(&format!("no gradients ({error}): errors in all directions count alike"));
            Ok(())
        }
        other => other,
    }
}

/// What the compressible layers may cost together.
fn budget(
    network: &Network<'_>,
    layers: &[Layer],
    sample: &[Tensor],
    forms: &[LayerOptions],
    resource: Target,
    ratio: f64,
) -> Result<Budget> {
    let dense: u64 = forms.iter().map(|f| resource.of(&f.stored)).sum();
    let model = network.model;
    let total = match resource {
        Target::Bytes => model.encoded_len(),
        Target::Params => quantize::params(model),
        Target::Macs => result::macs(model, layers, sample.to_vec())?.unwrap_or(dense),
    };
    // What is not factorized may still be stored in fewer bits.
    let kept = if resource == Target::Bytes { network.price.model(model)? } else { total };
    let rest = kept.saturating_sub(dense);
    let allowed = (total as f64 / ratio).floor() as u64;
    let budget = Budget { resource, limit: allowed.saturating_sub(rest) };
    let least = budget.least(forms);
    if least > budget.limit {
        let largest = total as f64 / (rest + least).max(1) as f64;
        return Err(Error::RatioOutOfReach { asked: ratio, largest });
    }
    Ok(budget)
}

/// What scores the report's samples, and the metric of the original and of the factorized network
/// on them.
fn measure<'a>(
    model: &Model,
    factorized: Option<&Compressed>,
    parts: &'a Parts,
    metric: Option<MetricKind>,
) -> Result<Proof<'a>> {
    let (data, indices, source) = &parts.report;
    let original = Evaluator::new(model)?;
    let samples = Samples::new(data, indices.clone(), &original)?;
    let scorer = search::scorer(&original, &samples, metric, true)?;
    let kind = scorer.metric();
    let score = |network: &Compressed| {
        Ok::<_, Error>(search::score(&network.evaluator, &samples, &scorer)?.metric())
    };
    let metric = Metric {
        name: kind.name().to_owned(),
        unit: kind.unit().trim().to_owned(),
        higher_is_better: kind.higher_is_better(),
        source: source.clone(),
        samples: samples.len(),
        original: scorer.reference_score()?.metric(),
        factorized: factorized.map(score).transpose()?,
        tuned: None,
        quantized: None,
        written: None,
    };
    Ok(Proof { data, indices, samples, scorer, metric })
}

/// The model with a plan carried out, and the layers whose change of the mean is part of an addition
/// that followed them already.
fn carry_out(plan: &Plan, model: &Model) -> Result<(Model, HashSet<String>)> {
    let mut result = plan.apply(model)?;
    let mut folded = HashSet::new();
    for layer in &plan.layers {
        let last = result.graph().node.iter().position(|node| node.label() == layer.node);
        if let Some(last) = last
            && graph::fold_addition(&mut result, last)?
        {
            folded.insert(layer.node.clone());
        }
    }
    Ok((result, folded))
}

/// Replays a saved plan.
///
/// # Errors
/// When the plan is not for this model, or anything can't be read or written.
pub fn apply(input: &Path, plan: &Path, output: &Path, force: bool) -> Result<Report> {
    let begin = Instant::now();
    check_output(input, output, force)?;
    check_output(plan, output, force)?;
    let model = Model::read(input)?;
    let text = std::fs::read_to_string(plan)
        .map_err(|source| Error::Read { path: plan.to_owned(), source })?;
    let plan = Plan::parse(&text)?;
    let (mut result, _) = carry_out(&plan, &model)?;
    plan.set_trained(&mut result)?;
    if let Some(quantization) = &plan.quantization {
        result = quantization.apply(&result)?;
    }
    let mut report = result::write_plain(input, output, &model, &result)?;
    report.seconds.total = begin.elapsed().as_secs_f64();
    report.ratio.target = Target::Bytes.name().to_owned();
    report.ratio.reached = Some(reached(&report, Target::Bytes));
    Ok(report)
}
