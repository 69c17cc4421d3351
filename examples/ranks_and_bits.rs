//! Divides a model's bytes by low ranks, by fewer bits, and by both together, and prints what each costs.
//!
//! `ranks_and_bits MODEL DATA RATIO [TEST]`; with `start` at the end by predicted losses alone, in far less
//! time.

use std::error::Error;
use std::fs;

use onnx_bsr::compress::{DataSource, Request, compress_bytes};
use onnx_bsr::factorize::Scheme;
use onnx_bsr::options::{Form, Options, SearchMode};
use onnx_bsr::progress::Silent;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let start = args.last().is_some_and(|last| last == "start");
    args.truncate(args.len() - usize::from(start));
    let (model, data, ratio, test) = match &args[..] {
        [model, data, ratio] => (model, data, ratio, None),
        [model, data, ratio, test] => (model, data, ratio, Some(test)),
        _ => return Err("usage: ranks_and_bits MODEL DATA RATIO [TEST] [start]".into()),
    };
    let ratio: f64 = ratio.parse()?;
    let model = fs::read(model)?;
    let (all, none) = (Scheme::ALL.to_vec(), Vec::new());
    for (name, ratio, quantize, schemes) in [
        ("ranks", Some(ratio), None, &all),
        ("eight bits", None, Some(Form::Int8), &all),
        ("four to 32 bits", Some(ratio), Some(Form::Auto), &none),
        ("ranks and eight bits", Some(ratio), Some(Form::Int8), &all),
        ("ranks and bits", Some(ratio), Some(Form::Auto), &all),
    ] {
        let search = if start { SearchMode::Start } else { SearchMode::Beam };
        let schemes = schemes.clone();
        let options = Options { ratio, quantize, search, schemes, ..Options::default() };
        let request = Request {
            data: Some(DataSource::file(data)),
            test: test.map(DataSource::file),
            ..Request::new("", "", options)
        };
        let done = compress_bytes(&model, &request, &Silent);
        let done = done.inspect_err(|error| println!("{name:>20}: {error}"));
        let Ok((bytes, report)) = done else { continue };
        let metric = report.metric.ok_or("the data decide the metric")?;
        let factorized = report.layers.iter().filter(|layer| layer.rank.is_some()).count();
        let bits = |bits| report.layers.iter().filter(|layer| layer.bits == bits).count();
        println!(
            "{name:>20}: {:.2}x smaller, {factorized} layers factorized, {} of 4 and {} of 8 bits, \
             {} {:.2} -> {:.2}",
            model.len() as f64 / bytes.len() as f64,
            bits(Some(4)),
            bits(Some(8)),
            metric.name,
            metric.original,
            metric.written.unwrap_or(f64::NAN)
        );
    }
    Ok(())
}
