//! Quantization within a compression.

use std::collections::BTreeSet;

use super::parts::Parts;
use crate::error::Result;
use crate::eval::Evaluator;
use crate::layer::Layer;
use crate::onnx::Model;
use crate::options::Options;
use crate::progress::{Progress, go_on};
use crate::quantize::{
    self, Calibration, Floats, Form, Kept, Quantization, Quantized, Settings, Settled, Storage,
    Weight,
};
use crate::report::{self, KeptWeight, Report};
use crate::search::{Plan, Samples};

/// How much slower than the original a file may be before the report says why.
const SLOWER: f64 = 1.1;

/// What is asked of a quantization.
pub(super) fn settings(form: Form, options: &Options) -> Settings {
    Settings {
        form,
        rounding: options.rounding,
        block: options.block,
        seed: options.seed,
        range: options.range,
        signed: options.signed,
        seven_bits: options.seven_bits,
        float_ends: options.float_ends,
    }
}

/// Names of the weights of a model that are to stay float by globs of what they are in the original:
/// `layers` are those of the original, each with what its weight is named in the model, or what the names
/// of its factors begin with.
pub(super) fn floats<'l>(
    model: &Model,
    globs: &[String],
    layers: impl Iterator<Item = (&'l Layer, &'l str)>,
) -> Result<BTreeSet<String>> {
    let floats = Floats::new(globs)?;
    let meant: Vec<&str> = layers
        .filter(|(layer, _)| floats.matches(&layer.name) || floats.matches(&layer.weight))
        .map(|(_, name)| name)
        .collect();
    let is_meant = |weight: &Weight| {
        floats.has(model, weight) || meant.iter().any(|name| is_of(&weight.name, name))
    };
    Ok(quantize::weights(model).into_iter().filter(is_meant).map(|w| w.name).collect())
}

/// Whether a weight is the one of that name, or one of its factors: new constants are named after the
/// weight that they replace.
fn is_of(weight: &str, name: &str) -> bool {
    weight.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is said beforehand of a model's weights: by the options, and by what a search has chosen for the
/// original's layers.
pub(super) fn settled(
    model: &Model,
    layers: &[Layer],
    storages: &[Option<Storage>],
    options: &Options,
) -> Result<Settled> {
    let named = layers.iter().map(|l| (l, l.weight.as_str()));
    let floats = floats(model, &options.float, named)?;
    let mut found = Settled { floats, ..Settled::default() };
    for weight in quantize::weights(model) {
        let of = layers.iter().zip(storages).filter(|(l, _)| is_of(&weight.name, &l.weight));
        let chosen = of.max_by_key(|(layer, _)| layer.weight.len()).map(|(_, storage)| *storage);
        // What else there is was counted with eight bits.
        let counted = options.quantize == Some(Form::Auto) && !storages.is_empty();
        let counted = counted.then_some(Some(Storage::Int8));
        if let Some(storage) = chosen.or(counted) {
            found.storages.insert(weight.name, storage);
        }
    }
    Ok(found)
}

/// What becomes of the model's weights, by what its layers see on the samples where there are any.
pub(super) fn decide(
    model: &Model,
    settings: &Settings,
    settled: &Settled,
    parts: Option<&Parts>,
    progress: &dyn Progress,
) -> Result<Quantized> {
    progress.phase("quantize", None);
    let Some(parts) = parts else { return quantize::rounded(model, settings, settled, None) };
    let evaluator = Evaluator::new(model)?;
    let samples = Samples::new(&parts.data, parts.calibration.clone(), &evaluator)?;
    let inputs = |run: usize, evaluator: &Evaluator| {
        go_on(progress)?;
        Ok((samples.inputs(run, evaluator)?, samples.range(run)))
    };
    let (runs, tokens) = (samples.runs(), samples.tokens());
    let calibration = Calibration { runs, samples: samples.len(), tokens, inputs: &inputs };
    quantize::rounded(model, settings, settled, Some(&calibration))
}

/// The model with its weights in fewer bits, which the plan then holds, and what to report.
pub(super) fn carry_out(
    model: &Model,
    quantization: Quantization,
    kept: Vec<Kept>,
    options: &Options,
    plan: &mut Plan,
) -> Result<(Model, report::Quantization)> {
    let result = quantization.apply(model)?;
    let kept = kept.into_iter().map(|k| KeptWeight { name: k.name, reason: k.reason }).collect();
    let params: usize =
        quantization.weights.iter().map(|w| w.shape.iter().product::<usize>()).sum();
    let about = report::Quantization {
        form: quantization.form.name().to_owned(),
        rounding: options.rounding.name().to_owned(),
        weights: quantization.weights.len(),
        params: params as u64,
        bits_per_param: 8.0 * quantize::weight_bytes(&result) as f64
            / quantize::params(&result).max(1) as f64,
        bytes_before: model.encoded_len(),
        kept,
    };
    plan.quantization = Some(quantization);
    Ok((result, about))
}

/// Adds the bits of every layer to a report, and says so where a form made the model slower.
pub(super) fn fill_report(report: &mut Report, layers: &[Layer], plan: &Plan, options: &Options) {
    let (Some(quantization), Some(form)) = (&plan.quantization, options.quantize) else { return };
    for (entry, layer) in report.layers.iter_mut().zip(layers) {
        let planned = plan.layers.iter().find(|l| l.node == layer.name && l.weight == layer.weight);
        let own = |name: &str| match planned {
            Some(planned) => name != planned.weight && is_of(name, &planned.weight),
            None => layer.weight == name,
        };
        let bits = quantization.weights.iter().filter(|w| own(&w.name)).map(|w| w.storage.bits());
        entry.bits = bits.max();
    }
    if let Some(latency) = &report.latency_ms
        && latency.output > SLOWER * latency.original
        && report.layers.iter().all(|l| l.scheme.is_none())
    {
        report.warnings.push(format!(
            "{form} makes this model {:.1} times slower in tract than the original: {}",
            latency.output / latency.original,
            form.cost()
        ));
    }
}
