//! The inner loops: some single elements times a few vectors, over a block of positions.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::{Cut, Outer, Run};
use crate::kernels::lanes::{Isa, Lanes, Portable};

/// A block of positions.
pub(super) struct Job<'a> {
    pub outer: &'a Outer,
    pub x: &'a [f32],
    pub dy: &'a [f32],
    /// Elements from a position to the next in either copy.
    pub steps: [usize; 2],
    pub runs: &'a [Run],
    pub sums: &'a mut [f32],
    /// Whether the sums are yet to be begun.
    pub first: bool,
}

impl Job<'_> {
    pub fn run(self) {
        match self.outer.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the variant is only made on a processor that has the instructions.
            Isa::Avx512 => unsafe { run_avx512(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { run_avx2(self) },
            // SAFETY: plain code.
            Isa::Portable => unsafe { self.tiles::<Portable>() },
        }
    }

    #[inline(always)]
    unsafe fn tiles<V: Lanes>(self) {
        let Cut { vectors_of_x, vectors, across, singles, down, .. } = self.outer.cut;
        let (length, runs, first) = (vectors * V::COUNT, self.runs, self.first);
        let [x_step, dy_step] = self.steps;
        let mut sums = self.sums.as_mut_ptr();
        for &start in &self.outer.starts {
            for vector in 0..across {
                for single in 0..down {
                    // SAFETY: positions lie within the copies, which have slack for what vectors
                    // and single elements read past the last; there are sums for every tile.
                    unsafe {
                        let (x, dy) = (self.x.as_ptr().add(start), self.dy.as_ptr());
                        let (single, vector) = (single * singles, vector * length);
                        if vectors_of_x {
                            let sides = Sides { p: dy.add(single), q: x.add(vector) };
                            let steps = [dy_step, x_step];
                            let place = |run: Run| [run.dy, run.x];
                            dispatch::<V>(
                                [vectors, singles],
                                sides,
                                steps,
                                runs,
                                place,
                                sums,
                                first,
                            );
                        } else {
                            let sides = Sides { p: x.add(single), q: dy.add(vector) };
                            let place = |run: Run| [run.x, run.dy];
                            dispatch::<V>(
                                [vectors, singles],
                                sides,
                                self.steps,
                                runs,
                                place,
                                sums,
                                first,
                            );
                        }
                        sums = sums.add(singles * length);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512(job: Job<'_>) {
    unsafe { job.tiles::<__m512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(job: Job<'_>) {
    unsafe { job.tiles::<__m256>() }
}

/// Where single elements and vectors of the first position are.
#[derive(Clone, Copy)]
struct Sides {
    p: *const f32,
    q: *const f32,
}

/// [`tile`] of the right size.
#[inline(always)]
unsafe fn dispatch<V: Lanes>(
    size: [usize; 2],
    sides: Sides,
    steps: [usize; 2],
    runs: &[Run],
    place: impl Fn(Run) -> [usize; 2],
    sums: *mut f32,
    first: bool,
) {
    macro_rules! tiles {
        ($($vectors:literal: $($singles:literal)*;)*) => {
            match size {
                $($([$vectors, $singles] => unsafe {
                    tile::<V, $singles, $vectors>(sides, steps, runs, place, sums, first)
                },)*)*
                _ => unreachable!("no tile of {size:?}"),
            }
        };
    }
    tiles! {
        1: 1 2 3 4 5 6 7 8 9 10 12 14 16 18 20 24;
        2: 1 2 3 4 5 6 7 8 9 10 12;
        3: 1 2 3 4 5 6 7 8;
        4: 1 2 3 4 5 6;
    }
}

/// Adds the products of `T` single elements and `N` vectors over all positions to `sums`.
#[inline(always)]
unsafe fn tile<V: Lanes, const T: usize, const N: usize>(
    sides: Sides,
    [p_step, q_step]: [usize; 2],
    runs: &[Run],
    place: impl Fn(Run) -> [usize; 2],
    sums: *mut f32,
    first: bool,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut total = [[V::splat(0.0); N]; T];
        for t in 0..T {
            for n in 0..N {
                if first {
                    break;
                }
                total[t][n] = V::load(sums.add((t * N + n) * V::COUNT));
            }
        }
        for &run in runs {
            let [p, q] = place(run);
            let (mut p, mut q) = (sides.p.add(p), sides.q.add(q));
            for _ in 0..run.len {
                let vectors: [V; N] = std::array::from_fn(|n| V::load(q.add(n * V::COUNT)));
                for t in 0..T {
                    let single = V::splat(*p.add(t));
                    for n in 0..N {
                        total[t][n] = total[t][n].mul_add(single, vectors[n]);
                    }
                }
                // The last position's step may lead far past the end.
                (p, q) = (p.wrapping_add(p_step), q.wrapping_add(q_step));
            }
        }
        for t in 0..T {
            for n in 0..N {
                total[t][n].store(sums.add((t * N + n) * V::COUNT));
            }
        }
    }
}
