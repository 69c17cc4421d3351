//! The main job: a model in, a smaller one out, proven in tract.

use std::collections::HashSet;
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
use crate::eval::Evaluator;
use crate::graph;
use crate::layer::{Filter, find};
use crate::onnx::Model;
use crate::options::Target;
use crate::progress::Progress;
use crate::quantize;
use crate::report::{Metric, Page, Report, Seconds, page};
use crate::score::MetricKind;
use crate::search::{self, Compressed, Plan, Samples};
use crate::tensor::Tensor;
use crate::validate::{concrete_shapes, random_inputs};

/// Compresses a model as asked and writes the result. The report says what was done.
///
/// # Errors
/// When anything can't be read, run or written; nothing is written then.
pub fn compress(request: &Request, progress: &dyn Progress) -> Result<Report> {
    let begin = Instant::now();
    let options = &request.options;
    let mut seconds = Seconds::default();
    check_output(&request.input, &request.output, request.force)?;
    let beside = [
        ("--save-plan", &request.save_plan),
        ("--resume", &request.resume),
        ("--report", &request.report),
    ];
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

    let mut trainer = match &parts {
        Some(parts) => Trainer::new(&model, parts, &sample, request)?,
        None => None,
    };
    let ordered = search::in_order(&Evaluator::new(&model)?, &layers);
    let ordered = ordered.into_iter().map(|(_, layer)| layer).collect();
    let whole = Whole { model: &model, layers: ordered, sample: &sample };
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
    let searched = options.factorizes();
    report.search = searched.then(|| search_report(options, &found, network.layers.len()));
    result::fill_layers(
        &mut report,
        &layers,
        &whole.layers,
        &network.extents,
        &factors,
        &folded,
        &found.spectra,
    );
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
    report.program.seed = options.seed;
    report.program.command.clone_from(&request.command);
    if let Some(path) = &request.report {
        result::write_text(path, &page(&Page::Compression { report: &report }))?;
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
