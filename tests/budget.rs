//! The budgeted start against every allocation there is.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use onnx_bsr::layer::Cost;
use onnx_bsr::search::{Allocation, Budget, LayerOption, LayerOptions, Resource, start};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Layers whose options cost and lose what is given, dense first.
fn layers(options: &[Vec<(u64, f64)>]) -> (Vec<LayerOptions>, Vec<Vec<f64>>) {
    let option = |&(params, error): &(u64, f64)| LayerOption {
        cost: Cost { params, macs: 3 * params, bytes: 4 * params, ..Cost::default() },
        error,
        ..LayerOption::default()
    };
    let layer = |forms: &Vec<(u64, f64)>| {
        let options: Vec<LayerOption> = forms.iter().map(option).collect();
        LayerOptions { stored: options[0].cost, options, energy: 1.0, errors: Vec::new() }
    };
    let layers = options.iter().map(layer).collect();
    let loss = options.iter().map(|o| o.iter().map(|&(_, loss)| loss).collect()).collect();
    (layers, loss)
}

fn total(loss: &[Vec<f64>], allocation: &[usize]) -> f64 {
    loss.iter().zip(allocation).map(|(l, &o)| l[o]).sum()
}

/// The least loss of any allocation within the budget, by trying all.
fn best(layers: &[LayerOptions], loss: &[Vec<f64>], budget: Budget) -> Option<f64> {
    let mut all: Vec<Allocation> = vec![Vec::new()];
    for layer in layers {
        let longer = |a: &Allocation, o: usize| a.iter().copied().chain([o]).collect();
        all =
            all.iter().flat_map(|a| (0..layer.options.len()).map(move |o| longer(a, o))).collect();
    }
    all.iter()
        .filter(|a| budget.cost(layers, a) <= budget.limit)
        .map(|a| total(loss, a))
        .min_by(f64::total_cmp)
}

fn params(limit: u64) -> Budget {
    Budget { resource: Resource::Params, limit }
}

/// Losses by rank with ever smaller gains, as truncated singular values have them.
fn convex(random: &mut ChaCha8Rng, ranks: usize, unit: u64) -> Vec<(u64, f64)> {
    let mut gains: Vec<f64> = (0..ranks).map(|_| f64::from(random.next_u32() >> 8)).collect();
    gains.sort_by(f64::total_cmp);
    let mut loss = 0.0;
    let mut options = Vec::new();
    for (lost, gain) in gains.iter().enumerate() {
        options.push(((ranks - lost) as u64 * unit, loss));
        loss += gain;
    }
    options.push((0, loss));
    options
}

/// Where every rank of every layer costs the same, taking what gains most is optimal.
#[test]
fn equal_steps_are_filled_optimally() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..30 {
        let options: Vec<_> = (0..4).map(|_| convex(&mut random, 5, 7)).collect();
        let (layers, loss) = layers(&options);
        for limit in 0..=4 * 5 * 7 {
            let found = start(&layers, &loss, params(limit)).unwrap();
            assert!(params(limit).cost(&layers, &found) <= limit);
            let (found, best) =
                (total(&loss, &found), best(&layers, &loss, params(limit)).unwrap());
            assert!((found - best).abs() <= 1e-9 * best, "limit {limit}: {found}, best {best}");
        }
    }
}

/// Layers of unlike costs: no worse than the optimum by more than the largest single gain, the
/// bound of a Lagrangian allocation.
#[test]
fn unlike_steps_are_filled_within_one_step() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let (mut exact, mut count) = (0, 0);
    for _ in 0..40 {
        let options: Vec<_> = (0..4)
            .map(|_| {
                let unit = u64::from(random.next_u32() % 40 + 1);
                convex(&mut random, 5, unit)
            })
            .collect();
        let (layers, loss) = layers(&options);
        let full = params(0).cost(&layers, &[0; 4]);
        let steps = loss.iter().flat_map(|l| l.windows(2).map(|w| w[1] - w[0]));
        let largest = steps.fold(0.0, f64::max);
        for part in 0..=20 {
            let budget = params(full * part / 20);
            let found = start(&layers, &loss, budget).unwrap();
            assert!(budget.cost(&layers, &found) <= budget.limit);
            let (found, best) = (total(&loss, &found), best(&layers, &loss, budget).unwrap());
            assert!(found - best <= largest, "{budget:?}: {found}, best {best}, step {largest}");
            exact += usize::from(found - best <= 1e-9 * best);
            count += 1;
        }
    }
    // What the Lagrangian leaves of the budget is well spent.
    assert!(exact * 10 >= count * 6, "{exact} of {count} are optimal");
}

#[test]
fn budgets_out_of_reach_have_no_start() {
    let (layers, loss) = layers(&[vec![(10, 0.0), (6, 1.0)], vec![(20, 0.0), (5, 8.0)]]);
    assert_eq!(params(0).least(&layers), 11);
    assert_eq!(start(&layers, &loss, params(10)), None);
    assert_eq!(start(&layers, &loss, params(11)), Some(vec![1, 1]));
    assert_eq!(start(&layers, &loss, params(15)), Some(vec![0, 1]));
    assert_eq!(start(&layers, &loss, params(26)), Some(vec![1, 0]));
    assert_eq!(start(&layers, &loss, params(30)), Some(vec![0, 0]));
    assert_eq!(start(&[], &[], params(0)), Some(Vec::new()));
}

#[test]
fn the_budget_counts_its_resource() {
    let (layers, loss) = layers(&[vec![(10, 0.0), (6, 1.0)], vec![(20, 0.0), (5, 8.0)]]);
    for (resource, unit) in [(Resource::Params, 1), (Resource::Macs, 3), (Resource::Bytes, 4)] {
        let budget = |limit| Budget { resource, limit };
        assert_eq!(budget(0).cost(&layers, &[0, 1]), 15 * unit);
        assert_eq!(start(&layers, &loss, budget(11 * unit - 1)), None);
        assert_eq!(start(&layers, &loss, budget(26 * unit - 1)), Some(vec![0, 1]));
        assert_eq!(start(&layers, &loss, budget(26 * unit)), Some(vec![1, 0]));
    }
}
