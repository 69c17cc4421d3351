//! Products of integers.

use super::{Edits, cast, node, plan};
use crate::error::Result;
use crate::graph;
use crate::onnx::{Model, TensorProto};
use crate::quantize::stored::StoredWeight;
use crate::quantize::weights::{Role, Weight};
use crate::tensor::Tensor;

impl Edits {
    /// The node as a product of integers: the data quantized by its own range, then scaled back.
    pub fn integer(&mut self, model: &Model, weight: &Weight, stored: &StoredWeight) -> Result<()> {
        let misfit = |reason: &str| plan(&stored.name, reason);
        let graph = model.graph();
        let sole = weight.sole_use().ok_or_else(|| misfit("shared"))?;
        let old = &graph.node[sole.node];
        let conv = match sole.role {
            Role::Conv => true,
            Role::MatMulRight | Role::GemmRight(_) if stored.shape.len() == 2 => false,
            _ => return Err(misfit("its node has no form in integers")),
        };
        let mut codes = stored.codes.0.clone();
        let mut shape = stored.shape.clone();
        if !conv && stored.axis == 0 {
            let (n, k) = (shape[0], shape[1]);
            codes = (0..n * k).map(|at| stored.codes.0[at % n * k + at / n]).collect();
            shape = vec![k, n];
        }
        let codes = Tensor::from_vec(&shape, codes).map_err(|e| misfit(&e.to_string()))?;
        let codes = self.constant("q", TensorProto::from_tensor("", &codes));
        // Outputs of a convolution lie along axis 1.
        let mut column = vec![stored.scales.0.len()];
        if conv {
            column.resize(stored.shape.len() - 1, 1);
        }
        let scales = self.tensor("s", &column, stored.scales.0.clone())?;
        let bias = match old.input.get(2).filter(|name| !name.is_empty()) {
            None => None,
            Some(name) if !conv => Some(name.clone()),
            Some(name) => {
                let Some(Tensor::F32(bias)) = graph::constant_tensor(model, name)? else {
                    return Err(misfit("its bias is not constant"));
                };
                Some(self.tensor("b", &column, bias.iter().copied().collect())?)
            }
        };
        let mut nodes = Vec::new();
        let data = old.input[0].clone();
        let [bytes, scale, zero] = match self.dynamic.get(&data) {
            Some(names) => names.clone(),
            None => {
                let names =
                    ["d", "e", "z"].map(|l| self.names.fresh(&format!("{l}{}", self.count)));
                let mut quantize = node("DynamicQuantizeLinear", vec![data.clone()], &names[0]);
                quantize.output.extend(names[1..].iter().cloned());
                let first = graph.node.iter().position(|n| n.input.contains(&data));
                self.before.entry(first.unwrap_or(sole.node)).or_default().push(quantize);
                self.dynamic.insert(data, names.clone());
                names
            }
        };
        let mut fresh = |letter: &str| self.names.fresh(&format!("{letter}{}", self.count));
        let (sum, wide, step) = (fresh("i"), fresh("f"), fresh("t"));
        let output = old.output.first().cloned().unwrap_or_default();
        let product = if bias.is_some() { fresh("p") } else { output.clone() };
        let op_type = if conv { "ConvInteger" } else { "MatMulInteger" };
        let mut integer = node(op_type, vec![bytes, codes, zero], &sum);
        integer.name.clone_from(&old.name);
        if conv {
            integer.attribute.clone_from(&old.attribute);
        }
        nodes.push(integer);
        nodes.push(cast(sum, &wide));
        nodes.push(node("Mul", vec![scale, scales], &step));
        nodes.push(node("Mul", vec![wide, step], &product));
        if let Some(bias) = bias {
            nodes.push(node("Add", vec![product, bias], &output));
        }
        self.instead.insert(sole.node, nodes);
        Ok(())
    }
}
