//! Which state of a training is the better one.

use serde::{Deserialize, Serialize};

/// What a state loses, on samples that are not trained on and on as many that are.
///
/// The samples held back from training may have been among those that the original was trained on:
/// it knows them by heart, and so does what was factorized from it. Training lets go of that, and the
/// held loss rises by it although new samples fare better. The samples trained on tell whether that
/// is possible. They had the same part in the original's training. As long as a state fits them no
/// better than the original does, it has learnt nothing by heart that the original had not, and both
/// kinds of samples count alike. A state that fits them better may have, so that only held samples
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Loss on samples that are not trained on.
    pub held: f64,
    /// Loss on samples that are, shown as they are; none where held samples alone count: without
    /// labels the original's outputs are the target, and those are as good on all samples.
    pub fitted: Option<f64>,
}

impl Judgement {
    /// Whether this state is better than another; `known` is what the original loses on the samples
    /// trained on. Losses that are not finite are never better.
    #[must_use]
    pub fn beats(&self, other: &Self, known: Option<f64>) -> bool {
        let alike = |state: &Self| {
            let (fitted, known) = state.fitted.zip(known)?;
            (fitted >= known).then_some(state.held + fitted)
        };
        match (alike(self), alike(other)) {
            (Some(own), Some(other)) => own < other,
            _ => self.held < other.held,
        }
    }

    /// Whether its losses are numbers.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.held.is_finite() && self.fitted.is_none_or(f64::is_finite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(held: f64, fitted: f64) -> Judgement {
        Judgement { held, fitted: Some(fitted) }
    }

    /// Memory of the original that is let go does not count against a state, memory of its own does.
    #[test]
    fn only_own_memory_counts_against_a_state() {
        let known = Some(0.11);
        let start = state(0.20, 0.25);
        // Fits the samples trained on far better than before, but no better than the original.
        assert!(state(0.24, 0.19).beats(&start, known));
        assert!(!state(0.35, 0.35).beats(&start, known), "worse on both");
        // Fits them better than the original: what it wins there is no sign of anything.
        assert!(!state(0.24, 0.05).beats(&start, known));
        assert!(state(0.19, 0.05).beats(&start, known));
        // A state that overfits does not beat a better one either way round.
        assert!(start.beats(&state(0.24, 0.05), known));
    }

    #[test]
    fn without_a_probe_held_samples_decide() {
        let of = |held| Judgement { held, fitted: None };
        assert!(of(0.1).beats(&of(0.2), None) && !of(0.2).beats(&of(0.1), None));
        assert!(!of(f64::NAN).beats(&of(0.2), None));
        assert!(!of(f64::NAN).is_finite() && of(0.0).is_finite());
    }
}
