//! What decompositions tell of the layers, for the report.

use crate::factorize::Choice;
use crate::report::Spectrum;
use crate::search::LayerOptions;

/// Ranks that a layer's curve is told at, about.
const POINTS: usize = 128;

/// For every layer what the decomposition by its choice's scheme leaves at each rank, as it was when
/// ranks were chosen; for a layer that stays dense by the first scheme of one rank that applies.
pub(super) fn spectra(forms: &[LayerOptions], choices: &[Option<Choice>]) -> Vec<Option<Spectrum>> {
    forms.iter().zip(choices).map(|(form, &choice)| spectrum(form, choice)).collect()
}

fn spectrum(form: &LayerOptions, choice: Option<Choice>) -> Option<Spectrum> {
    let plain = || form.errors.iter().map(|(c, _)| *c).find(|c| c.rank_in.is_none());
    let shown = choice.or_else(plain)?;
    let curve =
        form.errors.iter().filter(|(c, _)| (c.scheme, c.rank_in) == (shown.scheme, shown.rank_in));
    let mut curve: Vec<(usize, f64)> = curve.map(|&(c, error)| (c.rank, error)).collect();
    curve.sort_by_key(|&(rank, _)| rank);
    let (step, chosen) = (curve.len().div_ceil(POINTS).max(1), choice.map(|c| c.rank));
    let last = curve.len().saturating_sub(1);
    let told = curve
        .iter()
        .enumerate()
        .filter(|(i, (rank, _))| i % step == 0 || *i == last || chosen == Some(*rank));
    let (ranks, errors): (Vec<usize>, Vec<f64>) =
        told.map(|(_, &(rank, error))| (rank, rounded(error))).unzip();
    Some(Spectrum { scheme: shown.scheme.name().to_owned(), rank_in: shown.rank_in, ranks, errors })
}

/// Five digits: a curve needs no more.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factorize::Scheme;
    use crate::layer::Cost;

    fn form(ranks: usize) -> LayerOptions {
        let choice = |scheme, rank, rank_in| Choice { scheme, rank, rank_in };
        let error = |rank: usize| 1.0 - rank as f64 / ranks as f64;
        let of = |scheme, rank_in| {
            (1..=ranks).map(move |rank| (choice(scheme, rank, rank_in), error(rank)))
        };
        let errors = of(Scheme::ChannelOut, None).chain(of(Scheme::Tucker, Some(3)));
        let stored = Cost::default();
        LayerOptions { options: Vec::new(), stored, energy: 1.0, errors: errors.collect() }
    }

    #[test]
    fn long_curves_keep_the_cut_and_both_ends() {
        let chosen = Choice { scheme: Scheme::Tucker, rank: 514, rank_in: Some(3) };
        let found = spectra(&[form(1000), form(4)], &[Some(chosen), None]);
        let (long, short) = (found[0].clone().unwrap(), found[1].clone().unwrap());
        assert_eq!((long.scheme.as_str(), long.rank_in), ("tucker", Some(3)));
        assert!(long.ranks.len() <= POINTS + 2 && long.ranks.is_sorted());
        assert!([1, 514, 1000].iter().all(|rank| long.ranks.contains(rank)));
        let at = long.ranks.iter().position(|&rank| rank == 514).unwrap();
        assert_eq!(long.errors[at], 0.486);
        assert_eq!((short.scheme.as_str(), short.ranks), ("channel", vec![1, 2, 3, 4]));
    }
}
