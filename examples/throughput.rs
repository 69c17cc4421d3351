//! Images per second of the evaluator on one model, as a line of JSON: the counterpart of
//! `benches/throughput_ort.py`, driven side by side by `benches/throughput.py`.
//!
//! `throughput MODEL --batch 64 --threads 1 [--seconds 3] [--length 32]`
//!
//! Dimensions that the model leaves open, but for the batch, are of `--length`.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::path::Path;
use std::time::Instant;

use onnx_bsr::eval::Evaluator;
use onnx_bsr::onnx::Model;
use onnx_bsr::tensor::{DataType, Tensor};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    onnx_bsr::memory::keep_freed();
    let args: Vec<String> = std::env::args().collect();
    let path = args.get(1).ok_or("usage: throughput MODEL [--batch N] [--threads N]")?;
    let value = |flag: &str, default: usize| -> usize {
        let at = args.iter().position(|a| a == flag);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (batch, threads) = (value("--batch", 64), value("--threads", 1));
    let (seconds, length) = (value("--seconds", 3) as f64, value("--length", 32));
    let evaluator = Evaluator::new(&Model::read(Path::new(path))?)?;
    let mut state = 1u32;
    let inputs: Vec<Tensor> = evaluator
        .inputs()
        .iter()
        .map(|input| {
            let mut shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(length)).collect();
            shape[0] = batch;
            let count = shape.iter().product();
            let random = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            };
            if input.data_type == DataType::F32 {
                Tensor::from_vec(&shape, std::iter::repeat_with(random).take(count).collect())
            } else {
                Tensor::from_vec(&shape, vec![1i64; count])
            }
        })
        .collect::<Result<_, _>>()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    // All on a thread of the pool: handing over a run takes as long as some of its operators.
    let mut times = pool.install(|| -> onnx_bsr::error::Result<Vec<f64>> {
        let mut times = Vec::new();
        let start = Instant::now();
        while times.len() < 4 || start.elapsed().as_secs_f64() < seconds {
            let begin = Instant::now();
            evaluator.run_all(&inputs)?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(times)
    })?;
    // The first runs warm caches and clocks.
    let mut times = times.split_off(2);
    times.sort_by(f64::total_cmp);
    let rate = batch as f64 / times[times.len() / 2];
    println!(
        "{{\"runtime\":\"onnx-bsr\",\"model\":\"{path}\",\"batch\":{batch},\"threads\":{threads},\"images_per_s\":{rate:.1}}}"
    );
    Ok(())
}
