use rayon::prelude::*;

use super::*;
use crate::progress::Silent;

const RECIPE: Recipe = Recipe {
    epochs: 30.0,
    batch: 16,
    schedule: Schedule { peak: 0.05, warm_up: 0.05, end: 0.01 },
    method: Method::ADAM,
    decay: 0.0,
    clip: 10.0,
    checks: 10,
    patience: 10,
    time: None,
    seed: 3,
};

fn weights() -> Vec<Parameter> {
    vec![Parameter { name: "w".into(), shape: vec![2], values: vec![0.0; 2], decays: true }]
}

/// y = 2 a - b for points (a, b) made of a sample's number.
fn point(sample: usize) -> ([f32; 2], f32) {
    let x = [(sample % 7) as f32 / 7.0 - 0.5, (sample % 11) as f32 / 11.0 - 0.5];
    (x, 2.0 * x[0] - x[1])
}

fn slopes(parameters: &[Parameter], lanes: &[&[usize]], _: u64) -> Result<Vec<Slopes>> {
    lanes.par_iter().map(|samples| lane(parameters, samples)).collect()
}

fn loss(parameters: &[Parameter], samples: &[usize]) -> Result<f64> {
    Ok(lane(parameters, samples)?.0)
}

fn judged(parameters: &[Parameter], samples: &[usize]) -> Result<Judgement> {
    Ok(Judgement { held: loss(parameters, samples)?, fitted: None })
}

fn lane(parameters: &[Parameter], samples: &[usize]) -> Result<Slopes> {
    let w = &parameters[0].values;
    let (mut loss, mut gradient) = (0.0, vec![0.0f32; 2]);
    for &sample in samples {
        let (x, y) = point(sample);
        let error = w[0] * x[0] + w[1] * x[1] - y;
        loss += f64::from(error * error);
        gradient.iter_mut().zip(x).for_each(|(g, x)| *g += 2.0 * error * x);
    }
    Ok((loss, vec![gradient]))
}

fn run(recipe: &Recipe, threads: usize) -> (Vec<Parameter>, History) {
    let samples: Vec<usize> = (0..200).collect();
    let mut score = |p: &[Parameter]| judged(p, &samples);
    let mut descent = Descent {
        slopes: &slopes,
        regularize: &mut |_, _, _| Ok(0.0),
        score: &mut score,
        known: None,
        keep: &mut |_| Ok(()),
    };
    let mut parameters = weights();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let history = pool.install(|| {
        descend(&mut parameters, &samples, recipe, &mut descent, None, &Silent).unwrap()
    });
    (parameters, history)
}

#[test]
fn finds_the_weights_that_made_the_targets() {
    let (parameters, history) = run(&RECIPE, 1);
    assert!((parameters[0].values[0] - 2.0).abs() < 1e-2, "{parameters:?}");
    assert!((parameters[0].values[1] + 1.0).abs() < 1e-2, "{parameters:?}");
    assert_eq!(history.scores.len(), 1 + history.losses.len());
    assert!(
        history.best.unwrap().held <= history.scores[1].held
            && history.scores[0].held > history.best.unwrap().held
    );
}

/// A training that only time ends is scored on its way, however many steps it might have had.
#[test]
fn checks_are_spread_over_the_time() {
    let time = Some(Duration::from_millis(300));
    let (_, history) = run(&Recipe { epochs: 1e6, time, ..RECIPE }, 1);
    assert!(history.scores.len() > 5, "{:?}", history.scores);
}

#[test]
fn threads_do_not_change_a_bit() {
    assert_eq!(run(&RECIPE, 1), run(&RECIPE, 3));
}

/// Interrupted after any check and taken up again from what was kept, as text, training ends with
/// the same bits.
#[test]
fn a_kept_state_leads_to_the_same_bits() {
    let (whole, history) = run(&RECIPE, 2);
    let samples: Vec<usize> = (0..200).collect();
    for stop in 1..6 {
        let mut kept = String::new();
        let mut left = stop;
        let mut score = |p: &[Parameter]| judged(p, &samples);
        let mut parameters = weights();
        let mut keep = |state: &State| {
            kept = serde_json::to_string(state).unwrap();
            left -= 1;
            if left == 0 { Err(Error::Interrupted) } else { Ok(()) }
        };
        let mut descent = Descent {
            slopes: &slopes,
            regularize: &mut |_, _, _| Ok(0.0),
            score: &mut score,
            known: None,
            keep: &mut keep,
        };
        let ended = descend(&mut parameters, &samples, &RECIPE, &mut descent, None, &Silent);
        assert!(matches!(ended, Err(Error::Interrupted)));
        let state: State = serde_json::from_str(&kept).unwrap();
        let mut score = |p: &[Parameter]| judged(p, &samples);
        let mut descent = Descent {
            slopes: &slopes,
            regularize: &mut |_, _, _| Ok(0.0),
            score: &mut score,
            known: None,
            keep: &mut |_| Ok(()),
        };
        let mut parameters = weights();
        let resumed =
            descend(&mut parameters, &samples, &RECIPE, &mut descent, Some(state), &Silent);
        assert_eq!((parameters, resumed.unwrap()), (whole.clone(), history.clone()));
    }
}

#[test]
fn a_rate_that_explodes_is_lowered_and_the_best_state_kept() {
    let schedule = Schedule { peak: 1e25, warm_up: 0.0, end: 1.0 };
    let recipe = Recipe { method: Method::Sgd { momentum: 0.9 }, schedule, clip: 1e30, ..RECIPE };
    let samples: Vec<usize> = (0..200).collect();
    let mut score = |p: &[Parameter]| judged(p, &samples);
    let first = score(&weights()).unwrap();
    let mut descent = Descent {
        slopes: &slopes,
        regularize: &mut |_, _, _| Ok(0.0),
        score: &mut score,
        known: None,
        keep: &mut |_| Ok(()),
    };
    let mut parameters = weights();
    match descend(&mut parameters, &samples, &recipe, &mut descent, None, &Silent) {
        Err(Error::Training { .. }) => {}
        Ok(history) => assert!(history.best.unwrap().held <= first.held),
        Err(other) => panic!("{other}"),
    }
}

/// A course whose held loss rises while the fitted one falls: memory that is let go as long as the
/// original fits as well, overfitting of the whole course once it doesn't.
#[test]
fn a_course_that_overfits_is_judged_by_held_samples() {
    let samples: Vec<usize> = (0..200).collect();
    let run = |known: Option<f64>| {
        let mut scored = 0;
        let mut score = |_: &[Parameter]| {
            scored += 1;
            let at = f64::from(scored);
            Ok(Judgement { held: 0.2 + 0.005 * at, fitted: Some(0.3 - 0.01 * at) })
        };
        let mut descent = Descent {
            slopes: &slopes,
            regularize: &mut |_, _, _| Ok(0.0),
            score: &mut score,
            known,
            keep: &mut |_| Ok(()),
        };
        let mut parameters = weights();
        let history =
            descend(&mut parameters, &samples, &RECIPE, &mut descent, None, &Silent).unwrap();
        (history.best.unwrap(), history.scores, parameters)
    };
    let (best, scores, parameters) = run(Some(0.1));
    assert_eq!(Some(&best), scores.last());
    assert_ne!(parameters, weights());
    let (best, scores, parameters) = run(Some(0.29));
    assert_eq!((Some(&best), parameters), (scores.first(), weights()));
    let (best, scores, _) = run(None);
    assert_eq!(Some(&best), scores.last());
}

#[test]
fn the_regularizer_has_a_part_in_every_step() {
    let samples: Vec<usize> = (0..64).collect();
    let flat = |_: &[Parameter], lanes: &[&[usize]], _: u64| {
        Ok(vec![(0.0, vec![vec![0.0f32; 2]]); lanes.len()])
    };
    let mut pull = |p: &[Parameter], g: &mut [Vec<f32>], _: usize| {
        g[0].iter_mut().zip(&p[0].values).for_each(|(g, w)| *g += w - 1.0);
        Ok(1.0)
    };
    let mut score = |p: &[Parameter]| {
        let held = f64::from((p[0].values[0] - 1.0).abs());
        Ok(Judgement { held, fitted: None })
    };
    let mut descent = Descent {
        slopes: &flat,
        regularize: &mut pull,
        score: &mut score,
        known: None,
        keep: &mut |_| Ok(()),
    };
    let mut parameters = weights();
    let history = descend(&mut parameters, &samples, &RECIPE, &mut descent, None, &Silent).unwrap();
    assert!((parameters[0].values[1] - 1.0).abs() < 0.1, "{parameters:?}");
    assert!(history.losses.iter().all(|l| (l - 1.0).abs() < 1e-12));
}

/// Steps that are far too large raise the loss: training goes back and on at a lower rate, and ends better
/// than it began. A training whose loss never comes down again keeps what it was given.
#[test]
fn steps_that_raise_the_loss_are_made_smaller() {
    let samples: Vec<usize> = (0..200).collect();
    let run = |start: [f32; 2], peak: f64| {
        let mut score = |p: &[Parameter]| {
            let loss = loss(p, &samples)? / samples.len() as f64;
            Ok(Judgement { held: loss, fitted: None })
        };
        let mut descent = Descent {
            slopes: &slopes,
            regularize: &mut |_, _, _| Ok(0.0),
            score: &mut score,
            known: None,
            keep: &mut |_| Ok(()),
        };
        let mut parameters = weights();
        parameters[0].values.copy_from_slice(&start);
        let schedule = Schedule { peak, ..RECIPE.schedule };
        let recipe = Recipe { schedule, ..RECIPE };
        descend(&mut parameters, &samples, &recipe, &mut descent, None, &Silent).unwrap()
    };
    let near = [1.7, -0.8];
    let history = run(near, 10.0);
    assert!(history.setbacks > 0, "{history:?}");
    assert!(history.best.unwrap().held < 0.5 * history.scores[0].held, "{history:?}");
    assert_eq!(run(near, 0.02).setbacks, 0);
    let history = run(near, 1e9);
    assert_eq!(history.best, history.scores.first().copied());
    assert!(history.steps < 200, "it gives up: {history:?}");
}
