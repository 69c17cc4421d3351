//! Typed access to the attributes of a node.

use super::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType,
};

/// Attributes of a [`NodeProto`] by name; `None` where the node doesn't carry the attribute.
pub trait NodeAttributes {
    /// The attribute as stored.
    fn attribute(&self, name: &str) -> Option<&AttributeProto>;

    /// An integer.
    fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(AttributeProto::i)
    }

    /// A float.
    fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(AttributeProto::f)
    }

    /// A string; bytes that are not UTF-8 count as absent.
    fn string(&self, name: &str) -> Option<&str> {
        self.attribute(name).and_then(|a| std::str::from_utf8(a.s()).ok())
    }

    /// A list of integers.
    fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    /// A list of floats.
    fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).map(|a| a.floats.as_slice())
    }

    /// A tensor.
    fn tensor(&self, name: &str) -> Option<&TensorProto> {
        self.attribute(name).and_then(|a| a.t.as_ref())
    }

    /// A graph: the body of a control-flow operator.
    fn graph(&self, name: &str) -> Option<&GraphProto> {
        self.attribute(name).and_then(|a| a.g.as_ref())
    }
}

impl NodeAttributes for NodeProto {
    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name() == name)
    }
}

impl AttributeProto {
    /// An integer attribute.
    #[must_use]
    pub fn from_int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::of_type(name, AttributeType::Int) }
    }

    /// An attribute holding a list of integers.
    #[must_use]
    pub fn from_ints(name: &str, values: &[i64]) -> Self {
        Self { ints: values.to_vec(), ..Self::of_type(name, AttributeType::Ints) }
    }

    /// A float attribute.
    #[must_use]
    pub fn from_float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::of_type(name, AttributeType::Float) }
    }

    /// A string attribute.
    #[must_use]
    pub fn from_string(name: &str, value: &str) -> Self {
        Self {
            s: Some(value.to_owned().into_bytes().into()),
            ..Self::of_type(name, AttributeType::String)
        }
    }

    fn of_type(name: &str, kind: AttributeType) -> Self {
        Self { name: Some(name.to_owned()), r#type: Some(kind.into()), ..Self::default() }
    }
}
