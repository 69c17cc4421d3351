//! Nodes that the table can't run: tract runs them, each as a model of one node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;
use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec, TractResult,
    TypedRunnableModel,
};

use super::Operator;
use crate::error::OpError;
use crate::onnx::proto::OperatorSetIdProto;
use crate::onnx::{
    GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, to_raw,
};
use crate::tensor::{DataType, Tensor};
use crate::tract::{from_tract, guarded, to_tract};

/// Plans kept per node; more shapes than this start over.
const CACHE: usize = 32;

/// Inputs up to this many elements can be told to tract as constants: shapes, axes, scales.
const PINNED: usize = 64;

/// What a plan was made for: per input its type and shape, and its value where that is built in.
type Key = Vec<Option<(DataType, Vec<usize>, Option<Bytes>)>>;

type Plan = Arc<TypedRunnableModel>;

/// A node that tract runs.
///
/// Models are built on demand, one for each combination of input shapes. Outputs that the node
/// leaves unnamed come back as a scalar zero in their place.
pub struct Foreign {
    node: NodeProto,
    opsets: Vec<OperatorSetIdProto>,
    ir_version: i64,
    /// Names of the inputs: the node's own, then captured values.
    names: Vec<String>,
    constants: Vec<Option<Tensor>>,
    plans: Mutex<HashMap<Key, Plan>>,
    /// Whether a plan could only be made with the values of small inputs built in.
    pins: AtomicBool,
}

impl Foreign {
    /// The operator for `node`. `captured` names the values of the outer graph that its bodies use
    /// (If, Loop, Scan): they follow the node's own inputs in [`Operator::run`]. `constants` has
    /// the value of each input that never changes; it may be shorter than the inputs.
    #[must_use]
    pub fn new(
        node: NodeProto,
        opsets: Vec<OperatorSetIdProto>,
        ir_version: i64,
        constants: &[Option<Tensor>],
        captured: Vec<String>,
    ) -> Self {
        let names: Vec<String> = node.input.iter().cloned().chain(captured).collect();
        let mut constants = constants.to_vec();
        constants.resize(names.len(), None);
        Self {
            node,
            opsets,
            ir_version,
            names,
            constants,
            plans: Mutex::default(),
            pins: AtomicBool::new(false),
        }
    }

    fn key(&self, inputs: &[Option<Tensor>], pins: bool) -> Key {
        let entry = |(i, input): (usize, &Option<Tensor>)| {
            let tensor = input.as_ref().filter(|_| self.constants[i].is_none())?;
            let small = pins && tensor.rank() <= 1 && tensor.len() <= PINNED;
            let value = small.then(|| to_raw(tensor));
            Some((tensor.data_type(), tensor.shape().to_vec(), value))
        };
        inputs.iter().take(self.names.len()).enumerate().map(entry).collect()
    }

    /// The plan for `inputs`, with the key it is kept under.
    fn plan(&self, inputs: &[Option<Tensor>]) -> Result<(Key, Plan), OpError> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fault = None;
        for pins in [false, true] {
            if !pins && self.pins.load(Ordering::Relaxed) {
                continue;
            }
            let key = self.key(inputs, pins);
            if let Some(plan) = plans.get(&key) {
                return Ok((key, Arc::clone(plan)));
            }
            match guarded(|| build(&self.model(inputs, &key))) {
                Ok(plan) => {
                    self.pins.store(pins, Ordering::Relaxed);
                    if plans.len() >= CACHE {
                        plans.clear();
                    }
                    plans.insert(key.clone(), Arc::clone(&plan));
                    return Ok((key, plan));
                }
                // The first fault is about the node as it stands.
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        Err(fault.unwrap_or_else(|| OpError::unsupported("no plan")))
    }

    /// The model of one node: constants and built-in values are initializers, the rest inputs.
    fn model(&self, inputs: &[Option<Tensor>], key: &Key) -> ModelProto {
        let mut graph = GraphProto {
            name: Some("node".to_owned()),
            node: vec![self.node.clone()],
            output: self.outputs().map(|name| named(name, None)).collect(),
            ..GraphProto::default()
        };
        for (i, name) in self.names.iter().enumerate() {
            if name.is_empty() || self.names[..i].contains(name) {
                continue;
            }
            let built_in = key.get(i).and_then(Option::as_ref).is_some_and(|k| k.2.is_some());
            let value = inputs.get(i).and_then(Option::as_ref);
            let constant = self.constants[i].as_ref().or(value.filter(|_| built_in));
            if let Some(constant) = constant {
                graph.initializer.push(TensorProto::from_tensor(name, constant));
            } else if let Some(value) = value {
                graph.input.push(named(name, Some(value)));
            }
        }
        ModelProto {
            ir_version: Some(self.ir_version),
            opset_import: self.opsets.clone(),
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    fn outputs(&self) -> impl Iterator<Item = &String> {
        self.node.output.iter().filter(|name| !name.is_empty())
    }

    /// The inputs the model of `key` is given, in its order.
    fn arguments(&self, inputs: &[Option<Tensor>], key: &Key) -> Result<TVec<TValue>, OpError> {
        let mut arguments = TVec::new();
        for (i, name) in self.names.iter().enumerate() {
            let Some(Some((_, _, None))) = key.get(i) else { continue };
            if name.is_empty() || self.names[..i].contains(name) {
                continue;
            }
            if let Some(tensor) = inputs.get(i).and_then(Option::as_ref) {
                arguments.push(to_tract(tensor)?.into_tvalue());
            }
        }
        Ok(arguments)
    }
}

impl Operator for Foreign {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let (key, plan) = self.plan(inputs)?;
        let arguments = self.arguments(inputs, &key)?;
        let mut results = guarded(|| plan.run(arguments))?.into_iter();
        let one = |name: &String| {
            if name.is_empty() {
                return Ok(Tensor::scalar(0f32));
            }
            let missing = || OpError::unsupported("tract gave too few outputs");
            let value: TValue = results.next().ok_or_else(missing)?;
            from_tract(&value)
        };
        self.node.output.iter().map(one).collect()
    }
}

fn build(model: &ModelProto) -> TractResult<Plan> {
    let bytes = model.encode_to_vec();
    let model = tract_onnx::onnx().model_for_read(&mut bytes.as_slice())?;
    model.into_optimized()?.into_runnable()
}

/// A graph input with the type and shape of `value`, or an output of unknown type.
fn named(name: &str, value: Option<&Tensor>) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: value.map(TypeProto::of_tensor),
        ..ValueInfoProto::default()
    }
}
