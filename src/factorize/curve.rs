//! One decomposition per layer and scheme, of which every rank is a slice.

use super::fit::{side_gram, side_moment};
use super::{Choice, Factors, Fit, Scheme, Side};
use crate::error::Result;
use crate::layer::LinearMap;
use crate::linalg::{Cholesky, Eigen, Matrix, outer, product, sandwich, symmetric_eigen};

/// Share of the largest eigenvalue up to which vectors by the smaller moment are taken as they are.
const SOUND: f64 = 1e-11;

/// Outer ranks at which a Tucker decomposition's inner ranks are worked out.
const TUCKER_RANKS: usize = 24;

/// The decomposition of a layer by one scheme, for every group.
#[derive(Debug)]
pub struct Curve {
    /// The scheme.
    pub scheme: Scheme,
    groups: Vec<Group>,
}

#[derive(Debug)]
enum Group {
    /// Eigenvectors of M G M^T; M.
    Output { eigen: Eigen, map: Matrix, energy: f64 },
    /// P's rows in order of importance, L^-1 (T P^T)^T of the projected equations.
    Input { projection: Matrix, side: Side, white: Matrix, energy: f64 },
    /// Orthonormal columns of output channels of a transposed convolution, the most important ones
    /// first; M in the outputs' own coordinates; elements of the kernel; errors by rank, from 1 on.
    Spread { channels: Matrix, map: Matrix, spread: usize, errors: Vec<f64> },
}

/// The decompositions of a layer by every one of `schemes` that applies, from the fits of its
/// groups.
///
/// # Errors
/// When a decomposition fails.
pub fn curves(map: &LinearMap, fits: &[Fit], schemes: &[Scheme]) -> Result<Vec<Curve>> {
    schemes
        .iter()
        .filter(|scheme| scheme.applies(map))
        .map(|&scheme| {
            let groups = fits
                .iter()
                .map(|fit| match scheme.side(map) {
                    None if scheme == Scheme::ChannelOut && map.spread() > 1 => {
                        spread_group(fit, map.spread())
                    }
                    None => output_group(fit),
                    Some(side) => input_group(fit, side),
                })
                .collect::<Result<_>>()?;
            Ok(Curve { scheme, groups })
        })
        .collect()
}

fn output_group(fit: &Fit) -> Result<Group> {
    let map = fit.unrestricted()?;
    let eigen = if map.nrows() > map.ncols() {
        let root = Cholesky::new(&fit.xx.to_dense())?.lower();
        left_singular(&product(&map, &root))?
    } else {
        symmetric_eigen(&fit.xx.sandwich(&map))?
    };
    Ok(Group::Output { eigen, map, energy: fit.energy })
}

/// The eigenvalues that `tall tall^T` has beside zeros, and their vectors, by those of the smaller
/// `tall^T tall`.
fn left_singular(tall: &Matrix) -> Result<Eigen> {
    let inner = symmetric_eigen(&outer(&tall.t().to_owned()))?;
    let mut rows = product(&inner.vectors.t().to_owned(), &tall.t().to_owned());
    let least = inner.values.first().map_or(0.0, |first| first.max(0.0) * SOUND);
    let sound = inner.values.iter().take_while(|&&v| v > least && v > f64::MIN_POSITIVE).count();
    for (mut row, value) in rows.outer_iter_mut().zip(&inner.values).take(sound) {
        row.mapv_inplace(|v| v / value.sqrt());
    }
    // Nearly orthonormal: one step makes them so, and leaves what the leading ones span.
    let leading = rows.slice(ndarray::s![..sound, ..]).to_owned();
    if sound > 0 {
        let exact = Cholesky::new(&outer(&leading))?.whiten(&leading.t().to_owned());
        rows.slice_mut(ndarray::s![..sound, ..]).assign(&exact);
    }
    let vectors = orthonormal(rows, sound).t().to_owned();
    Ok(Eigen { values: inner.values, vectors })
}

/// U of the output channels alone, the same for all of the kernel: M' = U U^T M, with the leading
/// eigenvectors of what M yields. Errors are those in the metric.
fn spread_group(fit: &Fit, spread: usize) -> Result<Group> {
    let map = fit.dense()?;
    let outputs = map.nrows() / spread;
    // K = M G M^T, and F K, of which E|t - M' x|^2 = energy - 2 tr(F K P) + tr(F P K P), P = U U^T.
    let yielded = fit.xx.sandwich(&map);
    let channels = symmetric_eigen(&side_moment(&yielded, outputs, spread))?.vectors;
    let turn = |m: &Matrix| -> Matrix {
        let turned = on_outputs(&channels.t().to_owned(), m, spread);
        on_outputs(&channels.t().to_owned(), &turned.t().to_owned(), spread).t().to_owned()
    };
    let inner = turn(&yielded);
    let metric = fit.metric.as_ref().map(|m| turn(&product(&m.root.t().to_owned(), &m.root)));
    let cross = match &metric {
        Some(metric) => product(metric, &inner),
        None => inner.clone(),
    };
    let at = |o: usize, k: usize| o * spread + k;
    let both = |i: usize, j: usize| -> f64 {
        let pairs = (0..spread).flat_map(|k| (0..spread).map(move |l| (at(i, k), at(j, l))));
        match &metric {
            Some(metric) => pairs.map(|(a, b)| metric[[a, b]] * inner[[a, b]]).sum(),
            None if i == j => (0..spread).map(|k| inner[[at(i, k), at(i, k)]]).sum(),
            None => 0.0,
        }
    };
    let mut error = fit.energy;
    let mut errors = Vec::with_capacity(outputs);
    for i in 0..outputs {
        error -= 2.0 * (0..spread).map(|k| cross[[at(i, k), at(i, k)]]).sum::<f64>();
        error += both(i, i) + 2.0 * (0..i).map(|j| both(i, j)).sum::<f64>();
        errors.push(error);
    }
    Ok(Group::Spread { channels, map, spread, errors })
}

fn input_group(fit: &Fit, side: Side) -> Result<Group> {
    let map = fit.unrestricted()?;
    let projection = projection(&map, &fit.xx.to_dense(), side)?;
    let (xx, tx) = project(fit, &projection, side);
    let white = Cholesky::new(&xx)?.whiten(&tx);
    Ok(Group::Input { projection, side, white, energy: fit.energy })
}

/// Orthonormal rows, the most important ones first: the leading r span what the best rank-r map of
/// the unfolded weight sees, in the metric of its inputs.
fn projection(map: &Matrix, xx: &Matrix, side: Side) -> Result<Matrix> {
    let gram = side_gram(map, side.side, side.rest);
    let moment = side_moment(xx, side.side, side.rest);
    // With G = S S^T, right singular vectors V of W' S: rows V^T S^T W'^T W' span the rows of
    // U^T W'. Any root S does; the symmetric one comes with the eigendecomposition.
    let eigen = symmetric_eigen(&moment)?;
    let scale: ndarray::Array1<f64> = eigen.values.iter().map(|v| v.max(0.0).sqrt()).collect();
    let root = &eigen.vectors * &scale;
    let inner = sandwich(&root.t().to_owned(), &gram);
    let right = symmetric_eigen(&inner)?;
    let rows = product(&product(&right.vectors.t().to_owned(), &root.t().to_owned()), &gram);
    Ok(orthonormal(rows, 0))
}

/// Gram-Schmidt over rows in order, twice for accuracy; a row that the earlier ones span is replaced
/// by a unit row that they don't. The leading `sound` rows are orthonormal already.
fn orthonormal(mut rows: Matrix, sound: usize) -> Matrix {
    let n = rows.nrows();
    let mut spare = 0..rows.ncols();
    for i in sound..n {
        loop {
            let before = rows.row(i).dot(&rows.row(i)).sqrt();
            for _ in 0..2 {
                for j in 0..i {
                    let dot = rows.row(i).dot(&rows.row(j));
                    let other = rows.row(j).to_owned();
                    rows.row_mut(i).scaled_add(-dot, &other);
                }
            }
            let norm = rows.row(i).dot(&rows.row(i)).sqrt();
            if norm > 1e-9 * before && norm > f64::MIN_POSITIVE {
                rows.row_mut(i).mapv_inplace(|v| v / norm);
                break;
            }
            let Some(axis) = spare.next() else { break };
            rows.row_mut(i).fill(0.0);
            rows[[i, axis]] = 1.0;
        }
    }
    rows
}

/// The normal equations of P x, P repeated over the rest.
fn project(fit: &Fit, projection: &Matrix, side: Side) -> (Matrix, Matrix) {
    let rank = projection.nrows();
    // T P^T and then P G P^T, one side at a time.
    let contract = |m: &Matrix| -> Matrix {
        let rows = m.nrows();
        let mut out = Matrix::zeros((rows, rank * side.rest));
        for k in 0..side.rest {
            let part = m.slice(ndarray::s![.., k..;side.rest]).to_owned();
            let mapped = product(&part, &projection.t().to_owned());
            out.slice_mut(ndarray::s![.., k..;side.rest]).assign(&mapped);
        }
        out
    };
    let tx = contract(&fit.tx);
    let half = contract(&fit.xx.to_dense());
    let xx = contract(&half.t().to_owned());
    ((&xx + &xx.t()) * 0.5, tx)
}

impl Curve {
    /// Every choice of this scheme with its error, over all groups: E|t - M x|^2.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn choices(&self, map: &LinearMap) -> Result<Vec<(Choice, f64)>> {
        let most = Choice::most(self.scheme, map);
        let mut errors: Vec<(Choice, f64)> = Vec::new();
        let mut add = |choice: Choice, error: f64| match errors.iter_mut().find(|e| e.0 == choice) {
            Some(known) => known.1 += error,
            None => errors.push((choice, error)),
        };
        for group in &self.groups {
            match group {
                Group::Output { eigen, energy, .. } => {
                    let mut left = *energy;
                    for (i, value) in eigen.values.iter().take(most).enumerate() {
                        left -= value.max(0.0);
                        let choice = Choice { scheme: self.scheme, rank: i + 1, rank_in: None };
                        add(choice, left.max(0.0));
                    }
                }
                Group::Spread { errors, .. } => {
                    for (i, error) in errors.iter().take(most).enumerate() {
                        let choice = Choice { scheme: self.scheme, rank: i + 1, rank_in: None };
                        add(choice, error.max(0.0));
                    }
                }
                Group::Input { white, side, energy, .. } if self.scheme != Scheme::Tucker => {
                    let mut left = *energy;
                    for rank in 1..=most.min(white.nrows() / side.rest) {
                        let rows =
                            white.slice(ndarray::s![(rank - 1) * side.rest..rank * side.rest, ..]);
                        left -= rows.iter().map(|v| v * v).sum::<f64>();
                        let choice = Choice { scheme: self.scheme, rank, rank_in: None };
                        add(choice, left.max(0.0));
                    }
                }
                Group::Input { white, side, energy, .. } => {
                    for inner in spread(side.side, TUCKER_RANKS) {
                        let eigen = inner_eigen(white, inner * side.rest)?;
                        let mut left = *energy;
                        for (i, value) in eigen.values.iter().enumerate() {
                            left -= value.max(0.0);
                            let choice =
                                Choice { scheme: self.scheme, rank: i + 1, rank_in: Some(inner) };
                            add(choice, left.max(0.0));
                        }
                    }
                }
            }
        }
        Ok(errors)
    }

    /// The factors of a choice; `fits` are those the curve was made of.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn factors(&self, choice: Choice, fits: &[Fit], bias: &[f64]) -> Result<Factors> {
        let mut groups = Vec::new();
        let mut biases = Vec::new();
        let share = bias.len() / fits.len().max(1);
        for (index, (group, fit)) in self.groups.iter().zip(fits).enumerate() {
            let (factors, whole) = match group {
                Group::Output { eigen, map, .. } => {
                    let u = leading_columns(&eigen.vectors, choice.rank);
                    let first = product(&u.t().to_owned(), map);
                    let last = fit.outward(u);
                    let whole = product(&last, &first);
                    (vec![last, first], whole)
                }
                Group::Spread { channels, map, spread, .. } => {
                    let u = leading_columns(channels, choice.rank);
                    let first = on_outputs(&u.t().to_owned(), map, *spread);
                    let whole = on_outputs(&u, &first, *spread);
                    (vec![u, first], whole)
                }
                Group::Input { projection, side, white, .. } => {
                    let inner = choice.rank_in.unwrap_or(choice.rank);
                    let p = projection.slice(ndarray::s![..inner, ..]).to_owned();
                    let (xx, tx) = project(fit, &p, *side);
                    let a = Cholesky::new(&xx)?.solve_right(&tx)?;
                    let spread = |a: &Matrix| unproject(a, &p, *side);
                    if choice.scheme == Scheme::Tucker {
                        let eigen = inner_eigen(white, inner * side.rest)?;
                        let u = leading_columns(&eigen.vectors, choice.rank);
                        let core = product(&u.t().to_owned(), &a);
                        let last = fit.outward(u);
                        let whole = spread(&product(&last, &core));
                        (vec![last, core, p], whole)
                    } else {
                        let a = fit.outward(a);
                        let whole = spread(&a);
                        (vec![a, p], whole)
                    }
                }
            };
            let factors = match group {
                // One row of the right factor is spread over several, of norms of their own.
                Group::Spread { .. } => factors,
                _ => balanced(factors),
            };
            let original = bias.get(index * share..(index + 1) * share).unwrap_or(&[]);
            biases.extend(fit.bias(&whole, original));
            groups.push(factors);
        }
        Ok(Factors { choice: Some(choice), groups, bias: biases })
    }
}

/// The same product with every rank's share in two neighbouring factors of equal norm: steps of
/// training, and steps of a grid, are then of the right size for both (DESIGN: mathematics, 7).
pub(super) fn balanced(mut factors: Vec<Matrix>) -> Vec<Matrix> {
    for at in 0..factors.len().saturating_sub(1) {
        // Columns of the left factor that belong to one row of the right one.
        let rest = factors[at].ncols() / factors[at + 1].nrows().max(1);
        for rank in 0..factors[at + 1].nrows() {
            let columns = ndarray::s![.., rank * rest..(rank + 1) * rest];
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
            let left = norm(&mut factors[at].slice(columns).iter().copied());
            let right = norm(&mut factors[at + 1].row(rank).iter().copied());
            let scale = (right / left).powf(0.25);
            if scale.is_finite() && scale > 0.0 {
                factors[at].slice_mut(columns).mapv_inplace(|v| v * scale);
                factors[at + 1].row_mut(rank).mapv_inplace(|v| v / scale);
            }
        }
    }
    factors
}

/// A map of the output channels after `map`, whose rows are these channels over `spread` elements.
pub(super) fn on_outputs(channels: &Matrix, map: &Matrix, spread: usize) -> Matrix {
    let mut out = Matrix::zeros((channels.nrows() * spread, map.ncols()));
    for k in 0..spread {
        let part = map.slice(ndarray::s![k..;spread, ..]).to_owned();
        out.slice_mut(ndarray::s![k..;spread, ..]).assign(&product(channels, &part));
    }
    out
}

/// M = A P over the whole of x.
pub(super) fn unproject(a: &Matrix, projection: &Matrix, side: Side) -> Matrix {
    let mut out = Matrix::zeros((a.nrows(), side.side * side.rest));
    for k in 0..side.rest {
        let part = a.slice(ndarray::s![.., k..;side.rest]).to_owned();
        out.slice_mut(ndarray::s![.., k..;side.rest]).assign(&product(&part, projection));
    }
    out
}

/// Eigenvectors of what the leading `rows` of the whitened equations explain of the outputs.
fn inner_eigen(white: &Matrix, rows: usize) -> Result<Eigen> {
    let leading = white.slice(ndarray::s![..rows.min(white.nrows()), ..]).t().to_owned();
    symmetric_eigen(&outer(&leading))
}

fn leading_columns(matrix: &Matrix, count: usize) -> Matrix {
    matrix.slice(ndarray::s![.., ..count.min(matrix.ncols())]).to_owned()
}

/// At most `count` of the numbers from 1 to `most`, evenly spread, the largest among them.
fn spread(most: usize, count: usize) -> Vec<usize> {
    let mut values: Vec<usize> =
        (1..=count.min(most)).map(|i| (i * most).div_ceil(count.min(most))).collect();
    values.dedup();
    values
}
