//! One weight: how it is stored, and its codes.

use super::balance::Turns;
use super::price::{OVERHEAD, PACKED, comes, stored_bytes};
use super::rounding::{Rounded, compensated, nearest};
use super::select::Kept;
use super::stored::{Codes, Storage, StoredConstant, StoredWeight, checksum};
use super::weights::{Role, Weight};
use super::{Form, Settings, Settled};
use crate::elements::Elements;
use crate::error::Result;
use crate::eval::moments::Moments;
use crate::graph::{self, Links};
use crate::linalg::Matrix;
use crate::onnx::{Model, NodeAttributes};
use crate::tensor::Tensor;

/// A weight in fewer bits with the bias that makes up for it, or why it stays.
pub(super) type Done = std::result::Result<(StoredWeight, Option<StoredConstant>), Kept>;

/// Share of a layer's output that rounding may change where the bits are chosen by that: four are taken
/// where they do, else eight where those do.
const SHARE: f64 = 0.01;

/// A weight that will be stored in fewer bits.
pub(super) struct Chosen {
    pub weight: Weight,
    pub storage: Storage,
    pub elements: Vec<f32>,
    /// Whether fewer bits are left for more where these change much.
    free: bool,
}

impl Chosen {
    /// The weight with how it is stored, or why it stays.
    pub fn of(
        model: &Model,
        weight: Weight,
        settings: &Settings,
        settled: &Settled,
    ) -> Result<Result<Self, Kept>> {
        let kept =
            |reason: &str| Ok(Err(Kept { name: weight.name.clone(), reason: reason.to_owned() }));
        if let Some(reason) = &weight.skip {
            return kept(reason);
        }
        if let Some(reason) = settled.float(&weight.name) {
            return kept(reason);
        }
        let Some(Tensor::F32(array)) = graph::constant_tensor(model, &weight.name)? else {
            return kept("not float");
        };
        let elements: Vec<f32> = array.iter().copied().collect();
        if elements.iter().any(|v| !v.is_finite()) {
            return kept("an element is NaN or infinite");
        }
        let few = Storage::Int8;
        let (said, form) = (settled.storage(&weight.name), settings.form);
        let outputs = weight.shape[weight.axis()];
        let bytes = |storage| {
            let stored = stored_bytes(&weight.shape, weight.axis(), storage, settings.block);
            stored + comes(form, storage, outputs)
        };
        let smaller = |four| if bytes(four) < bytes(few) { four } else { few };
        let storage = match form {
            Form::Fp16 => Storage::Fp16,
            Form::Int8 | Form::Int8Qdq => few,
            Form::Int8Dynamic if in_integers(model, &weight)? => Storage::Int8Dynamic,
            Form::Int8Dynamic => few,
            _ if said == Some(few) => few,
            Form::Int4 | Form::Auto if blocks_lie_well(model, &weight) => smaller(Storage::Int4),
            Form::Int4 | Form::Auto
                if said == Some(Storage::Int4Packed) && weight.len().is_multiple_of(2) =>
            {
                smaller(Storage::Int4Packed)
            }
            Form::Int4Dq if blocks_lie_well(model, &weight) => smaller(Storage::Int4Dq),
            Form::Int4 | Form::Int4Dq | Form::Auto => few,
        };
        if storage == Storage::Fp16 && elements.iter().any(|v| v.abs() > 65_504.0) {
            return kept("an element is out of the range of half floats");
        }
        let overhead = if storage == Storage::Int4Packed { PACKED } else { OVERHEAD };
        let stored = stored_bytes(&weight.shape, weight.axis(), storage, settings.block);
        if stored + overhead >= 4 * weight.len() {
            return kept("too small to gain");
        }
        let free = settings.form == Form::Auto && said.is_none();
        Ok(Ok(Self { weight, storage, elements, free }))
    }

    /// Its elements as a matrix whose rows are its outputs.
    pub fn matrix(&self) -> Matrix {
        Lines::new(&self.weight.shape, self.weight.axis()).matrix(&self.elements)
    }

    /// Its elements, turned.
    pub fn turned(&self, turns: &Turns) -> Vec<f32> {
        if turns.is_none() {
            return self.elements.clone();
        }
        let lines = Lines::new(&self.weight.shape, self.weight.axis());
        let matrix = turns.apply(lines.matrix(&self.elements));
        let mut elements = vec![0.0; self.elements.len()];
        for ((row, column), &v) in matrix.indexed_iter() {
            elements[lines.element(row, column)] = v as f32;
        }
        elements
    }

    /// The weight rounded as asked; where the bits are free, to the fewest that change its layer's
    /// output little.
    pub fn round(
        &self,
        model: &Model,
        links: &Links,
        moments: Option<&[Moments]>,
        turns: &Turns,
        settings: &Settings,
    ) -> Result<Done> {
        let as_bits = |storage| self.round_as(storage, model, links, moments, turns, settings);
        let (stored, bias, share) = as_bits(self.storage)?;
        if !self.free || share <= SHARE {
            return Ok(Ok((stored, bias)));
        }
        let (stored, bias, share) = as_bits(Storage::Int8)?;
        // Factors that were turned have to stay together.
        if share <= SHARE || !turns.is_none() {
            return Ok(Ok((stored, bias)));
        }
        let reason =
            format!("eight bits would change {:.1} % of its layer's output", 100.0 * share);
        Ok(Err(Kept { name: self.weight.name.clone(), reason }))
    }

    /// The weight in a form, with the bias that makes up for it, and what share of the energy of its
    /// layer's output is lost.
    fn round_as(
        &self,
        storage: Storage,
        model: &Model,
        links: &Links,
        moments: Option<&[Moments]>,
        turns: &Turns,
        settings: &Settings,
    ) -> Result<(StoredWeight, Option<StoredConstant>, f64)> {
        let mut stored = StoredWeight {
            name: self.weight.name.clone(),
            shape: self.weight.shape.clone(),
            checksum: checksum(&self.elements),
            storage,
            axis: self.weight.axis(),
            block: 0,
            codes: Codes::default(),
            scales: Elements::default(),
        };
        let Some(levels) = storage.levels(settings) else {
            return Ok((stored, None, 0.0));
        };
        let lines = Lines::new(&self.weight.shape, stored.axis);
        let matrix = turns.apply(lines.matrix(&self.elements));
        let (rows, columns) = matrix.dim();
        let block = if storage.has_blocks() { settings.block } else { columns };
        let bias = moments.and_then(|_| Bias::of(model, links, &self.weight).transpose());
        let bias = bias.transpose()?;
        let groups = moments.map_or(1, <[Moments]>::len).max(1);
        let mut rounded = Rounded { codes: Vec::new(), scales: Vec::new() };
        let mut shift = Vec::new();
        let (mut lost_energy, mut energy) = (0.0, 0.0);
        for group in 0..groups {
            let part = group * rows / groups..(group + 1) * rows / groups;
            let part = matrix.slice(ndarray::s![part, ..]).to_owned();
            let one = match moments.and_then(|m| m.get(group)) {
                None => {
                    let one = nearest(&part, block, levels);
                    let square = |m: &Matrix| m.iter().map(|v| v * v).sum::<f64>();
                    lost_energy += square(&(&part - &one.matrix(part.nrows(), columns, block)));
                    energy += square(&part);
                    one
                }
                Some(moments) => {
                    // Where the bias keeps the mean exact, only what varies counts.
                    let about_zero = || moments.xx.clone().about_zero(&moments.x_mean);
                    let moment = if bias.is_some() { moments.xx.clone() } else { about_zero() };
                    let ridge = moment.shrinkage(moments.rows);
                    let one = compensated(&part, &moment, ridge, block, levels)?;
                    lost_energy +=
                        moment.energy(&(&part - &one.matrix(part.nrows(), columns, block)));
                    energy += moment.energy(&part);
                    one
                }
            };
            if let (Some(moments), Some(_)) = (moments.and_then(|m| m.get(group)), &bias) {
                let lost = &part - &one.matrix(part.nrows(), columns, block);
                shift.extend(lost.dot(&moments.x_mean));
            }
            rounded.codes.extend(one.codes);
            rounded.scales.extend(one.scales);
        }
        if !storage.has_blocks() {
            // A row of zeros has no scale of its own; one like the others' keeps biases fine.
            let used = |row: usize| {
                rounded.codes[row * columns..(row + 1) * columns].iter().any(|&c| c != 0)
            };
            let used: Vec<bool> = (0..rows).map(used).collect();
            let scales = rounded.scales.iter().zip(&used).filter(|(_, used)| **used);
            let least = scales.map(|(s, _)| *s).min_by(f32::total_cmp).unwrap_or(1.0);
            for (scale, used) in rounded.scales.iter_mut().zip(&used) {
                *scale = if *used { *scale } else { least };
            }
        }
        let mut codes = vec![0i8; self.elements.len()];
        for (at, &code) in rounded.codes.iter().enumerate() {
            codes[lines.element(at / columns, at % columns)] = code;
        }
        stored.codes = Codes(codes);
        if !storage.has_blocks() {
            stored.scales = Elements(rounded.scales);
        } else {
            // Blocks lie along the other axis of a matrix.
            (stored.axis, stored.block) = (1 - stored.axis, block);
            let blocks = columns.div_ceil(block);
            let turned = |at: usize| rounded.scales[at % rows * blocks + at / rows];
            stored.scales = Elements(match stored.axis {
                0 => (0..rows * blocks).map(turned).collect(),
                _ => rounded.scales,
            });
        }
        let share = lost_energy / energy.max(f64::MIN_POSITIVE);
        Ok((stored, bias.map(|bias| bias.moved(&shift)), share))
    }
}

/// Whether a weight's node has a form in integers.
fn in_integers(model: &Model, weight: &Weight) -> Result<bool> {
    let Some(sole) = weight.sole_use() else { return Ok(false) };
    if sole.role != Role::Conv {
        return Ok(blocks_lie_well(model, weight));
    }
    let bias = model.graph().node[sole.node].input.get(2).filter(|name| !name.is_empty());
    Ok(match bias {
        None => true,
        Some(name) => matches!(graph::constant_tensor(model, name)?, Some(Tensor::F32(_))),
    })
}

/// Whether a weight is a matrix whose node `MatMulNBits` can replace.
fn blocks_lie_well(model: &Model, weight: &Weight) -> bool {
    let Some(sole) = weight.sole_use().filter(|_| weight.shape.len() == 2) else { return false };
    let node = &model.graph().node[sole.node];
    match sole.role {
        Role::MatMulRight => true,
        Role::GemmRight(_) => {
            node.int("transA").unwrap_or(0) == 0
                && node.float("alpha").unwrap_or(1.0) == 1.0
                && node.float("beta").unwrap_or(1.0) == 1.0
        }
        _ => false,
    }
}

/// A tensor as a matrix whose rows are the positions along one axis.
pub(super) struct Lines {
    rows: usize,
    columns: usize,
    inner: usize,
}

impl Lines {
    pub fn new(shape: &[usize], axis: usize) -> Self {
        let inner = shape[axis + 1..].iter().product::<usize>().max(1);
        let outer: usize = shape[..axis].iter().product();
        Self { rows: shape[axis], columns: outer * inner, inner }
    }

    fn element(&self, row: usize, column: usize) -> usize {
        (column / self.inner * self.rows + row) * self.inner + column % self.inner
    }

    pub fn matrix(&self, elements: &[f32]) -> Matrix {
        Matrix::from_shape_fn((self.rows, self.columns), |(i, j)| {
            f64::from(elements[self.element(i, j)])
        })
    }
}

/// A constant that is added to the outputs of a layer, and of that layer alone.
struct Bias {
    name: String,
    pub elements: Vec<f32>,
    /// What a change of the product counts in it.
    factor: f64,
}

impl Bias {
    fn of(model: &Model, links: &Links, weight: &Weight) -> Result<Option<Self>> {
        let Some(sole) = weight.sole_use() else { return Ok(None) };
        let graph = model.graph();
        let node = &graph.node[sole.node];
        let outputs = weight.shape[weight.axis()];
        let (name, factor) = match sole.role {
            Role::Conv => (node.input.get(2).cloned(), 1.0),
            Role::GemmRight(_) => {
                let scale = |name: &str| f64::from(node.float(name).unwrap_or(1.0));
                (node.input.get(2).cloned(), scale("alpha") / scale("beta"))
            }
            Role::MatMulRight => {
                let output = node.output.first().map_or("", String::as_str);
                let add = links.sole_consumer(output).filter(|add| {
                    let add = &graph.node[add.node];
                    add.op_type() == "Add" && matches!(add.domain(), "" | "ai.onnx")
                });
                (add.and_then(|a| graph.node[a.node].input.get(1 - a.input).cloned()), 1.0)
            }
            _ => (None, 1.0),
        };
        let Some(name) = name.filter(|n| links.sole_consumer(n).is_some() && factor.is_finite())
        else {
            return Ok(None);
        };
        let Some(Tensor::F32(array)) = graph::constant_tensor(model, &name)? else {
            return Ok(None);
        };
        let fits = array.len() == outputs && array.shape().last() == Some(&outputs);
        let finite = array.iter().all(|v| v.is_finite());
        let elements = array.iter().copied().collect();
        Ok((fits && finite).then_some(Self { name, elements, factor }))
    }

    /// The constant that makes up for what the outputs lost on average.
    fn moved(self, shift: &[f64]) -> StoredConstant {
        let pairs = self.elements.iter().zip(shift);
        let elements = pairs.map(|(&b, s)| (f64::from(b) + self.factor * s) as f32).collect();
        StoredConstant { name: self.name, data: Elements(elements) }
    }
}
