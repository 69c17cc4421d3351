//! Plans as files: the same bytes when replayed, refused by other models.

use onnx_bsr::factorize::Scheme;
use onnx_bsr::onnx::{Model, TensorProto};
use onnx_bsr::search::Plan;
use serde_json::{Value, json};

use super::written::{Ranks, fixture, plan};

fn model(name: &str) -> Model {
    Model::read(&fixture(name)).unwrap()
}

/// A plan for a fixture, as JSON.
fn saved(name: &str) -> (Model, Value) {
    let model = model(name);
    let (plan, count) = plan(&model, Scheme::ChannelOut, Ranks::Half);
    assert!(count > 1);
    (model, serde_json::from_str(&plan.to_json()).unwrap())
}

#[track_caller]
fn refusal(plan: &Value, model: &Model) -> String {
    let error = Plan::parse(&plan.to_string()).and_then(|plan| plan.apply(model)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("plan: "), "{error:?}");
    text
}

#[test]
fn replayed_plans_give_the_same_bytes() {
    for name in ["conv1d", "conv3d", "grouped", "matmul", "attention", "residual", "mnist_conv"] {
        let model = model(&format!("{name}.onnx"));
        let untouched = model.to_bytes().unwrap();
        for scheme in Scheme::ALL {
            let (plan, _) = plan(&model, scheme, Ranks::Half);
            let bytes = plan.apply(&model).unwrap().to_bytes().unwrap();
            assert_eq!(plan.apply(&model).unwrap().to_bytes().unwrap(), bytes, "{name}, {scheme}");
            let parsed = Plan::parse(&plan.to_json()).unwrap();
            assert_eq!(parsed.to_json(), plan.to_json());
            assert_eq!(parsed.apply(&model).unwrap().to_bytes().unwrap(), bytes, "{name}");
            // The model may come from elsewhere, as long as it is the same.
            let again = Model::from_bytes(untouched.clone()).unwrap();
            assert_eq!(parsed.apply(&again).unwrap().to_bytes().unwrap(), bytes, "{name}");
        }
        assert_eq!(model.to_bytes().unwrap(), untouched, "{name} was changed");
    }
}

/// Replaying a plan layer by layer comes to the same nodes and constants.
#[test]
fn a_plan_is_the_sum_of_its_layers() {
    let (model, whole) = saved("residual.onnx");
    let count = whole["layers"].as_array().unwrap().len();
    let mut step = model.clone();
    for index in (0..count).rev() {
        let mut part = whole.clone();
        part["layers"] = json!([whole["layers"][index].clone()]);
        step = Plan::parse(&part.to_string()).unwrap().apply(&step).unwrap();
    }
    let whole = Plan::parse(&whole.to_string()).unwrap().apply(&model).unwrap();
    assert_eq!(step.graph().node, whole.graph().node);
    let constants = |m: &Model| {
        let mut constants = m.graph().initializer.clone();
        constants.sort_by(|a, b| a.name().cmp(b.name()));
        constants
    };
    assert_eq!(constants(&step), constants(&whole));
}

#[test]
fn an_empty_plan_changes_nothing() {
    let model = model("mnist_conv.onnx");
    let plan = Plan::new(&model, &[], &[]).unwrap();
    assert_eq!(plan.apply(&model).unwrap().to_bytes().unwrap(), model.to_bytes().unwrap());
}

#[test]
fn plans_for_other_models_are_refused() {
    let (mut model, plan) = saved("conv1d.onnx");
    let other = refusal(&plan, &self::model("mnist_conv.onnx"));
    assert!(other.contains("wide") && other.contains("no such layer"), "{other}");

    // The same network trained once more: one element of one weight differs.
    let weight = model.graph_mut().initializer.iter_mut().find(|t| t.name() == "same.weight");
    let weight: &mut TensorProto = weight.unwrap();
    let mut bytes = weight.raw_data().to_vec();
    bytes[100] ^= 1;
    weight.raw_data = Some(bytes.into());
    let retrained = refusal(&plan, &model);
    assert!(retrained.contains("same.weight") && retrained.contains("another"), "{retrained}");
}

#[test]
fn damaged_plans_are_refused() {
    let (model, plan) = saved("conv1d.onnx");
    let with = |pointer: &str, value: Value| {
        let mut changed = plan.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        refusal(&changed, &model)
    };
    assert!(with("/version", json!(2)).contains("version 2"));
    let first = "/layers/0";
    assert!(with(&format!("{first}/node"), json!("nothing")).contains("no such layer"));
    assert!(with(&format!("{first}/checksum"), json!(1)).contains("another"));
    for (path, value) in [
        ("rank", json!(0)),
        ("rank", json!(3)),
        ("rank", json!(1_000_000)),
        ("scheme", json!("matrix")),
        ("scheme", json!("svd")),
        ("groups", json!([])),
        ("groups/0/0/shape", json!([1, 1])),
        ("groups/0/0/shape", json!([u64::MAX, u64::MAX])),
        ("groups/0/0/data", json!("")),
        ("groups/0/0/data", json!("not base64")),
        ("groups/0/0/data", json!("AAA=")),
        ("bias", json!("AAAAAA==")),
        // NaN as little-endian f32.
        ("bias", json!("AADAfw==")),
    ] {
        let text = with(&format!("{first}/{path}"), value.clone());
        assert!(text.len() < 300, "{path} {value}: {text}");
    }
    for text in ["", "{}", "[]", "not json", &plan.to_string()[..200]] {
        let error = Plan::parse(text).unwrap_err().to_string();
        assert!(error.starts_with("plan: "), "{error}");
    }
    // One layer twice.
    let mut twice = plan.clone();
    let layer = plan["layers"][0].clone();
    twice["layers"].as_array_mut().unwrap().push(layer);
    assert!(Plan::parse(&twice.to_string()).unwrap().apply(&model).is_err());
}
