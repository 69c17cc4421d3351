//! Which weights are stored how, and their codes.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::activations;
use super::balance::{self, Factor, Turns};
use super::calibrate::{Calibration, Observed};
use super::opset;
use super::refuse::check;
use super::round::{Chosen, Done};
use super::stored::{Quantization, Storage};
use super::weights::{Weight, weights};
use super::{Form, Rounding, Settings, Settled};
use crate::error::{Error, Result};
use crate::eval::moments::Moments;
use crate::graph::Links;
use crate::onnx::{GraphProto, Model};

/// A weight that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What becomes of a model's weights, and what they were.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// How weights are stored.
    pub quantization: Quantization,
    /// Those that stay.
    pub kept: Vec<Kept>,
    /// For each weight in fewer bits its elements right before they were rounded: those of neighbouring
    /// factors have been turned.
    pub elements: Vec<Vec<f32>>,
}

/// Decides what becomes of the weights of `model`; with samples so that its outputs change least.
/// Says of the others why they stay.
///
/// # Errors
/// When the model is quantized already, when a weight can't be read, and when the model can't be run
/// on the samples.
pub fn quantize(
    model: &Model,
    settings: &Settings,
    calibration: Option<&Calibration<'_>>,
) -> Result<(Quantization, Vec<Kept>)> {
    let found = rounded(model, settings, &Settled::default(), calibration)?;
    Ok((found.quantization, found.kept))
}

/// [`quantize`] where of some weights it is said how they are stored; with the elements that were
/// rounded, for a training that begins there.
///
/// # Errors
/// As [`quantize`].
pub fn rounded(
    model: &Model,
    settings: &Settings,
    settled: &Settled,
    calibration: Option<&Calibration<'_>>,
) -> Result<Quantized> {
    check(model)?;
    // Whether it can be brought to the form's operator set shows early.
    opset::upgraded(model, settings.form)?;
    let graph = model.graph();
    let mut kept = Vec::new();
    let mut chosen: Vec<Chosen> = Vec::new();
    if settings.form == Form::Int8Qdq && calibration.is_none() {
        return Err(Error::Option {
            option: "--quantize int8-qdq".to_owned(),
            reason: "the ranges of values come from samples: give --data, or take int8".to_owned(),
        });
    }
    for weight in weights(model) {
        match Chosen::of(model, weight, settings, settled)? {
            Ok(weight) => chosen.push(weight),
            Err(reason) => kept.push(reason),
        }
    }
    let mut moments = match calibration.filter(|_| settings.rounding == Rounding::Compensated) {
        Some(calibration) => moments(model, &chosen, calibration, settings.seed)?,
        None => vec![None; chosen.len()],
    };
    let links = Links::new(graph);
    let turns = turns(graph, &links, &chosen, &mut moments, settings);
    let done: Vec<Done> = chosen
        .par_iter()
        .zip(&moments)
        .zip(&turns)
        .map(|((weight, moments), turns)| {
            weight.round(model, &links, moments.as_deref(), turns, settings)
        })
        .collect::<Result<_>>()?;
    let (mut weights, mut constants, mut elements) = (Vec::new(), Vec::new(), Vec::new());
    for ((done, weight), turns) in done.into_iter().zip(&chosen).zip(&turns) {
        match done {
            Ok((stored, constant)) => {
                elements.push(weight.turned(turns));
                weights.push(stored);
                constants.extend(constant);
            }
            Err(reason) => kept.push(reason),
        }
    }
    let values = match calibration.filter(|_| settings.form == Form::Int8Qdq) {
        Some(calibration) => {
            let found: Vec<Weight> = chosen.into_iter().map(|c| c.weight).collect();
            Some(activations::values(model, &found, &weights, settings, calibration)?)
        }
        None => None,
    };
    let quantization = Quantization { form: settings.form, weights, constants, values };
    Ok(Quantized { quantization, kept, elements })
}

/// The moments of what the weights' layers see.
fn moments(
    model: &Model,
    chosen: &[Chosen],
    calibration: &Calibration<'_>,
    seed: u64,
) -> Result<Vec<Option<Vec<Moments>>>> {
    let graph = model.graph();
    let mut places = BTreeMap::new();
    let mut observed = Vec::new();
    for (index, weight) in chosen.iter().enumerate() {
        let map = weight.weight.map(graph).filter(|_| weight.storage != Storage::Fp16);
        let Some((map, sole)) = map.zip(weight.weight.sole_use()) else { continue };
        let input = graph.node[sole.node].input.get(map.data_input());
        let Some(value) = input.cloned() else { continue };
        places.insert(index, observed.len());
        observed.push(Observed { value, map });
    }
    let mut found = calibration.moments(model, &observed, seed)?;
    let taken = (0..chosen.len()).map(|index| found[*places.get(&index)?].take());
    Ok(taken.collect())
}

/// Turns the ranks between neighbouring factors so that rounding loses little, and the moments of what
/// lies there. Values that are rounded themselves have ranges of their own, and stay.
fn turns(
    graph: &GraphProto,
    links: &Links,
    chosen: &[Chosen],
    moments: &mut [Option<Vec<Moments>>],
    settings: &Settings,
) -> Vec<Turns> {
    let mut turns = vec![Turns::default(); chosen.len()];
    if matches!(settings.form, Form::Int8Qdq | Form::Int8Dynamic | Form::Fp16) {
        return turns;
    }
    let by_node: BTreeMap<usize, usize> = chosen
        .iter()
        .enumerate()
        .filter_map(|(index, c)| Some((c.weight.sole_use()?.node, index)))
        .collect();
    for (first, weight) in chosen.iter().enumerate() {
        let Some(sole) = weight.weight.sole_use() else { continue };
        let output = graph.node[sole.node].output.first().map_or("", String::as_str);
        let next = links.sole_consumer(output).and_then(|c| by_node.get(&c.node));
        let Some(&second) = next else { continue };
        let last = &chosen[second];
        if !balance::are_factors(graph, links, &weight.weight, &last.weight) {
            continue;
        }
        let Some(map) = last.weight.map(graph) else { continue };
        let Some([own]) = moments[second].as_deref() else { continue };
        let (Some(levels), Some(last_levels)) =
            (weight.storage.levels(settings), last.storage.levels(settings))
        else {
            continue;
        };
        let block =
            |storage: Storage| if storage.has_blocks() { settings.block } else { usize::MAX };
        let taps = map.kernel_len();
        // What turns the rows of a factor that is the last one of others is applied to what these made of it.
        let before = turns[first].apply(weight.matrix());
        let seen = moments[first].as_deref().and_then(<[Moments]>::first);
        let first_energy = seen.map_or_else(|| vec![1.0; before.ncols()], balance::mean_squares);
        let (second_matrix, second_energy) = (last.matrix(), balance::mean_squares(own));
        let (right, left) = balance::rotation(
            &Factor {
                matrix: &before,
                energy: &first_energy,
                block: block(weight.storage),
                levels,
            },
            &Factor {
                matrix: &second_matrix,
                energy: &second_energy,
                block: block(last.storage),
                levels: last_levels,
            },
            &balance::between(own, taps),
            taps,
            settings.seed ^ first as u64,
        );
        moments[second] = Some(vec![balance::turned_moments(own, &left, taps)]);
        turns[second].columns = Some(right);
        turns[first].rows = Some(left);
    }
    turns
}
