//! Small models built node by node.

use onnx_bsr::onnx::proto::{TensorShapeProto, tensor_shape_proto, type_proto};
use onnx_bsr::onnx::{
    AttributeProto, GraphProto, Model, ModelProto, NodeProto, OpsetImport, TensorProto, TypeProto,
    ValueInfoProto,
};
use onnx_bsr::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A graph that grows.
pub struct Builder {
    graph: GraphProto,
    random: ChaCha8Rng,
    opset: i64,
}

impl Builder {
    /// A graph with one float input `x`.
    pub fn new(x: &[usize]) -> Self {
        let mut builder = Self {
            graph: GraphProto { name: Some("graph".to_owned()), ..GraphProto::default() },
            random: ChaCha8Rng::seed_from_u64(x.iter().sum::<usize>() as u64),
            opset: 17,
        };
        builder.input("x", x);
        builder
    }

    /// Another version of the operator set.
    pub fn opset(&mut self, opset: i64) {
        self.opset = opset;
    }

    /// One more float input.
    pub fn input(&mut self, name: &str, shape: &[usize]) {
        self.graph.input.push(value(name, Some(shape)));
    }

    /// A tensor with elements spread over -1 to 1.
    pub fn random(&mut self, shape: &[usize]) -> Tensor {
        let mut real = || self.random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0;
        Tensor::from_vec(shape, (0..shape.iter().product()).map(|_| real()).collect()).unwrap()
    }

    /// An initializer.
    pub fn constant(&mut self, name: &str, tensor: &Tensor) {
        self.graph.initializer.push(TensorProto::from_tensor(name, tensor));
    }

    /// A random initializer.
    pub fn weight(&mut self, name: &str, shape: &[usize]) {
        let tensor = self.random(shape);
        self.constant(name, &tensor);
    }

    /// A node, called as its output.
    pub fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[AttributeProto],
    ) {
        self.graph.node.push(NodeProto {
            name: Some(output.to_owned()),
            op_type: Some(op_type.to_owned()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes.to_vec(),
            ..NodeProto::default()
        });
    }

    /// The model with these outputs.
    pub fn finish(mut self, outputs: &[&str]) -> Model {
        self.graph.output = outputs.iter().map(|name| value(name, None)).collect();
        let opset = OpsetImport { domain: Some(String::new()), version: Some(self.opset) };
        let proto = ModelProto {
            ir_version: Some(8),
            opset_import: vec![opset],
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        Model::from_proto(proto).unwrap()
    }
}

/// A float value; without a shape when that is left open.
fn value(name: &str, shape: Option<&[usize]>) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dimension = |&extent: &usize| Dimension {
        value: Some(dimension::Value::DimValue(extent as i64)),
        denotation: None,
    };
    let shape = shape.map(|s| TensorShapeProto { dim: s.iter().map(dimension).collect() });
    let kind = type_proto::Tensor { elem_type: Some(1), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(kind)), denotation: None };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto::from_int(name, value)
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto::from_ints(name, values)
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto::from_float(name, value)
}
