use super::*;

fn tensor(shape: &[usize], seed: u64, map: impl Fn(f64) -> f64) -> Tensor {
    let mut state = seed;
    let elements = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            map((state >> 33) as f64 / 2f64.powi(30) - 1.0) as f32
        })
        .collect();
    Tensor::from_vec::<f32>(shape, elements).unwrap()
}

/// The gradient along every element against central differences of the loss.
fn check(scorer: &Scorer, objective: Objective, outputs: &[Tensor], labels: &[i64]) {
    let reference = scorer.reference().to_vec();
    let exact =
        scorer.gradients(&objective, outputs, &reference, labels, scorer.tokens.as_ref()).unwrap();
    for (i, output) in outputs.iter().enumerate() {
        let values = output.to_f64_vec();
        for k in 0..values.len() {
            let loss = |step: f64| -> (f64, f64) {
                let mut moved: Vec<f32> = values.iter().map(|&v| v as f32).collect();
                moved[k] = (values[k] + step) as f32;
                let at = f64::from(moved[k]);
                let mut outputs = outputs.to_vec();
                outputs[i] = Tensor::from_vec(output.shape(), moved).unwrap();
                let result = scorer.gradients(
                    &objective,
                    &outputs,
                    &reference,
                    labels,
                    scorer.tokens.as_ref(),
                );
                (at, result.unwrap().losses.iter().sum())
            };
            let ((a, high), (b, low)) = (loss(1e-3), loss(-1e-3));
            let numeric = (high - low) / (a - b);
            let given = exact.outputs[i].as_ref().map_or(0.0, |g| g.to_f64_vec()[k]);
            assert!((given - numeric).abs() < 1e-4 * (1.0 + numeric.abs()), "{given} {numeric}");
        }
    }
}

#[test]
fn gradients_are_slopes_of_the_loss() {
    let mixed =
        Objective { labels: 0.7, distill: 0.4, temperature: 3.0, outputs: 0.0, cosine: 0.0 };
    let logits = tensor(&[3, 5], 1, |v| 2.0 * v);
    let labels = vec![0, 4, 2];
    let scorer = Scorer::new(vec![logits], Some(labels.clone()), None, None).unwrap();
    check(&scorer, mixed, &[tensor(&[3, 5], 2, |v| 2.0 * v)], &labels);
    let maps = tensor(&[2, 4, 3, 2], 3, |v| v);
    let labels: Vec<i64> = (0..12).map(|i| i % 4).collect();
    let scorer = Scorer::new(vec![maps], Some(labels.clone()), None, None).unwrap();
    check(&scorer, mixed, &[tensor(&[2, 4, 3, 2], 4, |v| v)], &labels);
    let vectors = vec![tensor(&[3, 4], 5, |v| v), tensor(&[3, 2, 2], 6, |v| v)];
    let scorer = Scorer::new(vectors, None, None, None).unwrap();
    let vector = Objective { labels: 0.0, distill: 0.0, outputs: 0.6, cosine: 0.3, ..mixed };
    let given = [tensor(&[3, 4], 7, |v| v), tensor(&[3, 2, 2], 8, |v| v)];
    check(&scorer, vector, &given, &[]);
}

/// Where a mask leaves a position out, no loss depends on it, whatever its label.
#[test]
fn padding_has_no_slope() {
    let mask = Tensor::from_vec(&[2, 3], vec![1i64, 1, 0, 1, 1, 1]).unwrap();
    let tokens = Tokens::of(&mask);
    let reference = vec![tensor(&[2, 3, 4], 3, |v| v)];
    let labels = vec![1, 0, -100, 3, 2, 1];
    let scorer =
        Scorer::masked(reference, Some(labels.clone()), None, None, tokens.clone()).unwrap();
    let classes = Objective { labels: 0.7, distill: 0.4, ..scorer.objective() };
    let vectors = Objective { labels: 0.0, distill: 0.0, outputs: 0.6, cosine: 0.3, ..classes };
    let given = tensor(&[2, 3, 4], 4, |v| v);
    for objective in [classes, vectors] {
        check(&scorer, objective, std::slice::from_ref(&given), &labels);
        let slopes = scorer
            .gradients(
                &objective,
                std::slice::from_ref(&given),
                scorer.reference(),
                &labels,
                tokens.as_ref(),
            )
            .unwrap();
        let slopes = slopes.outputs[0].as_ref().unwrap().to_f64_vec();
        let padding = 8..12;
        assert!(slopes.iter().enumerate().all(|(i, &g)| (g == 0.0) == padding.contains(&i)));
    }
}

/// Against the exact second moment of the gradients with drawn labels, for scores and for the
/// probabilities these are of.
#[test]
fn random_gradients_have_the_moments_of_those_of_drawn_labels() {
    let (scores, temperature) = ([0.3_f64, -1.1, 1.9, 0.6], 2.0);
    let softmax = |t: f64| {
        let powers = scores.map(|z| (z / t).exp());
        powers.map(|p| p / powers.iter().sum::<f64>())
    };
    let tensor =
        |row: [f64; 4]| Tensor::from_vec(&[1, 4], row.iter().map(|&v| v as f32).collect()).unwrap();
    let (p, q) = (softmax(1.0), softmax(temperature));
    for (output, scale) in [(tensor(scores), [1.0; 4]), (tensor(p), p.map(|p| 1.0 / p))] {
        let scorer = Scorer::new(vec![output.clone()], Some(vec![2]), None, None).unwrap();
        // The draws' axes one after another: their squares add up to the expectation.
        let mut moment = [[0.0; 4]; 4];
        for axis in 0..4 {
            let mut draws = (0..4).map(|i| if i == axis { 1.0 } else { 0.0 });
            let mut normal = || draws.next().unwrap();
            let given = std::slice::from_ref(&output);
            let found = scorer.random_gradients(given, 0, temperature, &mut normal).unwrap();
            let g = found[0].as_ref().unwrap().to_f64_vec();
            (0..16).for_each(|at| moment[at / 4][at % 4] += g[at / 4] * g[at % 4]);
        }
        for (i, j) in (0..16).map(|at| (at / 4, at % 4)) {
            let one = if i == j { 1.0 } else { 0.0 };
            let exact = (q[i] * one - q[i] * q[j]) * scale[i] * scale[j];
            assert!((moment[i][j] - exact).abs() < 1e-5, "{i}, {j}: {} {exact}", moment[i][j]);
        }
    }
}

#[test]
fn probabilities_have_the_slope_of_their_logarithms() {
    let normal = |t: Tensor| {
        let rows: Vec<f64> = t.to_f64_vec();
        let rows = rows.chunks(4).flat_map(|row| {
            let sum: f64 = row.iter().sum();
            row.iter().map(move |v| (v / sum) as f32).collect::<Vec<_>>()
        });
        Tensor::from_vec(&[3, 4], rows.collect()).unwrap()
    };
    let reference = normal(tensor(&[3, 4], 9, |v| v + 1.2));
    let labels = vec![1, 3, 0];
    let scorer = Scorer::new(vec![reference], Some(labels.clone()), None, None).unwrap();
    let given = normal(tensor(&[3, 4], 10, |v| v + 1.2));
    let objective = Objective { labels: 1.0, ..scorer.objective() };
    let objective = Objective { distill: 0.0, ..objective };
    let result = scorer.gradients(
        &objective,
        std::slice::from_ref(&given),
        scorer.reference(),
        &labels,
        None,
    );
    let result = result.unwrap();
    let (p, slopes) = (given.to_f64_vec(), result.outputs[0].as_ref().unwrap().to_f64_vec());
    for (sample, &label) in labels.iter().enumerate() {
        let at = sample * 4 + label as usize;
        assert!((result.losses[sample] + p[at].ln()).abs() < 1e-6);
        assert!((slopes[at] - (p[at] - 1.0) / p[at]).abs() < 1e-4);
    }
}
