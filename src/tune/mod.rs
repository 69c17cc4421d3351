//! Training: into a form that loses little when it is truncated, and of the factors afterwards.
//!
//! [`descend`] is the loop: seeded batches, gradients summed over samples in a fixed order, a
//! schedule, an optimizer, the best state kept. What it descends is given as functions of the
//! parameters, so each step can be driven and tested by itself; a [`Student`] gives loss and gradient
//! of a network on a dataset.

mod augment;
mod checkpoint;
mod course;
mod descent;
mod grids;
mod judgement;
mod optimizer;
mod pressure;
mod products;
mod schedule;
mod stable_rank;
mod student;
mod trainable;

pub use augment::Augmentation;
pub use checkpoint::Checkpoint;
pub use course::{Aim, Course, Trained};
pub use descent::{Descent, History, Penalty, Recipe, Slopes, State, descend};
pub use grids::Grids;
pub use judgement::Judgement;
pub use optimizer::{Method, Optimizer, clip};
pub use pressure::{Pressure, Spectrum, spectra, truncated};
pub use products::Products;
pub use schedule::Schedule;
pub use stable_rank::{StableRank, Value};
pub use student::Student;
pub use trainable::trainable;

/// A tensor that is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in the graph.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
    /// Whether weight decay shrinks it.
    pub decays: bool,
}
