//! Disjoint parts of a dataset, the same for a seed on every platform.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Draws disjoint parts of the given sizes from `n` samples.
///
/// With `labels` (one per sample) each part, and each prefix of a part, has the classes in the
/// proportions of the whole, as far as whole numbers allow. Sizes that together exceed `n` are cut
/// down in proportion. The indices of a part are in random order: a prefix is a sample of it.
#[must_use]
pub fn split(n: usize, sizes: &[usize], labels: Option<&[i64]>, seed: u64) -> Vec<Vec<usize>> {
    let order = spread_classes(&shuffled(n, seed), labels.filter(|l| l.len() == n));
    let mut rest = order.as_slice();
    cut_down(n, sizes)
        .into_iter()
        .map(|size| {
            let (part, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            part.to_vec()
        })
        .collect()
}

/// `0..n` in random order. The shuffle is spelled out because a part once chosen should stay the
/// same whatever the random number crate makes of its own shuffle in later versions.
fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = (u128::from(random.next_u64()) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

/// Reorders samples such that every stretch holds the classes in proportion: sample j of the m
/// in its class goes to the relative position (j + 1/2) / m.
fn spread_classes(order: &[usize], labels: Option<&[i64]>) -> Vec<usize> {
    let Some(labels) = labels else { return order.to_vec() };
    let mut classes: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
    for (place, &sample) in order.iter().enumerate() {
        classes.entry(labels[sample]).or_default().push((place, sample));
    }
    let mut spread: Vec<(f64, usize, usize)> = Vec::with_capacity(order.len());
    for members in classes.values() {
        for (j, &(place, sample)) in members.iter().enumerate() {
            spread.push(((j as f64 + 0.5) / members.len() as f64, place, sample));
        }
    }
    // Equal positions keep their random order, so that no class leads everywhere.
    spread.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    spread.into_iter().map(|(_, _, sample)| sample).collect()
}

/// Sizes with a sum of at most `n`, in the proportions given; none becomes zero while there are
/// samples for it.
fn cut_down(n: usize, sizes: &[usize]) -> Vec<usize> {
    let total: u128 = sizes.iter().map(|&s| s as u128).sum();
    if total <= n as u128 {
        return sizes.to_vec();
    }
    let mut cut: Vec<usize> = sizes
        .iter()
        .map(|&s| ((s as u128 * n as u128 / total) as usize).max(usize::from(s > 0)))
        .collect();
    // Raising parts to one sample can overshoot: take from the largest.
    while cut.iter().sum::<usize>() > n {
        match cut.iter_mut().max() {
            Some(largest) => *largest -= 1,
            None => break,
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn parts_are_disjoint_and_repeatable() {
        let a = split(100, &[30, 50], None, 7);
        assert_eq!(a, split(100, &[30, 50], None, 7));
        assert_ne!(a, split(100, &[30, 50], None, 8));
        let mut all: Vec<usize> = a.concat();
        assert_eq!((a[0].len(), a[1].len()), (30, 50));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 80);
        assert!(all.iter().all(|&i| i < 100));
    }

    #[test]
    fn seeds_are_pinned() {
        assert_eq!(split(8, &[8], None, 1), [[5, 6, 2, 4, 1, 7, 0, 3]]);
    }

    #[test]
    fn parts_and_their_prefixes_are_stratified() {
        // Classes 0, 1, 2 in proportions 6 : 3 : 1, sorted like a folder of class folders.
        let labels: Vec<i64> = (0..1000).map(|i| [0, 0, 0, 0, 0, 0, 1, 1, 1, 2][i / 100]).collect();
        for part in split(1000, &[200, 100], Some(&labels), 3) {
            for prefix in [part.as_slice(), &part[..50]] {
                for (class, share) in [(0, 0.6), (1, 0.3), (2, 0.1)] {
                    let count = prefix.iter().filter(|&&i| labels[i] == class).count() as f64;
                    assert!((count - share * prefix.len() as f64).abs() <= 2.0, "{class} {count}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_cut_down_in_proportion() {
        let sizes = |n, s: &[usize]| split(n, s, None, 0).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(300, &[2000, 1000]), [200, 100]);
        assert_eq!(sizes(3, &[1000, 1, 1]), [1, 1, 1]);
        assert_eq!(sizes(1, &[5, 5]), [1, 0]);
        assert_eq!(sizes(0, &[5, 5]), [0, 0]);
        assert_eq!(sizes(10, &[]), Vec::<usize>::new());
        assert_eq!(sizes(5, &[usize::MAX, usize::MAX]), [2, 2]);
    }
}
