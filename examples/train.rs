//! Trains the digits network of `fixtures/` from random weights with the crate's own tape, loss and
//! optimizer, and prints its accuracy on digits it has not seen: `train [EPOCHS]`, 3 unless told.

use std::error::Error;
use std::path::Path;

use onnx_bsr::dataset::{Dataset, Preprocess};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::onnx::Model;
use onnx_bsr::progress::Silent;
use onnx_bsr::score::{Objective, Scorer};
use onnx_bsr::tune::{Augmentation, Parameter, Recipe, Student, trainable};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn main() -> Result<(), Box<dyn Error>> {
    let epochs = std::env::args().nth(1).map_or(Ok(3.0), |text| text.parse())?;
    let model = Model::read(Path::new("fixtures/mnist_conv.onnx"))?;
    let inputs = graph::inputs(&model)?;
    let open = |path: &str| Dataset::open(Path::new(path), &inputs, None, &Preprocess::default());
    let (train, heldout) = (open("fixtures/mnist_train.npz")?, open("fixtures/mnist_heldout.npz")?);
    let original = Evaluator::new(&model)?;
    let digits = heldout.batch(&(0..heldout.len()).collect::<Vec<_>>())?;
    let scorer = Scorer::new(original.run_all(&digits)?, heldout.all_labels(), None, None)?;
    let score =
        |model: &Model| scorer.score(&Evaluator::new(model)?.run_all(&digits)?, 0..heldout.len());

    let names = trainable(&model)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut student = Student::new(&model, &names, &original, &train, &scorer)?;
    student.objective = Objective { labels: 1.0, distill: 0.0, ..student.objective };
    student.augmentation = Augmentation { flip: false, shift: 18 };
    let mut parameters = student.parameters();
    randomize(&mut parameters);
    println!("before: {:.2} %", score(&student.trained(&parameters)?)?.metric());

    let samples: Vec<usize> = (0..train.len()).collect();
    let recipe = Recipe { epochs, ..Recipe::default() };
    let mut loss = |model: &Model| Ok(score(model)?.mean_loss());
    let history = student.descend(&mut parameters, &samples, &recipe, &mut loss, &Silent)?;
    let accuracy = score(&student.trained(&parameters)?)?.metric();
    println!("after {} steps: {accuracy:.2} % of {} digits", history.steps, heldout.len());
    Ok(())
}

/// Weights anew, of the variance that keeps activations' (He et al. 2015); biases zero.
fn randomize(parameters: &mut [Parameter]) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for Parameter { shape, decays, values, .. } in parameters {
        let fan_in: usize = shape.iter().skip(1).product();
        let reach = (6.0 / fan_in.max(1) as f32).sqrt();
        let mut draw = || if *decays { random.random_range(-reach..reach) } else { 0.0 };
        values.iter_mut().for_each(|value| *value = draw());
    }
}
