//! What layers take in the runtime in every form that they can have.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use prost::Message;

use crate::error::{Error, Result};
use crate::factorize::{Choice, Factors, Scheme, replace};
use crate::fnv::Fnv;
use crate::graph::{NameAllocator, constant_tensor, constants};
use crate::layer::{Layer, LinearMap, shapes};
use crate::onnx::{
    GraphProto, Model, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
};
use crate::progress::Progress;
use crate::search::LayerOptions;
use crate::tensor::Tensor;
use crate::validate::{LatencyTable, Point, nanoseconds};

/// Ranks that a scheme of one rank is measured at.
const RANKS: usize = 6;

/// Ranks on each side that a scheme of two is measured at.
const RANKS_OF_TWO: usize = 4;

/// The newest format a piece of a model is handed to the runtime in.
const IR_VERSION: i64 = 8;

/// A model whose layers are timed.
pub(super) struct Timed<'a> {
    pub model: &'a Model,
    /// Its layers that can be factorized.
    pub layers: &'a [Layer],
    /// One sample of its inputs.
    pub sample: &'a [Tensor],
}

impl Timed<'_> {
    /// Gives all forms their time, and returns that of the whole model, in nanoseconds. Times come
    /// from the table; what it lacks is measured where it is of this machine, and then kept in it.
    ///
    /// # Errors
    /// When a table of another machine lacks something, or the runtime can't run the model.
    pub fn price(
        &self,
        forms: &mut [LayerOptions],
        path: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<u64> {
        let mut table = path.map_or_else(|| Ok(LatencyTable::here()), LatencyTable::read)?;
        let before = table.clone();
        let values = shapes(self.model, self.sample.to_vec())?;
        let total = self.fill(&mut table, forms, &values, path, progress)?;
        if let Some(path) = path.filter(|_| table != before) {
            table.write(path)?;
        }
        let mut known = (0.0, 0u64);
        for (layer, forms) in self.layers.iter().zip(forms.iter_mut()) {
            let keys: Option<Vec<String>> =
                layer.uses().map(|(node, map)| self.key(layer, node, map, &values)).collect();
            for (i, option) in forms.options.iter_mut().enumerate() {
                let (rank, rank_in) = ranks(option.choice);
                let time =
                    |key: &String| table.time(&scheme_key(key, option.choice), rank, rank_in);
                let time: Option<f64> = keys.as_ref().and_then(|keys| keys.iter().map(time).sum());
                option.cost.nanoseconds = time.map_or(0, |time| time.max(1.0) as u64);
                if let Some(time) = time.filter(|_| i == 0) {
                    known = (known.0 + time, known.1 + option.cost.macs);
                }
            }
        }
        // What can't be run alone is taken to cost what its arithmetic costs elsewhere.
        let each = known.0 / known.1.max(1) as f64;
        let dense: f64 = forms.iter().map(|f| f.options[0].cost.nanoseconds as f64).sum();
        // Layers that take longer alone than all together: the runtime does more than that at once.
        let scale = (total / dense.max(1.0)).min(1.0);
        for forms in forms.iter_mut() {
            for option in &mut forms.options {
                let cost = &mut option.cost;
                let alone = match cost.nanoseconds {
                    0 => cost.macs as f64 * each,
                    time => time as f64,
                };
                cost.nanoseconds = ((alone * scale) as u64).max(1);
            }
            forms.stored.nanoseconds = forms.options[0].cost.nanoseconds;
        }
        Ok(total as u64)
    }

    /// Measures what a table lacks. Returns the time of the whole model.
    fn fill(
        &self,
        table: &mut LatencyTable,
        forms: &[LayerOptions],
        values: &HashMap<String, Vec<usize>>,
        path: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<f64> {
        let here = table.is_of_here();
        let lacks = |what: &str| Error::Option {
            option: "--latency-table".to_owned(),
            reason: format!(
                "`{}`, measured on {}, has no time for {what}: measure it there by `onnx-bsr bench \
                 MODEL --table FILE`, with the options that this run has",
                path.unwrap_or(Path::new("")).display(),
                table.machine
            ),
        };
        let whole = model_key(self.model, self.sample);
        let total = match table.models.get(&whole) {
            Some(&total) => total,
            None if here => nanoseconds(self.model, self.sample)?,
            None => return Err(lacks("the model")),
        };
        progress.phase("latency table", Some(self.layers.len() as u64));
        let mut missing = Vec::new();
        for (layer, forms) in self.layers.iter().zip(forms) {
            for layer in apart(layer) {
                let map = layer.map.as_ref();
                let key = map.and_then(|map| self.key(&layer, layer.node, map, values));
                let Some(key) = key else { continue };
                for (scheme, choices) in grids(forms) {
                    let key = scheme_key(&key, choices.first().copied().flatten());
                    if table.layers.contains_key(&key) {
                        continue;
                    }
                    if !here {
                        missing.push(format!("`{}` {scheme}", layer.name));
                        continue;
                    }
                    let points = self.measure(&layer, &choices, values, progress)?;
                    table.layers.insert(key, points);
                }
            }
            progress.step(0, &layer.name);
        }
        if let Some(first) = missing.first() {
            return Err(lacks(first));
        }
        table.models.insert(whole, total);
        Ok(total)
    }

    /// The times of a layer of one node in some forms; none from the first on that can't be run alone.
    fn measure(
        &self,
        layer: &Layer,
        choices: &[Option<Choice>],
        values: &HashMap<String, Vec<usize>>,
        progress: &dyn Progress,
    ) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        for &choice in choices {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let Some((piece, input)) = self.piece(layer, choice, values)? else { break };
            match nanoseconds(&piece, &[input]) {
                Ok(nanoseconds) => {
                    let (rank, rank_in) = ranks(choice);
                    points.push(Point { rank, rank_in, nanoseconds });
                }
                Err(error) => {
                    log::debug!("`{}` {choice:?} alone: {}", layer.name, error.chain());
                    break;
                }
            }
        }
        Ok(points)
    }

    /// What tells the time of a layer's node from others': operator, attributes, shapes. None for a table,
    /// in which looking up takes next to no time.
    fn key(
        &self,
        layer: &Layer,
        node: usize,
        map: &LinearMap,
        values: &HashMap<String, Vec<usize>>,
    ) -> Option<String> {
        if map.is_table() {
            return None;
        }
        let node = &self.model.graph().node[node];
        let input = values.get(node.input.get(map.data_input())?)?;
        let mut attributes: Vec<String> = node
            .attribute
            .iter()
            .map(|a| match (&a.ints[..], a.i, a.f) {
                ([], Some(i), _) => format!("{}={i}", a.name()),
                ([], None, Some(f)) => format!("{}={f}", a.name()),
                ([], None, None) => a.name().to_owned(),
                (ints, ..) => format!("{}={ints:?}", a.name()),
            })
            .collect();
        attributes.sort_unstable();
        Some(format!("{} {input:?} {:?} {}", node.op_type(), layer.shape, attributes.join(" ")))
    }

    /// The first node of a layer in a form as a model of its own, with its input.
    pub(super) fn piece(
        &self,
        layer: &Layer,
        choice: Option<Choice>,
        values: &HashMap<String, Vec<usize>>,
    ) -> Result<Option<(Model, Tensor)>> {
        let node = &self.model.graph().node[layer.node];
        let Some(map) = layer.map.as_ref().filter(|map| !map.is_table()) else { return Ok(None) };
        let data = node.input.get(map.data_input()).cloned().unwrap_or_default();
        let Some(shape) = values.get(&data) else { return Ok(None) };
        let mut names = NameAllocator::default();
        for name in node.input.iter().chain(&node.output) {
            names.fresh(name);
        }
        let (nodes, mut constants): (Vec<NodeProto>, Vec<(String, Tensor)>) = match choice {
            None => (vec![node.clone()], Vec::new()),
            Some(_) => {
                let factors = Factors::zeros(choice, map);
                let made = replace(layer, &self.model.graph().node, &factors, &mut names)?;
                let mut replacement = made.into_iter().next().unwrap_or_default();
                if self.model.opset("").is_some_and(|opset| opset < 11) {
                    replacement.complete_gemm(&mut names);
                }
                (replacement.nodes, replacement.constants)
            }
        };
        let made: BTreeSet<&str> =
            nodes.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        for name in nodes.iter().flat_map(|n| &n.input) {
            let known = name.is_empty() || *name == data || made.contains(name.as_str());
            if known || constants.iter().any(|(n, _)| n == name) {
                continue;
            }
            match constant_tensor(self.model, name)? {
                Some(tensor) => constants.push((name.clone(), tensor)),
                None => return Ok(None),
            }
        }
        let value = |name: &str, r#type: Option<TypeProto>| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type,
            ..ValueInfoProto::default()
        };
        let count = shape.iter().product();
        let Ok(input) = Tensor::from_vec(shape, vec![0.5f32; count]) else { return Ok(None) };
        let graph = GraphProto {
            name: Some("layer".to_owned()),
            input: vec![value(&data, Some(TypeProto::of_tensor(&input)))],
            output: node.output.first().map(|name| value(name, None)).into_iter().collect(),
            initializer: constants.iter().map(|(n, t)| TensorProto::from_tensor(n, t)).collect(),
            node: nodes,
            ..GraphProto::default()
        };
        let proto = ModelProto {
            ir_version: Some(self.model.proto.ir_version().min(IR_VERSION)),
            opset_import: self.model.proto.opset_import.clone(),
            graph: Some(graph),
            ..ModelProto::default()
        };
        Ok(Some((Model::from_proto(proto)?, input)))
    }
}

/// Every node of a layer as a layer of its own.
fn apart(layer: &Layer) -> Vec<Layer> {
    let one = |node, name: &str, map: &LinearMap| Layer {
        node,
        name: name.to_owned(),
        map: Some(map.clone()),
        others: Vec::new(),
        ..layer.clone()
    };
    let uses = layer.uses().zip(layer.names());
    uses.map(|((node, map), name)| one(node, name, map)).collect()
}

/// Ranks as a table has them.
fn ranks(choice: Option<Choice>) -> (usize, usize) {
    choice.map_or((0, 0), |choice| (choice.rank, choice.rank_in.unwrap_or(0)))
}

fn scheme_key(layer: &str, choice: Option<Choice>) -> String {
    format!("{layer} {}", choice.map_or("dense", |choice| choice.scheme.name()))
}

/// For every scheme that a layer can take, and none, the choices that are measured.
fn grids(forms: &LayerOptions) -> Vec<(&'static str, Vec<Option<Choice>>)> {
    let mut grids = vec![("dense", vec![None])];
    for scheme in Scheme::ALL {
        let own = || forms.options.iter().filter_map(|o| o.choice).filter(|c| c.scheme == scheme);
        let outer: BTreeSet<usize> = own().map(|c| c.rank).collect();
        let inner: BTreeSet<usize> = own().filter_map(|c| c.rank_in).collect();
        let choice = |rank, rank_in| Some(Choice { scheme, rank, rank_in });
        let choices: Vec<Option<Choice>> = if inner.is_empty() {
            spread(&outer, RANKS).into_iter().map(|rank| choice(rank, None)).collect()
        } else {
            let inner = spread(&inner, RANKS_OF_TWO);
            spread(&outer, RANKS_OF_TWO)
                .into_iter()
                .flat_map(|rank| inner.iter().map(move |&rank_in| choice(rank, Some(rank_in))))
                .collect()
        };
        if !choices.is_empty() {
            grids.push((scheme.name(), choices));
        }
    }
    grids
}

/// Some of the values, the least and the greatest among them, in about equal ratios.
fn spread(values: &BTreeSet<usize>, most: usize) -> Vec<usize> {
    let (Some(&low), Some(&high)) = (values.first(), values.last()) else { return Vec::new() };
    let step = |i: usize| {
        low as f64 * (high as f64 / low.max(1) as f64).powf(i as f64 / (most - 1) as f64)
    };
    let near = |wanted: f64| {
        values
            .iter()
            .copied()
            .min_by(|&a, &b| (a as f64 - wanted).abs().total_cmp(&(b as f64 - wanted).abs()))
    };
    let chosen: BTreeSet<usize> = (0..most).filter_map(|i| near(step(i))).collect();
    chosen.into_iter().collect()
}

/// What tells the time of a whole model from others': its operators, what goes into which, the shapes of
/// its constants and inputs; neither names nor the numbers in weights.
fn model_key(model: &Model, sample: &[Tensor]) -> String {
    let graph = model.graph();
    let mut key = Fnv::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut place = |name: &str| {
        let next = places.len();
        *places.entry(name.to_owned()).or_insert(next)
    };
    let constants = constants(model);
    for node in &graph.node {
        let mut kind = NodeProto {
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            attribute: node.attribute.clone(),
            ..NodeProto::default()
        };
        for attribute in &mut kind.attribute {
            (attribute.t, attribute.sparse_tensor) = (None, None);
        }
        key.mix(&kind.encode_to_vec());
        for name in &node.input {
            let stored = constants.get(name).and_then(|c| c.proto(graph));
            let stored = stored.map(|t| (t.data_type(), &t.dims));
            key.mix(format!("{} {stored:?}", place(name)).as_bytes());
        }
        for name in &node.output {
            key.mix(format!("> {}", place(name)).as_bytes());
        }
    }
    for input in sample {
        key.mix(format!("{:?} {:?}", input.data_type(), input.shape()).as_bytes());
    }
    key.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spread() {
        let values: BTreeSet<usize> = (1..=64).collect();
        assert_eq!(spread(&values, 4), [1, 4, 16, 64]);
        assert_eq!(spread(&BTreeSet::from([3]), 4), [3]);
        assert!(spread(&BTreeSet::new(), 4).is_empty());
    }

    /// Trained weights take the same time; another width, under the same names, does not.
    #[test]
    fn models_are_known_by_their_shapes() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mnist_conv.onnx");
        let model = Model::read(&fixture).expect("the fixture");
        let key = model_key(&model, &[]);
        let kernel =
            |model: &Model| model.graph().initializer.iter().position(|t| t.dims.len() == 4);
        let first = kernel(&model).expect("a kernel");

        let mut trained = model.clone();
        let stored = &mut trained.graph_mut().initializer[first];
        let bytes = stored.raw_data.as_ref().map_or(0, |data| data.len());
        assert!(bytes > 0);
        stored.raw_data = Some(vec![0; bytes].into());
        assert_eq!(model_key(&trained, &[]), key);

        let mut renamed = model.clone();
        let name = renamed.graph().initializer[first].name().to_owned();
        renamed.graph_mut().initializer[first].name = Some("other".to_owned());
        for input in renamed.graph_mut().node.iter_mut().flat_map(|node| &mut node.input) {
            if *input == name {
                *input = "other".to_owned();
            }
        }
        assert_eq!(model_key(&renamed, &[]), key);

        let mut wider = model.clone();
        wider.graph_mut().initializer[first].dims[0] *= 2;
        assert_ne!(model_key(&wider, &[]), key);
    }
}
