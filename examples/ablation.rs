//! What each part of the method adds: one run of `onnx-bsr` per row, each with one part more.
//!
//! `ablation MODEL --ratio R --data D [--test T] [any other option of onnx-bsr]`
//!
//! Runs the `onnx-bsr` that was built beside this program and prints a Markdown table of the
//! written file's metric in tract, the ratio reached, and the seconds that the run took.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Name of a row and the options that make it.
const ROWS: [(&str, &[&str]); 7] = [
    ("plain SVD", &["--statistics", "none", "--schemes", ONE_SCHEME, "--search", "start"]),
    ("whitened", &["--statistics", "whitened", "--schemes", ONE_SCHEME, "--search", "start"]),
    ("+ centred", &["--statistics", "centred", "--schemes", ONE_SCHEME, "--search", "start"]),
    ("+ sequential", &["--statistics", "sequential", "--schemes", ONE_SCHEME, "--search", "start"]),
    ("+ all schemes", &["--statistics", "sequential", "--search", "start"]),
    ("+ metric of the loss", &["--statistics", "loss", "--search", "start"]),
    ("+ beam", &["--statistics", "loss", "--search", "beam"]),
];

/// One factorization for each kind of layer.
const ONE_SCHEME: &str = "channel,matrix";

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (model, options) = given
        .split_first()
        .filter(|(_, options)| options.iter().any(|o| o == "--data"))
        .ok_or("usage: ablation MODEL --ratio R --data D [--test T] [options of onnx-bsr]")?;
    let own = std::env::current_exe()?;
    let program = own.parent().and_then(Path::parent).ok_or("no folder")?.join("onnx-bsr");
    if !program.exists() {
        return Err(format!("`{}` is not built: cargo build --release", program.display()).into());
    }
    let folder = tempfile::tempdir()?;
    let mut first = true;
    for (name, row) in ROWS {
        let output = Command::new(&program)
            .arg(model)
            .arg(folder.path().join("out.onnx"))
            .args(options)
            .args(row)
            .args(["--json", "--quiet"])
            .stderr(Stdio::inherit())
            .output()?;
        // A target that was missed is a result too.
        if !matches!(output.status.code(), Some(0 | 3)) {
            return Err(format!("{name}: ended with {}", output.status).into());
        }
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let metric = &report["metric"];
        let text = |value: &Value| value.as_f64().map_or("-".to_owned(), |v| format!("{v:.2}"));
        if first {
            let unit = metric["unit"].as_str().unwrap_or_default();
            println!("| | {}, {unit} | ratio | seconds |", metric["name"].as_str().unwrap_or("?"));
            println!("|---|---|---|---|");
            println!("| original | {} | 1 | |", text(&metric["original"]));
            first = false;
        }
        let reached = report["ratio"]["reached"].as_f64().unwrap_or(f64::NAN);
        let seconds = report["seconds"]["total"].as_f64().unwrap_or(f64::NAN);
        println!("| {name} | {} | {reached:.3} | {seconds:.1} |", text(&metric["written"]));
    }
    Ok(())
}
