//! The inner loops: a block of output channels times a few vectors of outputs.

use std::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::{Block, Clamp, Image, PackedConv, Vector};
use crate::kernels::lanes::{Isa, Lanes, Portable};

/// Vectors that one call of the innermost loop computes, for every instruction set.
const WIDTH: usize = 3;

/// Copying a tile's inputs together pays from this many row blocks on.
const PANEL_BLOCKS: usize = 4;

/// One sample's work.
pub(super) struct Job<'a> {
    pub conv: &'a PackedConv,
    pub image: &'a Image,
    pub data: &'a [f32],
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

/// Rows of the next block when `left` rows are left.
pub(super) fn block_rows(isa: Isa, left: usize) -> usize {
    let most = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 8,
        _ => 4,
    };
    match left {
        8.. if most == 8 => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Computes one sample; every element of `out` is written.
pub(super) fn run(job: &Job<'_>, panel: &mut Vec<f32>, out: &mut [MaybeUninit<f32>]) {
    match job.conv.isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the variant is only made on a processor that has the instructions.
        Isa::Avx512 => unsafe { run_avx512(job, panel, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { run_avx2(job, panel, out) },
        // SAFETY: plain code.
        Isa::Portable => unsafe { run_lanes::<Portable>(job, panel, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512(job: &Job<'_>, panel: &mut Vec<f32>, out: &mut [MaybeUninit<f32>]) {
    unsafe { run_lanes::<__m512>(job, panel, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(job: &Job<'_>, panel: &mut Vec<f32>, out: &mut [MaybeUninit<f32>]) {
    unsafe { run_lanes::<__m256>(job, panel, out) }
}

#[inline(always)]
unsafe fn run_lanes<V: Lanes>(job: &Job<'_>, panel: &mut Vec<f32>, out: &mut [MaybeUninit<f32>]) {
    let shape = &job.conv.shape;
    let taps = &job.image.taps[..];
    let stride = WIDTH * V::COUNT;
    let packs = job.conv.blocks.len() >= PANEL_BLOCKS || job.image.is_input();
    if packs && panel.len() < taps.len() * stride {
        panel.resize(taps.len() * stride, 0.0);
    }
    let panel_taps: Vec<usize> =
        if packs { (0..taps.len()).map(|k| k * stride).collect() } else { Vec::new() };
    for group in 0..shape.groups {
        let data = &job.data[group * job.image.group_len()..];
        let rows = group * shape.group_out();
        for tile in job.image.vectors.chunks(WIDTH) {
            let mut base = [data.as_ptr(); WIDTH];
            let direct = !packs
                || (job.image.is_input()
                    && job.conv.blocks.len() < PANEL_BLOCKS
                    && tile.iter().all(|v| v.base + taps[taps.len() - 1] + V::COUNT <= data.len()));
            let tile_taps = if direct {
                for (base, vector) in base.iter_mut().zip(tile) {
                    // SAFETY: a base lies within the image.
                    *base = unsafe { data.as_ptr().add(vector.base) };
                }
                taps
            } else {
                // SAFETY: the panel has room for every tap.
                unsafe { pack::<V>(data, taps, tile, panel.as_mut_ptr()) };
                for (i, base) in base.iter_mut().enumerate() {
                    // SAFETY: within the panel.
                    *base = unsafe { panel.as_ptr().add(i * V::COUNT) };
                }
                &panel_taps
            };
            for block in job.conv.blocks.iter() {
                let sums =
                    Sums { job, taps: tile_taps, base, tile, block, first: rows + block.row };
                // SAFETY: bases, taps and blocks were made for these buffers.
                unsafe {
                    match (block.rows, tile.len()) {
                        (8, 3) => sums.compute::<V, 8, 3>(out),
                        (8, 2) => sums.compute::<V, 8, 2>(out),
                        (8, _) => sums.compute::<V, 8, 1>(out),
                        (4, 3) => sums.compute::<V, 4, 3>(out),
                        (4, 2) => sums.compute::<V, 4, 2>(out),
                        (4, _) => sums.compute::<V, 4, 1>(out),
                        (2, 3) => sums.compute::<V, 2, 3>(out),
                        (2, 2) => sums.compute::<V, 2, 2>(out),
                        (2, _) => sums.compute::<V, 2, 1>(out),
                        (_, 3) => sums.compute::<V, 1, 3>(out),
                        (_, 2) => sums.compute::<V, 1, 2>(out),
                        (_, _) => sums.compute::<V, 1, 1>(out),
                    }
                }
            }
        }
    }
}

/// Copies what the tile reads into `panel`, `[tap][vector][lane]`.
#[inline(always)]
unsafe fn pack<V: Lanes>(data: &[f32], taps: &[usize], tile: &[Vector], panel: *mut f32) {
    let stride = WIDTH * V::COUNT;
    for (i, vector) in tile.iter().enumerate() {
        for (k, tap) in taps.iter().enumerate() {
            let from = vector.base + tap;
            // SAFETY: the destination is within the panel, the source within the data: a full
            // vector where there is one, else what is left.
            unsafe {
                let to = panel.add(k * stride + i * V::COUNT);
                if from + V::COUNT <= data.len() {
                    V::load(data.as_ptr().add(from)).store(to);
                } else {
                    let left = data.len() - from;
                    std::ptr::copy_nonoverlapping(data.as_ptr().add(from), to, left);
                    std::ptr::write_bytes(to.add(left), 0, V::COUNT - left);
                }
            }
        }
    }
}

/// A block of rows times a tile of vectors.
struct Sums<'a> {
    job: &'a Job<'a>,
    taps: &'a [usize],
    base: [*const f32; WIDTH],
    tile: &'a [Vector],
    block: &'a Block,
    /// The block's first output channel.
    first: usize,
}

impl Sums<'_> {
    #[inline(always)]
    unsafe fn compute<V: Lanes, const ROWS: usize, const N: usize>(
        &self,
        out: &mut [MaybeUninit<f32>],
    ) {
        let conv = self.job.conv;
        let group = self.first / conv.shape.group_out();
        let offset = group * conv.shape.group_out() * self.taps.len() + self.block.offset;
        unsafe {
            let mut weight = conv.weights.as_ptr().add(offset);
            let mut sums = [[V::splat(0.0); N]; ROWS];
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [V::splat(*conv.bias.get_unchecked(self.first + row)); N];
            }
            for &tap in self.taps {
                let mut x = [V::splat(0.0); N];
                for (x, base) in x.iter_mut().zip(self.base) {
                    *x = V::load(base.add(tap));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let w = V::splat(*weight.add(row));
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = sum.mul_add(w, x);
                    }
                }
                weight = weight.add(ROWS);
            }
            let low = V::splat(self.job.clamp.low);
            let high = V::splat(self.job.clamp.high);
            for (row, sums) in sums.iter().enumerate() {
                let plane = (self.first + row) * self.job.plane_out;
                for (sum, vector) in sums.iter().zip(self.tile) {
                    self.store::<V>(*sum, vector, plane, (low, high), out);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store<V: Lanes>(
        &self,
        sum: V,
        vector: &Vector,
        plane: usize,
        (low, high): (V, V),
        out: &mut [MaybeUninit<f32>],
    ) {
        unsafe {
            match vector.contiguous() {
                Some((at, len)) if len == V::COUNT => {
                    let sum = match self.job.residual {
                        Some(residual) => sum.add(V::load(residual.as_ptr().add(plane + at))),
                        None => sum,
                    };
                    sum.clamp(low, high).store(out.as_mut_ptr().add(plane + at).cast());
                }
                _ => {
                    let mut lanes = [0.0f32; 16];
                    for segment in &vector.segments {
                        let at = plane + segment.out;
                        let mut sum = sum;
                        if let Some(residual) = self.job.residual {
                            std::ptr::copy_nonoverlapping(
                                residual.as_ptr().add(at),
                                lanes.as_mut_ptr().add(segment.lane),
                                segment.len,
                            );
                            sum = sum.add(V::load(lanes.as_ptr()));
                        }
                        sum.clamp(low, high).store(lanes.as_mut_ptr());
                        std::ptr::copy_nonoverlapping(
                            lanes.as_ptr().add(segment.lane),
                            out.as_mut_ptr().add(at).cast(),
                            segment.len,
                        );
                    }
                }
            }
        }
    }
}
