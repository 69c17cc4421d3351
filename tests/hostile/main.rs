//! Files with bytes flipped, cut, doubled and spliced: an error or a result, never a panic, and never
//! more memory than the file accounts for. Seeded; more with `ONNX_BSR_HOSTILE_SECONDS`,
//! and guided by coverage in `fuzz/`.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod disk;
mod exercise;
mod huge;
mod watched;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use exercise::planned;
use watched::watched;

fn seconds() -> Duration {
    let asked = std::env::var("ONNX_BSR_HOSTILE_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(asked.unwrap_or(3))
}

fn fixtures(folder: &str, extension: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    found.retain(|(path, _)| path.extension().is_some_and(|e| e == extension));
    found
}

/// The files of a folder with their contents, in order of their names.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The file with something done to it; `others` are what it may be spliced with.
fn damaged(bytes: &[u8], others: &[(PathBuf, Vec<u8>)], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut next = |below: usize| random.next_u64() as usize % below.max(1);
    let mut bytes = bytes.to_vec();
    for _ in 0..=next(3) {
        let at = next(bytes.len());
        match next(6) {
            0 => bytes.truncate(at),
            1 => {
                for _ in 0..=next(16) {
                    let at = next(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << next(8);
                    }
                }
            }
            // What stands in headers, and what lengths are made of.
            2 => {
                let near = next(bytes.len().min(400));
                if let Some(byte) = bytes.get_mut(near) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff][next(5)];
                }
            }
            3 => {
                let end = (at + next(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + next(256)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let other = &others[next(others.len())].1;
                let from = next(other.len());
                let end = (from + next(512)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn damaged_files_are_errors_or_results() {
    let small = |all: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        all.into_iter().filter(|(_, bytes)| bytes.len() < 400_000).collect()
    };
    let models: Vec<_> = small(fixtures("fixtures", "onnx"))
        .into_iter()
        .chain(fixtures("fixtures/forms", "onnx"))
        .collect();
    assert!(models.len() > 18);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let folder = tempfile::tempdir().unwrap();
    let (mut read, mut tried) = (0, 0);
    let begin = Instant::now();
    while begin.elapsed() < seconds() {
        let damaged = damaged(&models[tried % models.len()].1, &models, &mut random);
        let of_file = watched(|| exercise::model(&damaged, folder.path()));
        let of_graph = watched(|| exercise::graph(damaged));
        read += usize::from(of_file || of_graph);
        tried += 1;
    }
    println!("{tried} models, {read} of them could be read");

    let data: Vec<_> = [("tests/data", "npy"), ("tests/data", "npz")]
        .into_iter()
        .flat_map(|(folder, extension)| fixtures(folder, extension))
        .chain(idx())
        .collect();
    let begin = Instant::now();
    let mut tried = 0;
    while begin.elapsed() < seconds() {
        let damaged = damaged(&data[tried % data.len()].1, &data, &mut random);
        watched(|| exercise::data(&damaged, folder.path()));
        tried += 1;
    }
    println!("{tried} data files");
}

/// Images of a byte a pixel in the format of the MNIST files.
fn idx() -> Vec<(PathBuf, Vec<u8>)> {
    let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2];
    bytes.extend([7; 12]);
    vec![(PathBuf::from("a-idx3-ubyte"), bytes)]
}

#[test]
fn damaged_plans_are_errors_or_results() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/forms/constants.onnx");
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.json");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .arg(&path)
        .arg(folder.path().join("out.onnx"))
        .args(["--ratio", "4", "--quantize", "int8", "--quiet", "--save-plan"])
        .arg(&plan)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let model = planned();
    let bytes = std::fs::read(&plan).unwrap();
    let others = [(plan.clone(), bytes.clone())];
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let begin = Instant::now();
    let (mut tried, mut parsed) = (0, 0);
    while begin.elapsed() < seconds() {
        let text = String::from_utf8_lossy(&damaged(&bytes, &others, &mut random)).into_owned();
        tried += 1;
        parsed += usize::from(watched(|| exercise::plan(&text, &model)));
    }
    println!("{tried} plans, {parsed} of them could be read");
}

/// Inputs that once were a panic, an allocation without bounds or a run without end.
#[test]
fn past_findings_stay_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let findings = |target: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hostile").join(target);
        if path.is_dir() { files(&path) } else { Vec::new() }
    };
    let limit = Duration::from_secs(20);
    let timed = |path: &Path, work: &dyn Fn()| {
        let begin = Instant::now();
        watched(work);
        assert!(begin.elapsed() < limit, "{}: {:?}", path.display(), begin.elapsed());
    };
    for (path, bytes) in findings("model") {
        timed(&path, &|| _ = exercise::model(&bytes, folder.path()));
    }
    for (path, bytes) in findings("graph") {
        timed(&path, &|| _ = exercise::graph(bytes.clone()));
    }
    for (path, bytes) in findings("data") {
        timed(&path, &|| exercise::data(&bytes, folder.path()));
    }
    let model = planned();
    for (path, bytes) in findings("plan") {
        let text = String::from_utf8_lossy(&bytes);
        timed(&path, &|| _ = exercise::plan(&text, &model));
    }
}
