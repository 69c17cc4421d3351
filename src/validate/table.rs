//! What layers take in tract on one machine, by shape, scheme and rank.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Version of the file.
const VERSION: u32 = 2;

/// The time of a layer at a rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The rank; 0 where the layer is dense.
    pub rank: usize,
    /// The rank between the first two factors; 0 where there is none.
    pub rank_in: usize,
    /// Time of one run.
    pub nanoseconds: f64,
}

/// Times that were measured, kept as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyTable {
    version: u32,
    /// Where they were measured.
    pub machine: String,
    /// In what.
    pub runtime: String,
    /// Nanoseconds of whole models, by a hash of their operators and shapes.
    pub models: BTreeMap<String, f64>,
    /// Times of layers, by shape and scheme.
    pub layers: BTreeMap<String, Vec<Point>>,
}

impl LatencyTable {
    /// An empty table for this machine.
    #[must_use]
    pub fn here() -> Self {
        Self {
            version: VERSION,
            machine: machine(),
            runtime: super::RUNTIME.to_owned(),
            models: BTreeMap::new(),
            layers: BTreeMap::new(),
        }
    }

    /// Whether more may be measured here.
    #[must_use]
    pub fn is_of_here(&self) -> bool {
        self.machine == machine()
    }

    /// Reads a table; an empty one where there is no file.
    ///
    /// # Errors
    /// When there is a file that can't be read or is no such table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::here()),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        let refuse = |reason: String| Error::Option {
            option: "--latency-table".to_owned(),
            reason: format!("`{}`: {reason}", path.display()),
        };
        let table: Self = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        if table.version != VERSION {
            return Err(refuse(format!("version {} where {VERSION} is known", table.version)));
        }
        let times = table.layers.values().flatten().map(|p| p.nanoseconds);
        if times.chain(table.models.values().copied()).any(|t| !(t.is_finite() && t > 0.0)) {
            return Err(refuse("holds a time that is none".to_owned()));
        }
        Ok(table)
    }

    /// Writes the table, replacing what is there at once.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let fault = |source| Error::Write { path: path.to_owned(), source };
        let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        let mut file =
            tempfile::Builder::new().prefix(".onnx-bsr-").tempfile_in(folder).map_err(fault)?;
        let text = serde_json::to_vec_pretty(self).map_err(|e| fault(e.into()))?;
        file.write_all(&text).map_err(fault)?;
        file.as_file().sync_all().map_err(fault)?;
        file.persist(path).map_err(|e| fault(e.error))?;
        Ok(())
    }

    /// The time of a layer at a rank, interpolated between those that were measured.
    #[must_use]
    pub fn time(&self, key: &str, rank: usize, rank_in: usize) -> Option<f64> {
        let points = self.layers.get(key)?;
        // Along the inner rank at every outer one, then along that.
        let mut lines: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
        for point in points {
            lines.entry(point.rank).or_default().push((point.rank_in as f64, point.nanoseconds));
        }
        let mut along = Vec::new();
        for (rank, mut line) in lines {
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            along.push((rank as f64, interpolate(&line, rank_in as f64)?));
        }
        interpolate(&along, rank as f64)
    }
}

/// The value at `x` of the line through points with ascending first parts: before the first it stays,
/// past the last it goes on.
fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    if x <= first.0 || points.len() == 1 {
        return Some(first.1);
    }
    let end = points.partition_point(|p| p.0 < x).min(points.len() - 1);
    let (a, b) = (points[end - 1], points[end]);
    let y = a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0);
    // A line between two noisy points may point down.
    Some(if x > last.0 { y.max(last.1) } else { y })
}

/// What tells this machine from others: architecture and processor.
fn machine() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let names = ["model name", "Model", "Hardware", "cpu model", "uarch"];
        let line = names.iter().find_map(|name| text.lines().find(|l| l.starts_with(name)))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let processor = processor.unwrap_or_else(|| std::env::consts::OS.to_owned());
    format!("{} {processor}", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_between_those_measured() {
        let mut table = LatencyTable::here();
        let point = |rank, rank_in, nanoseconds| Point { rank, rank_in, nanoseconds };
        table.layers.insert("a".to_owned(), vec![point(4, 0, 10.0), point(8, 0, 20.0)]);
        let grid = vec![point(2, 2, 10.0), point(2, 4, 20.0), point(6, 2, 30.0), point(6, 4, 40.0)];
        table.layers.insert("b".to_owned(), grid);
        let time = |key, rank, rank_in| table.time(key, rank, rank_in).expect("known");
        assert_eq!(time("a", 6, 0), 15.0);
        assert_eq!(time("a", 1, 0), 10.0);
        assert_eq!(time("a", 10, 0), 25.0);
        assert_eq!(time("b", 4, 3), 25.0);
        assert!(table.time("c", 1, 0).is_none());
    }

    #[test]
    fn tables_come_back_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("table.json");
        let mut table = LatencyTable::read(&path).expect("empty");
        table.models.insert("x".to_owned(), 1.25);
        table.write(&path).expect("written");
        let back = LatencyTable::read(&path).expect("read");
        assert_eq!(back, table);
        assert!(back.is_of_here());
        std::fs::write(&path, "{}").expect("written");
        assert!(LatencyTable::read(&path).is_err());
    }
}
