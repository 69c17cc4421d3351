//! Values rounded to 8 bits: pairs of QuantizeLinear and DequantizeLinear, and biases at the scale of
//! the products.

use super::{Edits, node, plan};
use crate::error::{Error, Result};
use crate::graph;
use crate::onnx::{AttributeProto, Model, NodeAttributes, TensorProto};
use crate::quantize::activations::is_robust;
use crate::quantize::stored::{Storage, StoredValues, StoredWeight};
use crate::quantize::weights::{Role, Weight};
use crate::tensor::Tensor;

impl Edits {
    /// Rounds values where robust nodes read them.
    pub fn values(&mut self, model: &Model, values: &StoredValues) -> Result<()> {
        let graph = model.graph();
        let count = values.names.len();
        if values.scales.0.len() != count || values.zero_points.len() != count {
            return Err(Error::Plan { reason: "scales of values differ in number".to_owned() });
        }
        for (at, name) in values.names.iter().enumerate() {
            let (scale, zero) = (values.scales.0[at], values.zero_points[at]);
            let made = graph.node.iter().position(|n| n.output.contains(name));
            if made.is_none() && graph.input.iter().all(|i| i.name() != name) {
                return Err(plan(name, "the model has no such value"));
            }
            let zero = match values.signed {
                true => i8::try_from(zero).ok().map(Tensor::scalar),
                false => u8::try_from(zero).ok().map(Tensor::scalar),
            };
            let zero = zero.ok_or_else(|| plan(name, "its zero point is out of range"))?;
            self.count += 1;
            let scale = self.tensor("s", &[], vec![scale])?;
            let zero = self.constant("z", TensorProto::from_tensor("", &zero));
            let codes = self.names.fresh(&format!("d{}", self.count));
            let back = self.names.fresh(&format!("v{}", self.count));
            let parameters = [scale, zero];
            let of = |value: &str| [&[value.to_owned()][..], &parameters].concat();
            let pair = vec![
                node("QuantizeLinear", of(name), &codes),
                node("DequantizeLinear", of(&codes), &back),
            ];
            match made {
                Some(index) => self.behind.entry(index).or_default().extend(pair),
                None => self.before.entry(0).or_default().extend(pair),
            }
            for (index, node) in graph.node.iter().enumerate() {
                if !is_robust(node) || values.float_nodes.iter().any(|n| n == node.label()) {
                    continue;
                }
                for (input, _) in node.input.iter().enumerate().filter(|(_, n)| *n == name) {
                    self.reads.insert((index, input), back.clone());
                }
            }
        }
        Ok(())
    }

    /// Makes biases of products with rounded data int32, at the scale of the products.
    pub fn biases(
        &mut self,
        model: &Model,
        weight: &Weight,
        stored: &StoredWeight,
        values: &StoredValues,
    ) -> Result<()> {
        if stored.storage != Storage::Int8 {
            return Ok(());
        }
        let graph = model.graph();
        for used in &weight.uses {
            let old = &graph.node[used.node];
            let one = |name: &str| old.float(name).is_none_or(|v| v == 1.0);
            let plain = match used.role {
                Role::Conv => true,
                Role::GemmRight(_) => one("alpha") && one("beta"),
                _ => false,
            };
            let rounded = self.reads.contains_key(&(used.node, 0));
            let (Some(name), true) = (old.input.get(2), plain && rounded) else { continue };
            let Some(data) = values.names.iter().position(|n| *n == old.input[0]) else { continue };
            let Some(Tensor::F32(bias)) = graph::constant_tensor(model, name)? else { continue };
            if bias.shape() != [stored.scales.0.len()] {
                continue;
            }
            let step = values.scales.0[data];
            let scales: Vec<f32> = stored.scales.0.iter().map(|s| step * s).collect();
            let codes = bias.iter().zip(&scales).map(|(&b, &s)| {
                let code = (f64::from(b) / f64::from(s)).round_ties_even();
                // Beyond this a sum with products might overflow.
                (code.abs() < f64::from(1 << 30)).then_some(code as i32)
            });
            // A bias that doesn't fit stays float.
            let Some(codes) = codes.collect::<Option<Vec<i32>>>() else { continue };
            self.count += 1;
            let count = codes.len();
            let codes =
                Tensor::from_vec(&[count], codes).map_err(|e| plan(name, &e.to_string()))?;
            let codes = self.constant("b", TensorProto::from_tensor("", &codes));
            let scales = self.tensor("s", &[count], scales)?;
            let back = self.names.fresh(&format!("c{}", self.count));
            let mut dequantize = node("DequantizeLinear", vec![codes, scales], &back);
            dequantize.attribute.push(AttributeProto::from_int("axis", 0));
            self.before.entry(used.node).or_default().push(dequantize);
            self.reads.insert((used.node, 2), back);
        }
        Ok(())
    }
}
