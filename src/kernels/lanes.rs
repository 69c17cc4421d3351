//! Vectors of `f32` under one interface, so that a kernel is written once and compiled for every
//! instruction set.
//!
//! Every method is inlined into a caller that enables the instruction set; calling one elsewhere is
//! undefined behaviour on a processor without it, hence `unsafe`.

/// A vector register of `f32`.
#[allow(clippy::missing_safety_doc)] // One contract for all methods: see the module's text.
pub trait Lanes: Copy {
    /// How many elements it holds.
    const COUNT: usize;
    /// Output channels that a convolution computes together, at most: what the register file has
    /// room for, with several vectors for each.
    const ROWS: usize;

    /// The same value in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// `COUNT` elements from `from` on.
    unsafe fn load(from: *const f32) -> Self;
    /// Lanes `first..end` from `from + lane * stride`, the others zero; memory of the others is not
    /// touched. `end` is `COUNT` at most.
    #[inline(always)]
    unsafe fn load_part(from: *const f32, stride: usize, first: usize, end: usize) -> Self {
        let mut lanes = [0.0f32; 16];
        for lane in first..end.min(16) {
            // SAFETY: the caller vouches for these elements; lane 0 may lie outside the buffer.
            lanes[lane] = unsafe { from.wrapping_add(lane * stride).read() };
        }
        // SAFETY: no vector is longer than the array.
        unsafe { Self::load(lanes.as_ptr()) }
    }
    /// All lanes to `to` and on.
    unsafe fn store(self, to: *mut f32);
    /// `a * b + self`.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane-wise into `[low, high]`; NaN stays NaN.
    unsafe fn clamp(self, low: Self, high: Self) -> Self;
}

/// Portable vector that the compiler maps to what the target has.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

impl Lanes for Portable {
    const COUNT: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable elements.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for eight writable elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(mut self, a: Self, b: Self) -> Self {
        for i in 0..8 {
            // A fused instruction where the target always has one, not a library call elsewhere.
            self.0[i] = if cfg!(target_arch = "aarch64") {
                a.0[i].mul_add(b.0[i], self.0[i])
            } else {
                a.0[i] * b.0[i] + self.0[i]
            };
        }
        self
    }
    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for i in 0..8 {
            self.0[i] += other.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn clamp(mut self, low: Self, high: Self) -> Self {
        for i in 0..8 {
            let v = if self.0[i] < low.0[i] { low.0[i] } else { self.0[i] };
            self.0[i] = if v > high.0[i] { high.0[i] } else { v };
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    macro_rules! x86_lanes {
        ($type:ty, $count:literal, $rows:literal, [$($part:item)?], $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident,
         $max:ident, $min:ident) => {
            impl Lanes for $type {
                const COUNT: usize = $count;
                const ROWS: usize = $rows;

                $(#[inline(always)] $part)?
                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, a: Self, b: Self) -> Self {
                    unsafe { $fma(a, b, self) }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                unsafe fn clamp(self, low: Self, high: Self) -> Self {
                    // Both instructions return their second operand when either is NaN.
                    unsafe { $min(high, $max(low, self)) }
                }
            }
        };
    }

    /// Bits `first..end`.
    #[inline(always)]
    fn bits(first: usize, end: usize) -> u64 {
        ((1u64 << end) - 1) & !((1u64 << first) - 1)
    }

    #[inline(always)]
    unsafe fn load_part_512(from: *const f32, stride: usize, first: usize, end: usize) -> __m512 {
        unsafe {
            match stride {
                1 => _mm512_maskz_loadu_ps(bits(first, end) as u16, from),
                2 if first < end => {
                    // The even ones of two vectors; nothing after the last one is read.
                    let mask = bits(2 * first, 2 * end - 1);
                    let low = _mm512_maskz_loadu_ps(mask as u16, from);
                    let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(16));
                    let even = _mm512_setr_epi32(
                        0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                    );
                    _mm512_permutex2var_ps(low, even, high)
                }
                _ => {
                    let mut lanes = [0.0f32; 16];
                    for lane in first..end.min(16) {
                        lanes[lane] = from.wrapping_add(lane * stride).read();
                    }
                    _mm512_loadu_ps(lanes.as_ptr())
                }
            }
        }
    }

    x86_lanes!(
        __m256,
        8,
        4,
        [],
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_max_ps,
        _mm256_min_ps
    );
    x86_lanes!(
        __m512,
        16,
        8,
        [unsafe fn load_part(from: *const f32, stride: usize, first: usize, end: usize) -> Self {
            unsafe { load_part_512(from, stride, first, end) }
        }],
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );
}

/// The instruction set that kernels run with on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain code.
    Portable,
}

impl Isa {
    /// The best one that this processor runs.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}
