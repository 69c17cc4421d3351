//! Compresses a model by the library and prints what became of every layer.
//!
//! `compress IN OUT RATIO DATA`

use std::error::Error;

use onnx_bsr::compress::{DataSource, Request, compress};
use onnx_bsr::options::Options;
use onnx_bsr::progress::Silent;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, ratio, data] = &args[..] else {
        return Err("usage: compress IN OUT RATIO DATA".into());
    };
    let options = Options { ratio: Some(ratio.parse()?), ..Options::default() };
    let request =
        Request { data: Some(DataSource::file(data)), ..Request::new(input, output, options) };
    let report = compress(&request, &Silent)?;
    for layer in &report.layers {
        let scheme = layer.scheme.as_deref().unwrap_or("as it was");
        let rank = layer.rank.map_or(String::new(), |rank| format!(", rank {rank}"));
        println!("{}: {scheme}{rank}", layer.name);
    }
    if let Some(metric) = &report.metric {
        let written = metric.written.unwrap_or(f64::NAN);
        println!("{} {:.2} -> {written:.2}", metric.name, metric.original);
    }
    println!("{} -> {} bytes", report.model.bytes, report.output.bytes);
    Ok(())
}
