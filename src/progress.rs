//! How long work tells what it is doing, and hears that it should stop.

use crate::error::{Error, Result};

/// Listens to a run and may ask it to stop.
pub trait Progress: Sync {
    /// A stage begins: one word for what it does, and the number of steps it takes where known.
    fn phase(&self, name: &str, total: Option<u64>);

    /// `done` steps of the stage are done; `note` says what is being worked on.
    fn step(&self, done: u64, note: &str);

    /// Something the user should know although the run goes on.
    fn warn(&self, text: &str);

    /// Whether the run should stop as soon as it can.
    fn interrupted(&self) -> bool;
}

/// That the work stops here if it is to stop: asked for before every part that takes long.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn go_on(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Says nothing and never asks to stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &str, _: Option<u64>) {}

    fn step(&self, _: u64, _: &str) {}

    fn warn(&self, _: &str) {}

    fn interrupted(&self) -> bool {
        false
    }
}
