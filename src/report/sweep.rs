//! What several ratios cost.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::table::{Style, Table, count, figure, maybe_count};
use super::text::{View, value_text, warnings};
use super::{ModelSize, Program, Report};

/// The front of a sweep.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/json.md documents every field, and a test compares")]
pub struct Sweep {
    pub schema_version: u32,
    pub model: ModelSize,
    /// The cost that ratios divide.
    pub target: String,
    pub metric: Option<SweepMetric>,
    /// Median of the original beside the first point.
    pub latency_ms: Option<f64>,
    pub max_drop: Option<f64>,
    /// In ascending order of the ratios asked for.
    pub points: Vec<SweepPoint>,
    /// The ratio asked for at the knee of the front; null where there is none.
    pub knee: Option<f64>,
    /// The largest ratio asked for whose file loses no more than `max_drop`.
    pub largest_within_max_drop: Option<f64>,
    /// Of this run.
    pub seconds: f64,
    pub warnings: Vec<String>,
    pub program: Program,
}

/// What the points are judged by.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SweepMetric {
    pub name: String,
    pub unit: String,
    pub higher_is_better: bool,
    pub source: String,
    pub samples: usize,
    pub original: f64,
}

/// One ratio.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SweepPoint {
    pub ratio_asked: f64,
    pub status: PointStatus,
    /// Why there is no file.
    pub reason: Option<String>,
    /// Name of the file in the folder of the sweep.
    pub file: Option<String>,
    pub plan: Option<String>,
    pub ratio_reached: Option<f64>,
    pub metric: Option<f64>,
    /// What of the metric is lost; positive is worse.
    pub drop: Option<f64>,
    pub params: Option<u64>,
    pub macs: Option<u64>,
    pub bytes: Option<u64>,
    pub gzip_bytes: Option<u64>,
    pub latency_ms: Option<f64>,
    /// Of the run that made it, what points share apart.
    pub seconds: Option<f64>,
    /// Whether an earlier run made it.
    pub resumed: bool,
    /// Whether another point, or the original, is as good and as small, and better in one of them.
    pub dominated: bool,
    pub knee: bool,
    pub within_max_drop: bool,
    pub missed: Vec<String>,
    pub warnings: Vec<String>,
}

/// What became of a ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointStatus {
    /// The file is there.
    #[default]
    Done,
    /// No choice of ranks reaches the ratio.
    OutOfReach,
}

/// The report of one ratio of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct PointReport {
    /// The ratio that was asked for.
    pub ratio: f64,
    /// The report; none where the ratio is out of reach.
    pub report: Option<Report>,
}

/// How far above the line from the original to the smallest point a knee stands, as a share of what is
/// lost there, at least.
const BEND: f64 = 0.1;

impl Sweep {
    /// Marks points that others dominate, the knee, and the largest ratio within the drop that is
    /// allowed.
    pub fn mark(&mut self) {
        let Some(metric) = &self.metric else { return };
        let sign = if metric.higher_is_better { 1.0 } else { -1.0 };
        let original = (1.0, sign * metric.original);
        let place = |p: &SweepPoint| Some((p.ratio_reached?, sign * p.metric?));
        let places: Vec<Option<(f64, f64)>> = self.points.iter().map(place).collect();
        let beats = |a: (f64, f64), b: (f64, f64)| a.0 >= b.0 && a.1 >= b.1 && a != b;
        for (point, here) in self.points.iter_mut().zip(&places) {
            let Some(here) = *here else { continue };
            let others = places.iter().flatten().chain([&original]);
            point.dominated = others.into_iter().any(|&other| beats(other, here));
        }
        let front: Vec<usize> = (0..places.len())
            .filter(|&i| places[i].is_some() && !self.points[i].dominated)
            .collect();
        let at = |i: usize| places[i].unwrap_or(original);
        let knee = knee(original, &front.iter().map(|&i| at(i)).collect::<Vec<_>>());
        if let Some(i) = knee.map(|k| front[k]) {
            self.points[i].knee = true;
            self.knee = Some(self.points[i].ratio_asked);
        }
        let Some(most) = self.max_drop else { return };
        let within = (0..places.len()).filter(|&i| self.points[i].drop.is_some_and(|d| d <= most));
        if let Some(i) = within.max_by(|&a, &b| at(a).0.total_cmp(&at(b).0)) {
            self.points[i].within_max_drop = true;
            self.largest_within_max_drop = Some(self.points[i].ratio_asked);
        }
    }
}

impl View for Sweep {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        let mut out = String::new();
        let (name, unit) = match &self.metric {
            Some(metric) => (metric.name.clone(), metric.unit.as_str()),
            None => ("metric".to_owned(), ""),
        };
        let value = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| value_text(v, unit));
        let plain = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), figure);
        let mut table = Table::new(&[
            ">asked", ">reached", ">metric", ">lost", ">bytes", ">params", ">MACs", ">ms", "file",
            "",
        ]);
        table.row(vec![
            "1".to_owned(),
            "1".to_owned(),
            value(self.metric.as_ref().map(|m| m.original)),
            "0".to_owned(),
            count(self.model.bytes),
            count(self.model.params),
            maybe_count(self.model.macs),
            plain(self.latency_ms),
            self.model.name.clone(),
            "original".to_owned(),
        ]);
        for point in &self.points {
            let mut marks = Vec::new();
            marks.extend(point.reason.as_ref().map(|reason| format!("out of reach: {reason}")));
            let flags = [
                (point.knee, "knee"),
                (point.within_max_drop, "largest within --max-drop"),
                (point.dominated, "dominated"),
                (point.resumed, "from an earlier run"),
            ];
            marks.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
            let ratio = |r: f64| format!("{r:.3}");
            let cells = vec![
                point.ratio_asked.to_string(),
                point.ratio_reached.map_or_else(|| "-".to_owned(), ratio),
                value(point.metric),
                point.drop.map_or_else(|| "-".to_owned(), |drop| format!("{drop:.2}")),
                maybe_count(point.bytes),
                maybe_count(point.params),
                maybe_count(point.macs),
                plain(point.latency_ms),
                point.file.clone().unwrap_or_else(|| "-".to_owned()),
                marks.join(", "),
            ];
            let weak = point.dominated || point.status != PointStatus::Done;
            if weak { table.dim_row(cells) } else { table.row(cells) }
        }
        table.write(&mut out, style);
        out.push('\n');
        if let Some(metric) = &self.metric {
            let samples = count(metric.samples as u64);
            let title = style.bold(&format!("{name} on {samples} samples"));
            let _ = writeln!(out, "{title} ({})", metric.source);
        }
        if let Some(knee) = self.knee {
            let _ = writeln!(out, "{} at {knee}", style.bold("knee"));
        }
        if let Some(most) = self.max_drop {
            let found = match self.largest_within_max_drop {
                Some(ratio) => format!("at {ratio}"),
                None => "at none of these ratios".to_owned(),
            };
            let _ = writeln!(out, "{} {found}", style.bold(&format!("a drop of {most} holds")));
        }
        let _ = writeln!(out, "{} {:.1} s", style.bold("time"), self.seconds);
        for point in &self.points {
            for missed in &point.missed {
                let title = style.warning("missed:");
                let _ = writeln!(out, "{title} at {}: {missed}", point.ratio_asked);
            }
        }
        warnings(&mut out, &self.warnings, style);
        out
    }
}

impl Sweep {
    /// Whether something that was asked for was missed: a ratio, or the drop at every one.
    #[must_use]
    pub fn missed(&self) -> bool {
        self.points.iter().any(|p| p.status != PointStatus::Done || !p.missed.is_empty())
            || (self.max_drop.is_some() && self.largest_within_max_drop.is_none())
    }
}

/// The point of a front, from the original on, that stands highest above the straight line between its
/// ends, ratios by their logarithms; none where it bends nowhere.
fn knee(original: (f64, f64), front: &[(f64, f64)]) -> Option<usize> {
    let smallest = front.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0))?;
    let (width, lost) = (smallest.0.ln(), original.1 - smallest.1);
    if width <= 0.0 || lost <= 0.0 {
        return None;
    }
    // On the line, the share that is lost is that of the way to the smallest.
    let above = |&(ratio, value): &(f64, f64)| ratio.ln() / width - (original.1 - value) / lost;
    let heights = front.iter().map(above).enumerate();
    heights.filter(|(_, height)| *height > BEND).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(points: &[(f64, f64)]) -> Sweep {
        let point = |&(ratio, metric): &(f64, f64)| SweepPoint {
            ratio_asked: ratio,
            ratio_reached: Some(ratio),
            metric: Some(metric),
            drop: Some(90.0 - metric),
            ..SweepPoint::default()
        };
        let metric = SweepMetric {
            name: "top1".into(),
            higher_is_better: true,
            original: 90.0,
            ..SweepMetric::default()
        };
        let points = points.iter().map(point).collect();
        Sweep { metric: Some(metric), points, max_drop: Some(1.0), ..Sweep::default() }
    }

    #[test]
    fn a_bend_is_a_knee_and_what_others_beat_is_marked() {
        let mut front = sweep(&[(1.5, 90.0), (2.0, 89.7), (3.0, 89.8), (4.0, 89.2), (8.0, 70.0)]);
        front.points.push(SweepPoint {
            ratio_asked: 99.0,
            status: PointStatus::OutOfReach,
            ..SweepPoint::default()
        });
        front.mark();
        let dominated: Vec<bool> = front.points.iter().map(|p| p.dominated).collect();
        assert_eq!(dominated, [false, true, false, false, false, false]);
        assert_eq!((front.knee, front.largest_within_max_drop), (Some(4.0), Some(4.0)));
        assert!(front.points[3].knee && front.points[3].within_max_drop);
    }

    #[test]
    fn a_straight_front_has_no_knee() {
        let mut front = sweep(&[(2.0, 80.0), (4.0, 70.0), (8.0, 60.0)]);
        front.mark();
        assert_eq!((front.knee, front.largest_within_max_drop), (None, None));
        let mut better = sweep(&[(2.0, 91.0), (4.0, 91.5)]);
        better.mark();
        assert!(better.points[0].dominated && better.knee.is_none());
        assert_eq!(better.largest_within_max_drop, Some(4.0));
    }
}
