//! Training steps per second on one model, as a line of JSON: the counterpart of
//! `benches/train_step_torch.py`, driven side by side by `benches/train_step.py`.
//!
//! `train_step MODEL [--batch 64] [--threads 1] [--seconds 3] [--length 32] [--output NAME]`
//!
//! A step is forward, the gradient of the loss (the sum of the output times a fixed random tensor)
//! and backward to all weights and biases of layers, over the lanes that training uses. With
//! `--data IN.npz --slopes SLOPES.npz --gradients OUT.npz` it does one step on those inputs and
//! that random tensor and writes the gradients, for `benches/check_gradients.py`.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::eval::{Evaluator, InputSpec, Recorder};
use onnx_bsr::graph;
use onnx_bsr::onnx::{Model, to_raw};
use onnx_bsr::tensor::{DataType, Tensor};
use rayon::prelude::*;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Parts of a batch that are summed up independently, whatever the number of threads.
const LANES: usize = 8;

/// Operators whose constants are trained; the Python side has the same rule.
const TRAINED_BY: [&str; 6] =
    ["Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "Add"];

fn main() -> Result<(), Box<dyn Error>> {
    onnx_bsr::memory::keep_freed();
    let args: Vec<String> = std::env::args().collect();
    let path = args.get(1).ok_or("usage: train_step MODEL [--batch N] [--threads N] ..")?;
    let text = |flag: &str| args.iter().position(|a| a == flag).and_then(|at| args.get(at + 1));
    let number = |flag: &str, default: usize| -> usize {
        text(flag).and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (batch, threads) = (number("--batch", 64), number("--threads", 1));
    let mut model = Model::read(Path::new(path))?;
    let output = text("--output").map_or(model.graph().output[0].name(), String::as_str).to_owned();
    model.graph_mut().output.retain(|o| o.name() == output);
    let names = trained(&model);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let recorder = Evaluator::recorder(&model, &names, &[])?;
    if let Some(obstacle) = recorder.obstacles().first() {
        return Err(format!("no rule for {} ({})", obstacle.node, obstacle.op_type).into());
    }
    let parameters = recorder.stored();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    if let (Some(data), Some(slopes), Some(out)) =
        (text("--data"), text("--slopes"), text("--gradients"))
    {
        let inputs = read(data, &graph::inputs(&model)?)?;
        let slopes = read(slopes, &graph::outputs(&model))?.remove(0);
        let gradients = pool.install(|| step(&recorder, &parameters, &inputs, &output, &slopes))?;
        return write(out, &gradients);
    }
    let inputs = random(&graph::inputs(&model)?, batch, number("--length", 32))?;
    let one = inputs.iter().map(|t| t.slice_batch(0, 1)).collect();
    let mut shape = recorder.record(one, &parameters)?.outputs()?[0].shape().to_vec();
    shape[0] = batch;
    let mut state = 7;
    let slopes = Tensor::from_vec(&shape, values(shape.iter().product(), &mut state))?;
    let mut times = Vec::new();
    let (mut count, mut warm) = (0, 0.0);
    let start = Instant::now();
    while times.len() < 5 || start.elapsed().as_secs_f64() < number("--seconds", 3) as f64 {
        let begin = Instant::now();
        let gradients = pool.install(|| step(&recorder, &parameters, &inputs, &output, &slopes))?;
        times.push(begin.elapsed().as_secs_f64());
        if times.len() == 2 {
            warm = processor_seconds();
        }
        count = gradients.values().map(Vec::len).sum();
    }
    // The first runs warm caches and clocks.
    let mut times = times.split_off(2);
    let processor = (processor_seconds() - warm) / times.len() as f64;
    times.sort_by(f64::total_cmp);
    println!(
        "{{\"runtime\":\"onnx-bsr\",\"threads\":{threads},\"trained\":{count},\"samples_per_s\":{:.1},\"samples_per_cpu_s\":{:.1},\"peak_mb\":{:.1}}}",
        batch as f64 / times[times.len() / 2],
        batch as f64 / processor,
        peak_mb()
    );
    Ok(())
}

/// Initializers of floats that only layers read.
fn trained(model: &Model) -> Vec<String> {
    let graph = model.graph();
    let mut readers: HashMap<&str, Vec<&str>> = HashMap::new();
    for node in &graph.node {
        node.input.iter().for_each(|name| readers.entry(name).or_default().push(node.op_type()));
    }
    let mut trained = Vec::new();
    for tensor in &graph.initializer {
        let name = tensor.name();
        let layers = readers.get(name).is_some_and(|r| r.iter().all(|op| TRAINED_BY.contains(op)));
        let float = graph::constant_tensor(model, name).ok().flatten();
        if layers && float.is_some_and(|t| t.len() > 1 && t.data_type() == DataType::F32) {
            trained.push(name.to_owned());
        }
    }
    trained
}

/// The gradients of a batch, summed lane by lane in order.
fn step(
    recorder: &Recorder,
    parameters: &[Tensor],
    inputs: &[Tensor],
    output: &str,
    slopes: &Tensor,
) -> onnx_bsr::error::Result<HashMap<String, Vec<f32>>> {
    let samples = slopes.shape()[0];
    let lane = samples.div_ceil(LANES);
    let size = recorder.batch_size(inputs);
    let prepared = recorder.prepare(parameters)?;
    let lanes: Vec<HashMap<String, Tensor>> = (0..samples.div_ceil(lane))
        .into_par_iter()
        .with_max_len(1)
        .map(|index| {
            let mut total = HashMap::new();
            let end = ((index + 1) * lane).min(samples);
            for start in (index * lane..end).step_by(size) {
                let range = (start, (start + size).min(end));
                let part = inputs.iter().map(|t| t.slice_batch(range.0, range.1)).collect();
                let tape = recorder.record_prepared(part, &prepared)?;
                let slope = slopes.slice_batch(range.0, range.1);
                total = tape.backward_onto([(output.to_owned(), slope)], total)?;
            }
            Ok(total)
        })
        .collect::<onnx_bsr::error::Result<_>>()?;
    let mut total: HashMap<String, Vec<f32>> = HashMap::new();
    for (name, gradient) in lanes.into_iter().flatten() {
        let values = gradient.f32("a gradient").unwrap().as_standard_layout();
        let values = values.as_slice().unwrap();
        let total = total.entry(name).or_default();
        if total.is_empty() {
            total.extend_from_slice(values);
        } else {
            total.iter_mut().zip(values).for_each(|(total, value)| *total += value);
        }
    }
    Ok(total)
}

fn values(count: usize, state: &mut u32) -> Vec<f32> {
    let random = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(random).take(count).collect()
}

fn random(
    inputs: &[InputSpec],
    batch: usize,
    length: usize,
) -> Result<Vec<Tensor>, Box<dyn Error>> {
    let mut state = 1;
    let mut tensors = Vec::new();
    for input in inputs {
        let mut shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(length)).collect();
        shape[0] = batch;
        let count = shape.iter().product();
        tensors.push(match input.data_type {
            DataType::F32 => Tensor::from_vec(&shape, values(count, &mut state))?,
            _ => Tensor::from_vec(&shape, vec![1i64; count])?,
        });
    }
    Ok(tensors)
}

fn read(path: &str, specs: &[InputSpec]) -> Result<Vec<Tensor>, Box<dyn Error>> {
    let data = Dataset::open(Path::new(path), specs, None, &Preprocess::default())?;
    let all: Vec<usize> = (0..data.len()).collect();
    Ok(data.batch(&all)?)
}

/// One flat array for every gradient.
fn write(path: &str, gradients: &HashMap<String, Vec<f32>>) -> Result<(), Box<dyn Error>> {
    let mut archive = ZipWriter::new(File::create(path)?);
    for (name, values) in gradients {
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default())?;
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", values.len());
        // Elements start at a multiple of 64 bytes; the magic, version and length take 10.
        header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
        header.push('\n');
        archive.write_all(b"\x93NUMPY\x01\x00")?;
        archive.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
        archive.write_all(header.as_bytes())?;
        let tensor = Tensor::from_vec(&[values.len()], values.clone())?;
        archive.write_all(&to_raw(&tensor))?;
    }
    archive.finish()?;
    Ok(())
}

/// Processor time of all threads so far, where the system tells: what other load takes least of.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The most memory that the process has had, where the system tells.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}
