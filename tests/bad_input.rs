//! Whatever is wrong with what the program is given: one clear message, the right exit code, and
//! no file touched.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with good and bad files, removed at the end.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir().expect("a folder"));
        let model = fs::read(fixture("mnist_conv.onnx")).expect("the fixture");
        ground.write("model.onnx", &model);
        ground.write("old.onnx", &model);
        ground.write("empty.onnx", b"");
        ground.write("truncated.onnx", &model[..model.len() / 2]);
        ground.write("random.onnx", &noise(4096));
        ground.write("text.onnx", b"this is not a model\n");
        ground.write("empty.npz", b"");
        ground.write("random.npz", &noise(4096));
        ground.write("truncated.npz", &{
            let data = fs::read(fixture("mnist_heldout.npz")).expect("the fixture");
            data[..data.len() / 2].to_vec()
        });
        ground.write("good.npy", &npy("<f4", &[2, 1, 28, 28], &[0; 4 * 2 * 784]));
        ground.write("shape.npy", &npy("<f4", &[2, 1, 14, 14], &[0; 4 * 2 * 196]));
        ground.write("text.npy", &npy("<U4", &[2, 1, 28, 28], &[0; 16 * 2 * 784]));
        ground.write("complex.npy", &npy("<c8", &[2, 1, 28, 28], &[0; 8 * 2 * 784]));
        ground.write("pickled.npy", &npy("|O", &[2], &[0; 16]));
        ground.write("huge.npy", &npy("<f4", &[1 << 40, 1, 28, 28], &[0; 64]));
        ground.write("none.npy", &npy("<f4", &[0, 1, 28, 28], &[]));
        let nan = f32::NAN.to_le_bytes().repeat(2 * 784);
        ground.write("nan.npy", &npy("<f4", &[2, 1, 28, 28], &nan));
        ground.write("labels.npy", &npy("<i8", &[2], &[0; 16]));
        ground.write("three.npy", &npy("<i8", &[3], &[0; 24]));
        ground.write("high.npy", &npy("<i8", &[2], &[7; 16]));
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file");
    }

    /// Names and contents of all files.
    fn state(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut state: Vec<_> = fs::read_dir(self.0.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .map(|path| (path.clone(), fs::read(&path).unwrap_or_default()))
            .collect();
        state.sort();
        state
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
            .current_dir(self.0.path())
            .args(line.split_whitespace())
            .env_remove("RUST_LOG")
            .output()
            .expect("the program runs")
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Bytes without a pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// An array file of version 1.
fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    let header = format!("{dict:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// What is typed, the exit code, and words the message must have.
type Case = (&'static str, i32, &'static [&'static str]);

const CASES: &[Case] = &[
    // Models.
    ("model.onnx out.onnx", 2, &["--ratio"]),
    ("missing.onnx out.onnx --ratio 2", 1, &["missing.onnx", "hint"]),
    ("empty.onnx out.onnx --ratio 2", 1, &["empty.onnx", "not an ONNX model"]),
    ("truncated.onnx out.onnx --ratio 2", 1, &["truncated.onnx"]),
    ("random.onnx out.onnx --ratio 2", 1, &["random.onnx", "not an ONNX model"]),
    ("text.onnx out.onnx --ratio 2", 1, &["text.onnx", "not an ONNX model"]),
    ("inspect missing.onnx", 1, &["missing.onnx"]),
    ("inspect empty.onnx", 1, &["empty.onnx"]),
    ("inspect .", 1, &["can't read"]),
    ("check model.onnx empty.onnx", 1, &["empty.onnx"]),
    ("check truncated.onnx model.onnx", 1, &["truncated.onnx"]),
    ("bench random.onnx model.onnx", 1, &["random.onnx"]),
    ("bench model.onnx missing.onnx", 1, &["missing.onnx"]),
    ("eval empty.onnx --data good.npy --labels labels.npy", 1, &["empty.onnx"]),
    // Data.
    ("eval model.onnx", 2, &["--data"]),
    ("eval model.onnx --data missing.npz", 1, &["missing.npz"]),
    ("eval model.onnx --data empty.npz", 1, &["empty.npz"]),
    ("eval model.onnx --data random.npz", 1, &["random.npz"]),
    ("eval model.onnx --data truncated.npz", 1, &["truncated.npz"]),
    ("eval model.onnx --data shape.npy --labels labels.npy", 1, &["input", "14"]),
    ("eval model.onnx --data text.npy --labels labels.npy", 1, &["text.npy"]),
    ("eval model.onnx --data complex.npy --labels labels.npy", 1, &["complex.npy"]),
    ("eval model.onnx --data pickled.npy --labels labels.npy", 1, &["pickled.npy"]),
    ("eval model.onnx --data huge.npy --labels labels.npy", 1, &["huge.npy"]),
    ("eval model.onnx --data none.npy --labels labels.npy", 1, &["empty"]),
    ("eval model.onnx --data nan.npy --labels labels.npy", 1, &["nan.npy", "NaN"]),
    ("eval model.onnx --data good.npy", 1, &["label"]),
    ("eval model.onnx --data good.npy --metric top1", 1, &["top1", "labels"]),
    ("eval model.onnx --data good.npy --labels missing.npy", 1, &["missing.npy"]),
    ("eval model.onnx --data good.npy --labels three.npy", 1, &["three.npy", "3"]),
    ("eval model.onnx --data good.npy --labels high.npy", 1, &["label"]),
    ("check model.onnx model.onnx --data shape.npy", 1, &["14"]),
    // Options.
    ("model.onnx out.onnx --ratio 1", 2, &["--ratio", "more than 1"]),
    ("model.onnx out.onnx --ratio 0.5", 2, &["--ratio", "more than 1"]),
    ("model.onnx out.onnx --ratio NaN", 2, &["--ratio"]),
    ("model.onnx out.onnx --ratio many", 2, &["--ratio", "not a number"]),
    ("model.onnx out.onnx --ratio 2 --schemes svd", 2, &["svd", "channel-in"]),
    ("model.onnx out.onnx --ratio 2 --metric f1", 2, &["f1", "top1"]),
    ("check model.onnx model.onnx --shape nothing=1x2", 1, &["--shape", "nothing", "input"]),
    ("check model.onnx model.onnx --shape input=1x1x9x9", 1, &["--shape", "[1, 1, 9, 9]"]),
    ("bench model.onnx model.onnx --shape input=1x1x28", 1, &["--shape"]),
    ("bench model.onnx model.onnx --shape input=9999999999x1x28x28", 1, &["too large"]),
    // Output.
    ("model.onnx model.onnx --ratio 2", 1, &["overwrite", "--force"]),
    ("model.onnx ./model.onnx --ratio 2", 1, &["overwrite", "--force"]),
    ("model.onnx no/folder/out.onnx --ratio 2", 1, &["no/folder/out.onnx", "hint"]),
    ("model.onnx . --ratio 2", 1, &["can't write"]),
    ("apply model.onnx plan.json no/folder/out.onnx", 1, &["no/folder/out.onnx"]),
    ("truncated.onnx old.onnx --ratio 2", 1, &["truncated.onnx"]),
    ("model.onnx old.onnx --ratio 0", 2, &["--ratio"]),
];

#[test]
fn bad_input_gives_one_clear_message() {
    let ground = Ground::new();
    let before = ground.state();
    let mut faults = Vec::new();
    for (line, code, words) in CASES {
        let output = ground.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let errors = stderr.lines().filter(|line| line.starts_with("error:")).count();
        let mut fault = |what: &str| faults.push(format!("`{line}`: {what}:\n{stderr}"));
        if output.status.code() != Some(*code) {
            fault(&format!("exit code {:?}, not {code}", output.status.code()));
        }
        if errors != 1 {
            fault(&format!("{errors} lines begin with `error:`"));
        }
        if !output.stdout.is_empty() {
            fault("something on stdout");
        }
        if ["panicked", "backtrace", "RUST_BACKTRACE"].iter().any(|word| stderr.contains(word)) {
            fault("a panic");
        }
        for word in *words {
            if !stderr.contains(word) {
                fault(&format!("no word of `{word}`"));
            }
        }
        if ground.state() != before {
            fault("files changed");
            break;
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn help_and_version_are_no_errors() {
    let ground = Ground::new();
    for line in ["--help", "--version", "help", "eval --help", "inspect -h"] {
        let output = ground.run(line);
        assert!(output.status.success() && output.stderr.is_empty(), "{line}");
        assert!(!output.stdout.is_empty(), "{line}");
    }
}
