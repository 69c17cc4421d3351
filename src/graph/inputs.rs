//! What a model asks for.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::onnx::proto::{tensor_shape_proto::dimension, type_proto};
use crate::onnx::{Model, ValueInfoProto, data_type_from_code, data_type_name};
use crate::tensor::DataType;

/// An input of a model, axis 0 being the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Name of the input.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Extent of every axis; `None` where it is symbolic or not stated.
    pub shape: Vec<Option<usize>>,
}

impl InputSpec {
    /// Type and shape for messages, like `F32 [N, 3, 32, ?]`.
    pub(crate) fn text(&self) -> String {
        let open = || "?".to_owned();
        let dims = self.shape.iter().skip(1).map(|d| d.map_or_else(open, |d| d.to_string()));
        let dims: Vec<String> =
            self.shape.iter().take(1).map(|_| "N".to_owned()).chain(dims).collect();
        format!("{:?} [{}]", self.data_type, dims.join(", "))
    }
}

/// The inputs of the model's graph in order, those that have an initializer apart.
///
/// # Errors
/// When an input is not a tensor of a type this crate holds, or has no shape.
pub fn inputs(model: &Model) -> Result<Vec<InputSpec>> {
    let graph = model.graph();
    graph
        .input
        .iter()
        .filter(|input| graph.initializer.iter().all(|t| t.name() != input.name()))
        .map(spec)
        .collect()
}

fn spec(input: &ValueInfoProto) -> Result<InputSpec> {
    let unsupported = |what: String| Error::UnsupportedModel {
        reason: format!("input `{}` {what}", input.name()),
    };
    let kind = input.r#type.as_ref().and_then(|t| t.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = kind else {
        return Err(unsupported("is not a tensor".to_owned()));
    };
    let data_type = data_type_from_code(tensor.elem_type()).ok_or_else(|| {
        unsupported(format!("has element type {}", data_type_name(tensor.elem_type())))
    })?;
    let shape = tensor.shape.as_ref().ok_or_else(|| unsupported("has no shape".to_owned()))?;
    let shape = shape
        .dim
        .iter()
        .map(|dim| match dim.value {
            Some(dimension::Value::DimValue(value)) => usize::try_from(value).ok(),
            _ => None,
        })
        .collect();
    Ok(InputSpec { name: input.name().to_owned(), data_type, shape })
}

/// Has every input that leaves its batch open take one sample at a time. Returns the names of these
/// inputs with what was there, for [`restore_batch`].
pub fn pin_batch(model: &mut Model) -> Vec<(String, Option<dimension::Value>)> {
    let graph = model.graph_mut();
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let mut pinned = Vec::new();
    for input in graph.input.iter_mut().filter(|i| !constants.contains(i.name())) {
        let name = input.name().to_owned();
        if let Some(value) = batch_of(input)
            && !matches!(value, Some(dimension::Value::DimValue(n)) if *n >= 0)
        {
            pinned.push((name, value.replace(dimension::Value::DimValue(1))));
        }
    }
    pinned
}

/// Undoes [`pin_batch`].
pub fn restore_batch(model: &mut Model, pinned: &[(String, Option<dimension::Value>)]) {
    for input in &mut model.graph_mut().input {
        let before = pinned.iter().find(|(name, _)| name == input.name());
        if let (Some((_, before)), Some(value)) = (before, batch_of(input)) {
            value.clone_from(before);
        }
    }
}

/// The extent of an input's first axis.
fn batch_of(input: &mut ValueInfoProto) -> Option<&mut Option<dimension::Value>> {
    match input.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(tensor) => {
            tensor.shape.as_mut()?.dim.first_mut().map(|dim| &mut dim.value)
        }
        _ => None,
    }
}

/// The outputs of the model's graph whose type is known to be a tensor's; where the model states no
/// shape, that is empty.
#[must_use]
pub fn outputs(model: &Model) -> Vec<InputSpec> {
    model.graph().output.iter().filter_map(|output| spec(output).ok()).collect()
}
