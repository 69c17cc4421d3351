//! Which layers of a model become which factors, from the samples of a run.

use std::time::Instant;

use super::gentle::{Dense, Whole};
use super::parts::Parts;
use super::result;
use crate::error::{Error, Result};
use crate::layer::{Filter, find};
use crate::onnx::Model;
use crate::options::{Options, SearchMode, Target};
use crate::progress::Progress;
use crate::quantize::{self, Price};
use crate::report;
use crate::score::Scorer;
use crate::search::{
    self, Budget, Compressed, Effort, LayerOptions, Limits, Network, NetworkOptions, Prediction,
    Problem, Samples, Snapshots, Statistics,
};

/// Ridge of the fits, as a share of the mean variance of a layer's inputs.
const RIDGE: f64 = 1e-3;

/// Multiply-accumulates that a refit of the whole network may take during the search. Where it takes
/// more, the search refits to less, and the final fit takes all.
const SEARCH_MACS: f64 = 2e11;

/// Samples that candidates are refitted on then.
const SEARCH_CALIBRATION: usize = 256;

/// Rows per input of a layer that its moments are taken over: in the search of larger models, and else.
const ROWS: (usize, usize) = (12, 48);

/// What a multiply-accumulate of layers known by their rows costs, in those of `f32`.
const ROW_FORM: f64 = 16.0;

/// Samples whose gradients weigh the layers' outputs.
const WEIGHED: usize = 512;

/// Bytes of prefix states that the search may hold for each of its two sets of samples.
const SNAPSHOT_BYTES: usize = 192 << 20;

/// What the search did, for the report.
pub(super) fn search_report(options: &Options, found: &Found, layers: usize) -> report::Search {
    let per_pass = (layers * found.samples).max(1) as f64;
    let effort = &found.effort;
    report::Search {
        mode: found.mode.name().to_owned(),
        beam: options.beam,
        evaluations: effort.evaluations,
        full_pass_equivalents: effort.layer_passes as f64 / per_pass,
        layer_passes: effort.layer_passes,
        samples_run: effort.samples_run,
        stopped: effort.stopped.to_owned(),
        predicted_vs_measured_rank_correlation: search::rank_correlation(&effort.predicted),
    }
}

/// What was chosen, and how.
pub(super) struct Found {
    pub choices: Vec<Option<crate::factorize::Choice>>,
    /// The network of these choices, where the search has fitted it.
    pub compressed: Option<Compressed>,
    effort: Effort,
    mode: SearchMode,
    /// Samples that candidates were scored on.
    samples: usize,
}

/// The dense network, without statistics yet.
fn plain<'a>(dense: &'a Dense, whole: &Whole<'_>, options: &Options) -> Result<Network<'a>> {
    let knobs = NetworkOptions {
        statistics: Statistics::None,
        ridge: RIDGE,
        rows_per_input: ROWS.1,
        seed: options.seed,
    };
    let mut network = Network::new(&dense.model, &dense.layers, whole.sample.to_vec(), knobs)?;
    network.price = Price { form: options.quantize.map(|form| (form, options.block)) };
    Ok(network)
}

/// The network with the statistics of fewer samples, where a beam search has use for it.
fn quick<'a>(
    network: &Network<'a>,
    dense: &'a Dense,
    whole: &Whole<'_>,
    parts: &Parts,
    options: &Options,
) -> Result<Option<Network<'a>>> {
    if options.search != SearchMode::Beam || network.options.rows_per_input == ROWS.0 {
        return Ok(None);
    }
    let mut few = plain(dense, whole, options)?;
    gather(&mut few, parts, false, options)?;
    few.take_metrics(network);
    Ok(Some(few))
}

/// Gives a network its statistics: of all calibration samples, or as many as a search takes.
fn calibrate(
    network: &mut Network<'_>,
    parts: &Parts,
    all: bool,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    gather(network, parts, all, options)?;
    weigh(network, parts, progress)
}

/// Gives a network its statistics but for the metrics of outputs.
fn gather(network: &mut Network<'_>, parts: &Parts, all: bool, options: &Options) -> Result<()> {
    network.options.statistics = options.statistics;
    network.options.rows_per_input = if all { ROWS.1 } else { ROWS.0 };
    let most = if all { usize::MAX } else { SEARCH_CALIBRATION };
    let count = parts.calibration.len().min(most);
    let indices = parts.calibration[..count].to_vec();
    network.calibrate(Samples::new(&parts.data, indices, &network.evaluator)?)
}

/// The network of what was found, fitted to all calibration samples; `searched` is the one that was
/// searched.
pub(super) fn fitted<'a>(
    dense: &'a Dense,
    whole: &Whole<'_>,
    parts: Option<&Parts>,
    found: &mut Found,
    searched: Option<Network<'a>>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Network<'a>, Compressed)> {
    let mut network = match searched {
        Some(network) => network,
        None => plain(dense, whole, options)?,
    };
    // Statistics matter to what is factorized only.
    if let Some(parts) = parts.filter(|_| found.choices.iter().any(Option::is_some)) {
        let seen = network.calibration.as_ref().map_or(0, Samples::len);
        if seen < parts.calibration.len() || network.options.rows_per_input != ROWS.1 {
            found.compressed = None;
            calibrate(&mut network, parts, true, options, progress)?;
        }
    }
    let compressed = match found.compressed.take() {
        Some(compressed) => compressed,
        None => network.compress(
            &found.choices,
            &network.dense(),
            &mut Snapshots::new(0),
            &mut found.effort,
        )?,
    };
    Ok((network, compressed))
}

/// Multiply-accumulates of a refit of all layers to all of so many samples: of the network's runs, and
/// of the layers' moments.
fn refit_macs(network: &Network<'_>, samples: usize) -> f64 {
    let layers = network.layers.iter().zip(&network.extents);
    layers
        .filter_map(|(layer, at)| {
            let map = layer.map.as_ref()?;
            let columns = map.columns as f64;
            let positions = samples as f64 * at.output as f64;
            let rows = positions.min((ROWS.1 as f64 * columns).clamp(4096.0, 131_072.0));
            // Fewer rows than columns: products of rows, in `f64`.
            let moments = if rows < columns {
                ROW_FORM * rows * rows * columns
            } else {
                rows * columns * columns
            };
            let run = positions * columns * map.rows as f64;
            Some(map.groups as f64 * (run + moments))
        })
        .sum()
}

/// Chooses scheme and ranks of every layer of the dense model within the budget, none without a ratio.
/// Returns the network that was searched too.
pub(super) fn choose<'a>(
    dense: &'a Dense,
    whole: &Whole<'_>,
    parts: Option<&Parts>,
    options: &Options,
    seconds: &mut report::Seconds,
    progress: &dyn Progress,
) -> Result<(Found, Network<'a>)> {
    let clock = Instant::now();
    progress.phase("calibrate", None);
    let mut network = plain(dense, whole, options)?;
    let nothing = |stopped| Found {
        choices: vec![None; dense.layers.len()],
        compressed: None,
        effort: Effort { stopped, ..Effort::default() },
        mode: SearchMode::Start,
        samples: 0,
    };
    let Some(ratio) = options.ratio else { return Ok((nothing("no ratio"), network)) };
    if options.target == Target::Bytes && options.quantize.is_some() {
        let bytes = network.price.model(&dense.model)? as f64;
        if bytes * ratio <= whole.model.encoded_len() as f64 {
            return Ok((nothing("fewer bits alone reach the ratio"), network));
        }
    }
    if let Some(parts) = parts {
        let all = refit_macs(&network, parts.calibration.len()) <= SEARCH_MACS;
        calibrate(&mut network, parts, all, options, progress)?;
    }
    seconds.calibrate = Some(clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    let forms = network.layer_options(&options.schemes, options.rank_multiple, options.target)?;
    let budget = budget(&network, dense, whole, &forms, options.target, ratio)?;
    let Some(parts) = parts else {
        let losses = Prediction::new(vec![1.0; forms.len()]).losses(&forms);
        let found = search::start(&forms, &losses, budget).unwrap_or_default();
        seconds.search = Some(clock.elapsed().as_secs_f64());
        let choices = Network::choices(&forms, &found);
        return Ok((Found { choices, ..nothing("") }, network));
    };
    let samples = Samples::new(&parts.data, parts.search.clone(), &network.evaluator)?;
    let mut effort = Effort::default();
    progress.phase("sensitivity", Some(forms.len() as u64));
    let imitation = network.scorer(&samples, None, false)?;
    let limits = Limits {
        beam: options.beam,
        evaluations: options.evaluations(),
        deadline: options.time_limit.map(|limit| clock + limit),
        snapshot_bytes: SNAPSHOT_BYTES,
    };
    let few = quick(&network, dense, whole, parts, options)?;
    let problem = Problem {
        network: &network,
        quick: few.as_ref().unwrap_or(&network),
        options: &forms,
        budget,
        samples: &samples,
        limits,
        progress,
    };
    let sensitivity = search::sensitivities(problem, &imitation, &mut effort)?;
    let prediction = Prediction::new(sensitivity);
    let first = search::start(&forms, &prediction.losses(&forms), budget).unwrap_or_default();
    let scorer: Scorer = network.scorer(&samples, options.metric, true)?;
    progress.phase("search", Some(options.evaluations() as u64).filter(|&n| n < 1 << 32));
    let mut compressed = None;
    let allocation = match options.search {
        SearchMode::Start => first,
        SearchMode::Beam => {
            let (best, fitted, spent) = search::beam(problem, first, &prediction, &scorer)?;
            effort.add(spent);
            compressed = Some(fitted);
            best
        }
        SearchMode::Paper => {
            let (best, spent) = search::paper(problem, &prediction, &scorer)?;
            effort.add(spent);
            best
        }
    };
    seconds.search = Some(clock.elapsed().as_secs_f64());
    let choices = Network::choices(&forms, &allocation);
    let samples = samples.len();
    Ok((Found { choices, compressed, effort, mode: options.search, samples }, network))
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
    dense: &Dense,
    whole: &Whole<'_>,
    forms: &[LayerOptions],
    resource: Target,
    ratio: f64,
) -> Result<Budget> {
    let stored: u64 = forms.iter().map(|f| resource.of(&f.stored)).sum();
    let cost = |model: &Model| -> Result<u64> {
        Ok(match resource {
            Target::Bytes => model.encoded_len(),
            Target::Params => quantize::params(model),
            Target::Macs => {
                let layers = find(model, &Filter::default())?;
                result::macs(model, &layers, whole.sample.to_vec())?.unwrap_or(stored)
            }
        })
    };
    // What is not factorized may still be stored in fewer bits.
    let kept = match resource {
        Target::Bytes => network.price.model(&dense.model)?,
        _ => cost(&dense.model)?,
    };
    let rest = kept.saturating_sub(stored);
    let total = cost(whole.model)?;
    let allowed = (total as f64 / ratio).floor() as u64;
    let budget = Budget { resource, limit: allowed.saturating_sub(rest) };
    let least = budget.least(forms);
    if least > budget.limit {
        let largest = total as f64 / (rest + least).max(1) as f64;
        return Err(Error::RatioOutOfReach { asked: ratio, largest });
    }
    Ok(budget)
}
