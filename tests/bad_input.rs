//! Whatever is wrong with what the program is given: one clear message, the right exit code, and
//! no file touched.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use onnx_bsr::factorize::{Choice, Fit, Scheme, curves};
use onnx_bsr::layer::{Filter, Layer, find};
use onnx_bsr::onnx::Model;
use onnx_bsr::search::Plan;

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
        ground.write("nan.onnx", &changed(&f32::NAN.to_le_bytes()));
        ground.write("retrained.onnx", &changed(&0.25f32.to_le_bytes()));
        ground.write("nothing.onnx", &without_weights());
        let plan = plan();
        ground.write("plan.json", plan.as_bytes());
        ground.write("truncated.json", &plan.as_bytes()[..plan.len() / 2]);
        ground.write("random.json", &noise(4096));
        ground.write("newer.json", plan.replace("\"version\": 1", "\"version\": 99").as_bytes());
        ground.write("rank.json", plan.replace("\"rank\": 5", "\"rank\": 6").as_bytes());
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

/// The trained network with one element of a weight replaced.
fn changed(element: &[u8]) -> Vec<u8> {
    let mut model = Model::read(&fixture("mnist_conv.onnx")).expect("the fixture");
    let layer = layer(&model);
    let mut weights = model.graph_mut().initializer.iter_mut();
    let weight = weights.find(|t| t.name() == layer.weight).expect("the weight");
    let mut bytes = weight.raw_data().to_vec();
    bytes[400..404].copy_from_slice(element);
    weight.raw_data = Some(bytes.into());
    model.to_bytes().expect("a model")
}

/// The trained network's first layer.
fn layer(model: &Model) -> Layer {
    let layers = find(model, &Filter::default()).expect("layers");
    layers.into_iter().find(|l| l.map.is_some()).expect("a layer")
}

/// A model of one activation.
fn without_weights() -> Vec<u8> {
    let mut model = Model::read(&fixture("mnist_conv.onnx")).expect("the fixture");
    let graph = model.graph_mut();
    graph.initializer.clear();
    graph.value_info.clear();
    graph.node.retain(|n| n.op_type() == "Relu");
    graph.node.truncate(1);
    graph.node[0].input = vec![graph.input[0].name().to_owned()];
    graph.node[0].output = vec!["y".to_owned()];
    graph.output = vec![graph.input[0].clone()];
    graph.output[0].name = Some("y".to_owned());
    model.to_bytes().expect("a model")
}

/// A plan that factorizes the first layer of the trained network to rank 5.
fn plan() -> String {
    let model = Model::read(&fixture("mnist_conv.onnx")).expect("the fixture");
    let layer = layer(&model);
    let weight = layer.weight(&model).expect("a weight");
    let fits: Vec<Fit> = weight.groups.iter().map(Fit::of_weight).collect();
    let scheme = Scheme::ChannelOut;
    let curves = curves(layer.map.as_ref().unwrap(), &fits, &[scheme]).expect("a curve");
    let choice = Choice { scheme, rank: 5, rank_in: None };
    let factors = curves[0].factors(choice, &fits, &weight.bias).expect("factors");
    Plan::new(&model, &[layer], &[Some(factors)]).expect("a plan").to_json()
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
    ("nan.onnx out.onnx --ratio 2", 1, &["tensor `conv1", "NaN"]),
    ("nan.onnx out.onnx --ratio 2 --data good.npy", 1, &["samples are too few"]),
    ("nothing.onnx out.onnx --ratio 2", 1, &["no layer can be factorized", "inspect"]),
    ("model.onnx out.onnx --ratio 2 --exclude *", 1, &["no layer can be factorized"]),
    ("model.onnx out.onnx --ratio 2 --include nothing*", 1, &["--include", "nothing*"]),
    ("model.onnx out.onnx --ratio 5000", 1, &["ratio 5000 is out of reach", "hint", "--ratio"]),
    ("model.onnx old.onnx --ratio 5000 --target macs", 1, &["out of reach", "at most"]),
    ("model.onnx old.onnx --ratio 3 --schemes matrix --exclude hidden", 1, &["out of reach"]),
    // Plans.
    ("apply model.onnx plan.json", 2, &["OUT"]),
    ("apply model.onnx missing.json out.onnx", 1, &["missing.json"]),
    ("apply model.onnx truncated.json old.onnx", 1, &["plan:"]),
    ("apply model.onnx random.json old.onnx", 1, &["random.json"]),
    ("apply model.onnx model.onnx out.onnx", 1, &["model.onnx"]),
    ("apply model.onnx newer.json old.onnx", 1, &["version 99"]),
    ("apply model.onnx rank.json old.onnx", 1, &["conv1", "shapes"]),
    ("apply retrained.onnx plan.json old.onnx", 1, &["conv1", "another model"]),
    ("apply nothing.onnx plan.json old.onnx", 1, &["conv1", "no such layer"]),
    ("apply truncated.onnx plan.json old.onnx", 1, &["truncated.onnx"]),
    ("apply model.onnx plan.json model.onnx", 1, &["overwrite", "--force"]),
    ("apply model.onnx plan.json plan.json", 1, &["overwrite", "plan.json"]),
    // Data.
    ("model.onnx out.onnx --ratio 2 --data good.npy", 1, &["good.npy", "too few"]),
    ("model.onnx out.onnx --ratio 2 --data nan.npy", 1, &["nan.npy", "NaN"]),
    ("model.onnx out.onnx --ratio 2 --data shape.npy", 1, &["input", "14"]),
    ("model.onnx out.onnx --ratio 2 --data missing.npz", 1, &["missing.npz"]),
    ("model.onnx out.onnx --ratio 2 --data good.npy --labels three.npy", 1, &["three.npy", "3"]),
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
    ("model.onnx out.onnx --ratio 2 --save-plan model.onnx", 1, &["overwrite", "model.onnx"]),
    ("model.onnx out.onnx --ratio 2 --save-plan out.onnx", 1, &["--save-plan", "output"]),
    ("model.onnx out.onnx --ratio 2 --save-plan ./out.onnx", 1, &["--save-plan", "output"]),
    ("model.onnx out.onnx --ratio 2 --save-plan no/folder/p.json", 1, &["no/folder/p.json"]),
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

/// Exit code 0 with the result in its place, which may be that of an older one.
#[test]
fn a_plan_that_fits_replaces_the_old_result() {
    let ground = Ground::new();
    let old = fs::read(ground.path("old.onnx")).unwrap();
    let mut before = ground.state();
    let output = ground.run("apply model.onnx plan.json old.onnx");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let new = fs::read(ground.path("old.onnx")).unwrap();
    assert!(new != old && Model::from_bytes(new.clone()).is_ok());
    before
        .iter_mut()
        .filter(|(p, _)| *p == ground.path("old.onnx"))
        .for_each(|f| f.1 = new.clone());
    assert!(ground.state() == before, "other files changed");
}

/// Exit code 3: the file is written and the report says what it misses.
#[test]
fn a_missed_target_is_no_error() {
    let ground = Ground::new();
    let data = fixture("mnist_train.npz");
    let output = ground.run(&format!(
        "model.onnx out.onnx --ratio 20 --max-drop 0 --data {} --search start \
         --calibration-samples 60 --search-samples 30",
        data.display()
    ));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(!stderr.contains("error:"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("points of top1 lost"), "{stdout}");
    assert!(Model::read(&ground.path("out.onnx")).is_ok());
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
