//! Divides a model's bytes by low ranks, by fewer bits, and by both together, and prints what each costs.
//!
//! `ranks_and_bits MODEL DATA RATIO`

use std::error::Error;
use std::fs;

use onnx_bsr::compress::{DataSource, Request, compress_bytes};
use onnx_bsr::options::{Form, Options};
use onnx_bsr::progress::Silent;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, ratio] = &args[..] else {
        return Err("usage: ranks_and_bits MODEL DATA RATIO".into());
    };
    let ratio: f64 = ratio.parse()?;
    let model = fs::read(model)?;
    for (name, ratio, quantize) in [
        ("ranks", Some(ratio), None),
        ("bits", None, Some(Form::Int8)),
        ("both", Some(ratio), Some(Form::Int8)),
    ] {
        let options = Options { ratio, quantize, ..Options::default() };
        let request =
            Request { data: Some(DataSource::file(data)), ..Request::new("", "", options) };
        let (bytes, report) = match compress_bytes(&model, &request, &Silent) {
            Ok(done) => done,
            Err(error) => {
                println!("{name:>6}: {error}");
                continue;
            }
        };
        let metric = report.metric.ok_or("the data decide the metric")?;
        let factorized = report.layers.iter().filter(|layer| layer.rank.is_some()).count();
        println!(
            "{name:>6}: {:.2}x smaller, {factorized} layers factorized, {} {:.2} -> {:.2}",
            model.len() as f64 / bytes.len() as f64,
            metric.name,
            metric.original,
            metric.written.unwrap_or(f64::NAN)
        );
    }
    Ok(())
}
