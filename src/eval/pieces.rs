//! Runs a graph piece by piece: the weights of one piece are held at a time.

use std::collections::{HashMap, HashSet};

use super::Evaluator;
use crate::error::{Error, Result};
use crate::graph::{self, Piece};
use crate::onnx::Model;
use crate::tensor::Tensor;

/// A run of a model in pieces.
pub struct Pieces<'m> {
    model: &'m Model,
    pieces: Vec<Piece>,
    next: usize,
    /// Values that are alive.
    values: HashMap<String, Tensor>,
    watched: HashSet<&'m str>,
    /// Shapes of the watched values that were made, inputs of the model included.
    pub shapes: HashMap<String, Vec<usize>>,
}

/// What one piece was given and made.
pub struct Ran {
    /// The piece as a model of its own, its outputs in the order of `outputs`.
    pub model: Model,
    /// In the order of its inputs.
    pub inputs: Vec<Tensor>,
    /// In the order of its outputs.
    pub outputs: Vec<Tensor>,
}

impl<'m> Pieces<'m> {
    /// Before the first piece. A piece's initializers take at most `bytes`, unless one node has more; `inputs`
    /// are those of [`graph::inputs`], in that order.
    ///
    /// # Errors
    /// When an input is not a tensor, or the inputs are of another number.
    pub fn new(
        model: &'m Model,
        bytes: u64,
        inputs: &[Tensor],
        watched: &[&'m str],
    ) -> Result<Self> {
        let specs = graph::inputs(model)?;
        if specs.len() != inputs.len() {
            return Err(Error::DataMismatch {
                reason: format!("{} inputs for a model of {}", inputs.len(), specs.len()),
            });
        }
        let watched: HashSet<&str> = watched.iter().copied().collect();
        let values: HashMap<String, Tensor> =
            specs.into_iter().map(|spec| spec.name).zip(inputs.iter().cloned()).collect();
        let pieces = graph::pieces(model, bytes, &watched);
        let mut run = Self { model, pieces, next: 0, values, watched, shapes: HashMap::new() };
        run.note();
        Ok(run)
    }

    /// Number of pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Runs the next piece; none after the last.
    ///
    /// # Errors
    /// When an operator fails; with the node's name.
    pub fn step(&mut self) -> Result<Option<Ran>> {
        let Some(piece) = self.pieces.get(self.next).cloned() else { return Ok(None) };
        self.next += 1;
        let given = |name: &String| {
            self.values
                .get(name)
                .cloned()
                .ok_or_else(|| Error::InvalidModel { reason: format!("nothing makes `{name}`") })
        };
        let inputs: Vec<Tensor> = piece.reads.iter().map(given).collect::<Result<_>>()?;
        let model = piece.model(self.model, &self.values, &HashMap::new());
        let outputs = Evaluator::new(&model)?.run(inputs.clone())?;
        let made: HashMap<String, Tensor> =
            piece.makes.iter().cloned().zip(outputs.iter().cloned()).collect();
        let model = piece.model(self.model, &self.values, &made);
        self.values.extend(made);
        self.note();
        let mut needed: HashSet<&str> =
            self.model.graph().output.iter().map(|o| o.name()).collect();
        let later = &self.pieces[self.next..];
        needed.extend(later.iter().flat_map(|piece| &piece.reads).map(String::as_str));
        self.values.retain(|name, _| needed.contains(name.as_str()));
        self.model.release();
        Ok(Some(Ran { model, inputs, outputs }))
    }

    /// A value that is alive: once all pieces have run, an output of the graph.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Tensor> {
        self.values.get(name)
    }

    fn note(&mut self) {
        for name in &self.watched {
            if let Some(tensor) = self.values.get(*name) {
                self.shapes.entry((*name).to_owned()).or_insert_with(|| tensor.shape().to_vec());
            }
        }
    }

    /// Runs all pieces that are left.
    ///
    /// # Errors
    /// As [`Pieces::step`].
    pub fn finish(&mut self) -> Result<()> {
        while self.step()?.is_some() {}
        Ok(())
    }
}
