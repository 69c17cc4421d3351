//! Decompositions against linear algebra done another way: what every scheme is at full rank, the
//! error it claims below that, and what its factors cost.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod cases;
mod costs;
mod errors;
mod exact;
mod moments;
mod optimum;
mod transposed;
