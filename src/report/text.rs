//! Reports for a person to read.

use std::fmt::Write;

use super::models::{BenchReport, BenchTable, CheckReport, EvalReport, InspectReport};
use super::table::{Style, Table, count, factor, figure, maybe_count, shape};
use super::{Action, Layer, Report};

/// A report that can be shown as text.
pub trait View {
    /// The text, with a newline at its end; with escape sequences where `colour` is set.
    fn text(&self, colour: bool) -> String;
}

impl View for Report {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        let mut out = String::new();
        layers(&mut out, &self.layers, style);
        sizes(&mut out, self, style);
        quality(&mut out, self, style);
        effort(&mut out, self, style);
        for missed in &self.missed {
            let _ = writeln!(out, "{} {missed}", style.warning("missed:"));
        }
        warnings(&mut out, &self.warnings, style);
        out
    }
}

fn layers(out: &mut String, layers: &[Layer], style: Style) {
    if layers.is_empty() {
        return;
    }
    let mut table = Table::new(&[
        "layer", "op", "shape", "scheme", ">rank", ">params", "", ">", ">bits", "note",
    ]);
    for layer in layers {
        let done = layer.action == Action::Factorize;
        let ranks = [layer.rank_in, layer.rank].into_iter().flatten();
        let mut rank = ranks.map(|r| r.to_string()).collect::<Vec<_>>().join("+");
        if let (true, Some(full)) = (done, layer.full_rank) {
            let _ = write!(rank, "/{full}");
        }
        let scheme = match (layer.action, &layer.scheme) {
            (Action::Factorize, Some(scheme)) => scheme.clone(),
            (Action::Factorize, None) => "factorized".to_owned(),
            (Action::Keep, _) => "kept".to_owned(),
            (Action::Skip, _) => "-".to_owned(),
        };
        let cells = vec![
            layer.name.clone(),
            layer.op_type.clone(),
            shape(&layer.shape),
            scheme,
            if done { rank } else { String::new() },
            count(layer.params_before),
            if done { "->".to_owned() } else { String::new() },
            if done { count(layer.params_after) } else { String::new() },
            layer.bits.map(|b| b.to_string()).unwrap_or_default(),
            layer.reason.clone().unwrap_or_default(),
        ];
        if done { table.row(cells) } else { table.dim_row(cells) }
    }
    table.write(out, style);
    out.push('\n');
}

fn sizes(out: &mut String, report: &Report, style: Style) {
    let (model, output) = (&report.model, &report.output);
    let mut table = Table::new(&["", ">original", ">output", ">factor"]);
    let mut counts = |name: &str, before: Option<u64>, after: Option<u64>| {
        if let (Some(before), Some(after)) = (before, after) {
            let factor = factor(before as f64, after as f64);
            table.row(vec![name.to_owned(), count(before), count(after), factor]);
        }
    };
    counts("params", Some(model.params), Some(output.params));
    counts("MACs", model.macs, output.macs);
    counts("bytes", Some(model.bytes), Some(output.bytes));
    counts("bytes, gzip", model.gzip_bytes, output.gzip_bytes);
    if let Some(latency) = &report.latency_ms {
        table.row(vec![
            "latency, ms".to_owned(),
            figure(latency.original),
            figure(latency.output),
            factor(latency.original, latency.output),
        ]);
    }
    table.write(out, style);
    out.push('\n');
}

fn quality(out: &mut String, report: &Report, style: Style) {
    if let Some(metric) = &report.metric {
        let title = format!("{} on {} samples", metric.name, count(metric.samples as u64));
        let source =
            if metric.source.is_empty() { String::new() } else { format!(" ({})", metric.source) };
        let mut line = format!("{}{source}: ", style.bold(&title));
        let stages = [
            ("original", Some(metric.original)),
            ("factorized", metric.factorized),
            ("tuned", metric.tuned),
            ("quantized", metric.quantized),
            ("written", metric.written),
        ];
        let stages: Vec<String> = stages
            .into_iter()
            .filter_map(|(name, value)| {
                Some(format!("{name} {}", value_text(value?, &metric.unit)))
            })
            .collect();
        line.push_str(&stages.join(", "));
        let _ = writeln!(out, "{line}");
    }
    if let Some(metric) = &report.file_metric {
        let written = metric.written.map_or_else(|| "-".to_owned(), figure);
        let _ = writeln!(
            out,
            "{}: original {}, written {written}",
            style.bold(&metric.name),
            figure(metric.original)
        );
    }
    if let Some(check) = &report.validation {
        let on = match check.pieces {
            Some(pieces) => format!("in {} pieces, one after another", count(pieces as u64)),
            None => format!("on {} samples", count(check.samples as u64)),
        };
        let _ = writeln!(
            out,
            "{} {on}: outputs differ by {} at most, {} of the largest",
            style.bold(&format!("{} against the evaluator", check.runtime)),
            figure(check.max_abs_difference),
            figure(check.max_relative_difference)
        );
    }
    let ratio = &report.ratio;
    let asked = ratio.asked.map(|a| format!(", asked for {a:.3}")).unwrap_or_default();
    let reached = ratio.reached.map_or_else(|| "-".to_owned(), |r| format!("{r:.3}"));
    let _ = writeln!(out, "{} {reached} of {}{asked}", style.bold("ratio"), ratio.target);
    let _ = writeln!(out, "{} {}", style.bold("wrote"), report.output.path);
}

fn effort(out: &mut String, report: &Report, style: Style) {
    if let Some(search) = &report.search {
        let correlation = search
            .predicted_vs_measured_rank_correlation
            .map(|c| format!(", predicted against measured {c:.2}"))
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "{} {}, width {}: {} networks scored, {} full passes{correlation}",
            style.bold("search"),
            search.mode,
            search.beam,
            count(search.evaluations),
            figure(search.full_pass_equivalents)
        );
        if let Some(drop) = &search.drop {
            let _ = writeln!(
                out,
                "{} {} +- {} points of the metric on {} samples of the search",
                style.bold("loses"),
                figure(drop.points),
                figure(drop.standard_error),
                count(drop.samples as u64)
            );
        }
    }
    if let Some(training) = &report.training {
        let images = if training.augmentation.is_empty() {
            String::new()
        } else {
            format!(", {}", training.augmentation)
        };
        let _ = writeln!(
            out,
            "{} on {} samples ({}){images}",
            style.bold("training"),
            count(training.samples as u64),
            training.source
        );
        for stage in &training.stages {
            let tails = match (stage.tail_before, stage.tail_after) {
                (Some(before), Some(after)) => {
                    format!(", energy beyond the ranks {} -> {}", figure(before), figure(after))
                }
                _ => String::new(),
            };
            let at = match (stage.ratio, report.ratio.asked) {
                (Some(ratio), Some(asked)) if ratio < asked => format!(" at ratio {ratio:.2}"),
                _ => String::new(),
            };
            let _ = writeln!(
                out,
                "  {}{at}: {:.1} epochs, {} steps at rates up to {:.1e} in {:.0} s; loss on the search's samples {} -> {}{tails}",
                stage.stage,
                stage.epochs,
                count(stage.steps as u64),
                stage.learning_rate,
                stage.seconds,
                figure(stage.score_before),
                figure(stage.score_after)
            );
        }
        for obstacle in &training.obstacles {
            let _ = writeln!(
                out,
                "  no gradient passes {obstacle} stay as the sequential least squares left them"
            );
        }
    }
    if let Some(quantization) = &report.quantization {
        let _ = writeln!(
            out,
            "{} {} ({}): {} weights of {} elements, {:.2} bits per element of the model, {} -> {} bytes",
            style.bold("quantization"),
            quantization.form,
            quantization.rounding,
            count(quantization.weights as u64),
            count(quantization.params),
            quantization.bits_per_param,
            count(quantization.bytes_before),
            count(report.output.bytes)
        );
        for kept in &quantization.kept {
            let _ = writeln!(out, "  float: `{}`, {}", kept.name, kept.reason);
        }
    }
    let seconds = &report.seconds;
    let stages = [
        ("load", seconds.load),
        ("calibrate", seconds.calibrate),
        ("factorize", seconds.factorize),
        ("search", seconds.search),
        ("tune", seconds.tune),
        ("quantize", seconds.quantize),
        ("validate", seconds.validate),
    ];
    let stages: Vec<String> = stages
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {:.1}", value?)))
        .collect();
    let stages =
        if stages.is_empty() { String::new() } else { format!(" ({})", stages.join(", ")) };
    let memory = report
        .peak_rss_bytes
        .map(|bytes| format!(", {} MB at most", count(bytes / 1_000_000)))
        .unwrap_or_default();
    let _ = writeln!(out, "{} {:.1} s{stages}{memory}", style.bold("time"), seconds.total);
}

/// A metric's value with its unit.
pub(super) fn value_text(value: f64, unit: &str) -> String {
    if unit.trim() == "%" {
        format!("{value:.2}{unit}")
    } else {
        format!("{}{unit}", figure(value))
    }
}

pub(super) fn warnings(out: &mut String, warnings: &[String], style: Style) {
    for warning in warnings {
        let _ = writeln!(out, "{} {warning}", style.warning("warning:"));
    }
}

impl View for InspectReport {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        let mut out = String::new();
        let model = &self.model;
        let opset = model.opset.map_or_else(|| "?".to_owned(), |o| o.to_string());
        let _ = writeln!(
            out,
            "{}: IR {}, opset {opset}, {} nodes, {} bytes",
            style.bold(&model.name),
            model.ir_version,
            count(model.nodes as u64),
            count(model.bytes)
        );
        for (role, values) in [("input", &self.inputs), ("output", &self.outputs)] {
            for value in values {
                let open = || "?".to_owned();
                let dims: Vec<String> =
                    value.shape.iter().map(|d| d.map_or_else(open, |d| d.to_string())).collect();
                let _ = writeln!(
                    out,
                    "{role} {}: {} [{}]",
                    style.bold(&value.name),
                    value.data_type,
                    dims.join(", ")
                );
            }
        }
        out.push('\n');
        let mut table = Table::new(&[
            "weight",
            "node",
            "op",
            "shape",
            ">params",
            ">MACs",
            ">rank bound",
            "note",
        ]);
        for layer in &self.layers {
            let bound = match (layer.rank_bound, layer.full_rank) {
                (Some(bound), Some(full)) => format!("{bound}/{full}"),
                (Some(bound), None) => bound.to_string(),
                _ => "-".to_owned(),
            };
            let cells = vec![
                layer.name.clone(),
                layer.node.clone(),
                layer.op_type.clone(),
                shape(&layer.shape),
                count(layer.params),
                maybe_count(layer.macs),
                bound,
                layer.reason.clone().unwrap_or_default(),
            ];
            if layer.eligible { table.row(cells) } else { table.dim_row(cells) }
        }
        table.write(&mut out, style);
        let totals = &self.totals;
        let _ = writeln!(
            out,
            "\n{} {} params, {} MACs; {} layers can be factorized: {} params, {} MACs",
            style.bold("total"),
            count(totals.params),
            maybe_count(totals.macs),
            count(totals.eligible_layers as u64),
            count(totals.eligible_params),
            maybe_count(totals.eligible_macs)
        );
        warnings(&mut out, &self.warnings, style);
        out
    }
}

impl View for EvalReport {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        let metric = &self.metric;
        let samples =
            metric.samples.map(|n| format!("{} samples, ", count(n as u64))).unwrap_or_default();
        let mut out = format!(
            "{} {} ({samples}{}, {:.1} s)\n",
            style.bold(&metric.name),
            value_text(metric.value, &metric.unit),
            self.runtime,
            self.seconds
        );
        warnings(&mut out, &self.warnings, style);
        out
    }
}

impl View for CheckReport {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        let mut out = String::new();
        let mut table = Table::new(&["output", "shape", ">max difference", ">relative", "verdict"]);
        for output in &self.outputs {
            let shapes = if output.shape_a == output.shape_b {
                shape(&output.shape_a)
            } else {
                format!("{} and {}", shape(&output.shape_a), shape(&output.shape_b))
            };
            let figures = [output.max_abs_difference, output.max_relative_difference]
                .map(|value| value.map_or_else(|| "-".to_owned(), figure));
            let [absolute, relative] = figures;
            let verdict = if output.equal { "equal" } else { "differs" };
            table.row(vec![output.name.clone(), shapes, absolute, relative, verdict.to_owned()]);
        }
        table.write(&mut out, style);
        let _ = writeln!(
            out,
            "{} within {} on {} samples in {}",
            style.bold(if self.equal { "equal" } else { "not equal" }),
            figure(self.tolerance),
            count(self.samples as u64),
            self.runtime
        );
        warnings(&mut out, &self.warnings, style);
        out
    }
}

impl View for BenchReport {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        let mut out = String::new();
        let mut table = Table::new(&["", ">median ms", ">min ms"]);
        table.row(vec!["first".to_owned(), figure(self.median_ms_a), figure(self.min_ms_a)]);
        table.row(vec!["second".to_owned(), figure(self.median_ms_b), figure(self.min_ms_b)]);
        table.write(&mut out, style);
        let _ = writeln!(
            out,
            "{} {:.2} over {} runs in {}, batch 1, one thread",
            style.bold("first / second"),
            self.ratio,
            count(self.runs as u64),
            self.runtime
        );
        warnings(&mut out, &self.warnings, style);
        out
    }
}

impl View for BenchTable {
    fn text(&self, colour: bool) -> String {
        let style = Style(colour);
        format!(
            "{} {}: {} {} take {} of the model's {} ms in {}\n",
            style.bold("latency table"),
            self.path,
            count(self.layers as u64),
            if self.layers == 1 { "layer" } else { "layers" },
            figure(self.layers_ms),
            figure(self.model_ms),
            self.runtime
        )
    }
}
