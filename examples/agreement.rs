//! Runs models in the evaluator and in tract on the same random inputs and prints how far apart
//! their outputs are.
//!
//! `agreement [--shape NAME=1x3x224x224].. MODEL..`

use std::error::Error;
use std::path::Path;

use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::onnx::Model;
use onnx_bsr::validate::{Agreement, Session, concrete_shapes, random_inputs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut shapes = Vec::new();
    let mut models = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--shape" {
            let value = args.next().ok_or("--shape takes NAME=1x3x224x224")?;
            let (name, dims) = value.split_once('=').ok_or("--shape takes NAME=1x3x224x224")?;
            let dims: Vec<usize> = dims.split('x').map(str::parse).collect::<Result<_, _>>()?;
            shapes.push((name.to_owned(), dims));
        } else {
            models.push(arg);
        }
    }
    for path in models {
        let line = match agreement(Path::new(&path), &shapes) {
            Ok(Some(difference)) => format!("{difference:.1e}"),
            Ok(None) => "runs; tract refuses it".to_owned(),
            Err(error) => format!("error: {error}"),
        };
        println!("{line:<24} {path}");
    }
    Ok(())
}

/// The largest difference relative to an output's largest element; `None` where only the evaluator
/// runs the model.
fn agreement(path: &Path, shapes: &[(String, Vec<usize>)]) -> Result<Option<f64>, Box<dyn Error>> {
    let model = Model::read(path)?;
    let specs = graph::inputs(&model)?;
    let known = |(name, _): &&(String, Vec<usize>)| specs.iter().any(|spec| spec.name == *name);
    let shapes: Vec<_> = shapes.iter().filter(known).cloned().collect();
    let shapes = concrete_shapes(&specs, &shapes)?;
    let inputs = random_inputs(&specs, &shapes, 0)?;
    let ours = Evaluator::new(&model)?.run(inputs.clone())?;
    let Ok(session) = Session::open_shaped(path, &shapes) else { return Ok(None) };
    Ok(Some(Agreement::between(&ours, &session.run(&inputs)?)?.max_relative_difference()))
}
