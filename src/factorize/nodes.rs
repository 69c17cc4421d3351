//! Factors as ONNX nodes in the place of a layer's node.

use ndarray::{Array2, ArrayView2, Axis, concatenate};

use super::{Factors, Scheme};
use crate::error::{Error, Result};
use crate::graph::NameAllocator;
use crate::layer::{Form, Layer, LinearMap};
use crate::linalg::Matrix;
use crate::onnx::{AttributeProto, NodeProto};
use crate::tensor::Tensor;

/// Nodes that compute what a layer's node did, and the constants they read.
#[derive(Clone, Debug, Default)]
pub struct Replacement {
    /// The nodes in order; the last one has the replaced node's output.
    pub nodes: Vec<NodeProto>,
    /// New constants by name.
    pub constants: Vec<(String, Tensor)>,
    /// Which of them is the layer's new bias.
    pub bias: Option<String>,
}

impl Replacement {
    /// Gives every Gemm without a third input one that adds nothing: operator sets before 11 want
    /// it.
    pub fn complete_gemm(&mut self, names: &mut NameAllocator) {
        for node in self.nodes.iter_mut().filter(|n| n.op_type() == "Gemm" && n.input.len() == 2) {
            let name = names.fresh(&format!("{}/zero", node.label()));
            node.input.push(name.clone());
            self.constants.push((name, Tensor::scalar(0.0f32)));
        }
    }
}

/// What takes the place of every node of a layer, in the order of [`Layer::uses`]; the nodes are among
/// `nodes`, those of the graph. The first replacement has the constants, which all of them read. New
/// names come from `names`.
///
/// # Errors
/// When the factors are not those of this layer.
pub fn replace(
    layer: &Layer,
    nodes: &[NodeProto],
    factors: &Factors,
    names: &mut NameAllocator,
) -> Result<Vec<Replacement>> {
    let mut made = Vec::new();
    let mut known = Vec::new();
    for (at, map) in layer.uses() {
        let node = nodes.get(at).ok_or_else(|| Error::Plan {
            reason: format!("there is no node {at}, which `{}` is to be", layer.name),
        })?;
        made.push(replace_node(layer, map, node, factors, &mut known, names)?);
    }
    if made.is_empty() {
        return Err(Error::Plan { reason: format!("`{}` can't be factorized", layer.name) });
    }
    Ok(made)
}

/// What takes the place of one node of a layer, where it applies the weight as `map`. `known` has the
/// names of the layer's constants by what they are called after, and gets those that are made.
fn replace_node(
    layer: &Layer,
    map: &LinearMap,
    node: &NodeProto,
    factors: &Factors,
    known: &mut Vec<(String, String)>,
    names: &mut NameAllocator,
) -> Result<Replacement> {
    let name = node.label().to_owned();
    let out = Replacement::default();
    let mut builder = Builder { layer, name, map, node, factors, known, names, out };
    match &map.form {
        Form::Conv(_) => builder.conv()?,
        Form::ConvTranspose { attributes, .. } => builder.transposed(&attributes.kernel)?,
        Form::Gemm { trans_a, beta, free_bias, .. } => builder.gemm(*trans_a, *beta, *free_bias)?,
        Form::GemmLeft { trans_b, beta, .. } => builder.gemm_left(*trans_b, *beta)?,
        Form::MatMulRight => builder.matmul(false)?,
        Form::MatMulLeft => builder.matmul(true)?,
        Form::Table => builder.table()?,
    }
    Ok(builder.out)
}

struct Builder<'a> {
    layer: &'a Layer,
    /// The node's name, or its first output where it has none.
    name: String,
    map: &'a LinearMap,
    node: &'a NodeProto,
    factors: &'a Factors,
    known: &'a mut Vec<(String, String)>,
    names: &'a mut NameAllocator,
    out: Replacement,
}

/// Names of the factors, the one applied last first, by how many there are.
const PARTS: [&[&str]; 4] = [&[], &["refit"], &["u", "v"], &["u", "core", "v"]];

/// A factor of all groups.
struct Part {
    /// Position among the factors: 0 is applied last.
    index: usize,
    /// What its constant and its node are called after.
    name: &'static str,
    /// Group by group, stacked by rows.
    matrix: Array2<f32>,
    /// Whether it is applied to the layer's data.
    first: bool,
    /// Whether it is applied last.
    last: bool,
}

impl Builder<'_> {
    /// Applies the factors to the layer's data one after another: `apply` adds the node of one and
    /// returns its output, given its input.
    fn chain(
        &mut self,
        mut apply: impl FnMut(&mut Self, Part, String) -> Result<String>,
    ) -> Result<String> {
        let count = self.factors.groups.first().map_or(0, Vec::len);
        let names = *PARTS.get(count).ok_or_else(|| self.misfit("too many"))?;
        let mut value = self.node.input.get(self.map.data_input()).cloned().unwrap_or_default();
        for (index, name) in names.iter().enumerate().rev() {
            let matrix = self.stacked(index)?;
            let (first, last) = (index + 1 == count, index == 0);
            value = apply(self, Part { index, name, matrix, first, last }, value)?;
        }
        Ok(value)
    }

    /// Group by group the `index`-th factor, stacked by rows.
    fn stacked(&self, index: usize) -> Result<Array2<f32>> {
        let factor = |group: &'_ Vec<Matrix>| group.get(index).map(|m| m.mapv(|v| v as f32));
        let groups: Option<Vec<Array2<f32>>> = self.factors.groups.iter().map(factor).collect();
        let groups = groups.ok_or_else(|| self.misfit("another number in some groups"))?;
        let views: Vec<_> = groups.iter().map(|m| m.view()).collect();
        concatenate(Axis(0), &views).map_err(|e| self.misfit(&e.to_string()))
    }

    fn misfit(&self, reason: &str) -> Error {
        Error::Plan { reason: format!("factors of `{}`: {reason}", self.layer.name) }
    }

    /// Adds a constant of the elements in row-major order, unless another node of the layer has it
    /// already, and returns its name.
    fn constant(&mut self, suffix: &str, shape: &[usize], elements: Vec<f32>) -> Result<String> {
        if let Some((_, name)) = self.known.iter().find(|(known, _)| known == suffix) {
            return Ok(name.clone());
        }
        let name = self.names.fresh(&format!("{}/{suffix}", self.layer.weight));
        let tensor = Tensor::from_vec(shape, elements).map_err(|e| self.misfit(&e.to_string()))?;
        self.out.constants.push((name.clone(), tensor));
        self.known.push((suffix.to_owned(), name.clone()));
        Ok(name)
    }

    /// Adds a matrix as a constant and returns its name.
    fn matrix(&mut self, name: &str, matrix: ArrayView2<'_, f32>) -> Result<String> {
        self.constant(name, matrix.shape(), matrix.iter().copied().collect())
    }

    /// The new bias as a constant of this shape; `None` when it is zero throughout.
    fn bias(&mut self, shape: &[usize]) -> Result<Option<String>> {
        if self.factors.bias.iter().all(|&v| v == 0.0) {
            return Ok(None);
        }
        let elements = self.factors.bias.iter().map(|&v| v as f32).collect();
        self.out.bias = Some(self.constant("bias", shape, elements)?);
        Ok(self.out.bias.clone())
    }

    /// Adds a node; the last one, as `last` says, takes over the layer's output.
    fn push(
        &mut self,
        op_type: &str,
        part: &str,
        input: Vec<String>,
        attribute: Vec<AttributeProto>,
        last: bool,
    ) -> String {
        let output = if last {
            self.node.output.first().cloned().unwrap_or_default()
        } else {
            self.names.fresh(&format!("{}/{part}", self.name))
        };
        // The last node keeps the name, its notes and where it runs.
        let base = if last { self.node.clone() } else { NodeProto::default() };
        let name = if last {
            self.node.name.clone()
        } else {
            Some(self.names.fresh(&format!("{}/{part}", self.name)))
        };
        self.out.nodes.push(NodeProto {
            name,
            op_type: Some(op_type.to_owned()),
            domain: self.node.domain.clone(),
            overload: None,
            input,
            output: vec![output.clone()],
            attribute,
            ..base
        });
        output
    }

    fn conv(&mut self) -> Result<()> {
        let kernel = self.map.kernel().to_vec();
        let axes = kernel.len();
        let ones = vec![1; axes];
        let scheme = self.factors.choice.map(|c| c.scheme);
        // Kernel of each factor, the one applied last first.
        let kernels: Vec<Vec<usize>> = match scheme {
            None => vec![kernel],
            Some(Scheme::ChannelIn) => vec![kernel, ones],
            Some(Scheme::Tucker) => vec![ones.clone(), kernel, ones],
            Some(Scheme::Spatial) if axes == 2 => vec![vec![1, kernel[1]], vec![kernel[0], 1]],
            Some(Scheme::ChannelOut) => vec![ones, kernel],
            Some(other) => return Err(self.misfit(&format!("a convolution has no scheme {other}"))),
        };
        if self.factors.groups.iter().any(|factors| factors.len() != kernels.len()) {
            return Err(self.misfit("another number than the scheme has"));
        }
        let groups = self.map.groups;
        let mut inputs = self.map.columns / self.map.kernel_len();
        self.chain(|this, part, value| {
            let rows = part.matrix.nrows();
            let kernel = &kernels[part.index];
            let shape: Vec<usize> = [rows, inputs].iter().chain(kernel).copied().collect();
            let weight = this.constant(part.name, &shape, part.matrix.into_iter().collect())?;
            let mut input = vec![value, weight];
            if part.last {
                input.extend(this.bias(&[this.factors.bias.len()])?);
            }
            let attribute = this.conv_attributes(scheme, kernel, part.index);
            inputs = rows / groups;
            Ok(this.push("Conv", part.name, input, attribute, part.last))
        })?;
        Ok(())
    }

    /// A 1 x 1 convolution before or after a transposed one, or that alone.
    fn transposed(&mut self, kernel: &[usize]) -> Result<()> {
        let (kernel, axes) = (kernel.to_vec(), kernel.len());
        let groups = self.map.groups;
        match (self.factors.choice.map(|c| c.scheme), self.factors.groups.first().map(Vec::len)) {
            (None, Some(1)) | (Some(Scheme::ChannelIn), Some(2)) => {}
            (Some(Scheme::ChannelOut), Some(2)) if self.map.spread() > 1 => {}
            _ => return Err(self.misfit("a transposed convolution has no such scheme")),
        }
        self.chain(|this, part, value| {
            let inner = this.factors.is_transposed(part.index);
            let per_group = part.matrix.nrows() / groups;
            let columns = part.matrix.ncols();
            let (shape, elements): (Vec<usize>, Vec<f32>) = if inner {
                // Stored inputs first.
                let mut elements = Vec::with_capacity(part.matrix.len());
                for rows in part.matrix.axis_chunks_iter(Axis(0), per_group.max(1)) {
                    elements.extend(rows.t().iter().copied());
                }
                let outputs = per_group / this.map.spread();
                let shape = [groups * columns, outputs].into_iter().chain(kernel.iter().copied());
                (shape.collect(), elements)
            } else {
                let shape = [part.matrix.nrows(), columns].into_iter();
                (shape.chain(vec![1; axes]).collect(), part.matrix.into_iter().collect())
            };
            let weight = this.constant(part.name, &shape, elements)?;
            let mut input = vec![value, weight];
            if part.last {
                let bias = this.node.input.get(2).filter(|name| !name.is_empty());
                input.extend(bias.cloned());
            }
            let (op, attribute) = if inner {
                ("ConvTranspose", this.node.attribute.clone())
            } else {
                let ones = vec![1; axes];
                let group = AttributeProto::from_int("group", groups as i64);
                ("Conv", vec![AttributeProto::from_ints("kernel_shape", &ones), group])
            };
            Ok(this.push(op, part.name, input, attribute, part.last))
        })?;
        Ok(())
    }

    /// The original attributes restricted to the axes along which this factor's kernel extends:
    /// all of them for a full kernel, none for 1 x 1.
    fn conv_attributes(
        &self,
        scheme: Option<Scheme>,
        kernel: &[usize],
        part: usize,
    ) -> Vec<AttributeProto> {
        let axes = kernel.len();
        // Which axes' stride, padding and dilation this factor carries.
        let carries: Vec<bool> = match scheme {
            None => vec![true; axes],
            Some(Scheme::Spatial) => (0..axes).map(|axis| (axis == 0) == (part == 1)).collect(),
            // A 1 x 1 layer has one kernel everywhere: its strides go first.
            Some(Scheme::ChannelOut) => vec![part == 1; axes],
            Some(Scheme::ChannelIn) => vec![part == 0; axes],
            Some(_) => vec![part == 1; axes],
        };
        let mut attributes = Vec::new();
        for attribute in &self.node.attribute {
            let name = attribute.name();
            let keep = |default: i64| -> Vec<i64> {
                let pick = |(i, &v): (usize, &i64)| if carries[i % axes] { v } else { default };
                attribute.ints.iter().enumerate().map(pick).collect()
            };
            match name {
                "kernel_shape" => {}
                "strides" | "dilations" => {
                    attributes.push(AttributeProto::from_ints(name, &keep(1)));
                }
                "pads" => attributes.push(AttributeProto::from_ints(name, &keep(0))),
                "auto_pad" if carries.iter().all(|c| !c) => {}
                // Automatic padding of an axis depends on that axis alone.
                _ => attributes.push(attribute.clone()),
            }
        }
        let kernel: Vec<i64> = kernel.iter().map(|&k| k as i64).collect();
        attributes.push(AttributeProto::from_ints("kernel_shape", &kernel));
        attributes
    }

    fn gemm(&mut self, trans_a: bool, beta: f32, free_bias: bool) -> Result<()> {
        self.chain(|this, part, value| {
            let weight = this.matrix(part.name, part.matrix.view())?;
            let mut input = vec![value, weight];
            let mut attribute = vec![AttributeProto::from_int("transB", 1)];
            if part.first && trans_a {
                attribute.push(AttributeProto::from_int("transA", 1));
            }
            if part.last && free_bias {
                input.extend(this.node.input.get(2).cloned());
                attribute.push(AttributeProto::from_float("beta", beta));
            } else if part.last {
                input.extend(this.bias(&[this.factors.bias.len()])?);
            }
            Ok(this.push("Gemm", part.name, input, attribute, part.last))
        })?;
        Ok(())
    }

    fn gemm_left(&mut self, trans_b: bool, beta: f32) -> Result<()> {
        self.chain(|this, part, value| {
            let mut input = vec![this.matrix(part.name, part.matrix.view())?, value];
            let mut attribute = Vec::new();
            if part.first && trans_b {
                attribute.push(AttributeProto::from_int("transB", 1));
            }
            let c = this.node.input.get(2).filter(|name| part.last && !name.is_empty());
            if let Some(c) = c {
                input.push(c.clone());
                attribute.push(AttributeProto::from_float("beta", beta));
            }
            Ok(this.push("Gemm", part.name, input, attribute, part.last))
        })?;
        Ok(())
    }

    /// A narrower table, and the product of its rows.
    fn table(&mut self) -> Result<()> {
        let attribute = self.node.attribute.clone();
        self.chain(|this, part, value| {
            let weight = this.matrix(part.name, part.matrix.t())?;
            Ok(if part.first {
                this.push("Gather", part.name, vec![weight, value], attribute.clone(), part.last)
            } else {
                this.push("MatMul", part.name, vec![value, weight], Vec::new(), part.last)
            })
        })?;
        Ok(())
    }

    fn matmul(&mut self, left: bool) -> Result<()> {
        let outputs = self.factors.bias.len();
        let shape = if left { vec![outputs, 1] } else { vec![outputs] };
        let bias = self.bias(&shape)?;
        let alone = bias.is_none();
        let product = self.chain(|this, part, value| {
            let input = if left {
                vec![this.matrix(part.name, part.matrix.view())?, value]
            } else {
                let weight = this.matrix(part.name, part.matrix.t())?;
                vec![value, weight]
            };
            Ok(this.push("MatMul", part.name, input, Vec::new(), part.last && alone))
        })?;
        if let Some(bias) = bias {
            self.push("Add", "add", vec![product, bias], Vec::new(), true);
        }
        Ok(())
    }
}
