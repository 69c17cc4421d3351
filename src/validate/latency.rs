//! How long one run takes, of two models in turns.

use std::time::{Duration, Instant};

use super::Session;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::tensor::Tensor;

/// Runs of each model that are not counted.
const WARM_UP: usize = 3;

/// No more runs begin after this much time, once there are a few.
const TIME_LIMIT: Duration = Duration::from_secs(20);
const FEW: usize = 5;

/// Time of one run in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Half of the runs took at most this long.
    pub median_ms: f64,
    /// The fastest run.
    pub min_ms: f64,
    /// Runs that were counted.
    pub runs: usize,
}

impl Latency {
    fn of(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        let runs = milliseconds.len();
        let at = |i: usize| milliseconds.get(i).copied().unwrap_or(0.0);
        let median = (at(runs.saturating_sub(1) / 2) + at(runs / 2)) / 2.0;
        Self { median_ms: median, min_ms: at(0), runs }
    }
}

/// Times both models on `inputs`, in turns A B A B on this thread, so that whatever else the
/// machine does falls on both alike. Slow models get fewer than `runs` runs.
///
/// # Errors
/// When a run fails, and [`Error::Interrupted`].
pub fn latency(
    a: &Session,
    b: &Session,
    inputs: &[Tensor],
    runs: usize,
    progress: &dyn Progress,
) -> Result<(Latency, Latency)> {
    let begin = Instant::now();
    let mut times = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for turn in 0..WARM_UP + runs.max(1) {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        if times.0.len() >= FEW && begin.elapsed() > TIME_LIMIT {
            break;
        }
        let pair = (timed(a, inputs)?, timed(b, inputs)?);
        if turn >= WARM_UP {
            times.0.push(pair.0);
            times.1.push(pair.1);
            progress.step(times.0.len() as u64, "");
        }
    }
    Ok((Latency::of(times.0), Latency::of(times.1)))
}

fn timed(session: &Session, inputs: &[Tensor]) -> Result<f64> {
    let begin = Instant::now();
    session.run(inputs)?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn medians_of_odd_and_even_counts() {
        let odd = Latency::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(odd, Latency { median_ms: 2.0, min_ms: 1.0, runs: 3 });
        assert_eq!(Latency::of(vec![4.0, 1.0, 2.0, 3.0]).median_ms, 2.5);
        assert_eq!(Latency::of(vec![]), Latency::default());
    }
}
