//! The weights that hold most of a model, and what a factorization could make of them.
//!
//! `inspect MODEL [NAME=1x3x224x224]..`

use std::cmp::Reverse;
use std::error::Error;
use std::path::Path;

use onnx_bsr::compress::inspect;
use onnx_bsr::options::Options;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("usage: inspect MODEL [NAME=DIMS]..")?;
    let mut shapes = Vec::new();
    for arg in args {
        let (name, dims) = arg.split_once('=').ok_or("a shape is NAME=1x3x224x224")?;
        let dims: Vec<usize> = dims.split('x').map(str::parse).collect::<Result<_, _>>()?;
        shapes.push((name.to_owned(), dims));
    }
    let mut report = inspect(Path::new(&model), &shapes, None, &Options::default())?;
    report.layers.sort_by_key(|layer| Reverse(layer.params));
    for layer in report.layers.iter().take(10) {
        let share = 100.0 * layer.params as f64 / report.totals.params as f64;
        let reason = layer.reason.as_deref().unwrap_or_default();
        let bound = match layer.rank_bound {
            Some(rank) => format!("smaller below rank {}", rank + 1),
            None => reason.to_owned(),
        };
        println!("{share:5.1} %  {:?}  {}: {bound}", layer.shape, layer.name);
    }
    let totals = &report.totals;
    println!("{} of {} params can be factorized", totals.eligible_params, totals.params);
    report.warnings.iter().for_each(|warning| println!("{warning}"));
    Ok(())
}
