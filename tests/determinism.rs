//! The same input, seed and options give the same bytes: on one thread, two and three, again, and after
//! a run that was killed in the middle of a search or of training.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A trained network of convolutions, searched and trained for a moment.
const MNIST: &str = "mnist_conv.onnx --ratio 6 --data mnist_heldout.npz --train mnist_heldout.npz \
                     --epochs 0.5 --max-evals 4";
/// Batch norm and squeeze-and-excite as PaddlePaddle writes them.
const OCR: &str =
    "ppocr_cls.onnx --ratio 2 --data ppocr_cls_data.npz --mean 0.5 --std 0.5 --max-evals 4";
/// An encoder's block, ranks and bits in one budget.
const ATTENTION: &str =
    "attention.onnx --ratio 3 --quantize int8 --data expected/attention.npz --max-evals 20";

/// The program in the folder of fixtures, with its output, plan and more in `folder`.
fn start(line: &str, folder: &Path, threads: usize, more: &[&str]) -> Child {
    let (model, options) = line.split_once(' ').unwrap();
    Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
        .arg(model)
        .arg(folder.join("out.onnx"))
        .args(options.split_whitespace())
        .arg("--save-plan")
        .arg(folder.join("plan.json"))
        .args(["--quiet", "--force", "--threads", &threads.to_string()])
        .args(more)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a run to the end writes: the model and the plan.
fn run(line: &str, threads: usize, more: &[&str]) -> [Vec<u8>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let status = start(line, folder.path(), threads, more).wait().unwrap();
    assert!(matches!(status.code(), Some(0 | 3)), "{line}: {status}");
    ["out.onnx", "plan.json"].map(|name| fs::read(folder.path().join(name)).unwrap())
}

fn no_byte_differs(line: &str) {
    let one = run(line, 1, &[]);
    for (threads, what) in [(1, "a second run"), (2, "two threads"), (3, "three threads")] {
        assert!(run(line, threads, &[]) == one, "{line}: {what} give other bytes");
    }
}

#[test]
fn a_search_and_training_give_the_same_bytes() {
    no_byte_differs(MNIST);
}

#[test]
fn a_model_of_another_exporter_gives_the_same_bytes() {
    no_byte_differs(OCR);
}

#[test]
fn ranks_and_bits_give_the_same_bytes() {
    no_byte_differs(ATTENTION);
}

/// Kills a run as soon as `begun` says so, which must be before its end.
fn kill_when(line: &str, threads: usize, more: &[&str], begun: impl Fn() -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(line, folder.path(), threads, more);
    let deadline = Instant::now() + Duration::from_secs(300);
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was to be killed");
        assert!(Instant::now() < deadline, "nothing to kill the run at");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "the run ended by itself");
    assert!(!folder.path().join("out.onnx").exists(), "the run was over");
}

/// Bytes of the files of a folder that may not be there yet.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn a_search_that_was_killed_goes_on_to_the_same_plan() {
    let line = "mnist_conv.onnx --ratio 6 --data mnist_heldout.npz --max-evals 12";
    let whole = run(line, 2, &[]);
    for threads in [1, 2] {
        let cache = tempfile::tempdir().unwrap();
        let more = ["--cache-dir", cache.path().to_str().unwrap()];
        // Once at its first score, once in the middle of what that run left to do.
        kill_when(line, threads, &more, || bytes_in(cache.path()) > 0);
        let first = bytes_in(cache.path());
        kill_when(line, threads, &more, || bytes_in(cache.path()) > 3 * first);
        assert!(run(line, threads, &more) == whole, "{threads} threads");
    }
}

#[test]
fn a_training_that_was_killed_goes_on_to_the_same_bytes() {
    let line = MNIST.replace("--epochs 0.5 --max-evals 4", "--epochs 3 --search start");
    let whole = run(&line, 2, &[]);
    for threads in [1, 2] {
        let kept = tempfile::tempdir().unwrap();
        let file = kept.path().join("state.json");
        kill_when(&line, threads, &["--resume", file.to_str().unwrap()], || file.exists());
        assert!(file.exists());
        let more = ["--resume", file.to_str().unwrap()];
        assert!(run(&line, threads, &more) == whole, "{threads} threads");
    }
}
