//! Four bits in any operator set: two codes a byte, and a table that gives their levels.
//!
//! Runtimes that fold what is constant look them up once, when the model is loaded.

use super::{Edits, cast, node, plan};
use crate::error::Result;
use crate::onnx::proto::tensor_proto::DataType as Code;
use crate::onnx::{AttributeProto, GraphProto, TensorProto};
use crate::quantize::opset::PER_AXIS;
use crate::quantize::stored::StoredWeight;
use crate::tensor::Tensor;

impl Edits {
    /// The weight as the nodes that unpack it: `Cast`, `Gather`, `Reshape`, and what int8 weights have.
    pub fn packed(&mut self, graph: &GraphProto, stored: &StoredWeight) -> Result<()> {
        let misfit = |e: crate::error::OpError| plan(&stored.name, &e.to_string());
        let table = match &self.table {
            Some(name) => name.clone(),
            None => {
                let levels = (0..256).flat_map(|byte| [byte % 16 - 8, byte / 16 - 8]);
                let levels = levels.map(|level: i32| level as i8).collect();
                let levels = Tensor::from_vec(&[256, 2], levels).map_err(misfit)?;
                let name = self.constant("t", TensorProto::from_tensor("", &levels));
                self.table.insert(name).clone()
            }
        };
        let nibble = |code: i8| code.wrapping_add(8).cast_unsigned() & 15;
        let pairs = stored.codes.0.chunks_exact(2);
        let bytes: Vec<u8> = pairs.map(|pair| nibble(pair[0]) | nibble(pair[1]) << 4).collect();
        let count = bytes.len();
        let bytes = Tensor::from_vec(&[count], bytes).map_err(misfit)?;
        let bytes = self.constant("q", TensorProto::from_tensor("", &bytes));
        let mut fresh = |letter: &str| self.names.fresh(&format!("{letter}{}", self.count));
        let (indices, pairs, codes) = (fresh("i"), fresh("p"), fresh("r"));
        let mut widen = cast(bytes, &indices);
        widen.attribute.clear();
        widen.attribute.push(AttributeProto::from_int("to", Code::Int32 as i64));
        let mut nodes = vec![widen, node("Gather", vec![table, indices], &pairs)];
        let shape: Vec<i64> = stored.shape.iter().map(|&d| d as i64).collect();
        let shape = Tensor::from_vec(&[shape.len()], shape).map_err(misfit)?;
        let shape = self.constant("h", TensorProto::from_tensor("", &shape));
        nodes.push(node("Reshape", vec![pairs, shape], &codes));
        let scales = stored.scales.0.clone();
        if self.version >= PER_AXIS {
            let scale = self.tensor("s", &[scales.len()], scales)?;
            let mut dequantize = node("DequantizeLinear", vec![codes, scale], &stored.name);
            if stored.axis != 1 {
                dequantize.attribute.push(AttributeProto::from_int("axis", stored.axis as i64));
            }
            nodes.push(dequantize);
        } else {
            let scale = self.tensor("s", &stored.column(), scales)?;
            let wide = self.names.fresh(&format!("w{}", self.count));
            nodes.push(cast(codes, &wide));
            nodes.push(node("Mul", vec![wide, scale], &stored.name));
        }
        self.put(graph, &stored.name, nodes);
        Ok(())
    }
}
