//! Operators that ONNX Runtime fuses nodes into, spelled out in standard ones: the same function, in a
//! form that other runtimes run, and whose weights can be factorized. ONNX Runtime fuses the nodes
//! again when it loads them.

mod activations;
mod attention;
mod norms;
mod products;

use std::collections::{BTreeSet, HashMap};

use super::names::NameAllocator;
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::proto::type_proto::Value;
use crate::onnx::{AttributeProto, GraphProto, Model, NodeAttributes, NodeProto, TensorProto};
use crate::tensor::Tensor;

/// The domain of ONNX Runtime's own operators.
const DOMAIN: &str = "com.microsoft";

/// Spells out the fused operators of the main graph that compute in `f32`. Uses of them that have no
/// exact equivalent stay. Returns which operators were spelled out.
pub fn spell_out(model: &mut Model) -> Vec<String> {
    let graph = model.graph();
    if !graph.node.iter().any(|node| rule(node).is_some()) {
        return Vec::new();
    }
    let mut names = NameAllocator::new(graph);
    let types = Types::of(graph);
    let opset = model.opset("").unwrap_or(1);
    let mut done = BTreeSet::new();
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut constants = Vec::new();
    for node in &graph.node {
        let mut speller = Speller::new(node, opset, &types, names.clone());
        if rule(node).and_then(|rule| rule(&mut speller)).is_some() {
            nodes.append(&mut speller.nodes);
            constants.append(&mut speller.constants);
            names = speller.names;
            done.insert(node.op_type().to_owned());
        } else {
            nodes.push(node.clone());
        }
    }
    let graph = model.graph_mut();
    graph.node = nodes;
    for constant in constants {
        super::add_initializer(graph, constant);
    }
    if !done.is_empty() {
        super::remove_unused_constants(graph);
    }
    done.into_iter().collect()
}

/// Adds the nodes that a node stands for; nothing where it has to stay.
type Rule = fn(&mut Speller<'_>) -> Option<()>;

fn rule(node: &NodeProto) -> Option<Rule> {
    let rule: Rule = match (node.domain(), node.op_type()) {
        (DOMAIN, "FusedConv") => products::conv,
        (DOMAIN, "FusedGemm") => products::gemm,
        (DOMAIN, "FusedMatMul") => products::matmul,
        (DOMAIN, "Gelu") => activations::gelu,
        (DOMAIN, "BiasGelu") => activations::bias_gelu,
        (DOMAIN, "FastGelu") => activations::fast_gelu,
        (DOMAIN, "QuickGelu") => activations::quick_gelu,
        (DOMAIN, "SkipLayerNormalization") => norms::skip_layer,
        (DOMAIN, "SkipSimplifiedLayerNormalization") => norms::skip_simplified,
        // ONNX Runtime has it in the standard's domain, where the standard hasn't.
        ("" | "ai.onnx", "SimplifiedLayerNormalization") => norms::simplified,
        (DOMAIN, "EmbedLayerNormalization") => norms::embed,
        (DOMAIN, "Attention") => attention::packed,
        (DOMAIN, "MultiHeadAttention") => attention::multi_head,
        _ => return None,
    };
    Some(rule)
}

/// What a graph tells of its values.
struct Types {
    /// Element type and extents, `None` for those that are open.
    known: HashMap<String, (i32, Option<Vec<Option<i64>>>)>,
    /// Whether the graph has constants of other float types than `f32`.
    mixed: bool,
}

impl Types {
    fn of(graph: &GraphProto) -> Self {
        use crate::onnx::proto::tensor_shape_proto::dimension::Value as Extent;
        let mut known = HashMap::new();
        for info in graph.value_info.iter().chain(&graph.output).chain(&graph.input) {
            let kind = info.r#type.as_ref().and_then(|t| t.value.as_ref());
            let Some(Value::TensorType(tensor)) = kind else { continue };
            let extents = tensor.shape.as_ref().map(|shape| {
                let extent = |value: &Option<Extent>| match value {
                    Some(Extent::DimValue(extent)) => Some(*extent),
                    _ => None,
                };
                shape.dim.iter().map(|dim| extent(&dim.value)).collect()
            });
            known.insert(info.name().to_owned(), (tensor.elem_type(), extents));
        }
        let floats = [Code::Float16, Code::Bfloat16, Code::Double];
        let mut mixed = false;
        let stored = graph.node.iter().filter(|n| n.op_type() == "Constant");
        let stored = stored.filter_map(|n| Some((n.output.first()?.as_str(), n.tensor("value")?)));
        let stored = stored.chain(graph.initializer.iter().map(|t| (t.name(), t)));
        for (name, tensor) in stored {
            let extents = tensor.dims.iter().map(|&d| Some(d)).collect();
            known.insert(name.to_owned(), (tensor.data_type(), Some(extents)));
            mixed |= floats.iter().any(|&code| code as i32 == tensor.data_type());
        }
        Self { known, mixed }
    }
}

/// The nodes and constants that one node becomes.
struct Speller<'a> {
    of: &'a NodeProto,
    opset: i64,
    types: &'a Types,
    names: NameAllocator,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl<'a> Speller<'a> {
    fn new(of: &'a NodeProto, opset: i64, types: &'a Types, names: NameAllocator) -> Self {
        Self { of, opset, types, names, nodes: Vec::new(), constants: Vec::new() }
    }

    /// The name of an input that is there.
    fn input(&self, position: usize) -> Option<String> {
        self.of.input.get(position).filter(|name| !name.is_empty()).cloned()
    }

    /// The name of an output that is there.
    fn output(&self, position: usize) -> Option<String> {
        self.of.output.get(position).filter(|name| !name.is_empty()).cloned()
    }

    /// Nothing unless the node computes in `f32`, as far as its graph tells.
    fn float(&self) -> Option<()> {
        let code = |name: &String| self.types.known.get(name).map(|known| known.0);
        let float = Code::Float as i32;
        let floats = [Code::Float16, Code::Bfloat16, Code::Double];
        let mut known = self.of.input.iter().chain(&self.of.output).filter_map(code);
        let others = known.clone().any(|c| floats.iter().any(|&f| f as i32 == c));
        let one = known.any(|c| c == float);
        (!others && (one || !self.types.mixed)).then_some(())
    }

    /// The extents of a value, where its rank is known.
    fn extents(&self, name: &str) -> Option<&[Option<i64>]> {
        self.types.known.get(name)?.1.as_deref()
    }

    /// The number of a value's axes.
    fn rank(&self, name: &str) -> Option<usize> {
        self.extents(name).map(<[_]>::len)
    }

    fn push(&mut self, op: &str, input: &[&str], output: String, attribute: Vec<AttributeProto>) {
        let name = self.names.fresh(&format!("{}/{}", self.of.label(), op.to_lowercase()));
        self.nodes.push(NodeProto {
            name: Some(name),
            op_type: Some(op.to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output],
            attribute,
            ..NodeProto::default()
        });
    }

    /// Adds a node and returns its output, a new value.
    fn node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = self.names.fresh(&format!("{}/{}/out", self.of.label(), op.to_lowercase()));
        self.push(op, input, output.clone(), attribute);
        output
    }

    /// Adds the node that makes the first output.
    fn last(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>) {
        let output = self.of.output.first().cloned().unwrap_or_default();
        self.push(op, input, output, attribute);
    }

    /// Gives the node added last the name, the notes and the place of the one spelled out: it has its
    /// weight.
    fn name(&mut self) {
        if let Some(node) = self.nodes.last_mut() {
            if self.of.name.as_deref().is_some_and(|name| !name.is_empty()) {
                node.name.clone_from(&self.of.name);
            }
            node.doc_string.clone_from(&self.of.doc_string);
            node.metadata_props.clone_from(&self.of.metadata_props);
        }
    }

    fn constant(&mut self, part: &str, tensor: &Tensor) -> String {
        let name = self.names.fresh(&format!("{}/{part}", self.of.label()));
        self.constants.push(TensorProto::from_tensor(&name, tensor));
        name
    }

    /// A constant of one number and no axes.
    fn scalar(&mut self, value: f32) -> String {
        self.constant("number", &Tensor::scalar(value))
    }

    /// A constant vector of indices or extents.
    fn integers(&mut self, values: &[i64]) -> Option<String> {
        let tensor = Tensor::from_vec(&[values.len()], values.to_vec()).ok()?;
        Some(self.constant("integers", &tensor))
    }

    /// Adds a node that has integers as an attribute before operator set `since`, and as an input from
    /// there on.
    fn with_integers(
        &mut self,
        (op, input): (&str, &str),
        (name, values, since): (&str, &[i64], i64),
        mut attribute: Vec<AttributeProto>,
    ) -> Option<String> {
        if self.opset >= since {
            let values = self.integers(values)?;
            return Some(self.node(op, &[input, &values], attribute));
        }
        attribute.push(AttributeProto::from_ints(name, values));
        Some(self.node(op, &[input], attribute))
    }
}
