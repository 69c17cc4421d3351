//! Factors as ONNX nodes in the place of a layer's node.

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

/// The nodes for a layer's factors. `node` is the layer's own; new names come from `names`.
///
/// # Errors
/// When the factors are not those of this layer.
pub fn replace(
    layer: &Layer,
    node: &NodeProto,
    factors: &Factors,
    names: &mut NameAllocator,
) -> Result<Replacement> {
    let map = layer
        .map
        .as_ref()
        .ok_or_else(|| Error::Plan { reason: format!("`{}` can't be factorized", layer.name) })?;
    let mut builder = Builder { layer, map, node, factors, names, out: Replacement::default() };
    match &map.form {
        Form::Conv(_) => builder.conv()?,
        Form::Gemm { trans_a, beta, free_bias, .. } => builder.gemm(*trans_a, *beta, *free_bias)?,
        Form::GemmLeft { trans_b, beta, .. } => builder.gemm_left(*trans_b, *beta)?,
        Form::MatMulRight => builder.matmul(false)?,
        Form::MatMulLeft => builder.matmul(true)?,
    }
    Ok(builder.out)
}

struct Builder<'a> {
    layer: &'a Layer,
    map: &'a LinearMap,
    node: &'a NodeProto,
    factors: &'a Factors,
    names: &'a mut NameAllocator,
    out: Replacement,
}

/// Names of the factors, the one applied last first, by how many there are.
const PARTS: [&[&str]; 4] = [&[], &["refit"], &["u", "v"], &["u", "core", "v"]];

impl Builder<'_> {
    /// Group by group the `part`-th factor, stacked by rows.
    fn stacked(&self, part: usize) -> Result<(usize, Vec<f32>)> {
        let mut rows = 0;
        let mut elements = Vec::new();
        for group in &self.factors.groups {
            let matrix: &Matrix = group.get(part).ok_or_else(|| self.misfit("too few factors"))?;
            rows += matrix.nrows();
            elements.extend(matrix.iter().map(|&v| v as f32));
        }
        Ok((rows, elements))
    }

    fn misfit(&self, reason: &str) -> Error {
        Error::Plan { reason: format!("factors of `{}`: {reason}", self.layer.name) }
    }

    fn count(&self) -> usize {
        self.factors.groups.first().map_or(0, Vec::len)
    }

    /// Adds a constant and returns its name.
    fn constant(&mut self, suffix: &str, shape: &[usize], elements: Vec<f32>) -> Result<String> {
        let name = self.names.fresh(&format!("{}/{suffix}", self.layer.weight));
        let tensor = Tensor::from_vec(shape, elements).map_err(|e| self.misfit(&e.to_string()))?;
        self.out.constants.push((name.clone(), tensor));
        Ok(name)
    }

    /// The new bias as a constant of this shape; `None` when it is zero throughout.
    fn bias(&mut self, shape: &[usize]) -> Result<Option<String>> {
        if self.factors.bias.iter().all(|&v| v == 0.0) {
            return Ok(None);
        }
        let elements = self.factors.bias.iter().map(|&v| v as f32).collect();
        self.constant("bias", shape, elements).map(Some)
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
            self.names.fresh(&format!("{}/{part}", self.layer.name))
        };
        // The last node keeps the name, its notes and where it runs.
        let base = if last { self.node.clone() } else { NodeProto::default() };
        let name = if last {
            self.node.name.clone()
        } else {
            Some(self.names.fresh(&format!("{}/{part}", self.layer.name)))
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

    fn data(&self) -> String {
        self.node.input.get(self.map.data_input()).cloned().unwrap_or_default()
    }

    fn conv(&mut self) -> Result<()> {
        let kernel = self.map.kernel().to_vec();
        let axes = kernel.len();
        let channels = self.map.columns / self.map.kernel_len();
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
        let parts = self.count();
        if parts != kernels.len() {
            return Err(self.misfit("another number than the scheme has"));
        }
        let names = PARTS[parts];
        let mut value = self.data();
        let mut inputs = channels;
        for part in (0..parts).rev() {
            let (rows, elements) = self.stacked(part)?;
            let mut shape = vec![rows, inputs];
            shape.extend(&kernels[part]);
            let weight = self.constant(names[part], &shape, elements)?;
            let mut input = vec![value, weight];
            if part == 0 {
                input.extend(self.bias(&[self.factors.bias.len()])?);
            }
            let attribute = self.conv_attributes(scheme, &kernels[part], part);
            value = self.push("Conv", names[part], input, attribute, part == 0);
            inputs = rows / self.map.groups;
        }
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
        let parts = self.count();
        let names = PARTS.get(parts).copied().unwrap_or(&[]);
        let mut value = self.data();
        let mut inputs = self.map.columns;
        for part in (0..parts).rev() {
            let (rows, elements) = self.stacked(part)?;
            let weight = self.constant(names[part], &[rows, inputs], elements)?;
            let mut input = vec![value, weight];
            let mut attribute = vec![AttributeProto::from_int("transB", 1)];
            if part + 1 == parts && trans_a {
                attribute.push(AttributeProto::from_int("transA", 1));
            }
            if part == 0 && free_bias {
                input.extend(self.node.input.get(2).cloned());
                attribute.push(AttributeProto::from_float("beta", beta));
            } else if part == 0 {
                input.extend(self.bias(&[self.factors.bias.len()])?);
            }
            value = self.push("Gemm", names[part], input, attribute, part == 0);
            inputs = rows;
        }
        Ok(())
    }

    fn gemm_left(&mut self, trans_b: bool, beta: f32) -> Result<()> {
        let parts = self.count();
        let names = PARTS.get(parts).copied().unwrap_or(&[]);
        let mut value = self.data();
        let mut inputs = self.map.columns;
        for part in (0..parts).rev() {
            let (rows, elements) = self.stacked(part)?;
            let weight = self.constant(names[part], &[rows, inputs], elements)?;
            let mut input = vec![weight, value];
            let mut attribute = Vec::new();
            if part + 1 == parts && trans_b {
                attribute.push(AttributeProto::from_int("transB", 1));
            }
            if part == 0
                && let Some(c) = self.node.input.get(2).filter(|name| !name.is_empty())
            {
                input.push(c.clone());
                attribute.push(AttributeProto::from_float("beta", beta));
            }
            value = self.push("Gemm", names[part], input, attribute, part == 0);
            inputs = rows;
        }
        Ok(())
    }

    fn matmul(&mut self, left: bool) -> Result<()> {
        let parts = self.count();
        let names = PARTS.get(parts).copied().unwrap_or(&[]);
        let mut value = self.data();
        let mut inputs = self.map.columns;
        let outputs = self.factors.bias.len();
        let shape = if left { vec![outputs, 1] } else { vec![outputs] };
        let bias = self.bias(&shape)?;
        for part in (0..parts).rev() {
            let (rows, elements) = self.stacked(part)?;
            let last = part == 0 && bias.is_none();
            let input = if left {
                vec![self.constant(names[part], &[rows, inputs], elements)?, value]
            } else {
                let transposed =
                    (0..inputs * rows).map(|i| elements[i % rows * inputs + i / rows]).collect();
                let weight = self.constant(names[part], &[inputs, rows], transposed)?;
                vec![value, weight]
            };
            value = self.push("MatMul", names[part], input, Vec::new(), last);
            inputs = rows;
        }
        if let Some(bias) = bias {
            self.push("Add", "add", vec![value, bias], Vec::new(), true);
        }
        Ok(())
    }
}
