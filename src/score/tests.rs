use super::{MetricKind, Score, Scorer, Task, WORST_LOSS};
use crate::tensor::Tensor;
use crate::tokens::Tokens;

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).unwrap()
}

fn scorer(reference: Tensor, labels: Option<Vec<i64>>) -> Scorer {
    Scorer::new(vec![reference], labels, None, None).unwrap()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6 * (1.0 + b.abs())
}

#[test]
fn labels_give_cross_entropy_and_accuracy() {
    let logits = tensor(&[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
    let scorer = scorer(logits.clone(), Some(vec![2, 1]));
    assert_eq!((scorer.task(), scorer.metric()), (Task::Classification, MetricKind::Top1));
    let score = scorer.reference_score().unwrap();
    let expected = -(3f64.exp() / (1f64.exp() + 2f64.exp() + 3f64.exp())).ln();
    assert!(close(score.losses[0], expected));
    assert!(close(score.losses[1], 3f64.ln()));
    // Of equal scores the first class is the prediction.
    assert_eq!(score.metrics, [100.0, 0.0]);
    assert!(close(score.metric(), 50.0));
    assert_eq!(scorer.score(&[logits.slice_batch(1, 2)], 1..2).unwrap().losses, score.losses[1..]);
}

#[test]
fn probabilities_are_not_softmaxed_again() {
    let scorer = scorer(tensor(&[2, 2], &[0.25, 0.75, 1.0, 0.0]), Some(vec![0, 1]));
    assert_eq!(scorer.class_output(), Some((0, true)));
    let score = scorer.reference_score().unwrap();
    assert!(close(score.losses[0], 4f64.ln()));
    assert!(score.losses[1] > 80.0 && score.losses[1] < 100.0);
}

#[test]
fn top5_looks_at_five_scores() {
    let logits = tensor(&[1, 7], &[7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
    for (label, hit) in [(4, 100.0), (5, 0.0)] {
        let top5 = Some(MetricKind::Top5);
        let scorer = Scorer::new(vec![logits.clone()], Some(vec![label]), top5, None).unwrap();
        assert_eq!(scorer.reference_score().unwrap().metric(), hit);
    }
}

#[test]
fn class_axis_follows_from_the_number_of_labels() {
    // Two samples, three positions, four classes, either way round.
    let sequence = tensor(&[2, 3, 4], &[0.0; 24]);
    let by_position = Scorer::new(vec![sequence], Some(vec![3; 6]), None, None).unwrap();
    assert_eq!(by_position.reference_score().unwrap().len(), 2);
    let map = tensor(&[2, 4, 3], &[0.0; 24]);
    assert!(Scorer::new(vec![map.clone()], Some(vec![3; 6]), None, None).is_ok());
    // Along axis 2 there would be three classes, for eight labels.
    let last = Scorer::new(vec![map.clone()], Some(vec![2; 8]), None, Some(-1)).unwrap();
    assert!(close(last.reference_score().unwrap().mean_loss(), 3f64.ln()));
    assert!(Scorer::new(vec![map], Some(vec![0; 5]), None, None).is_err());
    let pooled = tensor(&[2, 4, 1, 1], &[0.0; 8]);
    assert!(Scorer::new(vec![pooled], Some(vec![3, 0]), None, None).is_ok());
}

#[test]
fn a_class_axis_that_no_output_has_is_named() {
    let outputs = || vec![Tensor::from_vec(&[2, 3], vec![0.5f32; 6]).unwrap()];
    for (labels, metric) in [(Some(vec![0, 1]), None), (None, None)] {
        let error = Scorer::new(outputs(), labels, metric, Some(7)).unwrap_err().to_string();
        assert!(error.contains("on axis 7"), "{error}");
    }
    // Outputs that are compared as vectors have no classes.
    assert!(Scorer::new(outputs(), None, Some(MetricKind::Cosine), Some(7)).is_ok());
}

#[test]
fn positions_are_read_along_the_class_axis() {
    // One sample [classes 2, height 1, width 3]: position 1 belongs to class 1.
    let map = tensor(&[1, 2, 1, 3], &[9.0, 0.0, 9.0, 0.0, 9.0, 0.0]);
    let scorer = Scorer::new(vec![map], Some(vec![0, 1, 0]), None, None).unwrap();
    assert_eq!(scorer.reference_score().unwrap().metric(), 100.0);
}

#[test]
fn labels_beyond_the_classes_are_refused() {
    let error = Scorer::new(vec![tensor(&[2, 3], &[0.0; 6])], Some(vec![0, 3]), None, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("label is 3") && error.contains("3 classes"), "{error}");
    let error = Scorer::new(vec![tensor(&[2, 3], &[0.0; 6])], Some(vec![0; 6]), None, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("one-hot"), "{error}");
    let error = Scorer::new(vec![tensor(&[2, 3], &[0.0; 6])], None, Some(MetricKind::Top1), None)
        .unwrap_err();
    assert!(error.to_string().contains("needs labels"));
}

#[test]
fn scores_without_labels_are_compared_with_the_original() {
    let scorer = scorer(tensor(&[2, 2], &[0.0, 1.0, 2.0, 0.0]), None);
    assert_eq!((scorer.task(), scorer.metric()), (Task::Imitation, MetricKind::Agreement));
    let own = scorer.reference_score().unwrap();
    assert_eq!((own.metric(), own.mean_loss()), (100.0, 0.0));
    // A constant on all classes changes nothing, swapped classes do.
    let shifted = scorer.score(&[tensor(&[2, 2], &[5.0, 6.0, 0.0, 2.0])], 0..2).unwrap();
    assert!(shifted.losses[0] < 1e-12);
    let p = 1.0 / (1.0 + (-2f64).exp());
    assert!(close(shifted.losses[1], p * 2.0 - (1.0 - p) * 2.0));
    assert_eq!(shifted.metrics, [100.0, 0.0]);
}

#[test]
fn other_outputs_are_compared_as_vectors() {
    let map = tensor(&[2, 2, 2], &[3.0, 0.0, 0.0, 4.0, 1.0, 1.0, 1.0, 1.0]);
    let scorer = scorer(map.clone(), None);
    assert_eq!((scorer.task(), scorer.metric()), (Task::Regression, MetricKind::Cosine));
    let own = scorer.reference_score().unwrap();
    assert_eq!((own.metric(), own.mean_loss()), (100.0, 0.0));
    let half = tensor(&[2, 2, 2], &[1.5, 0.0, 0.0, 2.0, 0.5, 0.5, 0.5, 0.5]);
    let score = scorer.score(std::slice::from_ref(&half), 0..2).unwrap();
    assert!(close(score.losses[0], 0.25) && close(score.losses[1], 0.25));
    assert!(close(score.metric(), 100.0));
    for (kind, own, halved) in
        [(MetricKind::RelativeError, 0.0, 50.0), (MetricKind::Mse, 0.0, (6.25 / 4.0 + 0.25) / 2.0)]
    {
        let scorer = Scorer::new(vec![map.clone()], None, Some(kind), None).unwrap();
        assert!(!kind.higher_is_better());
        assert!(close(scorer.reference_score().unwrap().metric(), own));
        assert!(close(scorer.score(std::slice::from_ref(&half), 0..2).unwrap().metric(), halved));
    }
}

#[test]
fn rows_of_norm_one_are_embeddings() {
    let embedding = tensor(&[2, 2], &[0.6, 0.8, 1.0, 0.0]);
    assert_eq!(scorer(embedding, None).metric(), MetricKind::Cosine);
    // Distributions of one certain class have norm 1 too.
    let certain = tensor(&[2, 2], &[0.0, 1.0, 1.0, 0.0]);
    assert_eq!(scorer(certain, None).metric(), MetricKind::Agreement);
}

#[test]
fn integers_are_compared_for_equality() {
    let ids = Tensor::from_vec(&[2, 2], vec![1i64, 2, 3, 4]).unwrap();
    let scorer = scorer(ids, None);
    assert_eq!(scorer.metric(), MetricKind::Agreement);
    let given = Tensor::from_vec(&[2, 2], vec![1i64, 2, 3, 5]).unwrap();
    let score = scorer.score(&[given], 0..2).unwrap();
    assert_eq!(score, Score { losses: vec![0.0, 0.5], metrics: vec![100.0, 0.0] });
}

#[test]
fn outputs_that_are_no_numbers_cost_the_most() {
    let logits = tensor(&[2, 2], &[0.0, 1.0, 2.0, 0.0]);
    for bad in [f32::NAN, f32::INFINITY] {
        for labels in [Some(vec![0, 0]), None] {
            let scorer = scorer(logits.clone(), labels);
            let score = scorer.score(&[tensor(&[2, 2], &[bad, bad, 2.0, 0.0])], 0..2).unwrap();
            assert_eq!(score.losses[0], WORST_LOSS);
            assert!(score.losses[1] < 1.0);
        }
        let map = tensor(&[1, 2, 2], &[1.0; 4]);
        for kind in MetricKind::ALL.into_iter().filter(|k| !k.needs_labels()) {
            let scorer = Scorer::new(vec![map.clone()], None, Some(kind), None).unwrap();
            let score = scorer.score(&[tensor(&[1, 2, 2], &[bad, 1.0, 1.0, 1.0])], 0..1).unwrap();
            assert!(score.losses[0] > 0.0 && score.losses[0] <= WORST_LOSS, "{kind}");
            assert!(score.metric().is_finite(), "{kind}");
        }
    }
    // NaN beats no class.
    let scorer = scorer(logits, Some(vec![1, 0]));
    let score = scorer.score(&[tensor(&[2, 2], &[f32::NAN, 1.0, 2.0, 0.0])], 0..2).unwrap();
    assert_eq!(score.metrics, [0.0, 100.0]);
}

#[test]
fn samples_of_zeros_do_not_drown_the_rest() {
    let scorer = Scorer::new(
        vec![tensor(&[2, 1, 2, 1], &[0.0, 0.0, 1.0, 1.0])],
        None,
        Some(MetricKind::RelativeError),
        None,
    )
    .unwrap();
    let near = tensor(&[2, 1, 2, 1], &[1e-4, 0.0, 1.0, 1.0]);
    assert!(scorer.score(&[near], 0..2).unwrap().mean_loss() < 0.1);
}

#[test]
fn outputs_of_another_shape_are_refused() {
    let scorer = scorer(tensor(&[2, 2], &[0.0; 4]), None);
    assert!(scorer.score(&[tensor(&[2, 3], &[0.0; 6])], 0..2).is_err());
    assert!(scorer.score(&[tensor(&[1, 2], &[0.0; 2])], 0..2).is_err());
    assert!(scorer.score(&[tensor(&[2, 2], &[0.0; 4])], 1..3).is_err());
    assert!(scorer.score(&[], 0..2).is_err());
    assert!(Scorer::new(vec![Tensor::scalar(1f32)], None, None, None).is_err());
    assert!(Scorer::new(Vec::new(), None, None, None).is_err());
}

#[test]
fn several_outputs_are_averaged_and_those_without_samples_ignored() {
    let outputs =
        |x: f32| vec![tensor(&[2, 1], &[x, 1.0]), tensor(&[2, 1], &[1.0, 1.0]), Tensor::scalar(x)];
    let scorer = Scorer::new(outputs(1.0), None, None, None).unwrap();
    assert_eq!(scorer.task(), Task::Regression);
    assert_eq!(scorer.score(&outputs(3.0), 0..2).unwrap().losses, [2.0, 0.0]);
}

#[test]
fn names_are_parsed_back() {
    for kind in MetricKind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    assert!("accuracy".parse::<MetricKind>().unwrap_err().contains("top1"));
}

/// Of two sequences of three positions the first has two that count, the second all.
fn masked(outputs: Tensor, labels: Option<Vec<i64>>, metric: Option<MetricKind>) -> Scorer {
    let mask = Tensor::from_vec(&[2, 3], vec![1i64, 1, 0, 1, 1, 1]).unwrap();
    Scorer::masked(vec![outputs], labels, metric, None, Tokens::of(&mask)).unwrap()
}

#[test]
fn padding_is_compared_with_nothing() {
    let values: Vec<f32> = (0..12).map(|i| i as f32 - 4.5).collect();
    let (reference, mut padding) = (tensor(&[2, 3, 2], &values), values.clone());
    padding[4..6].fill(77.0);
    let scorer = masked(reference, None, None);
    let score = scorer.score(&[tensor(&[2, 3, 2], &padding)], 0..2).unwrap();
    assert_eq!((score.mean_loss(), score.metric()), (0.0, 100.0));
    // By hand: the other positions of the first sample hold -4.5 to -1.5.
    let mut changed = values.clone();
    changed[0] += 1.0;
    let score = scorer.score(&[tensor(&[1, 3, 2], &changed[..6])], 0..1).unwrap();
    assert!(close(
        score.losses[0],
        1.0 / (4.5f64.powi(2) + 3.5f64.powi(2) + 2.5f64.powi(2) + 1.5f64.powi(2))
    ));
    // The second sample's third position does count.
    changed = values;
    changed[11] += 1.0;
    let second = tensor(&[1, 3, 2], &changed[6..]);
    assert!(scorer.score(&[second], 1..2).unwrap().losses[0] > 0.0);
}

#[test]
fn labels_of_padding_are_not_read() {
    let logits = tensor(&[2, 3, 2], &[0.0; 12]);
    let labels = vec![0, 0, -100, 1, 0, 0];
    assert!(Scorer::new(vec![logits.clone()], Some(labels.clone()), None, None).is_err());
    let score = masked(logits, Some(labels), None).reference_score().unwrap();
    assert_eq!(score.metrics[0], 100.0);
    assert!(close(score.metrics[1], 200.0 / 3.0));
    assert!(score.losses.iter().all(|&loss| close(loss, 2f64.ln())));
}
