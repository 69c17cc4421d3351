//! Files with bytes flipped, cut, doubled and spliced: an error or a result, never a panic, and never
//! more memory than the file accounts for. Seeded; more with `ONNX_BSR_HOSTILE_SECONDS`.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph::{self, InputSpec};
use onnx_bsr::layer::{Filter, find, prepare};
use onnx_bsr::onnx::Model;
use onnx_bsr::quantize::{self, Form, Settings};
use onnx_bsr::search::Plan;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The largest single allocation that was asked for.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watched;

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// One allocation may be so large: dense forms of sparse tensors are at most 2^27 floats.
const MOST: usize = 600 << 20;

fn seconds() -> Duration {
    let asked = std::env::var("ONNX_BSR_HOSTILE_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(asked.unwrap_or(3))
}

fn fixtures(folder: &str, extension: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
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

/// Does with a model whatever doesn't take long.
fn exercise_model(bytes: Vec<u8>) -> bool {
    let Ok(mut model) = Model::from_bytes(bytes) else { return false };
    let _ = find(&model, &Filter::default());
    let _ = graph::inputs(&model);
    if prepare(&mut model).is_err() {
        return true;
    }
    let encoded = model.to_bytes().unwrap();
    assert!(Model::from_bytes(encoded).is_ok(), "preparing made an invalid model");
    if let Ok(layers) = find(&model, &Filter::default()) {
        for layer in layers.iter().filter(|layer| layer.map.is_some()) {
            let _ = layer.weight(&model);
        }
    }
    let _ = quantize::params(&model);
    let _ = Evaluator::new(&model);
    let _ = Evaluator::never_run(&model);
    let settings = Settings { form: Form::Int8, ..Settings::default() };
    if let Ok((quantization, _)) = quantize::quantize(&model, &settings, None) {
        let _ = quantization.apply(&model);
    }
    true
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
    let (mut read, mut tried) = (0, 0);
    let begin = Instant::now();
    while begin.elapsed() < seconds() {
        let (path, bytes) = &models[tried % models.len()];
        LARGEST.store(0, Ordering::Relaxed);
        let damaged = damaged(bytes, &models, &mut random);
        read += usize::from(exercise_model(damaged));
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest < MOST, "{}: {largest} bytes at once", path.display());
        tried += 1;
    }
    println!("{tried} models, {read} of them could be read");

    let data: Vec<_> = [("tests/data", "npy"), ("tests/data", "npz")]
        .into_iter()
        .flat_map(|(folder, extension)| fixtures(folder, extension))
        .chain(idx())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let mut tried = 0;
    while begin.elapsed() < seconds() {
        let (path, bytes) = &data[tried % data.len()];
        LARGEST.store(0, Ordering::Relaxed);
        let target = folder.path().join(path.file_name().unwrap());
        std::fs::write(&target, damaged(bytes, &data, &mut random)).unwrap();
        for shape in [vec![None, Some(4)], vec![None, Some(2), Some(2)], vec![None; 3]] {
            let spec = InputSpec {
                name: "x".to_owned(),
                data_type: onnx_bsr::tensor::DataType::F32,
                shape,
            };
            if let Ok(data) = Dataset::open(&target, &[spec], None, &Preprocess::default())
                && !data.is_empty()
            {
                let _ = data.batch(&[0, data.len() - 1]);
            }
        }
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest < MOST, "{}: {largest} bytes at once", path.display());
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
    let mut model = Model::read(&path).unwrap();
    prepare(&mut model).unwrap();
    let bytes = std::fs::read(&plan).unwrap();
    let others = [(plan.clone(), bytes.clone())];
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let begin = Instant::now();
    let (mut tried, mut parsed) = (0, 0);
    while begin.elapsed() < seconds() {
        let text = String::from_utf8_lossy(&damaged(&bytes, &others, &mut random)).into_owned();
        tried += 1;
        let Ok(plan) = Plan::parse(&text) else { continue };
        parsed += 1;
        let Ok(mut result) = plan.apply(&model) else { continue };
        let _ = plan.set_trained(&mut result);
        if let Some(quantization) = &plan.quantization {
            let _ = quantization.apply(&result);
        }
    }
    println!("{tried} plans, {parsed} of them could be read");
}
