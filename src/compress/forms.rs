//! The forms that layers can take, and what they may cost together.

use super::gentle::{Dense, Whole};
use super::quantization;
use super::result;
use super::timing::Timed;
use crate::error::{Error, Result};
use crate::layer::{Filter, find};
use crate::onnx::Model;
use crate::options::{Options, Target};
use crate::progress::Progress;
use crate::quantize;
use crate::search::{Budget, LayerOptions, Network};

/// Bytes of the dense model with its weights in the form asked for.
pub(super) fn bytes(
    network: &Network<'_>,
    dense: &Dense,
    whole: &Whole<'_>,
    options: &Options,
) -> Result<u64> {
    let named = whole.layers.iter().zip(dense.layers.iter().map(|l| l.weight.as_str()));
    let floats = quantization::floats(&dense.model, &options.float, named)?;
    network.price.model(&dense.model, &floats)
}

/// The forms that layers can take, with what the original costs, and what of the compressed model is no
/// layer's.
pub(super) fn forms(
    network: &Network<'_>,
    dense: &Dense,
    whole: &Whole<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Vec<LayerOptions>, u64, u64)> {
    let resource = options.target;
    if matches!(resource, Target::Macs | Target::Latency) && whole.sample.is_empty() {
        return Err(Error::Option {
            option: format!("--target {resource}"),
            reason: "the model can't be run, so what it costs is not known".to_owned(),
        });
    }
    let timed = Timed { model: &dense.model, layers: &network.layers, sample: whole.sample };
    let step = timed.step(options.rank_multiple, progress)?;
    let mut forms = network.layer_options(&options.schemes, step)?;
    let table = options.latency_table.as_deref();
    let cost = |model: &Model| -> Result<u64> {
        Ok(match resource {
            Target::Bytes => model.encoded_len(),
            Target::Params => quantize::params(model),
            Target::Macs => {
                let layers = find(model, &Filter::default())?;
                let stored = forms.iter().map(|f| f.stored.macs).sum();
                result::macs(model, &layers, whole.sample.to_vec())?.unwrap_or(stored)
            }
            Target::Latency => 0,
        })
    };
    // What is not factorized may still be stored in fewer bits.
    let (total, kept) = match resource {
        Target::Bytes => {
            let table = if network.price.may_pack() { quantize::TABLE } else { 0 };
            (whole.bytes, bytes(network, dense, whole, options)? + table)
        }
        Target::Latency => {
            let total = timed.price(&mut forms, table, progress)?;
            (total, total)
        }
        _ => (cost(whole.model)?, cost(&dense.model)?),
    };
    let stored: u64 = forms.iter().map(|f| resource.of(&f.stored)).sum();
    for forms in &mut forms {
        forms.prune(|cost| resource.of(cost));
    }
    Ok((forms, total, kept.saturating_sub(stored)))
}

/// What the compressible layers may cost together.
pub(super) fn budget(
    total: u64,
    rest: u64,
    forms: &[LayerOptions],
    resource: Target,
    ratio: f64,
) -> Result<Budget> {
    let allowed = (total as f64 / ratio).floor() as u64;
    let budget = Budget { resource, limit: allowed.saturating_sub(rest) };
    let least = budget.least(forms);
    if least > budget.limit {
        let largest = total as f64 / (rest + least).max(1) as f64;
        return Err(Error::RatioOutOfReach { asked: ratio, largest });
    }
    Ok(budget)
}
