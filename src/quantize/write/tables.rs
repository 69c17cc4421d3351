//! Tables whose rows are looked up: what is stored is looked up, and floats are made of the rows alone.

use super::{Edits, cast, node, plan};
use crate::error::Result;
use crate::onnx::{GraphProto, NodeProto, TensorProto};
use crate::quantize::stored::{Storage, StoredWeight};
use crate::quantize::weights::{Role, Weight};
use crate::tensor::Tensor;

/// Whether all that reads a weight looks up rows of it, each of which has a scale of its own.
pub fn is_looked_up(graph: &GraphProto, weight: &Weight, stored: &StoredWeight) -> bool {
    let by_rows = weight.uses.iter().all(|used| used.role == Role::Table(0));
    let scaled = stored.storage == Storage::Fp16 || stored.axis == 0;
    let shown = graph.output.iter().any(|output| output.name() == weight.name);
    by_rows && scaled && !weight.read_elsewhere && !shown
}

impl Edits {
    /// Eight bits: codes and scales are looked up, the codes are made floats and multiplied.
    pub fn rows_of_codes(
        &mut self,
        graph: &GraphProto,
        weight: &Weight,
        stored: &StoredWeight,
    ) -> Result<()> {
        let codes = Tensor::from_vec(&stored.shape, stored.codes.0.clone())
            .map_err(|e| plan(&stored.name, &e.to_string()))?;
        let codes = self.constant("q", TensorProto::from_tensor("", &codes));
        let scales = self.tensor("s", &stored.column(), stored.scales.0.clone())?;
        for used in &weight.uses {
            let old = &graph.node[used.node];
            let mut fresh = |letter: &str| self.names.fresh(&format!("{letter}{}", self.count));
            let (found, wide, scale) = (fresh("c"), fresh("w"), fresh("f"));
            let output = old.output.first().map_or("", String::as_str);
            let nodes = vec![
                lookup(old, &codes, &found),
                cast(found, &wide),
                NodeProto { name: None, ..lookup(old, &scales, &scale) },
                node("Mul", vec![wide, scale], output),
            ];
            self.instead.insert(used.node, nodes);
        }
        Ok(())
    }

    /// Half floats: rows are looked up and widened.
    pub fn rows_of_halves(&mut self, graph: &GraphProto, weight: &Weight, halves: &str) {
        for used in &weight.uses {
            let old = &graph.node[used.node];
            let found = self.names.fresh(&format!("c{}", self.count));
            let output = old.output.first().map_or("", String::as_str);
            let nodes = vec![lookup(old, halves, &found), cast(found, output)];
            self.instead.insert(used.node, nodes);
        }
    }
}

/// The Gather with another table.
fn lookup(old: &NodeProto, table: &str, output: &str) -> NodeProto {
    let mut new = old.clone();
    if let Some(input) = new.input.first_mut() {
        table.clone_into(input);
    }
    new.output = vec![output.to_owned()];
    new
}
