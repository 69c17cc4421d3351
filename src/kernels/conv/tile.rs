//! The inner loops: a block of output channels times a few vectors of outputs.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::layout::fill;
use super::{Block, Clamp, Image, PackedConv, Part as RunPart, Vector};
use crate::kernels::lanes::{Isa, Lanes, Part, Portable};

/// One group of one sample.
pub(super) struct Job<'a> {
    pub conv: &'a PackedConv,
    pub image: &'a Image,
    pub part: &'a RunPart,
    pub group: usize,
    /// The group's channels of the sample.
    pub input: &'a [f32],
    pub residual: Option<&'a [f32]>,
    pub clamp: Clamp,
    pub plane_out: usize,
}

/// Elements of a vector.
pub(super) fn lane_count(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => __m512::COUNT,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => __m256::COUNT,
        Isa::Portable => Portable::COUNT,
    }
}

/// Output channels that are computed together at most.
pub(super) fn most_rows(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => __m512::ROWS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => __m256::ROWS,
        Isa::Portable => Portable::ROWS,
    }
}

/// Computes one group of one sample, with `scratch` of the image's length (for an input that is not
/// copied, a vector per channel). `residual` and `out` are the group's channels of the sample's;
/// every element of the job's part is written.
pub(super) fn run(job: &Job<'_>, scratch: &mut Vec<f32>, out: *mut f32) {
    match job.conv.isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the variant is only made on a processor that has the instructions.
        Isa::Avx512 => unsafe { run_avx512(job, scratch, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { run_avx2(job, scratch, out) },
        // SAFETY: plain code.
        Isa::Portable => unsafe { run_lanes::<Portable>(job, scratch, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512(job: &Job<'_>, scratch: &mut Vec<f32>, out: *mut f32) {
    unsafe { run_lanes::<__m512>(job, scratch, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(job: &Job<'_>, scratch: &mut Vec<f32>, out: *mut f32) {
    unsafe { run_lanes::<__m256>(job, scratch, out) }
}

#[inline(always)]
unsafe fn run_lanes<V: Lanes>(job: &Job<'_>, scratch: &mut Vec<f32>, out: *mut f32) {
    let image = job.image;
    let needed = if image.is_input { image.taps.len() * V::COUNT } else { image.len };
    if scratch.len() < needed {
        scratch.resize(needed, 0.0);
    }
    let residual = job.residual.map(<[f32]>::as_ptr);
    let mut sums = Sums {
        job,
        taps: &image.taps,
        data: job.input.as_ptr(),
        vectors: &image.vectors[job.part.vectors.clone()],
        residual,
        out,
    };
    // SAFETY: bases, taps and blocks were made for these buffers.
    unsafe {
        if !image.is_input {
            fill::<V>(&job.conv.shape, image, job.input, scratch.as_mut_ptr());
            sums.data = scratch.as_ptr();
        }
        sums.blocks::<V>();
        if let Some(tail) = image.tail.filter(|_| job.part.tail) {
            // What is left is copied to where whole vectors can be read.
            let part = Part::new(0, tail.len, 1);
            for (c, &tap) in image.taps.iter().enumerate() {
                let from = job.input.as_ptr().add(tap + tail.base);
                V::load_part::<1>(from, part).store(scratch.as_mut_ptr().add(c * V::COUNT));
            }
            let taps: Vec<usize> = (0..image.taps.len()).map(|c| c * V::COUNT).collect();
            let vectors = [Vector { base: 0, ..tail }];
            Sums { taps: &taps, data: scratch.as_ptr(), vectors: &vectors, ..sums }.blocks::<V>();
        }
    }
}

/// The sums of a group over some vectors.
struct Sums<'a> {
    job: &'a Job<'a>,
    taps: &'a [usize],
    data: *const f32,
    vectors: &'a [Vector],
    residual: Option<*const f32>,
    out: *mut f32,
}

impl Sums<'_> {
    /// All blocks. Numbers of rows and vectors are such that sums, inputs and a weight fit the
    /// registers; a block's weights stay in the first-level cache over all its vectors.
    #[inline(always)]
    unsafe fn blocks<V: Lanes>(&self) {
        for block in &self.job.conv.blocks[self.job.part.blocks.clone()] {
            // SAFETY: as the caller vouches.
            unsafe {
                match (V::ROWS >= 8, block.rows) {
                    (true, 8) => self.block::<V, 8, 3, 2>(block),
                    (true, 7) => self.block::<V, 7, 3, 2>(block),
                    (true, 6) => self.block::<V, 6, 4, 2>(block),
                    (true, 5) => self.block::<V, 5, 5, 2>(block),
                    (true, 4) => self.block::<V, 4, 6, 3>(block),
                    (true, 3) => self.block::<V, 3, 7, 3>(block),
                    (true, 2) => self.block::<V, 2, 8, 4>(block),
                    (false, 6) => self.block::<V, 6, 2, 1>(block),
                    (false, 5) => self.block::<V, 5, 2, 1>(block),
                    (false, 4) => self.block::<V, 4, 2, 1>(block),
                    (false, 3) => self.block::<V, 3, 3, 2>(block),
                    (false, 2) => self.block::<V, 2, 4, 2>(block),
                    _ => self.block::<V, 1, 8, 4>(block),
                }
            }
        }
    }

    /// One block over all vectors, `WIDE`, `HALF` and one at a time.
    #[inline(always)]
    unsafe fn block<V: Lanes, const ROWS: usize, const WIDE: usize, const HALF: usize>(
        &self,
        block: &Block,
    ) {
        let mut left = self.vectors;
        // SAFETY: as the caller vouches.
        unsafe {
            while let Some((tile, rest)) = left.split_first_chunk::<WIDE>()
                // Two halves rather than a wide one and one.
                && (2 * HALF != WIDE + 1 || rest.len() != 1)
            {
                self.tile::<V, ROWS, WIDE>(block, tile);
                left = rest;
            }
            while let Some((tile, rest)) = left.split_first_chunk::<HALF>() {
                self.tile::<V, ROWS, HALF>(block, tile);
                left = rest;
            }
            for vector in left {
                self.tile::<V, ROWS, 1>(block, std::array::from_ref(vector));
            }
        }
    }

    /// `ROWS` output channels times `N` vectors. The sums are only ever indexed by constants, so
    /// that they stay in registers.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const ROWS: usize, const N: usize>(
        &self,
        block: &Block,
        tile: &[Vector; N],
    ) {
        let conv = self.job.conv;
        let first = self.job.group * conv.shape.group_out();
        let offset = first * self.taps.len() + block.offset;
        // SAFETY: as the caller vouches.
        unsafe {
            let mut weight = conv.weights.as_ptr().add(offset);
            let bias = conv.bias.as_ptr().add(first + block.row);
            let base: [*const f32; N] = std::array::from_fn(|i| self.data.add(tile[i].base));
            let mut sums = [[V::splat(0.0); N]; ROWS];
            for row in 0..ROWS {
                sums[row] = [V::splat(*bias.add(row)); N];
            }
            for &tap in self.taps {
                let x: [V; N] = std::array::from_fn(|i| V::load(base[i].add(tap)));
                for row in 0..ROWS {
                    let w = V::splat(*weight.add(row));
                    for i in 0..N {
                        sums[row][i] = sums[row][i].mul_add(w, x[i]);
                    }
                }
                weight = weight.add(ROWS);
            }
            let plane = self.job.plane_out;
            let low = V::splat(self.job.clamp.low);
            let high = V::splat(self.job.clamp.high);
            let to: [usize; N] = std::array::from_fn(|i| block.row * plane + tile[i].out);
            if tile.iter().all(|vector| vector.len == V::COUNT) {
                if let Some(residual) = self.residual {
                    for row in 0..ROWS {
                        for i in 0..N {
                            let other = V::load(residual.add(row * plane + to[i]));
                            sums[row][i] = sums[row][i].add(other);
                        }
                    }
                }
                for row in 0..ROWS {
                    for i in 0..N {
                        let sum = sums[row][i].clamp(low, high);
                        sum.store(self.out.add(row * plane + to[i]));
                    }
                }
                return;
            }
            let mut lanes = [[[0.0f32; 16]; N]; ROWS];
            for row in 0..ROWS {
                for i in 0..N {
                    sums[row][i].store(lanes[row][i].as_mut_ptr());
                }
            }
            for (row, lanes) in lanes.iter().enumerate() {
                for ((lanes, to), vector) in lanes.iter().zip(to).zip(tile) {
                    let to = row * plane + to;
                    let part = Part::new(0, vector.len, 1);
                    let mut sum = V::load(lanes.as_ptr());
                    if let Some(residual) = self.residual {
                        sum = sum.add(V::load_part::<1>(residual.add(to), part));
                    }
                    sum.clamp(low, high).store_part(self.out.add(to), part);
                }
            }
        }
    }
}
