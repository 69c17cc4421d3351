//! A decision as data: what every layer becomes, with the factors, so that it can be replayed
//! without the samples it was made from.

use serde::{Deserialize, Serialize};

use crate::elements;
use crate::error::{Error, Result};
use crate::factorize::{Choice, Factors, Replacement, replace};
use crate::graph::{self, NameAllocator};
use crate::layer::{Filter, Layer, find};
use crate::linalg::Matrix;
use crate::onnx::{Model, TensorProto};
use crate::quantize::Quantization;
use crate::tensor::Tensor;

/// Version of the plan's format.
const VERSION: u32 = 1;

/// What a compression does to a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format.
    pub version: u32,
    /// The layers that change, in the order of their nodes.
    pub layers: Vec<PlanLayer>,
    /// Constants of the result that training changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<PlanConstant>,
    /// How the result's weights are stored in fewer bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

/// A constant with the elements that training gave it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanConstant {
    /// Its name in the result.
    pub name: String,
    /// Its shape, which the result must have.
    pub shape: Vec<usize>,
    /// Elements, row-major, as base64 of little-endian `f32`.
    pub data: String,
}

/// What one layer becomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanLayer {
    /// The node.
    pub node: String,
    /// Name of its weight.
    pub weight: String,
    /// Shape of its weight, which the model must have.
    pub shape: Vec<usize>,
    /// Checksum of the weight's elements (FNV-1a over their bits), which the model must have.
    pub checksum: u64,
    /// Scheme and ranks; none for a dense layer whose weight is refitted.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// For each group the factors, the one applied last first.
    pub groups: Vec<Vec<PlanMatrix>>,
    /// The bias, as base64 of little-endian `f32`.
    pub bias: String,
}

/// A matrix of `f32`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanMatrix {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Elements, row-major, as base64 of little-endian `f32`.
    pub data: String,
}

impl Plan {
    /// The plan for factors of layers.
    ///
    /// # Errors
    /// When a layer's weight can't be read.
    pub fn new(model: &Model, layers: &[Layer], factors: &[Option<Factors>]) -> Result<Self> {
        let mut planned: Vec<(usize, PlanLayer)> = Vec::new();
        for (layer, factors) in layers.iter().zip(factors) {
            let Some(factors) = factors else { continue };
            planned.push((layer.node, PlanLayer::new(model, layer, factors)?));
        }
        planned.sort_by_key(|(node, _)| *node);
        Ok(Self::of_layers(planned.into_iter().map(|(_, layer)| layer).collect()))
    }

    /// The plan that changes these layers, in the order of their nodes, and nothing else.
    #[must_use]
    pub fn of_layers(layers: Vec<PlanLayer>) -> Self {
        Self { version: VERSION, layers, constants: Vec::new(), quantization: None }
    }

    /// Takes over what `trained` has in other constants than `result`, what this plan makes of its
    /// model; both have the same constants.
    ///
    /// # Errors
    /// When a constant can't be read.
    pub fn take_trained(&mut self, result: &Model, trained: &Model) -> Result<()> {
        for name in graph::constants(trained).keys() {
            let pair =
                (graph::constant_tensor(result, name)?, graph::constant_tensor(trained, name)?);
            let (Some(Tensor::F32(old)), Some(Tensor::F32(new))) = pair else { continue };
            if old != new {
                let shape = new.shape().to_vec();
                let elements: Vec<f64> = new.iter().map(|&v| f64::from(v)).collect();
                let data = encode(elements.iter());
                self.constants.push(PlanConstant { name: name.clone(), shape, data });
            }
        }
        Ok(())
    }

    /// Gives the constants of the result what training gave them.
    ///
    /// # Errors
    /// When the result has no such constant.
    pub fn set_trained(&self, result: &mut Model) -> Result<()> {
        for constant in &self.constants {
            let bad = |reason: String| Error::Plan {
                reason: format!("constant `{}`: {reason}", constant.name),
            };
            let elements = decode(&constant.data).map_err(bad)?;
            let elements: Vec<f32> = elements.into_iter().map(|v| v as f32).collect();
            let tensor =
                Tensor::from_vec(&constant.shape, elements).map_err(|e| bad(e.to_string()))?;
            let old = graph::constant_tensor(result, &constant.name)?;
            if old.is_none_or(|old| old.shape() != constant.shape) {
                return Err(bad("the result has no such constant".to_owned()));
            }
            graph::set_constant(
                result.graph_mut(),
                TensorProto::from_tensor(&constant.name, &tensor),
            );
        }
        Ok(())
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// When the text is no plan of a version known here.
    pub fn parse(text: &str) -> Result<Self> {
        let plan: Self =
            serde_json::from_str(text).map_err(|e| Error::Plan { reason: e.to_string() })?;
        if plan.version != VERSION {
            return Err(Error::Plan {
                reason: format!("version {} is not known, only {VERSION}", plan.version),
            });
        }
        Ok(plan)
    }

    /// The plan as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The model with the plan carried out: the layers' nodes replaced, constants that nothing uses
    /// any more removed, stale types of values dropped.
    ///
    /// # Errors
    /// When the plan was made for another model.
    pub fn apply(&self, model: &Model) -> Result<Model> {
        let mut result = model.clone();
        let mut replacements = self.replacements(model)?;
        let graph = result.graph_mut();
        for (name, tensor) in replacements.iter().flat_map(|(_, r)| &r.constants) {
            graph::add_initializer(graph, TensorProto::from_tensor(name, tensor));
        }
        // From the last node on, so that the indices of earlier ones stay.
        replacements.sort_by_key(|(node, _)| std::cmp::Reverse(*node));
        for (node, replacement) in replacements {
            graph::replace_node(graph, node, replacement.nodes)?;
        }
        graph::remove_unused_constants(graph);
        Ok(result)
    }

    /// The planned layers, in the plan's order, as they are found in `model`.
    ///
    /// # Errors
    /// When the model has other layers.
    pub fn found(&self, model: &Model) -> Result<Vec<Layer>> {
        let layers = find(model, &Filter::default())?;
        let planned = self.layers.iter().map(|planned| {
            let own = |l: &&Layer| l.name == planned.node && l.weight == planned.weight;
            layers
                .iter()
                .find(own)
                .cloned()
                .ok_or_else(|| planned.misfit("the model has no such layer"))
        });
        planned.collect()
    }

    /// For each planned layer, in the plan's order, and each of its nodes, the first one before those
    /// that share its weight, the node's index and what takes its place.
    ///
    /// # Errors
    /// When the plan was made for another model.
    pub fn replacements(&self, model: &Model) -> Result<Vec<(usize, Replacement)>> {
        let layers = self.found(model)?;
        let mut names = NameAllocator::new(model.graph());
        let mut replacements = Vec::new();
        for (planned, layer) in self.layers.iter().zip(&layers) {
            let misfit = |reason: &str| planned.misfit(reason);
            let map = layer.map.as_ref().ok_or_else(|| misfit("it can't be factorized"))?;
            if layer.shape != planned.shape || checksum(model, &layer.weight)? != planned.checksum {
                return Err(misfit("its weight is another one: the plan is for another model"));
            }
            let factors = planned.factors()?;
            let fits = |f: &Factors| -> bool {
                let possible = |choice: Choice| {
                    let most = Choice::most(choice.scheme, map);
                    choice.scheme.applies(map)
                        && (1..=most).contains(&choice.rank)
                        && choice.rank_in.is_none_or(|r| (1..=map.columns).contains(&r))
                };
                if !f.choice.is_none_or(possible) {
                    return false;
                }
                let expected = Factors::zeros(f.choice, map).groups;
                let shapes = |groups: &[Vec<Matrix>]| -> Vec<Vec<(usize, usize)>> {
                    groups.iter().map(|g| g.iter().map(Matrix::dim).collect()).collect()
                };
                shapes(&expected) == shapes(&f.groups) && f.bias.len() == map.groups * map.rows
            };
            if !fits(&factors) {
                return Err(misfit("its factors have shapes that don't fit"));
            }
            let made = replace(layer, &model.graph().node, &factors, &mut names)?;
            for ((node, _), mut replacement) in layer.uses().zip(made) {
                if model.opset("").is_some_and(|version| version < 11) {
                    replacement.complete_gemm(&mut names);
                }
                replacements.push((node, replacement));
            }
        }
        Ok(replacements)
    }
}

impl PlanLayer {
    /// What the factors make of a layer of the model.
    ///
    /// # Errors
    /// When the layer's weight can't be read.
    pub fn new(model: &Model, layer: &Layer, factors: &Factors) -> Result<Self> {
        let matrix =
            |m: &Matrix| PlanMatrix { shape: [m.nrows(), m.ncols()], data: encode(m.iter()) };
        let groups = factors.groups.iter().map(|g| g.iter().map(matrix).collect()).collect();
        Ok(Self {
            node: layer.name.clone(),
            weight: layer.weight.clone(),
            shape: layer.shape.clone(),
            checksum: checksum(model, &layer.weight)?,
            choice: factors.choice,
            groups,
            bias: encode(factors.bias.iter()),
        })
    }

    fn misfit(&self, reason: &str) -> Error {
        Error::Plan { reason: format!("layer `{}` (`{}`): {reason}", self.node, self.weight) }
    }

    fn factors(&self) -> Result<Factors> {
        let bad =
            |reason: String| Error::Plan { reason: format!("layer `{}`: {reason}", self.node) };
        let matrix = |m: &PlanMatrix| -> Result<Matrix> {
            let elements = decode(&m.data).map_err(bad)?;
            Matrix::from_shape_vec((m.shape[0], m.shape[1]), elements)
                .map_err(|_| bad("a matrix has another number of elements than its shape".into()))
        };
        let groups = self
            .groups
            .iter()
            .map(|group| group.iter().map(matrix).collect())
            .collect::<Result<_>>()?;
        let bias = decode(&self.bias).map_err(bad)?;
        Ok(Factors { choice: self.choice, groups, bias })
    }
}

fn encode<'a>(elements: impl Iterator<Item = &'a f64>) -> String {
    elements::encode(elements.map(|&v| v as f32))
}

fn decode(text: &str) -> std::result::Result<Vec<f64>, String> {
    let elements = elements::decode(text)?;
    if elements.iter().any(|v| !v.is_finite()) {
        return Err("an element is NaN or infinite".to_owned());
    }
    Ok(elements.into_iter().map(f64::from).collect())
}

fn checksum(model: &Model, weight: &str) -> Result<u64> {
    let tensor = graph::constant_tensor(model, weight)?
        .ok_or_else(|| Error::Plan { reason: format!("`{weight}` is not a constant") })?;
    Ok(tensor.to_f64_vec().iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, v| {
        (hash ^ v.to_bits()).wrapping_mul(0x0100_0000_01b3)
    }))
}
