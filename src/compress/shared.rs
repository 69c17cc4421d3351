//! What the ratios of a sweep share, and their searches, several at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::choose::{Found, Ground, bits_alone, cache_bytes};
use super::gentle::{Dense, Whole};
use super::parts::Parts;
use super::statistics::{calibrate, is_whole, plain};
use crate::error::Result;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::Seconds;
use crate::search::Network;

/// What the ratios of a sweep share.
pub(super) struct Shared<'a> {
    dense: &'a Dense,
    /// None until the first search.
    ground: Option<Ground<'a>>,
    /// The network with the statistics of final fits, where those of searches are of fewer samples.
    last: Option<Network<'a>>,
    /// Searches that are done, by the bits of their ratios, with the seconds that each took.
    done: HashMap<u64, (Result<Found>, f64)>,
}

impl<'a> Shared<'a> {
    /// What ratios share whose `dense` model is the same.
    pub fn of(dense: &'a Dense) -> Self {
        Self { dense, ground: None, last: None, done: HashMap::new() }
    }

    fn ground(
        &mut self,
        whole: &Whole<'_>,
        parts: &Parts,
        options: &Options,
        progress: &'a dyn Progress,
    ) -> Result<&mut Ground<'a>> {
        Ok(match &mut self.ground {
            Some(ground) => ground,
            none => {
                progress.phase("calibrate", None);
                none.insert(Ground::new(self.dense, whole, parts, options, progress)?)
            }
        })
    }

    /// Searches at several ratios at the same time, each as it would be alone: where one has nothing to
    /// share out among the threads, the others do. [`Shared::choose`] gives what they found.
    ///
    /// # Errors
    /// When the model can't be run on the samples.
    pub fn search(
        &mut self,
        whole: &Whole<'_>,
        parts: &Parts,
        ratios: &[f64],
        options: &Options,
        progress: &'a dyn Progress,
    ) -> Result<()> {
        let dense = self.dense;
        let mut wanted = Vec::new();
        for &ratio in ratios {
            if bits_alone(dense, whole, options, ratio, progress)?.is_none() {
                wanted.push(ratio);
            }
        }
        if wanted.len() < 2 {
            return Ok(());
        }
        let ground = &*self.ground(whole, parts, options, progress)?;
        let each = Some(cache_bytes(options) / wanted.len());
        let options = &Options { cache_bytes: each, ..options.clone() };
        progress.phase("search", None);
        let done = AtomicU64::new(0);
        let search = |&ratio: &f64| {
            let clock = Instant::now();
            let one = One { ratio, done: &done, whole: progress };
            let found = ground.choose(ratio, options.search, options, &one);
            (ratio.to_bits(), (found, clock.elapsed().as_secs_f64()))
        };
        let found: Vec<_> = wanted.par_iter().with_max_len(1).map(search).collect();
        self.done.extend(found);
        Ok(())
    }

    /// Chooses at the ratio of the options. Returns the network for the final fit too; none where nothing
    /// is factorized.
    ///
    /// # Errors
    /// When the ratio is out of reach, a network can't be run, or the run is interrupted.
    pub fn choose(
        &mut self,
        whole: &Whole<'_>,
        parts: &Parts,
        options: &Options,
        seconds: &mut Seconds,
        progress: &'a dyn Progress,
    ) -> Result<(Found, Option<&mut Network<'a>>)> {
        let dense = self.dense;
        let ratio = options.ratio.unwrap_or(1.0);
        let (mut found, took) = match self.done.remove(&ratio.to_bits()) {
            Some((found, took)) => (found?, took),
            None => {
                if let Some(found) = bits_alone(dense, whole, options, ratio, progress)? {
                    return Ok((found, None));
                }
                let first = self.ground.is_none();
                let clock = Instant::now();
                let ground = self.ground(whole, parts, options, progress)?;
                seconds.calibrate = first.then(|| clock.elapsed().as_secs_f64());
                let clock = Instant::now();
                let found = ground.choose(ratio, options.search, options, progress)?;
                (found, clock.elapsed().as_secs_f64())
            }
        };
        seconds.search = Some(took);
        let ground = self.ground(whole, parts, options, progress)?;
        if is_whole(&ground.network, parts) {
            return Ok((found, self.ground.as_mut().map(|ground| &mut ground.network)));
        }
        found.compressed = None;
        let last = match &mut self.last {
            Some(last) => last,
            none => {
                let mut network = plain(dense, whole, options, progress)?;
                calibrate(&mut network, parts, true, options, progress)?;
                none.insert(network)
            }
        };
        Ok((found, Some(last)))
    }
}

/// One of several searches at the same time.
struct One<'a> {
    ratio: f64,
    /// Networks that all of them have scored.
    done: &'a AtomicU64,
    whole: &'a dyn Progress,
}

impl Progress for One<'_> {
    fn phase(&self, _: &str, _: Option<u64>) {}

    fn step(&self, _: u64, note: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.whole.step(done, &format!("ratio {}: {note}", self.ratio));
    }

    fn warn(&self, text: &str) {
        self.whole.warn(text);
    }

    fn interrupted(&self) -> bool {
        self.whole.interrupted()
    }
}
