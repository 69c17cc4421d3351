//! Models with known outputs: each is read and written, and where it has products its weights become
//! constants, every layer that can be factorized is, at full rank and in every scheme, and the outputs
//! have to be the same. For `benches/backend_suite.py`.
//!
//! `backend_suite FOLDER OUT`: every folder in FOLDER has a `model.onnx` and `test_data_set_*`; what is
//! written goes to OUT. One line per model: its name, and what was found.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::error::Error;
use std::path::{Path, PathBuf};

use onnx_bsr::eval::Evaluator;
use onnx_bsr::factorize::{Choice, Fit, Scheme, curves, replace};
use onnx_bsr::graph::{self, NameAllocator};
use onnx_bsr::layer::{Filter, Layer, find, prepare};
use onnx_bsr::onnx::{Model, ModelProto, TensorProto};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::Session;
use prost::Message;

/// Largest difference relative to the largest output.
const TOLERANCE: f64 = 1e-4;

type Fault = Box<dyn Error>;

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out] = &args[..] else { return Err("usage: backend_suite FOLDER OUT".into()) };
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_, Fault>>()?;
    cases.sort();
    std::fs::create_dir_all(out)?;
    for case in cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = look_at(&case, &Path::new(out).join(format!("{name}.onnx")));
        println!("{name}: {}", found.unwrap_or_else(|fault| format!("FAULT {fault}")));
    }
    Ok(())
}

fn look_at(case: &Path, written: &Path) -> Result<String, Fault> {
    let path = case.join("model.onnx");
    let mut model = match Model::read(&path) {
        Ok(model) => model,
        Err(error) => return Ok(format!("not read: {error}")),
    };
    model.write(written)?;
    let bytes = (std::fs::read(&path)?, std::fs::read(written)?);
    // Encoded again, since a NaN is not equal to itself.
    let normal = |bytes: &[u8]| ModelProto::decode(bytes).map(|proto| proto.encode_to_vec());
    if normal(&bytes.0)? != normal(&bytes.1)? {
        return Ok("FAULT written otherwise than read".to_owned());
    }
    let products = ["Conv", "Gemm", "MatMul"];
    if !model.graph().node.iter().any(|n| products.contains(&n.op_type())) {
        return Ok("same".to_owned());
    }
    let set = case.join("test_data_set_0");
    let (inputs, outputs) = match (tensors(&set, "input"), tensors(&set, "output")) {
        (Ok(inputs), Ok(outputs)) => (inputs, outputs),
        _ => return Ok("same; not factorized: its data are no tensors".to_owned()),
    };
    let given = freeze(&mut model, inputs)?;
    prepare(&mut model)?;
    let layers = find(&model, &Filter::default().any_size())?;
    let eligible: Vec<&Layer> = layers.iter().filter(|l| l.map.is_some()).collect();
    if eligible.is_empty() {
        let mut reasons: Vec<String> = layers.iter().filter_map(|l| l.skip.clone()).collect();
        reasons.sort();
        reasons.dedup();
        return Ok(format!("same; not factorized: {}", reasons.join("; ")));
    }
    let mut forms = Vec::new();
    let mut in_tract = true;
    for scheme in Scheme::ALL {
        let result = factorized(&model, &eligible, scheme)?;
        let Some(result) = result else { continue };
        let ours = Evaluator::new(&result)?.run(given.clone())?;
        compare(&ours, &outputs).map_err(|fault| format!("{scheme}: {fault}"))?;
        let file = tempfile::Builder::new().suffix(".onnx").tempfile()?;
        result.write(file.path())?;
        match Session::open(file.path()).and_then(|session| session.run(&given)) {
            Ok(theirs) => {
                compare(&theirs, &outputs).map_err(|f| format!("{scheme}, tract: {f}"))?
            }
            Err(_) => in_tract = false,
        }
        forms.push(scheme.name());
    }
    let forms = forms.join(", ");
    let tract = if in_tract { "" } else { " (not in tract)" };
    Ok(format!("same; {} layers at full rank as {forms}{tract}", eligible.len()))
}

/// The model with every layer that the scheme applies to in that scheme, at a rank that loses nothing.
fn factorized(model: &Model, layers: &[&Layer], scheme: Scheme) -> Result<Option<Model>, Fault> {
    let mut result = model.clone();
    let mut names = NameAllocator::new(model.graph());
    let mut replacements = Vec::new();
    for layer in layers {
        let map = layer.map.as_ref().unwrap();
        if !scheme.applies(map) {
            continue;
        }
        let weight = layer.weight(model)?;
        let fits: Vec<Fit> = weight.groups.iter().map(Fit::of_weight).collect();
        let side = scheme.side(map).map(|side| side.side);
        let inner = side.filter(|_| scheme == Scheme::Tucker);
        let rank =
            if scheme == Scheme::ChannelIn { side.unwrap_or(1) } else { Choice::most(scheme, map) };
        let choice = Choice { scheme, rank, rank_in: inner };
        let curves = curves(map, &fits, &[scheme])?;
        let factors = curves[0].factors(choice, &fits, &weight.bias)?;
        let made = replace(layer, &model.graph().node, &factors, &mut names)?;
        for ((node, _), mut replacement) in layer.uses().zip(made) {
            if model.opset("").is_some_and(|version| version < 11) {
                replacement.complete_gemm(&mut names);
            }
            for (name, tensor) in &replacement.constants {
                let tensor = TensorProto::from_tensor(name, tensor);
                graph::add_initializer(result.graph_mut(), tensor);
            }
            replacements.push((node, replacement.nodes));
        }
    }
    // From the last node on, so that the indices of earlier ones stay.
    replacements.sort_by_key(|(node, _)| std::cmp::Reverse(*node));
    let any = !replacements.is_empty();
    for (node, nodes) in replacements {
        graph::replace_node(result.graph_mut(), node, nodes)?;
    }
    graph::remove_unused_constants(result.graph_mut());
    Ok(any.then_some(result))
}

/// Makes inputs that are weights of products constants; returns the values of the others.
fn freeze(model: &mut Model, values: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, Fault> {
    let names: Vec<String> = graph::inputs(model)?.into_iter().map(|spec| spec.name).collect();
    let mut weights = Vec::new();
    for node in &model.graph().node {
        if ["Conv", "Gemm", "MatMul"].contains(&node.op_type()) {
            weights.extend(node.input.iter().skip(1).cloned());
        }
    }
    let mut given = Vec::new();
    for (name, (own, tensor)) in names.iter().zip(values) {
        let name = if names.contains(&own) { &own } else { name };
        if weights.contains(name) {
            let graph = model.graph_mut();
            graph.input.retain(|input| input.name() != name);
            graph::add_initializer(graph, TensorProto::from_tensor(name, &tensor));
        } else {
            given.push(tensor);
        }
    }
    Ok(given)
}

fn compare(ours: &[Tensor], expected: &[(String, Tensor)]) -> Result<(), Fault> {
    for (ours, (name, expected)) in ours.iter().zip(expected) {
        if ours.shape() != expected.shape() {
            return Err(
                format!("`{name}` is {:?}, not {:?}", ours.shape(), expected.shape()).into()
            );
        }
        let pairs = ours.to_f64_vec().into_iter().zip(expected.to_f64_vec());
        let scale = expected.to_f64_vec().iter().fold(1e-6f64, |m, v| m.max(v.abs()));
        let most = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if most.is_nan() || most > TOLERANCE * scale {
            return Err(format!("`{name}` differs by {:.1e}", most / scale).into());
        }
    }
    Ok(())
}

/// `KIND_0.pb`, `KIND_1.pb` and so on.
fn tensors(folder: &Path, kind: &str) -> Result<Vec<(String, Tensor)>, Fault> {
    let mut found = Vec::new();
    loop {
        let path = folder.join(format!("{kind}_{}.pb", found.len()));
        if !path.is_file() {
            return Ok(found);
        }
        let proto = TensorProto::decode(std::fs::read(path)?.as_slice())?;
        let tensor = proto.to_tensor()?;
        found.push((proto.name.unwrap_or_default(), tensor));
    }
}
