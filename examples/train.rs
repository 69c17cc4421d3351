//! Trains the digits network of `fixtures/` from random weights with the crate's own tape, loss and
//! optimizer, and prints its accuracy on digits it has not seen.
//!
//! `train [EPOCHS]`, 3 unless told, from the top of the repository.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::onnx::Model;
use onnx_bsr::progress::Silent;
use onnx_bsr::score::{Objective, Scorer};
use onnx_bsr::tune::{
    Augmentation, Descent, Judgement, Method, Parameter, Recipe, Schedule, Student, descend,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    onnx_bsr::memory::keep_freed();
    let epochs = std::env::args().nth(1).map_or(Ok(3.0), |text| text.parse())?;
    let model = Model::read(Path::new("fixtures/mnist_conv.onnx"))?;
    let inputs = graph::inputs(&model)?;
    let open = |path: &str| Dataset::open(Path::new(path), &inputs, None, &Preprocess::default());
    let (train, heldout) = (open("fixtures/mnist_train.npz")?, open("fixtures/mnist_heldout.npz")?);
    let original = Evaluator::new(&model)?;
    let all: Vec<usize> = (0..heldout.len()).collect();
    let digits = heldout.batch(&all)?;
    let scorer = Scorer::new(original.run_all(&digits)?, heldout.all_labels(), None, None)?;

    let constants = graph::constants(&model);
    let trained: Vec<&str> = constants
        .keys()
        .map(String::as_str)
        .filter(|name| {
            let tensor = graph::constant_tensor(&model, name).ok().flatten();
            tensor.is_some_and(|t| t.f32("a weight").is_ok())
        })
        .collect();
    let mut student = Student::new(&model, &trained, &original, &train, &scorer)?;
    student.objective = Objective { labels: 1.0, distill: 0.0, ..student.objective };
    student.augmentation = Augmentation { flip: false, shift: 18 };
    let mut parameters = student.parameters();
    randomize(&mut parameters);

    let accuracy = |parameters: &[Parameter]| -> onnx_bsr::error::Result<(f64, f64)> {
        let evaluator = Evaluator::new(&student.trained(parameters)?)?;
        let score = scorer.score(&evaluator.run_all(&digits)?, 0..heldout.len())?;
        Ok((score.metric(), score.mean_loss()))
    };
    println!("before: {:.2} % of {} digits", accuracy(&parameters)?.0, heldout.len());
    let recipe = Recipe {
        epochs,
        batch: 64,
        schedule: Schedule { peak: 2e-3, warm_up: 0.1, end: 0.01 },
        method: Method::ADAM,
        decay: 0.0,
        clip: 5.0,
        checks: 6,
        patience: 6,
        time: None,
        seed: 1,
    };
    let samples: Vec<usize> = (0..train.len()).collect();
    let begin = Instant::now();
    let history = descend(
        &mut parameters,
        &samples,
        &recipe,
        &mut Descent {
            slopes: &|parameters, samples, seed| student.slopes(parameters, samples, seed),
            regularize: &mut |_, _, _| Ok(0.0),
            score: &mut |parameters| Ok(Judgement { held: accuracy(parameters)?.1, fitted: None }),
            known: None,
            keep: &mut |_| Ok(()),
        },
        None,
        &Silent,
    )?;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "after {} steps in {seconds:.1} s ({:.0} digits/s): {:.2} %",
        history.steps,
        history.samples as f64 / seconds,
        accuracy(&parameters)?.0
    );
    Ok(())
}

/// Weights anew, of the variance that keeps activations' (He et al. 2015); biases zero.
fn randomize(parameters: &mut [Parameter]) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for parameter in parameters {
        let fan_in: usize = parameter.shape.iter().skip(1).product();
        let reach = (6.0 / fan_in.max(1) as f32).sqrt();
        let decays = parameter.decays;
        parameter.values.iter_mut().for_each(|v| {
            *v = if decays { random.random_range(-reach..reach) } else { 0.0 };
        });
    }
}
