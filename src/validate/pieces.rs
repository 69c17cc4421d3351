//! The proof of a file that is too large to be held: every node of it runs in tract, piece by piece.

use std::collections::HashMap;
use std::path::Path;

use super::{Agreement, Session};
use crate::error::{Error, Result};
use crate::eval::Pieces;
use crate::onnx::Model;
use crate::progress::Progress;
use crate::tensor::Tensor;

/// What came of running a file piece by piece.
#[derive(Clone, Debug, Default)]
pub struct PieceProof {
    /// Pieces that ran in tract.
    pub proven: usize,
    /// All of them.
    pub pieces: usize,
    /// The largest absolute and relative difference between tract and the evaluator of what any piece makes.
    pub max_abs: f64,
    /// The same / the largest absolute value of that output of the piece.
    pub max_relative: f64,
    /// Why the first piece that tract refused was refused.
    pub refused: Option<String>,
    /// Shapes of the watched values.
    pub shapes: HashMap<String, Vec<usize>>,
}

/// Runs the file at `path` on `inputs` in pieces whose initializers take at most `bytes` each. Every piece is a
/// file of its own in the same folder for as long as it runs, and tract reads its weights from the external
/// data of the whole where that has some. A piece is given what the evaluator made of those before it.
///
/// # Errors
/// When the file can't be read, or the evaluator can't run it; when a piece's outputs are of other shapes in
/// tract.
pub fn run_in_pieces(
    path: &Path,
    inputs: &[Tensor],
    watched: &[&str],
    bytes: u64,
    progress: &dyn Progress,
) -> Result<PieceProof> {
    let model = Model::read(path)?;
    let mut run = Pieces::new(&model, bytes, inputs, watched)?;
    let mut proof = PieceProof { pieces: run.len(), ..PieceProof::default() };
    progress.phase("validate", Some(run.len() as u64));
    let piece = path.with_extension("piece.onnx");
    let mut done = 0;
    while let Some(ran) = run.step()? {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        done += 1;
        progress.step(done, "pieces");
        ran.model.write_message(&piece)?;
        let specs = ran.model.graph().input.iter().map(|input| input.name().to_owned());
        let shapes = ran.inputs.iter().map(|tensor| tensor.shape().to_vec());
        let shapes: Vec<(String, Vec<usize>)> = specs.zip(shapes).collect();
        let theirs =
            Session::open_shaped(&piece, &shapes).and_then(|session| session.run(&ran.inputs));
        match theirs {
            Ok(theirs) => {
                let agreement = Agreement::between(&ran.outputs, &theirs)?;
                proof.proven += 1;
                proof.max_abs = proof.max_abs.max(agreement.max_abs_difference());
                proof.max_relative = proof.max_relative.max(agreement.max_relative_difference());
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                proof.refused.get_or_insert_with(|| error.chain());
            }
        }
        model.release();
    }
    // Left where a run was interrupted; the folder goes then.
    let _ = std::fs::remove_file(&piece);
    proof.shapes = std::mem::take(&mut run.shapes);
    Ok(proof)
}
