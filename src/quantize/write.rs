//! A quantization carried out on a model.

mod integer;
mod packed;
mod tables;
mod values;

use std::collections::HashMap;

use super::opset::{self, PER_AXIS};
use super::stored::{Quantization, Storage, StoredWeight, checksum};
use super::weights::{Role, Weight, weights};
use crate::error::{Error, Result};
use crate::graph::{self, NameAllocator, Source, captured};
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{AttributeProto, GraphProto, Model, NodeProto, OpsetImport, TensorProto};
use crate::tensor::Tensor;

/// The domain of `MatMulNBits`.
const CONTRIB: &str = "com.microsoft";

impl Quantization {
    /// The model with its weights in fewer bits.
    ///
    /// # Errors
    /// When the quantization is of another model.
    pub fn apply(&self, model: &Model) -> Result<Model> {
        let mut result = opset::upgraded(model, self.form)?;
        for constant in &self.constants {
            let misfit = |reason: &str| plan(&constant.name, reason);
            let Some(Tensor::F32(old)) = graph::constant_tensor(&result, &constant.name)? else {
                return Err(misfit("the model has no such float constant"));
            };
            let new = Tensor::from_vec(old.shape(), constant.data.0.clone())
                .map_err(|e| misfit(&e.to_string()))?;
            let proto = TensorProto::from_tensor(&constant.name, &new);
            graph::set_constant(result.graph_mut(), proto);
        }
        let found: HashMap<String, Weight> =
            weights(&result).into_iter().map(|w| (w.name.clone(), w)).collect();
        let mut edits = Edits::new(&result);
        for stored in &self.weights {
            let weight = found.get(&stored.name);
            let weight =
                weight.ok_or_else(|| plan(&stored.name, "the model has no such weight"))?;
            stored.check(&result, weight)?;
            edits.store(&result, weight, stored)?;
        }
        if let Some(values) = &self.values {
            edits.values(&result, values)?;
            for stored in &self.weights {
                if let Some(weight) = found.get(&stored.name) {
                    edits.biases(&result, weight, stored, values)?;
                }
            }
        }
        edits.carry_out(&mut result);
        Ok(result)
    }
}

fn plan(name: &str, reason: &str) -> Error {
    Error::Plan { reason: format!("quantized `{name}`: {reason}") }
}

impl StoredWeight {
    /// Checks that this is the model's weight and that codes and scales fit its shape.
    fn check(&self, model: &Model, weight: &Weight) -> Result<()> {
        let misfit = |reason: &str| Err(plan(&self.name, reason));
        let Some(Tensor::F32(array)) = graph::constant_tensor(model, &self.name)? else {
            return misfit("not float in the model");
        };
        let elements: Vec<f32> = array.iter().copied().collect();
        if self.shape != weight.shape || checksum(&elements) != self.checksum {
            return misfit("the model's is another one: the plan is for another model");
        }
        if self.storage == Storage::Fp16 {
            return Ok(());
        }
        let pairs = self.codes.0.len().is_multiple_of(2);
        if self.storage == Storage::Int4Packed && !pairs {
            return misfit("an odd number of codes is not packed");
        }
        let extent = self.shape.get(self.axis).copied().unwrap_or(0);
        let scales = match self.storage {
            Storage::Int8 | Storage::Int8Dynamic | Storage::Int4Packed => extent,
            _ if self.block < 16 || !self.block.is_power_of_two() => 0,
            _ if self.shape.len() != 2 || self.axis > 1 => 0,
            _ => extent.div_ceil(self.block) * self.shape[1 - self.axis],
        };
        let finite = self.scales.0.iter().all(|s| s.is_finite());
        if scales == 0
            || self.codes.0.len() != elements.len()
            || self.scales.0.len() != scales
            || !finite
        {
            return misfit("codes or scales don't fit its shape");
        }
        Ok(())
    }

    /// The scales as a tensor that broadcasts along the axis.
    fn column(&self) -> Vec<usize> {
        let mut shape = vec![1; self.shape.len() - self.axis];
        shape[0] = self.scales.0.len();
        shape
    }
}

/// Changes of a graph's nodes and constants that are carried out together.
struct Edits {
    names: NameAllocator,
    /// Nodes that go before the node of an index.
    before: HashMap<usize, Vec<NodeProto>>,
    /// Nodes that go behind the node of an index.
    behind: HashMap<usize, Vec<NodeProto>>,
    /// Other values that inputs of nodes read, by the index of the node and the position.
    reads: HashMap<(usize, usize), String>,
    /// Bytes of values that are quantized by their own range: codes, scale and zero point.
    dynamic: HashMap<String, [String; 3]>,
    /// Nodes that replace the node of an index.
    instead: HashMap<usize, Vec<NodeProto>>,
    /// Initializers that go.
    gone: Vec<String>,
    constants: Vec<TensorProto>,
    contrib: bool,
    /// The constant that has the levels of the two codes of every byte.
    table: Option<String>,
    version: i64,
    count: usize,
}

impl Edits {
    fn new(model: &Model) -> Self {
        Self {
            names: NameAllocator::new(model.graph()),
            before: HashMap::new(),
            behind: HashMap::new(),
            reads: HashMap::new(),
            dynamic: HashMap::new(),
            instead: HashMap::new(),
            gone: Vec::new(),
            constants: Vec::new(),
            contrib: false,
            table: None,
            version: model.opset("").unwrap_or(1),
            count: 0,
        }
    }

    /// Stores one weight.
    fn store(&mut self, model: &Model, weight: &Weight, stored: &StoredWeight) -> Result<()> {
        self.count += 1;
        match stored.storage {
            Storage::Int8 if tables::is_looked_up(model.graph(), weight, stored) => {
                self.rows_of_codes(model.graph(), weight, stored)?;
            }
            Storage::Int8 => self.int8(model.graph(), stored)?,
            Storage::Fp16 => self.half(model, weight, stored)?,
            Storage::Int4 => self.int4(model.graph(), weight, stored)?,
            Storage::Int4Dq => self.blocked(model.graph(), stored)?,
            Storage::Int4Packed => self.packed(model.graph(), stored)?,
            Storage::Int8Dynamic => self.integer(model, weight, stored)?,
        }
        self.remove(model, &stored.name);
        Ok(())
    }

    /// Removes a constant whose value something else now makes.
    fn remove(&mut self, model: &Model, name: &str) {
        match graph::constants(model).get(name).map(|c| c.source) {
            Some(Source::Node(index)) => {
                self.instead.insert(index, Vec::new());
            }
            _ => self.gone.push(name.to_owned()),
        }
    }

    /// Adds a constant; short names, as each counts in the file.
    fn constant(&mut self, letter: &str, mut tensor: TensorProto) -> String {
        let name = self.names.fresh(&format!("{letter}{}", self.count));
        tensor.name = Some(name.clone());
        self.constants.push(tensor);
        name
    }

    fn tensor(&mut self, letter: &str, shape: &[usize], elements: Vec<f32>) -> Result<String> {
        let tensor = Tensor::from_vec(shape, elements)
            .map_err(|e| Error::Plan { reason: format!("scales: {e}") })?;
        Ok(self.constant(letter, TensorProto::from_tensor("", &tensor)))
    }

    /// Puts nodes before the first one that reads `name`.
    fn put(&mut self, graph: &GraphProto, name: &str, nodes: Vec<NodeProto>) {
        let reads = |node: &NodeProto| {
            node.input.iter().any(|input| input == name) || captured(node).contains(name)
        };
        let first = graph.node.iter().position(reads).unwrap_or(graph.node.len());
        self.before.entry(first).or_default().extend(nodes);
    }

    fn int8(&mut self, graph: &GraphProto, stored: &StoredWeight) -> Result<()> {
        let codes = Tensor::from_vec(&stored.shape, stored.codes.0.clone())
            .map_err(|e| plan(&stored.name, &e.to_string()))?;
        let codes = self.constant("q", TensorProto::from_tensor("", &codes));
        let scales = stored.scales.0.clone();
        let nodes = if self.version >= PER_AXIS {
            let scale = self.tensor("s", &[scales.len()], scales)?;
            let mut dequantize = node("DequantizeLinear", vec![codes, scale], &stored.name);
            if stored.axis != 1 {
                dequantize.attribute.push(AttributeProto::from_int("axis", stored.axis as i64));
            }
            vec![dequantize]
        } else {
            // What DequantizeLinear does, in operators that older sets have.
            let scale = self.tensor("s", &stored.column(), scales)?;
            let wide = self.names.fresh(&format!("w{}", self.count));
            vec![cast(codes, &wide), node("Mul", vec![wide, scale], &stored.name)]
        };
        self.put(graph, &stored.name, nodes);
        Ok(())
    }

    fn half(&mut self, model: &Model, weight: &Weight, stored: &StoredWeight) -> Result<()> {
        let elements = graph::constant_tensor(model, &stored.name)?.map(|t| t.to_f64_vec());
        let half: Vec<half::f16> = elements
            .unwrap_or_default()
            .into_iter()
            .map(|v| half::f16::from_f32(v as f32))
            .collect();
        let half = Tensor::from_vec(&stored.shape, half)
            .map_err(|e| plan(&stored.name, &e.to_string()))?;
        let half = self.constant("h", TensorProto::from_tensor("", &half));
        let graph = model.graph();
        if tables::is_looked_up(graph, weight, stored) {
            self.rows_of_halves(graph, weight, &half);
        } else {
            self.put(graph, &stored.name, vec![cast(half, &stored.name)]);
        }
        Ok(())
    }

    /// The node as a `MatMulNBits`, what Gemm adds after it.
    fn int4(&mut self, graph: &GraphProto, weight: &Weight, stored: &StoredWeight) -> Result<()> {
        let misfit = |reason: &str| plan(&stored.name, reason);
        let sole = weight.sole_use().ok_or_else(|| misfit("shared"))?;
        if !matches!(sole.role, Role::MatMulRight | Role::GemmRight(_)) {
            return Err(misfit("not the second operand of a product"));
        }
        let old = &graph.node[sole.node];
        let (depth, outputs) = (stored.shape[stored.axis], stored.shape[1 - stored.axis]);
        let blocks = depth.div_ceil(stored.block);
        let place = |depth_at: usize, output: usize, depths: usize| {
            if stored.axis == 0 { depth_at * outputs + output } else { output * depths + depth_at }
        };
        // Rows of outputs, each block two codes a byte, the low half first, zero at 8.
        let mut packed = vec![0x88u8; outputs * blocks * stored.block / 2];
        let mut scales = vec![0f32; outputs * blocks];
        for output in 0..outputs {
            for k in 0..depth {
                let code = (stored.codes.0[place(k, output, depth)] + 8).cast_unsigned() & 15;
                let at = output * blocks * stored.block + k;
                let byte = &mut packed[at / 2];
                *byte = if at.is_multiple_of(2) {
                    *byte & 0xf0 | code
                } else {
                    *byte & 0x0f | code << 4
                };
            }
            for block in 0..blocks {
                scales[output * blocks + block] = stored.scales.0[place(block, output, blocks)];
            }
        }
        let packed = Tensor::from_vec(&[outputs, blocks, stored.block / 2], packed)
            .map_err(|e| misfit(&e.to_string()))?;
        let packed = self.constant("q", TensorProto::from_tensor("", &packed));
        let scale = self.tensor("s", &[scales.len()], scales)?;
        let output = old.output.first().cloned().unwrap_or_default();
        let added = old.input.get(2).filter(|name| !name.is_empty()).cloned();
        let product = match added {
            Some(_) => self.names.fresh(&format!("p{}", self.count)),
            None => output.clone(),
        };
        let int = AttributeProto::from_int;
        let mut nodes = vec![NodeProto {
            name: old.name.clone(),
            domain: Some(CONTRIB.to_owned()),
            attribute: vec![
                int("K", depth as i64),
                int("N", outputs as i64),
                int("bits", 4),
                int("block_size", stored.block as i64),
            ],
            ..node("MatMulNBits", vec![old.input[0].clone(), packed, scale], &product)
        }];
        if let Some(added) = added {
            nodes.push(node("Add", vec![product, added], &output));
        }
        self.instead.insert(sole.node, nodes);
        self.contrib = true;
        Ok(())
    }

    fn blocked(&mut self, graph: &GraphProto, stored: &StoredWeight) -> Result<()> {
        let codes = &stored.codes.0;
        let nibble = |code: Option<&i8>| code.map_or(0, |c| c.cast_unsigned() & 15);
        let packed: Vec<u8> =
            codes.chunks(2).map(|pair| nibble(pair.first()) | nibble(pair.get(1)) << 4).collect();
        let codes = self.constant(
            "q",
            TensorProto {
                dims: stored.shape.iter().map(|&d| d as i64).collect(),
                data_type: Some(Code::Int4 as i32),
                raw_data: Some(packed.into()),
                ..TensorProto::default()
            },
        );
        let mut shape = stored.shape.clone();
        shape[stored.axis] = shape[stored.axis].div_ceil(stored.block);
        let scale = self.tensor("s", &shape, stored.scales.0.clone())?;
        let int = AttributeProto::from_int;
        let mut dequantize = node("DequantizeLinear", vec![codes, scale], &stored.name);
        dequantize.attribute.push(int("axis", stored.axis as i64));
        dequantize.attribute.push(int("block_size", stored.block as i64));
        self.put(graph, &stored.name, vec![dequantize]);
        Ok(())
    }

    fn carry_out(mut self, model: &mut Model) {
        if self.contrib && model.opset(CONTRIB).is_none() {
            model
                .proto
                .opset_import
                .push(OpsetImport { domain: Some(CONTRIB.to_owned()), version: Some(1) });
        }
        let graph = model.graph_mut();
        let old = std::mem::take(&mut graph.node);
        for (index, mut node) in old.into_iter().enumerate() {
            for (position, input) in node.input.iter_mut().enumerate() {
                if let Some(other) = self.reads.remove(&(index, position)) {
                    *input = other;
                }
            }
            graph.node.extend(self.before.remove(&index).unwrap_or_default());
            match self.instead.remove(&index) {
                Some(nodes) => graph.node.extend(nodes),
                None => graph.node.push(node),
            }
            graph.node.extend(self.behind.remove(&index).unwrap_or_default());
        }
        // In files that list all initializers as inputs, so are the new ones.
        for constant in self.constants {
            graph::add_initializer(graph, constant);
        }
        graph.initializer.retain(|t| !self.gone.iter().any(|name| name == t.name()));
        graph.input.retain(|i| !self.gone.iter().any(|name| name == i.name()));
        graph::remove_unused_constants(graph);
    }
}

fn node(op_type: &str, input: Vec<String>, output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input,
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn cast(from: String, to: &str) -> NodeProto {
    let mut cast = node("Cast", vec![from], to);
    cast.attribute.push(AttributeProto::from_int("to", Code::Float as i64));
    cast
}
