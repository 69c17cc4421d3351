//! Layers of real and of small made-up models: which are found, what they cost, and that the
//! models in which they are factorized compute the same.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod counts;
mod expected;
mod fixtures;
mod forms;
mod models;
mod plans;
mod rows;
mod shared;
mod skipped;
mod tables;
mod written;
