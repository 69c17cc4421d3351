//! A metric of one's own: how sure a classifier is where it is right. It is reported, and bounds what may
//! be lost.
//!
//! `own_metric IN OUT RATIO DATA`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use onnx_bsr::compress::{DataSource, FileMetric, Request, compress};
use onnx_bsr::error::Result;
use onnx_bsr::options::Options;
use onnx_bsr::progress::{Progress, Silent};

/// Mean score of the right class, in percent, in tract.
#[derive(Debug)]
struct Confidence(DataSource);

impl FileMetric for Confidence {
    fn name(&self) -> &str {
        "confidence"
    }

    fn value(&self, path: &Path, progress: &dyn Progress) -> Result<f64> {
        let (data, session) = self.0.open_with_session(path)?;
        let outputs = session.run_samples(|rows| data.batch(rows), data.len(), progress)?;
        let labels = data.all_labels().unwrap_or_default();
        let classes = outputs[0].shape()[1];
        let mut sum = 0.0;
        for (row, label) in outputs[0].to_f64_vec().chunks(classes).zip(&labels) {
            let total: f64 = row.iter().map(|score| score.exp()).sum();
            sum += row[*label as usize].exp() / total;
        }
        Ok(100.0 * sum / labels.len() as f64)
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, ratio, data] = &args[..] else {
        return Err("usage: own_metric IN OUT RATIO DATA".into());
    };
    let options =
        Options { ratio: Some(ratio.parse()?), max_drop: Some(1.0), ..Options::default() };
    let request = Request {
        file_metric: Some(Arc::new(Confidence(DataSource::file(data)))),
        data: Some(DataSource::file(data)),
        ..Request::new(input, output, options)
    };
    let report = compress(&request, &Silent)?;
    println!("{:?}, missed: {:?}", report.file_metric, report.missed);
    Ok(())
}
