//! One kernel's work on several threads, for a run that has no other run beside it.
//!
//! Threads usually have samples of their own. A single run leaves all but one of them idle; then its
//! kernels cut what they compute into parts, none of which changes how any element is summed.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

/// Products that a part has at least: their time is several times that of waking a thread.
const PRODUCTS: usize = 400_000;

/// Threads that stay awake for a run, at most.
const HELPERS: usize = 7;

/// Pauses of the processor between looks for work.
const PAUSES: usize = 8;

/// Products whose time a function of one element takes, about.
const FUNCTION: usize = 20;

thread_local! {
    /// Products that a part has at least, where this thread's run is the only one.
    static LEAST: Cell<Option<usize>> = const { Cell::new(None) };

    /// Whether this thread has a run alone, or helps with one.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Sets [`LEAST`] until it is dropped.
struct Setting {
    before: Option<usize>,
}

impl Setting {
    fn new(least: Option<usize>) -> Self {
        Self { before: LEAST.replace(least) }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        LEAST.set(self.before);
    }
}

/// Runs `work` with kernels that share what they compute among the threads of the current pool. Some of
/// these threads stay awake meanwhile: to wake one takes longer than most parts.
pub fn alone<T>(work: impl FnOnce() -> T) -> T {
    alone_from(PRODUCTS, work)
}

/// The same with parts of so many products at least.
pub(crate) fn alone_from<T>(least: usize, work: impl FnOnce() -> T) -> T {
    let helpers = match rayon::current_thread_index() {
        Some(_) if !TAKEN.get() => HELPERS.min(rayon::current_num_threads() - 1),
        _ => 0,
    };
    let done = AtomicBool::new(false);
    rayon::in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| help(&done));
        }
        let _taken = Taken::new();
        let _setting = Setting::new(Some(least.max(1)));
        let _done = Done(&done);
        work()
    })
}

/// Takes up what there is to do, until the run is done. A thread that has a run of its own to end, or helps
/// with another already, doesn't wait for that.
fn help(done: &AtomicBool) {
    if TAKEN.get() {
        return;
    }
    let _taken = Taken::new();
    while !done.load(Ordering::Acquire) {
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            // Looking for work slows down who has some.
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        }
    }
}

/// Sets [`TAKEN`] until it is dropped.
struct Taken {
    before: bool,
}

impl Taken {
    fn new() -> Self {
        Self { before: TAKEN.replace(true) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        TAKEN.set(self.before);
    }
}

/// Lets helpers go when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Parts that so many products are to be cut into, at least one.
#[must_use]
pub fn parts(products: usize) -> usize {
    LEAST.get().map_or(1, |least| rayon::current_num_threads().min(products / least).max(1))
}

/// Works on all parts, at the same time where threads are free; the results in order.
pub fn each<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    if parts.len() < 2 {
        return parts.into_iter().map(work).collect();
    }
    // A part is not cut again.
    let _setting = Setting::new(None);
    parts.into_par_iter().with_max_len(1).map(work).collect()
}

/// Works on pieces of a slice whose elements take much time each: functions, not sums.
pub fn pieces<T: Send>(slice: &mut [T], work: impl Fn(&mut [T]) + Send + Sync) {
    let parts = parts(slice.len().saturating_mul(FUNCTION));
    if parts == 1 {
        return work(slice);
    }
    each(slice.chunks_mut(slice.len().div_ceil(parts)).collect(), work);
}

/// The `index`-th of so many even parts of `0..len`, cut at multiples of `step`.
#[must_use]
pub fn part(len: usize, step: usize, index: usize, parts: usize) -> std::ops::Range<usize> {
    let at = |index: usize| (len.div_ceil(step) * index / parts * step).min(len);
    at(index)..at(index + 1)
}

/// Where parts write, each to elements of its own.
#[derive(Clone, Copy)]
pub struct Target(*mut f32);

impl Target {
    /// The outputs of a run.
    pub fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// The outputs of a run, none of which has been written.
    pub fn unwritten(out: &mut [MaybeUninit<f32>]) -> Self {
        Self(out.as_mut_ptr().cast())
    }

    /// The outputs from the `first` on.
    ///
    /// # Safety
    /// There are so many.
    #[must_use]
    pub unsafe fn from(self, first: usize) -> *mut f32 {
        // SAFETY: as the caller vouches.
        unsafe { self.0.add(first) }
    }
}

// SAFETY: a pointer; who writes through it vouches for the elements.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (len, step, parts) in [(10, 1, 3), (10, 4, 2), (3, 8, 4), (0, 2, 2), (64, 16, 4)] {
            let mut next = 0;
            for index in 0..parts {
                let part = part(len, step, index, parts);
                assert_eq!(part.start, next);
                assert!(part.end == len || part.end.is_multiple_of(step));
                next = part.end;
            }
            assert_eq!(next, len);
        }
    }

    #[test]
    fn only_lone_runs_are_cut_and_only_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            assert_eq!(parts(usize::MAX), 1);
            alone(|| {
                assert_eq!(parts(PRODUCTS / 2), 1);
                assert_eq!(parts(2 * PRODUCTS), 2);
                assert_eq!(parts(usize::MAX), 3);
                each(vec![(); 3], |()| assert_eq!(parts(usize::MAX), 1));
                assert_eq!(parts(usize::MAX), 3);
            });
            assert_eq!(parts(usize::MAX), 1);
        });
    }

    #[test]
    fn lone_runs_beside_one_another_come_to_an_end() {
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let run = |i: usize| {
                let part = |j: usize| (0..100).fold(i + j, |sum, k| std::hint::black_box(sum + k));
                let sums = || (0..20).map(|_| each((0..4).collect(), part).iter().sum::<usize>());
                alone(|| alone(|| sums().max()))
            };
            let all: Vec<usize> =
                pool.install(|| (0..200usize).into_par_iter().filter_map(run).collect());
            let expected: Vec<usize> = (0..200).map(|i| 4 * (i + 4950) + 6).collect();
            assert_eq!(all, expected);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let failed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| alone(|| panic!("on purpose")));
        }));
        assert!(failed.is_err());
        assert_eq!(pool.install(|| alone(|| 3)), 3);
    }
}
