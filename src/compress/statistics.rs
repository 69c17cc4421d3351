//! What factors are fitted to: a network with the statistics of its samples.

use super::choose::Found;
use super::gentle::{Dense, Whole};
use super::parts::Parts;
use crate::error::{Error, Result};
use crate::layer::{Extent, Layer};
use crate::options::{Options, SearchMode, Target};
use crate::progress::Progress;
use crate::quantize::{Floats, Price};
use crate::search::{
    Bits, Compressed, Decompositions, Network, NetworkOptions, Samples, Snapshots, Statistics,
    Taken,
};

/// Ridge of the fits, as a share of the mean variance of a layer's inputs.
const RIDGE: f64 = 1e-3;

/// Multiply-accumulates that a refit of the whole network may take during the search. Where it takes
/// more, the search refits to less, and the final fit takes all.
const SEARCH_MACS: f64 = 2e11;

/// Samples that candidates are refitted on then: as many as runs of the network take twice as much for.
const SEARCH_CALIBRATION: (usize, usize) = (64, 256);

/// Multiply-accumulates of runs that candidates are scored on.
const SCORED_MACS: f64 = 4e11;

/// Samples that these are at least.
const LEAST_SCORED: usize = 64;

/// Rows per input of a layer that its moments are taken over: in the search of larger models, and else.
const ROWS: (usize, usize) = (12, 48);

/// What a multiply-accumulate of layers known by their rows costs, in those of `f32`.
const ROW_FORM: f64 = 16.0;

/// Samples whose gradients weigh the layers' outputs.
const WEIGHED: usize = 512;

/// The dense network, without statistics yet.
pub(super) fn plain<'a>(
    dense: &'a Dense,
    whole: &Whole<'_>,
    options: &Options,
    progress: &'a dyn Progress,
) -> Result<Network<'a>> {
    let knobs = NetworkOptions {
        statistics: Statistics::None,
        ridge: RIDGE,
        rows_per_input: ROWS.1,
        seed: options.seed,
    };
    let mut network = Network::new(&dense.model, &dense.layers, whole.sample.to_vec(), knobs)?;
    network.progress = progress;
    if let Some(folder) = &options.cache_dir {
        network.decompositions = Decompositions::open(folder)?;
    }
    network.price = Price { form: options.quantize.map(|form| (form, options.block)) };
    let floats = Floats::new(&options.float)?;
    let bits = |layer: &Layer| match options.target {
        _ if floats.matches(&layer.name) || floats.matches(&layer.weight) => Bits::Float,
        // What else is counted doesn't depend on bits.
        Target::Bytes => Bits::Free,
        _ => Bits::Usual,
    };
    network.bits = whole.layers.iter().map(bits).collect();
    if network.bits.len() != network.layers.len() {
        let reason = "the dense model has other layers than the original".to_owned();
        return Err(Error::InvalidModel { reason });
    }
    Ok(network)
}

/// The network with the statistics of fewer samples, where a beam search has use for it.
pub(super) fn quick<'a>(
    network: &Network<'a>,
    dense: &'a Dense,
    whole: &Whole<'_>,
    parts: &Parts,
    options: &Options,
) -> Result<Option<Network<'a>>> {
    if options.search != SearchMode::Beam || network.options.rows_per_input == ROWS.0 {
        return Ok(None);
    }
    let mut few = plain(dense, whole, options, network.progress)?;
    gather(&mut few, parts, false, options)?;
    few.take_metrics(network);
    Ok(Some(few))
}

/// Gives a network the statistics that a search takes: of all calibration samples where a refit to
/// these is fast.
pub(super) fn calibrate_for_search(
    network: &mut Network<'_>,
    parts: &Parts,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let all = refit_macs(network, parts.calibration.len()) <= SEARCH_MACS;
    calibrate(network, parts, all, options, progress)
}

/// Gives a network its statistics: of all calibration samples, or as many as a search takes.
pub(super) fn calibrate(
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
    let within = (2.0 * SEARCH_MACS / run_macs(network).max(1.0)) as usize;
    let most =
        if all { usize::MAX } else { within.clamp(SEARCH_CALIBRATION.0, SEARCH_CALIBRATION.1) };
    let count = parts.calibration.len().min(most);
    let indices = parts.calibration[..count].to_vec();
    network.calibrate(Samples::new(&parts.data, indices, &network.evaluator)?)
}

/// Whether a network has the statistics that final fits are made to.
pub(super) fn is_whole(network: &Network<'_>, parts: &Parts) -> bool {
    let seen = network.calibration.as_ref().map_or(0, Samples::len);
    seen >= parts.calibration.len() && network.options.rows_per_input == ROWS.1
}

/// What was found in a network, fitted to all calibration samples, whose statistics the network then has.
pub(super) fn fitted(
    network: &mut Network<'_>,
    parts: Option<&Parts>,
    found: &mut Found,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Compressed> {
    // Statistics matter to what is factorized only.
    if let Some(parts) = parts.filter(|_| found.choices.iter().any(Option::is_some))
        && !is_whole(network, parts)
    {
        found.compressed = None;
        calibrate(network, parts, true, options, progress)?;
    }
    match found.compressed.take() {
        // Weights are rounded better once all are known.
        Some(compressed) if compressed.taken.iter().all(|t| t.rounded.is_none()) => Ok(compressed),
        _ => {
            let taken: Vec<Taken> = found.choices.iter().map(|&c| c.into()).collect();
            let none = &mut Snapshots::new(0);
            network.compress(&taken, &network.dense(), none, &mut found.effort)
        }
    }
}

/// Samples that candidates are scored on: as many as the options say, or else as are scored in bounded
/// time. Where a drop is allowed it is known the better the more there are.
pub(super) fn scored(network: &Network<'_>, parts: &Parts, options: &Options) -> Vec<usize> {
    let mut indices = parts.search.clone();
    if options.search_samples.is_none() && options.max_drop.is_none() {
        let within = (SCORED_MACS / run_macs(network).max(1.0)) as usize;
        indices.truncate(within.max(LEAST_SCORED));
    }
    indices
}

/// Multiply-accumulates of the layers of a network in one run of one sample.
fn run_macs(network: &Network<'_>) -> f64 {
    let layers = network.layers.iter().zip(&network.extents);
    let macs = |(layer, at): (&Layer, &Extent)| {
        let map = layer.map.as_ref()?;
        Some(map.macs() as f64 * at.output as f64)
    };
    layers.filter_map(macs).sum()
}

/// Multiply-accumulates of a refit of all layers to all of so many samples: of the network's runs, and
/// of the layers' moments.
fn refit_macs(network: &Network<'_>, samples: usize) -> f64 {
    let layers = network.layers.iter().zip(&network.extents);
    layers
        .filter_map(|(layer, at)| {
            let map = layer.map.as_ref().filter(|map| !map.is_table())?;
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
            let cause = error.chain();
            progress.warn(&format!("no gradients ({cause}): errors in all directions count alike"));
            Ok(())
        }
        other => other,
    }
}
