//! What layers are to yield, for every run of the calibration samples: in memory, or in a file where it is much.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::layer::Rows;
use crate::onnx::Spill;

/// Bytes of all rows together above which they wait in a file.
const HELD_BYTES: usize = 128 << 20;

/// Rows by layer, run and node of the layer.
#[derive(Default)]
pub(super) struct Targets {
    spill: Option<Mutex<Spill>>,
    layers: Vec<Vec<Vec<Kept>>>,
}

/// The rows of one node in one run.
pub(super) enum Kept {
    Held(Rows),
    /// Where in the file they begin, and the elements of each group.
    Stored(u64, Vec<usize>),
}

impl Targets {
    /// For so many layers, whose rows take about `bytes`; a system without room for a file holds them in memory.
    pub fn new(layers: usize, bytes: usize) -> Self {
        let spill = if bytes > HELD_BYTES { Spill::new(&std::env::temp_dir()).ok() } else { None };
        let layers = (0..layers).map(|_| Vec::new()).collect();
        Self { spill: spill.map(Mutex::new), layers }
    }

    /// Puts away the rows of a node in a run.
    pub fn keep(&self, rows: Rows) -> Kept {
        let Some(spill) = &self.spill else { return Kept::Held(rows) };
        let elements = rows.groups.iter().flatten();
        let bytes: Vec<u8> = elements.flat_map(|v| v.to_le_bytes()).collect();
        let mut spill = spill.lock().unwrap_or_else(PoisonError::into_inner);
        match spill.put(&bytes) {
            Ok(offset) => Kept::Stored(offset, rows.groups.iter().map(Vec::len).collect()),
            Err(error) => {
                log::debug!(target: "search", "rows stay in memory: {error}");
                Kept::Held(rows)
            }
        }
    }

    /// Adds runs to those of a layer, in their order.
    pub fn extend(&mut self, layer: usize, runs: Vec<Vec<Kept>>) {
        self.layers[layer].extend(runs);
    }

    /// The rows of a run at a layer's node.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn get(&self, layer: usize, run: usize, node: usize) -> Result<Rows> {
        let (offset, lengths) = match (&self.layers[layer][run][node], &self.spill) {
            (Kept::Held(rows), _) => return Ok(rows.clone()),
            (Kept::Stored(..), None) => return Ok(Rows::default()),
            (Kept::Stored(offset, lengths), Some(_)) => (*offset, lengths),
        };
        let bytes = size_of::<f32>() * lengths.iter().sum::<usize>();
        let bytes = match &self.spill {
            Some(spill) => {
                spill.lock().unwrap_or_else(PoisonError::into_inner).get(offset, bytes)?
            }
            None => Vec::new(),
        };
        let elements = bytes.chunks_exact(size_of::<f32>());
        let mut elements = elements.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let groups = lengths.iter().map(|&n| elements.by_ref().take(n).collect()).collect();
        Ok(Rows { groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        for bytes in [0, usize::MAX] {
            let mut targets = Targets::new(2, bytes);
            let rows = |n: usize| Rows { groups: vec![vec![n as f32; n], vec![-0.5; 2 * n]] };
            let kept: Vec<Kept> = [3, 0, 40_000].map(|n| targets.keep(rows(n))).into();
            let stored = kept.iter().all(|kept| matches!(kept, Kept::Stored(..)));
            assert_eq!(stored, bytes > 0);
            targets.extend(1, vec![kept]);
            for (node, n) in [3, 0, 40_000].into_iter().enumerate() {
                assert_eq!(targets.get(1, 0, node).unwrap().groups, rows(n).groups);
            }
        }
    }
}
