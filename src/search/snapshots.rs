//! States of runs kept before some of the layers, so that a network that differs only from there on
//! need not run what comes earlier.

use crate::eval::State;

/// The states of a network's runs on a set of samples, before some of its layers. A state holds all
/// values that are alive there, so any graph can be cut at any layer.
#[derive(Default)]
pub struct Snapshots {
    /// By layer, ascending; for every run.
    at: Vec<(usize, Vec<Option<State>>)>,
    bytes: usize,
    limit: usize,
}

impl Snapshots {
    /// None yet; at most `limit` bytes of tensors are held, what lies beyond is run again.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { at: Vec::new(), bytes: 0, limit }
    }

    /// Forgets everything from `layer` on: the network has changed there.
    pub fn forget(&mut self, layer: usize) {
        self.at.retain(|(l, _)| *l <= layer);
        self.bytes =
            self.at.iter().flat_map(|(_, states)| states).flatten().map(State::byte_len).sum();
    }

    /// The state of a run furthest on, not past `layer`, and the layer it is before.
    pub(super) fn before(&self, layer: usize, run: usize) -> Option<(usize, &State)> {
        let known = self.at.iter().rev().filter(|(l, _)| *l <= layer);
        known.into_iter().find_map(|(l, states)| Some((*l, states.get(run)?.as_ref()?)))
    }

    /// The states of all of `runs` runs furthest on, not past `layer`.
    pub(super) fn all_before(&self, layer: usize, runs: usize) -> Option<Vec<State>> {
        let known = self.at.iter().rev().filter(|(l, _)| *l <= layer);
        known.into_iter().find_map(|(_, states)| {
            states.get(..runs)?.iter().map(Clone::clone).collect::<Option<Vec<State>>>()
        })
    }

    /// Whether the state of a run before `layer` is held.
    pub(super) fn holds(&self, layer: usize, run: usize) -> bool {
        self.at
            .iter()
            .any(|(l, states)| *l == layer && states.get(run).is_some_and(Option::is_some))
    }

    /// Bytes that may still be held.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes)
    }

    /// Holds the state of a run before `layer`, where there is room.
    pub(super) fn keep(&mut self, layer: usize, run: usize, state: State) {
        let bytes = state.byte_len();
        if bytes > self.room() || self.holds(layer, run) {
            return;
        }
        let place = self.at.partition_point(|(l, _)| *l < layer);
        if self.at.get(place).is_none_or(|(l, _)| *l != layer) {
            self.at.insert(place, (layer, Vec::new()));
        }
        if let Some((_, states)) = self.at.get_mut(place) {
            if states.len() <= run {
                states.resize(run + 1, None);
            }
            states[run] = Some(state);
            self.bytes += bytes;
        }
    }
}
