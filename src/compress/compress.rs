//! The main job: a model in, a smaller one out, proven in tract.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Instant;

use super::choose::{choose, search_report};
use super::gentle::{self, Dense, Whole};
use super::parts::Parts;
use super::quantization;
use super::result::{self, Proof};
use super::statistics::fitted;
use super::target::is_one_place;
use super::training::Trainer;
use super::{Request, check_output};
use crate::error::{Error, Result};
use crate::eval::{Batches, Evaluator, part};
use crate::graph::{self, InputSpec};
use crate::layer::{Filter, Layer, find, prepare};
use crate::onnx::Model;
use crate::options::Target;
use crate::progress::Progress;
use crate::quantize;
use crate::report::{Metric, Report, Seconds};
use crate::score::MetricKind;
use crate::search::{self, Compressed, Plan, Samples};
use crate::tensor::Tensor;
use crate::validate::{Agreement, concrete_shapes, guessed_shapes, random_inputs};

/// Compresses a model as asked and writes the result. The report says what was done.
///
/// # Errors
/// When anything can't be read, run or written; nothing is written then.
pub fn compress(request: &Request, progress: &dyn Progress) -> Result<Report> {
    let begin = Instant::now();
    let mut request = request.clone();
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
    let mut model = Model::read(&request.input)?;
    let bytes = model.encoded_len();
    let prepared = prepare(&mut model)?;
    // Weights that had 16 bits are stored so again.
    let halves = prepared.widened > 0 && request.options.quantize.is_none();
    if halves && quantize::check(&model).is_ok() {
        request.options.quantize = Some(quantize::Form::Fp16);
    }
    let request = &request;
    let options = &request.options;
    let filter = Filter::new(&options.include, &options.exclude)?;
    let layers = find(&model, &filter)?;
    filter.check(&options.include, &options.exclude, &layers)?;
    if options.quantize.is_some() {
        quantize::check(&model)?;
    } else if !options.factorizes() {
        return Err(Error::Option {
            option: "--ratio".to_owned(),
            reason: "say how many times smaller the model is to be, or what it may lose \
                     (--max-drop), or --quantize"
                .to_owned(),
        });
    }
    if options.ratio.is_none() && options.max_drop.is_some() && request.train.is_some() {
        return Err(Error::Option {
            option: "--max-drop".to_owned(),
            reason: "what training will make up for is not known before it: give --ratio too"
                .to_owned(),
        });
    }
    if options.factorizes() && layers.iter().all(|layer| layer.map.is_none()) {
        return Err(Error::UnsupportedModel { reason: no_layer(&layers) });
    }
    let Ground { parts, sample, warnings, unrunnable } = Ground::of(&model, request)?;
    // The evaluator runs several samples at once, unless these change each other's outputs.
    let alone = match &parts {
        Some(parts) if !are_independent(&model, parts)? => graph::pin_batch(&mut model),
        _ => Vec::new(),
    };
    let model = model;
    seconds.load = Some(begin.elapsed().as_secs_f64());

    let mut trainer = match &parts {
        Some(parts) => Trainer::new(&model, parts, &sample, request)?,
        None => None,
    };
    let steps =
        if unrunnable.is_some() { Evaluator::never_run(&model)? } else { Evaluator::new(&model)? };
    let ordered = search::in_order(&steps, &layers);
    let ordered = ordered.into_iter().map(|(_, layer)| layer).collect();
    let whole = Whole { model: &model, layers: ordered, bytes, sample: &sample };
    let mut dense = Dense::of(model.clone(), &whole.layers);
    let gentle = gentle::ratios(options);
    let mut stages = Vec::new();
    let mut tuning = 0.0;
    if let (Some(parts), Some(trainer)) = (&parts, &mut trainer) {
        let clock = Instant::now();
        for &ratio in &gentle {
            dense = whole.through(&dense, parts, ratio, options, trainer, &mut stages, progress)?;
        }
        tuning = clock.elapsed().as_secs_f64();
    }
    let (mut found, searched) =
        choose(&dense, &whole, parts.as_ref(), options, &mut seconds, progress)?;
    let retrained;
    let (dense, searched) = match &mut trainer {
        Some(trainer) if options.msr > 0.0 && options.factorizes() => {
            let clock = Instant::now();
            let prepared = trainer.prepare(&dense, &found.choices, &mut stages, progress)?;
            drop(searched);
            dense.set_trained(prepared)?;
            retrained = dense;
            found.compressed = None;
            tuning += clock.elapsed().as_secs_f64();
            (&retrained, None)
        }
        _ => (&dense, Some(searched)),
    };

    progress.phase("factorize", None);
    let clock = Instant::now();
    let (network, compressed) =
        fitted(dense, &whole, parts.as_ref(), &mut found, searched, options, progress)?;
    let factors = dense.factors(&network, &compressed.factors)?;
    let mut plan = Plan::new(&model, &whole.layers, &factors)?;
    let (mut output, folded) = carry_out(&plan, &model)?;
    seconds.factorize = Some(clock.elapsed().as_secs_f64());
    let mut proof = match &parts {
        Some(parts) => {
            let factorized = options.factorizes().then_some(&compressed);
            Some(measure(&model, factorized, parts, options.metric)?)
        }
        None => None,
    };
    if let Some(trainer) = &mut trainer {
        let clock = Instant::now();
        let start = Plan::new(&dense.base, &whole.layers, &factors)?;
        let start = carry_out(&start, &dense.base)?.0;
        let share = if gentle.is_empty() { 1.0 } else { 1.0 - gentle::SHARE };
        let tuned = trainer.tune(&start, &sample, options.ratio, share, &mut stages, progress)?;
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
    let mut report = match unrunnable {
        Some(reason) => result::unrun(request, &model, &output, &plan, &reason)?,
        None => {
            let staged = (&output, &*alone);
            result::write(request, &model, staged, &plan, &sample, proof, progress)?
        }
    };
    report.model.bytes = bytes;
    report.warnings.splice(0..0, warnings);
    if halves && options.quantize == Some(quantize::Form::Fp16) {
        report.warnings.push("weights have 16 bits, as in the original".to_owned());
    }
    if prepared.sparse > 0 {
        report.warnings.push(format!("{} sparse constants are stored dense now", prepared.sparse));
    }
    if prepared.functions {
        report.warnings.push("local functions gave way to the nodes they stand for".to_owned());
    }
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
    let searched = options.factorizes();
    report.search = searched.then(|| search_report(options, &found, network.layers.len()));
    result::fill_layers(&mut report, &layers, &whole.layers, &network.extents, &factors, &folded);
    report.quantization = quantized;
    quantization::fill_report(&mut report, &layers, &plan, options);
    result::check_targets(&mut report, options);
    if options.ratio.is_none()
        && options.max_drop.is_some()
        && found.choices.iter().all(Option::is_none)
    {
        report.warnings.push(
            "nothing could be factorized within --max-drop: allow more, or give more samples for \
             a smaller standard error"
                .to_owned(),
        );
    }
    if parts.is_none() {
        report.warnings.push(
            "no data: everything comes from the weights alone; give --data for a far better result"
                .to_owned(),
        );
    }
    Ok(report)
}

/// That no layer can be factorized, and what is in the way of most weights.
fn no_layer(layers: &[Layer]) -> String {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for layer in layers {
        if let Some(reason) = &layer.skip {
            *reasons.entry(reason).or_default() += layer.weight_params.max(1);
        }
    }
    let most = reasons.into_iter().max_by_key(|(_, params)| *params);
    let why = match most {
        Some((reason, _)) => format!("most weights are left alone for this: {reason}"),
        None => "it has no weights of Conv, Gemm or MatMul".to_owned(),
    };
    format!("no layer can be factorized; {why}; `onnx-bsr inspect MODEL` lists them")
}

/// What a compression works with besides the model.
struct Ground {
    parts: Option<Parts>,
    /// One sample; none where the model can't be run.
    sample: Vec<Tensor>,
    warnings: Vec<String>,
    /// Why the model can't be run.
    unrunnable: Option<String>,
}

impl Ground {
    /// The samples that a request names, or random ones. Where the evaluator can't run the model,
    /// neither: weights alone decide then.
    ///
    /// # Errors
    /// When data or shapes don't fit the model, and when it can't be run where that is needed.
    fn of(model: &Model, request: &Request) -> Result<Self> {
        let specs = graph::inputs(model);
        let needed = request.train.is_some() || request.options.max_drop.is_some();
        let mut warnings = Vec::new();
        let fault = match specs {
            Ok(specs) => {
                let parts = Parts::of(request, &specs)?;
                let run = |inputs: &[Tensor]| Evaluator::new(model)?.run(inputs.to_vec());
                let tried = match &parts {
                    Some(parts) => {
                        let fixed = Batches::new(specs.clone()).fixed;
                        let inputs = parts.data.batch(&parts.calibration[..1])?;
                        let inputs: Vec<_> =
                            inputs.iter().map(|t| part(t, &(0..1), fixed)).collect();
                        run(&inputs).map(|_| inputs)
                    }
                    None => sample(model, &specs, request, &mut warnings)?,
                };
                match tried {
                    Ok(sample) => return Ok(Self { parts, sample, warnings, unrunnable: None }),
                    // The data may be what is wrong.
                    Err(fault @ (Error::DataMismatch { .. } | Error::Data { .. })) => {
                        return Err(fault);
                    }
                    Err(fault) => {
                        let none = &mut Vec::new();
                        if parts.is_some() && sample(model, &specs, request, none)?.is_ok() {
                            return Err(fault);
                        }
                        fault
                    }
                }
            }
            Err(fault) => fault,
        };
        if needed {
            return Err(fault);
        }
        let reason = fault.chain();
        if request.data.is_some() {
            warnings.push("the data were not used: the model can't be run on them".to_owned());
        }
        Ok(Self { parts: None, sample: Vec::new(), warnings, unrunnable: Some(reason) })
    }
}

/// Whether samples have the same outputs in one run as on their own.
fn are_independent(model: &Model, parts: &Parts) -> Result<bool> {
    let evaluator = Evaluator::new(model)?;
    if evaluator.batches().fixed.is_some() || parts.calibration.len() < 2 {
        return Ok(true);
    }
    let both = parts.data.batch(&parts.calibration[..2])?;
    let first = parts.data.batch(&parts.calibration[..1])?;
    let one = evaluator.per_sample(evaluator.run(first)?, 1)?;
    let together = evaluator.run(both).and_then(|outputs| evaluator.per_sample(outputs, 2));
    let Ok(together) = together else { return Ok(false) };
    let part: Vec<Tensor> = together.iter().map(|t| t.slice_batch(0, 1)).collect();
    Ok(Agreement::between(&one, &part).is_ok_and(|a| a.max_relative_difference() < TOGETHER))
}

/// Relative difference of outputs that another order of sums may make.
const TOGETHER: f64 = 1e-3;

/// Extents that open dims are tried with.
const EXTENTS: [usize; 7] = [64, 16, 128, 224, 8, 32, 1];

/// Random inputs on which the model runs, with plausible extents where it leaves dims open; or the
/// fault of the first that were tried.
fn sample(
    model: &Model,
    specs: &[InputSpec],
    request: &Request,
    warnings: &mut Vec<String>,
) -> Result<Result<Vec<Tensor>>> {
    let evaluator = Evaluator::new(model)?;
    let open = concrete_shapes(specs, &request.shapes).is_err();
    let mut first = None;
    for &extent in &EXTENTS[..if open { EXTENTS.len() } else { 1 }] {
        let shapes = guessed_shapes(specs, &request.shapes, extent)?;
        let inputs = random_inputs(specs, &shapes, request.options.seed)?;
        match evaluator.run(inputs.clone()) {
            Ok(_) => {
                if open {
                    warnings.push(format!(
                        "open dims of inputs were taken as {extent} to run the model; --shape says \
                         what they are"
                    ));
                }
                return Ok(Ok(inputs));
            }
            Err(fault) => first = first.or(Some(fault)),
        }
    }
    Ok(Err(first.unwrap_or_else(|| Error::InvalidModel { reason: "no inputs to try".to_owned() })))
}

fn reached(report: &Report, target: Target) -> f64 {
    let (before, after) = match target {
        Target::Bytes => (report.model.bytes, report.output.bytes),
        Target::Params => (report.model.params, report.output.params),
        Target::Macs => (report.model.macs.unwrap_or(0), report.output.macs.unwrap_or(0)),
    };
    before as f64 / after.max(1) as f64
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
    let mut model = Model::read(input)?;
    let bytes = model.encoded_len();
    prepare(&mut model)?;
    let text = std::fs::read_to_string(plan)
        .map_err(|source| Error::Read { path: plan.to_owned(), source })?;
    let plan = Plan::parse(&text)?;
    let (mut result, _) = carry_out(&plan, &model)?;
    plan.set_trained(&mut result)?;
    if let Some(quantization) = &plan.quantization {
        result = quantization.apply(&result)?;
    }
    let mut report = result::write_plain(input, output, &model, &result)?;
    report.model.bytes = bytes;
    report.seconds.total = begin.elapsed().as_secs_f64();
    report.ratio.target = Target::Bytes.name().to_owned();
    report.ratio.reached = Some(reached(&report, Target::Bytes));
    Ok(report)
}
