//! Which state of a training is the better one.

use serde::{Deserialize, Serialize};

/// Share of what the original loses on samples that it was trained on, below which a state has learnt
/// such samples by heart on its own. Small networks that see much data don't come near it.
const BY_HEART: f64 = 0.75;

/// What a state loses, on samples that are not trained on and on as many that are.
///
/// The samples held back from training may have been among those that the original was trained on:
/// it knows them by heart, and so does what was factorized from it. Training lets go of that, and the
/// held loss rises by it although new samples fare better. The samples trained on tell whether that
/// can be so: they had the same part in the original's training. As long as no state fits them much
/// better than the original does, none has learnt by heart what the original had not, and both kinds
/// of samples count alike. Once one does, only held samples count, for all states of the training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Loss on samples that are not trained on.
    pub held: f64,
    /// Loss on samples that are, shown as they are; none where held samples alone count: without
    /// labels the original's outputs are the target, and those are as good on all samples.
    pub fitted: Option<f64>,
}

impl Judgement {
    /// Whether this state is better than another where both kinds of samples count. Losses that are not
    /// finite are never better.
    #[must_use]
    pub fn beats(&self, other: &Self) -> bool {
        let sum = |state: &Self| state.held + state.fitted.unwrap_or(0.0);
        sum(self) < sum(other)
    }

    /// Whether the state has learnt samples by heart that the original has not; `known` is what the
    /// original loses on those trained on.
    #[must_use]
    pub fn overfits(&self, known: Option<f64>) -> bool {
        self.fitted.zip(known).is_some_and(|(fitted, known)| fitted < BY_HEART * known)
    }

    /// The loss above the original's, where `known` is what that loses on the samples trained on; the
    /// whole loss where they don't count.
    #[must_use]
    pub fn excess(&self, known: Option<f64>) -> f64 {
        self.fitted.zip(known).map_or(self.held, |(fitted, known)| fitted - known)
    }

    /// Whether its losses are numbers.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.held.is_finite() && self.fitted.is_none_or(f64::is_finite)
    }

    /// The state where only held samples count.
    #[must_use]
    pub fn held_only(self) -> Self {
        Self { fitted: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(held: f64, fitted: f64) -> Judgement {
        Judgement { held, fitted: Some(fitted) }
    }

    #[test]
    fn memory_that_is_let_go_does_not_count_against_a_state() {
        let start = state(0.20, 0.25);
        assert!(state(0.24, 0.19).beats(&start));
        assert!(!state(0.35, 0.35).beats(&start), "worse on both");
        assert!(!state(0.24, 0.19).held_only().beats(&start.held_only()));
        assert!(!state(f64::NAN, 0.1).beats(&start) && !state(f64::NAN, 0.1).is_finite());
    }

    #[test]
    fn fitting_better_than_the_original_is_memory_of_its_own() {
        assert!(!state(0.24, 0.10).overfits(Some(0.11)));
        assert!(state(0.24, 0.05).overfits(Some(0.11)));
        assert!(!state(0.24, 0.05).overfits(None));
        assert!(!state(0.24, 0.05).held_only().overfits(Some(0.11)));
    }
}
