//! What several ratios cost: the same job at each, with all that doesn't depend on the ratio done once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::content::{Key, of_file};
use super::gentle::Dense;
use super::job::Job;
use super::result::{self, write_text};
use super::shared::Shared;
use super::{DataSource, Request, check_output};
use crate::error::{Error, Result};
use crate::onnx::{Model, to_raw};
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{
    self, Page, PointReport, PointStatus, Report, SCHEMA_VERSION, Sweep, SweepMetric, SweepPoint,
    page,
};

/// Several ratios that are asked for.
#[derive(Clone, Debug)]
pub struct SweepRequest {
    /// The folder that files go to; it is made where there is none.
    pub folder: PathBuf,
    /// The ratios, each more than 1.
    pub ratios: Vec<f64>,
    /// All else. Its ratio and the places of its files are not used; its drop marks a point.
    pub base: Request,
}

/// What is kept beside a point's file, so that it is not computed again.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Key of all that the point depends on.
    key: String,
    /// Names and keys of its files.
    files: Vec<(String, String)>,
    /// The largest ratio there is, where the point's is out of reach.
    largest: Option<f64>,
    report: Option<Report>,
}

/// Compresses a model at every ratio and writes the files, their plans, and the front. Points that an
/// earlier run has completed in the folder, of the same model, data and options, are taken over.
///
/// # Errors
/// When anything can't be read, run or written; points that are complete stay. A ratio out of reach
/// is no error.
pub fn sweep(request: &SweepRequest, progress: &dyn Progress) -> Result<Sweep> {
    let begin = Instant::now();
    let base = &request.base;
    let mut ratios = request.ratios.clone();
    if ratios.is_empty() || ratios.iter().any(|r| !(r.is_finite() && *r > 1.0)) {
        return Err(Error::Option {
            option: "--ratios".to_owned(),
            reason: "give numbers of more than 1".to_owned(),
        });
    }
    // Neighbours are searched at the same time: they take about equally long.
    ratios.sort_by(|a, b| b.total_cmp(a));
    ratios.dedup();
    let folder = &request.folder;
    fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
    for name in ["front.json", "report.html"] {
        check_output(&base.input, &folder.join(name), false)?;
    }
    let key = key(base)?;
    let places: Vec<Place> = ratios.iter().map(|&ratio| Place::of(request, ratio, key)).collect();
    let mut records: Vec<Option<Record>> = places.iter().map(Place::record).collect();
    let resumed: Vec<bool> = records.iter().map(Option::is_some).collect();
    let front = |records: &[Option<Record>]| -> Result<Sweep> {
        let (sweep, reports) = front(request, &places, records, &resumed, begin)?;
        write_text(&folder.join("front.json"), &report::json(&sweep))?;
        let shown = Page::Sweep { sweep: &sweep, reports: &reports };
        write_text(&folder.join("report.html"), &page(&shown))?;
        Ok(sweep)
    };
    if records.iter().all(Option::is_some) {
        return front(&records);
    }
    let job = Job::prepare(&places[0].request, progress)?;
    let whole = job.whole()?;
    let dense = Dense::of(job.model.clone(), &whole.layers);
    let judge = job.judge(&base.options, progress)?;
    let mut shared = Shared::of(&dense);
    let missing: Vec<usize> = (0..places.len()).filter(|&at| records[at].is_none()).collect();
    let rounds = missing.len().div_ceil(rayon::current_num_threads());
    for some in missing.chunks(missing.len().div_ceil(rounds)) {
        let together: Vec<f64> = some.iter().map(|&at| places[at].ratio).collect();
        job.search(&places[some[0]].request, &together, &mut shared, progress)?;
        for &at in some {
            let place = &places[at];
            log::info!("ratio {}", place.ratio);
            let record = match job.run(&place.request, judge.as_ref(), Some(&mut shared), progress)
            {
                Ok(report) => place.keep(report)?,
                Err(Error::RatioOutOfReach { largest, .. }) => place.keep_largest(largest)?,
                Err(error) => return Err(error),
            };
            records[at] = Some(record);
            front(&records)?;
        }
    }
    front(&records)
}

/// Where a point's files are.
struct Place {
    ratio: f64,
    key: String,
    request: Request,
    record: PathBuf,
}

impl Place {
    fn of(sweep: &SweepRequest, ratio: f64, mut key: Key) -> Self {
        let base = &sweep.base;
        let stem = base.input.file_stem().unwrap_or_default().to_string_lossy();
        let name = |end: &str| sweep.folder.join(format!("{stem}-{ratio}x.{end}"));
        key.mix(&ratio.to_le_bytes());
        let request = Request {
            output: name("onnx"),
            save_plan: Some(name("plan.json")),
            resume: base.train.as_ref().map(|_| name("training")),
            report: None,
            force: false,
            options: Options { ratio: Some(ratio), max_drop: None, ..base.options.clone() },
            ..base.clone()
        };
        Self { ratio, key: key.text(), request, record: name("point.json") }
    }

    /// What an earlier run has left, where it is complete and of the same things.
    fn record(&self) -> Option<Record> {
        let record: Record = serde_json::from_str(&fs::read_to_string(&self.record).ok()?).ok()?;
        let folder = self.record.parent()?;
        let whole = record.key == self.key
            && record.files.iter().all(|(name, key)| {
                Path::new(name).components().count() == 1
                    && of_file(&folder.join(name)).as_ref() == Some(key)
            });
        whole.then_some(record)
    }

    fn keep(&self, report: Report) -> Result<Record> {
        let output = &self.request.output;
        let data = Model::read(output)?.external_files(output);
        let plan = self.request.save_plan.clone();
        let files = [output.clone()].into_iter().chain(plan).chain(data);
        let files = files.filter_map(|path| Some((name_of(&path), of_file(&path)?))).collect();
        let report = Some(report);
        self.write(Record { key: self.key.clone(), files, largest: None, report })
    }

    fn keep_largest(&self, largest: f64) -> Result<Record> {
        self.write(Record {
            key: self.key.clone(),
            files: Vec::new(),
            largest: Some(largest),
            report: None,
        })
    }

    fn write(&self, record: Record) -> Result<Record> {
        write_text(&self.record, &report::json(&record))?;
        Ok(record)
    }

    fn point(&self, record: &Record, resumed: bool) -> SweepPoint {
        let Some(report) = &record.report else {
            let largest = record.largest.unwrap_or(1.0);
            return SweepPoint {
                ratio_asked: self.ratio,
                status: PointStatus::OutOfReach,
                reason: Some(format!("the largest ratio is {largest:.3}")),
                resumed,
                ..SweepPoint::default()
            };
        };
        let metric = report.metric.as_ref().map(|m| {
            let stages = [m.written, m.quantized, m.tuned, m.factorized];
            let now = stages.into_iter().flatten().next().unwrap_or(m.original);
            let sign = if m.higher_is_better { 1.0 } else { -1.0 };
            (now, sign * (m.original - now))
        });
        SweepPoint {
            ratio_asked: self.ratio,
            status: PointStatus::Done,
            reason: None,
            file: Some(name_of(&self.request.output)),
            plan: self.request.save_plan.as_deref().map(name_of),
            ratio_reached: report.ratio.reached,
            metric: metric.map(|m| m.0),
            drop: metric.map(|m| m.1),
            params: Some(report.output.params),
            macs: report.output.macs,
            bytes: Some(report.output.bytes),
            gzip_bytes: report.output.gzip_bytes,
            latency_ms: report.latency_ms.as_ref().map(|l| l.output),
            seconds: Some(report.seconds.total),
            resumed,
            missed: report.missed.clone(),
            warnings: report.warnings.clone(),
            ..SweepPoint::default()
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The front of the points there are, with their reports, in ascending order.
fn front(
    request: &SweepRequest,
    places: &[Place],
    records: &[Option<Record>],
    resumed: &[bool],
    begin: Instant,
) -> Result<(Sweep, Vec<PointReport>)> {
    let base = &request.base;
    let mut sweep = Sweep {
        schema_version: SCHEMA_VERSION,
        target: base.options.target.name().to_owned(),
        max_drop: base.options.max_drop,
        program: result::program(),
        ..Sweep::default()
    };
    sweep.program.seed = base.options.seed;
    sweep.program.command.clone_from(&base.command);
    let mut reports = Vec::new();
    for ((place, record), &resumed) in places.iter().zip(records).zip(resumed).rev() {
        let Some(record) = record else { continue };
        sweep.points.push(place.point(record, resumed));
        reports.push(PointReport { ratio: place.ratio, report: record.report.clone() });
    }
    match reports.iter().rev().find_map(|r| r.report.as_ref()) {
        Some(report) => {
            sweep.model = report.model.clone();
            sweep.latency_ms = report.latency_ms.as_ref().map(|l| l.original);
            sweep.metric = report.metric.as_ref().map(|m| SweepMetric {
                name: m.name.clone(),
                unit: m.unit.clone(),
                higher_is_better: m.higher_is_better,
                source: m.source.clone(),
                samples: m.samples,
                original: m.original,
            });
        }
        None => sweep.model = result::read_size(&base.input)?,
    }
    if base.data.is_none() {
        sweep.warnings.push(
            "no data: everything comes from the weights alone; give --data for a far better result"
                .to_owned(),
        );
    }
    sweep.mark();
    sweep.seconds = begin.elapsed().as_secs_f64();
    Ok((sweep, reports))
}

/// The key of all that the points depend on but for their ratios.
fn key(base: &Request) -> Result<Key> {
    let mut key = Key::new();
    key.mix(env!("CARGO_PKG_VERSION").as_bytes());
    key.mix_place(&base.input)?;
    for file in Model::read(&base.input)?.external_files(&base.input) {
        key.mix_place(&file)?;
    }
    for source in [&base.data, &base.test, &base.train] {
        match source {
            Some(DataSource { path, arrays, labels, preprocess }) => {
                match arrays {
                    Some(arrays) => arrays.tensors().for_each(|(name, tensor)| {
                        key.mix(format!("{name} {:?}", tensor.shape()).as_bytes());
                        key.mix(&to_raw(tensor));
                    }),
                    None => key.mix_place(path)?,
                }
                if let Some(labels) = labels {
                    key.mix_place(labels)?;
                }
                key.mix(format!("{preprocess:?}").as_bytes());
            }
            None => key.mix(b"none"),
        }
    }
    key.mix(format!("{:?}", base.shapes).as_bytes());
    let options = Options {
        ratio: None,
        max_drop: None,
        threads: None,
        cache_dir: None,
        cache_bytes: None,
        ..base.options.clone()
    };
    key.mix(format!("{options:?}").as_bytes());
    Ok(key)
}
