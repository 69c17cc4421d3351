//! Quantization within a compression.

use super::parts::Parts;
use crate::error::Result;
use crate::eval::Evaluator;
use crate::layer::Layer;
use crate::onnx::Model;
use crate::options::Options;
use crate::progress::{Progress, go_on};
use crate::quantize::{self, Calibration, Form, Settings};
use crate::report::{self, KeptWeight, Report};
use crate::search::{Plan, Samples};

/// How much slower than the original a file may be before the report says why.
const SLOWER: f64 = 1.1;

/// The model with its weights in fewer bits, which the plan then holds, and what to report.
pub(super) fn carry_out(
    model: &Model,
    form: Form,
    parts: Option<&Parts>,
    options: &Options,
    plan: &mut Plan,
    progress: &dyn Progress,
) -> Result<(Model, report::Quantization)> {
    progress.phase("quantize", None);
    let settings = Settings {
        form,
        rounding: options.rounding,
        block: options.block,
        seed: options.seed,
        range: options.range,
        signed: options.signed,
        seven_bits: options.seven_bits,
        float_ends: options.float_ends,
    };
    let (quantization, kept) = match parts {
        None => quantize::quantize(model, &settings, None)?,
        Some(parts) => {
            let evaluator = Evaluator::new(model)?;
            let samples = Samples::new(&parts.data, parts.calibration.clone(), &evaluator)?;
            let inputs = |run: usize, evaluator: &Evaluator| {
                go_on(progress)?;
                Ok((samples.inputs(run, evaluator)?, samples.range(run)))
            };
            let calibration =
                Calibration { runs: samples.runs(), samples: samples.len(), inputs: &inputs };
            quantize::quantize(model, &settings, Some(&calibration))?
        }
    };
    let result = quantization.apply(model)?;
    let kept = kept.into_iter().map(|k| KeptWeight { name: k.name, reason: k.reason }).collect();
    let params: usize =
        quantization.weights.iter().map(|w| w.shape.iter().product::<usize>()).sum();
    let about = report::Quantization {
        form: form.name().to_owned(),
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
            // New constants are named after the weight that they replace.
            Some(planned) => {
                name.strip_prefix(planned.weight.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
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
