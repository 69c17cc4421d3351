//! What a compression needs before ranks are chosen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::gentle::Whole;
use super::inputs::{Inputs, are_independent};
use super::parts::Parts;
use super::result::Proof;
use super::streamed;
use super::target::is_one_place;
use super::{FileMetric, Request, check_output};
use crate::error::{Error, Result};
use crate::eval::Evaluator;
use crate::graph;
use crate::layer::{Filter, Layer, find, prepare};
use crate::onnx::Model;
use crate::onnx::proto::tensor_shape_proto::dimension::Value as Extents;
use crate::options::Options;
use crate::progress::Progress;
use crate::quantize::{self, Floats};
use crate::report::Metric;
use crate::score::{MetricKind, Scorer};
use crate::search::{self, Compressed, Samples};
use crate::tensor::Tensor;

/// A model that was read, with the samples for it.
pub(super) struct Job {
    pub model: Model,
    /// Its weights, those included that can't be factorized.
    pub layers: Vec<Layer>,
    pub parts: Option<Parts>,
    /// One sample of its inputs; none where it can't be run.
    pub sample: Vec<Tensor>,
    /// Bytes of the file that was read.
    pub bytes: u64,
    /// Why the model can't be run, where it can't.
    pub unrunnable: Option<String>,
    /// What a person should know of it.
    pub warnings: Vec<String>,
    /// The user's metric of the file that was read.
    pub judged: Option<f64>,
    /// Inputs whose batch is pinned to one sample here, with what the file has.
    pub alone: Vec<(String, Option<Extents>)>,
    /// Whether weights had 16 bits, and are stored so again.
    halves: bool,
    /// Whether the model is too large to be held: see [`super::streamed`].
    pub streamed: bool,
    /// Seconds that reading took.
    pub seconds: f64,
}

impl Job {
    /// Reads what a request names and checks what can be checked before hours are spent on it.
    ///
    /// # Errors
    /// When something can't be read or written, or options don't go together.
    pub fn prepare(request: &Request, progress: &dyn Progress) -> Result<Self> {
        let begin = Instant::now();
        check_places(request)?;
        let (allowed, ratio) = (request.options.max_drop, request.options.ratio);
        if request.file_metric.is_some() && allowed.is_some() && ratio.is_none() {
            return Err(Error::Option {
                option: "--max-drop".to_owned(),
                reason: "a metric of files can't guide a search for the ratio: give --ratio too"
                    .to_owned(),
            });
        }
        progress.phase("load", None);
        let mut model = Model::read(&request.input)?;
        let bytes = model.encoded_len();
        let prepared = prepare(&mut model)?;
        let halves = prepared.widened > 0
            && request.options.quantize.is_none()
            && quantize::check(&model).is_ok();
        let options = adapted(&request.options, halves);
        let filter = Filter::new(&options.include, &options.exclude)?;
        let layers = find(&model, &filter)?;
        filter.check(&options.include, &options.exclude, &layers)?;
        check_options(request, &options, &model, &layers)?;
        let streamed = streamed::applies(request, &options, &model);
        let inputs =
            if streamed { Inputs::streamed(&model, request) } else { Inputs::of(&model, request) };
        let Inputs { parts, sample, mut warnings, unrunnable } = inputs?;
        if halves {
            warnings.push("weights have 16 bits, as in the original".to_owned());
        }
        if prepared.sparse > 0 {
            warnings.push(format!("{} sparse constants are stored dense now", prepared.sparse));
        }
        if !prepared.spelled_out.is_empty() {
            warnings.push(format!(
                "{} of ONNX Runtime are spelled out in standard operators, which ONNX Runtime fuses \
                 again",
                prepared.spelled_out.join(", ")
            ));
        }
        if prepared.functions {
            warnings.push("local functions gave way to the nodes they stand for".to_owned());
        }
        // The evaluator runs several samples at once, unless these change each other's outputs.
        let alone = match &parts {
            Some(parts) if !are_independent(&model, parts)? => graph::pin_batch(&mut model),
            _ => Vec::new(),
        };
        let of_file = |metric: &Arc<dyn FileMetric>| metric.value(&request.input, progress);
        let judged = request.file_metric.as_ref().map(of_file).transpose()?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Self {
            model,
            layers,
            parts,
            sample,
            bytes,
            unrunnable,
            warnings,
            judged,
            alone,
            halves,
            streamed,
            seconds,
        })
    }

    /// The options that a request of this model has in fact.
    pub fn options(&self, request: &Request) -> Options {
        adapted(&request.options, self.halves)
    }

    /// The model with its layers in the order they run.
    ///
    /// # Errors
    /// When the model can't be run.
    pub fn whole(&self) -> Result<Whole<'_>> {
        let steps = match &self.unrunnable {
            Some(_) => Evaluator::never_run(&self.model)?,
            None => Evaluator::new(&self.model)?,
        };
        let ordered = search::in_order(&steps, &self.layers);
        let layers = ordered.into_iter().map(|(_, layer)| layer).collect();
        Ok(Whole { model: &self.model, layers, bytes: self.bytes, sample: &self.sample })
    }

    /// What scores the samples of the report, where there are any.
    ///
    /// # Errors
    /// As [`Judge::of`].
    pub fn judge(&self, options: &Options, progress: &dyn Progress) -> Result<Option<Judge>> {
        let parts = self.parts.as_ref();
        parts.map(|parts| Judge::of(&self.model, parts, options.metric, progress)).transpose()
    }
}

/// Options with the bits that weights have to begin with.
fn adapted(options: &Options, halves: bool) -> Options {
    let quantize = if halves { Some(quantize::Form::Fp16) } else { options.quantize };
    Options { quantize, ..options.clone() }
}

/// Checks that options go together, and that there is something to do for them.
fn check_options(
    request: &Request,
    options: &Options,
    model: &Model,
    layers: &[Layer],
) -> Result<()> {
    if options.quantize.is_some() {
        quantize::check(model)?;
        Floats::new(&options.float)?.check(model)?;
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
    // Fewer bits may be all that a bound of the loss alone leaves to do.
    let only_bits = options.ratio.is_none() && options.quantize.is_some();
    if options.factorizes() && !only_bits && layers.iter().all(|layer| layer.map.is_none()) {
        return Err(Error::UnsupportedModel { reason: no_layer(layers) });
    }
    Ok(())
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

/// Checks that every file can be written and none replaces another.
fn check_places(request: &Request) -> Result<()> {
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
    Ok(())
}

/// What scores networks on the samples of the report.
pub(super) struct Judge {
    samples: Samples,
    scorer: Scorer,
    original: f64,
    source: String,
}

impl Judge {
    /// Runs the original on the samples.
    ///
    /// # Errors
    /// When it can't be run, or the metric doesn't fit the outputs.
    pub fn of(
        model: &Model,
        parts: &Parts,
        metric: Option<MetricKind>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (data, indices, source) = &parts.report;
        let original = Evaluator::new(model)?;
        let samples = Samples::new(data, indices.clone(), &original)?;
        let scorer = search::scorer(&original, &samples, metric, true, progress)?;
        let original = scorer.reference_score()?.metric();
        Ok(Self { samples, scorer, original, source: source.clone() })
    }

    /// What a written file is proven on, with the metric of the original and of the factorized network.
    ///
    /// # Errors
    /// When that can't be run.
    pub fn proof<'a>(
        &'a self,
        parts: &'a Parts,
        factorized: Option<&Compressed>,
        progress: &dyn Progress,
    ) -> Result<Proof<'a>> {
        let (data, indices, _) = &parts.report;
        let (samples, scorer) = (&self.samples, &self.scorer);
        let kind = scorer.metric();
        let score = |network: &Compressed| {
            let score = search::score(&network.evaluator, samples, scorer, progress)?;
            Ok::<_, Error>(score.metric())
        };
        let metric = Metric {
            name: kind.name().to_owned(),
            unit: kind.unit().trim().to_owned(),
            higher_is_better: kind.higher_is_better(),
            source: self.source.clone(),
            samples: samples.len(),
            original: self.original,
            factorized: factorized.map(score).transpose()?,
            tuned: None,
            quantized: None,
            written: None,
        };
        Ok(Proof { data, indices, samples, scorer, metric })
    }
}
