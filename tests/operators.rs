//! Every operator against the outputs that onnx expects: `fixtures/make_operator_cases.py` says
//! where the cases come from.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod cases;

use std::collections::BTreeSet;

use cases::{Case, cases};
use onnx_bsr::error::OpError;
use onnx_bsr::onnx::{NodeAttributes, NodeProto};
use onnx_bsr::ops::{self, Decoding, Foreign, Operator};
use onnx_bsr::tensor::Tensor;

trait Check {
    fn run(&self) -> Option<Result<Vec<Tensor>, OpError>>;
    fn foreign(&self) -> Foreign;
    fn difference(&self, given: &[Tensor]) -> Option<String>;
}

impl Check for Case {
    /// What the table makes of the case; `None` where it lacks the operator.
    fn run(&self) -> Option<Result<Vec<Tensor>, OpError>> {
        let constants = self.constants();
        let decoding = Decoding { node: self.node(), opset: self.opset(), constants: &constants };
        let run = |operator: Box<dyn Operator>| operator.run(&mut self.values());
        Some(ops::decode(&decoding)?.and_then(run))
    }

    fn foreign(&self) -> Foreign {
        let opsets = self.model.opset_import.clone();
        let version = self.model.ir_version();
        Foreign::new(self.node().clone(), opsets, version, &self.constants(), Vec::new())
    }

    /// What differs between `given` and the expected outputs.
    fn difference(&self, given: &[Tensor]) -> Option<String> {
        let wanted = &self.outputs;
        if given.len() != self.node().output.len() {
            return Some(format!("{} outputs, not {}", given.len(), self.node().output.len()));
        }
        let named = given.iter().zip(&self.node().output).filter(|(_, name)| !name.is_empty());
        named.zip(wanted).find_map(|((given, _), wanted)| difference(given, wanted))
    }
}

/// What differs between two tensors: floats may be off by 1e-4 relatively or 1e-5 absolutely.
fn difference(given: &Tensor, wanted: &Tensor) -> Option<String> {
    if given.data_type() != wanted.data_type() {
        return Some(format!("type {:?}, not {:?}", given.data_type(), wanted.data_type()));
    }
    if given.shape() != wanted.shape() {
        return Some(format!("shape {:?}, not {:?}", given.shape(), wanted.shape()));
    }
    let exact =
        !matches!(given, Tensor::F32(_) | Tensor::F64(_) | Tensor::F16(_) | Tensor::BF16(_));
    let close = |x: f64, y: f64| {
        x == y
            || (x.is_nan() && y.is_nan())
            || (!exact && y.is_finite() && (x - y).abs() <= 1e-5 + 1e-4 * y.abs())
    };
    let (given, wanted) = (given.to_f64_vec(), wanted.to_f64_vec());
    let at = given.iter().zip(&wanted).position(|(&x, &y)| !close(x, y))?;
    Some(format!("element {at} is {}, not {}", given[at], wanted[at]))
}

/// Uses of an operator that are left to another runtime: parts of the reason given.
/// Names of the operators of `ai.onnx`.
fn standard() -> impl Iterator<Item = &'static str> {
    ops::TABLE.iter().filter(|e| e.domain.is_empty()).map(|e| e.op_type)
}

const LEFT_OUT: &[&str] = &["MaxPool with indices", "antialiasing", "operator set 1"];

#[test]
fn operators_give_what_onnx_expects() {
    let (mut passed, mut failed, mut refused) = (BTreeSet::new(), Vec::new(), Vec::new());
    let cases = cases();
    for case in &cases {
        match case.run() {
            None => {}
            Some(Ok(outputs)) => match case.difference(&outputs) {
                None => {
                    passed.insert(case.node().op_type().to_owned());
                }
                Some(difference) => failed.push(format!("{}: {difference}", case.name)),
            },
            Some(Err(error @ (OpError::Unsupported { .. } | OpError::DataType { .. }))) => {
                refused.push(format!("{}: {error}", case.name));
            }
            Some(Err(error)) => failed.push(format!("{}: {error}", case.name)),
        }
    }
    println!("{} cases, {} left to another runtime:", cases.len(), refused.len());
    refused.iter().for_each(|line| println!("  {line}"));
    assert!(failed.is_empty(), "{} cases fail:\n{}", failed.len(), failed.join("\n"));
    let unexpected: Vec<_> =
        refused.iter().filter(|r| !LEFT_OUT.iter().any(|text| r.contains(text))).collect();
    assert!(unexpected.is_empty(), "refused without a reason to: {unexpected:#?}");
    let untested: Vec<_> = standard().filter(|op| !passed.contains(*op)).collect();
    assert!(untested.is_empty(), "no passing case for {untested:?}");
}

#[test]
fn tract_runs_what_the_table_lacks() {
    let mut ran = BTreeSet::new();
    for case in cases() {
        let op = case.node().op_type();
        if !matches!(op, "LSTM" | "ConvTranspose" | "Conv") || !case.name.starts_with("random/") {
            continue;
        }
        let outputs = case.foreign().run(&mut case.values());
        let outputs = outputs.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(case.difference(&outputs), None, "{}", case.name);
        ran.insert(op.to_owned());
    }
    assert_eq!(ran.len(), 3, "{ran:?}");
}

/// tract as a second opinion: where it runs a case it may differ only where it strays from onnx.
#[test]
fn tract_and_the_table_agree() {
    const OPERATORS: &[&str] = &[
        "Add",
        "Mul",
        "Relu",
        "Softmax",
        "MaxPool",
        "AveragePool",
        "BatchNormalization",
        "Transpose",
        "Gather",
        "Slice",
        "Concat",
        "Reshape",
        "ReduceMean",
        "Pad",
        "LayerNormalization",
        "Split",
    ];
    let (mut agree, mut differ) = (0, Vec::new());
    for case in cases().into_iter().filter(|c| c.name.starts_with("random/")) {
        if !OPERATORS.contains(&case.node().op_type()) || case.inputs.iter().any(Tensor::is_empty) {
            continue;
        }
        let Some(Ok(ours)) = case.run() else { continue };
        let Ok(theirs) = case.foreign().run(&mut case.values()) else { continue };
        match ours.iter().zip(&theirs).find_map(|(a, b)| difference(b, a)) {
            None => agree += 1,
            Some(text) => differ.push(format!("{}: {text}", case.name)),
        }
    }
    println!("{agree} agree; tract strays in {differ:#?}");
    assert!(agree > 100 && differ.len() * 10 < agree, "{agree} agree; {differ:#?}");
}

/// Bodies of control flow read values of the outer graph, which follow the node's inputs.
#[test]
fn tract_runs_control_flow_with_captured_values() {
    use onnx_bsr::onnx::proto::{AttributeProto, GraphProto, ValueInfoProto};
    let branch = |op: &str, attribute: &str| AttributeProto {
        name: Some(attribute.to_owned()),
        r#type: Some(5),
        g: Some(GraphProto {
            name: Some(attribute.to_owned()),
            node: vec![NodeProto {
                input: vec!["outer".to_owned(), "outer".to_owned()],
                output: vec![format!("{attribute}_y")],
                op_type: Some(op.to_owned()),
                ..NodeProto::default()
            }],
            output: vec![ValueInfoProto {
                name: Some(format!("{attribute}_y")),
                ..ValueInfoProto::default()
            }],
            ..GraphProto::default()
        }),
        ..AttributeProto::default()
    };
    let node = NodeProto {
        input: vec!["condition".to_owned()],
        output: vec!["y".to_owned()],
        op_type: Some("If".to_owned()),
        attribute: vec![branch("Add", "then_branch"), branch("Mul", "else_branch")],
        ..NodeProto::default()
    };
    assert!(node.graph("then_branch").is_some());
    let opset = onnx_bsr::onnx::proto::OperatorSetIdProto {
        domain: Some(String::new()),
        version: Some(13),
    };
    let operator = Foreign::new(node, vec![opset], 8, &[None], vec!["outer".to_owned()]);
    let outer = Tensor::from_vec(&[2], vec![3f32, 5.0]).unwrap();
    for (condition, wanted) in [(true, vec![6f32, 10.0]), (false, vec![9.0, 25.0])] {
        let mut inputs = [Some(Tensor::scalar(condition)), Some(outer.clone())];
        let outputs = operator.run(&mut inputs).unwrap();
        assert_eq!(outputs, [Tensor::from_vec(&[2], wanted).unwrap()]);
    }
}
