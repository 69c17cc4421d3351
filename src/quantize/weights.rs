//! Finds the constants that can be stored in fewer bits.

use std::collections::BTreeMap;

use crate::graph::{self, Constant, Links};
use crate::layer::{Form, LinearMap};
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{
    GraphProto, Model, NodeAttributes, NodeProto, data_type_from_code, data_type_name,
};
use crate::ops::ConvAttributes;
use crate::tensor::DataType;

/// What a constant is to a node that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Kernel of a Conv.
    Conv,
    /// Kernel of a ConvTranspose.
    ConvTranspose,
    /// Second operand of Gemm; whether it is stored transposed.
    GemmRight(bool),
    /// First operand of Gemm; whether it is stored transposed.
    GemmLeft(bool),
    /// Second operand of MatMul.
    MatMulRight,
    /// First operand of MatMul.
    MatMulLeft,
    /// Table of a Gather, looked up along this axis.
    Table(usize),
    /// Weights of the inputs or of the state of LSTM, GRU or RNN, by direction and gate.
    Recurrent,
}

/// One use of a constant by a node that multiplies by it or looks it up.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Index of the node.
    pub node: usize,
    /// What the constant is to it.
    pub role: Role,
}

/// A constant that some node multiplies by or looks up.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Nodes that use it so, in order; never empty.
    pub uses: Vec<Use>,
    /// Whether anything else reads it: another node, a body.
    pub read_elsewhere: bool,
    /// Why it stays as it is.
    pub skip: Option<String>,
}

impl Weight {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The axis along which each position has a scale of its own: that of the outputs, or of the
    /// rows of a table.
    #[must_use]
    pub fn axis(&self) -> usize {
        let rank = self.shape.len();
        match self.uses[0].role {
            Role::Conv | Role::GemmRight(true) | Role::GemmLeft(false) => 0,
            Role::ConvTranspose
            | Role::GemmRight(false)
            | Role::GemmLeft(true)
            | Role::Recurrent => 1,
            Role::MatMulRight => rank - 1,
            Role::MatMulLeft => rank - 2,
            Role::Table(axis) => axis,
        }
    }

    /// The node that alone uses it, with what it is to that node.
    #[must_use]
    pub fn sole_use(&self) -> Option<Use> {
        match self.uses[..] {
            [only] if !self.read_elsewhere => Some(only),
            _ => None,
        }
    }

    /// The linear map that the only node using it computes, where it is a matrix or a kernel;
    /// depthwise convolutions are maps too.
    #[must_use]
    pub fn map(&self, graph: &GraphProto) -> Option<LinearMap> {
        let Use { node, role } = self.sole_use()?;
        let node = &graph.node[node];
        let matrix = |form, rows, columns| {
            (self.shape.len() == 2).then_some(LinearMap {
                form,
                groups: 1,
                rows,
                columns,
                bias: None,
            })
        };
        let pair = |swap: bool| {
            let (a, b) = (self.shape[0], *self.shape.get(1)?);
            Some(if swap { (b, a) } else { (a, b) })
        };
        let (alpha, beta) = (node.float("alpha").unwrap_or(1.0), node.float("beta").unwrap_or(1.0));
        match role {
            Role::Conv => {
                let attributes = ConvAttributes::read(node, &self.shape).ok()?;
                let groups = attributes.groups;
                if groups == 0 || !self.shape[0].is_multiple_of(groups) {
                    return None;
                }
                let rows = self.shape[0] / groups;
                let columns = self.shape[1..].iter().product();
                Some(LinearMap { form: Form::Conv(attributes), groups, rows, columns, bias: None })
            }
            Role::GemmRight(trans_b) => {
                let (rows, columns) = pair(!trans_b)?;
                let trans_a = node.int("transA") == Some(1);
                matrix(
                    Form::Gemm { trans_a, trans_b, alpha, beta, free_bias: false },
                    rows,
                    columns,
                )
            }
            Role::GemmLeft(trans_a) => {
                let (rows, columns) = pair(trans_a)?;
                let trans_b = node.int("transB") == Some(1);
                matrix(Form::GemmLeft { trans_a, trans_b, alpha, beta }, rows, columns)
            }
            Role::MatMulRight => {
                let (rows, columns) = pair(true)?;
                matrix(Form::MatMulRight, rows, columns)
            }
            Role::MatMulLeft => {
                let (rows, columns) = pair(false)?;
                matrix(Form::MatMulLeft, rows, columns)
            }
            Role::ConvTranspose | Role::Table(_) | Role::Recurrent => None,
        }
    }

    /// Whether the map's rows are stored as columns.
    #[must_use]
    pub fn transposed(&self) -> bool {
        matches!(
            self.uses[0].role,
            Role::GemmRight(false) | Role::GemmLeft(true) | Role::MatMulRight
        )
    }
}

/// The constants of the main graph that nodes multiply by or look up, by name.
#[must_use]
pub fn weights(model: &Model) -> Vec<Weight> {
    let graph = model.graph();
    let constants = graph::constants(model);
    let links = Links::new(graph);
    let mut found = Vec::new();
    for (name, constant) in &constants {
        let Some(stored) = constant.proto(graph) else { continue };
        let shape: Vec<usize> =
            stored.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        let consumers = links.consumers(name);
        let mut uses: Vec<Use> = consumers
            .iter()
            .filter_map(|c| {
                let role = role(&graph.node[c.node], c.input, &shape, &constants)?;
                Some(Use { node: c.node, role })
            })
            .collect();
        let direct = uses.len();
        if links.used_in_body(name) {
            uses.extend(in_bodies(graph, name, &shape, &constants));
        }
        if uses.is_empty() || shape.len() < 2 {
            continue;
        }
        let code = stored.data_type();
        let skip = if code != Code::Float as i32 {
            Some(format!("stored as {}", data_type_name(code)))
        } else if links.is_graph_output(name) {
            Some("an output of the model".to_owned())
        } else if shape.contains(&0) {
            Some("empty".to_owned())
        } else {
            None
        };
        found.push(Weight {
            name: name.clone(),
            shape,
            read_elsewhere: consumers.len() > direct || links.used_in_body(name),
            uses,
            skip,
        });
    }
    found
}

/// The uses of a constant of the main graph in bodies, by the node that has the body.
fn in_bodies(
    graph: &GraphProto,
    name: &str,
    shape: &[usize],
    constants: &BTreeMap<String, Constant>,
) -> Vec<Use> {
    let mut found = Vec::new();
    for (index, node) in graph.node.iter().enumerate() {
        for inner in graph::body_nodes(node) {
            let inputs = inner.input.iter().enumerate().filter(|(_, input)| *input == name);
            found.extend(inputs.filter_map(|(position, _)| {
                Some(Use { node: index, role: role(inner, position, shape, constants)? })
            }));
        }
    }
    found
}

fn role(
    node: &NodeProto,
    input: usize,
    shape: &[usize],
    constants: &BTreeMap<String, Constant>,
) -> Option<Role> {
    if !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    let flag = |name: &str| node.int(name) == Some(1);
    // A product of two constants is folded, not run.
    let other = |index: usize| node.input.get(index).is_some_and(|n| !constants.contains_key(n));
    match (node.op_type(), input) {
        ("Conv", 1) if other(0) => Some(Role::Conv),
        ("ConvTranspose", 1) if other(0) => Some(Role::ConvTranspose),
        ("Gemm", 1) if other(0) => Some(Role::GemmRight(flag("transB"))),
        ("Gemm", 0) if other(1) => Some(Role::GemmLeft(flag("transA"))),
        ("MatMul", 1) if other(0) => Some(Role::MatMulRight),
        ("MatMul", 0) if other(1) => Some(Role::MatMulLeft),
        ("LSTM" | "GRU" | "RNN", 1 | 2) if other(0) && shape.len() == 3 => Some(Role::Recurrent),
        ("Gather", 0) if other(1) => {
            let axis = node.int("axis").unwrap_or(0);
            let rank = shape.len() as i64;
            let axis = if axis < 0 { axis + rank } else { axis };
            (0..rank).contains(&axis).then_some(Role::Table(axis as usize))
        }
        _ => None,
    }
}

/// Weights of a model: elements of its float constants and of the integers that stand for floats,
/// scales and zero points apart.
#[must_use]
pub fn params(model: &Model) -> u64 {
    let graph = model.graph();
    let links = Links::new(graph);
    let constants = graph::constants(model);
    let count = |(name, constant): (&String, &Constant)| -> u64 {
        let Some(stored) = constant.proto(graph) else { return 0 };
        let elements = stored.dims.iter().map(|&d| u64::try_from(d).unwrap_or(0)).product();
        let uses = links.consumers(name);
        let code = stored.data_type();
        let float = [DataType::F32, DataType::F64, DataType::F16, DataType::BF16];
        if data_type_from_code(code).is_some_and(|d| float.contains(&d)) {
            // Those that widened integers are multiplied by.
            let widened = |node: &NodeProto, input: usize| {
                node.input.get(1 - input.min(1)).is_some_and(|other| {
                    let cast = links.producer(other).map(|p| &graph.node[p]);
                    let codes =
                        cast.filter(|n| n.op_type() == "Cast").and_then(|n| n.input.first());
                    codes.is_some_and(|codes| is_codes(graph, &links, &constants, codes))
                })
            };
            let scale = |node: &NodeProto, input: usize| match (node.op_type(), input) {
                ("QuantizeLinear" | "DequantizeLinear", 1) | ("MatMulNBits", 2) => true,
                ("Mul", _) => widened(node, input),
                // Of the rows of a table.
                ("Gather", 0) => next(graph, &links, node)
                    .is_some_and(|(n, input)| n.op_type() == "Mul" && widened(n, input)),
                _ => false,
            };
            let scales = uses.iter().all(|u| scale(&graph.node[u.node], u.input));
            return if scales && !uses.is_empty() { 0 } else { elements };
        }
        let codes = |node: &NodeProto, input: usize| match (node.op_type(), input) {
            ("MatMulNBits", 1) => {
                let int = |name| node.int(name).and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
                int("K").saturating_mul(int("N"))
            }
            ("DequantizeLinear", 0) | ("ConvInteger" | "MatMulInteger", 1) => elements,
            ("QLinearConv", 3 | 8) | ("QLinearMatMul", 3) => elements,
            ("Cast", 0) if code == Code::Int8 as i32 => elements,
            ("Gather", 0) if code == Code::Int8 as i32 => match next(graph, &links, node) {
                Some((cast, _)) if cast.op_type() == "Cast" => elements,
                _ => 0,
            },
            ("Cast", 0) if code == Code::Uint8 as i32 => unpacked(graph, &links, &constants, node),
            _ => 0,
        };
        uses.iter().map(|u| codes(&graph.node[u.node], u.input)).max().unwrap_or(0)
    };
    constants.iter().map(count).sum()
}

/// Whether a value is made of int8 codes that are stored, as they are or by a table of levels.
fn is_codes(
    graph: &GraphProto,
    links: &Links,
    constants: &BTreeMap<String, Constant>,
    name: &str,
) -> bool {
    let made = |name: &str, op: &str| -> Option<&NodeProto> {
        links.producer(name).map(|p| &graph.node[p]).filter(|n| n.op_type() == op)
    };
    let table = || {
        let found = made(name, "Reshape").and_then(|reshape| reshape.input.first());
        made(found.map_or(name, String::as_str), "Gather")?.input.first()
    };
    let stored = constants.get(name).or_else(|| constants.get(table()?));
    stored.and_then(|c| c.proto(graph)).is_some_and(|t| t.data_type() == Code::Int8 as i32)
}

/// The only node that reads what a node yields, and as which of its inputs.
fn next<'g>(
    graph: &'g GraphProto,
    links: &Links,
    node: &NodeProto,
) -> Option<(&'g NodeProto, usize)> {
    let consumer = links.sole_consumer(node.output.first()?)?;
    Some((&graph.node[consumer.node], consumer.input))
}

/// Elements of the weight that a table of levels is looked up for, from the node that widens its codes; 0
/// where it is none.
fn unpacked(
    graph: &GraphProto,
    links: &Links,
    constants: &BTreeMap<String, Constant>,
    cast: &NodeProto,
) -> u64 {
    let shape = || {
        let (gather, 1) = next(graph, links, cast)? else { return None };
        let (reshape, 0) = next(graph, links, gather).filter(|_| gather.op_type() == "Gather")?
        else {
            return None;
        };
        let shape = reshape.input.get(1).filter(|_| reshape.op_type() == "Reshape")?;
        constants.get(shape)?.proto(graph)?.to_tensor().ok()?.to_i64_vec("a shape").ok()
    };
    let dims = shape().unwrap_or_else(|| vec![0]);
    dims.iter().map(|&d| u64::try_from(d).unwrap_or(0)).product()
}

/// Bytes that the elements of a model's constants take, whatever they are for.
#[must_use]
pub fn weight_bytes(model: &Model) -> u64 {
    let graph = model.graph();
    let constants = graph::constants(model);
    let stored = constants.values().filter_map(|c| c.proto(graph));
    stored.map(|t| model.tensor_byte_len(t)).sum()
}
