//! The samples of a run, cut into parts that don't overlap.

use std::collections::HashSet;

use super::{DataSource, Request};
use crate::dataset::{Dataset, split};
use crate::error::{Error, Result};
use crate::graph::InputSpec;
use crate::options::Options;

/// Share of the data that the report is made on when no test data is given.
const REPORT_SHARE: f64 = 0.2;

/// Samples that the report is made on at most, when they are taken from the data.
const REPORT_SAMPLES: usize = 5000;

/// Samples that candidates are scored on, at most, where the options don't say.
const SEARCH_SAMPLES: usize = 2000;

/// The samples of a run, in disjoint parts.
pub(super) struct Parts {
    pub data: Dataset,
    pub calibration: Vec<usize>,
    pub search: Vec<usize>,
    pub report: (Dataset, Vec<usize>, String),
    /// What is trained on.
    pub train: Option<(Dataset, Vec<usize>)>,
}

impl Parts {
    /// The parts of the data that a request names; none where it names none.
    ///
    /// # Errors
    /// When data can't be read, don't fit the model or are too few, or training data are those of
    /// the report.
    pub fn of(request: &Request, specs: &[InputSpec]) -> Result<Option<Self>> {
        let Some(source) = &request.data else {
            if request.train.is_some() {
                return Err(Error::Option {
                    option: "--train".to_owned(),
                    reason:
                        "training needs --data too, to choose ranks on; it may be the same data"
                            .to_owned(),
                });
            }
            return Ok(None);
        };
        let mut parts = divide(source, request.test.as_ref(), specs, &request.options)?;
        if let Some(train) = &request.train {
            if request.test.as_ref().is_some_and(|test| test.is_same(train)) {
                return Err(Error::Option {
                    option: "--train".to_owned(),
                    reason: "these are the samples of --test: the report would be on samples that \
                             were trained on"
                        .to_owned(),
                });
            }
            parts.train = Some(if train.is_same(source) {
                let own = request.test.is_none();
                let report = if own { parts.report.1.as_slice() } else { &[] };
                let held: HashSet<usize> = parts.search.iter().chain(report).copied().collect();
                let rest = (0..parts.data.len()).filter(|i| !held.contains(i)).collect();
                (parts.data.clone(), rest)
            } else {
                let data = train.open(specs)?;
                let all = (0..data.len()).collect();
                (data, all)
            });
        }
        Ok(Some(parts))
    }
}

/// Opens the data and cuts it into disjoint parts.
fn divide(
    source: &DataSource,
    test: Option<&DataSource>,
    specs: &[InputSpec],
    options: &Options,
) -> Result<Parts> {
    let data = source.open(specs)?;
    let n = data.len();
    let too_few = |reason: String| Error::Data { path: source.path.clone(), reason };
    if n < 3 {
        return Err(too_few(format!("{n} samples are too few to calibrate, search and report on")));
    }
    let labels = data.all_labels().filter(|_| data.labels_per_sample() == 1);
    let report = match test {
        Some(_) => 0,
        None => ((n as f64 * REPORT_SHARE) as usize).clamp(1, REPORT_SAMPLES),
    };
    let rest = n - report;
    let search = options.search_samples.unwrap_or(SEARCH_SAMPLES).min(rest.div_ceil(3)).max(1);
    let calibration = options.calibration_samples.min(rest - search).max(1);
    let mut parts = split(n, &[report, calibration, search], labels.as_deref(), options.seed);
    let mut next = || if parts.is_empty() { Vec::new() } else { parts.remove(0) };
    let (report, calibration, search) = (next(), next(), next());
    let report = match test {
        Some(test) => {
            let data = test.open(specs)?;
            let all = (0..data.len()).collect();
            let name = data.name();
            (data, all, name)
        }
        None => {
            let name = format!("{} samples set aside from {}", report.len(), data.name());
            (data.clone(), report, name)
        }
    };
    if calibration.is_empty() || search.is_empty() || report.1.is_empty() {
        return Err(too_few("too few samples to calibrate, search and report on".to_owned()));
    }
    Ok(Parts { data, calibration, search, report, train: None })
}
