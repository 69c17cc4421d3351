//! Pressure towards ranks: the modified stable rank of the layers that are to be factorized, as a term
//! of the training loss.

use rayon::prelude::*;

use super::{Parameter, StableRank};
use crate::error::{Error, Result};
use crate::factorize::{Choice, Scheme};
use crate::layer::{Form, Layer, LinearMap};
use crate::linalg::Matrix;

/// Steps between two decompositions of a weight: the singular vectors turn slowly.
const REFRESH: usize = 24;

/// Steps between two gradients of the term, which is added on every step.
const INTERVAL: usize = 3;

/// A weight as the matrix whose rank a scheme cuts.
struct Target {
    parameter: usize,
    /// Rows and columns of the matrix.
    shape: (usize, usize),
    /// Where the matrix's elements, row-major, are in the parameter.
    places: Vec<u32>,
    msr: StableRank,
}

/// The mean modified stable rank over layers, times a weight.
pub struct Pressure {
    targets: Vec<Target>,
    weight: f64,
    /// The last value, and gradient of every target.
    held: (f64, Vec<Matrix>),
}

/// The singular values of a layer's unfolded weight, descending, and the rank it is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// Name of the weight.
    pub weight: String,
    /// Scheme whose unfolding it is.
    pub scheme: Scheme,
    /// The rank that is kept.
    pub rank: usize,
    /// The singular values.
    pub values: Vec<f64>,
}

impl Spectrum {
    /// The share of the squared singular values beyond the rank.
    #[must_use]
    pub fn tail(&self) -> f64 {
        let sum = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
        let cut = self.rank.min(self.values.len());
        sum(&self.values[cut..]) / sum(&self.values).max(f64::MIN_POSITIVE)
    }
}

impl Pressure {
    /// For layers with the choices made for them, `power` 1 or 2. Layers whose weight is not among
    /// the parameters, or whose choice is dense, feel none.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn new(
        layers: &[Layer],
        choices: &[Option<Choice>],
        parameters: &[Parameter],
        power: u8,
        weight: f64,
    ) -> Result<Self> {
        let mut wanted = Vec::new();
        for (layer, choice) in layers.iter().zip(choices) {
            let place = parameters.iter().position(|p| p.name == layer.weight);
            if let (Some(parameter), Some(choice)) = (place, choice) {
                for (_, rank, shape, places) in unfoldings(layer, *choice) {
                    wanted.push((parameter, rank, shape, places));
                }
            }
        }
        let targets: Vec<Target> = wanted
            .into_par_iter()
            .map(|(parameter, rank, shape, places)| {
                let matrix = gather(&parameters[parameter], shape, &places)?;
                let msr = StableRank::new(&matrix, rank, power, None)?;
                Ok(Target { parameter, shape, places, msr })
            })
            .collect::<Result<_>>()?;
        let weight = weight / targets.len().max(1) as f64;
        Ok(Self { targets, weight, held: (0.0, Vec::new()) })
    }

    /// Adds the term's gradient to `gradients` and returns its value: what a training's penalty is,
    /// `since` steps after a check.
    ///
    /// # Errors
    /// When weights are not finite.
    pub fn add(
        &mut self,
        parameters: &[Parameter],
        gradients: &mut [Vec<f32>],
        since: usize,
    ) -> Result<f64> {
        if since.is_multiple_of(INTERVAL) {
            let refresh = since.is_multiple_of(REFRESH);
            let values = self
                .targets
                .par_iter_mut()
                .map(|target| {
                    let matrix =
                        gather(&parameters[target.parameter], target.shape, &target.places)?;
                    if refresh {
                        target.msr.refresh(&matrix)?;
                    }
                    let value = target.msr.at(&matrix);
                    Ok((value.value, value.gradient))
                })
                .collect::<Result<Vec<_>>>()?;
            let (values, slopes): (Vec<f64>, Vec<Matrix>) = values.into_iter().unzip();
            self.held = (values.iter().sum::<f64>() * self.weight, slopes);
        }
        for (target, slope) in self.targets.iter().zip(&self.held.1) {
            let gradient = &mut gradients[target.parameter];
            for (&place, slope) in target.places.iter().zip(slope) {
                gradient[place as usize] += (self.weight * slope) as f32;
            }
        }
        Ok(self.held.0)
    }
}

/// The singular values that choices cut, for weights that are among `parameters`.
///
/// # Errors
/// When a decomposition fails.
pub fn spectra(
    layers: &[Layer],
    choices: &[Option<Choice>],
    parameters: &[Parameter],
) -> Result<Vec<Spectrum>> {
    let mut found = Vec::new();
    for (layer, choice) in layers.iter().zip(choices) {
        let parameter = parameters.iter().find(|p| p.name == layer.weight);
        let (Some(parameter), Some(choice)) = (parameter, choice) else { continue };
        for (scheme, rank, shape, places) in unfoldings(layer, *choice) {
            let matrix = gather(parameter, shape, &places)?;
            let msr = StableRank::new(&matrix, rank, 2, None)?;
            let values = msr.spectrum(&matrix);
            found.push(Spectrum { weight: layer.weight.clone(), scheme, rank, values });
        }
    }
    Ok(found)
}

/// The parameters with every weight cut to the ranks of its choice, by plain truncation: what training
/// towards ranks is judged by.
///
/// # Errors
/// When a decomposition fails.
pub fn truncated(
    layers: &[Layer],
    choices: &[Option<Choice>],
    parameters: &[Parameter],
) -> Result<Vec<Parameter>> {
    let mut cut = parameters.to_vec();
    for (layer, choice) in layers.iter().zip(choices) {
        let place = cut.iter().position(|p| p.name == layer.weight);
        let (Some(place), Some(choice)) = (place, choice) else { continue };
        for (_, rank, shape, places) in unfoldings(layer, *choice) {
            let matrix = gather(&cut[place], shape, &places)?;
            let matrix = StableRank::new(&matrix, rank, 2, None)?.truncated(&matrix);
            for (&at, &value) in places.iter().zip(&matrix) {
                cut[place].values[at as usize] = value as f32;
            }
        }
    }
    Ok(cut)
}

fn gather(parameter: &Parameter, shape: (usize, usize), places: &[u32]) -> Result<Matrix> {
    let elements = places.iter().map(|&at| f64::from(parameter.values[at as usize])).collect();
    Matrix::from_shape_vec(shape, elements).map_err(|e| Error::Training { reason: e.to_string() })
}

/// For each matrix of a layer's weight whose rank a choice cuts: the scheme it is the unfolding of, the
/// rank, its shape, and where its elements are in the stored weight. The shorter side has the rows,
/// which the decomposition is over.
fn unfoldings(layer: &Layer, choice: Choice) -> Vec<(Scheme, usize, (usize, usize), Vec<u32>)> {
    // Tables are not trained.
    let Some(map) = layer.map.as_ref().filter(|map| !map.is_table()) else { return Vec::new() };
    if map.is_transposed() {
        return transposed(map, choice);
    }
    let (rows, columns, kernel) = (map.rows, map.columns, map.kernel_len());
    let inputs = columns / kernel.max(1);
    // Every scheme's matrix as extents of [output, input, kernel row, kernel column] on either side.
    let width = map.kernel().last().copied().unwrap_or(1);
    let height = kernel / width.max(1);
    let spatial = matches!(map.form, Form::Conv(_));
    let mut cuts = match choice.scheme {
        Scheme::ChannelOut | Scheme::Matrix => vec![(Scheme::ChannelOut, choice.rank)],
        Scheme::ChannelIn => vec![(Scheme::ChannelIn, choice.rank)],
        Scheme::Spatial => vec![(Scheme::Spatial, choice.rank)],
        Scheme::Tucker => vec![
            (Scheme::ChannelOut, choice.rank),
            (Scheme::ChannelIn, choice.rank_in.unwrap_or(choice.rank)),
        ],
    };
    if !spatial {
        // A matrix has one rank, however it is stored.
        cuts.truncate(1);
    }
    let mut found = Vec::new();
    for (scheme, rank) in cuts {
        for group in 0..map.groups {
            let base = group * rows * columns;
            let at = |o: usize, i: usize, y: usize, x: usize| {
                (base + ((o * inputs + i) * height + y) * width + x) as u32
            };
            let mut places = Vec::with_capacity(rows * columns);
            let shape = match scheme {
                Scheme::ChannelOut | Scheme::Matrix | Scheme::Tucker => {
                    places.extend(base as u32..(base + rows * columns) as u32);
                    match layer.shape[..] {
                        [first, second] if !spatial => (first, second),
                        _ => (rows, columns),
                    }
                }
                Scheme::ChannelIn => {
                    for i in 0..inputs {
                        for o in 0..rows {
                            for k in 0..kernel {
                                places.push(at(o, i, k / width, k % width));
                            }
                        }
                    }
                    (inputs, rows * kernel)
                }
                Scheme::Spatial => {
                    for i in 0..inputs {
                        for y in 0..height {
                            for o in 0..rows {
                                for x in 0..width {
                                    places.push(at(o, i, y, x));
                                }
                            }
                        }
                    }
                    (inputs * height, rows * width)
                }
            };
            let (shape, places) =
                if shape.0 > shape.1 { turned(shape, &places) } else { (shape, places) };
            found.push((scheme, rank, shape, places));
        }
    }
    found
}

/// The same of a transposed convolution, which is stored `[inputs, outputs, kernel]`.
fn transposed(map: &LinearMap, choice: Choice) -> Vec<(Scheme, usize, (usize, usize), Vec<u32>)> {
    let (inputs, spread) = (map.columns, map.spread());
    let outputs = map.rows / spread;
    let mut found = Vec::new();
    for group in 0..map.groups {
        let base = group * map.rows * inputs;
        let (shape, places): ((usize, usize), Vec<u32>) = match choice.scheme {
            Scheme::ChannelOut => {
                let place =
                    |o: usize, i: usize, k: usize| (base + (i * outputs + o) * spread + k) as u32;
                let places = (0..outputs).flat_map(|o| {
                    (0..inputs).flat_map(move |i| (0..spread).map(move |k| place(o, i, k)))
                });
                ((outputs, inputs * spread), places.collect())
            }
            _ => ((inputs, map.rows), (base as u32..(base + map.rows * inputs) as u32).collect()),
        };
        let (shape, places) =
            if shape.0 > shape.1 { turned(shape, &places) } else { (shape, places) };
        found.push((choice.scheme, choice.rank, shape, places));
    }
    found
}

fn turned((rows, columns): (usize, usize), places: &[u32]) -> ((usize, usize), Vec<u32>) {
    let turned = (0..columns).flat_map(|c| (0..rows).map(move |r| places[r * columns + c]));
    ((columns, rows), turned.collect())
}
