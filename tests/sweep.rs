//! Several ratios at once, on the digits.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn run(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .current_dir(fixture(""))
        .args(line.split_whitespace())
        .output()
        .expect("the program runs")
}

fn json(line: &str) -> (Value, i32) {
    let output = run(line);
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{line}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
    (value, output.status.code().expect("a code"))
}

const SMALL: &str = "--data mnist_train.npz --test mnist_heldout.npz --calibration-samples 200 \
                     --search-samples 200 --max-evals 16";

fn sweep(folder: &Path, ratios: &str, more: &str) -> (Value, i32) {
    let folder = folder.display();
    json(&format!("sweep mnist_conv.onnx {folder} --ratios {ratios} {SMALL} --json {more}"))
}

/// The bytes of all files but those that hold times.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let kept = entries.filter(|p| {
        let name = p.to_string_lossy();
        name.ends_with(".onnx") || name.ends_with(".plan.json")
    });
    kept.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap()))
        .collect()
}

/// What the front says of a file is what the other commands find in it.
#[test]
fn the_front_is_that_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let (front, code) = sweep(&folder, "8,2,4,100000", "--max-drop 2");
    assert_eq!(code, 3, "one ratio is out of reach");
    let written: Value =
        serde_json::from_slice(&fs::read(folder.join("front.json")).unwrap()).unwrap();
    assert_eq!(front["points"], written["points"]);
    let points = front["points"].as_array().unwrap();
    let asked: Vec<f64> = points.iter().map(|p| p["ratio_asked"].as_f64().unwrap()).collect();
    assert_eq!(asked, [2.0, 4.0, 8.0, 100_000.0]);
    assert_eq!(points[3]["status"], "out-of-reach");
    assert!(points[3]["file"].is_null() && points[3]["reason"].as_str().unwrap().contains("ratio"));
    let original = fs::metadata(fixture("mnist_conv.onnx")).unwrap().len() as f64;
    let metric = front["metric"]["original"].as_f64().unwrap();
    let mut places = vec![(1.0, metric)];
    for (point, asked) in points[..3].iter().zip(asked) {
        let file = folder.join(point["file"].as_str().unwrap());
        let bytes = fs::metadata(&file).unwrap().len();
        assert_eq!(point["bytes"], bytes);
        let reached = point["ratio_reached"].as_f64().unwrap();
        assert!(reached >= asked && (reached - original / bytes as f64).abs() < 1e-9, "{point}");
        let line = format!("eval {} --data mnist_heldout.npz --json", file.display());
        let value = json(&line).0["metric"]["value"].as_f64().unwrap();
        assert_eq!(point["metric"], value);
        let drop = point["drop"].as_f64().unwrap();
        assert!((drop - (metric - value)).abs() < 1e-9 && drop < 20.0, "{drop}");
        let line = format!("inspect {} --json", file.display());
        assert_eq!(json(&line).0["totals"]["params"], point["params"]);
        places.push((reached, value));
        // The plan makes the same file again.
        let (plan, again) =
            (folder.join(point["plan"].as_str().unwrap()), dir.path().join("again.onnx"));
        let line = format!("apply mnist_conv.onnx {} {}", plan.display(), again.display());
        assert!(run(&line).status.success());
        assert_eq!(fs::read(&again).unwrap(), fs::read(&file).unwrap());
    }
    // Searched beside the others, a ratio ends as it does alone.
    let alone = dir.path().join("alone.onnx");
    let line = format!("mnist_conv.onnx {} --ratio 4 {SMALL}", alone.display());
    assert!(run(&line).status.success());
    let beside = folder.join(points[1]["file"].as_str().unwrap());
    assert_eq!(fs::read(&alone).unwrap(), fs::read(&beside).unwrap());
    // Marks, worked out anew.
    for (point, &here) in points[..3].iter().zip(&places[1..]) {
        let beaten = places.iter().any(|&p| p.0 >= here.0 && p.1 >= here.1 && p != here);
        assert_eq!(point["dominated"], beaten);
    }
    let within = points[..3].iter().filter(|p| p["drop"].as_f64().unwrap() <= 2.0);
    let largest = within.max_by(|a, b| {
        let reached = |p: &Value| p["ratio_reached"].as_f64().unwrap();
        reached(a).total_cmp(&reached(b))
    });
    assert_eq!(
        front["largest_within_max_drop"],
        largest.map_or(Value::Null, |p| p["ratio_asked"].clone())
    );
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["sweep"]["points"], front["points"]);
    assert_eq!(data["reports"][1]["report"]["output"]["bytes"], points[1]["bytes"]);
}

/// A sweep that was stopped goes on to the same files; what is complete is left alone, and what was
/// changed is made again.
#[test]
fn a_sweep_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let resumed = |front: &Value| -> Vec<bool> {
        let points = front["points"].as_array().unwrap();
        points.iter().map(|p| p["resumed"].as_bool().unwrap()).collect()
    };
    let (front, code) = sweep(&whole, "3,6", "");
    assert_eq!((code, resumed(&front)), (0, vec![false, false]));
    // As after an interruption: the smallest comes first.
    sweep(&parts, "6", "");
    let (front, _) = sweep(&parts, "3,6", "--threads 1");
    assert_eq!(resumed(&front), [false, true]);
    assert!(files(&whole) == files(&parts), "the same files");
    let (again, _) = sweep(&parts, "3,6", "");
    assert_eq!(resumed(&again), [true, true]);
    assert_eq!(again["points"][0]["metric"], front["points"][0]["metric"]);

    fs::write(parts.join("mnist_conv-3x.onnx"), b"spoilt").unwrap();
    let (front, _) = sweep(&parts, "3,6", "");
    assert_eq!(resumed(&front), [false, true]);
    assert!(files(&whole) == files(&parts), "made again");
    let (front, _) = sweep(&parts, "6", "--seed 1");
    assert_eq!(resumed(&front), [false], "other options");
}
