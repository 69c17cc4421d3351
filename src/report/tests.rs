//! Views of full and of empty reports.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn full() -> Report {
    let layer = |action, reason: Option<&str>| Layer {
        name: "conv1.weight".into(),
        op_type: "Conv".into(),
        shape: vec![64, 32, 3, 3],
        action,
        scheme: Some("tucker".into()),
        rank: Some(12),
        rank_in: Some(10),
        full_rank: Some(64),
        bits: Some(32),
        params_before: 18_432,
        params_after: 2_168,
        macs_before: Some(1000),
        macs_after: Some(100),
        reason: reason.map(str::to_owned),
        spectrum: Some(Spectrum {
            scheme: "tucker".into(),
            rank_in: Some(10),
            ranks: vec![1, 12, 64],
            errors: vec![0.5, 0.04, 0.0],
        }),
    };
    Report {
        schema_version: SCHEMA_VERSION,
        model: ModelSize {
            name: "m.onnx".into(),
            opset: Some(17),
            params: 20_000,
            macs: Some(5000),
            bytes: 80_000,
            gzip_bytes: Some(70_000),
        },
        output: OutputSize {
            path: "out.onnx".into(),
            params: 5_000,
            macs: Some(1000),
            bytes: 20_000,
            gzip_bytes: Some(17_500),
        },
        ratio: Ratio { asked: Some(4.0), reached: Some(4.01), target: "bytes".into() },
        metric: Some(Metric {
            name: "top1".into(),
            unit: "%".into(),
            higher_is_better: true,
            source: "test.npz".into(),
            samples: 1000,
            original: 99.2,
            factorized: Some(98.7),
            tuned: Some(99.0),
            quantized: Some(98.9),
            written: Some(98.7),
        }),
        file_metric: Some(FileMetric {
            name: "./judge -x".into(),
            original: 0.75,
            written: Some(0.5),
        }),
        latency_ms: Some(Latency {
            original: 1.0,
            output: 0.4,
            original_min: 0.9,
            output_min: 0.3,
            runs: 50,
        }),
        seconds: Seconds { load: Some(0.1), total: 3.25, ..Seconds::default() },
        peak_rss_bytes: Some(123_000_000),
        search: Some(Search {
            mode: "beam".into(),
            beam: 4,
            evaluations: 321,
            full_pass_equivalents: 120.5,
            layer_passes: 1_000_000,
            samples_run: 50_000,
            stopped: "no change gains".to_owned(),
            predicted_vs_measured_rank_correlation: Some(0.93),
            drop: Some(Drop { points: 0.75, standard_error: 0.125, samples: 800 }),
            trials: vec![
                Trial { loss: 0.31, evaluation: 1, samples: 800, taken: true, ..Trial::default() },
                Trial {
                    seconds: 1.5,
                    evaluation: 2,
                    predicted: Some(0.29),
                    loss: 0.3,
                    samples: 800,
                    taken: true,
                },
            ],
        }),
        training: Some(Training {
            source: "train.npz".into(),
            samples: 4000,
            augmentation: "flips".into(),
            stages: vec![TrainingStage {
                stage: "msr".into(),
                ratio: Some(4.0),
                epochs: 2.0,
                steps: 125,
                learning_rate: 1e-3,
                seconds: 3.0,
                score_before: 0.5,
                score_after: 0.4,
                fitted_before: Some(0.5),
                fitted_after: Some(0.3),
                tail_before: Some(0.2),
                tail_after: Some(0.1),
                setbacks: 0,
                checks: vec![
                    TrainingCheck { held: 0.5, fitted: Some(0.5), ..TrainingCheck::default() },
                    TrainingCheck { step: 60, loss: Some(0.45), held: 0.4, fitted: Some(0.3) },
                ],
            }],
            obstacles: vec!["node `x` (OneHot): `w`".into()],
        }),
        quantization: Some(Quantization {
            form: "int8".into(),
            rounding: "compensated".into(),
            weights: 2,
            params: 4900,
            bits_per_param: 8.4,
            bytes_before: 25_000,
            kept: vec![KeptWeight { name: "w".into(), reason: "too small to gain".into() }],
        }),
        layers: vec![layer(Action::Factorize, None), layer(Action::Skip, Some("depthwise"))],
        validation: Some(Validation {
            runtime: "tract".into(),
            samples: 100,
            max_abs_difference: 1e-5,
            max_relative_difference: 1e-6,
            pieces: None,
        }),
        missed: vec!["top1 fell by 0.50 points".into()],
        warnings: vec!["the data is small".into()],
        program: Program {
            name: "onnx-bsr".into(),
            version: "0.1.0".into(),
            tract: "0.23.9".into(),
            platform: "linux x86_64".into(),
            threads: 2,
            seed: 0,
            command: vec!["onnx-bsr".into(), "m.onnx".into(), "out file.onnx".into()],
        },
    }
}

fn inspect() -> InspectReport {
    let value = InspectValue { name: "x".into(), data_type: "F32".into(), shape: vec![None] };
    InspectReport {
        schema_version: SCHEMA_VERSION,
        model: InspectModel { name: "m.onnx".into(), nodes: 1, ..InspectModel::default() },
        inputs: vec![value.clone()],
        outputs: vec![value],
        layers: vec![InspectLayer { name: "w".into(), ..InspectLayer::default() }],
        totals: InspectTotals::default(),
        warnings: Vec::new(),
    }
}

fn eval() -> EvalReport {
    EvalReport {
        schema_version: SCHEMA_VERSION,
        metric: EvalMetric {
            name: "mse".into(),
            samples: Some(3),
            value: 0.25,
            ..EvalMetric::default()
        },
        runtime: "tract".into(),
        seconds: 1.0,
        warnings: vec!["slow".into()],
    }
}

fn check() -> CheckReport {
    CheckReport {
        schema_version: SCHEMA_VERSION,
        runtime: "tract".into(),
        samples: 3,
        seconds: 1.0,
        tolerance: 1e-4,
        equal: false,
        outputs: vec![CheckOutput { name: "y".into(), ..CheckOutput::default() }],
        warnings: Vec::new(),
    }
}

fn bench() -> BenchReport {
    BenchReport {
        schema_version: SCHEMA_VERSION,
        runtime: "tract".into(),
        runs: 50,
        median_ms_a: 2.0,
        min_ms_a: 1.5,
        median_ms_b: 1.0,
        min_ms_b: 0.5,
        ratio: 2.0,
        warnings: Vec::new(),
    }
}

fn bench_table() -> BenchTable {
    BenchTable {
        schema_version: SCHEMA_VERSION,
        path: "table.json".into(),
        machine: "x86_64 a processor".into(),
        runtime: "tract".into(),
        layers: 3,
        model_ms: 2.0,
        layers_ms: 1.5,
    }
}

/// The paths of all fields in a value, as `docs/json.md` spells them.
fn paths(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path =
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                paths(field, &path, found);
                found.insert(path);
            }
        }
        Value::Array(elements) => {
            elements.iter().for_each(|e| paths(e, &format!("{prefix}[]"), found));
        }
        _ => {}
    }
}

/// The fields that a section of `docs/json.md` lists.
fn documented(title: &str) -> BTreeSet<String> {
    include_str!("../../docs/json.md")
        .split("\n## ")
        .find(|section| section.lines().next() == Some(title))
        .expect("the section")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect()
}

#[test]
fn every_field_is_documented_and_no_other() {
    for (title, json) in [
        ("Report", json(&full())),
        ("Inspect", json(&inspect())),
        ("Eval", json(&eval())),
        ("Check", json(&check())),
        ("Bench", json(&bench())),
        ("Bench table", json(&bench_table())),
        ("Sweep", json(&sweep())),
    ] {
        let mut found = BTreeSet::new();
        paths(&serde_json::from_str(&json).expect("JSON"), "", &mut found);
        assert_eq!(found, documented(title), "{title}");
    }
}

#[test]
fn numbers_that_json_lacks_are_null() {
    let mut report = full();
    report.ratio.reached = Some(f64::NAN);
    let value: Value = serde_json::from_str(&json(&report)).expect("JSON");
    assert!(value["ratio"]["reached"].is_null());
    assert_eq!(value["layers"][0]["action"], "factorize");
}

#[test]
fn text_says_what_happened() {
    let text = full().text(false);
    for part in [
        "conv1.weight  Conv  64x32x3x3  tucker  10+12/64  18,432  ->  2,168",
        "depthwise",
        "bytes          80,000  20,000   4.00x",
        "latency, ms      1.00   0.400   2.50x",
        "top1 on 1,000 samples (test.npz): original 99.20%, factorized 98.70%, tuned 99.00%, \
         quantized 98.90%, written 98.70%",
        "./judge -x: original 0.750, written 0.500",
        "quantization int8 (compensated): 2 weights of 4,900 elements, 8.40 bits per element",
        "float: `w`, too small to gain",
        "ratio 4.010 of bytes, asked for 4.000",
        "wrote out.onnx",
        "321 networks scored",
        "time 3.2 s (load 0.1), 123 MB at most",
        "missed: top1 fell by 0.50 points",
        "warning: the data is small",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!text.contains('\x1b') && text.lines().all(|line| line.trim_end() == line));
    assert!(full().text(true).contains("\x1b[1m"));
}

#[test]
fn text_leaves_out_what_is_not_known() {
    let report = Report {
        metric: None,
        latency_ms: None,
        search: None,
        validation: None,
        layers: Vec::new(),
        peak_rss_bytes: None,
        missed: Vec::new(),
        warnings: Vec::new(),
        ..full()
    };
    let text = report.text(false);
    assert!(!text.contains("top1") && !text.contains("latency") && text.contains("params"));
    for text in [
        inspect().text(false),
        eval().text(false),
        check().text(false),
        bench().text(true),
        bench_table().text(true),
    ] {
        assert!(text.ends_with('\n') && text.lines().count() >= 1);
    }
}

/// What the script of a page is given.
fn data(page: &str) -> Value {
    let begin = "<script type=\"application/json\" id=\"data\">";
    let after = page.split(begin).nth(1).expect("the data");
    // As a browser finds the end of the element.
    serde_json::from_str(after.split("</").next().expect("its end")).expect("JSON")
}

#[test]
fn a_page_has_the_figures_of_the_json() {
    let report = full();
    let text = page(&Page::Compression { report: &report });
    let json: Value = serde_json::from_str(&json(&report)).expect("JSON");
    assert_eq!(data(&text)["report"], json);
    assert_eq!(data(&text)["kind"], "compression");
    assert!(text.len() < 400_000, "{}", text.len());
    for outside in ["http-equiv=\"refresh\"", " src=", "@import", "url(", "sourceMappingURL"] {
        assert!(!text.contains(outside), "`{outside}`");
    }
}

/// No name of a model gets out of the place that it is in.
#[test]
fn names_in_a_page_are_text() {
    let hostile = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&\u{2028}";
    let mut report = full();
    report.model.name = hostile.into();
    report.layers[0].name = hostile.into();
    report.warnings.push(hostile.into());
    let text = page(&Page::Compression { report: &report });
    assert_eq!(data(&text)["report"]["layers"][0]["name"], hostile);
    assert!(!text.contains("alert(1)</script>") && !text.contains("<img src=x"));
    assert_eq!(text.matches("</script>").count(), 3);
    let title = text.split("<title>").nth(1).and_then(|t| t.split("</title>").next());
    assert!(title.is_some_and(|t| !t.contains('<') && t.starts_with("&lt;/script&gt;")));
}

fn sweep() -> Sweep {
    let point = SweepPoint {
        ratio_asked: 4.0,
        file: Some("m-4x.onnx".into()),
        ratio_reached: Some(4.01),
        metric: Some(98.7),
        drop: Some(0.5),
        ..SweepPoint::default()
    };
    let metric = SweepMetric { name: "top1".into(), original: 99.2, ..SweepMetric::default() };
    Sweep {
        schema_version: SCHEMA_VERSION,
        target: "bytes".into(),
        metric: Some(metric),
        max_drop: Some(1.0),
        points: vec![point],
        ..Sweep::default()
    }
}

#[test]
fn a_page_of_a_sweep_has_both() {
    let (sweep, report) = (sweep(), full());
    let reports = [PointReport { ratio: 4.0, report: Some(report.clone()) }];
    let text = page(&Page::Sweep { sweep: &sweep, reports: &reports });
    let parse = |text: String| -> Value { serde_json::from_str(&text).expect("JSON") };
    assert_eq!(data(&text)["sweep"], parse(json(&sweep)));
    assert_eq!(data(&text)["reports"][0]["report"], parse(json(&report)));
}

#[test]
fn weights_are_sorted_and_left_out() {
    let layer = |name: &str, params, macs| InspectLayer {
        name: name.into(),
        node: format!("node {name}"),
        params,
        macs,
        ..InspectLayer::default()
    };
    let report = || InspectReport {
        layers: vec![layer("b.w", 5, None), layer("a.w", 9, Some(1)), layer("c.x", 7, Some(4))],
        ..inspect()
    };
    let names = |globs: &[&str], order| {
        let globs: Vec<String> = globs.iter().map(|&glob| glob.to_owned()).collect();
        let mut report = report();
        report.select(&globs, order)?;
        let names = report.layers.into_iter().map(|l| l.name).collect::<Vec<_>>();
        Ok::<_, crate::error::Error>(names.join(" "))
    };
    assert_eq!(names(&[], None).unwrap(), "b.w a.w c.x");
    assert_eq!(names(&["*.w"], Some(Order::Name)).unwrap(), "a.w b.w");
    assert_eq!(names(&["*.x", "node b*"], Some(Order::Params)).unwrap(), "c.x b.w");
    assert_eq!(names(&[], Some(Order::Macs)).unwrap(), "c.x a.w b.w");
    assert!(names(&["z*"], None).is_err() && names(&["{"], None).is_err());
}
