//! The main job: a model in, a smaller one out, proven in tract.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::account;
use super::choose::{Found, choose, search_report};
use super::gentle::{self, Dense};
use super::job::{Job, Judge};
use super::parts::Parts;
use super::quantization;
use super::result;
use super::shared::Shared;
use super::statistics::{fitted, plain};
use super::streamed;
use super::training::{Trainer, rounded};
use super::{Request, check_output};
use crate::error::{Error, Result};
use crate::graph;
use crate::layer::{Layer, prepare};
use crate::onnx::Model;
use crate::options::{Options, Target};
use crate::progress::Progress;
use crate::report::{Page, Report, Seconds, page};
use crate::search::{Compressed, Network, Plan};

/// Compresses a model as asked and writes the result. The report says what was done.
///
/// # Errors
/// When anything can't be read, run or written; nothing is written then.
pub fn compress(request: &Request, progress: &dyn Progress) -> Result<Report> {
    let job = Job::prepare(request, progress)?;
    let mut report = job.run(request, None, None, progress)?;
    report.seconds.load = Some(job.seconds);
    report.seconds.total += job.seconds;
    if let Some(path) = &request.report {
        result::write_text(path, &page(&Page::Compression { report: &report }))?;
    }
    Ok(report)
}

/// The network that a choice was searched in.
enum Searched<'d, 's, 'a> {
    Own(Box<Network<'d>>),
    Shared(&'s mut Network<'a>),
}

impl Searched<'_, '_, '_> {
    fn network(&self) -> &Network<'_> {
        match self {
            Self::Own(network) => network,
            Self::Shared(network) => network,
        }
    }

    fn fitted(
        &mut self,
        parts: Option<&Parts>,
        found: &mut Found,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Compressed> {
        match self {
            Self::Own(network) => fitted(network, parts, found, options, progress),
            Self::Shared(network) => fitted(network, parts, found, options, progress),
        }
    }
}

impl Job {
    /// Searches at the ratios of a sweep that have not been searched at yet, where those have more than
    /// the model in common.
    ///
    /// # Errors
    /// As [`Shared::search`].
    pub fn search<'p>(
        &self,
        request: &Request,
        ratios: &[f64],
        shared: &mut Shared<'p>,
        progress: &'p dyn Progress,
    ) -> Result<()> {
        let options = self.options(request);
        match &self.parts {
            Some(parts) if !self.streamed && gentle::ratios(&options).is_empty() => {
                shared.search(&self.whole()?, parts, ratios, &options, progress)
            }
            _ => Ok(()),
        }
    }

    /// Compresses the model to one ratio. `judge` and `shared` are what several ratios have in common.
    ///
    /// # Errors
    /// As [`compress`].
    pub fn run<'p>(
        &self,
        request: &Request,
        judge: Option<&Judge>,
        mut shared: Option<&mut Shared<'p>>,
        progress: &'p dyn Progress,
    ) -> Result<Report> {
        let begin = Instant::now();
        let request = &Request { options: self.options(request), ..request.clone() };
        let options = &request.options;
        if self.streamed {
            let mut report = streamed::run(self, request, progress)?;
            self.conclude(&mut report, request);
            return Ok(report);
        }
        let mut seconds = Seconds::default();
        let Self { model, layers, sample, parts, .. } = self;
        let parts = parts.as_ref();
        let mut trainer = match parts {
            Some(parts) => Trainer::new(model, parts, sample, request, progress)?,
            None => None,
        };
        let whole = self.whole()?;
        let mut dense = Dense::of(model.clone(), &whole.layers);
        let gentle = gentle::ratios(options);
        let mut stages = Vec::new();
        let mut tuning = 0.0;
        if let (Some(parts), Some(trainer)) = (parts, &mut trainer) {
            let clock = Instant::now();
            for &ratio in &gentle {
                dense =
                    whole.through(&dense, parts, ratio, options, trainer, &mut stages, progress)?;
            }
            tuning = clock.elapsed().as_secs_f64();
        }
        let clock = Instant::now();
        let (mut found, searched) = match (&mut shared, parts) {
            // Dense models that gentler ratios were trained at are each their own.
            (Some(shared), Some(parts)) if gentle.is_empty() => {
                match shared.choose(&whole, parts, options, &mut seconds, progress)? {
                    (found, Some(network)) => (found, Searched::Shared(network)),
                    (found, None) => {
                        (found, Searched::Own(Box::new(plain(&dense, &whole, options, progress)?)))
                    }
                }
            }
            _ => {
                let (found, network) =
                    choose(&dense, &whole, parts, options, &mut seconds, progress)?;
                (found, Searched::Own(Box::new(network)))
            }
        };
        // A search that was done with others, before this.
        let ahead = (seconds.search.unwrap_or(0.0) - clock.elapsed().as_secs_f64()).max(0.0);
        let retrained;
        let (dense, mut searched) = match &mut trainer {
            Some(trainer) if options.msr > 0.0 && options.factorizes() => {
                let clock = Instant::now();
                let prepared = trainer.prepare(&dense, &found.choices, &mut stages, progress)?;
                drop(searched);
                dense.set_trained(prepared)?;
                retrained = dense;
                found.compressed = None;
                tuning += clock.elapsed().as_secs_f64();
                (&retrained, Searched::Own(Box::new(plain(&retrained, &whole, options, progress)?)))
            }
            _ => (&dense, searched),
        };

        progress.phase("factorize", None);
        let clock = Instant::now();
        let compressed = searched.fitted(parts, &mut found, options, progress)?;
        let network = searched.network();
        let factors = dense.factors(network, &compressed.factors)?;
        let mut plan = Plan::new(model, &whole.layers, &factors)?;
        let (mut output, folded) = carry_out(&plan, model)?;
        seconds.factorize = Some(clock.elapsed().as_secs_f64());
        let own;
        let mut proof = match parts {
            Some(parts) => {
                let judge = match judge {
                    Some(judge) => judge,
                    None => {
                        own = Judge::of(model, parts, options.metric, progress)?;
                        &own
                    }
                };
                let factorized = options.factorizes().then_some(&compressed);
                Some(judge.proof(parts, factorized, progress)?)
            }
            None => None,
        };
        let untrained = output.clone();
        let share = if gentle.is_empty() { 1.0 } else { 1.0 - gentle::SHARE };
        let last = share * rounded::share(options);
        if let Some(trainer) = &mut trainer {
            let clock = Instant::now();
            let start = Plan::new(&dense.base, &whole.layers, &factors)?;
            let start = carry_out(&start, &dense.base)?.0;
            let (ratio, first) = (options.ratio, share - last);
            output = trainer.tune(&start, sample, ratio, first, &mut stages, progress)?;
            if let Some(proof) = &mut proof {
                proof.metric.tuned = Some(proof.score(&output, progress)?);
            }
            tuning += clock.elapsed().as_secs_f64();
            seconds.tune = Some(tuning);
        }

        let mut bits = None;
        if let Some(form) = options.quantize {
            let clock = Instant::now();
            let settings = quantization::settings(form, options);
            let settled = quantization::settled(&output, &whole.layers, &found.storages, options)?;
            let mut quantized =
                quantization::decide(&output, &settings, &settled, parts, progress)?;
            let kept = std::mem::take(&mut quantized.kept);
            seconds.quantize = Some(clock.elapsed().as_secs_f64());
            let stored = match &mut trainer {
                Some(trainer) if last > 0.0 => {
                    let clock = Instant::now();
                    let (floats, stored) = trainer.round(
                        &output,
                        quantized,
                        &settings,
                        sample,
                        last,
                        &mut stages,
                        progress,
                    )?;
                    output = floats;
                    tuning += clock.elapsed().as_secs_f64();
                    seconds.tune = Some(tuning);
                    stored
                }
                _ => quantized.quantization,
            };
            bits = Some((stored, kept));
        }
        if trainer.is_some() {
            plan.take_trained(&untrained, &output)?;
        }
        let mut quantized = None;
        if let Some((stored, kept)) = bits {
            let (result, about) =
                quantization::carry_out(&output, stored, kept, options, &mut plan)?;
            output = result;
            quantized = Some(about);
            if let Some(proof) = &mut proof {
                proof.metric.quantized = Some(proof.score(&output, progress)?);
            }
        }

        progress.phase("validate", None);
        let clock = Instant::now();
        let judged = self.judged;
        let mut report = match &self.unrunnable {
            Some(reason) => {
                result::unrun(request, model, &output, &plan, reason, judged, progress)?
            }
            None => {
                let staged = (&output, &*self.alone);
                result::write(request, model, staged, &plan, sample, proof, judged, progress)?
            }
        };
        report.model.bytes = self.bytes;
        report.warnings.splice(0..0, self.warnings.iter().cloned());
        seconds.validate = Some(clock.elapsed().as_secs_f64());
        seconds.total = begin.elapsed().as_secs_f64() + ahead;
        report.seconds = seconds;
        report.training = trainer.map(|mut trainer| {
            trainer.finish();
            trainer.report(stages)
        });
        let searched = options.factorizes();
        report.search = searched.then(|| search_report(options, &found, network.layers.len()));
        account::fill_layers(
            &mut report,
            layers,
            &whole.layers,
            &network.extents,
            &factors,
            &folded,
            &found.spectra,
        );
        report.quantization = quantized;
        quantization::fill_report(&mut report, layers, &plan, options);
        self.conclude(&mut report, request);
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
        Ok(report)
    }

    /// What every report says of a request.
    fn conclude(&self, report: &mut Report, request: &Request) {
        let options = &request.options;
        report.ratio.asked = options.ratio;
        report.ratio.target = options.target.name().to_owned();
        report.ratio.reached = Some(reached(report, options.target));
        account::check_targets(report, options);
        if self.parts.is_none() {
            report.warnings.push(
                "no data: everything comes from the weights alone; give --data for a far better result"
                    .to_owned(),
            );
        }
        report.program.seed = options.seed;
        report.program.command.clone_from(&request.command);
    }
}

fn reached(report: &Report, target: Target) -> f64 {
    let (before, after) = match target {
        Target::Bytes => (report.model.bytes, report.output.bytes),
        Target::Params => (report.model.params, report.output.params),
        Target::Macs => (report.model.macs.unwrap_or(0), report.output.macs.unwrap_or(0)),
        Target::Latency => {
            return report.latency_ms.as_ref().map_or(1.0, |ms| ms.original / ms.output);
        }
    };
    before as f64 / after.max(1) as f64
}

/// The model with a plan carried out, and the layers whose change of the mean is part of an addition
/// that followed them already.
fn carry_out(plan: &Plan, model: &Model) -> Result<(Model, HashSet<String>)> {
    let mut result = plan.apply(model)?;
    let folded = fold(&mut result, &plan.found(model)?)?;
    Ok((result, folded))
}

/// Makes the change of the mean of layers part of an addition that follows them, where one does; says of
/// which.
pub(super) fn fold(result: &mut Model, layers: &[Layer]) -> Result<HashSet<String>> {
    let mut folded = HashSet::new();
    for layer in layers {
        let mut all = true;
        for name in layer.names() {
            let last = result.graph().node.iter().position(|node| node.label() == name);
            all &= match last {
                Some(last) => graph::fold_addition(result, last)?,
                None => false,
            };
        }
        if all {
            folded.insert(layer.name.clone());
        }
    }
    Ok(folded)
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
